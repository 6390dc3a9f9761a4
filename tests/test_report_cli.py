"""``hybrid-detect report``: the page it writes, the JSON it prints, and what it refuses."""

import json
import os
import stat
import sys
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from hybrid_detect.cli import main
from hybrid_detect.storage.cost_store import CostStore

from .monitoring.simulated_week import keep, simulate

WEEK = ("--since", "2026-11-16", "--until", "2026-11-22")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    keep(simulate(frames_an_hour=4), tmp_path / "costs.db")
    return tmp_path / "costs.db"


def report(*arguments: object) -> int:
    return main(["report", *map(str, arguments)])


def test_a_page_is_written_that_its_owner_alone_can_read(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "report.html"
    page.write_text("an older one")
    page.chmod(0o644)
    assert report(path, "-o", page, "--title", "Door camera", *WEEK) == 0
    text = page.read_text(encoding="utf-8")
    assert "<h1>Door camera</h1>" in text
    assert "Mon 16 Nov 2026 to Sun 22 Nov 2026" in text
    if os.name == "posix":
        assert stat.S_IMODE(page.stat().st_mode) == 0o600
    assert capsys.readouterr().out.endswith(" frames from 2026-11-16 to 2026-11-22\n")
    assert sorted(file.suffix for file in tmp_path.iterdir()) == [".db", ".html", ".reserve"]


def test_json_has_the_figures_of_the_days_and_the_zone_asked_for(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYBRID_DETECT_COSTS_PATH", str(path))
    assert report("--json", *WEEK) == 0
    week = json.loads(capsys.readouterr().out)
    days = ("--since", "2026-11-18", "--until", "2026-11-18", "--time-zone", "Europe/Berlin")
    assert report(*days, "--json") == 0
    day = json.loads(capsys.readouterr().out)
    assert 0 < day["frames"] < week["frames"]
    assert (day["first_day"], day["last_day"]) == ("2026-11-18", "2026-11-18")
    assert {step["start"][-6:] for step in day["steps"]} == {"+01:00"}
    assert (week["time_zone"], day["time_zone"]) == ("UTC", "Europe/Berlin")


@pytest.mark.parametrize(
    ("now", "frames"), [("2026-11-22", 7), ("2026-12-16", 4), ("2027-01-01", 0)]
)
def test_four_weeks_are_told_if_nothing_else_is_asked_for(
    path: Path,
    now: str,
    frames: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_s = datetime.fromisoformat(now).replace(tzinfo=UTC).timestamp()
    monkeypatch.setattr("hybrid_detect.cli.report.time.time", lambda: now_s + 3600)
    assert report(path, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert sum(step["frames"] > 0 for step in told["steps"]) == frames
    assert len(told["steps"]) in {0, 28}


def test_an_empty_file_is_a_page_that_says_so(tmp_path: Path) -> None:
    CostStore(tmp_path / "costs.db").close()
    assert report(tmp_path / "costs.db", "-o", tmp_path / "page.html") == 0
    assert "Nothing happened" in (tmp_path / "page.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("damage", ["header", "middle", "text"])
def test_a_damaged_file_is_an_error_and_no_page(
    path: Path, tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    content = bytearray(path.read_bytes())
    if damage == "header":
        content[:16] = b"x" * 16
    elif damage == "middle":
        content[len(content) // 3 :] = b"\xff" * (len(content) - len(content) // 3)
    else:
        content = bytearray(b"no database at all\n" * 100)
    path.write_bytes(content)
    assert report(path, "-o", tmp_path / "page.html") == 1
    assert not (tmp_path / "page.html").exists()
    told = capsys.readouterr().err
    assert told.startswith("hybrid-detect: ")
    assert "Traceback" not in told


def test_what_cannot_be_done_is_said(
    path: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("HYBRID_DETECT_COSTS_PATH", raising=False)
    assert report() == 2
    assert "expected FILE" in capsys.readouterr().err
    assert report(tmp_path / "none.db") == 1
    assert "there is no file of costs" in capsys.readouterr().err
    assert report(path, "--since", "2026-11-18", "--until", "2026-11-17") == 2
    assert "--until: expected" in capsys.readouterr().err
    assert report(path, "-o", tmp_path / "no" / "page.html") == 1
    assert "cannot write" in capsys.readouterr().err
    for bad in (
        ("--time-zone", "Mars/Base"),
        ("--time-zone", "../etc"),
        ("--since", "monday"),
        ("--since", "0001-01-01"),
        ("--until", "9999-12-31"),
    ):
        with pytest.raises(SystemExit, match="2"):
            report(path, *bad)
        assert "expected a" in capsys.readouterr().err


@pytest.mark.parametrize("days", [("1970-01-01", 1), ("9998-01-01", 28)])
@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "Pacific/Niue"])
def test_the_first_and_the_last_day_there_are(
    path: Path, days: tuple[str, int], zone: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report(path, "--json", "--until", days[0], "--time-zone", zone) == 0
    told = json.loads(capsys.readouterr().out)
    first, last = map(date.fromisoformat, (told["first_day"], told["last_day"]))
    assert (str(last), (last - first).days + 1) == days


@pytest.mark.parametrize("command", ["report", "costs"])
@pytest.mark.parametrize("content", [b"", b"notes\n", b"SQLite format 3\0" + bytes(84)])
def test_another_program_s_file_is_not_touched(
    tmp_path: Path, command: str, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "notes.txt"
    other.write_bytes(content)
    other.chmod(0o644)
    assert main([command, str(other)]) == 1
    assert "is no file of costs" in capsys.readouterr().err
    assert other.read_bytes() == content
    assert stat.S_IMODE(other.stat().st_mode) == (0o644 if os.name == "posix" else 0o666)
    assert list(tmp_path.iterdir()) == [other]


@pytest.mark.parametrize("module", ["pygal", "jinja2"])
def test_a_missing_extra_is_named_and_json_needs_none(
    path: Path,
    module: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert report(path, "-o", tmp_path / "page.html") == 1
    assert "pip install 'hybrid-detect[report]'" in capsys.readouterr().err
    assert report(path, "--json") == 0

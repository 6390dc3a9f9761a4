"""``hybrid-detect costs``: what it prints and draws, of a file that another process writes."""

import csv
import io
import json
import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from hybrid_detect.charges import CostKey, CostRow
from hybrid_detect.cli import cost_plot, main
from hybrid_detect.monitoring.periods import hour_of
from hybrid_detect.service import accounts
from hybrid_detect.storage.cost_store import CostStore

from .monitoring.cost_rows import at

HOUR = hour_of(at("2026-11-28T12:00"))


def row(hour: int = HOUR, *, images: int = 10, nanos: int = 1_500_000, **key: str) -> CostRow:
    values = {"backend": "cloud", "target": "t", "provider": "google", "currency": "USD"}
    return CostRow(
        key=CostKey(hour, **{**values, **key}),
        frames=images,
        requests=images,
        answered=images - 1,
        images=images,
        bytes_sent=images * 100_000,
        price_nanos=images * nanos,
    )


ROWS = [
    row(session="ann", user="a"),
    row(HOUR - 24, session="bob", user="b", provider="aws", nanos=1_000_000, images=20),
    row(HOUR - 48, images=30),
    CostRow(key=CostKey(HOUR, "ann", "a", "device"), frames=100),
]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[CostStore]:
    # A clock of that day, because sums are dropped after a year and a month.
    with CostStore(tmp_path / "costs.db", clock=lambda: at("2026-11-28T18:00")) as opened:
        opened.add(ROWS)
        yield opened


@pytest.fixture
def path(store: CostStore, tmp_path: Path) -> Path:
    return tmp_path / "costs.db"


def costs(*arguments: object) -> int:
    return main(["costs", *map(str, arguments)])


def lines(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_a_table_tells_each_day_and_provider_and_the_total(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert costs(path) == 0
    told = lines(capsys.readouterr().out)
    assert told[0][:6] == ["day", "provider", "frames", "requests", "in", "vain"]
    assert ["2026-11-28", "google", "10", "10", "1", "1.0", "0.015", "USD", "1.50", "USD"] in told
    assert ["2026-11-28", "-", "100", "0", "0", "0.0", "0", "-"] in told
    assert told[-1][:7] == ["total", "160", "60", "3", "6.0", "0.08", "USD"]


@pytest.mark.parametrize(
    ("options", "images"),
    [
        ((), 60),
        (("--day", "2026-11-27"), 20),
        (("--since", "2026-11-27"), 30),
        (("--until", "2026-11-27"), 50),
        (("--since", "2026-11-27", "--until", "2026-11-27"), 20),
        (("--session", "ann"), 10),
        (("--session", "nobody"), 0),
        (("--user", "b"), 20),
        (("--provider", "google"), 40),
        (("--provider", "google", "--session", "bob"), 0),
    ],
)
def test_filters_leave_out_the_rest(
    path: Path, options: tuple[str, ...], images: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert costs(path, "--json", "--by", "backend", *options) == 0
    told = json.loads(capsys.readouterr().out)
    assert sum(each["images"] for each in told["rows"]) == images


def test_csv_and_json_say_the_same_exactly(
    store: CostStore, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store.add([row(currency="EUR", nanos=1)])
    by = ("--by", "day,provider,session")
    assert costs(path, "--csv", *by) == 0
    table = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert costs(path, "--json", *by) == 0
    told = json.loads(capsys.readouterr().out)["rows"]
    assert sum(int(each["images"]) for each in table) == sum(e["images"] for e in told) == 70
    for currency, total in (("USD", Decimal("0.08")), ("EUR", Decimal("0.00000001"))):
        assert sum(Decimal(e["cost"]) for e in table if e["currency"] == currency) == total
        assert sum(Decimal(e["costs"].get(currency, 0)) for e in told) == total
    assert {len(each["session"]) for each in table} == {0, 32}


def test_a_projection_is_told_with_its_range(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time", lambda: at("2026-11-28T18:00"))
    assert costs(path, "--project") == 0
    assert "2026-11: 0.08 USD spent, 0.1" in capsys.readouterr().out
    assert costs(path, "--project", "--json", "--session", "nobody") == 0
    (told,) = json.loads(capsys.readouterr().out)["projections"]
    assert Decimal(told["spent"]) == Decimal("0.08"), "a filter does not change the month"
    assert Decimal(told["low"]) <= Decimal(told["likely"]) <= Decimal(told["high"])
    assert costs(path, "--project", "--csv") == 0
    done = capsys.readouterr()
    assert "spent" not in done.out
    assert "spent" in done.err


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["costs.db", "--by", "colour"], 2),
        (["costs.db", "--csv", "--json"], 2),
        (["costs.db", "--day", "yesterday"], 2),
        (["costs.db", "--plot", "costs.gif"], 2),
        (["costs.db", "--plot", "costs.db/inside.png"], 2),
        ([], 2),
        (["another.db"], 1),
        (["broken.db"], 1),
    ],
)
def test_how_it_ends_when_it_cannot(
    path: Path,
    arguments: list[str],
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(path.parent)
    monkeypatch.delenv("HYBRID_DETECT_COSTS_PATH", raising=False)
    Path("broken.db").write_bytes(b"nothing of ours " * 100)
    try:
        ended = costs(*arguments)
    except SystemExit as error:
        ended = int(error.code or 0)
    assert ended == status
    done = capsys.readouterr()
    assert done.err
    assert not done.out
    assert not Path("another.db").exists(), "reading makes no file"


def test_the_environment_names_the_file(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HYBRID_DETECT_COSTS_PATH", str(path))
    assert costs("--by", "month") == 0
    assert "2026-11" in capsys.readouterr().out


def test_the_scales_are_told_without_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert costs("--scales") == 0
    told = capsys.readouterr().out
    assert all(f"\n{users} " in told for users in ("100", "1,000", "10,000"))
    assert "Assumed: 600 frames a user and day" in told


def test_it_reads_while_another_process_writes(store: CostStore, path: Path) -> None:
    """As a command of its own, without colour."""
    command = [sys.executable, "-m", "hybrid_detect", "costs", str(path), "--json", "--by", "day"]
    store.add([row(images=5)])
    done = subprocess.run(
        command,
        env={**os.environ, "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=50,
        check=True,
    )
    store.add([row(images=5)])
    assert sum(each["images"] for each in json.loads(done.stdout)["rows"]) == 65


# -- the picture -----------------------------------------------------------------------------


def bars(svg: Path) -> list[dict[str, str]]:
    """The boxes of the plot, those of the legend and the lines left out."""
    boxes = ET.parse(svg).getroot().iter("{http://www.w3.org/2000/svg}rect")  # noqa: S314 - ours
    return [
        box.attrib
        for box in boxes
        if box.get("fill") in {*cost_plot.COLOURS, cost_plot.OTHERS} and box.get("width") != "12.00"
    ]


def test_the_bars_of_an_svg_are_as_high_as_their_costs(path: Path, tmp_path: Path) -> None:
    svg = tmp_path / "new" / "costs.svg"
    assert costs(path, "--plot", svg, "--csv") == 0
    found = bars(svg)
    heights = [float(box["height"]) for box in found]
    assert [box["fill"] for box in found] == [cost_plot.COLOURS[n] for n in (0, 1, 0)]
    assert [round(height / heights[2], 3) for height in heights] == [3.0, 1.333, 1.0]
    assert float(found[0]["x"]) < float(found[1]["x"]) < float(found[2]["x"])
    text = svg.read_text()
    assert "0.08 USD by day" in text
    assert "2026-11-26 to 2026-11-28, UTC" in text


def test_a_png_is_a_picture(path: Path, tmp_path: Path) -> None:
    png = tmp_path / "costs.png"
    assert costs(path, "--plot", png) == 0
    with Image.open(png) as picture:
        assert picture.size == (1920, 960)
        assert {(11, 99, 165), (196, 84, 10)} <= {
            colour for _, colour in picture.getcolors(10**6) or [] if isinstance(colour, tuple)
        }


@pytest.mark.parametrize(
    ("rows", "period", "count"),
    [
        ([row(), row(HOUR - 3)], "hour", 4),
        ([row(), row(HOUR - 24 * 61)], "day", 62),
        ([row(), row(HOUR - 24 * 300)], "month", 10),
    ],
)
def test_a_bar_is_of_an_hour_a_day_or_a_month(rows: list[CostRow], period: str, count: int) -> None:
    unit, labels = cost_plot._bars(rows)
    assert (unit.value, len(labels)) == (period, count)


def test_what_is_drawn_is_what_was_asked_for(store: CostStore, path: Path, tmp_path: Path) -> None:
    svg = tmp_path / "costs.svg"
    many = [row(HOUR, provider=f"p<{number}>", nanos=10**6 * (number + 1)) for number in range(8)]
    store.add(many)
    assert costs(path, "--plot", svg, "--day", "2026-11-28") == 0
    assert len(bars(svg)) == 6, "five providers, and the others"
    assert "p&lt;7&gt;" in svg.read_text()
    assert costs(path, "--plot", svg, "--session", "nobody") == 0
    assert "Nothing was sent." in svg.read_text()
    store.add([row(HOUR, provider="free", nanos=0, session="free only")])
    assert costs(path, "--plot", svg, "--session", "free only") == 0
    assert bars(svg) == []


def test_marks_are_round_and_reach_the_highest() -> None:
    for highest in (0.00001, 0.003, 0.1, 0.999, 1.0, 7.3, 99.0, 123_456.0):
        marks: list[Any] = cost_plot._marks(highest)
        assert marks[0] == 0
        assert highest <= marks[-1] * (1 + 1e-9) <= highest * 2.6
        assert 3 <= len(marks) <= 6


# -- the doctor ------------------------------------------------------------------------------


def test_the_doctor_tells_the_budgets_and_makes_no_file(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounts, "wall_clock", lambda: at("2026-11-28T18:00"))
    monkeypatch.setenv("HYBRID_DETECT_BUDGET_PER_MONTH", "100")
    monkeypatch.setenv("HYBRID_DETECT_COSTS_PATH", str(path))
    before = path.read_bytes()
    main(["doctor", "--mode", "on_device"])
    assert "budget: 0.0800 of 100.00 USD of this month spent" in capsys.readouterr().out
    assert path.read_bytes() == before
    absent = path.with_name("absent.db")
    monkeypatch.setenv("HYBRID_DETECT_COSTS_PATH", str(absent))
    main(["doctor", "--mode", "on_device", "--json"])
    told = json.loads(capsys.readouterr().out)["budgets"]
    assert told == [
        {"period": "month", "currency": "USD", "budget": "100.000000000", "spent": "0.000000000"}
    ]
    assert not absent.exists()

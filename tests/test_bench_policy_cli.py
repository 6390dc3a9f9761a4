"""``hybrid-detect bench policy``: what it prints, draws and replays, and how it ends."""

import json
import re
import sys
from pathlib import Path

import pytest
from PIL import Image

from hybrid_detect.cli import bench_policy, main
from hybrid_detect.selection.conditions import Conditions
from hybrid_detect.selection.recording import RecordingPolicy
from hybrid_detect.selection.threshold import ThresholdPolicy
from hybrid_detect.simulation.simulator import Environment, simulate
from hybrid_detect.simulation.synthetic_traces import synthetic_traces
from hybrid_detect.types import BackendKind, Plan

TRACE = "# source=made licence=none kind=4g\nt_s,up_kbps\n" + "".join(
    f"{second},{500 + second * 911 % 8000}\n" for second in range(9)
)
ROW = r"^{} +-?\d\.\d{{3}} +-?\d+\.\d +"


@pytest.fixture(autouse=True)
def short_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_policy, "SYNTHETIC_S", 6.0)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "made.csv"
    path.write_text(TRACE)
    return path


def policy(*arguments: object) -> int:
    return main(["bench", "policy", *map(str, arguments), "--processes", "1"])


def test_a_table_for_each_device_and_for_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert policy("--policy", "threshold-rule", "device", "--devices", "pi5,desktop") == 0
    told = capsys.readouterr().out
    assert "the networks are made up" in told
    for title in ("pi5", "desktop", "all devices"):
        assert f"\n{title} (mixed scenes, traces: 4, seeds: 1, uplink x1)\n" in told
    for name in ("threshold-rule", "device", "oracle", "best fixed in hindsight"):
        assert len(re.findall(ROW.format(name), told, re.MULTILINE)) == 3, name
    assert re.search(r"^policy +utility +regret % +95 % CI +p95 ms", told, re.MULTILINE)


def test_without_a_name_the_usual_policies_are_compared(
    trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert policy("--trace", trace, "--devices", "desktop") == 0
    told = capsys.readouterr().out
    for name in bench_policy.POLICIES:
        assert re.search(ROW.format(name), told, re.MULTILINE), name
    assert "made up" not in told
    assert "desktop (mixed scenes, traces: 1" in told
    assert "all devices" not in told


def test_worlds_can_be_varied(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ("--trace", trace, "--devices", "phone", "--policy", "threshold-rule")
    tables = []
    for options in (
        (),
        ("--seeds", 2),
        ("--uplink", 0.5),
        ("--receive-times",),
    ):
        assert policy(*common, *options) == 0
        tables.append(capsys.readouterr().out)
    assert len(set(tables)) == 4
    assert "seeds: 2" in tables[1]
    assert "uplink x0.5" in tables[2]
    assert re.search(ROW.format(r"threshold-rule\+rx"), tables[3], re.MULTILINE)


def test_what_policies_are_told_can_be_varied(
    trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ("--trace", trace, "--devices", "phone", "--policy", "auto")
    for options in (("--sizes", "previous"), ("--device-end", "known")):
        assert policy(*common, *options) == 0
        assert re.search(ROW.format("auto"), capsys.readouterr().out, re.MULTILINE)


@pytest.mark.parametrize("name", ["auto", "threshold-rule", "device", "cloud-q80"])
def test_the_timeline_is_drawn(
    name: str, trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "pictures" / "timeline.png"
    assert policy("--trace", trace, "--devices", "pi5", "--policy", name, "--png", out) == 0
    assert f"The timeline of {name} on made, pi5: {out}" in capsys.readouterr().out
    with Image.open(out) as picture:
        picture.load()
        assert picture.format == "PNG"
        assert picture.size == (1200, 840)
        assert len(picture.getcolors(1 << 20)) > 10, "more than white"


def test_a_picture_that_cannot_be_written_is_said_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert policy("--png", tmp_path / "file" / "timeline.png") == 2
    assert "--png: cannot write the file" in capsys.readouterr().err


def test_a_policy_of_one_s_own(
    tmp_path: Path,
    trace: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "my_policies.py").write_text(
        "from hybrid_detect import Plan\n"
        "class Mine:\n"
        "    def decide(self, conditions):\n"
        "        return Plan(backend='device', reason='mine', deadline_s=1.0)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    try:
        assert policy("--trace", trace, "--devices", "pi5", "--policy", "my_policies:Mine") == 0
    finally:
        sys.modules.pop("my_policies", None)
    assert re.search(ROW.format("my_policies:Mine"), capsys.readouterr().out, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (("--policy", "nobody"), 1, "expected a policy"),
        (("--trace", "/nonexistent/trace.csv"), 1, "cannot be read"),
        (("--replay", "/nonexistent/run.jsonl"), 1, "cannot read the file"),
        (("--devices", "toaster"), 2, "expected some of phone, pi5, desktop"),
        (("--seeds", "0"), 2, "expected a number of 1 or more"),
        (("--seeds", "some"), 2, "expected a number of 1 or more"),
        (("--uplink", "-1"), 2, "expected a number above 0"),
        (("--uplink", "fast"), 2, "expected a number above 0"),
        (("--uplink", "nan"), 2, "expected a number above 0"),
    ],
)
def test_a_wrong_command_line_is_refused(
    arguments: tuple[str, ...], status: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if status == 2:
        with pytest.raises(SystemExit) as caught:
            policy(*arguments)
        assert caught.value.code == 2
    else:
        assert policy(*arguments) == status
    assert told in capsys.readouterr().err


# -- replaying -----------------------------------------------------------------------------------


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "run.jsonl"
    with path.open("w", encoding="utf-8") as file:
        world = Environment(synthetic_traces(seconds=12)[0])
        simulate(world, RecordingPolicy(ThresholdPolicy(), file.write))
    return path


def test_the_policy_that_was_recorded_decides_the_same(
    recording: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert policy("--replay", recording, "--policy", "threshold-rule") == 0
    told = capsys.readouterr().out
    assert told == "108 decisions, 0 of them different with threshold-rule\n"


def test_another_policy_s_differences_are_counted_and_shown(
    recording: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert policy("--replay", recording, "--policy", "device") == 0
    told = capsys.readouterr().out
    (differ,) = re.findall(r"108 decisions, (\d+) of them different with device", told)
    assert int(differ) > 0
    counts = re.findall(r"^(\d+) +(?:streaming q|nothing).* +device$", told, re.MULTILINE)
    assert sum(map(int, counts)) == int(differ)
    assert len(re.findall(r"^ +\d+\.\d\d s  threshold rule: .*  ->  ", told, re.MULTILINE)) == min(
        int(differ), 10
    )


def test_hedges_and_probes_are_told_apart(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    conditions = Conditions(now_s=1.0, backends=(), deadline_s=1.0)
    plan = Plan(
        backend=BackendKind.STREAMING,
        reason="old",
        deadline_s=1.0,
        max_side_px=None,
        hedge=BackendKind.DEVICE,
        hedge_after_s=0.15,
        probe=True,
    )

    class Recorded:
        def decide(self, conditions: Conditions) -> Plan:
            return plan

    lines: list[str] = []
    RecordingPolicy(Recorded(), lines.append).decide(conditions)
    path = tmp_path / "one.jsonl"
    path.write_text("".join(lines), encoding="utf-8")
    assert policy("--replay", path, "--policy", "threshold-rule") == 0
    told = capsys.readouterr().out
    assert "streaming q80 full px (probe) and device after 150 ms  nothing" in told


def test_a_damaged_recording_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "damaged.jsonl"
    path.write_text("{}\n")
    assert policy("--replay", path) == 1
    assert "line 1: expected version 1, got None" in capsys.readouterr().err
    path.write_bytes(b"\xff\xfe")
    assert policy("--replay", path) == 1
    assert "got no UTF-8 text" in capsys.readouterr().err


def test_scenes_are_chosen_and_drawn_from_labels(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    box = {"width": 640, "height": 480, "category": "portrait", "boxes": [[0, 0, 200, 200]]}
    (tmp_path / "labels.json").write_text(json.dumps({"images": {"a.jpg": box}}))
    arguments = ("--trace", trace, "--devices", "desktop", "--policy", "device")
    assert policy(*arguments, "--scene", "selfie", "--faces", tmp_path) == 0
    assert "desktop (selfie scenes, traces: 1" in capsys.readouterr().out
    assert policy(*arguments, "--scene", "constant") == 0
    assert "desktop (constant scenes, traces: 1" in capsys.readouterr().out
    assert policy(*arguments, "--faces", tmp_path / "none") == 1
    assert "expected labels of photos in" in capsys.readouterr().err

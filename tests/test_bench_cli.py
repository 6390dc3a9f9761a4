"""``hybrid-detect bench memory``: what it prints, the picture it writes and how it ends."""

import os
import re
import subprocess
import sys
from itertools import islice
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
from PIL import Image

from hybrid_detect.backends.device.models import find_model
from hybrid_detect.cli import bench, main, plotting
from hybrid_detect.extras import is_installed
from hybrid_detect.system.memory_probe import child_pids
from hybrid_detect.testing import FakeBackend

SIZE = r"[+-]\d+\.\d\d MB"
FIGURES = re.compile(rf"this process +(\d+\.\d\d) MB +({SIZE}) +({SIZE}) +({SIZE})\n")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ENDPOINT", "AUTH_TOKEN", "MODE", "DEADLINE_S", "SERVER_TOKEN"):
        monkeypatch.delenv(f"HYBRID_DETECT_{name}", raising=False)


@pytest.fixture
def device_works() -> None:
    if not is_installed("mediapipe"):
        pytest.skip("MediaPipe is not installed")
    if find_model("short_range") is None:
        pytest.skip("the model short_range is not here")


@pytest.fixture
def server_works() -> None:
    for module in ("mediapipe", "starlette", "httptools"):
        if not is_installed(module):
            pytest.skip(f"{module} is not installed")
    if find_model("full_range") is None:
        pytest.skip("the model full_range is not here")


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> FakeBackend:
    """A device without a detector, for what is not about detecting."""
    backend = FakeBackend("device")
    monkeypatch.setattr(
        "hybrid_detect.service.backend_factory.create_backend", lambda kind, config: backend
    )
    monkeypatch.setattr("hybrid_detect.cli.fetching.load_model", lambda *_, **__: b"")
    return backend


def memory(*arguments: object) -> int:
    return main(["bench", "memory", *map(str, arguments)])


def assert_is_a_drawing(path: Path) -> None:
    with Image.open(path) as picture:
        picture.load()
        assert picture.format == "PNG"
        assert picture.size == (1200, 800)
        panels = picture.convert("RGB").crop((90, 130, 1165, 740))
        blue = (np.asarray(panels, int) @ (-1, -1, 2) > 150).any(axis=0)
        assert blue.mean() > 0.9, "the curve goes through both panels, from left to right"


# -- what it tells -------------------------------------------------------------------------------


@pytest.mark.device
@pytest.mark.usefixtures("device_works")
def test_the_device_s_memory_is_told_and_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "curves" / "memory.png"
    assert memory("--mode", "on_device", "--frames", 60, "--warm-up", 5, "--out", out) == 0
    told = capsys.readouterr().out
    assert "on_device through device: 60 frames of 1280x720 after 5 to warm up" in told
    assert re.search(r"baseline +peak +growth +slope per 1000", told)
    assert float(FIGURES.search(told)[1]) > 10
    assert re.search(r"its children +[1-9]\d+\.\d\d MB", told), "the detector's own process"
    assert told.count("60 frames\n") == 2
    assert f"The curve: {out}" in told
    assert_is_a_drawing(out)


@pytest.mark.device
@pytest.mark.server
@pytest.mark.usefixtures("server_works")
@pytest.mark.parametrize("mode", ["cloud", "streaming", "auto"])
def test_without_an_endpoint_a_server_is_started_and_its_memory_left_out(
    tmp_path: Path, mode: str
) -> None:
    # In a process of its own, because the other tests' server is a child of this one.
    before = set(child_pids(os.getpid()))
    out = tmp_path / "memory.png"
    options = ["--mode", mode, "--frames", "5", "--warm-up", "2", "--out", str(out)]
    done = subprocess.run(
        [sys.executable, "-m", "hybrid_detect", "bench", "memory", *options],
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    told = done.stdout
    assert "No endpoint given: a server runs at http://127.0.0.1:" in told
    assert f"{mode} through {'' if mode == 'auto' else mode}" in told
    assert ": 5 frames" in told
    assert FIGURES.search(told)
    assert ("its children" in told) is (mode == "auto"), "AUTO has a detector of its own ready"
    assert_is_a_drawing(out)
    assert set(child_pids(os.getpid())) <= before, "the server has ended"


def test_as_many_frames_are_looked_at_as_were_asked_for(
    device: FakeBackend, capsys: pytest.CaptureFixture[str]
) -> None:
    assert memory("--mode", "on_device", "--frames", 3, "--warm-up", 2) == 0
    assert len(device.plans) == 5
    assert "The curve" not in capsys.readouterr().out


def test_a_baseline_without_warm_up(
    device: FakeBackend, capsys: pytest.CaptureFixture[str]
) -> None:
    assert memory("--mode", "on_device", "--frames", 1, "--warm-up", 0) == 0
    assert "1 frames of 1280x720 after 0 to warm up" in capsys.readouterr().out


def test_frames_without_an_answer_are_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    endpoint = "http://127.0.0.1:9"
    options = ("--frames", 2, "--warm-up", 1, "--deadline", 0.2)
    assert memory("--mode", "cloud", "--endpoint", endpoint, *options) == 1
    printed = capsys.readouterr()
    assert "3 frames had no answer" in printed.err
    assert "frame 2: " in printed.err
    assert FIGURES.search(printed.out), "what was measured is told all the same"


# -- how it refuses ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [["--mode", "fastest"], ["--frames", "many"], ["--warm-up", "1.5"], ["--out"]],
    ids=" ".join,
)
def test_a_wrong_command_line_is_status_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        memory(*arguments)
    assert caught.value.code == 2
    assert arguments[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("--frames", 0, "frames: expected a whole number of at least 1, got 0"),
        ("--frames", -5, "frames: expected a whole number of at least 1, got -5"),
        ("--warm-up", -1, "warm_up: expected a whole number of at least 0, got -1"),
        ("--deadline", -1, "deadline_s"),
    ],
)
def test_a_number_out_of_range_is_told_in_one_line(
    option: str, value: int, told: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "memory.png"
    assert memory("--mode", "on_device", option, value, "--out", out) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("hybrid-detect: ")
    assert told in line
    assert not out.exists()


def test_a_file_that_cannot_be_written_is_told_before_measuring(
    device: FakeBackend, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert memory("--mode", "on_device", "--frames", 1, "--out", tmp_path) == 2
    assert "--out: cannot write the file: " in capsys.readouterr().err
    assert device.plans == []


# -- frames and axes -----------------------------------------------------------------------------


def test_frames_are_distinct_and_share_one_buffer() -> None:
    assert len({crc32(frame) for frame in islice(bench._frames(), 300)}) == 300
    first, second = islice(bench._frames(), 2)
    assert first is second
    assert first.shape == (720, 1280, 3)


@pytest.mark.parametrize(
    ("low", "high"), [(0, 0), (0, 60), (0, 1000), (-0.3, 0.1), (48.7, 48.9), (-5, -5), (0, 10**6)]
)
def test_axes_have_few_round_numbers_around_all_values(low: float, high: float) -> None:
    ticks = plotting.ticks(low, high)
    assert 4 <= len(ticks) <= 10
    assert ticks[0] <= low <= high <= ticks[-1]
    assert ticks == sorted(set(ticks))

import argparse
import ast
import errno
import importlib
import importlib.util
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import tomllib
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hybrid_detect.backends.device.models import MODELS, find_model
from hybrid_detect.backends.device.system_libraries import SystemLibrary
from hybrid_detect.backends.remote.providers import PROVIDERS, capabilities_of
from hybrid_detect.cli import exit_codes, installed, main
from hybrid_detect.cli.exit_codes import ExitCode
from hybrid_detect.cli.installed import PARTS
from hybrid_detect.cli.options import add_service_options, service_config
from hybrid_detect.cli.table import table
from hybrid_detect.errors import ModelError
from hybrid_detect.exchange.key_files import KnownKeys
from hybrid_detect.exchange.keys import PrivateKey, Suite
from hybrid_detect.extras import is_installed
from hybrid_detect.testing import FakeBackend
from hybrid_detect.types import BoundingBox, Face


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        *("ENDPOINT", "AUTH_TOKEN", "MODE", "DEADLINE_S", "SERVER_TOKEN"),
        *("SERVER_PUBLIC_KEY", "TRUST_ON_FIRST_USE", "KNOWN_KEYS_PATH"),
    ):
        monkeypatch.delenv(f"HYBRID_DETECT_{name}", raising=False)


@pytest.fixture
def fake_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that sees one face, for commands whose detecting is not what is tested."""

    def create(kind: Any, config: Any) -> FakeBackend:
        return FakeBackend(kind, faces=[Face(BoundingBox(4, 5, 20, 30), 0.875)])

    monkeypatch.setattr("hybrid_detect.service.backend_factory.create_backend", create)
    monkeypatch.setattr("hybrid_detect.cli.fetching.load_model", lambda *_, **__: b"")


@pytest.fixture
def fake_backend_script() -> list[str]:
    """A command line that runs ``detect`` in a process of its own, with a fake backend."""
    code = (
        "import sys\n"
        "from hybrid_detect.cli import main\n"
        "from hybrid_detect.service import backend_factory\n"
        "from hybrid_detect.testing import FakeBackend\n"
        "from hybrid_detect.types import BoundingBox, Face\n"
        "face = Face(BoundingBox(4, 5, 20, 30), 0.875)\n"
        "backend_factory.create_backend = lambda kind, config: FakeBackend(kind, faces=[face])\n"
        "sys.exit(main(['detect', '--mode', 'cloud', *sys.argv[1:]]))\n"
    )
    return [sys.executable, "-c", code]


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(path)
    return path


@pytest.fixture
def device_works() -> None:
    if not is_installed("mediapipe") or find_model("short_range") is None:
        pytest.skip("MediaPipe or its model is not here")


# -- the command line itself -----------------------------------------------------------------


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.strip() == "0.1.0"


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["nonsense"],
        ["detect"],
        ["detect", "x.jpg", "--mode", "fastest"],
        ["detect", "x.jpg", "--deadline", "soon"],
        ["models"],
        ["models", "burn"],
        ["models", "verify", "no_such_model"],
        ["serve", "--port", "http"],
        ["serve", "--detectors", "many"],
        ["serve", "--token", "secret"],
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_is_status_2_with_a_hint(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    assert capsys.readouterr().err


# -- detect ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("fake_device")
def test_detect_tells_of_faces_and_way(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["detect", str(photo)]) == 0
    out = capsys.readouterr().out
    assert f"{photo}: 1 face, " in out
    assert "score" in out
    assert "0.88" in out


@pytest.mark.usefixtures("fake_device")
def test_detect_prints_an_object_per_picture_as_json(
    photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["detect", "--json", "--mode", "on_device", str(photo), str(photo)]) == 0
    values = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [value["image"] for value in values] == [str(photo)] * 2
    assert [value["backend"] for value in values] == ["device"] * 2
    assert values[0]["faces"][0]["box"]["x_max"] == 20


@pytest.mark.usefixtures("fake_device")
def test_detect_writes_the_picture_with_its_faces(photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "a" / "b"
    assert main(["detect", str(photo), "--out", str(out)]) == 0
    with Image.open(out / "photo.faces.png") as drawn:
        assert drawn.size == (64, 48)
        assert np.asarray(drawn.convert("RGB")).any(), "the box is not black"


@pytest.mark.usefixtures("fake_device")
def test_no_drawing_replaces_another_or_a_file_that_is_there(photo: Path, tmp_path: Path) -> None:
    """Three pictures of which two share a name and the third has the name made for the second."""
    out = tmp_path / "out"
    other = tmp_path / "b" / "photo.png"
    third = tmp_path / "photo-2.png"
    other.parent.mkdir()
    for copy in (other, third):
        copy.write_bytes(photo.read_bytes())
    argv = ["detect", str(photo), str(other), str(third), "--out", str(out)]
    assert main(argv) == ExitCode.DONE
    first = {path.name: path.read_bytes() for path in out.iterdir()}
    assert set(first) == {"photo.faces.png", "photo-2.faces.png", "photo-2-2.faces.png"}
    assert main(argv) == ExitCode.DONE
    assert len(list(out.iterdir())) == 6
    assert {name: (out / name).read_bytes() for name in first} == first


@pytest.mark.usefixtures("fake_device")
@pytest.mark.parametrize(("given", "drawn"), [("jpg", "jpg"), ("jpeg", "jpeg"), ("bmp", "png")])
def test_a_drawing_keeps_its_picture_s_format(
    given: str, drawn: str, photo: Path, tmp_path: Path
) -> None:
    picture = tmp_path / f"a.{given}"
    Image.open(photo).save(picture)
    assert main(["detect", str(picture), "--out", str(tmp_path / "out")]) == ExitCode.DONE
    assert [path.name for path in (tmp_path / "out").iterdir()] == [f"a.faces.{drawn}"]


@pytest.mark.usefixtures("fake_device")
def test_a_file_for_one_picture_is_a_file(
    photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "faces.jpg"
    assert main(["detect", str(photo), "--out", str(out)]) == ExitCode.DONE
    with Image.open(out) as drawn:
        assert drawn.format == "JPEG"
    assert main(["detect", str(photo), "--out", str(out)]) == ExitCode.FAILED
    assert "is there already" in capsys.readouterr().err
    several = ["detect", str(photo), str(photo), "--out", str(tmp_path / "two.jpg")]
    assert main(several) == ExitCode.USAGE
    assert not (tmp_path / "two.jpg").exists()


@pytest.mark.usefixtures("fake_device")
def test_a_drawing_that_cannot_be_written_is_told_and_the_next_picture_is_looked_at(
    photo: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(self: Image.Image, *_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    argv = ["detect", "--json", str(photo), str(photo), "--out", str(tmp_path / "out")]
    assert main(argv) == ExitCode.PARTLY
    printed = capsys.readouterr()
    assert printed.err.count("cannot be written: No space left on device") == 2
    assert len(printed.out.splitlines()) == 2


@pytest.mark.usefixtures("fake_device")
def test_a_line_of_json_for_each_picture_in_order_whether_it_was_answered_or_not(
    photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    garbage = tmp_path / "garbage.jpg"
    garbage.write_bytes(b"garbage")
    missing = tmp_path / "missing.jpg"
    names = [str(garbage), str(photo), str(missing), str(photo)]
    assert main(["detect", "--json", *names]) == ExitCode.PARTLY
    printed = capsys.readouterr()
    values = [json.loads(line) for line in printed.out.splitlines()]
    assert [value["image"] for value in values] == names
    assert [value["answered"] for value in values] == [False, True, False, True]
    assert values[0]["faces"] is None
    assert values[0]["error"].startswith("InvalidFrameError: ")
    assert str(garbage) in printed.err
    assert str(missing) in printed.err
    assert "Traceback" not in printed.err


@pytest.mark.usefixtures("fake_device")
def test_folders_patterns_and_standard_input_are_taken(
    photo: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "album" / "inner"
    folder.mkdir(parents=True)
    (folder.parent / "notes.txt").write_text("no picture")
    for name in ("b.png", "inner/a.png"):
        (folder.parent / name).write_bytes(photo.read_bytes())
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(photo.read_bytes())))
    patterns = [str(folder.parent / "*.png"), str(folder.parent / "**" / "a*")]
    assert main(["detect", "--json", str(folder.parent), *patterns, "-"]) == ExitCode.DONE
    names = [json.loads(line)["image"] for line in capsys.readouterr().out.splitlines()]
    assert names == [
        str(folder.parent / "b.png"),
        str(folder / "a.png"),
        str(folder.parent / "b.png"),
        str(folder / "a.png"),
        "-",
    ]


@pytest.mark.usefixtures("fake_device")
def test_where_the_results_go_elsewhere_the_terminal_sees_how_far_it_is(
    photo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    names = [str(photo), "missing.png", str(photo)]
    assert main(["detect", *names]) == ExitCode.PARTLY
    told = capsys.readouterr().err
    assert "\r1 of 3 pictures\nmissing.png: " in told
    assert told.endswith("\r3 of 3 pictures\n")
    assert main(["detect", str(photo)]) == ExitCode.DONE
    assert capsys.readouterr().err == "", "one picture needs no counter"


@pytest.mark.parametrize("name", ["nothing-*.png", "empty"])
def test_a_folder_or_pattern_without_a_picture_is_told(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert main(["detect", str(tmp_path / name)]) == ExitCode.FAILED
    assert name in capsys.readouterr().err


def test_output_that_is_not_read_to_its_end_ends_the_run_quietly(
    photo: Path, fake_backend_script: list[str]
) -> None:
    script = [*fake_backend_script, *[str(photo)] * 200]
    running = subprocess.Popen(script, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert running.stdout is not None
    running.stdout.readline()
    running.stdout.close()
    _, err = running.communicate(timeout=50)
    assert err == b""
    assert running.returncode == ExitCode.BROKEN_PIPE


def test_a_name_that_the_terminal_cannot_print_does_not_end_the_run(
    photo: Path, tmp_path: Path, fake_backend_script: list[str]
) -> None:
    odd = os.fsdecode(bytes(tmp_path) + b"/\xff.png")
    try:
        Path(odd).write_bytes(photo.read_bytes())
    except OSError:
        pytest.skip("this file system has no such names")
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run(
        [*fake_backend_script, odd, str(photo)], capture_output=True, timeout=50, env=environment
    )
    assert done.returncode == ExitCode.DONE, done.stderr
    assert b"\\udcff.png: 1 face" in done.stdout
    assert f"{photo}: 1 face".encode() in done.stdout


def test_detect_without_a_way_says_why(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["detect", "--mode", "cloud", str(photo)]) == 1
    assert "hybrid-detect: no endpoint is configured" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("--endpoint", "http://faces.example.com", "in the clear"),
        ("--deadline", "-1", "deadline_s"),
        ("--min-confidence", "2", "min_confidence"),
        ("--model", "no_such_model", "no_such_model"),
    ],
)
def test_a_bad_setting_is_told_in_one_line(
    option: str, value: str, told: str, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["detect", str(photo), option, value]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("hybrid-detect: ")
    assert told in line


@pytest.mark.parametrize(
    ("given", "environ", "expected"),
    [
        ([], {}, None),
        ([], {"HYBRID_DETECT_MIN_CONFIDENCE": "0.3"}, 0.3),
        (["--min-confidence", "0"], {"HYBRID_DETECT_MIN_CONFIDENCE": "0.3"}, 0.0),
        (["--min-confidence", "0.5"], {}, 0.5),
    ],
)
def test_the_lowest_score_is_the_model_s_own_unless_it_is_given(
    given: list[str],
    environ: dict[str, str],
    expected: float | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    parser = argparse.ArgumentParser()
    add_service_options(parser)
    assert service_config(parser.parse_args(given)).min_confidence == expected
    parser.print_help()
    told = " ".join(capsys.readouterr().out.split())
    assert "HYBRID_DETECT_MIN_CONFIDENCE, else the model's own)" in told


@pytest.mark.parametrize(
    ("given", "environ", "expected"),
    [
        ([], {}, 10.0),
        ([], {"HYBRID_DETECT_DEADLINE_S": "0.5"}, 0.5),
        (["--deadline", "2"], {"HYBRID_DETECT_DEADLINE_S": "0.5"}, 2.0),
    ],
)
def test_a_command_s_own_deadline_holds_where_nothing_else_is_said(
    given: list[str],
    environ: dict[str, str],
    expected: float,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    parser = argparse.ArgumentParser()
    add_service_options(parser, deadline_s=10.0)
    config = service_config(parser.parse_args(given), deadline_s=10.0)
    assert config.deadline_s == expected
    parser.print_help()
    told = " ".join(capsys.readouterr().out.split())
    assert "HYBRID_DETECT_DEADLINE_S, else 10)" in told


@pytest.mark.usefixtures("fake_device")
def test_the_environment_is_read_and_options_win(
    photo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HYBRID_DETECT_MODE", "cloud")
    assert main(["detect", "--json", str(photo)]) == 0
    assert json.loads(capsys.readouterr().out)["backend"] == "cloud"
    assert main(["detect", "--json", "--mode", "streaming", str(photo)]) == 0
    assert json.loads(capsys.readouterr().out)["backend"] == "streaming"


@pytest.mark.device
@pytest.mark.usefixtures("device_works")
def test_detect_finds_the_face_on_the_device(
    tmp_path: Path, astronaut: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "astronaut.png"
    Image.fromarray(astronaut).save(path)
    argv = ["detect", "--json", "--mode", "on_device", "--deadline", "20", str(path)]
    coco = tmp_path / "data" / "faces.json"
    assert main([*argv, "--coco", str(coco)]) == 0
    (face,) = json.loads(capsys.readouterr().out)["faces"]
    data = json.loads(coco.read_text())
    assert [image["file_name"] for image in data["images"]] == [str(path)]
    assert data["annotations"][0]["bbox"][:2] == [face["box"]["x_min"], face["box"]["y_min"]]
    found = BoundingBox(**face["box"])
    assert found.iou(BoundingBox(177, 82, 272, 177)) > 0.7


@pytest.mark.device
@pytest.mark.usefixtures("device_works")
def test_detect_tells_the_smallest_face_that_it_could_have_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "nothing.png"
    Image.new("RGB", (1280, 720)).save(path)
    argv = ["detect", "--mode", "on_device", "--deadline", "20", "--model", "short_range"]
    assert main([*argv, str(path)]) == 0
    assert "0 faces of 70 pixels or more" in capsys.readouterr().out, "in tiles: there is time"
    argv += ["--device-quality", "fast"]
    assert main([*argv, str(path)]) == 0
    assert "0 faces of 120 pixels or more" in capsys.readouterr().out
    assert main([*argv, "--json", str(path)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["faces"], told["model"], told["min_face_px"]) == ([], "short_range", 120.0)


# -- models ----------------------------------------------------------------------------------


def test_models_list_names_every_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "list"]) == 0
    out = capsys.readouterr().out
    for name, spec in MODELS.items():
        assert name in out
        assert str(spec.size_bytes) in out
        assert f"{spec.licence} ({spec.licence_from})" in out


@pytest.mark.device
@pytest.mark.usefixtures("device_works")
def test_models_verify_checks_what_is_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "verify", "short_range"]) == 0
    assert capsys.readouterr().out.rstrip().endswith("ok")


@pytest.fixture
def no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HYBRID_DETECT_MODEL_DIR", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


@pytest.mark.usefixtures("no_model")
def test_models_verify_tells_what_is_not_here(capsys: pytest.CaptureFixture[str]) -> None:
    if find_model("full_range") is not None:
        pytest.skip("the package carries the model")
    assert main(["models", "verify", "full_range"]) == 1
    assert "hybrid-detect models pull" in capsys.readouterr().out


def test_models_verify_refuses_a_forged_file(
    no_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = MODELS["short_range"]
    (no_model / spec.filename).write_bytes(bytes(spec.size_bytes))
    assert main(["models", "verify", "short_range"]) == 1
    assert "SHA-256" in capsys.readouterr().out


@pytest.mark.skipif(sys.platform in {"win32", "darwin"}, reason="XDG is for other systems")
def test_models_verify_tells_of_a_damaged_file_and_leaves_it(
    no_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = no_model / "cache" / "hybrid-detect" / "models" / MODELS["short_range"].filename
    file.parent.mkdir(parents=True)
    file.write_bytes(b"damaged")
    for _ in range(2):
        assert main(["models", "verify"]) == 1
        out = capsys.readouterr().out
        assert f"short_range: damaged: {file} is not the published model" in out
        assert "full_range: " in out, "the others are looked at all the same"
    assert main(["models", "list"]) == 0


# -- fetching before anything is opened ------------------------------------------------------


@pytest.fixture
def slow_fetch(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """No model is here; each fetch is noted, shows its progress, and gives one."""
    fetched: list[str] = []

    def load(name: str, *, progress: Any, **_: Any) -> bytes:
        fetched.append(name)
        progress("package index", 0, None)
        return b""

    monkeypatch.setattr("hybrid_detect.backends.device.runtimes.is_installed", "mediapipe".__eq__)
    for module in ("cli.fetching", "server.levels"):
        monkeypatch.setattr(f"hybrid_detect.{module}.load_model", load)
    monkeypatch.setattr("hybrid_detect.cli.fetching.find_model", lambda _: None)
    return fetched


@pytest.fixture
def no_fetch(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str, **_: Any) -> bytes:
        raise ModelError("nothing to be had", name=name)

    monkeypatch.setattr("hybrid_detect.backends.device.runtimes.is_installed", "mediapipe".__eq__)
    monkeypatch.setattr("hybrid_detect.cli.fetching.load_model", load)
    monkeypatch.setattr("hybrid_detect.cli.fetching.find_model", lambda _: None)


@pytest.mark.usefixtures("fake_device")
@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("auto", ["full_range"]),
        ("on_device", ["full_range"]),
        ("prefer_cloud", ["full_range"]),
        ("prefer_on_device", ["full_range"]),
        ("cloud", []),
        ("streaming", []),
    ],
)
def test_a_model_is_fetched_first_where_the_device_may_be_used(
    mode: str, expected: list[str], photo: Path, slow_fetch: list[str]
) -> None:
    assert main(["detect", "--mode", mode, "--model", "full_range", str(photo)]) == 0
    assert slow_fetch == expected


@pytest.mark.usefixtures("fake_device", "slow_fetch")
def test_a_fetch_is_shown_on_a_terminal_in_a_line_of_its_own(
    photo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert main(["detect", str(photo)]) == 0
    assert capsys.readouterr().err == "\rpackage index: 0 bytes\n"


@pytest.mark.usefixtures("fake_device", "slow_fetch")
def test_a_fetch_is_not_shown_elsewhere(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["detect", str(photo)]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("fake_device", "no_fetch")
def test_without_its_model_the_device_is_gone_on_without_if_there_is_a_server(
    photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["detect", str(photo), "--endpoint", "http://127.0.0.1:9"]
    assert main([*argv, "--mode", "prefer_on_device"]) == 0
    assert capsys.readouterr().err == (
        "hybrid-detect: going on without the device: nothing to be had\n"
    )
    assert main(argv) == 0
    assert capsys.readouterr().err == "", "a server answers: nobody waits for a fetch"
    for only in (argv[:2], [*argv, "--mode", "on_device"]):
        assert main(only) == 1
        assert capsys.readouterr().err == "hybrid-detect: nothing to be had\n"


@pytest.mark.usefixtures("fake_device")
def test_bench_fetches_the_device_s_model(slow_fetch: list[str]) -> None:
    argv = ["bench", "memory", "--mode", "on_device", "--frames", "1", "--warm-up", "0"]
    assert main(argv) == 0
    assert slow_fetch == ["full_range"]


@pytest.mark.parametrize("argv", [["demo"], ["bench", "memory"]], ids=" ".join)
def test_the_server_s_model_is_fetched_before_it_is_started(
    argv: list[str], photo: Path, slow_fetch: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("starlette")

    class StartedError(Exception):
        pass

    def start(_: object) -> None:
        raise StartedError

    monkeypatch.setattr("hybrid_detect.server.serving.ServerProcess.start", start)
    with pytest.raises(StartedError):
        main([*argv, str(photo)] if argv == ["demo"] else argv)
    assert slow_fetch[0] == "full_range"
    assert slow_fetch[1:] == (["full_range"] if argv == ["demo"] else [])


# -- doctor, serve, demo ---------------------------------------------------------------------


@pytest.mark.usefixtures("fake_device")
def test_doctor_tells_what_is_there_and_what_would_be_done(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["doctor"]) == 0
    lines = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert list(lines) == [
        *("the next picture", "backends", "endpoint", "trust", "on this device", "memory"),
        *("network", "jpeg codec", "budget", "installed"),
    ]
    assert lines["the next picture"].startswith("auto: streaming")
    assert lines["backends"] == "streaming yes; device yes; cloud yes"
    assert lines["endpoint"] == lines["budget"] == "none"
    assert "short_range" in lines["on this device"]
    assert "MiB" in lines["memory"]
    assert lines["installed"].startswith(f"hybrid-detect {version('hybrid-detect')}, Python 3.")


@pytest.mark.usefixtures("fake_device")
def test_doctor_tells_by_which_medium_the_server_is_reached(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYBRID_DETECT_ENDPOINT", "http://127.0.0.1:9")
    for medium, expected in (("", "wired"), ("cellular", "cellular"), ("unknown", "")):
        monkeypatch.setenv("HYBRID_DETECT_MEDIUM", medium)
        main(["doctor"])
        (network,) = (
            line for line in capsys.readouterr().out.splitlines() if line.startswith("network: ")
        )
        told = "first hop to the server: "
        assert told + expected in network if expected else told not in network


@pytest.mark.usefixtures("fake_device")
def test_doctor_tells_models_and_versions_when_it_is_asked_to(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["doctor", "--verbose"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("the next picture: auto: streaming")
    for word in ("python ", "httpx ", "mediapipe ", "\nshort_range "):
        assert word in out
    assert "trains on them" not in out


@pytest.mark.usefixtures("fake_device")
def test_doctor_tells_what_every_provider_says_when_it_is_asked_to(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["doctor", "--providers"]) == 0
    out = capsys.readouterr().out
    told = [name for name in PROVIDERS if capabilities_of(name).facts_as_of is not None]
    assert [line for line in out.splitlines() if line in PROVIDERS] == told
    assert out.count("trains on them: ") == len(told)


def test_doctor_names_the_targets_and_those_that_are_never_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    targets = [
        {"endpoint": "http://127.0.0.1:9", "region": "eu-west-1", "name": "near"},
        {"endpoint": "http://127.0.0.1:9", "region": "us-east-1", "name": "far"},
    ]
    monkeypatch.setenv("HYBRID_DETECT_TARGETS", json.dumps(targets))
    monkeypatch.setenv("HYBRID_DETECT_ALLOWED_REGIONS", "eu-west-1")
    monkeypatch.setenv("HYBRID_DETECT_MODE", "cloud")
    main(["doctor"])
    told = "endpoint: near (custom_backend, eu-west-1); far (custom_backend, us-east-1): never"
    assert told in capsys.readouterr().out
    main(["doctor", "--verbose"])
    out = capsys.readouterr().out
    assert "target: near (custom_backend, eu-west-1)\n" in out
    assert "target: far (custom_backend, us-east-1): never asked" in out
    assert [line for line in out.splitlines() if line in PROVIDERS] == ["custom_backend"]
    main(["doctor", "--json"])
    found = json.loads(capsys.readouterr().out)["targets"]
    assert [(each["name"], bool(each["denied_reason"])) for each in found] == [
        ("near", False),
        ("far", True),
    ]


def test_doctor_tells_what_pictures_are_encrypted_to(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def told() -> str:
        main(["doctor"])
        out = capsys.readouterr().out
        line = next(line for line in out.splitlines() if line.startswith("trust: "))
        return line.partition("; encryption: ")[2]

    key = PrivateKey.generate(Suite.X25519_CHACHA20, datetime(2030, 1, 2, tzinfo=UTC)).public
    assert "https alone" in told()
    with monkeypatch.context() as patch:
        patch.setenv("HYBRID_DETECT_ENDPOINT", "http://localhost:9")
        assert told() == "none (see server_public_key)"
    with monkeypatch.context() as patch:
        patch.setenv("HYBRID_DETECT_SERVER_PUBLIC_KEY", key.text)
        assert told() == f"to key {key.id} (pinned, x25519-chacha20, until 2030-01-02)"
        patch.setenv("HYBRID_DETECT_SERVER_PUBLIC_KEY", "/nonexistent")
        assert "cannot work, so nothing is sent" in told()
    monkeypatch.setenv("HYBRID_DETECT_ENDPOINT", "https://a.example")
    monkeypatch.setenv("HYBRID_DETECT_TRUST_ON_FIRST_USE", "1")
    monkeypatch.setenv("HYBRID_DETECT_KNOWN_KEYS_PATH", str(tmp_path / "known.json"))
    assert "which it has not been" in told()
    KnownKeys(tmp_path / "known.json").put("https://a.example", key)
    assert f"to key {key.id} (trusted since it was first met" in told()


@pytest.mark.usefixtures("fake_device")
def test_doctor_tells_what_is_wrong_with_a_model_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HYBRID_DETECT_MODEL_PATH", "/nonexistent")
    main(["doctor"])
    out = capsys.readouterr().out
    assert "cannot read /nonexistent" in out
    assert "the next picture: " in out


@pytest.mark.usefixtures("fake_device")
@pytest.mark.parametrize(("installed", "told"), [(True, "simplejpeg"), (False, "Pillow (slower")])
def test_doctor_names_the_jpeg_codec(
    installed: bool,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if installed:
        pytest.importorskip("simplejpeg")
    else:
        monkeypatch.setattr("hybrid_detect.extras.is_installed", lambda name: False)
    main(["doctor", "--verbose"])
    out = capsys.readouterr().out
    assert f"jpeg codec: {told}" in out
    assert "\nsimplejpeg " in out


@pytest.mark.usefixtures("fake_device")
def test_doctor_names_the_packages_that_bring_missing_libraries(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    library = SystemLibrary("libEGL.so.1", "libegl1")
    monkeypatch.setattr(installed, "missing_libraries", lambda: (library,))
    monkeypatch.setattr(installed, "version", lambda _: "1.0")
    main(["doctor", "--verbose"])
    out = capsys.readouterr().out
    assert re.search(r"libEGL\.so\.1 +missing +apt-get install libegl1", out)
    assert re.search(r"^installed: .*; apt-get install libegl1", out, re.MULTILINE)


@pytest.mark.parametrize(
    ("there", "missing", "instead", "cure"),
    [
        ({"onnxruntime"}, "onnxruntime-gpu", "onnxruntime", ""),
        ({"onnxruntime-gpu"}, "onnxruntime", "onnxruntime-gpu", ""),
        ({"ai-edge-litert"}, "mediapipe", "ai-edge-litert", ""),
        (
            {"opencv-contrib-python"},
            "opencv-python-headless",
            "opencv-contrib-python",
            "",
        ),
        (set(), "onnxruntime", "", "pip install 'hybrid-detect[centerface]'"),
        (set(), "onnxruntime-gpu", "", "pip install 'hybrid-detect[server-gpu]'"),
    ],
)
def test_what_would_break_or_double_what_is_there_is_no_cure(
    there: set[str],
    missing: str,
    instead: str,
    cure: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def version_of(name: str) -> str:
        if name in there or name == "hybrid-detect":
            return "1.0"
        raise PackageNotFoundError(name)

    monkeypatch.setattr(installed, "version", version_of)
    part = next(part for part in installed.installed() if part.name == missing)
    assert (part.version, part.instead, part.cure) == ("missing", instead, cure)
    line = installed.summary()
    assert line.startswith("hybrid-detect 1.0, Python ")
    assert "pip install 'httpx>=0.28'" in line
    command = re.search(r"pip install 'hybrid-detect\[([^]]*)\]'", line)
    assert command is not None
    brought = {name for extra in command[1].split(",") for name in PARTS[extra]} | there
    for name in brought.intersection(installed.INSTEAD):
        assert not brought.intersection(installed.INSTEAD[name])


@pytest.mark.parametrize(
    ("installed", "told"),
    [
        ({"ai_edge_litert", "mediapipe"}, "LiteRT, because it is installed"),
        ({"mediapipe"}, "MediaPipe, because LiteRT"),
        (set(), "no detection: .*pip install 'hybrid-detect\\[device-lite\\]'"),
    ],
)
def test_doctor_tells_what_runs_the_model_and_why(
    installed: set[str],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(
        "hybrid_detect.backends.device.runtimes.is_installed", installed.__contains__
    )
    monkeypatch.setenv("HYBRID_DETECT_MODE", "cloud")
    main(["doctor", "--endpoint", "http://127.0.0.1:9"])
    assert re.search(f"\non this device: {told}", capsys.readouterr().out)


def test_doctor_says_first_what_the_next_picture_would_get(
    capsys: pytest.CaptureFixture[str],
) -> None:
    main(["doctor"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("the next picture: auto: ")
    assert lines[1].startswith("backends: ")


@pytest.mark.usefixtures("fake_device")
def test_doctor_tells_the_same_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == ExitCode.DONE
    found = json.loads(capsys.readouterr().out)
    assert found["next_picture"]["backend"] == "streaming"
    assert found["runtime"]
    assert {backend["kind"] for backend in found["backends"]} == {"cloud", "streaming", "device"}
    assert {model["name"] for model in found["models"]} == set(MODELS)
    assert any(part["name"] == "httpx" for part in found["installed"])
    assert {each["provider"] for each in found["providers"]} >= {"custom_backend", "google", "aws"}


def test_doctor_fetches_no_model_and_remembers_no_key(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = tmp_path / "known.json"
    seen: list[Any] = []

    def create(kind: Any, config: Any) -> FakeBackend:
        seen.append(config)
        if config.known_keys_path is not None:
            config.known_keys_path.write_text("{}")  # as a server met for the first time does
        return FakeBackend(kind)

    monkeypatch.setattr("hybrid_detect.service.backend_factory.create_backend", create)
    monkeypatch.setenv("HYBRID_DETECT_TRUST_ON_FIRST_USE", "1")
    monkeypatch.setenv("HYBRID_DETECT_KNOWN_KEYS_PATH", str(known))
    main(["doctor", "--endpoint", "https://a.example"])
    capsys.readouterr()
    assert {config.model_fetch for config in seen} == {False}
    assert not known.exists()


AUDITED = """\
import os
import sys

events = []


def note(event, arguments):
    if event == "open":
        path, _, flags = arguments
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and not str(path).startswith("/dev/"):
            events.append(f"{event} {path}")
    elif event in ("os.mkdir", "os.rename", "os.remove", "os.link", "os.symlink", "os.truncate"):
        events.append(f"{event} {arguments}")
    elif event in ("socket.connect", "socket.bind") and isinstance(arguments[1], tuple):
        events.append(f"{event} {arguments[1][0]}:{arguments[1][1]}")
    elif event == "socket.getaddrinfo":
        events.append(f"{event} {arguments[0]}")


sys.addaudithook(note)
from hybrid_detect.cli import main

status = main(sys.argv[1:])
print("events:", sorted(set(events)))
sys.exit(status)
"""
"""Runs a command, and tells of what it wrote and whom it connected to."""


def audited(tmp_path: Path, *argv: str) -> tuple[str, list[str]]:
    """What a command printed in a process of its own, and what it wrote or connected to."""
    home = tmp_path / "home"
    home.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", AUDITED, *argv],
        env={
            **{name: value for name, value in os.environ.items() if "PROXY" not in name.upper()},
            "HOME": str(home),
            "TMPDIR": str(home),
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        cwd=home,
        capture_output=True,
        text=True,
        timeout=50,
    )
    told, _, events = done.stdout.partition("events: ")
    assert events, done.stderr
    assert list(home.rglob("*")) == []
    return told, ast.literal_eval(events)


def test_doctor_writes_nothing_and_connects_to_nothing(tmp_path: Path) -> None:
    told, events = audited(tmp_path, "doctor")
    assert told.startswith("the next picture: ")
    assert events == []


def test_doctor_asks_the_endpoint_alone_and_sends_no_picture(tmp_path: Path) -> None:
    asked: list[tuple[str, str, int]] = []

    class Server(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            asked.append((self.command, self.path, length))
            self.rfile.read(length)
            body = b'{"status": "ok", "model": "full_range", "version": "1"}'
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = answer  # noqa: N815 - names of the base class

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            port = server.server_port
            endpoint = ("--endpoint", f"http://127.0.0.1:{port}")
            told, events = audited(tmp_path, "doctor", "--mode", "cloud", *endpoint)
        finally:
            server.shutdown()
            thread.join()
    assert f"endpoint: http://127.0.0.1:{port}, which answers in " in told
    assert "trust: plain http, on this machine; no token is sent; encryption: " in told
    assert set(events) <= {f"socket.connect 127.0.0.1:{port}", "socket.getaddrinfo 127.0.0.1"}
    assert asked
    assert set(asked) == {("GET", "/v1/health", 0)}


@pytest.mark.device
def test_doctor_tells_of_a_model_that_a_service_would_fetch(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HYBRID_DETECT_MODEL_DIR", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert main(["doctor", "--mode", "on_device"]) == ExitCode.FAILED
    told = capsys.readouterr().out
    assert told.count("its model is not here yet; a service fetches it") == 2
    assert "switched off" not in told
    assert list(tmp_path.iterdir()) == []


def test_doctor_says_what_cannot_work(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--mode", "cloud"]) == 1
    assert "hybrid-detect: no endpoint is configured" in capsys.readouterr().err


def test_doctor_never_prints_the_token(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HYBRID_DETECT_AUTH_TOKEN", "s3cret")
    main(["doctor", "--mode", "cloud", "--endpoint", "http://127.0.0.1:9"])
    printed = capsys.readouterr()
    assert "cloud" in printed.out
    assert "s3cret" not in printed.out + printed.err


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--host", "0.0.0.0"], "set a token"),
        (["--port", "99999"], "port"),
        (["--detectors", "0"], "detectors"),
    ],
)
def test_serve_refuses_what_would_be_open_or_useless(
    argv: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("starlette")
    assert main(["serve", *argv]) == 1
    assert told in capsys.readouterr().err


def test_serve_without_its_extra_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "starlette", None)
    assert main(["serve"]) == 1
    assert capsys.readouterr().err.rstrip().endswith("pip install 'hybrid-detect[server]'")


def test_demo_without_a_photo_says_how_to_give_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("hybrid_detect.cli.demo.is_installed", lambda name: name != "skimage")
    assert main(["demo"]) == 2
    err = capsys.readouterr().err
    assert "hybrid-detect demo photo.jpg" in err
    assert "pip install scikit-image" in err


def test_demo_with_a_bad_photo_is_told_before_anything_is_started(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", str(tmp_path / "missing.jpg")]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "missing.jpg" in printed.err


def test_demo_that_cannot_write_its_picture_says_so_before_it_starts_anything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], photo: Path
) -> None:
    pytest.importorskip("starlette")
    assert main(["demo", str(photo), "--out", str(photo / "faces.png")]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("--out: cannot write the file: ")


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--model", "huge"], "model: expected one of short_range"),
        (["--model-path", "nowhere.tflite"], "cannot read nowhere.tflite"),
    ],
)
def test_serve_says_what_is_wrong_with_its_model_without_a_traceback(
    argv: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in ("starlette", "mediapipe"):
        pytest.importorskip(module)
    assert main(["serve", *argv]) == 1
    err = capsys.readouterr().err
    assert told in err
    assert "Traceback" not in err


def test_serve_without_a_runtime_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("starlette")
    monkeypatch.setattr("hybrid_detect.backends.device.runtimes.is_installed", lambda _: False)
    assert main(["serve"]) == 1
    err = capsys.readouterr().err
    assert err.rstrip().endswith("pip install 'hybrid-detect[device-lite]'")
    assert "Traceback" not in err


def test_every_command_says_in_80_columns_what_it_is_for_and_what_its_arguments_are(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for command in (
        *("demo", "detect", "stream", "watch", "serve", "costs", "report", "doctor"),
        *("bench memory", "bench policy", "bench backends"),
        *("keys generate", "keys show", "keys rotate"),
        *("api-keys add", "api-keys list", "api-keys revoke"),
        *("models list", "models pull", "models verify"),
    ):
        with pytest.raises(SystemExit):
            main([*command.split(), "--help"])
        told = capsys.readouterr().out
        purpose = told.split("\n\n")[1]
        assert purpose[0].isupper(), command
        assert purpose.endswith("."), command
        # argparse puts an option without help on a line of its own.
        assert not re.search(r"^  \S+( [A-Z|]+)?$\n(?!  {10,}\S)", told, re.MULTILINE), command
        assert max(map(len, told.splitlines())) <= 80, command


def test_doctor_knows_every_extra_that_users_install() -> None:
    text = (Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8")
    extras = tomllib.loads(text)["project"]["optional-dependencies"]
    assert set(PARTS) == set(extras) - {"all", "fuzz", "providers-test", "test"}


def test_a_table_is_aligned() -> None:
    assert table(("a", "bb"), [("ccc", 1), ("d", "long text")]) == (
        "a    bb\nccc  1\nd    long text"
    )


def test_the_reference_page_lists_every_exit_status() -> None:
    page = Path(__file__).parent.parent / "docs" / "reference" / "command-line.md"
    listed = re.findall(r"^\| (\d+) \|", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert [int(status) for status in listed] == sorted(ExitCode)


@pytest.mark.parametrize(
    ("line", "completion"),
    [
        ("hybrid-detect mod", "models"),
        ("hybrid-detect bench b", "backends"),
        ("hybrid-detect detect --mode prefer_c", "prefer_cloud"),
        ("hybrid-detect detect --js", "--json"),
    ],
)
def test_the_shell_is_given_completions(line: str, completion: str, tmp_path: Path) -> None:
    pytest.importorskip("argcomplete")
    told = tmp_path / "completions"
    done = subprocess.run(
        [sys.executable, "-c", "from hybrid_detect.cli import main; main()"],
        env={
            **os.environ,
            "_ARGCOMPLETE": "1",
            "_ARGCOMPLETE_SHELL": "bash",
            "_ARGCOMPLETE_STDOUT_FILENAME": str(told),
            "COMP_LINE": line,
            "COMP_POINT": str(len(line)),
        },
        capture_output=True,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    assert told.read_text().split("\013") == [f"{completion} "]


def test_the_command_that_is_installed_is_one_that_completes_itself() -> None:
    """argcomplete looks for its mark at the beginning of the module that the script imports."""
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text("utf-8"))[
        "project"
    ]
    module, _, function = project["scripts"]["hybrid-detect"].partition(":")
    found = importlib.util.find_spec(module)
    assert found is not None
    assert found.origin is not None
    assert "PYTHON_ARGCOMPLETE_OK" in Path(found.origin).read_text(encoding="utf-8")[:1024]
    assert callable(getattr(importlib.import_module(module), function))


INTERRUPTED = """
import runpy, signal, sys

place = sys.argv.pop(1)


class PressAt:
    def find_spec(self, name, path=None, target=None):
        if name == place:
            signal.raise_signal(signal.SIGINT)


sys.meta_path.insert(0, PressAt())
runpy.run_module("hybrid_detect", run_name="__main__")
"""
"""Runs a command, and has Ctrl-C come as a certain module is imported."""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has statuses of its own")
@pytest.mark.parametrize(
    ("place", "status"),
    [
        ("numpy", -signal.SIGINT),
        ("hybrid_detect.cli", -signal.SIGINT),
        ("hybrid_detect.backends.device.litert_detector", ExitCode.INTERRUPTED),
    ],
)
def test_ctrl_c_ends_a_command_without_a_traceback(place: str, status: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, place, "doctor"],
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert (done.returncode, done.stderr) == (status, "")


def test_commands_end_with_a_named_status() -> None:
    """A number would be on no list."""
    for module in Path(exit_codes.__file__).parent.glob("*.py"):
        tree = ast.parse(module.read_text(encoding="utf-8"))
        for function in (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)):
            if not function.name.startswith("run"):
                continue
            for each in (n for n in ast.walk(function) if isinstance(n, ast.Return)):
                assert not isinstance(each.value, ast.Constant), f"{module}:{each.lineno}"

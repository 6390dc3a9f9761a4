"""Every code block of README and docs runs."""

import argparse
import ast
import asyncio
import inspect
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from hybrid_detect.backends.base import Backend
from hybrid_detect.backends.device import model_registry, runtimes
from hybrid_detect.backends.device.models import load_model
from hybrid_detect.cli import serve
from hybrid_detect.cli.exit_codes import ExitCode
from hybrid_detect.config import ServiceConfig
from hybrid_detect.sync import HybridDetectionService
from hybrid_detect.types import BoundingBox

ROOT = Path(__file__).parent.parent
# What a tutorial shows runs in order, in test_tutorials.py.
PAGES = [
    ROOT / "README.md",
    *sorted(p for p in (ROOT / "docs").rglob("*.md") if p.parent.name != "tutorials"),
]
BLOCK = re.compile(r"(<!-- \w+ -->\n)?^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)

# README's two set-up commands run elsewhere: the tests' by .ci/run, the demo's by `nox -s demo`.
SET_UP = ("<!-- demo -->\n", "<!-- tests -->\n")
# Programs that open a window run on a display of their own, in test_examples.py.
WINDOW = "<!-- window -->\n"
# Programs that use MediaPipe itself run in a process that ends without MediaPipe's farewell.
MEDIAPIPE = "<!-- mediapipe -->\n"
# What a reader types before and after the command's name, where it is a server's.
SERVES = re.compile(r"(?:^|(?<= ))hybrid-detect (?=serve\b)")
# Servers that need what is not here: a collector, a cluster, a graphics processor, other addresses.
ELSEWHERE = re.compile(r"--(otlp|cluster|provider|host|metrics-host|metrics-port|jwt)")
HYBRID_DETECT = str(Path(sys.executable).parent / "hybrid-detect")


def blocks(language: str) -> Iterator[object]:
    for page in PAGES:
        found = list(BLOCK.finditer(page.read_text(encoding="utf-8")))
        elsewhere = (*SET_UP, WINDOW, MEDIAPIPE)
        codes = [m[3] for m in found if m[2] == language and m[1] not in elsewhere]
        for number, code in enumerate(codes, 1):
            yield pytest.param(code, id=f"{page.relative_to(ROOT)}-{number}")


@pytest.fixture
def photo(tmp_path, monkeypatch, astronaut):
    """A folder with the photo that the documentation speaks of, and with the modules it names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Image.fromarray(astronaut).save("photo.jpg")
    for block in blocks("python"):
        code = str(block.values[0])
        if named := re.match(r"# (\w+\.py)\n", code):
            Path(named.group(1)).write_text(code)


@pytest.fixture(autouse=True)
def tables_as_before():
    """What a page adds to the tables of models and runtimes ends with its test."""
    tables = (model_registry._models, runtimes._runtimes)
    before = [dict(table) for table in tables]
    yield
    for table, rows in zip(tables, before, strict=True):
        table.clear()
        table.update(rows)
    sys.modules.pop("my_models", None)


@pytest.fixture(autouse=True)
def unhurried(monkeypatch):
    """The pages' programs have the default deadline of a second, which a busy machine may miss."""
    defaults = {**ServiceConfig.__init__.__kwdefaults__, "deadline_s": 30.0}
    monkeypatch.setattr(ServiceConfig.__init__, "__kwdefaults__", defaults)
    monkeypatch.setenv("HYBRID_DETECT_DEADLINE_S", "30")
    alone = {**Backend.process_image.__kwdefaults__, "deadline_s": 30.0}
    monkeypatch.setattr(Backend.process_image, "__kwdefaults__", alone)


def filled_in(code: str, url: str) -> str:
    return (
        code.replace("https://faces.example.com", url)
        .replace('"faces.example.com"', '"127.0.0.1"')
        .replace("your-token", "test-token")
        # The nearest to a camera on a machine without one is OpenCV reading a file.
        .replace("cv2.VideoCapture(0)", "cv2.VideoCapture('photo.jpg')")
        .replace("start_detection(0,", "start_detection('photo.jpg',")
    )


@pytest.mark.parametrize("code", list(blocks("python")))
def test_python_block_runs(code, photo, server, capsys):
    run_block(code, server.url)


def run_block(code, url):
    compiled = compile(filled_in(code, url), "<block>", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    namespace = {"__name__": "documentation"}

    async def run() -> None:
        outcome = eval(compiled, namespace)  # noqa: S307 - our own documentation
        if inspect.isawaitable(outcome):
            await outcome

    if compiled.co_flags & inspect.CO_COROUTINE:
        asyncio.run(run())
    else:
        # The blocking facade is for code without an event loop, so it is run without one.
        eval(compiled, namespace)  # noqa: S307 - our own documentation


@pytest.mark.parametrize(
    ("page", "last"),
    [
        ("gdpr", "2 results are gone\n"),
        ("control-costs", "0.0015 of 5 USD this day\n"),
        ("encrypt", "1\n"),
    ],
)
def test_a_pages_python_blocks_run_one_after_the_other_in_one_folder(
    page, last, photo, server, capsys
):
    """They write to the same files."""
    for block in blocks("python"):
        if str(block.id).startswith(f"docs/how-to/{page}.md-"):
            run_block(block.values[0], server.url)
    assert last in capsys.readouterr().out


def mediapipe_programs() -> list[str]:
    found = BLOCK.findall((ROOT / "docs/how-to/migrate.md").read_text(encoding="utf-8"))
    return [code for marker, _, code in found if marker == MEDIAPIPE]


def test_what_is_migrated_from_mediapipe_finds_the_same_faces(photo):
    """The block before finds what the block after it does."""
    pytest.importorskip("mediapipe")
    Path("blaze_face_short_range.tflite").write_bytes(load_model("short_range"))
    (program,) = mediapipe_programs()
    # A detector that is closed or collected looks up play.googleapis.com.
    end = "import os, sys; sys.stdout.flush(); os._exit(0)"
    done = subprocess.run(
        [sys.executable, "-c", program + end], capture_output=True, text=True, timeout=50
    )
    assert done.returncode == 0, done.stderr
    (before,) = (line.split() for line in done.stdout.splitlines())
    config = ServiceConfig(mode="on_device", model="short_range")
    with HybridDetectionService(config=config) as service:
        (face,) = service.process_image("photo.jpg", deadline_s=30).faces
    x, y, width, height, score = map(float, before)
    assert face.box.iou(BoundingBox(x, y, x + width, y + height)) > 0.8
    assert face.score == pytest.approx(score, abs=0.1)


@pytest.mark.parametrize("name", ["door_camera.py", "test_door_camera.py"])
def test_the_suite_is_the_example(name):
    page = (ROOT / "docs/how-to/test.md").read_text(encoding="utf-8")
    (shown,) = re.findall(rf"^# {name}\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    assert shown == (ROOT / "examples/test_suite" / name).read_text(encoding="utf-8")


def test_the_smallest_client_is_the_example():
    page = (ROOT / "docs/how-to/migrate.md").read_text(encoding="utf-8")
    example = (ROOT / "examples/simple_backend_detection.py").read_text(encoding="utf-8")
    (shown,) = re.findall(r"^class SimpleBackendDetection.*?^```$", page, re.DOTALL | re.MULTILINE)
    assert shown.removesuffix("```") in example


def commands() -> Iterator[object]:
    for block in blocks("sh"):
        code = str(block.values[0])
        for number, line in enumerate(code.splitlines(), 1):
            if not line.startswith("pip install"):  # .ci/run and the demo install for real
                yield pytest.param(line, id=f"{block.id}.{number}")


@pytest.mark.parametrize("line", list(commands()))
def test_shell_command_runs(line, photo, server):
    if line.startswith("curl") and shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    if SERVES.search(line):
        # `nox -s hostile` starts it, which takes seconds.
        parser = argparse.ArgumentParser()
        serve.add_parser(parser.add_subparsers())
        parser.parse_args(shlex.split(SERVES.split(line)[-1], comments=True))
        return
    line = line.replace("http://127.0.0.1:8000", server.url)
    # The command is beside the interpreter, whether or not its environment is activated.
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    done = subprocess.run(
        ["bash", "-c", filled_in(line, server.url)],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def servers() -> Iterator[object]:
    """The pages' servers that need nothing but what the pages have made before."""
    seen = set()
    for command in commands():
        line = str(command.values[0])
        told = line.partition(" serve ")[2]
        if SERVES.search(line) and told not in seen and not ELSEWHERE.search(told):
            seen.add(told)
            yield command


@pytest.mark.hostile
@pytest.mark.parametrize("line", list(servers()))
def test_a_server_of_the_pages_comes_up(line, photo):
    for made in ("keys generate keys.json", "api-keys add Ann --file api-keys.json"):
        subprocess.run([HYBRID_DETECT, *made.split()], check=True, capture_output=True)
    variables, options = SERVES.split(line)
    environ = dict(each.split("=") for each in shlex.split(variables))
    options = [*shlex.split(options), "--port", "0", "--detectors", "1"]
    with subprocess.Popen(
        [HYBRID_DETECT, *options], env={**os.environ, **environ}, stdout=subprocess.PIPE, text=True
    ) as process:
        shown = iter(process.stdout.readline, "")
        assert any(told.startswith("listening on ") for told in shown)
        process.send_signal(signal.SIGINT)
    assert process.returncode == ExitCode.INTERRUPTED


def test_ci_runs_the_test_command_of_the_readme():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "<!-- tests -->" in script
    assert "<!-- tests -->\n```sh\n" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_each_change_s_note_has_the_name_that_the_changelog_is_made_from():
    kinds = "security|removed|deprecated|added|changed|fixed"
    names = {path.name for path in (ROOT / "changes").glob("*.md")} - {"README.md"}
    assert [name for name in names if not re.fullmatch(rf"\d+\.({kinds})\.md", name)] == []

"""Every code block of README and docs runs."""

import ast
import asyncio
import inspect
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from hybrid_detect.backends.device import model_registry, runtimes
from hybrid_detect.config import ServiceConfig

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"(<!-- \w+ -->\n)?^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)

# README's two set-up commands run elsewhere: the tests' by .ci/run, the demo's by `nox -s demo`.
SET_UP = ("<!-- demo -->\n", "<!-- tests -->\n")
# Programs that open a window run on a display of their own, in test_examples.py.
WINDOW = "<!-- window -->\n"


def blocks(language: str) -> Iterator[object]:
    for page in PAGES:
        found = list(BLOCK.finditer(page.read_text(encoding="utf-8")))
        elsewhere = (*SET_UP, WINDOW)
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


def filled_in(code: str, url: str) -> str:
    return (
        code.replace("https://faces.example.com", url)
        .replace("your-token", "test-token")
        # The nearest to a camera on a machine without one is OpenCV reading a file.
        .replace("cv2.VideoCapture(0)", "cv2.VideoCapture('photo.jpg')")
        .replace("start_detection(0,", "start_detection('photo.jpg',")
    )


@pytest.mark.parametrize("code", list(blocks("python")))
def test_python_block_runs(code, photo, server, capsys):
    compiled = compile(
        filled_in(code, server.url), "<block>", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    )
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
    if " serve " in line:
        pytest.skip("serving does not end by itself; tests/server/test_serving.py runs it")
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


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for link in re.findall(r"\]\(([^):]+)\)", page.read_text(encoding="utf-8")):
            target, _, anchor = link.partition("#")
            there = page.parent / target if target else page
            assert there.exists(), f"{page.name} links to {link}"
            if anchor:
                headings = re.findall(r"^#+ (.+)$", there.read_text(encoding="utf-8"), re.MULTILINE)
                anchors = {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings}
                assert anchor in anchors, f"{page.name} links to {link}"


def test_ci_runs_the_test_command_of_the_readme():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "<!-- tests -->" in script
    assert "<!-- tests -->\n```sh\n" in (ROOT / "README.md").read_text(encoding="utf-8")

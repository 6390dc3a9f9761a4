"""Each tutorial works from top to bottom, in one folder, as a reader follows it.

A marker says what the reader does with a block: ``serves`` starts a server in a second terminal
and waits for it; ``meanwhile`` starts a program, in place of the one before, and lets it run while
the reader goes on; ``interrupt`` presses Ctrl-C in the second terminal. A ``text`` block is what is
then to be seen: its last line up to " - ", where the frames' reasons begin, or to the first comma.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hybrid_detect.cli.exit_codes import ExitCode

from .waiting import wait_until

ROOT = Path(__file__).parent.parent
STEP = re.compile(r"(?:<!-- (\w+) -->\n)?^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LIMIT_S = 60


class Terminals:
    """A reader's two terminals, and the folder they are in."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._shown = folder / "shown.txt"
        self._shown.touch()
        self._seen = 0
        self._server: subprocess.Popen[bytes] | None = None
        self._program: subprocess.Popen[bytes] | None = None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
        self._environ = {**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1"}

    def save(self, block: str) -> None:
        name = re.match(r"# (\w+\.py)\n", block)
        assert name, f"where is a reader to save this?\n{block}"
        (self._folder / name[1]).write_text(block, encoding="utf-8")

    def run(self, line: str) -> None:
        assert self._start(line).wait(LIMIT_S) == 0, self._shown.read_text()

    def serve(self, line: str) -> None:
        # What a reader's server can do beyond this takes longer to start.
        self._server = self._start(f"{line} --port {self._port} --model full_range --detectors 1")
        self.see("listening on ")

    def go_on_with(self, line: str) -> None:
        self._interrupt(self._program)
        self._seen = self._shown.stat().st_size
        self._program = self._start(line.replace(":8000", f":{self._port}"))

    def stop_server(self) -> None:
        assert self._interrupt(self._server) == ExitCode.INTERRUPTED, self._shown.read_text()

    def see(self, text: str) -> None:
        """Waits until `text` is shown after what was seen before."""

        def place() -> int:
            return self._shown.read_text().find(text, self._seen) + 1

        try:
            self._seen = wait_until(place, limit_s=LIMIT_S)
        except AssertionError:
            pytest.fail(f"{text!r} is not shown:\n{self._shown.read_text()}")

    def close(self) -> None:
        self._interrupt(self._program)
        self._interrupt(self._server)

    def _start(self, line: str) -> subprocess.Popen[bytes]:
        with self._shown.open("ab") as shown:
            return subprocess.Popen(
                line.split(), cwd=self._folder, env=self._environ, stdout=shown, stderr=shown
            )

    def _interrupt(self, process: subprocess.Popen[bytes] | None) -> int | None:
        if process is None:
            return None
        process.send_signal(signal.SIGINT)
        return process.wait(LIMIT_S)


@pytest.fixture
def terminals(tmp_path: Path, server: object) -> Iterator[Terminals]:
    """With `server`, which skips the test where none can be had."""
    terminals = Terminals(tmp_path)
    yield terminals
    terminals.close()


@pytest.mark.server
@pytest.mark.timeout(4 * LIMIT_S)
@pytest.mark.parametrize(
    "page", sorted((ROOT / "docs/tutorials").glob("*.md")), ids=lambda p: p.stem
)
def test_a_tutorial_works_from_top_to_bottom(page: Path, terminals: Terminals) -> None:
    for marker, language, block in STEP.findall(page.read_text(encoding="utf-8")):
        lines = [line for line in block.splitlines() if not line.startswith(". venv/")]
        if language == "python":
            terminals.save(block)
        elif marker == "install":
            continue  # `nox -s release` installs the wheel
        elif marker == "serves":
            terminals.serve(*lines)
        elif marker == "meanwhile":
            terminals.go_on_with(*lines)
        elif language == "sh":
            for line in lines:
                terminals.run(line)
        else:
            if marker == "interrupt":
                terminals.stop_server()
            terminals.see(re.split(" - |, ", lines[-1])[0])

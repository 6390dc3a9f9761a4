"""Whatever a program does, it ends: with a service left open, a stream half read, a camera stuck.

Each case is a program of its own. The limit is far above the second it should take, because the
machine may be busy; a program that hangs meets it all the same.
"""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from hybrid_detect.extras import is_installed

from ..waiting import wait_until

LIMIT_S = 30.0

HEAD = """
import os, signal, sys, threading, time
from pathlib import Path
import numpy as np
from hybrid_detect import sync
from hybrid_detect.testing import FakeBackend

IMAGE = np.zeros((48, 64, 3), np.uint8)

class Camera:
    reads = 0

    def read(self):
        self.reads += 1
        if self.reads > 3 and STUCK:
            time.sleep(3600)
        return True, IMAGE

def make():
    if DEVICE:
        return sync.HybridDetectionService(mode="on_device")
    return sync.HybridDetectionService(backends=[FakeBackend("device")])

def use(service):
    if not HALF_READ:
        return service.process_image(IMAGE, deadline_s=20)
    results = service.start_detection(Camera(), max_fps=None)
    next(results)
    return results

def tell():
    children = f"/proc/self/task/{threading.main_thread().native_id}/children"
    print("ready", Path(children).read_text(), flush=True)
"""

ENDS = {
    "global": ("service = make(); service.open(); kept = use(service); tell()", 0),
    "with": ("with make() as service: kept = use(service); tell()", 0),
    "dropped": ("service = make(); service.open(); kept = use(service); tell(); del service", 0),
    "raise": ("service = make(); service.open(); kept = use(service); tell(); 1 / 0", 1),
    "raise in with": ("with make() as service: kept = use(service); tell(); 1 / 0", 1),
    "sys.exit": ("service = make(); service.open(); kept = use(service); tell(); sys.exit(7)", 7),
    "os._exit": ("service = make(); service.open(); kept = use(service); tell(); os._exit(8)", 8),
    "SIGTERM": (
        "service = make(); service.open(); kept = use(service); tell(); time.sleep(3600)",
        -signal.SIGTERM,
    ),
    "SIGTERM that exits": (
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(9)); service = make(); service.open();"
        " kept = use(service); tell(); time.sleep(3600)",
        9,
    ),
    "daemon thread": (
        """
service = make()
service.open()
kept = use(service)
threading.Thread(target=lambda: [use(service) for _ in iter(int, 1)], daemon=True).start()
time.sleep(0.1)
tell()
""",
        0,
    ),
    "daemon thread that waits": (
        """
service = make()
service.open()
def wait():
    for _ in service.start_detection(Camera(), max_fps=None, silence_s=None):
        pass
threading.Thread(target=wait, daemon=True).start()
time.sleep(0.2)
tell()
""",
        0,
    ),
}
"""How a program ends, and the status that it ends with."""


IN_THREAD = ("ClosedError", "AllBackendsFailedError")
EXPECTED = {
    "raise": ("ZeroDivisionError",),
    "raise in with": ("ZeroDivisionError",),
    "daemon thread": IN_THREAD,
    "daemon thread that waits": IN_THREAD,
}
"""What a program or its own threads may be told in a traceback; the library itself prints none."""


def is_expected(error: str, ending: str) -> bool:
    """Whether a traceback is one that the app's own code prints at this ending.

    A daemon thread's is cut off in its midst if the program ends first: no line of it names an
    error then, and the last one is a part of the stack.
    """
    if EXPECTED.get(ending) == IN_THREAD:
        last = error.rstrip("\n").rpartition("\n")[2]
        if error.startswith("Exception in thread Thread-") and last.startswith("  "):
            return True
    return any(name in error for name in EXPECTED.get(ending, ()))


def run(ending: str, *, half_read: bool, stuck: bool, device: bool) -> None:
    """Run a program that ends so, and see that it does and leaves no child."""
    code, status = ENDS[ending]
    head = f"HALF_READ, STUCK, DEVICE = {half_read}, {stuck}, {device}\n{HEAD}"
    program = subprocess.Popen(
        [sys.executable, "-c", head + textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert program.stdout is not None
        line = program.stdout.readline().split()
        if not line:
            pytest.fail(program.communicate(timeout=LIMIT_S)[1])
        if ending.startswith("SIGTERM"):
            program.terminate()
        began_s = time.monotonic()
        _, error = program.communicate(timeout=LIMIT_S)
        assert time.monotonic() - began_s < LIMIT_S
        assert program.returncode == status, error
        if "Traceback" in error:
            assert is_expected(error, ending), error
        for child in map(int, line[1:]):
            wait_until(lambda child=child: not Path(f"/proc/{child}").exists())
    finally:
        program.kill()
        program.wait()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("ending", ["global", "sys.exit", "raise", "SIGTERM that exits"])
def test_a_program_ends_with_a_stream_of_a_stuck_camera_half_read(ending: str) -> None:
    run(ending, half_read=True, stuck=True, device=False)


@pytest.mark.device
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_program_ends_and_its_detector_with_it() -> None:
    if not is_installed("mediapipe"):
        pytest.skip("mediapipe is not installed")
    run("global", half_read=False, stuck=False, device=True)


@pytest.mark.hostile
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("device", [False, True], ids=["fake", "device"])
@pytest.mark.parametrize("stream", ["fresh", "half read", "stuck"])
@pytest.mark.parametrize("ending", ENDS)
def test_every_program_ends(ending: str, stream: str, device: bool) -> None:
    if device and not is_installed("mediapipe"):
        pytest.skip("mediapipe is not installed")
    run(ending, half_read=stream != "fresh", stuck=stream == "stuck", device=device)


LOOPS = {
    "stream": "for result in service.start_detection(Camera(), max_fps=None): note(result)",
    "stuck camera": """
STUCK = True
for result in service.start_detection(Camera(), max_fps=None, silence_s=None): note(result)
""",
    "images": "for result in service.process_images(IMAGE for _ in iter(int, 1)): note(result)",
    "single images": "while True: note(service.process_image(IMAGE, deadline_s=20))",
    "own code": """
for result in service.start_detection(Camera(), max_fps=None):
    note(result)
    time.sleep(3600)
""",
}
"""What a program loops over when Ctrl-C comes."""

TOLD_BEFORE = ("Executing ", "a source did not return from a read")
"""What asyncio's debug mode tells of slow steps on a busy machine, and we of a camera's thread."""

LOOPING = """
told = []

def note(result):
    assert result.answered, result
    if not told:
        tell()
    told.append(result)

def run(service):
    global STUCK
BODY

if IN_BLOCK:
    with make() as service:
        run(service)
else:
    service = make()
    service.open()
    run(service)
"""


def interrupt(loop: str, *, in_block: bool, device: bool) -> None:
    """Press Ctrl-C in a program, as a terminal does, and see that it says so once."""
    head = f"IN_BLOCK, HALF_READ, STUCK, DEVICE = {in_block}, True, False, {device}\n{HEAD}"
    body = textwrap.indent(textwrap.dedent(LOOPS[loop]), "    ")
    # A shell has its background jobs, and so a test run among them, ignore it.
    heeded = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    program = subprocess.Popen(
        [sys.executable, "-X", "dev", "-c", heeded + head + LOOPING.replace("BODY", body)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert program.stdout is not None
        line = program.stdout.readline().split()
        if not line:
            pytest.fail(program.communicate(timeout=LIMIT_S)[1])
        os.killpg(program.pid, signal.SIGINT)
        _, error = program.communicate(timeout=LIMIT_S)
        assert program.returncode == -signal.SIGINT, error
        lines = [text for text in error.splitlines() if not text.startswith(TOLD_BEFORE)]
        assert lines[0] == "Traceback (most recent call last):", error
        assert lines[-1] == "KeyboardInterrupt", error
        assert error.count("Traceback") == 1, error
        assert not {"never", "ignored"} & set(error.split()), error
        for child in map(int, line[1:]):
            wait_until(lambda child=child: not Path(f"/proc/{child}").exists())
    finally:
        program.kill()
        program.wait()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("in_block", [True, False], ids=["in a block", "left open"])
@pytest.mark.parametrize("loop", LOOPS)
def test_ctrl_c_ends_a_program_with_one_traceback(loop: str, in_block: bool) -> None:
    interrupt(loop, in_block=in_block, device=False)


@pytest.mark.device
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("loop", ["stream", "single images"])
def test_ctrl_c_ends_a_program_and_its_detector(loop: str) -> None:
    """The detector's process gets it from the terminal, too."""
    if not is_installed("mediapipe"):
        pytest.skip("mediapipe is not installed")
    interrupt(loop, in_block=True, device=True)


FORKS = """
service = make()
service.open()
use(service)
service.status()
for number in range(COUNT):
    pid = os.fork()
    if not pid:
        signal.alarm(20)
        if number % 4 == 0:
            os._exit(0)
        stream = service.start_detection([IMAGE])
        for call in (lambda: use(service), service.status, lambda: next(stream)):
            try:
                call()
            except Exception as error:
                assert "made before the process forked" in str(error), error
                assert type(error).__name__ == "ClosedError", error
            else:
                os._exit(5)
        if number % 4 == 1:
            service.close()
        if number % 4 == 2:
            with sync.HybridDetectionService(backends=[FakeBackend("device")]) as own:
                own.process_image(IMAGE, deadline_s=20)
        sys.exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
use(service)
print("done")
"""


def fork(count: int, *, device: bool) -> None:
    head = f"COUNT = {count}\nHALF_READ, STUCK, DEVICE = False, False, {device}\n{HEAD}"
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", head + FORKS],
        capture_output=True,
        text=True,
        timeout=10 * LIMIT_S,
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


def test_a_stream_left_half_read_in_a_loop_that_ends_is_quiet() -> None:
    program = """
import asyncio
import numpy as np
from hybrid_detect import HybridDetectionService
from hybrid_detect.testing import FakeBackend

async def images():
    while True:
        yield np.zeros((8, 8, 3), np.uint8)

def blocking():
    while True:
        yield np.zeros((8, 8, 3), np.uint8)

async def main():
    async with HybridDetectionService(backends=[FakeBackend("device")]) as service:
        for source in (images(), blocking()):
            results = service.start_detection(source, max_fps=None)
            await anext(results)
            kept.append(results)

kept = []
asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_child_is_told_at_once_and_ends() -> None:
    fork(4, device=False)


@pytest.mark.hostile
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.parametrize("device", [False, True], ids=["fake", "device"])
def test_two_hundred_children_end(device: bool) -> None:
    if device and not is_installed("mediapipe"):
        pytest.skip("mediapipe is not installed")
    fork(200, device=device)

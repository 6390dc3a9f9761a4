"""The detector's thread: order, errors, and that it keeps no app from ending."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import textwrap
import threading
import weakref
from pathlib import Path

import psutil
import pytest

from hybrid_detect.backends.device.detector_thread import DetectorThread

from ...waiting import LIMIT_S, wait_until
from . import stand_in

NAME = "hybrid-detect-test"


def ours() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == NAME]


def test_calls_are_made_one_after_the_other_in_one_thread() -> None:
    thread = DetectorThread(NAME)
    seen: list[int] = []
    answers = [thread.submit(seen.append, number) for number in range(100)]
    names = thread.submit(lambda: threading.current_thread().name)
    assert names.result(LIMIT_S) == NAME
    assert all(answer.done() for answer in answers)
    assert seen == list(range(100))
    thread.end(timeout_s=LIMIT_S)
    assert not ours()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, StopIteration, SystemExit])
def test_an_error_is_the_caller_s_and_ends_no_thread(error: type[BaseException]) -> None:
    def fail() -> None:
        raise error

    thread = DetectorThread(NAME)
    with pytest.raises(error):
        thread.submit(fail).result(LIMIT_S)
    assert thread.submit(lambda: 7).result(LIMIT_S) == 7
    thread.end(timeout_s=LIMIT_S)


def test_a_call_that_was_cancelled_in_time_is_not_made() -> None:
    thread = DetectorThread(NAME)
    go = threading.Event()
    thread.submit(go.wait, LIMIT_S)
    answer = thread.submit(lambda: pytest.fail("it was made"))
    assert answer.cancel()
    go.set()
    thread.end(timeout_s=LIMIT_S)


def test_it_ends_when_it_is_garbage_and_keeps_nothing_alive() -> None:
    class Picture:
        pass

    picture = Picture()
    is_alive = weakref.ref(picture)
    thread = DetectorThread(NAME)
    thread.submit(lambda seen: seen, picture).result(LIMIT_S)
    del picture
    wait_until(lambda: gc.collect() >= 0 and is_alive() is None)
    del thread
    wait_until(lambda: gc.collect() >= 0 and not ours())


ENDING = """
    import asyncio, io, os, signal, sys
    import numpy as np
    from PIL import Image
    from hybrid_detect.backends.device import on_device, runtimes, worker_process

    worker_process.ANSWER_LIMIT_S = 10**6
    runtimes.is_installed = "mediapipe".__eq__
    on_device.load_model = lambda *_, **__: b"dear pictures"

    async def main():
        service = on_device.OnDeviceDetectionService()
        await service.check(deadline_s=60)
        worker = service._engine._worker.detector
        if sys.argv[2] == "stopped":
            os.kill(worker.pid, signal.SIGSTOP)
            image = np.zeros((4, 4, 3), np.uint8)
        else:
            out = io.BytesIO()
            Image.new("RGB", ({dear}, 4)).save(out, "PNG")
            image = out.getvalue()
        asyncio.ensure_future(service.process_image(image, deadline_s=10**6))
        while worker.asked_since_s is None:
            await asyncio.sleep(0.001)
        print(worker.pid, flush=True)
        if sys.argv[1] == "raise":
            raise RuntimeError("the app failed")
        if sys.argv[1] == "exit":
            sys.exit(3)
        if sys.argv[1] == "terminated":
            os.kill(os.getpid(), signal.SIGTERM)

    asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="tests speak in signals")
@pytest.mark.parametrize(
    ("how", "code"), [("return", 0), ("raise", 1), ("exit", 3), ("terminated", -15)]
)
@pytest.mark.parametrize("hang", ["stopped", "decoding"])
def test_an_app_ends_though_its_detector_hangs_and_was_not_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, code: int, hang: str
) -> None:
    """It used to wait for the 30 s that an answer may take at most."""
    stand_in.install(tmp_path, monkeypatch)
    script = textwrap.dedent(ENDING.replace("{dear}", str(stand_in.DEAR_SIDE_PX)))
    done = subprocess.run(
        [sys.executable, "-c", script, how, hang],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        env=dict(os.environ),
    )
    assert done.returncode == code, done.stderr
    pid = int(done.stdout)
    wait_until(lambda: not psutil.pid_exists(pid) or is_zombie(pid))


def is_zombie(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True

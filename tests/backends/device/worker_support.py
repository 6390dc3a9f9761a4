"""What the tests of the detector's process share: pictures, answers, and what is left behind."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from hybrid_detect.backends.device.worker import DetectorWorker

from ...waiting import wait_until
from .stand_in import FINE

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def picture(how: int = FINE, width: int = 40, height: int = 30) -> np.ndarray:
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[0, 0, 0] = how
    pixels[-1, -1, -1] = 51
    return pixels


def answers(worker: DetectorWorker, width: int = 40) -> bool:
    (face,) = worker.detect(picture(width=width))
    return face.box.width == width and face.score == 0.2


def children() -> list[psutil.Process]:
    return [c for c in psutil.Process().children() if "worker_child" in " ".join(cmdline(c))]


def cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def assert_no_process_of_ours() -> None:
    wait_until(lambda: not children())


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def repeat(times: int, call: Callable[[], Any]) -> None:
    for _ in range(times):
        call()


def pid_of(worker: DetectorWorker) -> int:
    assert worker.pid is not None
    return worker.pid


TINY_SITE = """
import sys, types

def main(options):
    import os
    from struct import pack
    os.write(1, options["word"].encode() + pack("<II", 1, 10) + b'["x",[],0]')
    while os.read(0, 24):
        os.write(1, {reply})
    os._exit(0)

for name in (
    "hybrid_detect",
    "hybrid_detect.backends",
    "hybrid_detect.backends.device",
    "hybrid_detect.backends.device.worker_child",
):
    sys.modules[name] = types.ModuleType(name)
sys.modules["hybrid_detect.backends.device.worker_child"].main = main
"""
"""A child that starts in 20 ms, for what it leaves behind in its parent is the same."""

ONE_FACE = 'pack("<IIIId18d", 2, 16 + 18 * 8, 40, 30, 0.001, 0, 0, 40, 1, 0.2, 0, *[0.0] * 12)'


def left_behind() -> dict[str, Any]:
    gc.collect()
    maps = Path("/proc/self/maps").read_text(encoding="utf-8")
    return {
        "processes": len(children()),
        "fds": len(os.listdir("/proc/self/fd")),
        "shm": [name for name in os.listdir("/dev/shm") if "hybrid" in name],  # noqa: S108
        "slots": maps.count("memfd:hybrid-detect"),
        "threads": threading.active_count(),
    }


def python(script: str, *, quiet: bool = True) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    assert not (quiet and done.stderr)
    return done.stdout

"""What the detector's process inherits, and what it leaves behind."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

from hybrid_detect.backends.device.shared_slot import CAPACITY
from hybrid_detect.backends.device.worker import DetectorWorker
from hybrid_detect.errors import BackendUnavailableError

from ...waiting import LIMIT_S, wait_until
from .stand_in import (
    FINE,
    HANG,
    OPEN,
    install,
)
from .worker_support import (
    ONE_FACE,
    TINY_SITE,
    answers,
    is_gone,
    left_behind,
    linux,
    picture,
    pid_of,
)

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="tests speak in signals")


@linux
def test_hundred_kills_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, site=TINY_SITE.replace("{reply}", ONE_FACE))
    worker = DetectorWorker(lambda: b"model")
    assert answers(worker)
    worker.stop()
    gc.collect()
    before = left_behind()
    for number in range(100):
        worker.start()
        os.kill(pid_of(worker), (signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT)[number % 3])
        with pytest.raises(BackendUnavailableError):
            worker.detect(picture())
        worker._process.pauses._start_after_s = float("-inf")
    assert worker.restarts == 100
    assert left_behind() == before
    assert answers(worker)
    worker.close()


@linux
def test_stop_gives_the_pictures_memory_back(worker: DetectorWorker) -> None:
    assert answers(worker, 4000)
    maps = Path("/proc/self/maps")
    assert "memfd:hybrid-detect" in maps.read_text(encoding="utf-8")
    worker.stop()
    assert "memfd:hybrid-detect" not in maps.read_text(encoding="utf-8")


def test_pixels_above_4k_are_shrunk_into_the_memory_there_is(worker: DetectorWorker) -> None:
    assert answers(worker)
    pid = pid_of(worker)
    large = np.full((4320, 7680, 3), 51, np.uint8)
    large[:8, :8] = FINE
    assert large.nbytes > CAPACITY
    (face,) = worker.detect(large)
    assert face.box.xyxy == (0, 0, 7680, 4320)
    assert face.score == 0.2
    assert answers(worker)
    assert worker.pid == pid


@linux
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "hanging"])
def test_one_that_is_let_go_of_unclosed_leaves_nothing(stand_in: None, busy: bool) -> None:
    before = left_behind()
    worker = DetectorWorker(lambda: b"model")
    worker.start()
    pid = pid_of(worker)
    if busy:
        os.kill(pid, signal.SIGSTOP)
    del worker
    gc.collect()
    assert is_gone(pid)
    assert left_behind() == before


PARENT = f"""
    import os, sys, threading, time
    import numpy as np
    from hybrid_detect.backends.device.worker import DetectorWorker
    worker = DetectorWorker(lambda: b"model")
    worker.start()
    print(worker.pid, flush=True)
    if sys.argv[1] == "busy":
        picture = np.full((4, 4, 3), {HANG}, np.uint8)
        threading.Thread(target=worker.detect, args=(picture,), daemon=True).start()
    if sys.argv[1] == "exits":
        sys.exit()
    time.sleep(60)
"""


@pytest.mark.parametrize("how", ["idle", "busy", "exits"])
def test_it_ends_with_its_parent(stand_in: None, how: str) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PARENT), how], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    with parent.stdout:
        pid = int(parent.stdout.readline())
        if how != "exits":
            time.sleep(0.2 if how == "busy" else 0)
            parent.kill()
        parent.wait(LIMIT_S)
    wait_until(lambda: is_gone(pid))


def test_forked_child_is_refused(worker: DetectorWorker) -> None:
    worker.start()
    pid = pid_of(worker)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer Pythons warn of forking with threads
        child = os.fork()
    if child == 0:
        refused = 0
        for call in (worker.start, worker.ping, lambda: worker.detect(picture())):
            try:
                call()
            except BackendUnavailableError:
                refused += 1
        worker.kill()
        worker.stop()
        worker.close()
        os._exit(refused)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 3
    assert answers(worker)
    assert worker.pid == pid, "the child ended nothing that was not its own"


@linux
def test_it_inherits_nothing_else(worker: DetectorWorker, tmp_path: Path) -> None:
    with open(tmp_path / "secret", "w") as secret:
        os.set_inheritable(secret.fileno(), True)
        worker.start()
    folder = Path(f"/proc/{worker.pid}/fd")
    kinds = sorted(os.readlink(fd).partition(":")[0] for fd in folder.iterdir())
    assert kinds == ["/dev/null", "/dev/null", "/memfd", "/memfd", "pipe", "pipe"]


@linux
def test_it_can_open_neither_file_nor_socket(worker: DetectorWorker) -> None:
    assert worker.detect(picture(OPEN))
    limits = Path(f"/proc/{worker.pid}/limits").read_text(encoding="ascii")
    files = next(line for line in limits.splitlines() if line.startswith("Max open files"))
    assert files.split()[3:5] == ["0", "0"]
    adjusted = Path(f"/proc/{worker.pid}/oom_score_adj").read_text(encoding="ascii")
    assert adjusted.strip() == "1000", "the kernel takes it before the app"


@linux
def test_proxies_lead_nowhere(worker: DetectorWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("no_proxy", "*")
    worker.start()
    lines = Path(f"/proc/{worker.pid}/environ").read_text(encoding="utf-8").split("\0")
    environment = dict(line.split("=", 1) for line in lines if line)
    assert environment["HTTPS_PROXY"] == environment["all_proxy"] == "http://127.0.0.1:9"
    assert "no_proxy" not in environment


@linux
def test_full_dev_shm_does_not_matter(stand_in: None) -> None:
    if shutil.which("unshare") is None:
        pytest.skip("unshare (util-linux) is not installed")
    script = """
        import numpy as np
        from hybrid_detect.backends.device.worker import DetectorWorker
        open("/dev/shm/filler", "wb").close()
        try:
            open("/dev/shm/filler", "wb").write(bytes(100_000))
        except OSError as error:
            print(error.errno)
        worker = DetectorWorker(lambda: b"model")
        print(len(worker.detect(np.zeros((720, 1280, 3), np.uint8))))
        worker.close()
    """
    inside = 'mount -t tmpfs -o size=4k tmpfs /dev/shm && exec "$0" -c "$1"'
    command = ["unshare", "-rm", "sh", "-c", inside, sys.executable, textwrap.dedent(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip(f"no mount namespace to be had: {done.stderr.strip()}")
    assert done.stdout.split() == ["28", "1"], done.stderr


def test_odd_entries_on_the_path_are_left_out(
    worker: DetectorWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, Path("/some/where"), "/not\udcff/decodable"])
    assert answers(worker)

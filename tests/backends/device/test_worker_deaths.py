"""The detector's process dies, hangs or grows: each costs one picture."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hybrid_detect.backends.device import worker as worker_module
from hybrid_detect.backends.device import worker_process
from hybrid_detect.backends.device.worker import DetectorWorker
from hybrid_detect.backends.device.worker_messages import FAILED
from hybrid_detect.errors import (
    BackendUnavailableError,
    ClosedError,
)
from hybrid_detect.types import BackendKind

from ...waiting import LIMIT_S, wait_until
from .stand_in import (
    ABORT,
    BREAK,
    EXIT,
    FINE,
    HANG,
    LEAK,
    SEGFAULT,
    install,
)
from .worker_support import (
    ONE_FACE,
    TINY_SITE,
    answers,
    assert_no_process_of_ours,
    is_gone,
    linux,
    picture,
    pid_of,
    python,
    repeat,
)

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="tests speak in signals")


@pytest.mark.parametrize(
    ("how", "says"),
    [
        (SEGFAULT, "signal 11"),
        (ABORT, "signal 6"),
        (EXIT, "status 7"),
        (BREAK, "status 1"),
    ],
    ids=["segfault", "abort", "exit", "bug"],
)
def test_death_while_detecting_costs_one_picture(
    worker: DetectorWorker, how: int, says: str
) -> None:
    assert answers(worker)
    with pytest.raises(BackendUnavailableError, match=rf"process died \({says}\)") as caught:
        worker.detect(picture(how))
    assert caught.value.retryable
    assert caught.value.backend is BackendKind.DEVICE
    assert worker.pid is None
    assert answers(worker), "the first restart is immediate"
    assert worker.restarts == 1


def test_death_between_two_pictures_costs_the_next(worker: DetectorWorker) -> None:
    worker.start()
    os.kill(pid_of(worker), signal.SIGKILL)
    wait_until(lambda: is_gone(pid_of(worker)))
    with pytest.raises(BackendUnavailableError, match="signal 9"):
        worker.detect(picture())
    assert answers(worker)
    os.kill(pid_of(worker), signal.SIGKILL)
    with pytest.raises(BackendUnavailableError, match="signal 9"):
        worker.ping()
    worker.ping()
    assert answers(worker)


@pytest.mark.parametrize("stopped", [False, True], ids=["busy", "SIGSTOP"])
def test_hanging_process_is_killed_from_another_thread(
    worker: DetectorWorker, stopped: bool
) -> None:
    worker.start()
    if stopped:
        os.kill(pid_of(worker), signal.SIGSTOP)
    killer = threading.Timer(0.1, worker.kill)
    killer.start()
    with pytest.raises(BackendUnavailableError, match="signal 9"):
        worker.detect(picture(FINE if stopped else HANG))
    killer.join()
    assert answers(worker)


def test_hang_that_nobody_ends_ends_by_itself(
    worker: DetectorWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker.start()
    os.kill(pid_of(worker), signal.SIGSTOP)
    with monkeypatch.context() as soon:
        soon.setattr(worker_process, "ANSWER_LIMIT_S", 0.2)
        with pytest.raises(
            BackendUnavailableError, match=r"gave no answer within 0\.2 s and was ended"
        ):
            worker.detect(picture())
    assert answers(worker)


def test_what_the_process_owes_is_known(worker: DetectorWorker) -> None:
    worker.start()
    assert worker.asked_since_s is None
    with ThreadPoolExecutor(1) as threads:
        before_s = time.monotonic()
        hanging = threads.submit(worker.detect, picture(HANG))
        wait_until(lambda: worker.asked_since_s is not None)
        assert worker.asked_since_s is not None
        assert before_s <= worker.asked_since_s <= time.monotonic()
        worker.kill()
        with pytest.raises(BackendUnavailableError):
            hanging.result(LIMIT_S)
    assert worker.asked_since_s is None


def test_an_app_that_sigpipe_would_end_outlives_the_process(stand_in: None) -> None:
    script = """
        import os, signal, time
        import numpy as np
        from hybrid_detect.backends.device.worker import DetectorWorker
        from hybrid_detect.errors import BackendUnavailableError
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        worker = DetectorWorker(lambda: b"model")
        for _ in range(3):
            worker.start()
            os.kill(worker.pid, signal.SIGKILL)
            while open(f"/proc/{worker.pid}/stat").read().split()[2] != "Z":
                time.sleep(0.001)
            try:
                worker.detect(np.zeros((4, 4, 3), np.uint8))
            except BackendUnavailableError as error:
                print(error.retryable)
            worker._process.pauses._start_after_s = 0.0
        worker.close()
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        print(signal.SIGPIPE in blocked, signal.SIGPIPE in signal.sigpending())
    """
    if sys.platform != "linux":
        pytest.skip("reads /proc")
    assert python(script).split() == ["True"] * 3 + ["False", "False"]


@pytest.mark.parametrize(
    "reply",
    [
        'pack("<II", 2, 2**32 - 1) + b"x" * 100',
        'pack("<II", 2, 7) + b"x" * 7',
        'pack("<IIIId18d", 2, 16 + 18 * 8, 40, 30, 0.001, 0, 0, -40, 1, 0.2, 0, *[0.0] * 12)',
        'pack("<IIIId18d", 2, 16 + 18 * 8, 40, 30, 0.001, *[float("nan")] * 18)',
        'pack("<IIIId18d", 2, 16 + 18 * 8, 40, 30, 0, 0, 0, 4, 1, 0.2, float("inf"), *[0.0] * 12)',
        'b"x" * 16',
    ],
    ids=["endless", "no faces", "inside out", "no numbers", "endless face", "no reply"],
)
def test_what_is_no_answer_costs_one_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reply: str
) -> None:
    odd = f"{reply} if options.setdefault('asked', 0) == 0 else {ONE_FACE}"
    install(tmp_path, monkeypatch, site=TINY_SITE.replace("{reply}", odd))
    worker = DetectorWorker(lambda: b"model")
    with pytest.raises(BackendUnavailableError) as caught:
        worker.detect(picture())
    assert caught.value.retryable
    assert worker.pid is None
    (tmp_path / "sitecustomize.py").write_text(
        TINY_SITE.replace("{reply}", ONE_FACE), encoding="utf-8"
    )
    assert answers(worker)
    worker.close()
    assert_no_process_of_ours()


def test_stop_does_not_wait_for_a_stuck_process(
    worker: DetectorWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_process, "STOP_TIMEOUT_S", 0.05)
    worker.start()
    pid = pid_of(worker)
    os.kill(pid, signal.SIGSTOP)
    worker.stop()
    assert is_gone(pid)


def test_close_from_another_thread_waits_for_the_picture(worker: DetectorWorker) -> None:
    worker.start()
    with ThreadPoolExecutor(2) as threads:
        hanging = threads.submit(worker.detect, picture(HANG))
        time.sleep(0.1)
        closing = threads.submit(worker.close)
        time.sleep(0.1)
        assert not closing.done()
        worker.kill()
        closing.result(LIMIT_S)
        with pytest.raises(BackendUnavailableError, match="signal 9"):
            hanging.result(LIMIT_S)
    assert worker.pid is None


def test_storm_of_closing_threads(stand_in: None) -> None:
    for _ in range(5):
        worker = DetectorWorker(lambda: b"model")
        worker.start()
        with ThreadPoolExecutor(4) as threads:
            calls = [threads.submit(worker.detect, picture()) for _ in range(20)]
            calls += [threads.submit(worker.close) for _ in range(2)]
        for call in calls:
            assert isinstance(call.exception(), ClosedError | None)
        assert worker.pid is None
    assert_no_process_of_ours()


@linux
def test_leak_meets_the_cap_and_costs_one_picture(worker: DetectorWorker) -> None:
    worker._recycle_bytes = 2**40
    with pytest.raises(BackendUnavailableError, match="MemoryError") as caught:
        repeat(20, lambda: worker.detect(picture(LEAK)))
    assert caught.value.retryable
    assert answers(worker)


@linux
def test_cap_below_what_it_holds_never_hangs(stand_in: None) -> None:
    worker = DetectorWorker(lambda: b"model", memory_cap_bytes=1)
    for _ in range(3):
        try:
            worker.detect(picture(LEAK, 640, 480))
        except BackendUnavailableError:
            continue
        pytest.fail("a cap of one byte was not noticed")
    worker.close()


def test_grown_process_is_replaced_between_two_pictures(
    worker: DetectorWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "CHECK_MEMORY_EVERY", 2)
    assert answers(worker)
    first = pid_of(worker)
    assert worker.detect(picture(LEAK))
    assert worker.pid == first, "30 MB more are no reason"
    worker._recycle_bytes = 30 * 2**20
    for _ in range(2):
        assert answers(worker)
    assert worker.pid != first
    assert is_gone(first)
    assert answers(worker)
    assert worker.restarts == 0, "that is no death"


@linux
def test_no_core_file_shows_the_picture(worker: DetectorWorker) -> None:
    worker.start()
    limits = Path(f"/proc/{worker.pid}/limits").read_text(encoding="ascii")
    core = next(line for line in limits.splitlines() if line.startswith("Max core file size"))
    assert core.split()[4:6] == ["0", "0"]


def test_what_is_read_of_a_failure_is_short(
    stand_in: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that a picture has taken over could fill errors and logs."""
    worker = DetectorWorker(lambda: b"model")
    assert worker.detect(picture())
    monkeypatch.setattr(worker_process.WorkerProcess, "reply", lambda _: (FAILED, b"x" * 10**6))
    with pytest.raises(BackendUnavailableError, match="failed: x") as caught:
        worker.detect(picture())
    assert len(str(caught.value)) < 1000
    worker.close()

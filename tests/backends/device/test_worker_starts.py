"""The detector's process is started, or cannot be."""

from __future__ import annotations

import gc
import os
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from hybrid_detect.backends.device import restart_pauses, worker_process
from hybrid_detect.backends.device.child_program import require_child_processes
from hybrid_detect.backends.device.worker import DetectorWorker
from hybrid_detect.errors import (
    BackendUnavailableError,
    ConfigurationError,
)

from ...waiting import LIMIT_S, wait_until
from .stand_in import SEGFAULT
from .worker_support import answers, assert_no_process_of_ours, left_behind, linux, picture, python

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="tests speak in signals")


@pytest.mark.parametrize(
    ("model", "says", "retryable"),
    [
        (b"refuse", "did not start: it is no model", False),
        (b"exit", r"died at its start \(status 3\)", True),
        (b"import", "did not start: ModuleNotFoundError: No module named 'no_such_module'", False),
    ],
)
def test_failed_start_is_told(stand_in: None, model: bytes, says: str, retryable: bool) -> None:
    worker = DetectorWorker(lambda: model)
    with pytest.raises(BackendUnavailableError, match=says) as caught:
        worker.start()
    assert caught.value.retryable is retryable
    assert worker.pid is None
    assert_no_process_of_ours()
    worker.close()


def test_start_that_hangs_is_ended(stand_in: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_process, "START_LIMIT_S", 0.5)
    worker = DetectorWorker(lambda: b"hang")
    with pytest.raises(BackendUnavailableError, match=r"did not start within 0\.5 s and was ended"):
        worker.start()
    worker.close()


def test_kill_ends_a_start(stand_in: None) -> None:
    worker = DetectorWorker(lambda: b"hang")
    with ThreadPoolExecutor(1) as threads:
        starting = threads.submit(worker.start)
        wait_until(lambda: worker.pid)
        assert worker._process.starting
        worker.kill()
        with pytest.raises(BackendUnavailableError, match="signal 9"):
            starting.result(LIMIT_S)
    assert not worker._process.starting
    worker.close()


@pytest.mark.parametrize("what", ["no such interpreter", "no file descriptors"])
def test_no_process_to_be_had_is_told(
    stand_in: None, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    import resource

    worker = DetectorWorker(lambda: b"model")
    gc.collect()
    before = os.listdir("/dev/fd")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if what == "no such interpreter":
        monkeypatch.setattr(sys, "executable", "/nowhere/python")
    else:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(BackendUnavailableError, match="cannot be started") as caught:
            worker.start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert caught.value.retryable
    monkeypatch.undo()
    worker.close()
    assert len(os.listdir("/dev/fd")) == len(before)


def test_no_memory_to_be_had_for_a_start_is_told(
    worker: DetectorWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory() -> None:
        raise MemoryError

    with monkeypatch.context() as short:
        short.setattr(worker_process, "SharedSlot", no_memory)
        with pytest.raises(BackendUnavailableError, match="there is not enough memory") as caught:
            worker.start()
    assert caught.value.retryable
    assert answers(worker)


@linux
def test_a_start_that_never_was_gives_its_memory_back(
    worker: DetectorWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker.start()
    worker.stop()
    before = left_behind()
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    for wait in ("cannot be started", "cannot be started", "next try in"):
        with pytest.raises(BackendUnavailableError, match=wait):
            worker.start()
    assert left_behind() == before


def test_restarts_back_off_and_an_answer_forgets_it(
    worker: DetectorWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = [1000.0]
    monkeypatch.setattr(restart_pauses.time, "monotonic", lambda: now_s[0])
    worker._process._load_model = lambda: b"exit"
    for pause_s in (0.0, 0.1, 0.2, 0.4):
        with pytest.raises(BackendUnavailableError, match="status 3"):
            worker.start()
        now_s[0] += pause_s * 0.9
        if pause_s:
            with pytest.raises(BackendUnavailableError, match="next try in"):
                worker.start()
        now_s[0] += pause_s * 0.2
    worker._process.pauses.failures = 50
    with pytest.raises(BackendUnavailableError, match="status 3"):
        worker.start()
    now_s[0] += restart_pauses.BACKOFF_CAP_S + 0.001
    worker._process._load_model = lambda: b"model"
    assert worker.detect(picture())
    for _ in range(2):
        with pytest.raises(BackendUnavailableError, match="signal 11"):
            worker.detect(picture(SEGFAULT))
        assert worker.detect(picture()), "each was a lone crash"


def test_lower_limit_of_the_app_is_kept(stand_in: None) -> None:
    """A container's own RLIMIT_DATA cannot be raised; that is no reason not to start."""
    script = """
        import resource, numpy as np
        from hybrid_detect.backends.device.worker import DetectorWorker
        resource.setrlimit(resource.RLIMIT_DATA, (200 * 2**20, 200 * 2**20))
        worker = DetectorWorker(lambda: b"model")
        worker.detect(np.zeros((4, 4, 3), np.uint8))
        print(open(f"/proc/{worker.pid}/limits").read())
        worker.close()
    """
    if sys.platform != "linux":
        pytest.skip("RLIMIT_DATA is used on Linux alone")
    printed = python(script)
    data = next(line for line in printed.splitlines() if line.startswith("Max data size"))
    assert data.split()[3:5] == [str(200 * 2**20)] * 2


@pytest.mark.parametrize(
    ("name", "value"), [("frozen", True), ("executable", "")], ids=["frozen", "embedded"]
)
def test_app_without_an_interpreter_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: object
) -> None:
    require_child_processes()
    monkeypatch.setattr(sys, name, value, raising=False)
    with pytest.raises(ConfigurationError, match="isolation='none'"):
        require_child_processes()


def test_an_instruction_that_the_processor_lacks_is_told_once(stand_in: None) -> None:
    loads: list[None] = []

    def load() -> bytes:
        loads.append(None)
        return b"illegal instruction"

    worker = DetectorWorker(load)
    for _ in range(7):
        with pytest.raises(BackendUnavailableError, match="does not run on this processor") as told:
            worker.start()
        assert not told.value.retryable
        assert "detect on another machine" in str(told.value)
    assert len(loads) == 1
    worker.close()

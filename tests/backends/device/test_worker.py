"""The detector's process: starting, dying in every way, and leaving nothing behind.

Most tests put a stand-in in MediaPipe's place inside the process (`stand_in`): the first byte of a
picture tells it how to misbehave. Those marked `device` drive MediaPipe itself.
"""

from __future__ import annotations

import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hybrid_detect.backends.device import worker_process
from hybrid_detect.backends.device.worker import DetectorWorker
from hybrid_detect.errors import (
    BackendUnavailableError,
    ClosedError,
    ModelError,
)

from ...waiting import LIMIT_S, wait_until
from .stand_in import (
    PRINT,
    SITE,
)
from .worker_support import answers, is_gone, linux, picture, pid_of

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="tests speak in signals")


def test_starts_with_the_first_picture_and_stays(worker: DetectorWorker) -> None:
    assert worker.pid is None
    assert answers(worker)
    pid = worker.pid
    worker.start()
    worker.ping()
    for width in (1, 2, 640):
        assert answers(worker, width)
    assert worker.pid == pid
    assert worker.restarts == 0


def test_stop_gives_the_process_back_and_the_next_picture_starts_another(
    worker: DetectorWorker,
) -> None:
    worker.start()
    first = pid_of(worker)
    worker.stop()
    worker.stop()
    assert worker.pid is None
    assert is_gone(first)
    assert answers(worker)
    assert worker.pid != first
    assert worker.restarts == 0


def test_closed_one_refuses(worker: DetectorWorker) -> None:
    worker.start()
    for _ in range(3):
        worker.close()
    worker.kill()
    for call in (worker.start, worker.ping, lambda: worker.detect(picture())):
        with pytest.raises(ClosedError):
            call()


def test_many_threads_get_their_own_answers(worker: DetectorWorker) -> None:
    widths = list(range(1, 60))
    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(lambda width: answers(worker, width), widths))


def test_prints_of_the_process_are_no_replies(worker: DetectorWorker) -> None:
    assert worker.detect(picture(PRINT))
    assert answers(worker)


def test_model_is_loaded_at_every_start_and_its_absence_is_told(stand_in: None) -> None:
    models: list[bytes | Exception] = [b"model", ModelError("gone"), b"model"]

    def load() -> bytes:
        model = models.pop(0)
        if isinstance(model, Exception):
            raise model
        return model

    worker = DetectorWorker(load)
    assert answers(worker)
    worker.stop()
    with pytest.raises(ModelError, match="gone"):
        worker.detect(picture())
    assert answers(worker)
    worker.close()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_what_is_sent_to_all_is_for_the_app(worker: DetectorWorker, how: signal.Signals) -> None:
    worker.start()
    os.kill(pid_of(worker), how)
    assert answers(worker)
    assert worker.restarts == 0


def test_a_terminal_s_signals_never_reach_a_start(stand_in: None) -> None:
    worker = DetectorWorker(lambda: b"hang")
    with ThreadPoolExecutor(1) as threads:
        starting = threads.submit(worker.start)
        wait_until(lambda: worker.pid)
        assert os.getpgid(pid_of(worker)) != os.getpgid(0)
        if sys.platform == "linux":
            adjusted = Path(f"/proc/{worker.pid}/oom_score_adj")
            wait_until(lambda: adjusted.read_text(encoding="ascii").strip() == "1000")
        assert not starting.done()
        worker.kill()
        with pytest.raises(BackendUnavailableError, match="signal 9"):
            starting.result(LIMIT_S)
    worker.close()


@pytest.mark.parametrize("size", [1, 30_000])
def test_what_python_prints_at_its_start_is_no_reply(
    worker: DetectorWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    noisy = f"print('x' * {size}, flush=True)\n" + SITE
    (tmp_path / "sitecustomize.py").write_text(noisy, encoding="utf-8")
    assert answers(worker)


def test_a_start_that_only_prints_is_ended(
    worker: DetectorWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_process, "MAX_NOISE_BYTES", 1000)
    noisy = "print('x' * 100_000, flush=True)\n" + SITE
    (tmp_path / "sitecustomize.py").write_text(noisy, encoding="utf-8")
    with pytest.raises(BackendUnavailableError, match="died at its start"):
        worker.start()


@linux
def test_a_process_gives_way_by_as_much_as_it_is_told(stand_in: None) -> None:
    for niceness in (0, 7):
        worker = DetectorWorker(lambda: b"model", niceness=niceness)
        worker.start()
        assert worker.pid is not None
        assert os.getpriority(os.PRIO_PROCESS, worker.pid) == min(os.nice(0) + niceness, 19)
        worker.close()

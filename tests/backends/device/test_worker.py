"""The detector's process: starting, dying in every way, and leaving nothing behind.

Most tests put a stand-in in MediaPipe's place inside the process (`stand_in`): the first byte of a
picture tells it how to misbehave. Those marked `device` drive MediaPipe itself.
"""

from __future__ import annotations

import gc
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image, features

from hybrid_detect.backends.device import restart_pauses, worker_process
from hybrid_detect.backends.device import worker as worker_module
from hybrid_detect.backends.device.face_detector import MediaPipeFaceDetector
from hybrid_detect.backends.device.models import load_model
from hybrid_detect.backends.device.shared_slot import CAPACITY
from hybrid_detect.backends.device.worker import DetectorWorker, require_child_processes
from hybrid_detect.errors import (
    BackendUnavailableError,
    ClosedError,
    ConfigurationError,
    InvalidFrameError,
    ModelError,
)
from hybrid_detect.extras import is_installed
from hybrid_detect.frames.decoding import EncodedPicture
from hybrid_detect.frames.frame import Frame
from hybrid_detect.types import BackendKind

from ...waiting import LIMIT_S, wait_until
from .stand_in import (
    ABORT,
    BREAK,
    DEAR_SIDE_PX,
    EXIT,
    FINE,
    HANG,
    LEAK,
    OPEN,
    PRINT,
    SEGFAULT,
    SITE,
    install,
)

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="tests speak in signals")
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch)


@pytest.fixture
def worker(stand_in: None) -> Iterator[DetectorWorker]:
    worker = DetectorWorker(lambda: b"model")
    yield worker
    worker.close()
    assert_no_process_of_ours()


@pytest.fixture(scope="module")
def model() -> bytes:
    if not is_installed("mediapipe"):
        pytest.skip("MediaPipe is not installed")
    try:
        return load_model("short_range")
    except ModelError as exc:
        pytest.skip(f"no model to be had: {exc}")


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


# ---- the usual


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


def file_of(kind: str, width: int = 40, height: int = 30, grey: int = 0) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height), (0, grey, grey)).save(out, kind)
    return out.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_every_format_is_decoded_in_the_process(
    worker: DetectorWorker, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Although that may open no file any more by then."""
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow cannot read AVIF")
    monkeypatch.setattr(EncodedPicture, "rgb", lambda *_, **__: pytest.fail("decoded in the app"))
    data = file_of(kind, 60, 45)
    for _ in range(2):
        (face,) = worker.detect_frame(Frame.of(data))
        assert face.box.xyxy == (0, 0, 60, 45)
    assert worker.restarts == 0


def test_a_large_picture_is_decoded_no_larger_than_needed(stand_in: None) -> None:
    worker = DetectorWorker(lambda: b"tell the width", enough_px=150)
    for kind, width in (("JPEG", 200), ("PNG", 150)):
        found = worker.detect_encoded(file_of(kind, 1600, 1200), max_pixels=1600 * 1200)
        assert (found.width, found.height) == (1600, 1200)
        (face,) = found.faces
        assert face.box.xyxy == (0, 0, 1600, 1200)
        assert face.score == width / 10_000
    worker.close()


@linux
def test_a_large_picture_may_exceed_the_heap_limit_and_a_leak_may_not(stand_in: None) -> None:
    """A file of 24 million pixels takes 96 MB in Pillow alone."""
    worker = DetectorWorker(lambda: b"model", enough_px=100, memory_cap_bytes=80 * 2**20)
    large = file_of("PNG", 6000, 4000)
    for _ in range(2):
        assert worker.detect_encoded(large, max_pixels=6000 * 4000).faces
    assert worker.restarts == 0
    with pytest.raises(BackendUnavailableError, match="MemoryError"):
        repeat(20, lambda: worker.detect(picture(LEAK)))
    worker.close()


@pytest.mark.parametrize(
    ("data", "max_pixels", "says"),
    [
        (b"no picture", 10**6, "got 10 bytes of no known format"),
        (file_of("PNG")[:-40], 10**6, "damaged or incomplete"),
        (file_of("JPEG"), 1199, "at most 1199 pixels"),
        (bytes(CAPACITY + 1), 10**9, f"at most {CAPACITY} bytes"),
    ],
    ids=["no picture", "damaged", "too many pixels", "too long"],
)
def test_a_refused_picture_costs_no_process(
    worker: DetectorWorker, data: bytes, max_pixels: int, says: str
) -> None:
    worker.detect_encoded(file_of("PNG"), max_pixels=10**6)
    pid = worker.pid
    with pytest.raises(InvalidFrameError, match=says) as caught:
        worker.detect_encoded(data, max_pixels=max_pixels)
    assert caught.value.expected
    assert caught.value.actual
    assert answers(worker)
    assert worker.pid == pid
    assert worker.restarts == 0


def test_a_file_longer_than_the_shared_memory_is_decoded_by_the_app(
    worker: DetectorWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "CAPACITY", 100_000)
    data = file_of("BMP", 200, 180)
    assert len(data) > 100_000
    (face,) = worker.detect_frame(Frame.of(data))
    assert face.box.xyxy == (0, 0, 200, 180)


def test_a_picture_that_is_dear_to_decode_is_owed_and_ends_with_the_process(
    stand_in: None,
) -> None:
    worker = DetectorWorker(lambda: b"dear pictures", decodes=True)
    worker.start()
    dear = file_of("PNG", DEAR_SIDE_PX)
    with ThreadPoolExecutor(1) as threads:
        decoding = threads.submit(worker.detect_encoded, dear, max_pixels=10**6)
        wait_until(lambda: worker.asked_since_s is not None)
        worker.kill()
        with pytest.raises(BackendUnavailableError, match="signal 9") as caught:
            decoding.result(LIMIT_S)
    assert caught.value.retryable
    assert worker.detect_encoded(file_of("PNG"), max_pixels=10**6).faces
    worker.close()


@pytest.mark.parametrize("decodes", [False, True])
def test_the_first_encoded_picture_is_answered_by_a_process_with_decoders(
    stand_in: None, decodes: bool
) -> None:
    """An app that only looks at pixels does not pay for the decoders."""
    worker = DetectorWorker(lambda: b"model", decodes=decodes)
    assert answers(worker)
    pid = worker.pid
    for _ in range(2):
        assert worker.detect_encoded(file_of("PNG"), max_pixels=10**6).faces
    assert (worker.pid == pid) is decodes
    pid = worker.pid
    assert answers(worker)
    assert worker.pid == pid
    assert worker.restarts == 0
    worker.close()


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


# ---- dying


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
        with pytest.raises(BackendUnavailableError, match="signal 9"):
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
        'pack("<IIII18d", 2, 8 + 18 * 8, 40, 30, 0, 0, -40, 1, 0.2, 0, *[0.0] * 12)',
        'pack("<IIII18d", 2, 8 + 18 * 8, 40, 30, *[float("nan")] * 18)',
        'pack("<IIII18d", 2, 8 + 18 * 8, 40, 30, 0, 0, 40, 1, 0.2, float("inf"), *[0.0] * 12)',
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


# ---- starting


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
    with pytest.raises(BackendUnavailableError, match="signal 9"):
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


# ---- what is left behind


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


TINY_SITE = """
import sys, types

def main(options):
    import os
    from struct import pack
    os.write(1, options["word"].encode() + pack("<II", 1, 0))
    while os.read(0, 20):
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

ONE_FACE = 'pack("<IIII18d", 2, 8 + 18 * 8, 40, 30, 0, 0, 40, 1, 0.2, 0, *[0.0] * 12)'


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


# ---- with MediaPipe itself


@pytest.fixture
def real(model: bytes) -> Iterator[DetectorWorker]:
    worker = DetectorWorker(lambda: model)
    yield worker
    worker.close()


@pytest.mark.device
def test_same_answer_as_in_process(
    real: DetectorWorker, model: bytes, astronaut: np.ndarray
) -> None:
    with MediaPipeFaceDetector(model) as in_process:
        for image in (astronaut, astronaut[::2, ::2], astronaut[:, ::-1], astronaut[300:, :200]):
            image = np.ascontiguousarray(image)
            assert real.detect(image) == in_process.detect(image)
    assert len(real.detect(astronaut)) == 1


@pytest.mark.device
def test_largest_pictures_fit_under_the_cap(real: DetectorWorker, astronaut: np.ndarray) -> None:
    """MediaPipe copies a picture twice, which 8K would not survive under the cap for 4K."""
    assert len(real.detect(astronaut)) == 1
    large = np.tile(astronaut, (9, 15, 1))[:4320]
    for _ in range(2):
        real.detect(large)
    assert len(real.detect(astronaut)) == 1
    assert real.restarts == 0


@pytest.mark.device
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_killed_mediapipe_costs_one_picture(
    real: DetectorWorker, astronaut: np.ndarray, how: signal.Signals
) -> None:
    expected = real.detect(astronaut)
    os.kill(pid_of(real), how)
    with pytest.raises(BackendUnavailableError, match=f"signal {how.value}"):
        real.detect(astronaut)
    assert real.detect(astronaut) == expected


@linux
@pytest.mark.device
def test_mediapipe_at_its_memory_limit_costs_one_picture(
    real: DetectorWorker, astronaut: np.ndarray
) -> None:
    import resource

    expected = real.detect(astronaut)
    resource.prlimit(pid_of(real), resource.RLIMIT_DATA, (1, 1))
    large = np.tile(astronaut, (4, 4, 1))
    with pytest.raises(BackendUnavailableError):
        repeat(3, lambda: real.detect(large))
    assert real.detect(astronaut) == expected


@pytest.mark.device
@pytest.mark.usefixtures("model")
@pytest.mark.parametrize("mode", ["on_device", "auto", "cloud", "streaming"])
def test_mediapipe_never_comes_into_the_app(mode: str) -> None:
    script = f"""
        import asyncio, json, sys
        import numpy as np
        from hybrid_detect import HybridDetectionService
        from hybrid_detect.errors import HybridDetectError

        async def main():
            picture = np.zeros((48, 64, 3), np.uint8)
            endpoint = None if {mode!r} == "on_device" else "http://127.0.0.1:9"
            seen = None
            async with HybridDetectionService(endpoint, mode={mode!r}) as service:
                for _ in range(3):
                    try:
                        seen = (await service.process_image(picture, deadline_s=5)).backend
                    except HybridDetectError:
                        pass
            return seen

        seen = asyncio.run(main())
        heavy = {{"mediapipe", "cv2", "matplotlib", "sounddevice"}} & set(sys.modules)
        print(json.dumps([sorted(heavy), seen]))
    """
    heavy, seen = json.loads(python(script, quiet=False))
    assert heavy == []
    assert seen == ("device" if mode in {"on_device", "auto"} else None)


@pytest.mark.parametrize(
    ("attributes", "can"),
    [
        ({}, True),
        ({"executable": ""}, False),  # embedded in an app, as on phones
        ({"frozen": True}, False),
        ({"frozen": True, "hybrid_detect_worker": worker_process.FROZEN_ARGUMENT}, True),
    ],
)
def test_a_frozen_app_starts_itself_only_where_it_knows_how_to_become_a_detector(
    attributes: dict[str, Any], can: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would start itself again and again otherwise. ``nox -s frozen`` builds a real one."""
    for name, value in attributes.items():
        monkeypatch.setattr(sys, name, value, raising=False)
    assert worker_process.can_start_processes() is can

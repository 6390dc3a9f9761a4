"""Encoded pictures, which the detector's process decodes."""

from __future__ import annotations

import io
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image, features

from hybrid_detect.backends.device import worker as worker_module
from hybrid_detect.backends.device.shared_slot import CAPACITY
from hybrid_detect.backends.device.worker import DetectorWorker
from hybrid_detect.backends.device.worker_child import DECODING_BYTES_PER_PIXEL, _HeapLimit
from hybrid_detect.backends.device.worker_messages import DroppedError
from hybrid_detect.errors import (
    BackendUnavailableError,
    InvalidFrameError,
)
from hybrid_detect.frames.decoding import EncodedPicture
from hybrid_detect.frames.frame import Frame
from hybrid_detect.types import QualityLevel

from ...waiting import LIMIT_S, wait_until
from .stand_in import (
    DEAR_SIDE_PX,
    LEAK,
)
from .worker_support import answers, linux, picture, repeat

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="tests speak in signals")


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


@linux
def test_the_heap_limit_is_what_each_picture_may_need(stand_in: None) -> None:
    import resource

    cap = 80 * 2**20
    worker = DetectorWorker(lambda: b"model", enough_px=100, memory_cap_bytes=cap)

    def limit() -> int:
        assert worker.pid is not None
        return resource.prlimit(worker.pid, resource.RLIMIT_DATA)[0]

    for width, height in ((600, 400), (600, 400), (60, 40)):
        worker.detect_encoded(file_of("JPEG", width, height), max_pixels=width * height)
        assert limit() == cap + DECODING_BYTES_PER_PIXEL * width * height
    assert worker.detect(picture())
    assert limit() == cap
    worker.close()


@linux
def test_a_heap_limit_that_could_not_be_set_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    tried: list[int] = []

    def set_limit(_: int, limits: tuple[int, int]) -> None:
        tried.append(limits[0])
        if len(tried) == 2:
            msg = "not now"
            raise ValueError(msg)

    monkeypatch.setattr(resource, "setrlimit", set_limit)
    heap = _HeapLimit(2**20)
    with pytest.raises(ValueError, match="not now"):
        heap.allow(24)
    heap.allow(24)
    heap.allow(24)
    assert len(tried) == 3


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


def test_a_picture_that_is_not_wanted_any_more_is_dropped_before_the_next_look(
    stand_in: None,
) -> None:
    worker = DetectorWorker(lambda: b"slow", decodes=True)
    strip = file_of("PNG", 4000, 4)  # has more than a thousand tiles
    with ThreadPoolExecutor(1) as thread:
        worker.start()
        pid = worker.pid
        look = thread.submit(
            worker.detect_encoded, strip, max_pixels=4000 * 4, level=QualityLevel.MAX
        )
        wait_until(lambda: worker.asked_since_s is not None)
        worker.drop()
        with pytest.raises(DroppedError):
            look.result(LIMIT_S)
    assert worker.detect_encoded(file_of("PNG"), max_pixels=1200).faces == ()
    assert (worker.pid, worker.restarts) == (pid, 0)
    worker.close()

"""The frame as a value: identity, limits, age, threads."""

from __future__ import annotations

import io
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from hybrid_detect.errors import InvalidFrameError
from hybrid_detect.frames import frame as frame_module
from hybrid_detect.frames.frame import Frame

from .pictures import encoded, smooth, with_orientation


def test_a_frame_is_returned_as_it_is(rgb: np.ndarray) -> None:
    frame = Frame.of(rgb)
    assert Frame.of(frame) is frame
    with pytest.raises(InvalidFrameError):
        Frame.of(frame, max_pixels=10)


def test_a_limit_once_raised_holds_for_the_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame_module, "MAX_PIXELS", 100)
    large = np.zeros((20, 30, 3), np.uint8)
    with pytest.raises(InvalidFrameError, match="at most 100 pixels"):
        Frame.of(large)
    frame = Frame.of(large, max_pixels=600)
    assert Frame.of(frame) is frame


def test_ids_count_up(rgb: np.ndarray) -> None:
    first, second = Frame.of(rgb), Frame.of(rgb)
    assert second.frame_id > first.frame_id >= 1


def test_age_counts_from_the_capture(rgb: np.ndarray) -> None:
    frame = Frame.of(rgb, captured_at_s=100.0)
    assert frame.age_s(100.5) == 0.5
    assert frame.age_s(99.0) == 0.0
    before = time.monotonic()
    assert before <= Frame.of(rgb).captured_at_s <= time.monotonic()


def test_repr_shows_sizes_and_no_pixels() -> None:
    texts = {
        repr(Frame.of(np.full((3, 5, 3), 123, np.uint8))),
        repr(Frame.of(encoded(smooth(5, 3)))),
        repr(Frame.of(smooth(5, 3))),
    }
    assert len(texts) == 3
    for text in texts:
        assert "5x3" in text
        assert len(text) < 80
        assert "123" not in text


def test_threads_may_share_one_frame_and_leave_the_warning_filters_alone() -> None:
    frame = Frame.of(with_orientation(smooth(200, 150), 6, "JPEG"))
    wanted = frame.rgb()
    filters = list(warnings.filters)
    right: list[bool] = []

    def work() -> None:
        right.extend(np.array_equal(frame.rgb(), wanted) for _ in range(15))

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert right == [True] * 90
    assert list(warnings.filters) == filters


@pytest.mark.parametrize("is_one_frame", [True, False])
def test_a_lazily_opened_image_is_whole_for_every_reader(is_one_frame: bool) -> None:
    pixels = np.random.default_rng(1).integers(0, 255, (600, 800, 3), np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "PNG")
    for _ in range(5):
        image = Image.open(io.BytesIO(encoded.getvalue()))
        together = threading.Barrier(4)
        one = Frame.of(image)

        def read(
            image: Image.Image = image, one: Frame = one, together: threading.Barrier = together
        ) -> bool:
            together.wait(30)
            frame = one if is_one_frame else Frame.of(image)
            return bool((frame.rgb() == pixels).all())

        with ThreadPoolExecutor(4) as readers:
            assert all(reading.result() for reading in [readers.submit(read) for _ in range(4)])

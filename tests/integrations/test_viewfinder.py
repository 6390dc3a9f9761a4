"""What is shown of a camera: its newest frame, at the window's size, with the newest boxes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from hybrid_detect.frames.array_picture import PixelFormat
from hybrid_detect.frames.overlay import Overlay
from hybrid_detect.integrations.viewfinder import Viewfinder
from hybrid_detect.sources.captured import CapturedFrame
from hybrid_detect.testing import FakeClock
from hybrid_detect.types import BackendKind, BoundingBox, DetectionResult, DetectionStatus, Face

from ..waiting import wait_until
from .cameras import RED


def captured(image: Any, pixel_format: PixelFormat | None = None) -> CapturedFrame:
    return CapturedFrame(image, time.monotonic(), 0, 0, pixel_format=pixel_format)


def seen(x_min: float, x_max: float) -> DetectionResult:
    return DetectionResult(
        status=DetectionStatus.OK,
        width=320,
        height=240,
        faces=(Face(BoundingBox(x_min, 100, x_max, 160)),),
        backend=BackendKind.DEVICE,
    )


@pytest.fixture
def shows() -> Iterator[Any]:
    opened = []

    def make(finish: Any = lambda pixels: pixels, mirror: bool = False, **options: Any) -> Any:
        overlay = Overlay(label=False, hold_last_s=60, mirror=mirror)
        opened.append(viewfinder := Viewfinder(finish, overlay=overlay, **options))
        return viewfinder

    yield make
    for viewfinder in opened:
        viewfinder.close()


def picture_of(viewfinder: Any, frame: CapturedFrame) -> np.ndarray:
    pictures: list[np.ndarray] = []

    def came() -> bool:
        if (picture := viewfinder.take()) is not None:
            pictures.append(picture)
        return bool(pictures)

    viewfinder.offer(frame)
    wait_until(came)
    return pictures[0]


def test_pixels_are_rgb_whatever_the_source_gives(shows: Any) -> None:
    viewfinder = shows(pixel_format="bgr")
    for image, pixel_format in ((RED[:, :, ::-1], None), (RED, PixelFormat.RGB)):
        picture = picture_of(viewfinder, captured(image, pixel_format))
        assert picture.shape == (240, 320, 3)
        assert tuple(picture[5, 5]) == (200, 30, 40)
        assert picture.flags.c_contiguous


@pytest.mark.parametrize(
    ("area", "enlarges", "size"),
    [
        ((160, 200), False, (160, 120)),
        ((1000, 480), False, (320, 240)),
        ((1000, 480), True, (640, 480)),
        ((100_000, 100_000), True, (1280, 960)),
        ((1, 1), True, (320, 240)),
    ],
)
def test_pictures_fit_into_the_window(
    area: tuple[int, int], enlarges: bool, size: tuple[int, int], shows: Any
) -> None:
    viewfinder = shows(enlarges=enlarges)
    viewfinder.resize(*area)
    assert picture_of(viewfinder, captured(RED)).shape[1::-1] == size


def is_drawn(picture: np.ndarray, left: int, right: int) -> bool:
    """Whether a box's edges, which are bright green, lie there and the frame between them."""
    return picture[130, left, 1] > 200 and picture[130, right, 1] > 200


def test_boxes_are_drawn_and_mirrored_with_their_picture(shows: Any) -> None:
    viewfinder = shows()
    viewfinder.update(seen(50, 110))
    assert is_drawn(picture_of(viewfinder, captured(RED)), 50, 109)
    mirrored = shows(mirror=True)
    mirrored.update(seen(50, 110))
    image = RED.copy()
    image[:, :10] = 255
    picture = picture_of(mirrored, captured(image))
    assert is_drawn(picture, 320 - 110, 320 - 51)
    assert tuple(picture[5, 315]) == (255, 255, 255)


def test_the_cameras_own_pixels_are_left_alone(shows: Any) -> None:
    viewfinder = shows()
    viewfinder.update(seen(50, 110))
    image = RED.copy()
    assert is_drawn(picture_of(viewfinder, captured(image)), 50, 109)
    assert (image == RED).all()


def test_only_the_newest_frame_is_made_a_picture_of(shows: Any) -> None:
    begun, may_end = threading.Event(), threading.Event()
    made = []

    def finish(pixels: np.ndarray) -> np.ndarray:
        begun.set()
        may_end.wait(30)
        made.append(int(pixels[0, 0, 0]))
        return pixels

    viewfinder = shows(finish)
    viewfinder.offer(captured(np.full_like(RED, 1)))
    assert begun.wait(30)
    for value in (2, 3, 4):
        viewfinder.offer(captured(np.full_like(RED, value)))
    may_end.set()
    wait_until(lambda: len(made) == 2)
    assert made == [1, 4]


def test_what_is_no_image_or_cannot_be_shown_stops_nothing(
    shows: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def finish(pixels: np.ndarray) -> np.ndarray:
        if pixels[0, 0, 0] == 1:
            raise RuntimeError("no room")
        return pixels

    viewfinder = shows(finish)
    for image in (b"no image", np.full_like(RED, 1), np.full_like(RED, 1)):
        viewfinder.offer(captured(image))
        wait_until(lambda: viewfinder._frame is None)
    assert picture_of(viewfinder, captured(RED)) is not None
    assert caplog.text.count("a frame could not be shown") == 1


def test_boxes_are_followed_from_the_time_at_which_the_frame_was_taken() -> None:
    class Seen(Overlay):
        def draw(self, image: Any, *arguments: Any, **times: Any) -> Any:
            drawn.append(times)
            return super().draw(image, *arguments, **times)

    drawn: list[dict[str, Any]] = []
    viewfinder = Viewfinder(lambda pixels: pixels, overlay=Seen())
    try:
        frame = captured(np.zeros((24, 32, 3), np.uint8))
        picture_of(viewfinder, frame)
    finally:
        viewfinder.close()
    assert drawn == [{"captured_at_s": frame.captured_at_s}]


def test_boxes_are_as_old_as_their_result_not_as_their_picture() -> None:
    """A camera that stands still for a while must not show old boxes as new ones."""
    clock = FakeClock()
    overlay = Overlay(label=False, hold_last_s=0.5, fade_s=0.1, clock=clock)
    viewfinder = Viewfinder(lambda pixels: pixels, overlay=overlay)
    try:
        viewfinder.update(seen(40, 120))
        clock.advance(0.7)
        picture = picture_of(viewfinder, captured(np.zeros((240, 320, 3), np.uint8)))
    finally:
        viewfinder.close()
    assert not picture.any()


def test_closed_it_shows_nothing(shows: Any) -> None:
    viewfinder = shows()
    picture_of(viewfinder, captured(RED))
    viewfinder.close()
    viewfinder.offer(captured(RED))
    assert viewfinder.take() is None
    wait_until(
        lambda: "hybrid-detect-viewfinder" not in {thread.name for thread in threading.enumerate()}
    )

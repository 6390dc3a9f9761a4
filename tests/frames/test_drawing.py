"""Drawing: a copy with boxes where the faces are, and a line that says how the detection went."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from hybrid_detect.errors import BackendUnavailableError, InvalidFrameError
from hybrid_detect.frames import drawing
from hybrid_detect.frames.brush import Brush
from hybrid_detect.frames.drawing import draw
from hybrid_detect.types import (
    BackendKind,
    BoundingBox,
    DetectionResult,
    DetectionStatus,
    Face,
    Keypoint,
    Timings,
)

FACE = Face(BoundingBox(100, 80, 220, 200), 0.93, (Keypoint("nose_tip", 160, 140),))


def result(**changes: Any) -> DetectionResult:
    fields: dict[str, Any] = {
        "status": DetectionStatus.OK,
        "width": 400,
        "height": 300,
        "faces": (FACE,),
        "backend": BackendKind.DEVICE,
        "timings": Timings(total_s=0.0123),
    }
    return DetectionResult(**(fields | changes))


def changed(picture: Image.Image, background: int) -> np.ndarray:
    return np.any(np.asarray(picture) != background, axis=-1)


@pytest.mark.parametrize("background", [0, 255])
def test_box_and_keypoint_stand_out_on_dark_and_light(background: int) -> None:
    array = np.full((300, 400, 3), background, np.uint8)
    drawn = np.asarray(draw(array, result())).astype(int)
    assert array.min() == array.max() == background
    for y, x in ((80, 160), (199, 160), (140, 100), (140, 219), (140, 160)):
        near = drawn[y - 2 : y + 3, x - 2 : x + 3].reshape(-1, 3).sum(axis=-1)
        assert near.max() - near.min() > 300


def test_inside_and_outside_of_the_box_stay_as_they_were() -> None:
    mask = changed(draw(np.full((300, 400, 3), 99, np.uint8), result()), 99)
    assert not mask[90:130, 110:210].any()
    assert not mask[210:270].any()


def test_a_result_without_faces_draws_the_line_alone() -> None:
    mask = changed(draw(np.full((300, 400, 3), 99, np.uint8), result(faces=())), 99)
    assert not mask[:270].any()
    assert mask[270:].any()


def test_the_line_tells_way_status_faces_and_latency(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(drawing.Pen, "caption", lambda _pen, text: lines.append(text))
    picture = np.zeros((300, 400, 3), np.uint8)
    draw(picture, result())
    draw(picture, result(faces=()))
    draw(picture, result(status=DetectionStatus.STALE, faces=(FACE, FACE), age_s=0.84))
    draw(picture, result(status=DetectionStatus.FAILED, faces=(), reason="no network"))
    error = BackendUnavailableError("refused", backend="cloud")
    draw(picture, result(status=DetectionStatus.FAILED, faces=(), backend=None, error=error))
    assert lines == [
        "device | ok | 1 face | 12 ms",
        "device | ok | no faces | 12 ms",
        "device | stale, 0.8 s old | 2 faces | 12 ms",
        "could not look: no network",
        "could not look: refused",
    ]


def test_a_long_line_is_cut_to_the_picture() -> None:
    failed = result(status=DetectionStatus.FAILED, faces=(), reason="no\nway " * 200)
    assert draw(np.zeros((300, 400, 3), np.uint8), failed).size == (400, 300)


@pytest.mark.parametrize("width", [1, 40, 400, 1920])
def test_a_line_that_is_cut_fills_the_picture_after_few_measurements(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[str] = []
    drawn: list[str] = []
    size_of, label = drawing.Pen._label_size, drawing.Pen._label

    def counted(self: Any, text: str, size_px: int) -> tuple[int, int]:
        measured.append(text)
        return size_of(self, text, size_px)

    def kept(self: Any, text: str, *where: Any) -> None:
        drawn.append(text)
        label(self, text, *where)

    monkeypatch.setattr(drawing.Pen, "_label_size", counted)
    monkeypatch.setattr(drawing.Pen, "_label", kept)
    reason = "The network is slow. " * 200
    draw(
        np.zeros((300, width, 3), np.uint8),
        result(status=DetectionStatus.FAILED, width=width, height=300, faces=(), reason=reason),
    )
    (text,) = drawn
    assert text.endswith("...")
    assert len(measured) < 20
    if width >= 400:
        pen = drawing.Pen(Brush(np.zeros((300, width, 3), np.uint8)), (0, 0, 0))
        room = width - size_of(pen, text, pen._font_px)[0]
        assert 0 <= room < 2 * pen._font_px


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (200, 3), (2000, 1500)])
@pytest.mark.parametrize("status", list(DetectionStatus))
def test_any_size_and_status_can_be_drawn(size: tuple[int, int], status: DetectionStatus) -> None:
    width, height = size
    faces = (
        Face(BoundingBox(0, 0, width, height)),
        Face(BoundingBox(-50, -50, 0.5, 0.5), 1.0),
        Face(BoundingBox(width + 5, 0, width + 9, 4), 0.5),
        Face(BoundingBox(0.2, 0.2, 0.2, 0.2), 0.0),
    )
    drawn = draw(
        np.zeros((height, width, 3), np.uint8),
        result(status=status, width=width, height=height, faces=faces),
    )
    assert drawn.size == size
    assert drawn.mode == "RGB"


def test_faces_are_scaled_to_a_picture_of_another_size() -> None:
    mask = changed(draw(np.full((600, 800, 3), 99, np.uint8), result()), 99)
    assert mask[158:163, 300].any()
    assert not mask[200:260, 230:300].any()


def test_lines_grow_with_the_picture() -> None:
    def thickness(scale: int) -> int:
        picture = np.full((300 * scale, 400 * scale, 3), 99, np.uint8)
        mask = changed(draw(picture, result()), 99)
        return int(mask[180 * scale, 80 * scale : 120 * scale].sum())

    assert thickness(8) > 3 * thickness(1)


def test_grey_and_bgr_arrays_are_drawn_as_declared() -> None:
    array = np.zeros((300, 400, 3), np.uint8)
    array[:, :, 0] = 200
    assert draw(array, result(), pixel_format="bgr").getpixel((390, 10)) == (0, 0, 200)
    grey = np.full((300, 400), 50, np.uint8)
    assert draw(grey, result(), pixel_format="gray").getpixel((390, 10)) == (50, 50, 50)


def test_pillow_images_are_not_drawn_on() -> None:
    picture = Image.new("RGB", (400, 300), (9, 9, 9))
    assert changed(draw(picture, result()), 9).any()
    assert not changed(picture, 9).any()


def test_what_is_no_picture_is_refused() -> None:
    with pytest.raises(InvalidFrameError):
        draw(b"no picture", result())

"""Frames of arrays: the channels that were declared, in any view."""

from __future__ import annotations

import numpy as np
import pytest

from hybrid_detect.frames.frame import Frame, PixelFormat


def test_a_fitting_array_is_taken_without_copying(rgb: np.ndarray) -> None:
    assert Frame.of(rgb).rgb() is rgb


@pytest.mark.parametrize(
    ("pixel_format", "channels"),
    [("rgb", [0, 1, 2]), ("bgr", [2, 1, 0]), ("rgba", [0, 1, 2, 0]), ("bgra", [2, 1, 0, 0])],
)
def test_declared_channels_come_out_as_rgb(
    rgb: np.ndarray, pixel_format: str, channels: list[int]
) -> None:
    frame = Frame.of(rgb[:, :, channels], pixel_format=pixel_format)
    assert np.array_equal(frame.rgb(), rgb)
    assert frame.rgb().flags.c_contiguous
    assert frame.pil().mode == "RGB"
    assert np.array_equal(np.asarray(frame.pil()), rgb)


@pytest.mark.parametrize("shape", [(37, 53), (37, 53, 1)])
def test_grey_stays_grey_in_pillow_and_is_repeated_in_rgb(shape: tuple[int, ...]) -> None:
    grey = np.random.default_rng(2).integers(0, 256, (37, 53), dtype=np.uint8)
    frame = Frame.of(grey.reshape(shape), pixel_format=PixelFormat.GRAY)
    assert frame.pil().mode == "L"
    assert np.array_equal(np.asarray(frame.pil()), grey)
    assert np.array_equal(frame.rgb(), np.stack([grey] * 3, axis=-1))
    assert frame.rgb().flags.c_contiguous


VIEWS = {
    "reversed channels": lambda a: a[:, :, ::-1],
    "crop": lambda a: a[5:30, 7:41],
    "every other pixel": lambda a: a[::2, ::3],
    "upside down": lambda a: a[::-1],
    "mirrored": lambda a: a[:, ::-1],
    "on its side": lambda a: a.transpose(1, 0, 2),
    "Fortran order": np.asfortranarray,
    "repeated by stride 0": lambda a: np.broadcast_to(a[:1], a.shape),
    "first channels of four": lambda a: np.dstack([a, a[:, :, 0]])[:, :, :3],
    "one row": lambda a: a[3:4],
    "one column": lambda a: a[:, 3:4],
    "masked": np.ma.masked_array,
}


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("pixel_format", ["rgb", "bgr"])
def test_any_view_gives_its_own_pixels_contiguous(
    rgb: np.ndarray, name: str, pixel_format: str
) -> None:
    view = VIEWS[name](rgb)
    before = np.array(view)
    view.setflags(write=False)
    frame = Frame.of(view, pixel_format=pixel_format)
    wanted = before if pixel_format == "rgb" else before[:, :, ::-1]
    assert np.array_equal(frame.rgb(), wanted)
    assert type(frame.rgb()) is np.ndarray
    assert frame.rgb().flags.c_contiguous
    assert np.array_equal(np.asarray(frame.pil()), wanted)
    assert (frame.width, frame.height) == (view.shape[1], view.shape[0])
    assert np.array_equal(view, before)


def test_a_picture_does_not_change_with_the_array() -> None:
    for pixel_format, shape in (("gray", (8, 8)), ("rgb", (8, 8, 3))):
        array = np.zeros(shape, np.uint8)
        picture = Frame.of(array, pixel_format=pixel_format).pil()
        array[:] = 255
        assert np.asarray(picture).max() == 0
        picture.putpixel((0, 0), 7 if pixel_format == "gray" else (7, 7, 7))
        assert array.min() == 255

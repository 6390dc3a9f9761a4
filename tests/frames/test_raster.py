"""Rasters and codecs: the same picture from every layout, by simplejpeg and by Pillow."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hybrid_detect.compression.codec import Codec, PillowCodec, TurboCodec
from hybrid_detect.errors import InvalidFrameError
from hybrid_detect.frames.camera import CameraImage
from hybrid_detect.frames.frame import Frame
from hybrid_detect.frames.raster import Interleaved, Planes, Raster, Scratch
from hybrid_detect.frames.shrinking import shrinks_fast, three_quarters

from .test_camera import LAYOUTS, corners, planes_of


def codecs() -> list[Codec]:
    try:
        return [PillowCodec(), TurboCodec()]
    except ImportError:
        return [PillowCodec()]


def decoded(data: bytes, mode: str = "RGB") -> np.ndarray:
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture.convert(mode), int)


def smooth(width: int, height: int) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width]
    planes = [x * 255 // max(1, width - 1), y * 255 // max(1, height - 1), 255 - (x + y) % 200]
    return Image.fromarray(np.stack(planes, -1).astype("u1"))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("limited", [False, True])
@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("mirror", [False, True])
def test_colours_are_right_for_every_layout_and_turn(
    layout: str, limited: bool, rotation: int, mirror: bool
) -> None:
    plain = planes_of(corners(64, 48), layout, padding=5, cut=True, limited=limited)
    camera = CameraImage(
        format=plain.format,
        width=64,
        height=48,
        planes=plain.planes,
        rotation=rotation,
        mirror=mirror,
        full_range=not limited,
    )
    wanted = corners(64, 48).rotate(-rotation, expand=True)
    if mirror:
        wanted = wanted.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for codec in codecs():
        got = decoded(codec.encoder(Frame.of(camera).raster())(95))
        assert got.shape == np.asarray(wanted).shape
        for y, x in ((8, 8), (8, -9), (-9, 8), (-9, -9)):
            assert np.abs(got[y, x] - np.asarray(wanted, int)[y, x]).max() <= 8


@settings(max_examples=120, deadline=None)
@given(
    st.sampled_from([*LAYOUTS, "rgb", "bgr", "rgba", "bgra", "gray"]),
    st.integers(3, 70),  # A decoder smooths the chroma of narrower pictures or does not.
    st.integers(1, 70),
    st.integers(0, 9),
    st.integers(0, 3),
)
def test_both_codecs_give_the_same_picture(
    layout: str, width: int, height: int, padding: int, flips: int
) -> None:
    picture = smooth(width, height)
    if layout in LAYOUTS:
        raster: Raster = planes_of(picture, layout, padding=padding, cut=True).raster()
    else:
        pixels = np.asarray(picture)[:: -1 if flips & 1 else 1, :: -1 if flips & 2 else 1]
        order = {"bgr": [2, 1, 0], "rgba": [0, 1, 2, 0], "bgra": [2, 1, 0, 0], "gray": 0}
        pixels = pixels[..., order.get(layout, [0, 1, 2])]
        raster = Frame.of(pixels, pixel_format=layout).raster()
    pictures = [decoded(codec.encoder(raster)(90), "YCbCr") for codec in codecs()]
    for got in pictures:
        assert got.shape == (height, width, 3)
        # Two DCTs: simplejpeg always takes the faster, less exact one.
        assert np.abs(got - pictures[0]).max() <= 15
        assert np.abs(got - pictures[0]).mean() <= 2.5
        if layout == "gray":
            assert np.abs(got[..., 0] - np.asarray(pixels, int)).max() <= 15


@pytest.mark.parametrize("layout", [*LAYOUTS, "rgb", "bgr", "rgba", "gray"])
@pytest.mark.parametrize("size", [(1, 1), (2, 1), (1, 2), (2, 2), (2, 3), (3, 2), (1, 40)])
def test_a_few_pixels_are_a_picture_too(layout: str, size: tuple[int, int]) -> None:
    colour = (180, 90, 60)
    picture = Image.new("RGB", size, colour)
    if layout in LAYOUTS:
        raster: Raster = planes_of(picture, layout, padding=3, cut=True).raster()
    else:
        order = {"bgr": [2, 1, 0], "rgba": [0, 1, 2, 0], "gray": 0}.get(layout, [0, 1, 2])
        raster = Frame.of(np.asarray(picture)[..., order], pixel_format=layout).raster()
    wanted = (180, 180, 180) if layout == "gray" else colour
    for codec in codecs():
        assert np.abs(decoded(codec.encoder(raster)(95)) - wanted).max() <= 6


@pytest.mark.parametrize("size", [(1, 1), (3, 3), (16, 3), (17, 16), (33, 31)])
def test_nothing_beyond_an_odd_edge_gets_into_the_picture(size: tuple[int, int]) -> None:
    width, height = size
    memory = np.full((height + 2, width + 2), 255, np.uint8)
    memory[:height, :width] = 100
    grey = np.full(((height + 1) // 2, (width + 1) // 2), 128, np.uint8)
    for planes in (Planes(memory[:height, :width], grey, grey), Planes(memory[:height, :width])):
        for codec in codecs():
            assert np.abs(decoded(codec.encoder(planes)(90), "L") - 100).max() <= 1


@settings(max_examples=150, deadline=None)
@given(st.data(), st.sampled_from(LAYOUTS), st.integers(1, 40), st.integers(1, 40))
def test_a_crop_is_the_same_part_of_the_whole(
    data: st.DataObject, layout: str, width: int, height: int
) -> None:
    left, top = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    wide, high = data.draw(st.integers(1, width - left)), data.draw(st.integers(1, height - top))
    plain = planes_of(smooth(width, height), layout, padding=data.draw(st.integers(0, 5)), cut=True)
    options: dict[str, Any] = {"format": plain.format, "width": width, "height": height}
    whole = np.asarray(plain.picture())
    rotation = data.draw(st.sampled_from([0, 90, 180, 270]))
    camera = CameraImage(
        planes=plain.planes, crop=(left, top, wide, high), rotation=rotation, **options
    )
    wanted = np.rot90(whole[top : top + high, left : left + wide], -rotation // 90)
    got = np.asarray(camera.picture())
    assert camera.upright_size == (got.shape[1], got.shape[0]) == (wanted.shape[1], wanted.shape[0])
    assert np.array_equal(got[..., 0], wanted[..., 0])
    if layout != "yuyv" or not top % 2:
        assert np.array_equal(got, wanted)
    raster = camera.raster()
    assert np.array_equal(raster.y, wanted[..., 0])
    assert raster.u is not None
    assert raster.u.shape == ((wanted.shape[0] + 1) // 2, (wanted.shape[1] + 1) // 2)


@pytest.mark.parametrize(
    "crop", [(0, 0, 0, 4), (-1, 0, 4, 4), (0, 0, 17, 4), (13, 0, 4, 4), (0, 9, 4, 4), (0, 0, 4), 7]
)
def test_a_crop_outside_the_picture_is_refused(crop: Any) -> None:
    with pytest.raises(InvalidFrameError, match="crop"):
        CameraImage.from_buffer(bytes(288), format="nv21", width=16, height=12, crop=crop)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([*LAYOUTS, "rgb", "gray"]),
    st.integers(2, 150),
    st.integers(2, 150),
    st.integers(1, 150),
)
def test_any_size_shrinks_to_any_smaller_one(
    layout: str, width: int, height: int, divisor: int
) -> None:
    picture = Image.new("RGB", (width, height), (180, 90, 60))
    size = (max(1, width // divisor), max(1, height // divisor))
    if layout in LAYOUTS:
        raster = planes_of(picture, layout).raster(size)
    else:
        pixels = np.asarray(picture if layout == "rgb" else picture.convert("L"))
        raster = Frame.of(pixels, pixel_format=layout).raster(size)
    assert raster.size == size
    for codec in codecs():
        got = decoded(codec.encoder(raster)(95))
        wanted = picture if layout != "gray" else picture.convert("L").convert("RGB")
        assert np.abs(got - wanted.getpixel((0, 0))).max() <= 5


def test_halving_takes_the_mean_of_four() -> None:
    noise = np.random.default_rng(1).integers(0, 256, (64, 96), dtype=np.uint8)
    chroma = np.random.default_rng(2).integers(0, 256, (2, 32, 48), dtype=np.uint8)
    halved = Planes(noise, *chroma).resized((48, 32))
    for whole, half in ((noise, halved.y), (chroma[0], halved.u), (chroma[1], halved.v)):
        high, wide = whole.shape
        means = whole.reshape(high // 2, 2, wide // 2, 2).astype(int).sum((1, 3))
        assert np.array_equal(half, (means + 2) // 4)
    quartered = Planes(noise).resized((24, 16))
    assert np.array_equal(quartered.y, Planes(halved.y).resized((24, 16)).y)


def test_three_quarters_are_means_of_what_they_cover() -> None:
    rng = np.random.default_rng(4)
    memory = rng.integers(0, 256, (72, 112), dtype=np.uint8)
    luma, chroma = memory[:, :96], rng.integers(0, 256, (2, 36, 48), dtype=np.uint8)
    shrunk = Planes(luma, *chroma).resized((72, 54))
    weights = np.array([[3, 1, 0, 0], [0, 2, 2, 0], [0, 0, 1, 3]]) / 4
    for whole, small in ((luma, shrunk.y), (chroma[0], shrunk.u), (chroma[1], shrunk.v)):
        high, wide = whole.shape
        grid = whole.reshape(high // 4, 4, wide // 4, 4).astype(float)
        means = np.einsum("ip,jq,hpwq->hiwj", weights, weights, grid).reshape(small.shape)
        assert np.abs(small - means).max() <= 2.5
        assert abs((small - means).mean()) <= 0.5
    for level in (0, 1, 128, 254, 255):
        flat = three_quarters(np.full((8, 16), level, np.uint8))
        assert np.abs(flat.astype(int) - level).max() <= 1


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 3), st.booleans(), st.booleans())
def test_what_shrinks_fast_keeps_its_picture(
    across: int, down: int, halvings: int, is_three_quarters: bool, grey: bool
) -> None:
    unit = 8 << halvings
    picture = Image.new("RGB", (unit * across, unit * down), (180, 90, 60))
    size = (unit * across >> halvings, unit * down >> halvings)
    if is_three_quarters:
        size = (size[0] // 4 * 3, size[1] // 4 * 3)
    assert shrinks_fast(picture.size, size)
    camera = planes_of(picture, "nv21", padding=6)
    whole = Planes(camera.raster().y) if grey else camera.raster()
    shrunk = whole.resized(size)
    assert shrunk.size == size
    for before, after in zip((whole.y, *whole.chroma), (shrunk.y, *shrunk.chroma), strict=True):
        assert np.abs(after.astype(int) - int(before[0, 0])).max() <= 1


@pytest.mark.parametrize("to", [(1280, 720), (96, 54), (128, 72), (1, 1), (100, 54), (144, 80)])
def test_other_shares_do_not_shrink_fast(to: tuple[int, int]) -> None:
    assert shrinks_fast((192, 108), to) == (to == (96, 54))


@pytest.mark.parametrize("part", [0, 1, 2])
@pytest.mark.parametrize("size", [(1280, 720), (640, 360), (333, 111)])
def test_a_sample_has_its_share_of_every_column(size: tuple[int, int], part: int) -> None:
    width, height = size
    ramp = np.broadcast_to((np.arange(width) * 256 // width).astype(np.uint8), (height, width))
    sample = Planes(ramp).sample(part)
    assert sample is not None
    tiles, times = sample
    assert times == pytest.approx(width * height / tiles.y.size)
    assert 5 <= times <= (13 if part else 25)
    assert abs(float(tiles.y.mean()) - float(ramp.mean())) < 30
    colour = Interleaved(np.repeat(ramp[:, :, None], 3, axis=2), "RGB").sample(part)
    assert colour is not None
    assert np.array_equal(colour[0].pixels[:, :, 0], tiles.y)


@pytest.mark.parametrize("size", [(1, 1), (79, 200), (200, 15)])
def test_what_is_too_small_for_a_sample_has_none(size: tuple[int, int]) -> None:
    assert Planes(np.zeros(size[::-1], np.uint8)).sample() is None
    assert Interleaved(np.zeros((*size[::-1], 3), np.uint8), "RGB").sample() is None


def test_activity_tells_flat_from_busy() -> None:
    flat = Planes(np.full((200, 300), 9, np.uint8)).activity()
    noise = np.random.default_rng(3).integers(0, 256, (200, 300), dtype=np.uint8)
    assert flat == 0 < 10 < Planes(noise).activity() <= 16
    assert 10 < Planes(noise[:1]).activity() <= 16
    assert Planes(noise[:, :1]).activity() == Planes(noise[:0]).activity() == 0


def test_scratch_memory_is_used_again_and_holds_until_then() -> None:
    scratch = Scratch()
    first = planes_of(smooth(32, 24), "nv21").raster(scratch=scratch)
    assert first.u is not None
    kept = first.u.copy()
    second = planes_of(corners(32, 24), "nv21").raster(scratch=scratch)
    assert second.u is not None
    assert np.shares_memory(first.u, second.u)
    assert not np.array_equal(kept, second.u)
    fresh = planes_of(corners(32, 24), "nv21").raster()
    assert fresh.u is not None
    assert np.array_equal(fresh.u, second.u)
    assert not np.shares_memory(fresh.u, second.u)

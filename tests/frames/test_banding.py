"""Bands: Pillow is handed a few rows at a time, and the pixels are the same."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from hybrid_detect.compression.codec import PillowCodec
from hybrid_detect.compression.jpeg_markers import without_metadata
from hybrid_detect.frames import banding
from hybrid_detect.frames.banding import BAND_PIXELS, bands, pixels_of
from hybrid_detect.frames.frame import Frame
from hybrid_detect.frames.raster import Interleaved, Planes, Raster
from hybrid_detect.frames.scaling import resized

FEW_PIXELS = 1000
ORDERS = {"RGB": [0, 1, 2], "BGR": [2, 1, 0], "RGBX": [0, 1, 2, 0], "BGRX": [2, 1, 0, 0]}

seeds = st.integers(0, 2**32 - 1)
sides = st.integers(1, 140)

many_bands = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture
def narrow_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(banding, "BAND_PIXELS", FEW_PIXELS)


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def raster_of_noise(layout: str, seed: int, width: int, height: int) -> Raster:
    if layout in ORDERS:
        return Interleaved(noise(seed, height, width, 3)[..., ORDERS[layout]], layout)
    chroma = (noise(seed + i, (height + 1) // 2, (width + 1) // 2) for i in (1, 2))
    return Planes(noise(seed, height, width), *(chroma if layout == "planes" else ()))


def whole_jpeg(raster: Raster, quality: int) -> bytes:
    """By Pillow, at once."""
    out = io.BytesIO()
    if isinstance(raster, Interleaved):
        raster.picture().save(out, "JPEG", quality=quality, subsampling="4:2:0")
    elif raster.is_grey:
        Image.fromarray(raster.y).save(out, "JPEG", quality=quality)
    else:
        width, height = raster.size
        full = (np.repeat(np.repeat(c, 2, 0), 2, 1)[:height, :width] for c in raster.chroma)
        picture = Image.merge("YCbCr", [Image.fromarray(p) for p in (raster.y, *full)])
        picture.save(out, "JPEG", quality=quality, subsampling="4:2:0")
    return out.getvalue()


def pixels(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture)


@given(st.integers(1, 70_000), st.integers(1, 9_000), st.sampled_from([1, 16]))
def test_bands_cover_every_row_once(width: int, height: int, multiple: int) -> None:
    edges = list(bands(width, height, multiple=multiple))
    assert [top for top, _ in edges] == [0, *(bottom for _, bottom in edges[:-1])]
    assert edges[-1][1] == height
    for top, bottom in edges:
        assert top < bottom
        assert top % multiple == 0
        assert (bottom - top) * width <= max(BAND_PIXELS, multiple * width)


@pytest.mark.parametrize("layout", [*ORDERS, "planes", "grey"])
@many_bands
@given(seed=seeds, width=sides, height=st.integers(1, 400), quality=st.integers(1, 95))
@pytest.mark.usefixtures("narrow_bands")
def test_a_jpeg_in_bands_has_the_pixels_of_one_made_at_once(
    layout: str, seed: int, width: int, height: int, quality: int
) -> None:
    raster = raster_of_noise(layout, seed, width, height)
    banded = PillowCodec().encoder(raster)(quality)
    whole = whole_jpeg(raster, quality)
    np.testing.assert_array_equal(pixels(banded), pixels(whole))
    count = len(list(bands(width, height, multiple=16)))
    assert (banded == whole) == (count == 1)
    assert without_metadata(banded) == banded


@pytest.mark.parametrize("layout", ["RGB", "planes", "grey"])
@pytest.mark.parametrize("decoder", ["simplejpeg", "cv2"])
@pytest.mark.usefixtures("narrow_bands")
def test_other_decoders_take_more_bands_than_there_are_restart_numbers(
    layout: str, decoder: str
) -> None:
    module = pytest.importorskip(decoder)
    raster = raster_of_noise(layout, 1, 67, 333)
    assert len(list(bands(67, 333, multiple=16))) > 8

    def decoded(data: bytes) -> Any:
        if decoder == "simplejpeg":
            return module.decode_jpeg(data)
        return module.imdecode(np.frombuffer(data, np.uint8), module.IMREAD_COLOR)

    banded = PillowCodec().encoder(raster)(80)
    np.testing.assert_array_equal(decoded(banded), decoded(whole_jpeg(raster, 80)))


@many_bands
@given(seed=seeds, size=st.tuples(sides, st.integers(1, 300)), data=st.data())
@pytest.mark.usefixtures("narrow_bands")
def test_shrinking_in_bands_gives_what_shrinking_at_once_gives(
    seed: int, size: tuple[int, int], data: st.DataObject
) -> None:
    width, height = size
    kind = data.draw(st.sampled_from(["half", "any"]))
    to = (
        (max(1, width // 2), max(1, height // 2))
        if kind == "half"
        else (data.draw(st.integers(1, width)), data.draw(st.integers(1, height)))
    )
    raster = Interleaved(noise(seed, height, width, 3), "RGB")
    got = np.asarray(raster.resized(to).pixels, int)
    wanted = np.asarray(resized(raster.picture(), to), int)
    assert got.shape == wanted.shape
    # Pillow's own coordinates are 32-bit floats, and they differ in the last digit.
    assert np.abs(got - wanted).max() <= 1


@many_bands
@given(seed=seeds, width=sides, height=st.integers(1, 300))
@pytest.mark.usefixtures("narrow_bands")
def test_pixels_are_taken_out_of_a_picture_as_they_are(seed: int, width: int, height: int) -> None:
    array = noise(seed, height, width, 3)
    np.testing.assert_array_equal(pixels_of(Image.fromarray(array)), array)


@pytest.fixture
def picture_sizes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Pixels of each picture that Pillow has made."""
    sizes: list[int] = []
    new = Image.Image._new

    def counted_new(self: Image.Image, core: Any) -> Image.Image:
        made = new(self, core)
        sizes.append(made.width * made.height)
        return made

    frombytes = Image.frombytes

    def counted_frombytes(mode: str, size: tuple[int, int], *rest: Any) -> Image.Image:
        sizes.append(size[0] * size[1])
        return frombytes(mode, size, *rest)

    merge = Image.merge

    def counted_merge(mode: str, parts: Any) -> Image.Image:
        sizes.append(parts[0].width * parts[0].height)
        return merge(mode, parts)

    monkeypatch.setattr(Image.Image, "_new", counted_new)
    monkeypatch.setattr(Image, "frombytes", counted_frombytes)
    monkeypatch.setattr(Image, "merge", counted_merge)
    return sizes


@pytest.mark.parametrize("size", [(1280, 720), (3840, 2160)])
@pytest.mark.parametrize("layout", ["BGR", "planes"])
def test_pillow_never_holds_a_whole_picture_to_encode_it(
    layout: str, size: tuple[int, int], picture_sizes: list[int]
) -> None:
    data = PillowCodec().encoder(raster_of_noise(layout, 7, *size))(40)
    assert 0 < max(picture_sizes) <= BAND_PIXELS
    assert pixels(data).shape == (size[1], size[0], 3)


@pytest.mark.parametrize("to", [(640, 360), (1280, 720), (1000, 563)])
def test_pillow_never_holds_a_whole_picture_to_shrink_it(
    to: tuple[int, int], picture_sizes: list[int]
) -> None:
    Frame.of(noise(7, 1080, 1920, 3), pixel_format="bgr").raster(to)
    # Beyond the band, the filter needs a row or two on each side of it.
    assert 0 < max(picture_sizes) <= BAND_PIXELS + 6 * 1920

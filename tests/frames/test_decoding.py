"""Frames of encoded images and Pillow images: any format, any mode, from any reader."""

from __future__ import annotations

import io
import lzma
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

from hybrid_detect.errors import InvalidFrameError
from hybrid_detect.frames import reading
from hybrid_detect.frames.frame import Frame

from .pictures import encoded, smooth


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF"])
def test_lossless_formats_give_the_pixels_back(kind: str) -> None:
    picture = smooth(31, 17).quantize(32).convert("RGB")
    assert np.array_equal(Frame.of(encoded(picture, kind)).rgb(), np.asarray(picture))


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "AVIF"])
def test_lossy_formats_give_nearly_the_pixels_back(kind: str) -> None:
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    picture = smooth(64, 48)
    got = Frame.of(encoded(picture, kind, quality=95)).rgb().astype(int)
    assert np.abs(got - np.asarray(picture)).mean() < 3


def test_bytes_in_every_wrapping_give_the_same_frame(tmp_path: Path) -> None:
    data = encoded(smooth(31, 17))
    path = tmp_path / "picture"  # The name says nothing: the content does.
    path.write_bytes(data)
    stream = io.BytesIO(b"before" + data)
    stream.seek(6)
    with path.open("rb") as buffered, path.open("rb", buffering=0) as raw:
        images: list[Any] = [data, bytearray(data), memoryview(data), path, str(path)]
        for image in [*images, buffered, raw, stream]:
            assert np.array_equal(Frame.of(image).rgb(), np.asarray(smooth(31, 17)))


class _FailingReader:
    """A file-like object of any library, which has errors of its own."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def read(self, size: int = -1) -> bytes:
        raise self._error


@pytest.mark.parametrize(
    "error",
    [
        zipfile.BadZipFile("Bad CRC-32 for file 'secret.jpg'"),
        zlib.error("invalid block type"),
        lzma.LZMAError("corrupt"),
        RuntimeError("https://example.com/?token=secret"),
        KeyError("secret"),
        NotImplementedError("compression type 99 (secret)"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_any_error_of_a_reader_is_an_invalid_frame(error: Exception) -> None:
    with pytest.raises(InvalidFrameError) as caught:
        Frame.of(_FailingReader(error))  # type: ignore[arg-type]
    assert type(error).__name__ in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_damaged_member_of_a_zip_file_is_an_invalid_frame() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("face.png", encoded(smooth(31, 17)))
    data = bytearray(out.getvalue())
    data[60] ^= 0xFF
    with (
        zipfile.ZipFile(io.BytesIO(data)) as archive,
        archive.open("face.png") as member,
        pytest.raises(InvalidFrameError, match="BadZipFile"),
    ):
        Frame.of(member)


def test_reading_asks_for_no_more_at_a_time_than_most_pictures_have(tmp_path: Path) -> None:
    """A buffer for the limit itself, 64 MiB, is more than some processes may have."""
    asked: list[int] = []

    class Reader(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            asked.append(size or 0)
            return super().read(size)

    data = encoded(smooth(31, 17))
    assert Frame.of(Reader(data)).width == 31
    assert max(asked) == reading.PART_BYTES
    long = tmp_path / "long.bmp"
    long.write_bytes(encoded(smooth(700, 600), "BMP"))
    assert long.stat().st_size > reading.PART_BYTES
    assert Frame.of(long).rgb().shape == (600, 700, 3)


def test_a_reader_without_memory_says_so() -> None:
    with pytest.raises(InvalidFrameError, match="fits into the memory"):
        Frame.of(_FailingReader(MemoryError()))  # type: ignore[arg-type]


def test_later_changes_to_a_bytearray_do_not_matter() -> None:
    data = bytearray(encoded(smooth(31, 17)))
    frame = Frame.of(data)
    data[:] = bytes(len(data))
    assert frame.rgb().shape == (17, 31, 3)


def test_the_first_picture_of_an_animation_counts() -> None:
    first, second = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    for kind in ("GIF", "WEBP", "PNG", "TIFF"):
        options = {"lossless": True} if kind == "WEBP" else {}
        data = encoded(first, kind, save_all=True, append_images=[second], **options)
        assert Frame.of(data).rgb()[4, 4].tolist() == [255, 0, 0]


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "PA", "La", "RGBa", "RGBX", "CMYK", "HSV"])
def test_every_mode_of_pillow_becomes_rgb_or_grey(mode: str) -> None:
    between = {"PA": "P", "La": "LA", "RGBa": "RGBA"}.get(mode, mode)
    picture = smooth(16, 12).convert(between).convert(mode)
    shown = Frame.of(picture).pil()
    assert shown.mode in {"RGB", "L"}
    assert Frame.of(picture).rgb().shape == (12, 16, 3)
    assert picture.mode == mode


def test_cmyk_jpeg_has_the_right_colours() -> None:
    data = encoded(Image.new("RGB", (16, 16), (200, 40, 90)).convert("CMYK"), "JPEG", quality=95)
    assert np.abs(Frame.of(data).rgb()[8, 8].astype(int) - (200, 40, 90)).max() < 6


@pytest.mark.parametrize("mode", ["I;16", "I"])
def test_sixteen_bits_are_scaled_to_eight(mode: str) -> None:
    wide = np.array([[0, 255, 256, 0x8000, 0xFFFF]], np.uint16)
    picture = Image.fromarray(wide if mode == "I;16" else wide.astype(np.int32))
    assert picture.mode == mode
    kinds = ("PNG", "TIFF") if mode == "I;16" else ("TIFF",)
    for image in (picture, *(encoded(picture, kind) for kind in kinds)):
        assert Frame.of(image).pil().mode == "L"
        assert Frame.of(image).rgb()[0, :, 0].tolist() == [0, 0, 1, 0x80, 0xFF]


@pytest.mark.parametrize(
    ("mode", "bits"),
    [*(("I;16", bits) for bits in (8, 10, 12, 16)), *(("I", bits) for bits in (8, 12, 16, 24))],
)
def test_greys_that_use_few_of_their_bits_are_not_black(mode: str, bits: int) -> None:
    top = (1 << bits) - 1
    wide = np.array([[0, top // 4, top // 2, top]], np.int32)
    picture = Image.fromarray(wide.astype(np.uint16) if mode == "I;16" else wide)
    for image in (picture, encoded(picture, "TIFF")):
        assert Frame.of(image).rgb()[0, :, 0].tolist() == [0, 63, 127, 255]


def test_a_picture_converted_to_whole_numbers_looks_as_before() -> None:
    grey = smooth(40, 30).convert("L")
    assert np.array_equal(Frame.of(grey.convert("I")).rgb(), Frame.of(grey).rgb())


def test_greys_below_zero_are_refused() -> None:
    picture = Image.fromarray(np.array([[-1, 255]], np.int32))
    with pytest.raises(InvalidFrameError, match="greys of at least 0"):
        Frame.of(picture).rgb()


def _bmp_with_alpha(alpha: int) -> bytes:
    """A BMP of 4 bytes a pixel and a mask for the fourth. Source: BITMAPV3INFOHEADER."""
    header = struct.pack("<IiiHHIIiiII", 56, 4, 2, 1, 32, 3, 32, 0, 0, 0, 0)
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    pixels = bytes((50, 100, 200, alpha)) * 8
    return b"BM" + struct.pack("<IHHI", 70 + 32, 0, 0, 70) + header + masks + pixels


def test_an_alpha_channel_that_hides_everything_is_none() -> None:
    hidden = Image.new("RGBA", (4, 2), (200, 100, 50, 0))
    grey = Image.new("LA", (4, 2), (90, 0))
    indexed = Image.new("P", (4, 2), 1)
    indexed.putpalette([9, 9, 9, 200, 100, 50])
    for image in (
        _bmp_with_alpha(0),
        _bmp_with_alpha(255),
        hidden,
        encoded(hidden),
        encoded(hidden, "TIFF"),
        encoded(hidden, "WEBP", lossless=True, exact=True),
        encoded(indexed, transparency=1),
        encoded(indexed, "GIF", transparency=1),
    ):
        assert Frame.of(image).rgb()[1, 1].tolist() == [200, 100, 50]
    assert Frame.of(grey).rgb()[1, 1].tolist() == [90, 90, 90]


def test_transparent_pixels_lie_over_black() -> None:
    picture = Image.new("RGBA", (3, 1), (200, 100, 50, 255))
    picture.putpixel((0, 0), (200, 100, 50, 0))
    indexed = Image.new("P", (3, 1), 1)
    indexed.putpalette([9, 9, 9, 200, 100, 50])
    indexed.putpixel((0, 0), 0)
    for image in (picture, encoded(picture), encoded(indexed, transparency=0)):
        shown = Frame.of(image).pil()
        assert shown.mode == "RGB"
        assert shown.getpixel((0, 0)) == (0, 0, 0)
        assert shown.getpixel((2, 0)) == (200, 100, 50)


def test_pillow_images_are_left_alone() -> None:
    picture = smooth(30, 20)
    picture.info["comment"] = "mine"
    picture.getexif()[0x0112] = 6
    before = picture.tobytes()
    shown = Frame.of(picture).pil()
    shown.paste((0, 0, 0), (0, 0, 20, 30))
    Frame.of(picture).pil(max_side_px=5)
    assert picture.tobytes() == before
    assert picture.size == (30, 20)
    assert picture.info["comment"] == "mine"
    assert picture.getexif()[0x0112] == 6


def test_a_lazily_opened_jpeg_of_the_callers_keeps_its_size() -> None:
    picture = Image.open(io.BytesIO(encoded(smooth(320, 200), "JPEG")))
    assert Frame.of(picture).pil(max_side_px=20).size == (20, 12)
    assert picture.size == (320, 200)

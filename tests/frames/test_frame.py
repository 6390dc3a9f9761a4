"""Frames: any picture in, the same upright pixels out, and a clear refusal of anything else."""

from __future__ import annotations

import io
import json
import lzma
import struct
import threading
import time
import warnings
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps, features

from hybrid_detect.errors import ConfigurationError, InvalidFrameError
from hybrid_detect.frames import frame as frame_module
from hybrid_detect.frames import reading
from hybrid_detect.frames.frame import Frame, PixelFormat

from ..fuzzing import examples
from .bad_inputs import BAD_INPUTS, BadInput

FACES = Path(__file__).parents[3] / "shared" / "faces"


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    data = pytest.importorskip("skimage.data", reason="scikit-image brings the photo")
    return np.asarray(data.astronaut())


@pytest.fixture
def rgb() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (37, 53, 3), dtype=np.uint8)


def encoded(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def with_orientation(picture: Image.Image, orientation: int, kind: str) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(picture, kind, exif=exif)


def smooth(width: int, height: int) -> Image.Image:
    """A picture whose corners differ, and that JPEG hardly changes."""
    y, x = np.mgrid[0:height, 0:width]
    return Image.fromarray(
        np.stack([x * 255 // width, y * 255 // height, 255 - x * 255 // width], -1).astype("u1")
    )


# ---- bad input ----


def test_there_are_many_kinds_of_bad_input() -> None:
    assert len(BAD_INPUTS) >= 50
    assert len({bad.name for bad in BAD_INPUTS}) == len(BAD_INPUTS)


@pytest.mark.parametrize("bad", BAD_INPUTS, ids=repr)
def test_refuses_bad_input_and_still_takes_a_good_one(
    bad: BadInput, tmp_path: Path, rgb: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "without end" in bad.name:
        monkeypatch.setattr(reading, "MAX_ENCODED_BYTES", 1 << 20)
    with pytest.raises(InvalidFrameError) as caught:  # noqa: PT012 -- making it may raise too
        image, options = bad.make(tmp_path)
        Frame.of(image, **options).rgb()
    assert caught.value.expected
    assert caught.value.actual
    assert caught.value.expected in str(caught.value)
    assert np.array_equal(Frame.of(rgb).rgb(), rgb)


@pytest.mark.parametrize("bad", BAD_INPUTS, ids=repr)
def test_a_picture_of_bad_input_is_refused_as_well(
    bad: BadInput, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "without end" in bad.name:
        monkeypatch.setattr(reading, "MAX_ENCODED_BYTES", 1 << 20)
    with pytest.raises(InvalidFrameError):  # noqa: PT012 -- making it may raise too
        image, options = bad.make(tmp_path)
        Frame.of(image, **options).pil(max_side_px=8)


def test_messages_say_what_to_pass() -> None:
    def message(array: np.ndarray, **options: Any) -> str:
        with pytest.raises(InvalidFrameError) as caught:
            Frame.of(array, **options)
        return str(caught.value)

    assert "pixel_format='gray'" in message(np.zeros((4, 4), np.uint8))
    assert "'rgba' or 'bgra'" in message(np.zeros((4, 4, 4), np.uint8))
    assert "transpose(1, 2, 0)" in message(np.zeros((3, 8, 9), np.uint8))
    assert "multiply by 255 and cast" in message(np.zeros((4, 4, 3)))
    assert "seek(0)" in message(io.BytesIO())  # type: ignore[arg-type]


def test_messages_tell_no_secrets_and_no_content() -> None:
    for bad in ("https://example.com/face.jpg?token=secret", b"secret text that is no picture"):
        with pytest.raises(InvalidFrameError) as caught:
            Frame.of(bad)
        assert "secret" not in str(caught.value)


def test_a_bomb_is_refused_by_its_header() -> None:
    bomb = next(bad for bad in BAD_INPUTS if bad.name == "png: decompression bomb")
    image, _ = bomb.make(Path())
    with pytest.raises(InvalidFrameError, match="60000x60000"):
        Frame.of(image)


def test_a_file_over_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(smooth(64, 64), "BMP")
    (tmp_path / "big.bmp").write_bytes(data)
    monkeypatch.setattr(reading, "MAX_ENCODED_BYTES", len(data) - 1)
    for image in (tmp_path / "big.bmp", io.BytesIO(data), data, bytearray(data)):
        with pytest.raises(InvalidFrameError, match="at most"):
            Frame.of(image)
    monkeypatch.setattr(reading, "MAX_ENCODED_BYTES", len(data))
    for image in (tmp_path / "big.bmp", io.BytesIO(data), data, bytearray(data)):
        assert Frame.of(image).width == 64


@given(st.binary(max_size=400))
def test_arbitrary_bytes_raise_nothing_else(data: bytes) -> None:
    check_bytes(data)


SIGNATURES = [
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"GIF89a",
    b"BM",
    b"II*\0",
    b"MM\0*",
    b"II+\0",
    b"RIFF\x40\0\0\0WEBPVP8X",
    b"RIFF\x40\0\0\0WEBPVP8L",
    b"\0\0\0\x1cftypavif",
]


@given(st.sampled_from(SIGNATURES), st.binary(max_size=300))
def test_arbitrary_bytes_behind_a_known_signature_raise_nothing_else(
    start: bytes, rest: bytes
) -> None:
    check_bytes(start + rest)


EXIF = Image.Exif()
EXIF[0x0112] = 6
EXIF[0x011A] = 72.0
EXIF[0x0128] = 2
EXIF[0x010F] = "maker"
SAMPLES = {
    kind: encoded(smooth(80, 50), kind, exif=EXIF)
    for kind in ("JPEG", "PNG", "WEBP", "TIFF", *(["AVIF"] if features.check("avif") else []))
}
SAMPLES |= {kind: encoded(smooth(80, 50), kind) for kind in ("BMP", "GIF")}
SAMPLES["progressive"] = encoded(smooth(80, 50), "JPEG", progressive=True, comment=b"c", exif=EXIF)
SAMPLES["lzw"] = encoded(smooth(80, 50), "TIFF", compression="tiff_lzw")


@settings(max_examples=examples(400))
@given(st.sampled_from(sorted(SAMPLES)), st.data())
def test_damaged_images_raise_nothing_else(kind: str, data: st.DataObject) -> None:
    sample = bytearray(SAMPLES[kind])
    edits = st.tuples(st.integers(0, len(sample) - 1), st.integers(0, 255))
    # Headers hold what plugins trust most, so most edits go there.
    near = st.tuples(st.integers(0, 250), st.integers(0, 255))
    for position, value in data.draw(st.lists(near | edits, max_size=6)):
        sample[position] = value
    check_bytes(bytes(sample[: data.draw(st.integers(0, len(sample)) | st.just(len(sample)))]))


def check_bytes(data: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            frame = Frame.of(data, max_pixels=1_000_000)
            assert frame.rgb().shape == (frame.height, frame.width, 3)
            frame.pil(max_side_px=20)
        except InvalidFrameError:
            pass


# ---- arrays ----


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


# ---- encoded, files, streams ----


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


@pytest.mark.parametrize("bits", [8, 10, 12, 16, 24])
@pytest.mark.parametrize("mode", ["I;16", "I"])
def test_greys_that_use_few_of_their_bits_are_not_black(mode: str, bits: int) -> None:
    if bits > 16 and mode == "I;16":
        pytest.skip("a mode of 16 bits holds no more")
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


# ---- orientation ----


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_as_pillow_does(kind: str, orientation: int) -> None:
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    data = with_orientation(smooth(48, 32), orientation, kind)
    with Image.open(io.BytesIO(data)) as opened:
        wanted = ImageOps.exif_transpose(opened).convert("RGB")
    loaded = Image.open(io.BytesIO(data))
    loaded.load()
    for image in (data, Image.open(io.BytesIO(data)), loaded):
        frame = Frame.of(image)
        assert (frame.width, frame.height) == wanted.size
        assert np.array_equal(frame.rgb(), np.asarray(wanted))
        small = frame.pil(max_side_px=24)
        assert max(small.size) == 24
        reference = np.asarray(wanted.resize(small.size), int)
        assert np.abs(np.asarray(small, int) - reference).mean() < 8


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize(
    ("enough_px", "longer_px"), [(None, 1600), (801, 1600), (800, 800), (230, 400), (101, 200)]
)
def test_a_jpeg_is_decoded_no_larger_than_needed(
    orientation: int, enough_px: int | None, longer_px: int
) -> None:
    upright = Image.fromarray(np.zeros((1200, 1600, 3), np.uint8))
    frame = Frame.of(with_orientation(upright, orientation, "JPEG"))
    pixels = frame.rgb(enough_px=enough_px)
    assert max(pixels.shape) == longer_px
    assert (pixels.shape[1] > pixels.shape[0]) == (frame.width > frame.height)
    assert pixels.flags.c_contiguous


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF"])
@pytest.mark.parametrize(("enough_px", "longer_px"), [(None, 640), (321, 640), (320, 320), (9, 9)])
def test_other_formats_are_shrunk_once_they_are_twice_as_large_as_needed(
    kind: str, enough_px: int | None, longer_px: int
) -> None:
    frame = Frame.of(encoded(smooth(640, 480), kind))
    assert max(frame.rgb(enough_px=enough_px).shape) == longer_px


def test_pixels_keep_their_number() -> None:
    picture = smooth(640, 480)
    for image in (picture, np.asarray(picture)):
        assert Frame.of(image).rgb(enough_px=16).shape == (480, 640, 3)


@pytest.mark.parametrize("orientation", [0, 9, 77, 65535])
def test_an_orientation_that_is_none_is_ignored(orientation: int) -> None:
    frame = Frame.of(with_orientation(smooth(48, 32), orientation, "JPEG"))
    assert (frame.width, frame.height) == (48, 32)


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0junk", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0"]
)
def test_corrupt_exif_does_not_fail_the_frame(exif: bytes) -> None:
    for kind in ("JPEG", "PNG", "WEBP"):
        frame = Frame.of(encoded(smooth(48, 32), kind, exif=exif))
        assert frame.rgb().shape == (32, 48, 3)


def test_exif_with_a_tag_cut_off_gives_no_warning() -> None:
    exif = EXIF.tobytes()
    for end in range(8, len(exif)):
        check_bytes(encoded(smooth(16, 16), "JPEG", exif=exif[:end]))


def test_real_photos_stand_as_their_boxes_were_drawn() -> None:
    if not (FACES / "labels.json").exists():
        pytest.skip("the photos are not here")
    labels = json.loads((FACES / "labels.json").read_text())["images"]
    for name, label in labels.items():
        frame = Frame.of(FACES / name)
        assert (frame.width, frame.height) == (label["width"], label["height"])


# ---- size ----


@pytest.mark.parametrize("kind", ["array", "JPEG", "PNG", "pillow"])
@pytest.mark.parametrize("side", [1, 7, 100, 511, 512, 2000])
def test_the_longer_side_fits_and_nothing_is_enlarged(
    photo: np.ndarray, kind: str, side: int
) -> None:
    crop = photo[:300]
    picture = Image.fromarray(crop)
    image: Any = {"array": crop, "pillow": picture}.get(kind)
    frame = Frame.of(encoded(picture, kind) if image is None else image)
    small = frame.pil(max_side_px=side)
    width = min(side, 512)
    assert small.size == (width, max(1, round(300 * width / 512)))
    if side >= 7:
        wanted = np.asarray(picture.resize(small.size, Image.Resampling.BOX), int)
        assert np.abs(np.asarray(small, int) - wanted).mean() < 12


def test_a_thin_picture_keeps_one_pixel() -> None:
    assert Frame.of(np.zeros((1, 900, 3), np.uint8)).pil(max_side_px=9).size == (9, 1)


def test_a_side_below_one_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="max_side_px"):
        Frame.of(np.zeros((8, 8, 3), np.uint8)).pil(max_side_px=0)


def test_a_big_jpeg_is_decoded_at_a_reduced_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL.JpegImagePlugin import JpegImageFile

    decoded: list[tuple[int, int]] = []
    load = JpegImageFile.load

    def noting(self: JpegImageFile) -> Any:
        decoded.append(self.size)
        return load(self)

    frame = Frame.of(with_orientation(smooth(1600, 1200), 6, "JPEG"))
    monkeypatch.setattr(JpegImageFile, "load", noting)
    assert frame.pil(max_side_px=300).size == (225, 300)
    assert max(decoded) == (400, 300)


def test_pictures_carry_no_metadata() -> None:
    data = encoded(smooth(32, 32), "JPEG", exif=EXIF, comment=b"secret", icc_profile=b"icc")
    for image in (data, Image.open(io.BytesIO(data))):
        for picture in (Frame.of(image).pil(), Frame.of(image).pil(max_side_px=9)):
            assert picture.info == {}
            assert not dict(picture.getexif())
            assert b"secret" not in encoded(picture, "JPEG")


# ---- the value ----


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

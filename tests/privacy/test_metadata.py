"""Metadata: found in files that are full of it, and gone from what remove_pii returns."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import struct
import subprocess
import tracemalloc
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from hybrid_detect.errors import InvalidFrameError
from hybrid_detect.frames import frame as frame_module
from hybrid_detect.frames.camera import CameraImage, Plane
from hybrid_detect.frames.frame import Frame
from hybrid_detect.privacy.filter import PrivacyFilter
from hybrid_detect.privacy.jpeg_parts import jpeg_parts
from hybrid_detect.privacy.png_parts import png_parts
from hybrid_detect.privacy.webp_parts import webp_parts

from ..frames.bad_inputs import BAD_INPUTS, BadInput
from ..frames.broken_files import BROKEN
from ..fuzzing import examples
from .laden_files import (
    CANARY,
    DISPLAY_P3_D50,
    LADEN_FILES,
    LadenFile,
    chunk,
    encoded,
    exif,
    laden_jpeg,
    laden_png,
    laden_webp,
    picture,
    profile,
    riff_chunk,
    segment,
)

FILTER = PrivacyFilter()
PARTS = {"jpeg": jpeg_parts, "png": png_parts, "webp": webp_parts}

STRUCTURE = {
    "Adobe": {"APP14Flags0", "APP14Flags1", "ColorTransform", "DCTEncodeVersion"},
    "Composite": {"ImageSize", "Megapixels"},
    "ExifTool": {"ExifToolVersion"},
    "File": {
        "BitsPerSample",
        "ColorComponents",
        "EncodingProcess",
        "FileType",
        "FileTypeExtension",
        "ImageHeight",
        "ImageWidth",
        "MIMEType",
        "YCbCrSubSampling",
    },
    "JFIF": {"JFIFVersion", "ResolutionUnit", "XResolution", "YResolution"},
    "PNG": {
        "BitDepth",
        "ColorType",
        "Compression",
        "Filter",
        "ImageHeight",
        "ImageWidth",
        "Interlace",
        "Palette",
        "Transparency",
    },
    "RIFF": {
        "AlphaCompression",
        "AlphaFiltering",
        "AlphaPreprocessing",
        "HorizontalScale",
        "ImageHeight",
        "ImageWidth",
        "VP8Version",
        "VerticalScale",
        "WebP_Flags",
    },
}
"""What ExifTool may tell of a clean file: how a decoder has to read it."""

EVERYTHING_AS_JSON = ("-a", "-u", "-U", "-G1", "-s", "-ee3", "-j", "-b")


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def pixels(image: Image.Image) -> np.ndarray:
    """All samples of `image`, colours of a palette looked up."""
    plain = image.convert("RGBA") if image.mode in {"P", "RGB", "RGBA"} else image
    return np.asarray(plain).astype(np.int32)


def upright(data: bytes) -> Image.Image:
    turned = ImageOps.exif_transpose(opened(data))
    assert turned is not None
    return turned


@pytest.fixture(scope="module")
def cleaned() -> dict[str, bytes]:
    return {file.name: FILTER.remove_pii(file.data) for file in LADEN_FILES}


# ---- the corpus


@pytest.mark.parametrize("file", LADEN_FILES, ids=repr)
def test_all_metadata_is_found(file: LadenFile) -> None:
    found = FILTER.find_metadata(file.data)
    assert {one.name for one in found} == file.metadata
    assert all(one.size_bytes > 0 for one in found)
    assert CANARY.decode() not in repr(found)


@pytest.mark.parametrize("file", LADEN_FILES, ids=repr)
def test_parts_cover_the_whole_file(file: LadenFile) -> None:
    parts = list(PARTS[file.name.partition(":")[0]](file.data))
    assert sum(part.size_bytes for part in parts) == len(file.data)
    assert CANARY.decode() not in repr(parts)


@pytest.mark.parametrize("file", LADEN_FILES, ids=repr)
def test_nothing_is_left(file: LadenFile, cleaned: dict[str, bytes]) -> None:
    clean = cleaned[file.name]
    assert CANARY not in clean
    assert FILTER.find_metadata(clean) == ()
    assert FILTER.remove_pii(clean) == clean
    before, after = opened(file.data), opened(clean)
    assert after.format == ("JPEG" if before.format == "MPO" else before.format)
    assert not after.getexif()
    assert not {"exif", "xmp", "icc_profile", "comment", "photoshop", "dpi"} & after.info.keys()
    assert not getattr(after, "text", {})
    assert not getattr(after, "is_animated", False)
    if after.format == "JPEG":
        assert {name for name, _ in after.applist} <= {"APP0", "APP14"}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "file",
    [file for file in LADEN_FILES if "display p3" not in file.name],
    ids=repr,
)
def test_the_picture_stays_what_it_was(file: LadenFile, cleaned: dict[str, bytes]) -> None:
    shown, expected = opened(cleaned[file.name]), upright(file.data)
    assert shown.size == expected.size
    if file.name.startswith("jpeg: orientation"):
        difference = np.abs(pixels(shown) - pixels(expected))
        assert difference.mean() < 1.5
        assert difference.max() <= 16
        return
    assert shown.mode == expected.mode
    assert np.array_equal(pixels(shown), pixels(expected))


def test_an_upright_jpeg_keeps_its_coefficients(cleaned: dict[str, bytes]) -> None:
    plain = encoded(picture(), "JPEG", quality=90)
    assert cleaned["jpeg"] == plain


@pytest.mark.skipif(shutil.which("exiftool") is None, reason="exiftool is not installed")
def test_exiftool_finds_structure_and_nothing_else(
    tmp_path: Path, cleaned: dict[str, bytes]
) -> None:
    for number, file in enumerate(LADEN_FILES):
        (tmp_path / f"{number}.clean").write_bytes(cleaned[file.name])
        (tmp_path / f"{number}.laden").write_bytes(file.data)
    done = subprocess.run(
        [
            "exiftool",
            *["-a", "-u", "-U", "-G1", "-s", "-ee3", "-j", "-b"],
            *sorted(tmp_path.iterdir()),
        ],
        capture_output=True,
        timeout=50,
    )
    told = {Path(one["SourceFile"]).name: one for one in json.loads(done.stdout)}
    for number, file in enumerate(LADEN_FILES):
        of_laden, of_clean = told[f"{number}.laden"], told[f"{number}.clean"]
        tags = [tag.partition(":") for tag in of_clean if ":" in tag]
        assert [
            f"{group}:{name}"
            for group, _, name in tags
            if group != "System" and name not in STRUCTURE.get(group, ())
        ] == []
        if "EXIF" in file.metadata:  # so that the line above is known to be able to fail
            assert of_laden["IFD0:Artist"] == "CANARY artist"
            assert any(tag.startswith("GPS:") for tag in of_laden)
            assert "IFD1:ThumbnailImage" in of_laden


# ---- colour profiles


@pytest.mark.parametrize("make", [laden_jpeg, laden_png, laden_webp])
def test_a_wide_gamut_is_converted(make: Callable[..., bytes]) -> None:
    data = make(icc=profile(DISPLAY_P3_D50))
    values = pixels(opened(data))[..., :3] / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    srgb = ((0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141))
    converted = linear @ np.array(DISPLAY_P3_D50) @ np.linalg.inv(np.array(srgb))
    converted = np.clip(converted, 0, 1)
    expected = 255 * np.where(
        converted <= 0.0031308, 12.92 * converted, 1.055 * converted ** (1 / 2.4) - 0.055
    )
    shown = pixels(opened(FILTER.remove_pii(data)))[..., :3]
    assert np.abs(expected - values * 255).max() > 20  # so that leaving it out would be noticed
    assert np.abs(shown - expected).mean() < 2
    if make is not laden_jpeg:
        assert np.abs(shown - expected).max() <= 3


def test_transparency_survives_a_conversion() -> None:
    data = laden_png(mode="RGBA", icc=profile(DISPLAY_P3_D50))
    shown = opened(FILTER.remove_pii(data))
    assert np.array_equal(
        np.asarray(shown.getchannel("A")), np.asarray(opened(data).getchannel("A"))
    )


@pytest.mark.parametrize("icc", [b"CANARY", profile()[:300], bytes(200), profile() + CANARY])
def test_a_broken_profile_is_left_out(icc: bytes) -> None:
    clean = FILTER.remove_pii(laden_jpeg(icc=icc))
    assert CANARY not in clean
    assert np.array_equal(pixels(opened(clean)), pixels(opened(laden_jpeg(icc=b""))))


# ---- what else may be in files


def with_chunks(*chunks: bytes, of: bytes | None = None) -> bytes:
    plain = encoded(picture(), "PNG") if of is None else of
    return plain[:33] + b"".join(chunks) + plain[33:]


def test_png_s_own_colour_chunks_stay() -> None:
    chunks = (
        chunk(b"gAMA", struct.pack(">I", 100_000)),
        chunk(b"cHRM", bytes(32)),
        chunk(b"sRGB", b"\0"),
    )
    data = with_chunks(*chunks)
    assert FILTER.remove_pii(data) == data
    assert FILTER.find_metadata(data) == ()


@pytest.mark.parametrize("kind", [b"gAMA", b"cHRM", b"sRGB", b"cICP"])
def test_a_colour_chunk_with_more_in_it_is_left_out(kind: bytes) -> None:
    data = with_chunks(chunk(kind, CANARY * 9))
    assert FILTER.remove_pii(data) == encoded(picture(), "PNG")


@pytest.mark.parametrize("kind", [b"IDAT", b"PLTE", b"gAMA"])
@pytest.mark.parametrize("mode", ["RGB", "P"])
def test_what_a_png_has_twice_is_left_out(mode: str, kind: bytes) -> None:
    plain = encoded(picture().convert(mode), "PNG")
    gamma = chunk(b"gAMA", bytes(4))
    hidden = chunk(kind, b"HIDE" * (3 if kind == b"PLTE" else 1))
    data = plain[:33] + gamma + plain[33:-12] + chunk(b"tEXt", b"a\0b") + hidden + plain[-12:]
    clean = FILTER.remove_pii(data)
    assert b"HIDE" not in clean
    assert FILTER.find_metadata(clean) == ()
    assert np.array_equal(Frame.of(clean).rgb(), Frame.of(plain).rgb())


def test_a_png_of_16_bit_colours_keeps_them() -> None:
    rows = np.random.default_rng(3).integers(0, 256, (9, 1 + 7 * 6), dtype=np.uint8)
    rows[:, 0] = 0
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 7, 9, 16, 2, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows.tobytes()))
    data += chunk(b"IEND", b"")
    assert FILTER.remove_pii(with_chunks(chunk(b"tEXt", b"A\0" + CANARY), of=data)) == data


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (3, 2), (5, 5), (9, 13)])
def test_an_interlaced_png_s_pixels_are_counted_right(size: tuple[int, int]) -> None:
    width, height = size
    rows = b""
    for x, y, dx, dy in (
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    ):
        wide, high = len(range(x, width, dx)), len(range(y, height, dy))
        rows += high * bytes(1 + wide) if wide else b""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 1))
    start, end = b"\x89PNG\r\n\x1a\n" + header, chunk(b"IEND", b"")
    exact = start + chunk(b"IDAT", zlib.compress(rows)) + end
    assert FILTER.find_metadata(exact) == ()
    more = start + chunk(b"IDAT", zlib.compress(rows + CANARY, 0)) + end
    assert [one.name for one in FILTER.find_metadata(more)] == ["bytes behind the pixels"]
    assert CANARY not in FILTER.remove_pii(more)


def test_a_second_bitstream_in_a_webp_is_left_out() -> None:
    plain = encoded(picture(), "WEBP", lossless=True)
    body = plain[12:] + riff_chunk(b"VP8L", CANARY) + riff_chunk(b"\xff\xfe\0!", CANARY)
    data = b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body
    assert [one.name for one in FILTER.find_metadata(data)] == ["chunk VP8L", "unnamed chunk"]
    assert FILTER.remove_pii(data) == plain


def test_what_hides_between_a_jpeg_s_segments_is_left_out() -> None:
    plain = encoded(picture(), "JPEG")
    at = plain.index(b"\xff\xdb")
    hidden = CANARY + b"\xff\xff\xff\xd0" + CANARY
    data = plain[:at] + hidden + plain[at:-2] + b"\xff\xff\xff" + plain[-2:]
    assert FILTER.remove_pii(data) == plain


@pytest.mark.parametrize("behind", [segment(0xDB, bytes(65)), b"\xff\xd8", CANARY])
def test_bytes_behind_the_end_of_a_jpeg_are_left_out(behind: bytes) -> None:
    plain = encoded(picture(), "JPEG")
    assert FILTER.remove_pii(plain + behind) == plain


@pytest.mark.parametrize("name", BROKEN)
def test_broken_metadata_is_removed_like_any_other(name: str) -> None:
    plain, laden = BROKEN[name]
    clean = FILTER.remove_pii(laden)
    assert FILTER.find_metadata(clean) == ()
    assert np.array_equal(Frame.of(clean).rgb(), Frame.of(plain).rgb())


def test_a_limit_once_raised_holds_for_the_clean_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame_module, "MAX_PIXELS", 10)
    plain = encoded(picture(), "JPEG")
    laden = plain[:20] + segment(0xFE, CANARY) + plain[20:]
    with pytest.raises(InvalidFrameError, match="at most 10 pixels"):
        FILTER.remove_pii(laden)
    assert FILTER.remove_pii(Frame.of(laden, max_pixels=10**6)) == plain


# ---- what may be given


@pytest.mark.parametrize("kind", ["BMP", "GIF", "TIFF"])
def test_other_formats_become_png(kind: str) -> None:
    clean = FILTER.remove_pii(encoded(picture(), kind))
    assert opened(clean).format == "PNG"
    assert FILTER.find_metadata(clean) == ()
    assert np.array_equal(np.asarray(opened(clean)), Frame.of(encoded(picture(), kind)).rgb())


def test_pixels_become_png() -> None:
    rgb = np.asarray(picture())
    for image, options in (
        (rgb, {}),
        (np.ascontiguousarray(rgb[..., ::-1]), {"pixel_format": "bgr"}),
        (picture(), {}),
        (Frame.of(rgb), {}),
    ):
        clean = FILTER.remove_pii(image, **options)  # type: ignore[arg-type]
        assert np.array_equal(np.asarray(opened(clean)), rgb)
    camera = CameraImage(
        format="i420",  # type: ignore[arg-type]
        width=8,
        height=6,
        planes=(Plane(bytes(48), 8), Plane(bytes(12), 4), Plane(bytes(12), 4)),
    )
    assert opened(FILTER.remove_pii(camera)).size == (8, 6)


def test_a_file_may_be_a_path_a_stream_or_a_frame(tmp_path: Path) -> None:
    data = laden_jpeg()
    path = tmp_path / "photo.jpg"
    path.write_bytes(data)
    expected = FILTER.remove_pii(data)
    for image in (path, str(path), io.BytesIO(data), bytearray(data), Frame.of(data)):
        assert FILTER.remove_pii(image) == expected
    assert FILTER.find_metadata(path) == FILTER.find_metadata(data)
    assert path.read_bytes() == data


def test_metadata_is_looked_for_in_files_it_is_known_for() -> None:
    for image in (np.zeros((4, 4, 3), np.uint8), picture(), encoded(picture(), "GIF")):
        with pytest.raises(InvalidFrameError, match="JPEG, PNG or WebP"):
            FILTER.find_metadata(image)


@pytest.mark.parametrize("bad", BAD_INPUTS, ids=repr)
def test_what_is_no_picture_is_refused(bad: BadInput, tmp_path: Path) -> None:
    with pytest.raises(InvalidFrameError):  # noqa: PT012 - some refuse to be made
        image, options = bad.make(tmp_path)
        FILTER.remove_pii(Frame.of(image, **options))


# ---- bombs and damage


@cache
def _bombs() -> dict[str, bytes]:
    plain = encoded(picture("L", (8, 8)), "PNG")
    zeros = zlib.compress(bytes(100_000_000), 9)
    at = plain.index(b"IDAT") - 4
    return {
        "rows": plain[:at] + chunk(b"IDAT", zeros) + plain[-12:],
        "text": with_chunks(chunk(b"zTXt", b"A\0\0" + zeros)),
        "profile": with_chunks(chunk(b"iCCP", b"A\0\0" + zeros)),
        "size": plain[:16] + struct.pack(">II", 60_000, 60_000) + plain[24:],
    }


@pytest.mark.parametrize("name", ["rows", "text", "profile", "size"])
def test_a_bomb_takes_little_memory(name: str) -> None:
    data = _bombs()[name]
    tracemalloc.start()
    try:
        clean = FILTER.remove_pii(data)
    except InvalidFrameError:
        clean = b""
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 8_000_000
    assert len(clean) < 1000


@pytest.mark.parametrize(
    "hidden",
    [
        b"\xff" * 2_000_000,
        b"\xff\x00" * 1_000_000,
        b"\xff\xd0" * 300_000,
    ],
    ids=["fill", "stuffing", "restarts"],
)
def test_long_runs_of_markers_take_linear_time(hidden: bytes) -> None:
    plain = encoded(picture(), "JPEG")
    assert FILTER.remove_pii(plain[:20] + hidden + plain[20:]) == plain


SEEDS = [
    laden_jpeg(behind=False, progressive=True),
    laden_jpeg(6),
    laden_jpeg(icc=b"", mode="CMYK"),
    laden_png(mode="P"),
    laden_png(3, mode="RGBA", icc=profile(DISPLAY_P3_D50)),
    laden_webp(mode="RGBA", lossless=False),
    laden_webp(8),
    next(file.data for file in LADEN_FILES if file.name == "webp: animated"),
    next(file.data for file in LADEN_FILES if file.name == "png: animated"),
]


@settings(max_examples=examples(400), deadline=None)
@given(st.data())
def test_damaged_files_are_refused_or_cleaned(data: st.DataObject) -> None:
    damaged = bytearray(data.draw(st.sampled_from(SEEDS)))
    for _ in range(data.draw(st.integers(1, 5))):
        if len(damaged) < 16:
            break
        at = data.draw(st.integers(0, len(damaged) - 1))
        kind = data.draw(st.sampled_from(["flip", "cut", "insert", "drop", "repeat", "number"]))
        if kind == "flip":
            damaged[at] ^= data.draw(st.integers(1, 255))
        elif kind == "cut":
            del damaged[max(at, 12) :]
        elif kind == "insert":
            damaged[at:at] = data.draw(st.binary(min_size=1, max_size=9))
        elif kind == "drop":
            del damaged[at : at + data.draw(st.integers(1, 40))]
        elif kind == "repeat":
            damaged[at:at] = damaged[at : at + data.draw(st.integers(1, 400))]
        else:
            damaged[at : at + 4] = data.draw(
                st.sampled_from([b"\0\0\0\0", b"\xff" * 4, b"\x7f" * 4])
            )
    check_refused_or_cleaned(bytes(damaged))


@settings(max_examples=examples(200), deadline=None)
@given(
    st.sampled_from([b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\x40\0\0\0WEBP"]),
    st.binary(max_size=200),
)
def test_made_up_files_are_refused_or_cleaned(start: bytes, rest: bytes) -> None:
    check_refused_or_cleaned(start + rest)


def check_refused_or_cleaned(data: bytes) -> None:
    with contextlib.suppress(InvalidFrameError):
        assert all(one.name and one.size_bytes > 0 for one in FILTER.find_metadata(data))
    try:
        clean = FILTER.remove_pii(data)
    except InvalidFrameError:
        return
    assert FILTER.find_metadata(clean) == ()
    assert Frame.of(clean).rgb().shape == Frame.of(data).rgb().shape


def test_exif_of_the_corpus_says_what_it_should() -> None:
    read = Image.Exif()
    read.load(b"Exif\0\0" + exif(6))
    assert read[0x0112] == 6
    assert read.get_ifd(0x8825)[2] == (48.0, 51.0, 29.51)

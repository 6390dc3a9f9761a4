"""Layouts: decoders get the picture's own parts, and files of very many parts are refused."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

from hybrid_detect.compression.compressor import ImageCompressionService
from hybrid_detect.errors import InvalidFrameError
from hybrid_detect.frames import decoding, jpeg_segments, part_count, png_chunks, tiff_directory
from hybrid_detect.frames.exif import orientation_of
from hybrid_detect.frames.formats import LAYOUTS, format_of
from hybrid_detect.frames.frame import Frame
from hybrid_detect.frames.layout import Layout

from .broken_files import (
    AVIF,
    BROKEN,
    GIF,
    JPEG,
    PNG,
    TIFF,
    WEBP,
    box,
    chunk,
    encoded,
    gif_with,
    riff,
    segment,
    tiff_with,
    webp,
)

needs_avif = pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")


def without(tag: int) -> bytes:
    """The TIFF with `tag` renamed to one that means nothing."""
    data = bytearray(TIFF)
    at = struct.unpack_from("<I", data, 4)[0]
    for number in range(struct.unpack_from("<H", data, at)[0]):
        if struct.unpack_from("<H", data, at + 2 + 12 * number)[0] == tag:
            struct.pack_into("<H", data, at + 2 + 12 * number, 60_000 + number)
    return bytes(data)


# ---- many parts ----

DEAR: dict[str, Callable[[], bytes]] = {
    "jpeg: empty comments": lambda: JPEG[:20] + b"\xff\xfe\0\2" * 200 + JPEG[20:],
    "jpeg: segments without a length": lambda: JPEG[:20] + b"\xff\xe5\0\0" * 200 + JPEG[20:],
    "png: empty chunks": lambda: PNG[:33] + chunk(b"prVt", b"") * 200 + PNG[33:],
    "png: empty pixel chunks": lambda: PNG[:33] + chunk(b"IDAT", b"") * 200 + PNG[33:],
    "webp: empty chunks": lambda: webp(riff(b"PRVT", b"") * 200, WEBP[12:]),
    "gif: comments": lambda: gif_with(b"!\xfe\1c\0" * 200),
    "gif: one comment of small blocks": lambda: gif_with(b"!\xfe" + b"\1c" * 400 + b"\0"),
    "gif: bytes between blocks": lambda: gif_with(bytes(400)),
    "tiff: entries": lambda: tiff_with(*[(60_000, 3, 1, 0)] * 200),
    "avif: empty boxes": lambda: AVIF[:32] + box(b"free", b"") * 200 + AVIF[32:],
}


def refuse_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(data: bytes, name: str) -> Any:
        raise AssertionError("a decoder saw the file")

    monkeypatch.setattr(decoding, "opened", opened)


@pytest.mark.parametrize("name", DEAR)
def test_many_small_parts_are_refused_before_a_decoder_sees_them(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name.startswith("avif") and not AVIF:
        pytest.skip("this Pillow has no AVIF")
    data = DEAR[name]()
    Frame.of(data)  # under the limit that files of any size have
    monkeypatch.setattr(part_count, "FREE_PARTS", 100)
    monkeypatch.setattr(part_count, "BYTES_PER_PART", 256)
    refuse_decoding(monkeypatch)
    with pytest.raises(InvalidFrameError, match="parts for its size"):
        Frame.of(data)


def test_a_large_file_may_have_more_parts() -> None:
    count = part_count.PartCount("PNG", 64 * part_count.BYTES_PER_PART)
    count.add(part_count.FREE_PARTS + 64)
    with pytest.raises(InvalidFrameError):
        count.add()


@pytest.mark.parametrize("marker", [0xC4, 0xDB, 0xDD])
def test_tables_of_a_jpeg_are_bounded_however_large_the_file(
    marker: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jpeg_segments, "MAX_TABLE_BYTES", 900)
    Frame.of(JPEG)
    refuse_decoding(monkeypatch)
    with pytest.raises(InvalidFrameError, match="900 bytes of tables"):
        Frame.of(JPEG[:20] + segment(marker, bytes(400)) + JPEG[20:])


def test_scans_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded("JPEG", progressive=True)
    Frame.of(data).rgb()
    monkeypatch.setattr(jpeg_segments, "MAX_SCANS", 5)
    refuse_decoding(monkeypatch)
    with pytest.raises(InvalidFrameError, match="5 scans"):
        Frame.of(data)


def test_pixels_of_all_scans_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded("JPEG", progressive=True)
    passes = LAYOUTS["JPEG"](data).passes
    assert passes > 5
    monkeypatch.setattr(decoding, "MAX_PIXELS_DECODED", 1)
    Frame.of(data).rgb()  # few scans are usual
    monkeypatch.setattr(decoding, "USUAL_SCANS", passes - 1)
    monkeypatch.setattr(decoding, "MAX_PIXELS_DECODED", passes * 48 * 32)
    Frame.of(data).rgb()
    monkeypatch.setattr(decoding, "MAX_PIXELS_DECODED", passes * 48 * 32 - 1)
    with pytest.raises(InvalidFrameError, match="pixels in all of them"):
        Frame.of(data)


@pytest.mark.parametrize("fill", [b"\xff", b"\xff\x00", b"\xff\xd3", b"\xff\x01", b"\xff\xff\x00"])
def test_what_lies_between_segments_is_passed_over_in_windows(fill: bytes) -> None:
    long = fill * (200_000 // len(fill))
    data = JPEG[:20] + long + JPEG[20:]
    assert np.array_equal(Frame.of(data).rgb(), Frame.of(JPEG).rgb())


@pytest.mark.parametrize(
    "gap",
    [0, 1, 62, 63, 64, 65, 66, 127, 65_535, 131_071, 131_134, 131_135, 131_136, 131_137],
)
@pytest.mark.parametrize("byte", [b"\xff", b"\x00", b"A"])
def test_a_marker_is_found_wherever_a_window_ends(gap: int, byte: bytes) -> None:
    data = b"\xff\xd8" + byte * gap + b"\xff\xd9"
    (end,) = jpeg_segments.jpeg_segments(data)
    assert (end.marker, end.gap, end.start, end.end) == (0xD9, 2, 2 + gap, 4 + gap)


def test_many_chunks_of_pixels_become_one() -> None:
    at = PNG.index(b"IDAT") - 4
    pixels = PNG[at + 8 : -16]
    parts = [pixels[start : start + 20] for start in range(0, len(pixels), 20)]
    assert len(parts) > png_chunks.MAX_PIXEL_CHUNKS
    data = PNG[:at] + b"".join(chunk(b"IDAT", part) for part in parts) + PNG[-12:]
    assert LAYOUTS["PNG"](data).picture(data) == PNG
    assert np.array_equal(Frame.of(data).rgb(), Frame.of(PNG).rgb())
    with pytest.raises(InvalidFrameError):
        Frame.of(data[:-200]).rgb()


@pytest.mark.parametrize("cut", [4, 12, 13, 16, 17, 19])
def test_a_png_cut_behind_its_last_row_is_read(cut: int) -> None:
    assert np.array_equal(Frame.of(PNG[:-cut]).rgb(), Frame.of(PNG).rgb())


def test_a_palette_of_more_colours_than_samples_can_name_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    header = struct.pack("<IiiHHIIiiII", 40, 8, 8, 1, 8, 0, 64, 0, 0, 257, 0)
    refuse_decoding(monkeypatch)
    with pytest.raises(InvalidFrameError, match="256 colours"):
        Frame.of(b"BM" + struct.pack("<IHHI", 0, 0, 0, 54 + 257 * 4) + header + bytes(2000))


STRIPS = {
    "a strip that is the picture, many times": (
        lambda: tiff_with((273, 4, 40, 8), of=without(273)),
        "strips or tiles",
    ),
    "tiles that are the picture, many times": (
        lambda: tiff_with((322, 3, 1, 48), (323, 3, 1, 32), (324, 4, 40, 8), of=without(273)),
        "strips or tiles",
    ),
    "strips beside tiles that are many": (
        lambda: tiff_with(
            (273, 4, 40, 8), (322, 3, 1, 1), (323, 3, 1, 1), (324, 4, 1536, 8), of=without(273)
        ),
        "strips or tiles|shared",
    ),
    "a tile larger than the picture": (
        lambda: tiff_with((322, 4, 1, 60_000), (323, 4, 1, 60_000), (324, 4, 1, 8)),
        "tiles larger",
    ),
    "values shared by several entries": (
        lambda: tiff_with(*[(tag, 1, 4000, 8) for tag in (258, 320, 338, 347)], of=without(258)),
        "shared",
    ),
    "a size that is a fraction": (
        lambda: tiff_with((278, 5, 1, 8), of=without(278)),
        "whole numbers",
    ),
}


@pytest.mark.parametrize("name", STRIPS)
def test_a_tiff_names_each_byte_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, message = STRIPS[name]
    refuse_decoding(monkeypatch)
    with pytest.raises(InvalidFrameError, match=message):
        Frame.of(make())


def test_a_tiff_of_more_strips_than_any_camera_s_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = encoded("TIFF", (8, 64), tiffinfo={278: 1})
    Frame.of(data).rgb()
    monkeypatch.setattr(tiff_directory, "MAX_STRIPS", 50)
    with pytest.raises(InvalidFrameError, match="50 strips"):
        Frame.of(data)


@needs_avif
@pytest.mark.parametrize("kind", [b"iloc", b"iinf", b"ipma"])
def test_items_of_an_avif_are_counted(kind: bytes) -> None:
    many = {b"iloc": bytes(6) + b"\x7f\xff", b"iinf": bytes(4) + b"\x7f\xff"}.get(
        kind, bytes(4) + b"\0\0\x7f\xff"
    )
    with pytest.raises(InvalidFrameError, match="parts for its size"):
        Frame.of(AVIF[:32] + box(b"meta", bytes(4) + box(kind, many)) + AVIF[32:])


@needs_avif
def test_references_between_items_of_an_avif_are_counted() -> None:
    reference = box(b"dimg", b"\0\1\x7f\xff")
    with pytest.raises(InvalidFrameError, match="parts for its size"):
        Frame.of(AVIF + box(b"meta", bytes(4) + box(b"iref", bytes(4) + reference)))


def test_boxes_within_boxes_are_counted() -> None:
    data = b""
    for _ in range(20):
        data = box(b"ipco", data)
    with pytest.raises(InvalidFrameError, match="boxes within boxes"):
        LAYOUTS["AVIF"](data)


def test_a_large_bmp_of_run_lengths_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    header = struct.pack("<IiiHHIIiiII", 40, 2000, 1000, 1, 8, 1, 4, 0, 0, 2, 0)
    data = b"BM" + struct.pack("<IHHI", 0, 0, 0, 62) + header + bytes(8) + b"\x01\x00" * 2
    refuse_decoding(monkeypatch)
    with pytest.raises(InvalidFrameError, match="run lengths"):
        Frame.of(data)


# ---- metadata, and what follows the picture ----


@pytest.mark.parametrize("name", BROKEN)
def test_broken_metadata_is_left_out_and_the_picture_is_read(name: str) -> None:
    plain, laden = BROKEN[name]
    assert laden != plain
    assert np.array_equal(Frame.of(laden).rgb(), Frame.of(plain).rgb())


@needs_avif
def test_exif_of_an_avif_reaches_no_decoder() -> None:
    assert b"Exif" in AVIF
    layout = LAYOUTS["AVIF"](AVIF)
    assert b"infe" in layout.picture(AVIF)
    with Image.open(io.BytesIO(layout.picture(AVIF))) as image:
        assert not image.info.get("exif")
    assert Frame.of(AVIF).rgb().shape == (32, 48, 3)


@pytest.mark.parametrize("data", [JPEG, PNG, WEBP, GIF, encoded("BMP")], ids=format_of)
def test_a_file_that_holds_a_picture_alone_is_not_copied(data: bytes) -> None:
    assert LAYOUTS[format_of(data)](data).picture(data) is data


BEHIND = b"\0\0\0\x18ftypmp42" + b"\xff\xda\0\2" * 200 + b"\xff\xd8\xff\xd9" * 200


@pytest.mark.parametrize("data", [JPEG, PNG, WEBP, GIF, encoded("BMP"), TIFF], ids=format_of)
def test_what_follows_the_picture_is_not_looked_at(data: bytes) -> None:
    frame = Frame.of(data + BEHIND)
    assert np.array_equal(frame.rgb(), Frame.of(data).rgb())


def test_a_motion_photo_is_compressed_as_its_picture() -> None:
    service = ImageCompressionService()
    whole, alone = (service.compress(data, quality=80) for data in (JPEG + BEHIND, JPEG))
    assert (whole.width, whole.height) == (alone.width, alone.height)
    assert BEHIND not in whole.data


# ---- EXIF ----


def exif(*entries: bytes, order: str = "<") -> bytes:
    start = b"II*\0" if order == "<" else b"MM\0*"
    directory = struct.pack(order + "H", len(entries)) + b"".join(entries)
    return b"Exif\0\0" + start + struct.pack(order + "I", 8) + directory


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("kind", "form"), [(1, "Bxxx"), (3, "Hxx"), (4, "I")])
def test_orientation_is_read_from_any_whole_number(order: str, kind: int, form: str) -> None:
    entry = struct.pack(f"{order}HHI{form}", 0x0112, kind, 1, 6)
    other = struct.pack(order + "HHII", 0x010F, 2, 99, 0)
    assert orientation_of(exif(other, entry, order=order)) == 6
    assert orientation_of(exif(other, entry, order=order)[6:]) == 6


def test_an_orientation_far_back_in_an_endless_directory_is_not_looked_for() -> None:
    other = struct.pack("<HHII", 0x010F, 2, 99, 0)
    entry = struct.pack("<HHIHxx", 0x0112, 3, 1, 6)
    assert orientation_of(exif(*[other] * 500, entry)) == 6
    assert orientation_of(exif(*[other] * 600, entry)) == 1


@pytest.mark.parametrize("value", [0, 9, 0xFFFF])
def test_an_orientation_out_of_range_is_none(value: int) -> None:
    assert orientation_of(exif(struct.pack("<HHIHxx", 0x0112, 3, 1, value))) == 1


# ---- the size in a JPEG's header ----


def jpeg_of(mode: str, **options: Any) -> bytes:
    out = io.BytesIO()
    Image.new(mode, (48, 31)).save(out, "JPEG", **options)
    return out.getvalue()


def frame_header(data: bytes) -> int:
    """Where the frame header of a JPEG has its marker."""
    return next(
        each.start
        for each in jpeg_segments.jpeg_segments(data)
        if each.marker in jpeg_segments.FRAME_HEADERS
    )


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}], ids=str)
def test_the_size_of_a_usual_jpeg_is_known_without_a_decoder(
    mode: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    data = jpeg_of(mode, exif=exif, **options)
    assert jpeg_segments.jpeg_layout(data).size == (48, 31)
    refuse_decoding(monkeypatch)
    picture = decoding.EncodedPicture.of(data, max_pixels=48 * 31)
    assert (picture.width, picture.height) == (31, 48)
    with pytest.raises(InvalidFrameError, match="48x31"):
        decoding.EncodedPicture.of(data, max_pixels=48 * 31 - 1)


def test_what_an_unusual_header_means_is_asked_of_a_decoder() -> None:
    """Which takes the picture, or refuses it, as it did before."""
    print_colours = jpeg_of("CMYK")
    assert jpeg_segments.jpeg_layout(print_colours).size is None
    picture = decoding.EncodedPicture.of(print_colours, max_pixels=48 * 31)
    assert (picture.width, picture.height) == (48, 31)


@pytest.mark.parametrize(
    ("at", "value"),
    [(1, 0xC9), (4, 12), (9, 2), (9, 4), (3, 14)],
    ids=["arithmetic", "12 bits", "two colours", "colours that are not told", "short"],
)
def test_a_frame_header_that_was_changed_is_no_usual_one(at: int, value: int) -> None:
    data = bytearray(jpeg_of("RGB"))
    data[frame_header(bytes(data)) + at] = value
    assert jpeg_segments.jpeg_layout(bytes(data)).size is None


def test_a_jpeg_of_two_frames_is_no_usual_one() -> None:
    data = jpeg_of("RGB")
    at = frame_header(data)
    header = data[at : at + 19]
    assert jpeg_segments.jpeg_layout(data[:at] + header + data[at:]).size is None


@pytest.mark.parametrize("at", [5, 7], ids=["height", "width"])
def test_a_jpeg_without_a_side_is_refused(at: int) -> None:
    data = bytearray(jpeg_of("RGB"))
    struct.pack_into(">H", data, frame_header(bytes(data)) + at, 0)
    with pytest.raises(InvalidFrameError):
        Frame.of(bytes(data))


# ---- a file that is all plain picture ----


def walked(data: bytes, monkeypatch: pytest.MonkeyPatch) -> Layout | None:
    """What the walk alone gives; `None` where it refuses the file."""
    with monkeypatch.context() as patch:
        patch.setattr(jpeg_segments, "_plain_layout", lambda _: None)
        try:
            return jpeg_segments.jpeg_layout(data)
        except InvalidFrameError:
            return None


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("options", [{}, {"optimize": True}, {"restart_marker_blocks": 1}], ids=str)
def test_what_libraries_write_by_default_is_plain(
    mode: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = jpeg_of(mode, **options)
    expected = walked(data, monkeypatch)
    assert jpeg_segments._plain_layout(data) == expected is not None
    assert jpeg_segments._plain_layout(data + BEHIND) == expected


PUT_IN = [
    *(bytes((0xFF, second)) for second in (0xC0, 0xC4, 0xD0, 0xD8, 0xD9, 0xDA, 0xE1, 0xFE, 0xFF)),
    *(b"", b"\0", b"\xff", b"\xff\x00", b"\xff\x01", b"\xff\xfe\0\2", b"\xff\xdd\0\4\0\1"),
    *(b"\xff\xc4\xff\xff" + bytes(65_533), b"\xff\xda\0\2" * 3, b"\xff\xdb\0\2" * 40, JPEG),
]


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"exif": exif()}], ids=str)
@pytest.mark.parametrize("cut", [0, 1, 2, 19])
def test_a_plain_picture_s_layout_is_the_walk_s_whatever_is_changed(
    options: dict[str, Any], cut: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = jpeg_of("RGB", **options)
    for at in range(len(whole)):
        for put_in in PUT_IN:
            data = whole[:at] + put_in + whole[at + cut :]
            plain = jpeg_segments._plain_layout(data)
            assert plain is None or plain == walked(data, monkeypatch), (at, put_in[:4])

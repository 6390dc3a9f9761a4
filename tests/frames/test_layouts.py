"""Layouts: decoders get the picture's own parts, and files of very many parts are refused."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

from hybrid_detect.compression.compressor import ImageCompressionService
from hybrid_detect.errors import InvalidFrameError
from hybrid_detect.frames import decoding, jpeg_segments, part_count, tiff_directory
from hybrid_detect.frames.exif import orientation_of
from hybrid_detect.frames.formats import LAYOUTS, format_of
from hybrid_detect.frames.frame import Frame

needs_avif = pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")


def encoded(kind: str, size: tuple[int, int] = (48, 32), **options: Any) -> bytes:
    noise = np.random.default_rng(7).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).save(out, kind, **options)
    return out.getvalue()


def _exif_of_a_maker() -> bytes:
    exif = Image.Exif()
    exif[0x010F] = "maker"
    return exif.tobytes()


JPEG, PNG, WEBP, GIF, TIFF = (encoded(kind) for kind in ("JPEG", "PNG", "WEBP", "GIF", "TIFF"))
AVIF = encoded("AVIF", exif=_exif_of_a_maker()) if features.check("avif") else b""


def segment(marker: int, payload: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(payload) + 2) + payload


def chunk(kind: bytes, body: bytes, checksum: int | None = None) -> bytes:
    checksum = zlib.crc32(kind + body) if checksum is None else checksum
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)


def riff(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)


def webp(*chunks: bytes) -> bytes:
    body = b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body) + 8) + kind + body


def gif_with(extension: bytes) -> bytes:
    start = 13 + (3 << ((GIF[10] & 7) + 1))
    return GIF[:start] + extension + GIF[start:]


def tiff_with(*entries: tuple[int, int, int, int], of: bytes = TIFF) -> bytes:
    """`of` with a directory that holds `entries` (tag, type, count, value) as well."""
    at = struct.unpack_from("<I", of, 4)[0]
    count = struct.unpack_from("<H", of, at)[0]
    own = of[at + 2 : at + 2 + 12 * count]
    more = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    directory = struct.pack("<H", count + len(entries)) + own + more + bytes(4)
    padding = bytes(len(of) % 2)
    return of[:4] + struct.pack("<I", len(of + padding)) + of[8:] + padding + directory


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
def test_tables_of_a_jpeg_are_counted_however_large_the_file(
    marker: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jpeg_segments, "MAX_TABLES", 20)
    refuse_decoding(monkeypatch)
    with pytest.raises(InvalidFrameError, match="20 tables"):
        Frame.of(JPEG[:20] + segment(marker, bytes(2)) * 20 + JPEG[20:])


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
    monkeypatch.setattr(decoding, "MAX_PIXELS_DECODED", passes * 48 * 32)
    Frame.of(data).rgb()
    monkeypatch.setattr(decoding, "MAX_PIXELS_DECODED", passes * 48 * 32 - 1)
    with pytest.raises(InvalidFrameError, match="in all of its scans"):
        Frame.of(data)


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

_BOMB = zlib.compress(bytes(2_000_000))
_LOOP = b"II*\0\x08\0\0\0" + struct.pack("<H", 0xFFFF) + struct.pack("<HHII", 1, 2, 9, 8) * 3
BROKEN: dict[str, tuple[bytes, bytes]] = {
    **{
        f"jpeg: {name}": (JPEG, JPEG[:20] + part + JPEG[20:])
        for name, part in {
            "EXIF": segment(0xE1, b"Exif\0\0II*\0\xff\xff\xff\xff"),
            "EXIF whose directory has no end": segment(0xE1, b"Exif\0\0" + _LOOP),
            "no EXIF at all": segment(0xE1, b""),
            "profile": segment(0xE2, b"ICC_PROFILE\0\x02\x01" + b"junk"),
            "profile without numbers": segment(0xE2, b"ICC_PROFILE\0"),
            "index of further pictures": segment(0xE2, b"MPF\0II*\0\xff\xff\xff\x7f"),
            "Photoshop data": segment(0xED, b"Photoshop 3.0\x008BIM\x04\x04\0\0\xff\xff\xff\xff"),
            "XMP": segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta"),
            "Adobe": segment(0xEE, b"Adobe"),
            "length of 0": b"\xff\xe5\0\0",
            "length of 1": b"\xff\xfe\0\1",
            "bytes between segments": b"junk" * 9,
            "fill": b"\xff" * 99,
        }.items()
    },
    **{
        f"png: {name}": (PNG, PNG[:33] + part + PNG[33:])
        for name, part in {
            "text with a wrong checksum": chunk(b"tEXt", b"a\0b", 1),
            "much compressed text": chunk(b"zTXt", b"a\0\0" + _BOMB),
            "compressed text that is none": chunk(b"iTXt", b"a\0\1\0\0\0junk"),
            "profile that is none": chunk(b"iCCP", b"a\0\0junk"),
            "much profile": chunk(b"iCCP", b"a\0\0" + _BOMB),
            "EXIF": chunk(b"eXIf", b"II*\0\xff\xff\xff\xff"),
            "gamma too short": chunk(b"gAMA", b"\0"),
            "size of a pixel too short": chunk(b"pHYs", b"\0"),
            "animation of no frames": chunk(b"acTL", bytes(8)),
            "transparency with a wrong checksum": chunk(b"tRNS", bytes(6), 1),
        }.items()
    },
    "png: text behind the pixels, cut": (PNG, PNG[:-12] + chunk(b"tEXt", b"a\0b" * 99)[:50]),
    "webp: EXIF": (WEBP, webp(WEBP[12:], riff(b"EXIF", b"junk"))),
    "webp: XMP": (WEBP, webp(WEBP[12:], riff(b"XMP ", b"\xff"))),
    "webp: a chunk cut": (WEBP, webp(WEBP[12:], riff(b"PRVT", bytes(99))[:20])),
    "gif: comment": (GIF, gif_with(b"!\xfe\xff" + b"c" * 255 + b"\0")),
    "gif: extension of no kind": (GIF, gif_with(b"!\x42\x04abcd\0")),
    "tiff: type of no kind": (TIFF, tiff_with((60_000, 99, 1, 0))),
    "tiff: values past the end": (TIFF, tiff_with((60_001, 1, 1 << 30, 8))),
    "tiff: directory of directories": (TIFF, tiff_with((34665, 4, 1, 8), (330, 4, 1, 8))),
}


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

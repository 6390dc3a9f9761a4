"""Image files that carry everything cameras, phones and editors leave in them, marked to be found.

Every piece of metadata holds a canary: ASCII that starts with ``CANARY`` wherever the format
stores text as it is. What Pillow cannot write is put together by hand.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

__all__ = ["CANARY", "LADEN_FILES", "LadenFile", "laden_jpeg", "laden_png", "laden_webp", "profile"]

CANARY = b"CANARY"
_SRGB_D50 = ((0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141))
DISPLAY_P3_D50 = ((0.5151, 0.2412, -0.0011), (0.2919, 0.6922, 0.0419), (0.1572, 0.0666, 0.7841))
"""XYZ of the primaries. Source: ICC profile registry, sRGB and Display P3."""


@dataclass(frozen=True)
class LadenFile:
    name: str
    data: bytes
    metadata: frozenset[str]
    """Names of what must be found in it."""

    def __repr__(self) -> str:
        return self.name


def picture(mode: str = "RGB", size: tuple[int, int] = (53, 37)) -> Image.Image:
    """Four corners that differ, on sides that are no multiple of a JPEG block."""
    y, x = np.mgrid[0 : size[1], 0 : size[0]]
    red, green = x * 255 // size[0], y * 255 // size[1]
    image = Image.fromarray(np.stack([red, green, 255 - red], -1).astype(np.uint8)).convert(mode)
    if mode in {"RGBA", "LA"}:
        image.putalpha(Image.fromarray((255 - green).astype(np.uint8)))
    if mode == "P":
        image.info["transparency"] = 5
    return image


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


# ---- what is put in ----


def exif(orientation: int = 1) -> bytes:
    """A TIFF structure with a camera, an artist, a position, a maker note and a thumbnail."""
    thumbnail = encoded(picture(size=(16, 12)), "JPEG", comment=CANARY + b" thumbnail")
    text, short, long, rational, blob = 2, 3, 4, 5, 7
    coordinate = struct.pack("<6I", 48, 1, 51, 1, 2951, 100)
    heap = bytearray(b"II*\0\x08\0\0\0")

    def ifd(entries: list[tuple[int, int, int, bytes]], following: bool = False) -> int:
        """Append a directory and its values; its offset."""
        at = len(heap)
        behind = at + 2 + 12 * len(entries) + 4
        table, values = struct.pack("<H", len(entries)), b""
        for tag, type_, count, value in entries:
            if len(value) > 4:
                stored = struct.pack("<I", behind + len(values))
                values += value + bytes(len(value) % 2)
            else:
                stored = value.ljust(4, b"\0")
            table += struct.pack("<HHI", tag, type_, count) + stored
        next_at = behind + len(values) if following else 0
        heap.extend(table + struct.pack("<I", next_at) + values)
        return at

    def of_text(tag: int, value: bytes) -> tuple[int, int, int, bytes]:
        return (tag, text, len(value) + 1, value + b"\0")

    note = CANARY + b" maker note"
    private = [(0x927C, blob, len(note), note), of_text(0xA431, CANARY + b" serial number")]
    gps = [
        of_text(1, b"N"),
        (2, rational, 3, coordinate),
        of_text(3, b"E"),
        (4, rational, 3, coordinate),
        of_text(0x1D, b"2026:11:23"),
    ]

    def first(private_at: int, gps_at: int) -> list[tuple[int, int, int, bytes]]:
        return [
            of_text(0x010F, CANARY + b" camera"),
            (0x0112, short, 1, struct.pack("<H", orientation)),
            of_text(0x013B, CANARY + b" artist"),
            (0x8769, long, 1, struct.pack("<I", private_at)),
            (0x8825, long, 1, struct.pack("<I", gps_at)),
        ]

    # The first directory points at the others, whose places its own length decides.
    ifd(first(0, 0), following=True)
    preview_at = len(heap)
    preview_end = preview_at + 2 + 12 * 2 + 4
    ifd(
        [
            (0x0201, long, 1, struct.pack("<I", preview_end)),
            (0x0202, long, 1, struct.pack("<I", len(thumbnail))),
        ]
    )
    heap.extend(thumbnail)
    private_at, gps_at = ifd(private), ifd(gps)
    rest = bytes(heap[preview_at:])
    del heap[8:]
    ifd(first(private_at, gps_at), following=True)
    return bytes(heap) + rest


def xmp() -> bytes:
    return (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-'
        b'rdf-syntax-ns#"><rdf:Description rdf:about="" '
        b'xmlns:dc="http://purl.org/dc/elements/1.1/">'
        b"<dc:rights>" + CANARY + b" xmp</dc:rights></rdf:Description></rdf:RDF></x:xmpmeta>"
    )


def iptc() -> bytes:
    """Photoshop's resources with one of IPTC: a city."""
    city = CANARY + b" city"
    record = b"\x1c\x02\x5a" + struct.pack(">H", len(city)) + city
    body = record + bytes(len(record) % 2)
    return b"Photoshop 3.0\0" + b"8BIM\x04\x04\0\0" + struct.pack(">I", len(record)) + body


def profile(primaries: tuple[tuple[float, ...], ...] = _SRGB_D50) -> bytes:
    """An ICC profile of a display with sRGB's tone curve. Source: ICC.1:2001-04."""

    def fixed(values: tuple[float, ...]) -> bytes:
        return b"".join(struct.pack(">i", round(value * 65536)) for value in values)

    steps = np.linspace(0, 1, 1024)
    curve = np.where(steps <= 0.04045, steps / 12.92, ((steps + 0.055) / 1.055) ** 2.4)
    levels = np.round(curve * 65535).astype(">u2").tobytes()
    name = CANARY + b" profile\0"
    described = b"desc" + bytes(4) + struct.pack(">I", len(name)) + name + bytes(78)
    tone = b"curv" + bytes(4) + struct.pack(">I", 1024) + levels
    tags = {
        b"desc": described,
        b"cprt": b"text" + bytes(4) + CANARY + b" copyright\0",
        b"wtpt": b"XYZ " + bytes(4) + fixed((0.9642, 1.0, 0.8249)),
        **{
            colour + b"XYZ": b"XYZ " + bytes(4) + fixed(xyz)
            for colour, xyz in zip((b"r", b"g", b"b"), primaries, strict=True)
        },
        **{colour + b"TRC": tone for colour in (b"r", b"g", b"b")},
    }
    table, body = struct.pack(">I", len(tags)), b""
    for signature, content in tags.items():
        offset = 128 + 4 + 12 * len(tags) + len(body)
        table += signature + struct.pack(">II", offset, len(content))
        body += content + bytes(-len(content) % 4)
    size = 128 + len(table) + len(body)
    head = struct.pack(">I4sI4s4s4s", size, bytes(4), 0x02100000, b"mntr", b"RGB ", b"XYZ ")
    head += bytes(12) + b"acsp" + bytes(28) + fixed((0.9642, 1.0, 0.8249)) + bytes(48)
    return head + table + body


def index() -> bytes:
    """The index of a file with two pictures. Source: CIPA DC-007, 5.2."""
    entries = [
        (0xB000, 7, 4, b"0100"),
        (0xB001, 4, 1, struct.pack("<I", 2)),
        (0xB002, 7, 32, struct.pack("<I", 62)),
        (0xB003, 7, 66, struct.pack("<I", 94)),
    ]
    head = b"II*\0" + struct.pack("<IH", 8, len(entries))
    table = b"".join(struct.pack("<HHI", *entry[:3]) + entry[3] for entry in entries)
    return head + table + bytes(4 + 32) + CANARY.ljust(33) * 2


def archive() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("notes.txt", CANARY + b" zip")
    return out.getvalue()


# ---- into a JPEG ----


def segment(marker: int, payload: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(payload) + 2) + payload


def laden_jpeg(
    orientation: int = 1,
    *,
    behind: bool = True,
    icc: bytes | None = None,
    mode: str = "RGB",
    **options: Any,
) -> bytes:
    """A JPEG with every kind of metadata, and with more files behind it unless told otherwise."""
    plain = encoded(picture(mode), "JPEG", quality=90, **options)
    start = 20 if plain[2:4] == b"\xff\xe0" else 2
    extension = b"http://ns.adobe.com/xmp/extension/\0" + bytes(40) + CANARY + b" extended"
    thumbnail = encoded(picture(size=(16, 12)), "JPEG", comment=CANARY + b" JFXX")
    icc = profile() if icc is None else icc
    segments = [
        segment(0xE0, b"JFXX\0\x10" + thumbnail),
        segment(0xE1, b"Exif\0\0" + exif(orientation)),
        segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp()),
        segment(0xE1, extension),
        segment(0xE2, b"ICC_PROFILE\0\1\1" + icc) if icc else b"",
        segment(0xE2, b"MPF\0" + index()),
        segment(0xEC, b"Ducky\0" + CANARY),
        segment(0xED, iptc()),
        segment(0xEF, CANARY + b" unknown"),
        segment(0xFE, CANARY + b" comment"),
    ]
    data = plain[:start] + b"".join(segments) + plain[start:]
    if behind:
        data += encoded(picture(size=(24, 24)), "JPEG", comment=CANARY + b" second") + archive()
    return data


_IN_JPEG = frozenset(
    (
        "JFXX thumbnail",
        "EXIF",
        "XMP",
        "extended XMP",
        "ICC profile",
        "index of further pictures",
        "APP12",
        "Photoshop and IPTC",
        "APP15",
        "comment",
    )
)


def _jfif_thumbnail_jpeg() -> bytes:
    """The oldest kind of thumbnail: raw pixels in the file's own header."""
    plain = encoded(picture(), "JPEG")
    header = b"JFIF\0\1\2\1\0\x48\0\x48\4\2" + CANARY * 4
    junk = CANARY + b" between"
    return plain[:2] + segment(0xE0, header) + junk + plain[20:]


# ---- into a PNG ----


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def laden_png(orientation: int = 1, *, mode: str = "RGB", icc: bytes | None = None) -> bytes:
    """A PNG with every kind of metadata, and with more behind its end."""
    plain = encoded(picture(mode), "PNG")
    icc = profile() if icc is None else icc
    before = [
        chunk(b"iCCP", CANARY + b"\0\0" + zlib.compress(icc)) if icc else b"",
        chunk(b"pHYs", struct.pack(">IIB", 2835, 2835, 1)),
        chunk(b"tIME", struct.pack(">HBBBBB", 2026, 11, 23, 9, 41, 0)),
        chunk(b"tEXt", b"Author\0" + CANARY + b" text"),
        chunk(b"zTXt", b"Comment\0\0" + zlib.compress(CANARY + b" compressed")),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp()),
        chunk(b"eXIf", exif(orientation)),
        chunk(b"prVt", CANARY + b" private"),
    ]
    behind = chunk(b"tEXt", b"Comment\0" + CANARY + b" after the pixels")
    return (
        plain[:33]
        + b"".join(before)
        + plain[33:-12]
        + behind
        + plain[-12:]
        + CANARY
        + archive()
        + encoded(picture(), "PNG")
    )


_IN_PNG = frozenset(
    ("ICC profile", "chunk pHYs", "time", "text", "EXIF", "chunk prVt", "bytes behind the picture")
)


def _png_with_more_pixels_than_it_shows(*, more_rows: bool) -> bytes:
    """As a cropping editor leaves it, that overwrites a file without cutting it."""
    plain = encoded(picture("L", (20, 10)), "PNG")
    at = plain.index(b"IDAT")
    length = int.from_bytes(plain[at - 4 : at], "big")
    stream = plain[at + 4 : at + 4 + length]
    hidden = CANARY * 30
    if more_rows:
        stream = zlib.compress(zlib.decompress(stream) + hidden, 0)
    else:
        stream += hidden
    return plain[: at - 4] + chunk(b"IDAT", stream) + plain[-12:]


def _animated_png() -> bytes:
    frames = [picture(), picture().rotate(180)]
    return encoded(frames[0], "PNG", save_all=True, append_images=frames[1:], duration=50)


# ---- into a WebP ----


def riff_chunk(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)


def laden_webp(
    orientation: int = 1, *, mode: str = "RGB", icc: bytes | None = None, lossless: bool = True
) -> bytes:
    """A WebP with every kind of metadata, and with more behind its end."""
    icc = profile() if icc is None else icc
    plain = encoded(
        picture(mode),
        "WEBP",
        lossless=lossless,
        exif=b"Exif\0\0" + exif(orientation),
        xmp=xmp(),
        icc_profile=icc,
    )
    body = plain[12:] + riff_chunk(b"PRVT", CANARY + b" private")
    riff = b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body
    return riff + CANARY + archive() + encoded(picture(), "WEBP")


_IN_WEBP = frozenset(("ICC profile", "EXIF", "XMP", "chunk PRVT", "bytes behind the picture"))


def _animated_webp() -> bytes:
    frames = [picture("RGBA"), picture("RGBA").rotate(180)]
    return encoded(
        frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True, xmp=xmp()
    )


@cache
def _files() -> tuple[LadenFile, ...]:
    behind = {"bytes behind the picture"}
    return (
        LadenFile("jpeg", laden_jpeg(), _IN_JPEG | behind),
        LadenFile("jpeg: nothing behind it", laden_jpeg(behind=False), _IN_JPEG),
        LadenFile("jpeg: progressive", laden_jpeg(progressive=True), _IN_JPEG | behind),
        LadenFile("jpeg: grey", laden_jpeg(mode="L", icc=b""), _IN_JPEG - {"ICC profile"} | behind),
        LadenFile(
            "jpeg: cmyk", laden_jpeg(mode="CMYK", icc=b""), _IN_JPEG - {"ICC profile"} | behind
        ),
        LadenFile("jpeg: rgb", laden_jpeg(keep_rgb=True), _IN_JPEG | behind),
        LadenFile(
            "jpeg: thumbnail in its header",
            _jfif_thumbnail_jpeg(),
            frozenset(("JFIF thumbnail", "bytes between segments")),
        ),
        *(
            LadenFile(f"jpeg: orientation {n}", laden_jpeg(n), _IN_JPEG | behind)
            for n in range(2, 9)
        ),
        *(
            LadenFile(f"png: {mode}", laden_png(mode=mode, icc=icc), found)
            for mode, icc, found in (
                ("RGB", None, _IN_PNG),
                ("RGBA", None, _IN_PNG),
                ("P", None, _IN_PNG),
                ("L", b"", _IN_PNG - {"ICC profile"}),
                ("LA", b"", _IN_PNG - {"ICC profile"}),
                ("1", b"", _IN_PNG - {"ICC profile"}),
                ("I;16", b"", _IN_PNG - {"ICC profile"}),
            )
        ),
        *(LadenFile(f"png: orientation {n}", laden_png(n), _IN_PNG) for n in range(2, 9)),
        *(
            LadenFile(
                f"png: hidden {'rows' if more_rows else 'bytes'}",
                _png_with_more_pixels_than_it_shows(more_rows=more_rows),
                frozenset(("bytes behind the pixels",)),
            )
            for more_rows in (True, False)
        ),
        LadenFile("png: animated", _animated_png(), frozenset(("animation",))),
        LadenFile("webp", laden_webp(), _IN_WEBP),
        LadenFile("webp: transparent", laden_webp(mode="RGBA"), _IN_WEBP),
        LadenFile("webp: lossy", laden_webp(lossless=False), _IN_WEBP),
        LadenFile("webp: lossy, transparent", laden_webp(mode="RGBA", lossless=False), _IN_WEBP),
        *(LadenFile(f"webp: orientation {n}", laden_webp(n), _IN_WEBP) for n in range(2, 9)),
        LadenFile("webp: animated", _animated_webp(), frozenset(("animation", "XMP"))),
        LadenFile("jpeg: display p3", laden_jpeg(icc=profile(DISPLAY_P3_D50)), _IN_JPEG | behind),
        LadenFile("png: display p3", laden_png(icc=profile(DISPLAY_P3_D50)), _IN_PNG),
        LadenFile("webp: display p3", laden_webp(icc=profile(DISPLAY_P3_D50)), _IN_WEBP),
    )


LADEN_FILES = _files()

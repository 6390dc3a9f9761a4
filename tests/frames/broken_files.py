"""Files whose metadata is broken, and what makes such files, part by part."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image, features

__all__ = [
    "AVIF",
    "BROKEN",
    "GIF",
    "JPEG",
    "PNG",
    "TIFF",
    "WEBP",
    "box",
    "chunk",
    "encoded",
    "gif_with",
    "riff",
    "segment",
    "tiff_with",
    "webp",
]


def encoded(kind: str, size: tuple[int, int] = (48, 32), **options: Any) -> bytes:
    noise = np.random.default_rng(7).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).save(out, kind, **options)
    return out.getvalue()


def exif_of_a_maker() -> bytes:
    exif = Image.Exif()
    exif[0x010F] = "maker"
    return exif.tobytes()


JPEG, PNG, WEBP, GIF, TIFF = (encoded(kind) for kind in ("JPEG", "PNG", "WEBP", "GIF", "TIFF"))
AVIF = encoded("AVIF", exif=exif_of_a_maker()) if features.check("avif") else b""


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
"""By what is broken: a file, and the same with something broken in it that is no picture."""

"""Everything that is no picture, or not one that was declared: for tests of every layer.

``bad.make(tmp_path)`` gives what to pass to `Frame.of` (and so to every `process_image`): an
image and keyword arguments. Pictures from cameras are checked when they are made, so for those
(``raises_itself``) `make` raises already: call it inside the ``pytest.raises`` block.
"""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hybrid_detect.frames.camera import CameraFormat, CameraImage, Plane

__all__ = ["BAD_INPUTS", "BadInput"]


@dataclass(frozen=True)
class BadInput:
    name: str
    make: Callable[[Path], tuple[Any, dict[str, Any]]]
    raises_itself: bool = False

    def __repr__(self) -> str:
        return self.name


class _Tensor:
    """Looks like a torch tensor from outside."""

    shape = (8, 8, 3)
    dtype = "torch.uint8"

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return np.zeros(self.shape, np.uint8)


class _BrokenStream:
    def read(self, size: int = -1) -> bytes:
        raise OSError("the camera was unplugged")


class _NothingYetStream:
    def read(self, size: int = -1) -> None:
        return None


class _EndlessStream:
    def read(self, size: int = -1) -> bytes:
        return bytes(size)


class _BadPath:
    def __fspath__(self) -> str:
        return "nowhere/at\0all"


def _encoded(kind: str, mode: str = "RGB", size: tuple[int, int] = (64, 48)) -> bytes:
    noise = np.random.default_rng(7).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(out, kind)
    return out.getvalue()


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _png(width: int, height: int, pixels: bytes = bytes(64)) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + _chunk(b"IDAT", zlib.compress(pixels))
        + _chunk(b"IEND", b"")
    )


def _bmp(width: int, height: int) -> bytes:
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + info


def _gif(width: int, height: int) -> bytes:
    picture = b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x4c\x01\x00;"
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6) + picture


def _float_tiff() -> bytes:
    out = io.BytesIO()
    Image.new("F", (8, 8), 0.5).save(out, "TIFF")
    return out.getvalue()


def _corrupt_png() -> bytes:
    data = bytearray(_encoded("PNG"))
    data[len(data) // 2] ^= 0xFF
    return bytes(data)


def _written(tmp_path: Path, name: str, data: bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(data)
    return path


def _read_to_its_end() -> io.BytesIO:
    stream = io.BytesIO(_encoded("PNG"))
    stream.read()
    return stream


def _closed_stream() -> io.BytesIO:
    stream = io.BytesIO(_encoded("PNG"))
    stream.close()
    return stream


def _closed_picture() -> Image.Image:
    picture = Image.open(io.BytesIO(_encoded("JPEG")))
    picture.close()
    return picture


def _released_view() -> memoryview:
    view = memoryview(_encoded("PNG"))
    view.release()
    return view


def _shrunk_camera_buffer() -> CameraImage:
    data = bytearray(8 * 8 * 3 // 2)
    image = CameraImage(
        format=CameraFormat.I420,
        width=8,
        height=8,
        planes=(Plane(data, 8), Plane(bytes(16), 4), Plane(bytes(16), 4)),
    )
    del data[10:]
    return image


def _camera(**changes: Any) -> CameraImage:
    arguments: dict[str, Any] = {
        "format": "i420",
        "width": 8,
        "height": 6,
        "planes": (Plane(bytes(48), 8), Plane(bytes(12), 4), Plane(bytes(12), 4)),
    }
    return CameraImage(**(arguments | changes))


def _one(name: str, make: Callable[[], Any], **options: Any) -> BadInput:
    return BadInput(name, lambda _tmp_path: (make(), options))


def _file(name: str, data: Callable[[], bytes]) -> BadInput:
    return BadInput(name, lambda tmp_path: (_written(tmp_path, "picture.jpg", data()), {}))


def _camera_case(name: str, make: Callable[[], Any]) -> BadInput:
    return BadInput(name, lambda _tmp_path: (make(), {}), raises_itself=True)


def _array(*shape: int, dtype: Any = np.uint8) -> Callable[[], Any]:
    return lambda: np.zeros(shape, dtype)


_JSON = json.dumps({"error": "not found"}).encode()
_HTML = b"<!DOCTYPE html><html><body>404</body></html>"
_SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"/>'

BAD_INPUTS: list[BadInput] = [
    # Encoded bytes
    _one("empty bytes", lambda: b""),
    _one("empty bytearray", bytearray),
    _one("zeros", lambda: bytes(1000)),
    _one("plain text", lambda: b"hello, camera"),
    _one("html", lambda: _HTML),
    _one("json", lambda: _JSON),
    _one("svg", lambda: _SVG),
    _one("pdf header", lambda: b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n"),
    _one("heic header", lambda: b"\0\0\0\x18ftypheic\0\0\0\0heicmif1" + bytes(64)),
    _one("mp4 header", lambda: b"\0\0\0\x18ftypisom\0\0\2\0isomiso2" + bytes(64)),
    _one("zip", lambda: b"PK\x03\x04" + bytes(60)),
    _one("jpeg: two bytes", lambda: b"\xff\xd8"),
    _one("jpeg: signature only", lambda: b"\xff\xd8\xff"),
    _one("jpeg: start and end only", lambda: b"\xff\xd8\xff\xd9"),
    _one("jpeg: cut in the header", lambda: _encoded("JPEG")[:100]),
    _one("jpeg: cut in the pixels", lambda: _encoded("JPEG")[:-400]),
    _one("jpeg: no end marker", lambda: _encoded("JPEG")[:-2]),
    _one("jpeg: after some junk", lambda: b"junk" + _encoded("JPEG")),
    _one("png: signature only", lambda: b"\x89PNG\r\n\x1a\n"),
    _one("png: cut in the header", lambda: _encoded("PNG")[:20]),
    _one("png: cut in the pixels", lambda: _encoded("PNG")[:2000]),
    _one("png: a bit flipped in the pixels", _corrupt_png),
    _one("png: no pixels wide", lambda: _png(0, 8)),
    _one("png: decompression bomb", lambda: _png(60_000, 60_000)),
    _one("png: larger than Pillow warns of", lambda: _png(10_000, 9_000)),
    _one("png: larger than allowed", lambda: _encoded("PNG"), max_pixels=64 * 48 - 1),
    _one("png: fewer pixels than its header says", lambda: _png(500, 500)),
    _one("webp: header only", lambda: b"RIFF\x24\0\0\0WEBPVP8 "),
    _one("webp: cut in the header", lambda: _encoded("WEBP")[:24]),
    _one("webp: cut in the pixels", lambda: _encoded("WEBP")[:-300]),
    _one("gif: header only", lambda: b"GIF89a"),
    _one("gif: bomb", lambda: _gif(60_000, 60_000)),
    _one("gif: cut in the pixels", lambda: _encoded("GIF")[:1200]),
    _one("bmp: header only", lambda: b"BM"),
    _one("bmp: bomb", lambda: _bmp(60_000, 60_000)),
    _one("bmp: cut in the pixels", lambda: _encoded("BMP")[:500]),
    _one("tiff: header only", lambda: b"II*\0\x08\0\0\0"),
    _one("tiff: cut in the pixels", lambda: _encoded("TIFF")[:700]),
    _one("tiff: floating point", _float_tiff),
    _one("avif: header only", lambda: b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf"),
    _one("format not supported: ppm", lambda: _encoded("PPM")),
    _one("format not supported: ico", lambda: _encoded("ICO", size=(16, 16))),
    _one("released memoryview", _released_view),
    # Arrays
    _one("array: float", _array(8, 8, 3, dtype=np.float32)),
    _one("array: float with NaN", lambda: np.full((8, 8, 3), np.nan)),
    _one("array: bool", _array(8, 8, 3, dtype=bool)),
    _one("array: int64", _array(8, 8, 3, dtype=np.int64)),
    _one("array: int8", _array(8, 8, 3, dtype=np.int8)),
    _one("array: uint16", _array(8, 8, 3, dtype=np.uint16)),
    _one("array: complex", _array(8, 8, 3, dtype=complex)),
    _one("array: object", _array(8, 8, 3, dtype=object)),
    _one("array: text", lambda: np.full((8, 8, 3), "x")),
    _one("array: fields", lambda: np.zeros((8, 8), dtype=[("r", "u1"), ("g", "u1")])),
    _one("array: no dimensions", lambda: np.array(5, np.uint8)),
    _one("array: one dimension", _array(192)),
    _one("array: two dimensions not declared grey", _array(8, 8)),
    _one("array: four dimensions", _array(1, 8, 8, 3)),
    _one("array: two channels", _array(8, 8, 2)),
    _one("array: five channels", _array(8, 8, 5)),
    _one("array: no channels", _array(8, 8, 0)),
    _one("array: channels first", _array(3, 8, 8)),
    _one("array: alpha not declared", _array(8, 8, 4)),
    _one("array: declared grey, is not", _array(8, 8, 3), pixel_format="gray"),
    _one("array: declared bgra, has no alpha", _array(8, 8, 3), pixel_format="bgra"),
    _one("array: unknown pixel format", _array(8, 8, 3), pixel_format="yuv"),
    _one("array: pixel format is no text", _array(8, 8, 3), pixel_format=None),
    _one("array: no rows", _array(0, 8, 3)),
    _one("array: no columns", _array(8, 0, 3)),
    _one("array: empty", lambda: np.empty(0, np.uint8)),
    _one("array: larger than allowed", _array(8, 8, 3), max_pixels=63),
    # Pillow images
    _one("pillow: floating point", lambda: Image.new("F", (8, 8))),
    _one("pillow: LAB", lambda: Image.new("LAB", (8, 8))),
    _one("pillow: no pixels", lambda: Image.new("RGB", (0, 8))),
    _one("pillow: closed before it was loaded", _closed_picture),
    _one("pillow: cut file", lambda: Image.open(io.BytesIO(_encoded("PNG")[:2000]))),
    _one("pillow: larger than allowed", lambda: Image.new("L", (9, 8)), max_pixels=71),
    # Other things
    _one("None", lambda: None),
    _one("True", lambda: True),
    _one("an int", lambda: 42),
    _one("a float", lambda: 0.5),
    _one("an empty list", list),
    _one("a list of pixels", lambda: [[[0, 0, 0]] * 8] * 8),
    _one("a list of pictures", lambda: [np.zeros((8, 8, 3), np.uint8)]),
    _one("a tuple", lambda: (np.zeros((8, 8, 3), np.uint8), 30)),
    _one("a dict", lambda: {"image": "base64"}),
    _one("a generator", lambda: (frame for frame in ())),
    _one("a class", lambda: Image.Image),
    _one("a lambda", lambda: lambda: None),
    _one("something like a tensor", _Tensor),
    _one("not a time", lambda: np.zeros((8, 8, 3), np.uint8), captured_at_s=float("nan")),
    _one("a time as text", lambda: np.zeros((8, 8, 3), np.uint8), captured_at_s="now"),
    # Paths
    _one("an empty string", lambda: ""),
    _one("text that is no path", lambda: "what a lovely day"),
    _one("text too long for a path", lambda: "QUJD" * 5000),
    _one("a path with a zero byte", lambda: "a\0b.jpg"),
    _one("a path object with a zero byte", _BadPath),
    _one("an https URL", lambda: "https://example.com/face.jpg?token=secret"),
    _one("a data URL", lambda: "data:image/png;base64,iVBORw0KGgo="),
    BadInput("a directory", lambda tmp_path: (tmp_path, {})),
    BadInput("a missing path", lambda tmp_path: (tmp_path / "none.jpg", {})),
    BadInput("a missing path as text", lambda tmp_path: (str(tmp_path / "none.jpg"), {})),
    _file("an empty file", lambda: b""),
    _file("a text file", lambda: b"not a picture\n"),
    _file("a truncated file", lambda: _encoded("JPEG")[:-400]),
    _file("a web page saved as a picture", lambda: _HTML),
    # Streams
    _one("a stream already read", _read_to_its_end),
    _one("an empty stream", io.BytesIO),
    _one("a stream of text", lambda: io.StringIO("hello")),
    _one("a binary stream opened as text", lambda: io.TextIOWrapper(io.BytesIO(b"\xff\xd8"))),
    _one("a closed stream", _closed_stream),
    _one("a stream of junk", lambda: io.BytesIO(b"junk")),
    _one("a stream that fails", _BrokenStream),
    _one("a stream with nothing yet", _NothingYetStream),
    _one("a stream without end", _EndlessStream),
    # Camera planes
    _one("camera: larger than allowed", _camera, max_pixels=47),
    _one("camera: buffer shrunk afterwards", _shrunk_camera_buffer),
    _camera_case("camera: unknown format", lambda: _camera(format="rgb24")),
    _camera_case("camera: no format", lambda: _camera(format=None)),
    _camera_case("camera: rotation 45", lambda: _camera(rotation=45)),
    _camera_case("camera: rotation 360", lambda: _camera(rotation=360)),
    _camera_case("camera: rotation is no number", lambda: _camera(rotation="90")),
    _camera_case("camera: negative width", lambda: _camera(width=-8)),
    _camera_case("camera: no height", lambda: _camera(height=0)),
    _camera_case("camera: width with a fraction", lambda: _camera(width=8.5)),
    _camera_case("camera: too few planes", lambda: _camera(planes=(Plane(bytes(48), 8),))),
    _camera_case("camera: planes are bytes", lambda: _camera(planes=(bytes(48),) * 3)),
    _camera_case("camera: planes is one buffer", lambda: _camera(planes=bytes(72))),
    _camera_case("camera: no planes", lambda: _camera(planes=())),
    _camera_case(
        "camera: row stride too small", lambda: _camera(planes=(Plane(bytes(48), 7),) * 3)
    ),
    _camera_case(
        "camera: row stride negative", lambda: _camera(planes=(Plane(bytes(48), -8),) * 3)
    ),
    _camera_case("camera: luma too short", lambda: _camera(planes=(Plane(bytes(47), 8),) * 3)),
    _camera_case(
        "camera: chroma too short",
        lambda: _camera(planes=(Plane(bytes(48), 8), Plane(bytes(11), 4), Plane(bytes(12), 4))),
    ),
    _camera_case(
        "camera: chroma two bytes short",
        lambda: _camera(format="nv21", planes=(Plane(bytes(48), 8), Plane(bytes(22), 8, 2))),
    ),
    _camera_case("camera: pixel stride 3", lambda: _camera(planes=(Plane(bytes(99), 16, 3),) * 3)),
    _camera_case("camera: plane of words", lambda: _camera(planes=(Plane(np.zeros(48), 8),) * 3)),
    _camera_case("camera: plane of nothing", lambda: _camera(planes=(Plane(None, 8),) * 3)),
    _camera_case(
        "camera: plane with gaps",
        lambda: _camera(planes=(Plane(np.zeros((6, 16), np.uint8)[:, ::2], 8),) * 3),
    ),
    _camera_case(
        "camera: one buffer, too short",
        lambda: CameraImage.from_buffer(bytes(71), format="i420", width=8, height=6),
    ),
    _camera_case(
        "camera: one empty buffer",
        lambda: CameraImage.from_buffer(b"", format="yuyv", width=8, height=6),
    ),
]

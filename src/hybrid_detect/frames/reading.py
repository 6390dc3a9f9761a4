"""Reading: the bytes behind a path or a file object, once and never more than a limit."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable
from typing import IO, Any

from hybrid_detect.errors import InvalidFrameError

__all__ = ["MAX_ENCODED_BYTES", "check_length", "read_file", "read_stream"]

MAX_ENCODED_BYTES = 64 * 1024 * 1024
"""Most bytes of an encoded image: a photo of 64 million pixels at a byte each, which is
twice what JPEG takes at its best quality. Reading more would let one file exhaust a small board.
"""

PART_BYTES = 1024 * 1024
"""Bytes asked for at a time: most pictures come in one or two parts."""


def read_file(path: str | os.PathLike[str]) -> bytes:
    """The content of the file at `path`.

    Raises:
        InvalidFrameError: If there is no readable regular file, or it is empty or too large.
    """
    name = _shown(path)
    if isinstance(path, str) and _is_url(path):
        raise InvalidFrameError(
            expected="the path of an image file (fetch a URL yourself and pass its bytes)",
            actual=f"a URL with scheme {path.split(':', 1)[0]!r}",
        )
    try:
        # A named pipe would block for ever on opening, and a device may never end.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise InvalidFrameError(
                expected="the path of a regular file",
                actual=f"{name}, a directory" if os.path.isdir(path) else f"{name}, a device",
            )
        with open(path, "rb") as file:
            data = _joined(file.read)
    except (OSError, ValueError) as exc:
        if isinstance(exc, InvalidFrameError):
            raise
        reason = getattr(exc, "strerror", None) or type(exc).__name__
        raise InvalidFrameError(
            expected="the path of a readable image file", actual=f"{name}: {reason}"
        ) from exc
    if not data:
        raise InvalidFrameError(expected="an image file", actual=f"{name}, an empty file")
    check_length(len(data))
    return data


def read_stream(stream: IO[bytes]) -> bytes:
    """What is left in the binary file object `stream`, from its current position.

    Raises:
        InvalidFrameError: If nothing is left, it yields text, fails, or yields too much.
    """
    expected = "a binary file object with an image left to read"
    if isinstance(stream, io.TextIOBase):
        raise InvalidFrameError(expected=expected, actual="one in text mode (open it with 'rb')")
    data = _joined(lambda limit: _read(stream, limit))
    check_length(len(data))
    if not data:
        raise InvalidFrameError(
            expected=expected, actual="one with nothing left to read (seek(0) it first?)"
        )
    return data


def _joined(read: Callable[[int], bytes]) -> bytes:
    """What `read` gives until it gives nothing, or more than the limit.

    Part by part: a buffer for the limit itself takes 64 MiB for a file of a few kilobytes, which a
    process with little address space does not get.
    """
    parts: list[bytes] = []
    length = 0
    while length <= MAX_ENCODED_BYTES:
        part = read(min(PART_BYTES, MAX_ENCODED_BYTES + 1 - length))
        if not part:
            break
        parts.append(part)
        length += len(part)
    return b"".join(parts)


def check_length(length: int) -> None:
    """Refuse `length` bytes of encoded image if they are more than the limit.

    Raises:
        InvalidFrameError: If they are.
    """
    if length > MAX_ENCODED_BYTES:
        raise InvalidFrameError(
            expected=f"at most {MAX_ENCODED_BYTES} bytes of encoded image",
            actual="more" if length == MAX_ENCODED_BYTES + 1 else f"{length}",
        )


def _read(stream: IO[bytes], limit: int) -> bytes:
    expected = "a readable binary file object"
    try:
        part: Any = stream.read(limit)
    except MemoryError:
        raise
    except Exception as exc:
        # A reader may be anything: a member of a zip file raises BadZipFile, a decompressor
        # zlib.error, a network file an error of its client. Its text may quote an address or a
        # token, so the error's name alone is told.
        raise InvalidFrameError(
            expected=expected, actual=f"{type(stream).__name__} ({type(exc).__name__})"
        ) from exc
    if isinstance(part, bytes | bytearray | memoryview):
        return bytes(part)
    raise InvalidFrameError(
        expected=expected, actual=f"{type(stream).__name__} that reads {type(part).__name__}"
    )


def _is_url(path: str) -> bool:
    scheme, separator, _ = path.partition(":")
    return bool(separator) and scheme.lower() in {
        "http",
        "https",
        "ftp",
        "data",
        "file",
        "s3",
        "rtsp",
    }


def _shown(path: str | os.PathLike[str]) -> str:
    """The last part of `path`, shortened: it may be anything that was mistaken for a path."""
    name = os.path.basename(os.fspath(path))
    return repr(name if len(name) <= 40 else name[:37] + "...")

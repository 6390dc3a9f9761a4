"""Opening a source by its name: a video file, a folder of images, a camera's index, an address."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from hybrid_detect.errors import ConfigurationError
from hybrid_detect.extras import require

__all__ = ["image_files", "open_video"]

SCHEMES = frozenset({"rtsp", "rtsps", "rtmp", "http", "https", "tcp", "udp"})
"""What OpenCV's FFmpeg opens as a live stream."""

IMAGE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
)
"""The formats that a frame can be made of."""


def image_files(name: str | os.PathLike[str]) -> Iterator[Path] | None:
    """The image files that `name` is or holds, by name; `None` if it is neither image nor folder.

    Raises:
        ConfigurationError: If it is a folder without images.
    """
    if isinstance(name, str) and urlsplit(name).scheme in SCHEMES:
        return None
    path = Path(name)
    if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
        return iter([path])
    if not path.is_dir():
        return None
    found = sorted(entry for entry in path.iterdir() if entry.suffix.lower() in IMAGE_SUFFIXES)
    if not found:
        msg = f"camera: expected images in the folder {path.name!r}, found none"
        raise ConfigurationError(msg)
    return iter(found)


def open_video(name: str | os.PathLike[str] | int) -> Any:
    """Open a video file, an address or the camera of an index with OpenCV. May block.

    Raises:
        MissingExtraError: If OpenCV is not installed.
        ConfigurationError: If it cannot be opened.
    """
    what = _described(name)
    cv2 = require("cv2", extra="camera", purpose="opening a video or camera by its name")
    capture = cv2.VideoCapture(name if isinstance(name, int) else os.fspath(name))
    if not capture.isOpened():
        capture.release()
        msg = f"{what} cannot be opened as a video"
        raise ConfigurationError(msg)
    return capture


def _described(name: str | os.PathLike[str] | int) -> str:
    """`name` for a message: an address may hold a password, so only its scheme is told."""
    if isinstance(name, int):
        return f"camera {name}"
    text = os.fspath(name)
    scheme = urlsplit(text).scheme
    if scheme in SCHEMES:
        return f"the {scheme} address"
    if not os.path.exists(text):
        hint = f" (the camera of index {text} is the number {text})" if text.isdecimal() else ""
        msg = f"camera: there is no file {os.path.basename(text)[:40]!r}{hint}"
        raise ConfigurationError(msg)
    return repr(os.path.basename(text)[:40])

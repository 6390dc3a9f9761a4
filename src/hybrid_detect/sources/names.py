"""Sources by their names: a video, a folder of images, a camera's index, an address."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from hybrid_detect.errors import ConfigurationError

__all__ = [
    "IMAGE_SUFFIXES",
    "LINUX_CAMERA",
    "SCHEMES",
    "described",
    "image_files",
    "scheme_of",
    "spelled",
    "unopened",
]

LINUX_CAMERA = "/dev/video{}"
"""A camera by its index. Source: the kernel's V4L2."""

SCHEMES = frozenset({"rtsp", "rtsps", "rtmp", "rtmps", "http", "https", "tcp", "udp", "srt", "rtp"})
"""What FFmpeg opens as a stream."""

IMAGE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
)
"""The formats that a frame can be made of."""


# Not `urlsplit`, which refuses some addresses, and quotes them with their password as it does. A
# scheme of one letter is a drive of Windows.
_SCHEME = re.compile(r"\s*([A-Za-z][A-Za-z0-9+.-]+):")


def scheme_of(name: object) -> str:
    """The scheme of an address, ``picamera2`` of ``picamera2:1`` too; empty if it has none."""
    found = _SCHEME.match(name) if isinstance(name, str) else None
    return found[1].lower() if found else ""


def spelled(address: str) -> str:
    """`address` as FFmpeg knows it: its scheme in small letters, and no blanks around it."""
    scheme = scheme_of(address)
    return scheme + address.strip()[len(scheme) :]


def image_files(name: str | os.PathLike[str]) -> Iterator[Path] | None:
    """The image files that `name` is or holds, by name; `None` if it is neither image nor folder.

    Raises:
        ConfigurationError: If it is a folder without images, or the system does not let it be
            looked at.
    """
    if scheme_of(name) in SCHEMES:
        return None
    path = Path(name)
    try:
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
            return iter([path])
        if not path.is_dir():
            return None
        found = sorted(entry for entry in path.iterdir() if entry.suffix.lower() in IMAGE_SUFFIXES)
    except OSError as error:  # no permission, a name that is too long, a drive that is gone
        why = error.strerror or type(error).__name__
        msg = f"camera: {described(name, check=False)} cannot be read: {why}"
        raise ConfigurationError(msg) from None
    if not found:
        msg = f"camera: expected images in the folder {path.name!r}, found none"
        raise ConfigurationError(msg)
    return iter(found)


def described(name: str | os.PathLike[str] | int, *, check: bool = True) -> str:
    """`name` for a message: an address may hold a password, so only its scheme is told.

    Raises:
        ConfigurationError: If it is to be checked, and is a file that is not there.
    """
    if isinstance(name, int):
        return f"camera {name}"
    text = os.fspath(name)
    scheme = scheme_of(text)
    if scheme in SCHEMES:
        return f"the {scheme} address"
    is_there = os.path.exists(text)
    if not is_there and ("@" in text or "://" in text):
        # An address of an unknown scheme, or one with a slip of the keyboard.
        if check:
            msg = "camera: it is neither a file that is there nor an address of a known scheme"
            raise ConfigurationError(msg)
        return "an address"
    base = os.path.basename(text.rstrip(os.sep))[:40]
    if check and not is_there:
        msg = f"camera: there is no file {base!r}"
        raise ConfigurationError(msg)
    return repr(base)


def unopened(name: str | os.PathLike[str] | int, why: str = "") -> str:
    """The message for a `name` that does not open as a video, because of `why` as far as known.

    Drivers say of a camera little more than that it failed, so the system is asked what is amiss.
    """
    if isinstance(name, int) and sys.platform == "linux":
        device = LINUX_CAMERA.format(name)
        if not os.path.exists(device):
            why = f"there is no {device}; 'ls /dev/video*' lists the cameras that are there"
        elif not os.access(device, os.R_OK | os.W_OK):
            why = f"this user may not use {device}: usually members of the group 'video' may"
        else:
            why = f"{device} is there: another program may hold it, or it gives no pictures"
    message = f"{described(name, check=False)} cannot be opened as a video"
    return f"{message} ({why})" if why else message

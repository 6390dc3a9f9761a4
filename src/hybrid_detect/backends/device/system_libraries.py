"""System libraries that MediaPipe needs and pip does not bring.

On Linux its library is linked against OpenGL ES, on the CPU as well: without it, ``import
mediapipe`` succeeds and the first detector fails. Slim containers and systems without a screen lack
it. Seen with MediaPipe 1.2 on Debian 12.
"""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass

from hybrid_detect.errors import BackendUnavailableError
from hybrid_detect.types import BackendKind

__all__ = ["SystemLibrary", "loading_error", "missing_libraries"]


@dataclass(frozen=True, slots=True)
class SystemLibrary:
    """A shared library of the system."""

    filename: str
    debian_package: str
    """The package of Debian, Ubuntu and Raspberry Pi OS that brings it."""


_NEEDED = (
    SystemLibrary("libEGL.so.1", "libegl1"),
    SystemLibrary("libGLESv2.so.2", "libgles2"),
)
"""What the detector needs."""

_NEEDED_BY_OPENCV = SystemLibrary("libGL.so.1", "libgl1")
"""What ``import mediapipe`` needs besides, which loads OpenCV; the detector's own process does not
do that."""


def missing_libraries() -> tuple[SystemLibrary, ...]:
    """The libraries that the detector needs and this system lacks; empty where all are there.

    Loads the others into this process: for a diagnosis, and for a process that ends after it.
    """
    if sys.platform != "linux":
        return ()
    return tuple(library for library in _NEEDED if not _can_load(library.filename))


def loading_error(exc: Exception) -> BackendUnavailableError:
    """The error for a library that MediaPipe could not load: what is missing, and the cure.

    Args:
        exc: What loading it raised.
    """
    reason = (str(exc).strip().splitlines() or [type(exc).__name__])[0]
    msg = f"MediaPipe is installed but cannot be loaded on this machine: {reason}"
    # A process that may open no file any more could load none of them.
    missing = [] if "Too many open files" in reason else list(missing_libraries())
    if _NEEDED_BY_OPENCV.filename in reason:
        missing.append(_NEEDED_BY_OPENCV)
    if missing:
        names = " and ".join(library.filename for library in missing)
        packages = " ".join(library.debian_package for library in missing)
        verb = "are" if len(missing) > 1 else "is"
        msg += f"; {names} {verb} missing: apt-get install {packages} (Debian, Raspberry Pi OS)"
    elif "failed to map" in reason or "cannot allocate" in reason.lower():
        msg += "; there is not enough memory, or a limit on address space (ulimit -v) is too low"
    return BackendUnavailableError(msg, backend=BackendKind.DEVICE)


def _can_load(filename: str) -> bool:
    try:
        ctypes.CDLL(filename)
    except OSError:
        return False
    return True

"""Pillow's errors and warnings, met in one place."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from hybrid_detect.errors import InvalidFrameError

__all__ = ["damage", "damage_reported"]


class _QuietPillow:
    """Keeps Pillow's warnings in while any thread decodes.

    `warnings.catch_warnings` by itself restores the wrong filters when two threads overlap,
    so only the first one in sets the filter and only the last one out takes it away.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._catcher = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._catcher = warnings.catch_warnings()
                self._catcher.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\b")
            self._inside += 1

    def __exit__(self, *exc_info: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._catcher.__exit__(None, None, None)


_quiet_pillow = _QuietPillow()


@contextmanager
def damage_reported(name: str) -> Iterator[None]:
    """Turn each error that Pillow raises into an `InvalidFrameError`, and keep its warnings in.

    A damaged file makes Pillow's plugins raise OSError, SyntaxError, ValueError, struct.error,
    IndexError, and more; being short of memory is not the file's fault and stays what it is.
    """
    try:
        with _quiet_pillow:
            yield
    except (InvalidFrameError, MemoryError):
        raise
    except Exception as exc:
        raise damage(name, exc) from exc


def damage(name: str, exc: Exception) -> InvalidFrameError:
    """What is told of `exc`, raised by what read a damaged file of the format `name`."""
    # Pillow's messages may quote bytes of the file, so only the error's name is told.
    return InvalidFrameError(
        expected=f"a readable {name} image",
        actual=f"a damaged or incomplete one ({type(exc).__name__})",
    )

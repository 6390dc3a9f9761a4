"""Pillow's errors and warnings, met in one place."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from hybrid_detect.errors import InvalidFrameError

__all__ = ["ReportedErrors", "damage_reported"]


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


class ReportedErrors:
    """Turns each error over a damaged file into an `InvalidFrameError`.

    What reads a damaged file raises OSError, SyntaxError, ValueError, struct.error, IndexError, and
    more; being short of memory is not the file's fault and stays what it is.

    Args:
        name: The file's format.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, at: TracebackType | None
    ) -> None:
        if isinstance(exc, Exception) and not isinstance(exc, InvalidFrameError | MemoryError):
            # Pillow's messages may quote bytes of the file, so only the error's name is told.
            raise InvalidFrameError(
                expected=f"a readable {self._name} image",
                actual=f"a damaged or incomplete one ({type(exc).__name__})",
            ) from exc


@contextmanager
def damage_reported(name: str) -> Iterator[None]:
    """The same for what Pillow reads, whose warnings are kept in."""
    with ReportedErrors(name), _quiet_pillow:
        yield

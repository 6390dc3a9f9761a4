"""A hook that writes events to a private file, a JSON object on each line."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from pathlib import Path
from typing import Any, ClassVar

from hybrid_detect.closing import Closing
from hybrid_detect.errors import ConfigurationError, StorageError
from hybrid_detect.monitoring.events import (
    BackendEvent,
    FeedbackEvent,
    FrameEvent,
    SettingsEvent,
)

__all__ = ["JsonLinesHook"]

DEFAULT_MAX_BYTES = 64 * 1024 * 1024
"""About 100,000 frames: two hours at 15 fps, and as much again in the file before."""


class JsonLinesHook(Closing):
    """Appends a line for each event to a file that its owner alone can read.

    A line is the event's `to_dict()` with a ``type`` of ``frame``, ``backend``,
    ``settings`` or ``feedback`` before it. Once the file holds `max_bytes`, it becomes
    ``NAME.1``, replacing an older one, and a new one begins. May be used from any thread, and
    several processes may write to one file.

    The session is left out unless it is asked for: it may be the name of a person, and a line is
    not found again to be erased, as a result in a `DetectionHistory` is.

    Args:
        path: The file, made with mode 0600. Its folder has to be there.
        max_bytes: The size at which a new file begins.
        with_session: Whether lines have the ``session_id``.

    Raises:
        ConfigurationError: If `max_bytes` is below 1.
        StorageError: If the file cannot be opened, or is a link.
    """

    blocking: ClassVar[bool] = True
    """Written from a thread of the dispatcher's, off the event loop."""

    def __init__(
        self,
        path: str | Path,
        *,
        max_bytes: int = DEFAULT_MAX_BYTES,
        with_session: bool = False,
    ) -> None:
        if max_bytes < 1:
            msg = f"max_bytes: expected at least 1, got {max_bytes!r}"
            raise ConfigurationError(msg)
        self._path = Path(path)
        self._max_bytes = max_bytes
        self._with_session = with_session
        self._lock = threading.Lock()
        self._is_cut = False
        self._file: int | None = self._open()

    def on_frame(self, event: FrameEvent) -> None:
        """Write what became of a frame."""
        self._write({"type": "frame", **event.to_dict()})

    def on_backend(self, event: BackendEvent) -> None:
        """Write a change of a backend."""
        self._write({"type": "backend", **event.to_dict()})

    def on_settings(self, event: SettingsEvent) -> None:
        """Write a change of the mode or of privacy."""
        self._write({"type": "settings", **event.to_dict()})

    def on_feedback(self, event: FeedbackEvent) -> None:
        """Write what was said of a result."""
        self._write({"type": "feedback", **event.to_dict()})

    def close(self) -> None:
        """Close the file; later events are dropped. May be called more than once."""
        with self._lock:
            if self._file is not None:
                os.close(self._file)
                self._file = None

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        try:
            file = os.open(self._path, flags, 0o600)
            os.fchmod(file, 0o600)  # it may have been there, readable for others
        except OSError as error:
            msg = f"cannot write {self._path}: {error.strerror}"
            raise StorageError(msg) from error
        return file

    def _write(self, values: dict[str, Any]) -> None:
        if not self._with_session:
            values.pop("session_id", None)
        line = json.dumps(values, separators=(",", ":")).encode() + b"\n"
        with self._lock:
            if self._file is None:
                return
            if os.fstat(self._file).st_size + len(line) > self._max_bytes:
                self._file = self._next_after(self._file)
            if self._is_cut:
                line = b"\n" + line  # so that it is no part of the line that was cut
            self._is_cut = os.write(self._file, line) < len(line)
            if self._is_cut:
                msg = f"cannot write {self._path}: the disk is full"
                raise StorageError(msg)

    def _next_after(self, full: int) -> int:
        """A new file after the `full` one, which stays open if there can be none."""
        is_there = False
        with contextlib.suppress(FileNotFoundError):
            is_there = os.path.samestat(self._path.lstat(), os.fstat(full))
        if is_there:  # else another process, or a try before, has set it aside
            self._path.replace(self._path.with_name(f"{self._path.name}.1"))
        opened = self._open()
        os.close(full)
        return opened

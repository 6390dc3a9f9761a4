"""Answers that came from another backend than the answer before, in the same session."""

from __future__ import annotations

import threading

__all__ = ["Switches"]

MAX_SESSIONS = 1_000
"""Sessions whose last backend is remembered; the one unseen for longest is forgotten first."""


class Switches:
    """Remembers the backend of each session's last answer. May be used from any thread.

    Several services may share it: that one session is on its device and another in the cloud is no
    switch of either.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._latest: dict[str, str] = {}

    def before(self, backend: str, session: str | None = None) -> str:
        """The backend of the answer before this one, which is remembered for the next.

        Args:
            backend: The backend of this answer.
            session: Whose answer it is.

        Returns:
            `backend` if there was none before, or if it is no switch.
        """
        session = session or ""
        with self._lock:
            before = self._latest.pop(session, backend)
            self._latest[session] = backend  # at the end: the first is the longest unseen
            if len(self._latest) > MAX_SESSIONS:
                del self._latest[next(iter(self._latest))]
        return before

"""Slots for frames under way, and one for the newest frame that waits for a slot."""

from __future__ import annotations

import asyncio

from hybrid_detect.errors import BackendError, SupersededError
from hybrid_detect.types import BackendKind

__all__ = ["NewestWinsSlots"]


class NewestWinsSlots:
    """Holds a few places for frames under way, and one for a frame that waits: the newest.

    A queue would only make every later frame older.

    Args:
        kind: The backend it belongs to, for the errors.
        places: Frames that may be under way at the same time.
    """

    def __init__(self, kind: BackendKind, *, places: int) -> None:
        self._kind = kind
        self._places = places
        self._taken = 0
        self._waiting: asyncio.Future[None] | None = None
        self._waiting_order = 0

    async def take(self, order: int) -> None:
        """Take a place, waiting for one if there is none.

        Args:
            order: Grows from frame to frame; what is larger is newer.

        Raises:
            SupersededError: If a newer frame waits already, or comes while this one waits.
        """
        if self._taken < self._places:
            self._taken += 1
            return
        if self._waiting is not None and not self._waiting.done():
            if self._waiting_order > order:
                # A fallback from another backend comes late, which does not make it newer.
                raise self._superseded()
            self._waiting.set_exception(self._superseded())
        turn = self._waiting = asyncio.get_running_loop().create_future()
        self._waiting_order = order
        try:
            await turn
        except BaseException:
            if self._waiting is turn:
                self._waiting = None
            elif turn.done() and not turn.cancelled() and turn.exception() is None:
                self.leave()  # it was given in the moment of the cancellation
            raise

    def leave(self) -> None:
        """Give a place back; the frame that waits gets it."""
        self._taken -= 1
        self._fill()

    def limit(self, places: int) -> None:
        """Have `places` places from now on; frames that have one keep it."""
        self._places = places
        self._fill()

    def _fill(self) -> None:
        """Give a place that is free to the frame that waits."""
        turn = self._waiting
        if turn is None or self._taken >= self._places:
            return
        self._waiting = None
        if not turn.done():
            self._taken += 1
            turn.set_result(None)

    def refuse_waiting(self, error: BackendError | Exception) -> None:
        """Let the frame that waits fail with `error`."""
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(error)

    def _superseded(self) -> SupersededError:
        msg = f"a newer frame came while this one waited for {self._kind.value}"
        return SupersededError(msg, backend=self._kind.value)

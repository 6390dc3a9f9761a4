"""The heartbeat of a WebSocket: a peer that is gone without a word is noticed."""

from __future__ import annotations

import struct
from collections.abc import Callable

from hybrid_detect.server.connections import Timer

__all__ = ["PING_EVERY_S", "Heartbeat"]

PING_EVERY_S = 20.0
"""Also the time for a peer to answer: one that is gone without a word is noticed in 40 s."""


class Heartbeat:
    """Pings a peer, and gives it up if it does not answer.

    Args:
        ping: Makes a ping of some bytes.
        flush: Sends what was made.
        give_up: Ends the connection.
        is_heard: Whether an answer would have been read by now.
        may_send: Whether the peer takes what is sent.
    """

    def __init__(
        self,
        ping: Callable[[bytes], object],
        flush: Callable[[], object],
        give_up: Callable[[], object],
        *,
        is_heard: Callable[[], bool],
        may_send: Callable[[], bool],
    ) -> None:
        self._make = ping
        self._flush = flush
        self._give_up = give_up
        self._is_heard = is_heard
        self._may_send = may_send
        self._timer = Timer()
        self._ping: bytes | None = None  # until it is answered
        self._pings = 0

    def start(self) -> None:
        """Begin."""
        self._timer.start(PING_EVERY_S, self._beat)

    def stop(self) -> None:
        """Ping no more."""
        self._timer.stop()

    def end(self) -> None:
        """Ping no more, and never again; the event loop lets go of this."""
        self._timer.end()

    def note(self, pong: bytes) -> None:
        """The peer has answered."""
        if pong == self._ping:
            self._ping = None

    def _beat(self) -> None:
        if self._ping is not None and self._is_heard():
            self._give_up()
            return
        if self._ping is None and self._may_send():
            self._pings += 1
            self._ping = struct.pack("!I", self._pings)
            self._make(self._ping)
            self._flush()
        self.start()

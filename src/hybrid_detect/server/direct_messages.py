"""Messages of a WebSocket without a wait between them, beside the way that ASGI gives them.

Each `await receive()` and `send()` of ASGI goes through every layer between a connection and its
route, and through the event loop. So where the server is ours, its scope has a `DirectLink`: a
message that comes while the app waits for one is taken then and there, and an answer is written
where it is made. Whatever has to wait goes the way of ASGI, which is the only one elsewhere. Layers
in between put their own around a `DirectLink`, as they do around `receive` and `send`.
"""

from __future__ import annotations

from typing import Protocol

__all__ = ["DIRECT", "DirectLink", "Taker"]

DIRECT = "hybrid_detect.direct"
"""Where the ASGI scope of a WebSocket has its `DirectLink`, if there is one."""


class Taker(Protocol):
    """Takes the messages of one WebSocket."""

    def is_ready(self) -> bool:
        """Whether it could take a message now without a wait; else the app receives it."""
        ...

    def take(self, message: bytes) -> None:
        """Take one, being ready."""
        ...


class DirectLink(Protocol):
    """The direct way to and from a peer; only for a WebSocket that the app has accepted."""

    def send(self, message: bytes) -> bool:
        """Send a message if that needs no wait; returns whether it was sent."""
        ...

    def serve(self, taker: Taker) -> None:
        """Have `taker` take what comes while the app waits to receive."""
        ...

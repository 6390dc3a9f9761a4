"""The messages of ASGI between a WebSocket's connection and its app."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

from starlette.types import Message

from hybrid_detect.server.direct_messages import Taker
from hybrid_detect.server.websocket_handshake import denial

__all__ = ["Inbox", "Outbox"]


class Inbox:
    """What an app is to be told of its WebSocket, in order."""

    def __init__(self) -> None:
        self.waiting: deque[Message] = deque([{"type": "websocket.connect"}])
        """What the app has not been told yet."""
        self._awaited: asyncio.Future[None] | None = None  # while the app waits
        self._taker: Taker | None = None

    def serve(self, taker: Taker | None) -> None:
        """Have `taker` take messages from now on; `None` for the app alone."""
        self._taker = taker

    def put(self, message: bytes) -> None:
        """A message has come."""
        taker, awaited = self._taker, self._awaited
        # Only while the app waits: what came before has been seen to then.
        if taker is None or awaited is None or awaited.done() or not taker.is_ready():
            self.tell({"type": "websocket.receive", "bytes": message})
            return
        try:
            taker.take(message)
        except Exception as error:
            if awaited.done():
                raise
            awaited.set_exception(error)  # a bug ends the app as if it had received the message

    def clear(self) -> None:
        """Nothing of it will be taken any more."""
        self.waiting.clear()

    def tell(self, event: Message) -> None:
        """Something has happened."""
        self.waiting.append(event)
        if self._awaited is not None and not self._awaited.done():
            self._awaited.set_result(None)

    async def next(self) -> Message:
        """The next of the events, once there is one."""
        while not self.waiting:
            self._awaited = asyncio.get_running_loop().create_future()
            try:
                await self._awaited
            finally:
                self._awaited = None
        return self.waiting.popleft()


class Opened(Protocol):
    """What an app's messages are carried out on."""

    @property
    def is_open(self) -> bool:
        """Whether the app has accepted the WebSocket."""
        ...

    @property
    def is_undecided(self) -> bool:
        """Whether it has neither accepted nor denied it."""
        ...

    def accept(self, message: Message) -> None:
        """Open the WebSocket."""
        ...

    def deny(self, answer: bytes) -> None:
        """Answer in HTTP instead."""
        ...

    def send(self, message: bytes) -> bool:
        """Send a message."""
        ...

    def end(self, code: int, reason: str) -> None:
        """Close the WebSocket, or refuse one that is not open."""
        ...


class Outbox:
    """What an app sends, as far as it may."""

    def __init__(self) -> None:
        self._denial: Message | None = None  # how one begins

    def carry_out(self, message: Message, link: Opened) -> None:
        """Do on `link` what `message` says.

        Raises:
            RuntimeError: If it is not the time for such a message.
        """
        kind = message["type"]
        if kind == "websocket.send" and link.is_open:
            data = message.get("bytes")
            link.send(message["text"].encode() if data is None else data)
        elif kind == "websocket.close":
            link.end(message.get("code") or 1000, message.get("reason") or "")
        elif kind == "websocket.accept" and link.is_undecided:
            link.accept(message)
        elif kind == "websocket.http.response.start" and link.is_undecided:
            self._denial = message
        elif kind == "websocket.http.response.body" and self._denial is not None:
            link.deny(denial(self._denial, message))
        else:
            msg = f"expected the next message of a WebSocket, got {kind!r}"
            raise RuntimeError(msg)

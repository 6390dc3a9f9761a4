"""The messages of a request or a stream that is observed, counted as they pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.types import Message, Receive, Send

from hybrid_detect.server.direct_messages import DirectLink, Taker

if TYPE_CHECKING:
    from hybrid_detect.server.observation import Record

__all__ = ["CountedLink", "counted_receive", "counted_send"]


class CountedLink:
    """A `DirectLink` whose bytes are added to a record.

    Args:
        record: Of the stream.
        link: Of its connection.
    """

    def __init__(self, record: Record, link: DirectLink) -> None:
        self._record = record
        self._link = link

    def send(self, message: bytes) -> bool:
        """Send a message if that needs no wait; returns whether it was sent."""
        is_sent = self._link.send(message)
        if is_sent:
            self._record.sent_bytes += len(message)
        return is_sent

    def serve(self, taker: Taker) -> None:
        """Have `taker` take what comes while the app waits to receive."""
        self._link.serve(_CountingTaker(self._record, taker))


class _CountingTaker:
    def __init__(self, record: Record, taker: Taker) -> None:
        self._record = record
        self._taker = taker
        self.is_ready = taker.is_ready

    def take(self, message: bytes) -> None:
        self._record.received_bytes += len(message)
        self._taker.take(message)


def counted_receive(record: Record, receive: Receive) -> Receive:
    """`receive`, with what it gives counted in `record`."""

    async def receive_counted() -> Message:
        message = await receive()
        kind = message["type"]
        if kind == "http.request":
            record.received_bytes += len(message.get("body", b""))
        elif kind == "websocket.receive":
            record.received_bytes += len(message.get("bytes") or b"")
        elif kind == "websocket.disconnect":
            record.close_code = record.close_code or message.get("code")
        return message

    return receive_counted


def counted_send(record: Record, send: Send, identity: tuple[tuple[bytes, bytes], ...]) -> Send:
    """`send`, with what it is given counted in `record`; `identity` is added to the headers."""

    async def send_counted(message: Message) -> None:
        kind = message["type"]
        if kind in _CONTENT:
            record.sent_bytes += len(message.get(_CONTENT[kind]) or b"")
        elif kind in {"http.response.start", "websocket.http.response.start", "websocket.accept"}:
            record.status = message.get("status", 101)
            if identity:
                headers = [*message.get("headers", ()), *identity]
                message = {**message, "headers": headers}
        elif kind == "websocket.close":
            record.close_code = message.get("code", 1000)
            record.status = record.status or 403  # which a handshake is refused with then
        await send(message)

    return send_counted


_CONTENT = {
    "http.response.body": "body",
    "websocket.http.response.body": "body",
    "websocket.send": "bytes",
}
"""Where messages have what is sent."""

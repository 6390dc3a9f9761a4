"""One WebSocket to a server: how it is opened, what it carries, and why it ended.

With `pulse`, `streaming` and `watching` the only module that meets websockets.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping

import websockets
from websockets.asyncio.client import ClientConnection, connect
from websockets.frames import Frame, Opcode
from websockets.protocol import Event

from hybrid_detect.backends.remote.close_codes import close_error, own_close_error
from hybrid_detect.backends.remote.dialling import Dialler, connection_error
from hybrid_detect.backends.remote.protocol import HttpResponse
from hybrid_detect.backends.remote.providers.custom import own_refusal
from hybrid_detect.backends.remote.retry_after import retry_after_s
from hybrid_detect.errors import BackendError, BackendUnavailableError, ProtocolError
from hybrid_detect.exchange.model_info import MODEL_INFO_HEADER, ModelInfo
from hybrid_detect.exchange.wire import (
    AWAITS_HEADER,
    HAS_HEADER,
    IN_FLIGHT_HEADER,
    RESUME_HEADER,
    SUBPROTOCOL,
)

__all__ = [
    "StreamLink",
    "link_error",
    "open_link",
    "resuming",
    "send_at_once",
    "told_in_flight",
    "told_known",
    "told_model",
]

CLOSE_TIMEOUT_S = 0.3
"""Seconds the closing handshake may take. websockets' default of 10 would stretch noticing a dead
link to 11 s, because the link is closed politely before it is given up."""

_log = logging.Logger("hybrid_detect.websockets", logging.INFO)
_log.parent = logging.getLogger("hybrid_detect")
"""websockets' own, which at debug level would write out the token and bits of the pictures. Made
without `getLogger`, so that an app's configuration of ``hybrid_detect`` cannot lower its level:
`logging.config.dictConfig` resets that of every logger below one that it configures."""


class _Connect(connect):
    """A redirect would carry pictures to an address that is not configured."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


class StreamLink(ClientConnection):
    """A link that can hand over a message when it has come, instead of when it is asked for.

    `recv` gives a message in another task, a turn of the event loop later. Were websockets to call
    `process_event` no more, every message would come by `recv` as before.
    """

    on_message: Callable[[bytes], None] | None = None
    """Is given each binary message that comes in one piece, which `recv` does not give then."""

    def process_event(self, event: Event) -> None:
        """Take what has come."""
        if (
            self.on_message is not None
            and isinstance(event, Frame)
            and event.opcode is Opcode.BINARY
            and event.fin
        ):
            self.on_message(bytes(event.data))
        else:
            super().process_event(event)


def send_at_once(link: StreamLink, *messages: bytes) -> None:
    """Hand `messages` to the transport of `link`, one after the other, without an `await`.

    In one call to the system; over TLS in one each, whose records the other end can read before the
    next have come.

    Raises:
        websockets.InvalidState: If the link is being closed.
    """
    for message in messages:
        link.protocol.send_binary(message)
    frames = link.protocol.data_to_send()
    if link.transport.get_extra_info("ssl_object") is None:
        frames = [b"".join(frames)]
    for data in frames:
        link.transport.write(data)


async def open_link(
    dialler: Dialler,
    url: str,
    *,
    headers: Mapping[str, str],
    usual_limit_s: float,
    max_reply_bytes: int,
    max_replies: int,
) -> tuple[StreamLink, float]:
    """Open a link.

    Args:
        dialler: Connects to the server.
        url: Of the stream, with scheme ``ws`` or ``wss``.
        headers: Of the handshake, the credentials among them.
        usual_limit_s: Seconds it may take on most networks.
        max_reply_bytes: A message of more closes the link.
        max_replies: Messages that are kept while they are not read.

    Returns:
        The link, and an upper bound of its round trip in seconds.

    Raises:
        BackendError: If the server or a proxy cannot be reached, or it is no server of ours.
        OSError: If TLS failed.
        websockets.WebSocketException: If the handshake failed.
    """
    limit_s = dialler.limit_s(usual_limit_s)
    context = dialler.ssl_context
    try:
        async with asyncio.timeout(limit_s):
            sock = await dialler.dial()
            connected_s = time.monotonic()
            link = await _Connect(
                url,
                create_connection=StreamLink,
                sock=sock,
                ssl=context,
                server_hostname=None if context is None else dialler.host,
                subprotocols=[websockets.Subprotocol(SUBPROTOCOL)],
                additional_headers=headers,
                user_agent_header="hybrid-detect",
                logger=_log,
                proxy=None,  # the socket ends at the server
                # JPEG does not shrink, and deflate makes a message 24 to 44 times as expensive.
                compression=None,
                open_timeout=None,
                ping_interval=None,
                close_timeout=CLOSE_TIMEOUT_S,
                max_size=max_reply_bytes,
                max_queue=max_replies,
            )
    except TimeoutError:
        msg = f"opening the link took too long (limit {limit_s:.1f} s)"
        raise BackendUnavailableError(msg, retryable=True) from None
    opened_s = time.monotonic()
    if link.subprotocol != SUBPROTOCOL:
        await link.close()
        msg = "the server opened a link, but does not speak this library's protocol on it"
        raise ProtocolError(msg)
    assert isinstance(link, StreamLink)  # noqa: S101 - create_connection says so
    return link, opened_s - connected_s


def told_in_flight(link: ClientConnection) -> int | None:
    """Frames of a stream that the server looks at at the same time; `None` if it did not say."""
    text = link.response.headers.get(IN_FLIGHT_HEADER, "") if link.response else ""
    return int(text) if text.isascii() and text.isdigit() and int(text[:9]) > 0 else None


def resuming(name: str, awaited: Collection[int]) -> dict[str, str]:
    """The headers that ask the server to go on with a stream.

    Args:
        name: What the stream is called.
        awaited: Request ids of the frames that wait for their answers.
    """
    return {RESUME_HEADER: name, AWAITS_HEADER: " ".join(map(str, awaited))}


def told_known(link: ClientConnection) -> frozenset[int] | None:
    """Request ids that the server has of a stream's frames; `None` if it cannot go on with one."""
    text = link.response.headers.get(HAS_HEADER) if link.response else None
    if text is None:
        return None
    return frozenset(int(word) for word in text.split() if word.isascii() and word.isdigit())


def told_model(link: ClientConnection) -> ModelInfo | None:
    """What the handshake's answer told of the server's model; `None` if nothing usable."""
    header = link.response.headers.get(MODEL_INFO_HEADER) if link.response else None
    if header is None:
        return None
    try:
        return ModelInfo.from_header(header)
    except ProtocolError:
        return None  # pictures go as usual


def link_error(exc: Exception, *, max_reply_bytes: int) -> BackendError:
    """Why a link could not be opened, or ended, with `exc`."""
    if isinstance(exc, BackendError):
        return exc
    if isinstance(exc, websockets.InvalidStatus):
        if 200 <= exc.response.status_code < 300:
            return ProtocolError("expected a WebSocket; another kind of server answered")
        headers = {name.lower(): text for name, text in exc.response.headers.raw_items()}
        return own_refusal(
            HttpResponse(
                status=exc.response.status_code,
                headers=headers,
                body=bytes(exc.response.body),
                retry_after_s=retry_after_s(headers),
            )
        )
    if isinstance(exc, websockets.ConnectionClosed):
        # Whichever side closed first had a reason.
        if exc.sent is not None and not exc.rcvd_then_sent:
            return own_close_error(exc.sent.code, max_bytes=max_reply_bytes)
        if exc.rcvd is not None:
            return close_error(exc.rcvd.code, exc.rcvd.reason)
        return close_error(None)
    if isinstance(exc, OSError | ValueError):
        return connection_error(exc)
    meaning = {
        websockets.InvalidHandshake: "the server does not speak WebSocket here",
        websockets.InvalidURI: "the endpoint is not a URL",
        websockets.WebSocketException: "the link failed",
    }
    text = next(meaning[cls] for cls in type(exc).__mro__ if cls in meaning)
    return BackendUnavailableError(text, retryable=True)

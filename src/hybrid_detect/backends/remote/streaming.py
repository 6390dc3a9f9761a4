"""The streaming way: every frame over one WebSocket, which is kept alive and reopened.

The only module that meets websockets.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import logging
import math
import random
import socket
import ssl
import sys
import time
from typing import Any

import websockets
from websockets.asyncio.client import ClientConnection, connect

from hybrid_detect.backends.remote.credentials import AccessToken, BearerToken, TokenSource
from hybrid_detect.backends.remote.link_meter import Upload
from hybrid_detect.backends.remote.newest_wins import NewestWinsSlots
from hybrid_detect.backends.remote.protocol import HttpRequest, HttpResponse
from hybrid_detect.backends.remote.refusals import refusal
from hybrid_detect.backends.remote.remote_backend import MAX_REPLY_BYTES, RemoteBackend
from hybrid_detect.backends.remote.retries import retry_after_s
from hybrid_detect.backends.remote.targets import Target
from hybrid_detect.backends.remote.tls import certificate_trouble
from hybrid_detect.config import Endpoint
from hybrid_detect.errors import (
    BackendError,
    BackendResponseError,
    BackendTimeoutError,
    BackendUnavailableError,
    ProtocolError,
)
from hybrid_detect.exchange.wire import (
    CONTENT_TYPE,
    STREAM_PATH,
    SUBPROTOCOL,
    encode_announcement,
    peek_request_id,
    with_request_id,
)
from hybrid_detect.selection.breaker import CircuitBreaker
from hybrid_detect.types import BackendKind

__all__ = ["StreamingService"]

MAX_IN_FLIGHT = 2
"""Two frames under way reach 0.96 of a link's rate where one reaches 0.49; a third only adds
delay. Source: measured over emulated links, `docs/explanation/performance.md`."""

HEARTBEAT_S = 1.0
"""A ping each second that must be answered within another: a dead link is noticed in two."""

CLOSE_TIMEOUT_S = 0.3
"""Seconds the closing handshake may take. websockets' default of 10 would stretch noticing a dead
link to 11 s, because the link is closed politely before it is given up."""

OPEN_TIMEOUT_S = 3.0
"""Seconds for TCP, TLS and the opening handshake: three round trips over a slow link."""

NOT_SENT_BYTES = 16 * 1024
"""What the system may hold that it has not sent: enough to fill every gap, a fifth of a frame."""

PING_S = 0.2
"""A ping for every second frame at 10 fps, at most one under way: 60 bytes each, 0.3 KB/s. Source:
of the settings tried over recorded network traces the best, `docs/explanation/choosing.md`."""

BUSY_S = 2.0
"""So long after the last frame the link is of interest; then the heartbeat is enough."""

RECONNECT_BASE_S = 0.1
RECONNECT_CAP_S = 2.0
"""Reconnection starts at a frame interval and doubles up to two seconds (with full jitter): at
10 fps a longer pause would cost more frames than the attempt does."""


_MESSAGE = {"content-type": CONTENT_TYPE}

_log = logging.getLogger("hybrid_detect.websockets")
_log.setLevel(logging.INFO)
"""websockets' own, which at debug level would write out the token and bits of the pictures."""


class _Connect(connect):
    """A redirect would carry pictures to an address nobody configured."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


class StreamingService(RemoteBackend):
    """Detects faces by sending frames over one WebSocket to a server.

    Replies are matched to frames by a request id. At most two frames are under way; of the
    frames that wait for a place only the newest is kept. A link that breaks fails the frames
    under way at once and is reopened in the background.

    Args:
        endpoint: The server's URL, such as ``https://faces.example.com``.
        auth_token: Bearer token, or a function (sync or async) that gives one.
        allow_insecure_http: Whether plain ``http`` may leave this machine.
        ssl_context: Whom to believe and what to show over https; `None` for the system's CAs.
        max_in_flight: Frames that may be under way at the same time.
        heartbeat_s: Seconds between pings, and for a ping's answer.
        **options: `min_confidence`, `session_id`, `compressor` and `encryption`, as in
            `RemoteBackend`.

    Raises:
        ConfigurationError: If the endpoint is no https URL.
    """

    kind = BackendKind.STREAMING
    answers_late = True

    def __init__(
        self,
        *,
        endpoint: str,
        auth_token: str | AccessToken | TokenSource | None = None,
        allow_insecure_http: bool = False,
        ssl_context: ssl.SSLContext | None = None,
        max_in_flight: int = MAX_IN_FLIGHT,
        heartbeat_s: float = HEARTBEAT_S,
        **options: Any,
    ) -> None:
        self._endpoint = Endpoint.parse(endpoint, allow_insecure_http=allow_insecure_http)
        target = Target(
            url=endpoint,
            credentials=None if auth_token is None else BearerToken(auth_token),
            allow_insecure_http=allow_insecure_http,
        )
        self._ssl_context = ssl_context
        self._heartbeat_s = heartbeat_s
        self._max_in_flight = max_in_flight
        self._link: ClientConnection | None = None
        self._outcome = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._trouble: BackendError | None = None
        self._requests = 0
        self._sent_bytes = 0
        self._last_sent_s = -math.inf
        self._replies: dict[int, asyncio.Future[bytes]] = {}
        self._uploads: dict[int, Upload] = {}
        self._slots = NewestWinsSlots(self.kind, places=max_in_flight)
        super().__init__(targets=(target,), **options)

    @property
    def unavailable_reason(self) -> str:
        """Empty while the link stands."""
        if self._link is not None:
            return ""
        return f"not connected: {self._trouble}" if self._trouble else "not connected yet"

    @property
    def round_trip_s(self) -> float | None:
        """Seconds the last heartbeat or check took; `None` before the first."""
        return self._link.latency or None if self._link else None

    async def start(self) -> None:
        """Start keeping the link, without waiting for it."""
        self._require_open()
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep_link(), name="hybrid-detect-stream")

    async def check(self, *, deadline_s: float) -> None:
        """Succeed if the link answers a ping, waiting for an attempt at it that is under way."""
        await self.start()
        try:
            async with asyncio.timeout(deadline_s):
                await self._outcome.wait()
                if self._link is None:
                    raise self._lost()
                # A link stands for a while after the server at its end has stopped.
                await (await self._link.ping())
                await self.check_key(deadline_s=deadline_s)
        except TimeoutError:
            msg = f"no sign of life within {deadline_s:.3f} s"
            raise BackendTimeoutError(msg, backend=self.kind.value, deadline_s=deadline_s) from None
        except websockets.ConnectionClosed:
            raise self._lost() from None

    async def exchange(
        self, request: HttpRequest, *, deadline_s: float, upload: Upload | None = None
    ) -> HttpResponse:
        """Send the body of `request` as one message and wait for the message that answers it."""
        await self.start()
        if self._link is None and self._trouble is None:
            await self._outcome.wait()  # the first link is waited for, inside the frame's deadline
        self._requests += 1
        number = self._requests
        await self._slots.take(number)
        try:
            message = await self._send_and_wait(request.body, number & 0xFFFF_FFFF, upload)
        finally:
            self._slots.leave()
        return HttpResponse(status=200, headers=_MESSAGE, body=message)

    async def _send_and_wait(self, request: bytes, request_id: int, upload: Upload | None) -> bytes:
        link = self._link
        if link is None:
            # Whether to wait for the next link is not for this way to decide: another may be ready.
            raise self._lost()
        reply: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._replies[request_id] = reply
        try:
            # What is sent stays in the buffer when its frame's deadline has passed: over a stalled
            # link they would pile up, and be carried for nothing once it goes on.
            await link.drain()
            self._sent_bytes += len(request)
            self._last_sent_s = time.monotonic()
            if upload is not None:
                upload.handed_over()
                self._uploads[request_id] = upload
            await link.send(encode_announcement(request_id))
            await link.send(with_request_id(request, request_id))
            return await reply
        except asyncio.CancelledError:
            if reply.done() and not reply.cancelled() and upload is not None:
                # It came in the same moment; nobody else will say so.
                upload.answered_unread()
            raise
        except (OSError, websockets.ConnectionClosed):
            raise self._lost() from None
        finally:
            # A reply that comes after its frame's deadline finds no one and is dropped.
            del self._replies[request_id]
            if reply.done() and not reply.cancelled():
                reply.exception()  # seen, even if sending failed before it could be awaited

    def _lost(self) -> BackendError:
        """Why there is no link, for one frame: a copy, because each raising marks its error."""
        if self._trouble is not None and not self._closed:
            return copy.copy(self._trouble)
        return self._unavailable("the link was closed before the answer came")

    def _unavailable(self, why: str) -> BackendUnavailableError:
        return BackendUnavailableError(why, backend=self.kind.value, retryable=True)

    async def _keep_link(self) -> None:
        """Open the link, read from it until it breaks, and open it again, for ever."""
        failures = 0
        is_renewed = False
        while True:
            self._outcome.clear()
            opened_s = math.inf
            try:
                async with await self._connection() as link:
                    opened_s = time.monotonic()
                    _keep_queue_short(link)
                    self._trouble = None
                    is_renewed = False
                    self._link = link
                    self._outcome.set()
                    watchers = (
                        asyncio.create_task(self._watch(link)),
                        asyncio.create_task(self._measure(link)),
                    )
                    try:
                        await self._read(link)
                    except asyncio.CancelledError:
                        # Left with an exception, the link would be closed as if we had failed.
                        await link.close()
                        raise
                    finally:
                        for watcher in watchers:
                            watcher.cancel()
                self._trouble = self._unavailable("the server closed the link")
            except (
                OSError,
                ValueError,
                ImportError,
                websockets.WebSocketException,
                BackendError,
            ) as exc:
                self._trouble = self._translated(exc).with_traceback(None)
            finally:
                self._link = None
                self._uploads.clear()
                self.meter.link.broken()
                self._outcome.set()
                for reply in self._replies.values():
                    if not reply.done():
                        reply.set_exception(self._lost())
            if time.monotonic() - opened_s > RECONNECT_CAP_S:
                failures = 0  # a server that takes each link and drops it is failing, too
            if not is_renewed and self._trouble and self.targets[0].can_renew(self._trouble):
                is_renewed = True  # once; then a token that is refused waits as any other does
                continue
            await asyncio.sleep(self._pause_s(failures))
            failures += 1

    def _pause_s(self, failures: int) -> float:
        """How long to wait before the next attempt at a link."""
        if isinstance(self._trouble, BackendResponseError) and self._trouble.is_configuration:
            return CircuitBreaker.REFUSED_PAUSE_S
        ceiling = min(RECONNECT_BASE_S * 2**failures, RECONNECT_CAP_S)
        return random.uniform(0, ceiling)  # noqa: S311 - jitter, not a secret

    async def _watch(self, link: ClientConnection) -> None:
        """Give the link up if it takes no byte for two heartbeats.

        websockets waits for its buffer to empty before it waits for the heartbeat's answer, which
        over a dead link with frames in the buffer is for ever.
        """
        taken, idle = self._sent_bytes, 0
        while idle < 2:
            await asyncio.sleep(self._heartbeat_s)
            unsent = link.transport.get_write_buffer_size()
            idle = idle + 1 if unsent and self._sent_bytes - unsent <= taken else 0
            taken = self._sent_bytes - unsent
        link.transport.abort()

    async def _measure(self, link: ClientConnection) -> None:
        """Ping while frames flow: a round trip of its own tells a slow link from a large frame."""
        while True:
            is_busy = time.monotonic() - self._last_sent_s < BUSY_S
            await asyncio.sleep(PING_S if is_busy else self._heartbeat_s)
            sent_s = self.meter.clock()
            self.meter.link.pinged(now_s=sent_s)
            try:
                await (await link.ping())
            except websockets.ConnectionClosed:
                return
            self.meter.link.ponged(sent_s, now_s=self.meter.clock())

    async def _connection(self) -> connect:
        handshake = await self.targets[0].addressed(
            HttpRequest(method="GET", url=STREAM_PATH), now_s=time.time()
        )
        return _Connect(
            self._endpoint.websocket(STREAM_PATH),
            subprotocols=[websockets.Subprotocol(SUBPROTOCOL)],
            additional_headers=handshake.headers,
            user_agent_header="hybrid-detect",
            logger=_log,
            ssl=(self._ssl_context or True) if self._endpoint.url.startswith("https:") else None,
            # Plain http is meant to stay on this machine.
            proxy=None if self._endpoint.is_local else True,
            # JPEG does not shrink, and deflate makes a message 24 to 44 times as expensive.
            compression=None,
            open_timeout=OPEN_TIMEOUT_S,
            ping_interval=self._heartbeat_s,
            ping_timeout=self._heartbeat_s,
            close_timeout=CLOSE_TIMEOUT_S,
            max_size=MAX_REPLY_BYTES,
            # At most `max_in_flight` replies can be on their way.
            max_queue=self._max_in_flight,
        )

    async def _read(self, link: ClientConnection) -> None:
        async for message in link:
            if isinstance(message, str):
                msg = "expected binary messages; another kind of server answered"
                raise ProtocolError(msg, backend=self.kind.value)
            request_id = peek_request_id(message)
            reply = self._replies.get(request_id)
            upload = self._uploads.pop(request_id, None)
            if reply is not None and not reply.done():
                reply.set_result(message)
            elif upload is not None:
                upload.answered_unread()

    def _translated(self, exc: Exception) -> BackendError:
        if isinstance(exc, BackendError):
            return exc
        if (trouble := certificate_trouble(exc)) is not None:
            return BackendUnavailableError(trouble, backend=self.kind.value)
        if isinstance(exc, websockets.InvalidStatus):
            error = refusal(
                exc.response.status_code,
                retry_after_s=retry_after_s(exc.response.headers.get("Retry-After")),
            )
            error.backend = self.kind.value
            return error
        meaning = {
            websockets.InvalidHandshake: "the server does not speak WebSocket here",
            websockets.InvalidURI: "the endpoint is not a URL",
            websockets.ConnectionClosed: "the link broke",
            websockets.WebSocketException: "the link failed",
            TimeoutError: "opening the link took too long",
            OSError: "the server could not be reached",
            ValueError: "the endpoint's host is not a name",  # as IDNA calls it: UnicodeError
            ImportError: "the environment's proxy needs a package that is not installed",
        }
        text = next(meaning[cls] for cls in type(exc).__mro__ if cls in meaning)
        return BackendUnavailableError(text, backend=self.kind.value, retryable=True)

    def recall(self) -> None:
        """Break the link if a frame lies in its buffer, from where it would still go out."""
        if self._link is not None and self._link.transport.get_write_buffer_size():
            self._link.transport.abort()

    async def aclose(self) -> None:
        """Close the link gracefully; frames under way fail."""
        self._closed = True
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.wait([keeper])
        self._slots.refuse_waiting(self._lost())
        await super().aclose()


def _keep_queue_short(link: ClientConnection) -> None:
    """Have the system hold little more than what is on its way.

    Otherwise it takes megabytes into its buffer, and over a slow link a frame waits there behind
    others that are of no use any more, with everyone believing that it has left.
    """
    # Linux and macOS; Python names it from 3.12 on, and Linux's number is 25.
    option = getattr(socket, "TCP_NOTSENT_LOWAT", 25 if sys.platform == "linux" else None)
    connection = link.transport.get_extra_info("socket")
    if option is not None and connection is not None:
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, option, NOT_SENT_BYTES)

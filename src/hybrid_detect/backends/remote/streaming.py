"""The streaming backend: every frame over one WebSocket, which is kept alive and reopened."""

from __future__ import annotations

import asyncio
import copy
import math
import random
import secrets
import ssl
import time
from collections.abc import Iterable
from typing import Any

import websockets

from hybrid_detect.backends.base import CHECK_DEADLINE_S
from hybrid_detect.backends.newest_wins import NewestWinsSlots
from hybrid_detect.backends.pauses import doubled
from hybrid_detect.backends.remote.close_codes import close_error
from hybrid_detect.backends.remote.credentials import AccessToken, BearerToken, TokenSource
from hybrid_detect.backends.remote.dialling import Dialler
from hybrid_detect.backends.remote.frames_in_flight import FrameInFlight, FramesInFlight
from hybrid_detect.backends.remote.link_meter import Upload
from hybrid_detect.backends.remote.protocol import HttpRequest, HttpResponse
from hybrid_detect.backends.remote.pulse import Pulse
from hybrid_detect.backends.remote.remote_backend import MAX_REPLY_BYTES, RemoteBackend
from hybrid_detect.backends.remote.targets import Target
from hybrid_detect.backends.remote.websocket_link import (
    StreamLink,
    link_error,
    open_link,
    resuming,
    send_at_once,
    told_in_flight,
    told_known,
    told_model,
)
from hybrid_detect.endpoint import Endpoint
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
    encode_announcement,
)
from hybrid_detect.selection.breaker import CircuitBreaker
from hybrid_detect.types import BackendKind

__all__ = ["StreamingService"]

MAX_IN_FLIGHT = 2
"""Two frames under way reach 0.96 of a link's rate where one reaches 0.49; a third only adds
delay. Source: measured over emulated links, `docs/explanation/performance.md`."""

HEARTBEAT_S = 1.0
"""A ping each second that must be answered within another: a dead link is noticed in two."""

OPEN_TIMEOUT_S = 3.0
"""Seconds for TCP, TLS and the opening handshake, where the round trip is below half a second."""

RECONNECT_BASE_S = 0.1
RECONNECT_CAP_S = 2.0
"""Reconnection starts at a frame interval and doubles up to two seconds (with full jitter): at
10 fps a longer pause would cost more frames than the attempt does."""


_MESSAGE = {"content-type": CONTENT_TYPE}


class StreamingService(RemoteBackend):
    """Detects faces by sending frames over one WebSocket to a server.

    Replies are matched to frames by a request id. At most two frames are under way; of the
    frames that wait for a place only the newest is kept. A link that breaks is reopened in the
    background. Where the server answers over the next link, the frames under way wait for that for
    half a second, and are sent again if it has not got them; they fail at once where it does not.

    Args:
        endpoint: The server's URL, such as ``https://faces.example.com``.
        region: Where it processes pictures, such as ``eu-west-1``; empty if it does not say.
        auth_token: Bearer token, or a function (sync or async) that gives one.
        allow_insecure_http: Whether plain ``http`` may leave this machine.
        ssl_context: Which CAs to believe and which certificate to show over https; `None` for the
            system's CAs and no certificate.
        max_in_flight: Frames that may be under way at the same time; fewer where the server says
            that it looks at fewer.
        heartbeat_s: Seconds between pings, and for a ping's answer.
        **options: `min_confidence`, `session_id`, `quality`, `compressor` and `encryption`, as in
            `RemoteBackend`.

    Raises:
        ConfigurationError: If the endpoint is no https URL.
    """

    kind = BackendKind.STREAMING
    answers_late = True
    signs_requests = False

    def __init__(
        self,
        *,
        endpoint: str,
        region: str = "",
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
            region=region,
            credentials=None if auth_token is None else BearerToken(auth_token),
            allow_insecure_http=allow_insecure_http,
        )
        self._ssl_context = ssl_context
        self._heartbeat_s = heartbeat_s
        self._max_in_flight = max_in_flight
        self._dialler: Dialler | None = None
        self._pulse: Pulse | None = None
        self._link: StreamLink | None = None
        self._outcome = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._trouble: BackendError | None = None
        self._requests = 0
        self._in_flight = FramesInFlight()
        self._name = secrets.token_hex(16)
        self._is_resumable = False  # whether the server answers over the next link
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
        """Start keeping the link, without waiting for it.

        Raises:
            ConfigurationError: If a proxy or certificate setting that applies is unusable.
        """
        self._require_open()
        if self._dialler is None:
            self._dialler = await Dialler.create(
                self._endpoint, ssl_context=self._ssl_context, executor=self._encoder
            )
            self._require_open()
        if self._keeper is None or self._keeper.done():  # a bug must not end it for good
            self._keeper = asyncio.create_task(self._keep_link(), name="hybrid-detect-stream")

    @property
    def check_deadline_s(self) -> float:
        """Seconds a check may take: longer where connecting was seen to take long."""
        usual_s = CHECK_DEADLINE_S
        return usual_s if self._dialler is None else self._dialler.limit_s(usual_s)

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
        link, pulse = self._link, self._pulse
        if link is None or pulse is None:
            # Whether to wait for the next link is the service's to decide: another backend may do.
            raise self._lost()
        reply: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        frame = FrameInFlight(request_id, request, upload, reply)
        self._in_flight.add(frame)
        try:
            await self._send(frame, link, pulse)
            return await reply
        except asyncio.CancelledError:
            if reply.done() and not reply.cancelled() and upload is not None:
                # The reply came in the same moment; nothing else will report it.
                upload.answered_unread()
            raise
        finally:
            # A reply that comes after its frame's deadline is dropped.
            self._in_flight.discard(frame)

    async def _send(self, frame: FrameInFlight, link: StreamLink, pulse: Pulse) -> None:
        """Send `frame` over `link`; if that is gone, the frame waits as `_keep_link` has it wait.

        Raises:
            BackendError: If the frame may not leave any more.
        """
        frame.link = link
        frame.links += 1
        try:
            # What is sent stays in the buffer when its frame's deadline has passed: over a stalled
            # link they would pile up, and be carried for nothing once it goes on.
            await link.drain()
            if frame.link is not link:
                return  # it has gone over the next one meanwhile
            # Nothing is awaited from here to the socket: whether it may leave is asked now.
            if frame.upload is not None:
                frame.upload.handed_over()
            self._in_flight.sent(frame)
            message = frame.message()
            send_at_once(link, encode_announcement(frame.request_id), message)
            pulse.sent(len(message))
        except (OSError, websockets.ConnectionClosed, websockets.InvalidState):
            # The link has ended: `_keep_link` tells the frame as soon as it has seen that, too.
            return

    async def _send_again(
        self, frames: Iterable[FrameInFlight], link: StreamLink, pulse: Pulse
    ) -> None:
        for frame in frames:
            try:
                await self._send(frame, link, pulse)
            except BackendError as error:
                frame.fail(error)

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
        while True:
            self._outcome.clear()
            opened_s = math.inf
            try:
                link, round_trip_s = await self._opened()
                known = told_known(link)
                self._is_resumable = known is not None
                async with link:
                    opened_s = time.monotonic()
                    self._pulse = Pulse(
                        link,
                        meter=self.meter,
                        heartbeat_s=self._heartbeat_s,
                        round_trip_s=round_trip_s,
                    )
                    self._trouble = None
                    self.has_answered = True
                    self._link = link
                    self._outcome.set()
                    feeling = asyncio.create_task(self._pulse.feel())
                    again = self._in_flight.resumed(known or ())
                    sending = asyncio.create_task(self._send_again(again, link, self._pulse))
                    try:
                        await self._read(link)
                    except asyncio.CancelledError:
                        # Left with an exception, the link would be closed as if we had failed.
                        await link.close()
                        raise
                    finally:
                        feeling.cancel()
                        sending.cancel()
                self._trouble = close_error(link.close_code, link.close_reason or "")
            except (OSError, ValueError, websockets.WebSocketException, BackendError) as exc:
                self._trouble = link_error(exc, max_reply_bytes=MAX_REPLY_BYTES)
                self._trouble.backend = self.kind.value
                self.judge(self._trouble)
                self._trouble.__traceback__ = None
            finally:
                self._link = None
                self.meter.link.broken()
                self._outcome.set()
                self._in_flight.broken(self._lost, is_resumable=self._may_resume(opened_s))
            if time.monotonic() - opened_s > RECONNECT_CAP_S:
                failures = 0  # a server that takes each link and drops it is failing, too
            await asyncio.sleep(self._pause_s(failures))
            failures += 1

    def _may_resume(self, opened_s: float) -> bool:
        """Whether frames under way wait for the next link: it is tried once before they fail."""
        trouble = self._trouble
        return (
            self._is_resumable
            and not self._closed
            and opened_s < math.inf
            and trouble is not None
            and trouble.retryable
            and trouble.retry_after_s is None
        )

    def _pause_s(self, failures: int) -> float:
        """How long to wait before the next attempt at a link."""
        trouble = self._trouble
        if isinstance(trouble, BackendResponseError) and trouble.is_configuration:
            return CircuitBreaker.REFUSED_PAUSE_S
        ceiling = doubled(RECONNECT_BASE_S, failures, cap_s=RECONNECT_CAP_S)
        pause_s = random.uniform(0, ceiling)  # noqa: S311 - jitter, not a secret
        asked_s = trouble.retry_after_s if trouble is not None else None
        return max(pause_s, min(asked_s or 0.0, CircuitBreaker.LONGEST_WAIT_S))

    async def _opened(self) -> tuple[StreamLink, float]:
        """A new link; if the server refuses a token that can be renewed, once more with another."""
        try:
            return await self._open()
        except websockets.InvalidStatus as exc:
            error = link_error(exc, max_reply_bytes=MAX_REPLY_BYTES)
            if not self.targets[0].can_renew(error):
                raise
        return await self._open()

    async def _open(self) -> tuple[StreamLink, float]:
        assert self._dialler is not None  # noqa: S101 - start() has made it
        handshake = await self.targets[0].addressed(
            HttpRequest(method="GET", url=STREAM_PATH), now_s=time.time()
        )
        link, round_trip_s = await open_link(
            self._dialler,
            self._endpoint.websocket(STREAM_PATH),
            headers={**handshake.headers, **resuming(self._name, self._in_flight.awaited)},
            usual_limit_s=OPEN_TIMEOUT_S,
            max_reply_bytes=MAX_REPLY_BYTES,
            max_replies=self._max_in_flight,  # more cannot be on their way
        )
        self.told_ladders.learn(self.targets[0], told_model(link))
        # More than the server looks at would wait there, where they only get older.
        told = told_in_flight(link) or self._max_in_flight
        self._slots.limit(min(told, self._max_in_flight))
        return link, round_trip_s

    async def _read(self, link: StreamLink) -> None:
        link.on_message = self._in_flight.answered
        async for message in link:  # what came before, or in several pieces
            if isinstance(message, str):
                msg = "expected binary messages; another kind of server answered"
                raise ProtocolError(msg, backend=self.kind.value)
            self._in_flight.answered(message)

    def recall(self) -> None:
        """Break the link, because a frame that lies in its buffers would still go out.

        Over TLS the buffer below the encryption cannot be asked, so it is not asked.
        """
        if self._link is not None:
            self._link.transport.abort()

    async def aclose(self) -> None:
        """Close the link gracefully; frames under way fail."""
        self._closed = True
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.wait([keeper])
        self._outcome.set()  # a keeper that had not begun yet has told the waiting frames nothing
        if self._dialler is not None:
            self._dialler.close()
        self._slots.refuse_waiting(self._lost())
        await super().aclose()

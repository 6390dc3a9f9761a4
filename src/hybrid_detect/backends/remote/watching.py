"""Watching a session: the results of frames that another client sends, as they come."""

from __future__ import annotations

import asyncio
import random
import ssl
import time
from collections import deque
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote

import websockets
from websockets.asyncio.client import ClientConnection

from hybrid_detect.backends.pauses import doubled
from hybrid_detect.backends.remote.close_codes import close_error
from hybrid_detect.backends.remote.credentials import AccessToken, BearerToken, TokenSource
from hybrid_detect.backends.remote.dialling import Dialler
from hybrid_detect.backends.remote.protocol import HttpRequest
from hybrid_detect.backends.remote.refusals import mark_passing
from hybrid_detect.backends.remote.remote_backend import MAX_REPLY_BYTES
from hybrid_detect.backends.remote.targets import Target
from hybrid_detect.backends.remote.websocket_link import link_error, open_link
from hybrid_detect.endpoint import Endpoint
from hybrid_detect.errors import (
    BackendError,
    BackendUnavailableError,
    ConfigurationError,
    ProtocolError,
)
from hybrid_detect.exchange.wire import SESSIONS_PATH, ResultReply, decode_reply
from hybrid_detect.exchange.wire_values import MAX_TEXT_CHARS
from hybrid_detect.types import Face

__all__ = ["LiveResult", "watch_session"]

OPEN_TIMEOUT_S = 3.0
"""Seconds for TCP, TLS and the opening handshake, as of a stream."""

HEARTBEAT_S = 5.0
"""Seconds of silence after which the server is asked for a sign of life, and for that sign. Longer
than a stream's: who watches has no frame that waits."""

PAUSE_BASE_S, PAUSE_CAP_S = 0.1, 2.0
"""Between attempts at another link, doubling, with full jitter; as of a stream."""

GIVE_UP_S = 60.0
"""A server that restarts is back in seconds; one that is away for a minute is gone."""

NORMAL_END = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveResult:
    """What the server found in one frame of a session, in the pixels of the picture it got."""

    session_id: str
    number: int
    """Its place among the session's results, from 1."""
    missed: int
    """Results since the one before that were left out, because this end was too slow for them."""
    at: datetime
    """When it was ready, by the server's clock."""
    width: int
    height: int
    faces: tuple[Face, ...]
    model: str
    quality: str
    """The level that was used; empty if the server does not say."""
    receive_s: float | None
    """Seconds that the picture took to arrive at the server; `None` if it does not say."""
    queue_s: float | None
    """Seconds that it waited for a detector."""
    detect_s: float | None
    """Seconds that decoding and detecting took."""


async def watch_session(
    endpoint: str,
    session_id: str,
    *,
    auth_token: str | AccessToken | TokenSource | None = None,
    allow_insecure_http: bool = False,
    ssl_context: ssl.SSLContext | None = None,
    give_up_after_s: float = GIVE_UP_S,
) -> AsyncIterator[LiveResult]:
    """Yield the results of a session as they come, until the session ends.

    Watching never slows the session: of results that come faster than they are taken the newest
    are yielded. The session may begin later. A link that breaks is opened again.

    Args:
        endpoint: The server's URL, such as ``https://faces.example.com``.
        session_id: The name that the session's frames are sent under.
        auth_token: The credential that they are sent with, or another of the same caller.
        allow_insecure_http: Whether plain ``http`` may be spoken with another machine.
        ssl_context: Which CAs to believe and which certificate to show over https; `None` for the
            system's CAs and no certificate.
        give_up_after_s: Seconds without a link after which the last error is raised.

    Raises:
        ConfigurationError: If the endpoint is no https URL, or `session_id` is empty or too long.
        BackendError: If the first attempt fails, the server refuses, or there has been no link for
            `give_up_after_s`.
    """
    watch = _Watch(
        Target(
            url=endpoint,
            credentials=None if auth_token is None else BearerToken(auth_token),
            allow_insecure_http=allow_insecure_http,
        ),
        Endpoint.parse(endpoint, allow_insecure_http=allow_insecure_http),
        session_id,
    )
    with ThreadPoolExecutor(1, "hybrid-detect-watch") as reader:
        watch.dialler = await Dialler.create(
            watch.endpoint, ssl_context=ssl_context, executor=reader
        )
    failures = 0
    lost_s: float | None = None  # when the link was lost that was the last to be of use
    while True:
        opened_s = None
        try:
            async with await watch.opened() as link:
                opened_s = time.monotonic()
                async for reply in _newest(link):
                    failures, lost_s = 0, None
                    yield watch.result(reply)
            if link.close_code == NORMAL_END:
                return
            trouble = close_error(link.close_code, link.close_reason or "")
        except (OSError, ValueError, websockets.WebSocketException, BackendError) as error:
            trouble = link_error(error, max_reply_bytes=MAX_REPLY_BYTES)
        now_s = time.monotonic()
        if not watch.has_been_linked:
            raise trouble
        mark_passing(trouble)
        if lost_s is None or (opened_s is not None and now_s - opened_s > PAUSE_CAP_S):
            failures, lost_s = 0, now_s  # a server that takes each link and drops it is failing
        if now_s - lost_s > give_up_after_s:
            raise trouble
        if not (trouble.retryable or watch.target.can_renew(trouble)):
            raise trouble
        ceiling_s = doubled(PAUSE_BASE_S, failures, cap_s=PAUSE_CAP_S)
        pause_s = random.uniform(0, ceiling_s)  # noqa: S311 - jitter, not a secret
        await asyncio.sleep(max(pause_s, min(trouble.retry_after_s or 0.0, give_up_after_s)))
        failures += 1


class _Watch:
    """What one watch knows of its server, and of what it has seen."""

    def __init__(self, target: Target, endpoint: Endpoint, session_id: str) -> None:
        if not 0 < len(session_id) <= MAX_TEXT_CHARS:
            msg = f"session_id: expected 1 to {MAX_TEXT_CHARS} characters, got {len(session_id)}"
            raise ConfigurationError(msg)
        self.target = target
        self.endpoint = endpoint
        self.dialler = Dialler(endpoint)
        self._session_id = session_id
        self._path = f"{SESSIONS_PATH}/{quote(session_id, safe='')}/live"
        self._last = 0
        self.has_been_linked = False
        """Whether there has ever been a link."""

    async def opened(self) -> ClientConnection:
        """A new link; if the server refuses a token that can be renewed, once more with another."""
        try:
            return await self._open()
        except websockets.InvalidStatus as error:
            refusal = link_error(error, max_reply_bytes=MAX_REPLY_BYTES)
            if not self.target.can_renew(refusal):
                raise
        return await self._open()

    async def _open(self) -> ClientConnection:
        handshake = await self.target.addressed(
            HttpRequest(method="GET", url=self._path), now_s=time.time()
        )
        link, _ = await open_link(
            self.dialler,
            self.endpoint.websocket(self._path),
            headers=handshake.headers,
            usual_limit_s=OPEN_TIMEOUT_S,
            max_reply_bytes=MAX_REPLY_BYTES,
            max_replies=1,
        )
        self.has_been_linked = True
        return link

    def result(self, reply: ResultReply) -> LiveResult:
        """`reply` for who watches."""
        number = reply.number or self._last + 1
        # A server that has restarted counts from the beginning.
        missed = max(number - self._last - 1, 0) if self._last else 0
        self._last = number
        at_s = time.time() if reply.at_s is None else reply.at_s
        try:
            at = datetime.fromtimestamp(at_s, UTC)
        except (OverflowError, OSError, ValueError):
            msg = "the server told a time that is none"
            raise ProtocolError(msg) from None
        return LiveResult(
            session_id=self._session_id,
            number=number,
            missed=missed,
            at=at,
            width=reply.width,
            height=reply.height,
            faces=tuple(reply.faces),
            model=reply.model,
            quality=reply.quality,
            receive_s=reply.receive_s,
            queue_s=reply.queue_s,
            detect_s=reply.detect_s,
        )


async def _newest(link: ClientConnection) -> AsyncIterator[ResultReply]:
    """The results of `link`, of several that wait the newest.

    They are read even while none is taken: the buffers of the system hold minutes of them.
    """
    waiting: deque[ResultReply] = deque(maxlen=1)
    news = asyncio.Event()

    async def read() -> None:
        async for reply in _replies(link):
            waiting.append(reply)
            news.set()

    reading = asyncio.create_task(read(), name="hybrid-detect-watch")
    reading.add_done_callback(lambda _: news.set())
    try:
        while True:
            while not waiting and not reading.done():
                news.clear()
                await news.wait()
            if not waiting:
                await reading
                return
            yield waiting.popleft()
    finally:
        reading.cancel()
        await asyncio.wait([reading])
        if not reading.cancelled():
            reading.exception()  # seen, even if no more results are taken


async def _replies(link: ClientConnection) -> AsyncIterator[ResultReply]:
    """The results that come over `link` until it is closed.

    Raises:
        ProtocolError: If something else comes.
        BackendUnavailableError: If the link has fallen silent.
    """
    while True:
        try:
            async with asyncio.timeout(HEARTBEAT_S):
                message = await link.recv()
        except TimeoutError:
            await _require_life(link)
            continue
        except websockets.ConnectionClosedOK:
            return
        if isinstance(message, str):
            msg = "expected binary messages; another kind of server answered"
            raise ProtocolError(msg)
        reply = decode_reply(message)
        if not isinstance(reply, ResultReply):
            msg = "expected results alone, got an error"
            raise ProtocolError(msg)
        yield reply


async def _require_life(link: ClientConnection) -> None:
    try:
        async with asyncio.timeout(HEARTBEAT_S):
            await (await link.ping())
    except TimeoutError:
        link.transport.abort()
        msg = f"the server gave no sign of life for {HEARTBEAT_S:g} s"
        raise BackendUnavailableError(msg, retryable=True) from None
    except websockets.ConnectionClosedOK:
        return  # the next `recv` says so

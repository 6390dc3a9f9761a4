"""The reference server as an ASGI app: one picture at a time over HTTP, many over a WebSocket.

It speaks the same wire module as the client. For people with curl, ``/v1/detect`` also takes
a bare picture and answers in JSON.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from functools import partial

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute

from hybrid_detect.exchange.batch import BATCH_PATH
from hybrid_detect.exchange.envelope import KEYS_PATH, SEALED_CONTENT_TYPE
from hybrid_detect.exchange.wire import (
    DETECT_PATH,
    STREAM_PATH,
    DetectRequest,
    ErrorReply,
    ResultReply,
    decode_request,
    encode_reply,
    peek_request_id,
)
from hybrid_detect.exchange.wire_faces import most_certain
from hybrid_detect.monitoring.tracing import Tracer
from hybrid_detect.server.admission import Admission
from hybrid_detect.server.batch_requests import batch_response
from hybrid_detect.server.bodies import BodyReader, BodyRefusedError
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.server.credentials import Credentials
from hybrid_detect.server.detectors import Detector, DetectorPool
from hybrid_detect.server.direct_route import DirectRoute
from hybrid_detect.server.early_refusals import EarlyRefusals
from hybrid_detect.server.gate import CALLER, Gate
from hybrid_detect.server.hang_ups import hang_up_of
from hybrid_detect.server.head_facts import facts_of
from hybrid_detect.server.health import Health
from hybrid_detect.server.live import PRESENCE, LiveSessions
from hybrid_detect.server.live_routes import LiveRoutes
from hybrid_detect.server.look_refusals import bug_reply, look_refusal
from hybrid_detect.server.management import Management
from hybrid_detect.server.observation import (
    CLIENT_GONE,
    OPENAPI_PATH,
    note_look,
    note_read,
    note_reply,
)
from hybrid_detect.server.openapi import openapi
from hybrid_detect.server.peer_log import PeerLog
from hybrid_detect.server.picture_requests import bare_picture, unsupported_body
from hybrid_detect.server.replies import (
    BUG,
    HttpAnswer,
    error_reply,
    http_answer,
    http_response,
    plain_answer,
)
from hybrid_detect.server.retention import Retention, owner_of
from hybrid_detect.server.sealing import Received, Sealing, SealRefusedError
from hybrid_detect.server.shared_state import LocalState, SharedState
from hybrid_detect.server.streams import Streams
from hybrid_detect.server.tracing import RefusalSpans, Tracing

__all__ = ["create_app"]

logger = logging.getLogger("hybrid_detect.server")


def create_app(
    config: ServerConfig,
    detector: Detector | None = None,
    *,
    state: SharedState | None = None,
    watch: Callable[[Detector], Detector] = lambda detector: detector,
    tracer: Tracer | None = None,
    admission: Admission | None = None,
) -> Starlette:
    """The server as an ASGI app.

    Its ``state.drain()`` refuses what waits for a detector, and everything that comes later, with
    503: `Server` calls it first when it stops. Its ``state.management`` is told of connections that
    are refused without it, and has the app of the metrics' own port, if there is to be one. Its
    ``state.early_refusals``, where there are any, refuse pictures that have not come yet. Its
    ``state.direct_route`` answers pictures that have, without ASGI between.

    Args:
        config: Limits, token and model.
        detector: What looks at the pictures, instead of detectors in processes.
        state: What it shares with other servers; `None` if it is alone.
        watch: Puts something around the detector that sees every picture.
        tracer: Traces the pictures, where the configuration has no collector.
        admission: What gives `detector` its places; `None` for one that has no use for it. Pictures
            that it would refuse are refused by their first bytes.
    """
    log = PeerLog(logger)
    state = state or LocalState(config)
    has_places = detector is None or admission is not None
    admission = admission or Admission(max_waiting=config.max_waiting)
    detector = detector or DetectorPool(config, admission)
    health = Health(detector, admission)
    management = Management(config, admission=admission, detector=detector, health=health, log=log)
    credentials = Credentials(config)
    gate = Gate(
        config=config,
        credentials=credentials,
        respond=http_response,
        state=state,
        metrics=management.credentials,
        log=log,
    )
    live = LiveSessions(
        max_watchers=config.max_watchers, max_per_session=config.max_watchers_per_session
    )
    tracing = Tracing(config.otlp_endpoint, tracer=tracer)
    if tracing.is_on:
        management.observe(RefusalSpans(tracing))
    app = _App(config, watch(detector), management, log, state, live, tracing)
    direct = DirectRoute(
        DETECT_PATH, gate=gate, answer=app.detect, observation=management.observation
    )

    def drain() -> None:
        admission.close()
        live.close()

    made = Starlette(
        routes=[
            Route(DETECT_PATH, app.detect_by_route, methods=["POST"]),
            Route(BATCH_PATH, app.detect_batch, methods=["POST"]),
            *health.routes,
            Route(OPENAPI_PATH, app.description, methods=["GET"]),
            Route(KEYS_PATH, app.keys, methods=["GET"]),
            WebSocketRoute(STREAM_PATH, app.streams.serve),
            *LiveRoutes(live, config, respond=http_response).routes,
            *app.retention.routes,
            *management.routes,
        ],
        middleware=[
            Middleware(direct.before),
            *management.middleware,
            Middleware(gate.before),
        ],
        lifespan=app.lifespan,
        exception_handlers={HTTPException: _no_such_thing, Exception: _bug},
    )
    made.state.drain = drain
    made.state.live = live
    made.state.streams = app.streams
    made.state.management = management
    made.state.direct_route = direct
    if has_places and isinstance(state, LocalState) and not config.require_encryption:
        made.state.early_refusals = EarlyRefusals(
            config,
            credentials=credentials,
            state=state,
            admission=admission,
            observation=management.observation,
            tracing=app.tracing,
        )
    made.router.redirect_slashes = False  # a redirect would name the host that the client named
    return made


class _App:
    def __init__(
        self,
        config: ServerConfig,
        detector: Detector,
        management: Management,
        log: PeerLog,
        state: SharedState,
        live: LiveSessions,
        tracing: Tracing,
    ) -> None:
        self._detector = detector
        self._management = management
        self._log = log
        self._description = openapi(config)
        self._sealing = Sealing(config.keys_path, require=config.require_encryption, state=state)
        self.retention = Retention(config, state, respond=http_response)
        self._live = live
        self.streams = Streams(
            config, answer=self._answer_to, live=live, info=lambda: detector.info
        )
        self.tracing = tracing
        self._bodies = BodyReader(limit_bytes=config.max_body_bytes, max_uploads=config.max_uploads)

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        try:
            self.tracing.start()
            await self.retention.start()
            await self._detector.start()
            self._management.started()
            yield
        finally:
            self.streams.close()
            await self._detector.aclose()
            await self.tracing.aclose()
            await self.retention.aclose()
            self._log.flush()

    async def description(self, request: Request) -> Response:
        return JSONResponse(self._description)

    async def keys(self, request: Request) -> Response:
        return JSONResponse({"keys": self._sealing.published()})

    async def detect(self, request: Request, whole: bytes | None) -> HttpAnswer:
        """The answer to one picture; `whole` is the body, where all of it has come."""
        facts = facts_of(request.scope)
        if not facts.is_wire and (refusal := unsupported_body(facts)) is not None:
            return http_answer(request, refusal)
        received: Received | None = None
        try:
            body, receive_s = await self._bodies.read(request, whole)
            message = body
            if not self._sealing.is_taken_as_it_is(body):
                if (keys := self._sealing.answer(body)) is not None:
                    return plain_answer(keys, SEALED_CONTENT_TYPE)
                received = await self._sealing.receive(body)
                message = received.message
        except (BodyRefusedError, SealRefusedError) as refused:
            return http_answer(request, refused.reply)
        except ClientDisconnect:
            return plain_answer(b"", "text/plain", status=CLIENT_GONE)  # its client has gone
        is_sealed = received is not None
        is_wire = is_sealed or facts.is_wire

        def read() -> DetectRequest:
            asked = decode_request(message) if is_wire else bare_picture(facts, message)
            traceparent, tracestate = facts.trace
            if not traceparent:
                return asked
            return replace(asked, traceparent=traceparent, tracestate=tracestate)

        reply = await self._reply(
            read,
            peek_request_id(body) if is_wire else 0,
            receive_s,
            connection=request,
            is_sealed=is_sealed,
            is_abandoned=hang_up_of(request),
        )
        return http_answer(request, reply, received)

    async def detect_by_route(self, request: Request) -> Response:
        """The same, where `DirectRoute` does not know the path: this app is mounted in another."""
        return (await self.detect(request, None)).response()

    async def detect_batch(self, request: Request) -> Response:
        try:
            body, receive_s = await self._bodies.read(request)
        except BodyRefusedError as refused:
            return http_response(request, refused.reply)
        except ClientDisconnect:
            return Response(status_code=CLIENT_GONE)  # no answer can be read
        answer = partial(
            self._answer_to,
            receive_s=receive_s,
            connection=request,
            is_abandoned=hang_up_of(request),
        )
        return await batch_response(request, body, answer)

    async def _answer_to(
        self,
        data: bytes,
        receive_s: float | None,
        connection: HTTPConnection,
        *,
        is_abandoned: Callable[[], Awaitable[bool]],
    ) -> bytes:
        """The message that answers `data`, one of a stream or a batch; sealed if that was."""
        try:
            return await self._message(data, receive_s, connection, is_abandoned=is_abandoned)
        except Exception as error:  # or its client would wait until its deadline
            reply = bug_reply(peek_request_id(data), error)
            note_reply(connection, reply)
            return encode_reply(reply)

    async def _message(
        self,
        data: bytes,
        receive_s: float | None,
        connection: HTTPConnection,
        *,
        is_abandoned: Callable[[], Awaitable[bool]],
    ) -> bytes:
        received: Received | None = None
        message = data
        if not self._sealing.is_taken_as_it_is(data):
            if (keys := self._sealing.answer(data)) is not None:
                return keys
            try:
                received = await self._sealing.receive(data)
            except SealRefusedError as refusal:
                note_reply(connection, refusal.reply)
                return encode_reply(refusal.reply)
            message = received.message
        unread = message

        def read() -> DetectRequest:
            nonlocal unread
            request = decode_request(message)
            unread = b""
            return request

        reply = await self._reply(
            read,
            peek_request_id(data),
            receive_s,
            connection=connection,
            is_sealed=received is not None,
            is_abandoned=is_abandoned,
        )
        encoded = encode_reply(reply)
        answer = encoded if received is None else received.protected(encoded)
        note_reply(connection, reply, unread)
        return answer

    async def _reply(
        self,
        read: Callable[[], DetectRequest],
        request_id: int,
        receive_s: float | None,
        *,
        connection: HTTPConnection,
        is_sealed: bool,
        is_abandoned: Callable[[], Awaitable[bool]],
    ) -> ResultReply | ErrorReply:
        """The answer to a request, or the error that says why there is none."""
        try:
            request = read()
            note_read(connection)
            if request.deadline_s is not None and receive_s is not None:
                # The client's clock has been running since it began to send.
                request = replace(request, deadline_s=request.deadline_s - receive_s)
            caller: str = connection.scope.get(CALLER, "")
            look = partial(self._detector.detect, request, caller=caller, is_abandoned=is_abandoned)
            seen = await (self.tracing.look(request, look) if self.tracing.is_on else look())
            note_look(connection, seen, request.traceparent)
        except Exception as error:
            return look_refusal(request_id, error)
        reply = ResultReply(
            request_id=request.request_id,
            width=seen.width,
            height=seen.height,
            faces=most_certain(seen.faces),
            model=seen.model or self._detector.model,
            receive_s=receive_s,
            queue_s=seen.queue_s,
            detect_s=seen.detect_s,
            min_confidence=seen.min_confidence,
            quality=seen.quality or "",
            min_face_px=seen.min_face_px,
        )
        if request.session_id:  # else none could ask for it, nor watch it
            self._show(request, reply, connection, is_sealed=is_sealed)
        return reply

    def _show(
        self,
        request: DetectRequest,
        reply: ResultReply,
        connection: HTTPConnection,
        *,
        is_sealed: bool,
    ) -> None:
        """Keep a result where results are kept, and show it to those who watch its session."""
        owner, session = owner_of(connection), request.session_id
        self.retention.keep(owner, request, reply)
        if (presence := connection.scope.get(PRESENCE)) is not None:
            presence.note(session)
        if not is_sealed:  # what came sealed is not shown in the clear
            self._live.publish(owner, session, reply)


async def _no_such_thing(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - what it is registered for
    response = http_response(request, error_reply(0, error.status_code, "refused", error.detail))
    response.headers.update(error.headers or {})  # Allow, of a wrong method
    return response


async def _bug(request: Request, _: Exception) -> Response:
    return http_response(request, BUG)

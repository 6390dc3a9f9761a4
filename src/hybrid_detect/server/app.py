"""The reference server as an ASGI app: one picture at a time over HTTP, many over a WebSocket.

It speaks the same wire module as the client. For people with curl, ``/v1/detect`` also takes
a bare picture and answers in JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from importlib.metadata import version

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from hybrid_detect.errors import (
    BackendUnavailableError,
    HybridDetectError,
    InvalidFrameError,
    ProtocolError,
)
from hybrid_detect.exchange.wire import (
    CONTENT_TYPE,
    DETECT_PATH,
    HEALTH_PATH,
    STREAM_PATH,
    SUBPROTOCOL,
    DetectRequest,
    ErrorReply,
    ResultReply,
    decode_request,
    encode_reply,
    peek_request_id,
    reply_to_json,
)
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.server.detectors import (
    Detector,
    DetectorPool,
    OverloadedError,
    TooLateError,
)
from hybrid_detect.server.gate import (
    BodyReader,
    BodyTooLargeError,
    BodyTooSlowError,
    TooManyUploadsError,
    is_authorized,
)

__all__ = ["create_app"]

logger = logging.getLogger("hybrid_detect.server")

RETRY_AFTER_S = 1.0
"""What an overloaded server asks for: about the time 16 waiting pictures take on two cores."""

UNAUTHORIZED = ErrorReply(
    request_id=0, status=401, code="unauthorized", detail="send Authorization: Bearer <token>"
)

TOO_SLOW = ErrorReply(
    request_id=0, status=408, code="too_slow", detail="the body did not come in time"
)

TOO_MANY_UPLOADS = ErrorReply(
    request_id=0,
    status=503,
    code="overloaded",
    detail="too many pictures are being sent",
    retry_after_s=RETRY_AFTER_S,
)


def create_app(config: ServerConfig, detector: Detector | None = None) -> Starlette:
    """The server as an ASGI app.

    Args:
        config: Limits, token and model.
        detector: What looks at the pictures, instead of MediaPipe in processes.
    """
    app = _App(config, detector or DetectorPool(config))
    return Starlette(
        routes=[
            Route(DETECT_PATH, app.detect, methods=["POST"]),
            Route(HEALTH_PATH, app.health, methods=["GET"]),
            WebSocketRoute(STREAM_PATH, app.stream),
        ],
        lifespan=app.lifespan,
        exception_handlers={HTTPException: _no_such_thing},
    )


class _App:
    def __init__(self, config: ServerConfig, detector: Detector) -> None:
        self._config = config
        self._detector = detector
        self._bodies = BodyReader(limit_bytes=config.max_body_bytes, max_uploads=config.max_uploads)

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        try:
            try:
                await self._detector.start()
            except HybridDetectError as error:
                app.state.startup_error = error  # for `serve`, which nobody tells why it failed
                raise
            yield
        finally:
            await self._detector.aclose()

    async def health(self, request: Request) -> Response:
        # A load balancer asks without a token. A client asks with one, to learn whether it fits.
        if "Authorization" in request.headers and not is_authorized(
            request, self._config.auth_token
        ):
            return _response(request, UNAUTHORIZED)
        body = {"status": "ok", "model": self._detector.model, "version": version("hybrid-detect")}
        return JSONResponse(body, headers=_SAFE)

    async def detect(self, request: Request) -> Response:
        if not is_authorized(request, self._config.auth_token):
            return _response(request, UNAUTHORIZED)
        try:
            body, receive_s = await self._bodies.read(request)
        except BodyTooLargeError:
            return _response(request, self._too_large(0))
        except BodyTooSlowError:
            return _response(request, TOO_SLOW)
        except TooManyUploadsError:
            return _response(request, TOO_MANY_UPLOADS)
        except ClientDisconnect:
            return Response(status_code=499)  # nobody is there to read it
        media_type = request.headers.get("Content-Type", "").partition(";")[0].strip()
        is_wire = media_type == CONTENT_TYPE

        def read() -> DetectRequest:
            return decode_request(body) if is_wire else DetectRequest(request_id=0, image=body)

        reply = await self._reply(
            read, peek_request_id(body) if is_wire else 0, is_abandoned=request.is_disconnected
        )
        if isinstance(reply, ResultReply):
            reply = replace(reply, receive_s=receive_s)
        return _response(request, reply)

    async def stream(self, websocket: WebSocket) -> None:
        if not is_authorized(websocket, self._config.auth_token):
            await websocket.send_denial_response(_json(UNAUTHORIZED))
            return
        await websocket.accept(
            subprotocol=SUBPROTOCOL if SUBPROTOCOL in websocket["subprotocols"] else None
        )
        places = asyncio.Semaphore(self._config.stream_in_flight)
        async with asyncio.TaskGroup() as answers:
            while True:
                # Not reading further while the places are taken lets TCP hold the sender back.
                await places.acquire()
                message = await websocket.receive()
                if message["type"] == "websocket.disconnect":
                    break
                data = message.get("bytes") or b""
                answer = answers.create_task(self._answer(websocket, data))
                answer.add_done_callback(lambda _: places.release())

    async def _answer(self, websocket: WebSocket, data: bytes) -> None:
        reply = await self._reply(lambda: decode_request(data), peek_request_id(data))
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):
            # The client may have gone meanwhile; Starlette then raises either of the two.
            await websocket.send_bytes(encode_reply(reply))

    async def _reply(
        self,
        read: Callable[[], DetectRequest],
        request_id: int,
        *,
        is_abandoned: Callable[[], Awaitable[bool]] | None = None,
    ) -> ResultReply | ErrorReply:
        """The answer to a request, or the error that says why there is none."""
        try:
            request = read()
            seen = await self._detector.detect(request, is_abandoned=is_abandoned)
        except ProtocolError as error:
            return _error(request_id, 400, "bad_request", str(error))
        except InvalidFrameError as error:
            return _error(request_id, 422, "invalid_image", str(error))
        except TooLateError:
            return _error(request_id, 504, "too_late", "nobody waits for this answer any more")
        except OverloadedError:
            return _error(
                request_id, 503, "overloaded", "too many pictures are waiting", RETRY_AFTER_S
            )
        except BackendUnavailableError as error:
            logger.warning("a picture met a dying detector: %s", error)
            return _error(request_id, 503, "detector_failed", "the detector failed; try again")
        except Exception:
            # A bug must not take a stream's other pictures with it, nor be shown to a stranger.
            logger.exception("detecting failed with a bug")
            return _error(request_id, 500, "internal", "the server has a bug; see its log")
        return ResultReply(
            request_id=request.request_id,
            width=seen.width,
            height=seen.height,
            faces=seen.faces,
            model=self._detector.model,
            queue_s=seen.queue_s,
            detect_s=seen.detect_s,
        )

    def _too_large(self, request_id: int) -> ErrorReply:
        limit = self._config.max_body_bytes
        return _error(request_id, 413, "too_large", f"the limit is {limit} bytes")


def _error(
    request_id: int, status: int, code: str, detail: str, retry_after_s: float | None = None
) -> ErrorReply:
    return ErrorReply(
        request_id=request_id,
        status=status,
        code=code,
        detail=detail,
        retry_after_s=retry_after_s,
    )


_SAFE = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


def _response(request: Request, reply: ResultReply | ErrorReply) -> Response:
    """`reply` as HTTP: in the wire format if the client speaks it, else as JSON."""
    if request.headers.get("Accept") != CONTENT_TYPE:
        return _json(reply)
    return Response(
        encode_reply(reply), _status(reply), media_type=CONTENT_TYPE, headers=_headers(reply)
    )


async def _no_such_thing(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - what it is registered for
    response = _response(request, _error(0, error.status_code, "refused", error.detail))
    response.headers.update(error.headers or {})  # Allow, of a wrong method
    return response


def _json(reply: ResultReply | ErrorReply) -> Response:
    return Response(
        json.dumps(reply_to_json(reply), indent=2) + "\n",
        _status(reply),
        media_type="application/json",
        headers=_headers(reply),
    )


def _status(reply: ResultReply | ErrorReply) -> int:
    return reply.status if isinstance(reply, ErrorReply) else 200


def _headers(reply: ResultReply | ErrorReply) -> dict[str, str]:
    headers = dict(_SAFE)
    if isinstance(reply, ErrorReply):
        if reply.retry_after_s is not None:
            headers["Retry-After"] = f"{reply.retry_after_s:.0f}"
        if reply.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        if reply.status == 408:
            headers["Connection"] = "close"  # RFC 9110, 15.5.9: the rest is not waited for
        return headers
    parts = {"receive": reply.receive_s, "queue": reply.queue_s, "detect": reply.detect_s}
    headers["Server-Timing"] = ", ".join(
        f"{name};dur={seconds * 1000:.2f}" for name, seconds in parts.items() if seconds is not None
    )
    return headers

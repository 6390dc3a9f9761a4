"""Several pictures in one body: each is refused or answered as if it had come alone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response

from hybrid_detect.errors import ProtocolError
from hybrid_detect.exchange.batch import BATCH_CONTENT_TYPE, decode_batch, encode_batch
from hybrid_detect.exchange.wire import encode_reply, peek_request_id
from hybrid_detect.server.gate import TAKE_PICTURE
from hybrid_detect.server.observation import note_reply
from hybrid_detect.server.replies import error_reply, http_response, too_fast

__all__ = ["batch_response"]


async def batch_response(
    request: Request, body: bytes, answer: Callable[[bytes], Awaitable[bytes]]
) -> Response:
    """The response to a batch of messages.

    Args:
        request: The request. The gate has counted it as one picture of its caller's rate.
        body: Its body.
        answer: Gives the reply to one message; raises for none.
    """
    try:
        messages = decode_batch(body)
    except ProtocolError as error:
        return http_response(request, error_reply(0, 400, "bad_request", str(error)))
    take: Callable[[], Awaitable[float]] = request.scope[TAKE_PICTURE]
    waits_s = [0.0, *await asyncio.gather(*(take() for _ in messages[1:]))]

    async def reply(message: bytes, wait_s: float) -> bytes:
        if wait_s:
            refusal = too_fast(peek_request_id(message), wait_s)
            note_reply(request, refusal, message)
            return encode_reply(refusal)
        return await answer(message)

    async with asyncio.TaskGroup() as group:
        replies = [group.create_task(reply(*each)) for each in zip(messages, waits_s, strict=True)]
    content = encode_batch([each.result() for each in replies])
    return Response(content, media_type=BATCH_CONTENT_TYPE)

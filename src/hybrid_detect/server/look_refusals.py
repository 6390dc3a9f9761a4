"""What a client is told where a look at its picture ended with an error."""

from __future__ import annotations

import logging
from dataclasses import replace

from hybrid_detect.errors import (
    BackendUnavailableError,
    InvalidFrameError,
    ModelError,
    ProtocolError,
)
from hybrid_detect.exchange.wire import ErrorReply
from hybrid_detect.server.admission import OverloadedError, StoppingError, TooLateError
from hybrid_detect.server.connections import STOPPING
from hybrid_detect.server.replies import BUG, error_reply

__all__ = ["bug_reply", "look_refusal"]

logger = logging.getLogger("hybrid_detect.server")


def look_refusal(request_id: int, error: Exception) -> ErrorReply:
    """The reply to the picture of `request_id`, whose look ended with `error`.

    What is no fault of the client's is logged.
    """
    if isinstance(error, ProtocolError):
        return error_reply(request_id, 400, "bad_request", str(error))
    if isinstance(error, InvalidFrameError):
        return error_reply(request_id, 422, "invalid_image", str(error))
    if isinstance(error, TooLateError):
        return error_reply(request_id, 504, "too_late", "no detector was free in time")
    if isinstance(error, OverloadedError):
        detail = "too many pictures are waiting"
        return error_reply(request_id, 503, "overloaded", detail, error.retry_after_s)
    if isinstance(error, StoppingError):
        return replace(STOPPING, request_id=request_id)
    if isinstance(error, BackendUnavailableError | ModelError):
        # The model is read again for a detector that is started anew.
        logger.warning("a picture met a dying detector: %s", error)
        return error_reply(request_id, 503, "detector_failed", "the detector failed; try again")
    return bug_reply(request_id, error)


def bug_reply(request_id: int, error: Exception) -> ErrorReply:
    """The reply to the picture of `request_id`, whose look or answer failed with a bug.

    It must not take a stream's other pictures with it, nor be shown to a stranger.
    """
    logger.error("answering a picture failed with a bug", exc_info=error)
    return replace(BUG, request_id=request_id)

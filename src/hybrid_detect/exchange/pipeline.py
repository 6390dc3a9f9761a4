"""The way of a frame to bytes, and of a reply's bytes back to faces in the frame.

`prepare` and `restore` are the only places where a remote way meets pixels, and no channel
gets to see more than the bytes between them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from hybrid_detect.exchange.wire import DetectRequest, ResultReply, encode_request
from hybrid_detect.frames.compression import ImageCompressionService
from hybrid_detect.frames.frame import Frame
from hybrid_detect.types import Face, Plan

__all__ = ["Prepared", "prepare", "restore"]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A frame ready to be sent."""

    request: bytes = field(repr=False)
    """The whole message, picture included."""
    frame_width: int
    """Width of the upright picture the faces are wanted in, in pixels."""
    frame_height: int
    """Height of that picture, in pixels."""


def prepare(
    frame: Frame,
    plan: Plan,
    *,
    compressor: ImageCompressionService,
    min_confidence: float,
    session_id: str | None,
) -> Prepared:
    """Compress `frame` as `plan` says and put it into a message.

    The compressed picture is made from pixels alone, so nothing of the input's metadata
    can be in it.

    Raises:
        InvalidFrameError: If the frame turns out not to be a readable image.
    """
    picture = compressor.compress(
        frame,
        target_bytes=plan.target_bytes,
        quality=plan.quality,
        max_side_px=plan.max_side_px,
    )
    request = DetectRequest(
        request_id=0,  # the channel numbers its messages itself
        image=picture.data,
        format=picture.format,
        min_confidence=min_confidence,
        deadline_s=plan.deadline_s if math.isfinite(plan.deadline_s) else None,
        session_id=session_id,
    )
    return Prepared(encode_request(request), frame.width, frame.height)


def restore(reply: ResultReply, prepared: Prepared) -> tuple[Face, ...]:
    """The faces of `reply` in the pixels of the frame that `prepared` was made from."""
    fitted = (
        face.fitted(
            scale_x=prepared.frame_width / reply.width,
            scale_y=prepared.frame_height / reply.height,
            width=prepared.frame_width,
            height=prepared.frame_height,
        )
        for face in reply.faces
    )
    return tuple(face for face in fitted if face is not None)

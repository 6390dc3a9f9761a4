"""The way of a frame to bytes, and of a reply's bytes back to faces in the frame.

`prepare` and `restore` are the only places where a remote way meets pixels, and no channel
gets to see more than the bytes between them. Where encryption is configured, `protect` seals
those bytes, for each attempt anew.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hybrid_detect.compression.compressor import ImageCompressionService
from hybrid_detect.errors import EncryptionError
from hybrid_detect.exchange.envelope import Kind, kind_of
from hybrid_detect.exchange.wire import (
    DetectRequest,
    ErrorReply,
    ResultReply,
    decode_reply,
    encode_request,
)
from hybrid_detect.frames.frame import Frame
from hybrid_detect.types import Face, Plan

if TYPE_CHECKING:
    from hybrid_detect.exchange.encryption import SecureImageTransmission

__all__ = ["Prepared", "Protected", "prepare", "protect", "restore"]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A frame ready to be sent."""

    request: bytes = field(repr=False)
    """The whole message, picture included."""
    frame_width: int
    """Width of the upright picture the faces are wanted in, in pixels."""
    frame_height: int
    """Height of that picture, in pixels."""
    picture_bytes: int = 0
    """Weight of the compressed picture."""
    quality: int | None = None
    """Its JPEG quality, if it was chosen here."""
    scale: float = 1.0
    """Its width as a share of the frame's."""


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
    return Prepared(
        encode_request(request),
        frame.width,
        frame.height,
        picture_bytes=len(picture.data),
        quality=picture.quality if picture.encodes else None,
        scale=picture.width / frame.width,
    )


@dataclass(frozen=True, slots=True)
class Protected:
    """A request as the channel carries it, and the way to read its reply."""

    request: bytes = field(repr=False)
    read: Callable[[bytes], ResultReply | ErrorReply] = field(repr=False)
    """The reply in the bytes that came back.

    Raises `ProtocolError` if they break the wire format, and `EncryptionError` if they are not
    the sealed reply to this very request.
    """


def protect(prepared: Prepared, transmission: SecureImageTransmission | None) -> Protected:
    """Seal a request for one attempt at sending it, if there is a `transmission` to do so.

    Every attempt needs a seal of its own, because the server refuses what it has seen.

    Raises:
        EncryptionError: If it cannot be sealed. It must not be sent then.
    """
    if transmission is None:
        return Protected(prepared.request, decode_reply)
    sealed = transmission.seal(prepared.request)

    def read(data: bytes) -> ResultReply | ErrorReply:
        if kind_of(data) is Kind.REPLY:
            return decode_reply(transmission.open(data, sealed))
        # Who could not open the request cannot seal a reply, only say why there is none.
        reply = decode_reply(data)
        if isinstance(reply, ErrorReply):
            return reply
        msg = "the answer came in the clear, so it is not the server's own"
        raise EncryptionError(msg)

    return Protected(sealed.data, read)


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

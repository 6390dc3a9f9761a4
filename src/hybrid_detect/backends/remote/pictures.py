"""From a frame to the picture that is sent, and from the reply back to faces in the frame."""

from __future__ import annotations

from collections.abc import Iterable

from hybrid_detect.backends.remote.targets import Target
from hybrid_detect.compression.compressed_image import CompressedImage
from hybrid_detect.compression.compressor import ImageCompressionService
from hybrid_detect.errors import BackendError
from hybrid_detect.exchange.wire import ResultReply
from hybrid_detect.frames.frame import Frame
from hybrid_detect.types import Face, Plan

__all__ = ["faces_in_frame", "picture_for"]


def picture_for(
    frame: Frame, plan: Plan, targets: Iterable[Target], compressor: ImageCompressionService
) -> CompressedImage:
    """The picture that `plan` sends of `frame`, small enough for each of `targets`.

    It is made from pixels alone, so that nothing of the input's metadata is in it.

    Raises:
        InvalidFrameError: If the frame turns out not to be a readable image.
        BackendError: If no picture of it is small enough: another backend may need no bytes.
    """
    limits = (target.protocol.capabilities.max_picture_bytes for target in targets)
    target_bytes = min((plan.target_bytes, *(limit for limit in limits if limit)))
    picture = compressor.compress(
        frame,
        target_bytes=target_bytes,
        quality=plan.quality,
        max_side_px=plan.max_side_px,
        on_impossible="smallest",
    )
    if not picture.fits:
        msg = (
            f"no picture of the {frame.width}x{frame.height} frame fits into {target_bytes} "
            f"bytes: the smallest has {len(picture.data)}"
        )
        raise BackendError(msg)
    return picture


def faces_in_frame(
    reply: ResultReply, picture: CompressedImage, *, min_confidence: float = 0.0
) -> tuple[Face, ...]:
    """The faces of `reply` in the pixels of the frame that `picture` was made from.

    Args:
        reply: Faces in the pixels of the picture.
        picture: The picture that was sent.
        min_confidence: Faces below this score are left out; not every server can be told.
    """
    fitted = (
        face.fitted(
            scale_x=picture.original_width / reply.width,
            scale_y=picture.original_height / reply.height,
            width=picture.original_width,
            height=picture.original_height,
        )
        for face in reply.faces
        if face.score is None or face.score >= min_confidence
    )
    return tuple(face for face in fitted if face is not None)

"""From a frame to the picture that is sent, and from the reply back to faces in the frame."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Self

from PIL import Image

from hybrid_detect.backends.remote.protocol import Capabilities
from hybrid_detect.backends.remote.targets import Target
from hybrid_detect.compression.compressed_image import CompressedImage
from hybrid_detect.compression.compressor import JPEG_MAX_SIDE_PX, ImageCompressionService
from hybrid_detect.compression.filling import filled
from hybrid_detect.config import DEFAULT_MIN_CONFIDENCE
from hybrid_detect.errors import BackendError
from hybrid_detect.exchange.wire import ResultReply
from hybrid_detect.frames.frame import Frame
from hybrid_detect.types import Face, Plan

__all__ = ["PictureLimits", "faces_in_frame", "min_face_in_frame", "picture_for"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureLimits:
    """What a picture must be for every one of several providers to take it."""

    max_bytes: int | None = None
    min_bytes: int = 0
    min_side_px: int = 1
    max_side_px: int = JPEG_MAX_SIDE_PX
    max_pixels: int | None = None

    @classmethod
    def of(cls, capabilities: Iterable[Capabilities]) -> Self:
        """The strictest limits among `capabilities`."""
        all_of = tuple(capabilities)
        return cls(
            max_bytes=_least(each.max_picture_bytes for each in all_of),
            min_bytes=max((each.min_picture_bytes for each in all_of), default=0),
            min_side_px=max((each.min_side_px for each in all_of), default=1),
            max_side_px=_least(each.max_side_px for each in all_of) or JPEG_MAX_SIDE_PX,
            max_pixels=_least(each.max_pixels for each in all_of),
        )

    def side_px(self, width: int, height: int, wished_px: int | None) -> int:
        """The longest side of the picture of a frame of this size.

        A provider's minimum comes before a plan's wish to send fewer pixels.
        """
        longer, shorter = max(width, height), min(width, height)
        least_px = math.ceil(self.min_side_px * longer / shorter)
        side_px = min(max(wished_px or longer, least_px), self.max_side_px)
        if self.max_pixels is not None:
            side_px = min(side_px, int(longer * math.sqrt(self.max_pixels / (width * height))))
        return max(side_px, 1)

    def allow(self, picture: CompressedImage) -> bool:
        """Whether `picture` is within them as it is."""
        pixels = picture.width * picture.height
        return (
            self.min_bytes <= len(picture.data) <= (self.max_bytes or math.inf)
            and min(picture.width, picture.height) >= self.min_side_px
            and max(picture.width, picture.height) <= self.max_side_px
            and pixels <= (self.max_pixels or math.inf)
        )


def _least(limits: Iterable[int | None]) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)


def picture_for(
    frame: Frame, plan: Plan, targets: Sequence[Target], compressor: ImageCompressionService
) -> CompressedImage:
    """The picture that `plan` sends of `frame`, within the limits of each of `targets`.

    It is made from pixels alone, so that nothing of the input's metadata is in it; or it is a JPEG
    passed through, without its metadata and with all its tables (`compression.jpeg_markers`). A
    frame below a provider's least side is enlarged, a picture below its least bytes is filled up.

    Raises:
        InvalidFrameError: If the frame turns out not to be a readable image.
        BackendError: If no picture of it is within the limits: another backend may have none.
    """
    limits = PictureLimits.of(target.protocol.capabilities for target in targets)
    target_bytes = min(plan.target_bytes, limits.max_bytes or plan.target_bytes)
    source = _enlarged(frame, limits) if _shorter(frame) < limits.min_side_px else frame
    picture = compressor.compress(
        source,
        target_bytes=target_bytes,
        quality=plan.quality,
        max_side_px=limits.side_px(source.width, source.height, plan.max_side_px),
        min_side_px=limits.min_side_px,
        on_impossible="smallest",
    )
    if not picture.fits:
        msg = (
            f"no picture of the {frame.width}x{frame.height} frame fits into {target_bytes} "
            f"bytes: the smallest has {len(picture.data)}"
        )
        raise BackendError(msg)
    if min(picture.width, picture.height) < limits.min_side_px:
        raise BackendError(_too_narrow(frame, limits))
    if source is not frame:
        picture = replace(picture, original_width=frame.width, original_height=frame.height)
    if len(picture.data) < limits.min_bytes:
        picture = replace(picture, data=filled(picture.data, limits.min_bytes))
    return picture


def _shorter(frame: Frame) -> int:
    return min(frame.width, frame.height)


def _enlarged(frame: Frame, limits: PictureLimits) -> Frame:
    """`frame` with a shorter side as long as `limits` ask for."""
    scale = limits.min_side_px / _shorter(frame)
    size = round(frame.width * scale), round(frame.height * scale)
    if max(size) > limits.max_side_px or size[0] * size[1] > (limits.max_pixels or math.inf):
        raise BackendError(_too_narrow(frame, limits))
    picture = frame.pil().resize(size, Image.Resampling.BILINEAR)
    return Frame.of(picture, captured_at_s=frame.captured_at_s)


def _too_narrow(frame: Frame, limits: PictureLimits) -> str:
    return (
        f"no picture of the {frame.width}x{frame.height} frame has a shorter side of at least "
        f"{limits.min_side_px} and a longer one of at most {limits.max_side_px} pixels"
    )


def faces_in_frame(
    reply: ResultReply, picture: CompressedImage, *, min_confidence: float | None = None
) -> tuple[Face, ...]:
    """The faces of `reply` in the pixels of the frame that `picture` was made from.

    Args:
        reply: Faces in the pixels of the picture.
        picture: The picture that was sent.
        min_confidence: Faces below this score are left out: not every server can be told. `None`
            for the threshold of the model, which has been applied if `reply` names it. If not, as
            with raw outputs of a network, it is `DEFAULT_MIN_CONFIDENCE`.
    """
    lowest = min_confidence
    if lowest is None:
        lowest = DEFAULT_MIN_CONFIDENCE if reply.min_confidence is None else 0.0
    fitted = (
        face.fitted(
            scale_x=picture.original_width / reply.width,
            scale_y=picture.original_height / reply.height,
            width=picture.original_width,
            height=picture.original_height,
        )
        for face in reply.faces
        if face.score is None or face.score >= lowest
    )
    return tuple(face for face in fitted if face is not None)


def min_face_in_frame(reply: ResultReply, picture: CompressedImage) -> float | None:
    """Height of the smallest face that could have been found, in the frame's pixels."""
    if reply.min_face_px is None:
        return None
    return reply.min_face_px * picture.original_height / reply.height

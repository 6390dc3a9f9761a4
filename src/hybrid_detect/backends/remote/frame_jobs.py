"""A frame that a remote backend is to have answered: its deadline, its gate and its pictures."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from hybrid_detect.backends.base import UploadGate
from hybrid_detect.backends.remote.pictures import PictureLimits
from hybrid_detect.backends.remote.protocol import Capabilities
from hybrid_detect.backends.remote.targets import Target
from hybrid_detect.compression.compressed_image import CompressedImage
from hybrid_detect.exchange.wire import ResultReply
from hybrid_detect.frames.frame import Frame
from hybrid_detect.monitoring.tracing import NO_SPAN, Span
from hybrid_detect.types import Plan

__all__ = ["Answer", "FrameJob", "suits"]


def suits(picture: CompressedImage, capabilities: Capabilities) -> bool:
    """Whether a provider with `capabilities` takes `picture` as it is."""
    return picture.format in capabilities.formats and PictureLimits.of((capabilities,)).allow(
        picture
    )


@dataclass(slots=True, eq=False)
class FrameJob:
    """One frame on its way to a target.

    It is compressed once, for the target that is asked first. Another target gets the same picture
    if that is within its limits; else the frame is compressed again.
    """

    frame: Frame
    plan: Plan
    ends_s: float
    """When its deadline passes, in monotonic seconds."""
    gate: UploadGate | None
    pictures: list[CompressedImage] = field(default_factory=list)
    """What it was compressed to so far."""
    is_halved: bool = False
    """Whether a target found it too large, and a smaller picture is asked for."""
    prepare_s: float = 0.0
    """Seconds spent compressing."""
    requests: int = 0
    """Requests that were made of it so far."""

    @property
    def span(self) -> Span:
        """The attempt's part of the frame's trace."""
        return NO_SPAN if self.gate is None else self.gate.span

    @contextmanager
    def compressing(self) -> Iterator[None]:
        """The next of its `pictures` is made inside the block."""
        began_s = time.monotonic()
        with self.span.child("compress") as span:
            yield
            picture = self.pictures[-1]
            if span.is_recording:
                span.set(
                    {
                        "hybrid_detect.picture.size": len(picture.data),
                        "hybrid_detect.picture.width": picture.width,
                        "hybrid_detect.picture.height": picture.height,
                        "hybrid_detect.picture.quality": picture.quality,
                        "hybrid_detect.picture.encodes": picture.encodes,
                    }
                )
        self.prepare_s += time.monotonic() - began_s

    def picture_for(self, target: Target) -> CompressedImage | None:
        """The picture that `target` can have; `None` if it has to be made."""
        capabilities = target.protocol.capabilities
        return next((each for each in self.pictures if suits(each, capabilities)), None)

    def halve(self) -> bool:
        """Have the next picture made with half of the bytes of the last; False the second time."""
        if self.is_halved or not self.pictures:
            return False
        self.is_halved = True
        target_bytes = len(self.pictures[-1].data) // 2
        self.plan = replace(self.plan, target_bytes=target_bytes)
        self.pictures.clear()
        return True

    def denied(self, targets: Iterable[Target]) -> tuple[Target, ...]:
        """Those of `targets` that the frame may not go to now.

        Raises:
            BackendUnavailableError: If it may go to none of them.
        """
        if self.gate is None:
            return ()
        all_of = tuple(targets)
        reasons = {
            index: reason
            for index, target in enumerate(all_of)
            if (reason := self.gate.denied_reason(target.destination))
        }
        if len(reasons) == len(all_of):
            raise self.gate.refuse(reasons[0])
        return tuple(all_of[index] for index in reasons)

    def require_open(self, target: Target) -> None:
        """Refuse if the frame may not leave now for `target`, which is asked next.

        Raises:
            BackendUnavailableError: If it may not.
        """
        if self.gate is not None:
            self.gate.destination = target.destination
            self.gate.require_open()


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply, and what it is the reply to."""

    reply: ResultReply
    picture: CompressedImage
    target: Target
    bytes_sent: int

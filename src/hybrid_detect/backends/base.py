"""The strategy interface: one way of detecting.

The service knows ways only through this. A way gets a frame and a plan and returns a result
in the pixels of the upright picture, or raises a `BackendError` that says whether trying
again makes sense.
"""

from __future__ import annotations

import asyncio
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from types import TracebackType
from typing import Any, ClassVar, Self

from hybrid_detect.config import DEFAULT_DEADLINE_S
from hybrid_detect.frames.frame import Frame, ImageLike
from hybrid_detect.types import BackendKind, DetectionResult, DetectionStatus, Face, Plan, Timings

__all__ = ["Backend", "open_frame"]


async def open_frame(image: ImageLike, **options: Any) -> Frame:
    """`Frame.of` for an event loop: what may block, a file or a pipe, is read in a thread.

    Args:
        image: Anything `Frame.of` takes.
        **options: Its keyword arguments.

    Raises:
        InvalidFrameError: If it is not an image.
    """
    if isinstance(image, str | os.PathLike) or hasattr(image, "read"):
        return await asyncio.to_thread(Frame.of, image, **options)
    return Frame.of(image, **options)


class Backend(ABC):
    """One way of detecting faces.

    `start`, `check`, `detect` and `aclose` belong to one event loop. `detect` may be called
    several times at once.
    """

    kind: BackendKind
    """Which way it is."""

    host: str = ""
    """Name or address of the host it sends frames to; empty for the service's own endpoint."""

    check_deadline_s: ClassVar[float] = 3.0
    """Seconds a check may take before it counts as failed: three round trips over the slowest
    usable link."""

    @property
    def unavailable_reason(self) -> str:
        """Why no frame should be given to this way now; empty when one may be."""
        return ""

    async def start(self) -> None:
        """Get going without waiting for anything: `check` tells when it is ready.

        Raises:
            ConfigurationError: If it can never work as configured.
        """

    async def check(self, *, deadline_s: float) -> None:
        """Prove that a frame could be answered now, at the smallest possible cost.

        Args:
            deadline_s: Seconds to wait for the proof.

        Raises:
            BackendError: If it could not.
            ModelError: If it lacks its model.
        """

    @abstractmethod
    async def detect(self, frame: Frame, plan: Plan) -> DetectionResult:
        """Look for faces in `frame` inside ``plan.deadline_s`` seconds from now.

        Raises:
            BackendError: If this way cannot answer.
            InvalidFrameError: If the frame turns out not to be a readable image.
        """

    def recall(self) -> None:
        """Keep what of given-up frames is still here from leaving; for a way that buffers."""

    async def aclose(self) -> None:
        """Stop, and leave nothing running. May be called more than once."""

    async def process_image(
        self, image: ImageLike, *, deadline_s: float = DEFAULT_DEADLINE_S, **frame_options: Any
    ) -> DetectionResult:
        """Look for faces in `image` through this way alone.

        Args:
            image: Anything `Frame.of` takes.
            deadline_s: Seconds the frame has.
            **frame_options: Keyword arguments for `Frame.of`, such as ``pixel_format``.

        Raises:
            BackendError: If this way cannot answer.
            InvalidFrameError: If it is not an image.
        """
        started_s = time.monotonic()
        frame = await open_frame(image, **frame_options)
        plan = Plan(
            backend=self.kind,
            reason=f"{self.kind.value} was asked for",
            deadline_s=max(deadline_s - (time.monotonic() - started_s), 0.0),
        )
        return await self.detect(frame, plan)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def answer(
        self,
        frame: Frame,
        plan: Plan,
        faces: Iterable[Face],
        *,
        model: str,
        timings: Timings,
        bytes_sent: int = 0,
    ) -> DetectionResult:
        """The result for `frame`, for a backend's `detect` to return: faces best first.

        Args:
            frame: What was looked at.
            plan: Its plan, whose reason is passed on.
            faces: What was seen, in the pixels of the upright picture.
            model: The model that looked.
            timings: Where the time went.
            bytes_sent: Bytes that left the device.
        """
        ranked = sorted(
            faces, key=lambda face: -1.0 if face.score is None else face.score, reverse=True
        )
        return DetectionResult(
            status=DetectionStatus.OK,
            width=frame.width,
            height=frame.height,
            faces=tuple(ranked),
            backend=self.kind,
            model=model,
            reason=plan.reason,
            timings=timings,
            age_s=frame.age_s(),
            bytes_sent=bytes_sent,
            frame_id=frame.frame_id,
        )

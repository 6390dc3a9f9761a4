"""The strategy interface: what a backend is, and what the service knows of it.

A backend gets a frame and a plan and returns a result in the pixels of the upright picture, or
raises a `BackendError` that says whether trying again makes sense.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, ClassVar, Protocol, Self

from hybrid_detect.charges import SentRequest
from hybrid_detect.config import DEFAULT_DEADLINE_S
from hybrid_detect.destination import Destination
from hybrid_detect.errors import BackendUnavailableError
from hybrid_detect.frames.frame import Frame, ImageLike, opens_at_once
from hybrid_detect.frames.ownership import owned, takes_long
from hybrid_detect.monitoring.tracing import NO_SPAN, Span
from hybrid_detect.selection.rungs import USUAL_LADDER, PictureLadder
from hybrid_detect.sources.daemon_threads import in_daemon_thread
from hybrid_detect.types import BackendKind, DetectionResult, DetectionStatus, Face, Plan, Timings

__all__ = ["CHECK_DEADLINE_S", "Backend", "Charge", "UploadGate", "open_frame"]

CHECK_DEADLINE_S = 3.0
"""Six round trips of half a second: enough on all but the slowest links that are of any use."""


async def open_frame(
    image: ImageLike, *, limit_s: float | None = None, is_owned: bool = False, **options: Any
) -> Frame:
    """`Frame.of` for an event loop, of pixels that the caller cannot change any more.

    What may take long, a file, a pipe or a large copy, is done in a thread.

    Args:
        image: Anything `Frame.of` takes. A `Frame` is used as it is.
        limit_s: Seconds that reading may take; `None` for no limit.
        is_owned: Whether `image` is the library's own already, so that it need not be copied.
        **options: The keyword arguments of `Frame.of`.

    Raises:
        InvalidFrameError: If it is not an image.
        TimeoutError: If that took longer than `limit_s`. The thread that does it is left behind.
    """

    def make() -> Frame:
        return Frame.of(image if is_owned else owned(image), **options)

    if opens_at_once(image) and (is_owned or not takes_long(image)):
        return make()
    async with asyncio.timeout(limit_s):
        return await in_daemon_thread(make)


class Charge(Protocol):
    """Puts the price on a request and counts it as spent; see `UploadGate`."""

    def __call__(self, request: SentRequest, *, has_left: bool) -> SentRequest:
        """`request` as it is charged.

        Raises:
            BackendUnavailableError: If the budget has no room for it, and it has not left.
        """


class UploadGate:
    """Asked each time bytes of a frame are about to be handed to a transport; records what left.

    A remote backend asks it for the first request, for each retry and for each hedge, with no
    `await` between the question and the handing over. So a consent that ended a moment ago holds
    back even a picture whose headers have left.

    Args:
        backend: The backend that sends.
        denied_reason: Why the frame may not leave now for a destination, or for any of the
            backend's if it is `None`; empty if it may.
        charge: Puts the price on a request that is about to leave and counts it as spent, or
            raises a `BackendUnavailableError` if the budget has no room for it. Told in
            ``has_left`` that it is too late to refuse.
        span: The attempt's part of the frame's trace.
    """

    __slots__ = (
        "_charge",
        "backend",
        "denied_reason",
        "destination",
        "refusal",
        "requests",
        "span",
    )

    def __init__(
        self,
        backend: BackendKind,
        denied_reason: Callable[[Destination | None], str],
        *,
        charge: Charge | None = None,
        span: Span = NO_SPAN,
    ) -> None:
        self.backend = backend
        self.span = span
        """The attempt's part of the frame's trace; a backend adds its own parts to it."""
        self.denied_reason = denied_reason
        self.destination: Destination | None = None
        """Where the attempt under way sends the frame to; set by the backend before each."""
        self._charge = charge
        self.refusal: BackendUnavailableError | None = None
        """The last refusal: an error that says nothing about the backend or its target."""
        self.requests: list[SentRequest] = []
        """The requests that were handed over so far, in that order."""

    @property
    def bytes_sent(self) -> int:
        """Bytes that were handed over so far."""
        return sum(request.bytes_sent for request in self.requests)

    def require_open(self) -> None:
        """Refuse if the frame may not leave now for where it is being sent to.

        Raises:
            BackendUnavailableError: If it may not.
        """
        if reason := self.denied_reason(self.destination):
            raise self.refuse(reason)

    def refuse(self, reason: str) -> BackendUnavailableError:
        """The error for a frame that may not leave, to be raised; remembered as `refusal`."""
        self.refusal = BackendUnavailableError(reason, backend=self.backend.value)
        return self.refusal

    def hand_over(self, request: SentRequest) -> int:
        """Record `request`, which the caller hands to a transport as soon as this returns.

        Returns:
            Its place in `requests`.

        Raises:
            BackendUnavailableError: If the frame may not leave any more, or the budget is spent.
        """
        self.require_open()
        return self._record(request, has_left=False)

    def record(self, request: SentRequest) -> int:
        """Record `request`, which has left without being asked about; its place in `requests`."""
        return self._record(request, has_left=True)

    def _record(self, request: SentRequest, *, has_left: bool) -> int:
        if self._charge is not None:
            try:
                request = self._charge(request, has_left=has_left)
            except BackendUnavailableError as error:
                self.refusal = error
                raise
        self.requests.append(request)
        return len(self.requests) - 1

    def answered(self, place: int) -> None:
        """The request at `place` was answered."""
        self.requests[place] = self.requests[place].as_answered()


class Backend(ABC):
    """Detects faces in frames, at one place.

    `start`, `check`, `detect` and `aclose` belong to one event loop. `detect` may be called
    several times at once.
    """

    kind: BackendKind
    """Which kind of backend it is."""

    host: str = ""
    """The host it sends the next frame to, name or address; empty for the service's endpoint."""

    @property
    def runtime(self) -> str:
        """What runs the model here, and why; empty for a backend that sends pictures."""
        return ""

    @property
    def recall_by_height(self) -> tuple[tuple[float, float], ...] | None:
        """The share of the faces that its model finds, by their height; `None` if unknown.

        Pairs of a height, as a share of the picture's longer side, and the recall from there to the
        next pair's height, in rising order.
        """
        return None

    @property
    def ladder(self) -> PictureLadder:
        """The pictures that are worth sending to it."""
        return USUAL_LADDER

    @property
    def destinations(self) -> tuple[Destination, ...]:
        """Every destination that a frame may go to, the preferred ones first."""
        return (Destination(host=self.host),)

    def restrict(self, denied_reason: Callable[[Destination], str]) -> str:
        """Never again ask a destination that may have no frame: no picture, no health, no key.

        Called before `start`. A backend that cannot leave one out is denied as a whole.

        Args:
            denied_reason: Why a destination may have no frame; empty if it may have some.

        Returns:
            Why none is left; empty if one is.
        """
        reasons = (denied_reason(destination) for destination in self.destinations)
        return next((reason for reason in reasons if reason), "")

    measures_link: ClassVar[bool] = False
    """Whether it measures what the link to its host carries."""

    @property
    def check_deadline_s(self) -> float:
        """Seconds a check may take before it counts as failed."""
        return CHECK_DEADLINE_S

    @property
    def unavailable_reason(self) -> str:
        """Why no frame should be given to this backend now; empty when one may be."""
        return ""

    @property
    def is_starting(self) -> bool:
        """Whether it is still on its way up, so that a frame may wait for it in its deadline."""
        return False

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
            BackendError: If this backend cannot answer.
            InvalidFrameError: If the frame turns out not to be a readable image.
        """

    def recall(self) -> None:
        """Keep what is left here of given-up frames from leaving, for a backend that buffers."""

    async def aclose(self) -> None:
        """Stop, and leave nothing running. May be called more than once.

        From then on, `start`, `check` and `detect` raise `ClosedError`.
        """

    async def process_image(
        self, image: ImageLike, *, deadline_s: float = DEFAULT_DEADLINE_S, **frame_options: Any
    ) -> DetectionResult:
        """Look for faces in `image` with this backend alone.

        Args:
            image: Anything `Frame.of` takes.
            deadline_s: Seconds the frame has.
            **frame_options: Keyword arguments for `Frame.of`, such as ``pixel_format``.

        Raises:
            BackendError: If this backend cannot answer.
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
        quality: str = "",
        min_face_px: float | None = None,
        destination: Destination | None = None,
    ) -> DetectionResult:
        """The result for `frame`, for a backend's `detect` to return: faces best first.

        Args:
            frame: The frame that was looked at.
            plan: Its plan, whose reason is passed on.
            faces: The faces found, in the pixels of the upright picture.
            model: The model that looked.
            timings: Where the time went.
            bytes_sent: Bytes that left the device.
            quality: The level that a server of this project used.
            min_face_px: Height of the smallest face that could have been found, in the same
                pixels; `None` if unknown.
            destination: Where they went; `None` if none did.
        """
        ranked = sorted(
            faces, key=lambda face: -1.0 if face.score is None else face.score, reverse=True
        )
        destination = destination or Destination()
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
            quality=quality,
            min_face_px=min_face_px,
            frame_id=frame.frame_id,
            target=destination.target or destination.host,
            provider=destination.provider,
            region=destination.region,
        )

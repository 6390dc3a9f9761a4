"""One call for a face detection that works wherever the network and the device stand.

For each frame: observe, decide, detect, fall back, feed back.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, Self

from hybrid_detect.backends.base import Backend
from hybrid_detect.config import ServiceConfig, detection_mode
from hybrid_detect.errors import (
    AllBackendsFailedError,
    ClosedError,
    ConfigurationError,
)
from hybrid_detect.frames.frame import ImageLike, PixelFormat
from hybrid_detect.monitoring.hooks import Dispatcher, Hook
from hybrid_detect.monitoring.prices import PriceTable
from hybrid_detect.privacy.consent import ConsentLedger
from hybrid_detect.privacy.consent_record import ConsentRecord
from hybrid_detect.privacy.privacy_policy import FramePrivacy, PrivacyPolicy
from hybrid_detect.selection.policy import Policy
from hybrid_detect.service.accounts import Accounts
from hybrid_detect.service.backend_set import BackendSet
from hybrid_detect.service.conditions_builder import ConditionsBuilder, FrameContext, frame_privacy
from hybrid_detect.service.deciding import Decider
from hybrid_detect.service.default_policy import default_policy
from hybrid_detect.service.execution import Execution
from hybrid_detect.service.frame_runs import FrameRuns
from hybrid_detect.service.loop_thread import FORKED, call_in_loop
from hybrid_detect.service.plan_executor import PlanExecutor
from hybrid_detect.service.status import ServiceStatus, Traffic
from hybrid_detect.service.streams import SILENCE_S, Stream
from hybrid_detect.sources.sources import FrameSource, OpenSource
from hybrid_detect.types import DetectionMode, DetectionResult, DetectionStatus, Plan

__all__ = ["HybridDetectionService"]


class HybridDetectionService:
    """Detects faces in camera frames with the backend that serves each frame best.

    Use it as an async context manager; entering returns once a backend is ready (the device, if
    it is preferred), or all have failed to become so. It belongs to one event loop, and
    `process_image` may be called several times at once.

    Args:
        endpoint: URL of the detection server; without one, the device is the only backend.
        auth_token: Bearer token for the server.
        mode: Which backends may be used, and in which order.
        session_id: Your own name for this run of the app.
        config: Everything else; the arguments above win over its fields.
        backends: The backends to use instead of those that the configuration asks for. Several of
            one kind stand in for each other: the fastest that works gets the frame.
        policy: Decides instead of the mode's own.
        privacy: What may leave the device; by default every frame may go to the endpoint.
        consent: The consents that `privacy` asks for, of the subject named by `session_id`.
        hooks: Objects with ``on_frame(event)`` or ``on_backend(event)``, told what became of
            each frame and of each change of a backend. They are not closed with the service.
        prices: Prices by the number of pictures in a month, which replace the targets' own.
        clock: Monotonic time in seconds.

    Raises:
        ConfigurationError: If no backend of the mode can work as configured.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        auth_token: str | None = None,
        mode: DetectionMode | str | None = None,
        session_id: str | None = None,
        *,
        config: ServiceConfig | None = None,
        backends: Iterable[Backend] | None = None,
        policy: Policy | None = None,
        privacy: PrivacyPolicy | None = None,
        consent: ConsentLedger | None = None,
        hooks: Iterable[Hook] = (),
        prices: Iterable[PriceTable] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        given: dict[str, Any] = {"endpoint": endpoint, "auth_token": auth_token}
        given |= {"mode": mode, "session_id": session_id}
        explicit = {name: value for name, value in given.items() if value is not None}
        self.config = replace(config or ServiceConfig(), **explicit)
        self._clock = clock
        self._decider = Decider(policy or default_policy(self.config))
        self._accounts = Accounts(self.config, prices)
        self._hooks = Dispatcher(self._accounts.with_meter(hooks))
        privacy = (privacy or PrivacyPolicy()).within(
            allowed_providers=self.config.allowed_providers,
            allowed_regions=self.config.allowed_regions,
        )
        self._backends = BackendSet(
            self.config,
            backends,
            privacy=privacy,
            clock=clock,
            on_change=self._hooks.backend if self._hooks.wants_backends else None,
            ledger=self._accounts.ledger,
        )
        self._runs = FrameRuns(
            process=self._process,
            failed=self._failed,
            deadline_s=self.config.deadline_s,
            require_open=self._require_open,
            clock=clock,
        )
        self._conditions_builder = ConditionsBuilder(
            self.config,
            self._backends.by_kind,
            self._backends.missing,
            meters=self._backends.meters,
            privacy=privacy,
            consent=consent,
            ledger=self._accounts.ledger,
            clock=clock,
        )
        self._executor = PlanExecutor(
            self._backends.by_kind,
            self._backends.missing,
            clock=clock,
            spawn=self._runs.spawn,
            denied_reason=self._conditions_builder.denied_reason,
            consent_left_s=self._conditions_builder.consent_left_s,
            charge=self._accounts.ledger.charge,
        )
        self._consent = consent
        self._consent_stops: Callable[[], None] | None = None
        self._is_open = self._was_entered = False
        self._owner = self._dropped = 0
        self._streams: set[asyncio.Task[Any]] = set()
        self._sources: set[OpenSource] = set()

    async def process_image(
        self,
        image: ImageLike,
        *,
        pixel_format: PixelFormat | str = PixelFormat.RGB,
        deadline_s: float | None = None,
        privacy: FramePrivacy | str = FramePrivacy.DEFAULT,
    ) -> DetectionResult:
        """Find the faces in one image.

        Args:
            image: An ndarray, a PIL image, encoded bytes, a path, a file object or a
                `CameraImage`. Its pixels are taken as they are when this is called.
            pixel_format: What the channels of an ndarray are; other inputs say it themselves.
            deadline_s: Seconds this image has; the configuration's if `None`.
            privacy: ``local_only`` keeps this image on the device, whatever else is allowed.

        Returns:
            Which backend answered, and the faces it found. The status is ``skipped`` if a newer
            image took this one's place while it waited.

        Raises:
            InvalidFrameError: If it is not an image this library can look at.
            AllBackendsFailedError: If no backend could answer inside the deadline.
        """
        ends_s = self._clock() + self._checked_deadline_s(deadline_s)
        context = FrameContext(ends_s=ends_s, privacy=frame_privacy(privacy))
        result = await self._process(image, pixel_format, context)
        if result.status is DetectionStatus.FAILED:
            result.raise_for_status()
        return result

    def _checked_deadline_s(self, deadline_s: float | None) -> float:
        deadline_s = self.config.deadline_s if deadline_s is None else deadline_s
        if not isinstance(deadline_s, int | float) or not math.isfinite(deadline_s):
            msg = f"deadline_s: expected a number of seconds, got {deadline_s!r}"
            raise ConfigurationError(msg)
        return deadline_s

    async def _process(
        self,
        image: ImageLike,
        pixel_format: PixelFormat | str,
        context: FrameContext,
        stream: Stream | None = None,
    ) -> DetectionResult:
        """Observe, decide, detect (and fall back), feed back; then tell the hooks."""
        self._require_open()
        execution = Execution(started_s=self._clock(), context=context)
        try:
            frame = await execution.open(
                image, pixel_format, now_s=self._clock(), max_pixels=self.config.max_pixels
            )
            if stream and (known := stream.unchanged(frame, context, now_s=self._clock())):
                result = known
            else:
                execution.context = replace(
                    context,
                    captured_at_s=frame.captured_at_s,
                    side_px=max(frame.width, frame.height),
                )
                execution.plan = await self._decide(execution.context)
                await self._executor.execute(execution)
                result = execution.to_result(now_s=self._clock(), session_id=self.config.session_id)
                self._conditions_builder.on_plan(execution.plan)
        except AllBackendsFailedError as error:
            result = self._failed(execution, error)
        except BaseException as error:
            self._tell(execution, self._failed(execution, error), error)
            raise
        self._tell(execution, result)
        if stream is None or execution.frame is None:
            return result
        return stream.with_frame(result, execution.frame, now_s=self._clock())

    def _failed(self, execution: Execution, error: BaseException) -> DetectionResult:
        return execution.failed(error, now_s=self._clock(), session_id=self.config.session_id)

    def _tell(
        self, execution: Execution, result: DetectionResult, error: BaseException | None = None
    ) -> None:
        """Tell the hooks what became of a frame, once: all that left for it has left."""
        if self._hooks.wants_frames:
            event = partial(execution.to_event, result, error, now_s=self._clock())
            execution.when_all_has_left(lambda: self._hooks.frame(event()))

    def _require_open(self) -> None:
        if not self._is_open:
            msg = "the service is not open: use it as 'async with HybridDetectionService(...)'"
            raise ClosedError(msg)
        if os.getpid() != self._owner:
            raise ClosedError(FORKED)

    async def _decide(self, context: FrameContext) -> Plan:
        """Observe and decide; wait for a backend that is starting if no other can answer."""
        while True:
            plan = await self._decider.plan(self._conditions_builder.build(context))
            if plan.backend is not None or plan.skip:
                return plan
            left_s = context.ends_s - self._clock()
            if not await self._backends.one_may_come(left_s, is_patient=context.is_patient):
                return plan

    def start_detection(
        self,
        camera: FrameSource,
        *,
        max_fps: float | None = 10,
        every_frame: bool | None = None,
        pixel_format: PixelFormat | str = PixelFormat.RGB,
        privacy: FramePrivacy | str = FramePrivacy.DEFAULT,
        skip_unchanged: bool = False,
        keep_frames: bool = False,
        silence_s: float | None = SILENCE_S,
    ) -> AsyncGenerator[DetectionResult]:
        """Yield a result for each frame taken from `camera`, in the frames' order.

        Never raises for a single frame: a frame that no backend could look at, or that is not an
        image, yields a result with status ``failed`` and its error. So does a camera that is
        silent, and one that is lost, with which the stream ends.

        Args:
            camera: Anything with ``read()`` such as ``cv2.VideoCapture``; an iterable or async
                iterable of images; or, with the extra ``camera``, the path of a video or of a
                folder of images, a camera's index, or an ``rtsp://`` address.
            max_fps: Most frames to take in a second; `None` for as many as can be answered.
            every_frame: Whether to make the source wait rather than drop frames. By default a
                camera's frames are dropped when newer ones are there, those of a video file, a
                folder or an iterable never. Results count what was dropped (`dropped_before`).
            pixel_format: What the channels of ndarrays are (``cv2`` gives ``bgr``); sources that
                are opened by their name tell it themselves.
            privacy: ``local_only`` keeps these frames on the device.
            skip_unchanged: Whether a frame that looks like the last one that was looked at gets
                that one's faces, with status ``stale`` and their age, at most for a second.
            keep_frames: Whether each result holds its frame as ``result.frame``, to draw on. The
                pixels stay in memory for as long as the result does.
            silence_s: Seconds without a frame after which a camera's stream yields a ``failed``
                result with a `SourceError`, again and again while it is silent; `None` for never.

        Raises:
            ConfigurationError: If `camera` is no source of frames.
            ClosedError: If the service is not open, or is closed meanwhile.
        """
        return self._runs.of_camera(
            camera,
            max_fps=max_fps,
            every_frame=every_frame,
            pixel_format=pixel_format,
            privacy=frame_privacy(privacy),
            skip_unchanged=skip_unchanged,
            keep_frames=keep_frames,
            silence_s=silence_s,
        )

    def process_images(
        self,
        images: Iterable[ImageLike] | AsyncIterable[ImageLike] | str | os.PathLike[str],
        *,
        pixel_format: PixelFormat | str = PixelFormat.RGB,
        deadline_s: float | None = None,
        privacy: FramePrivacy | str = FramePrivacy.DEFAULT,
        max_in_flight: int | None = None,
    ) -> AsyncGenerator[DetectionResult]:
        """Yield a result for each of `images`, in their order.

        Images are taken as there is room for them, never all at once. Where the provider takes
        several pictures in a request, those under way share one; each keeps its own result. Never
        raises for a single image: one that no backend could look at, or that is no image, yields a
        result with status ``failed`` and its error. While no backend works, an image waits for one
        inside its deadline.

        Args:
            images: An iterable or async iterable of what `process_image` takes, or the path of a
                folder of images.
            pixel_format: What the channels of ndarrays are.
            deadline_s: Seconds each image has from when it is taken; the configuration's if `None`.
            privacy: ``local_only`` keeps these images on the device.
            max_in_flight: Most images under way at once; `None` for as many as a request carries,
                and at least 2. Fewer are while they are not answered in time.

        Raises:
            ConfigurationError: If `images` is no source, or an argument is out of range.
            ClosedError: If the service is not open, or is closed meanwhile.
        """
        return self._runs.of_pictures(
            images,
            pixel_format=pixel_format,
            deadline_s=self._checked_deadline_s(deadline_s),
            privacy=frame_privacy(privacy),
            max_in_flight=max_in_flight,
            most_pictures=self._backends.most_pictures(),
        )

    def status(self) -> ServiceStatus:
        """What the next frame would get, and how each backend stands."""
        context = FrameContext(ends_s=self._clock() + self.config.deadline_s)
        return ServiceStatus(
            mode=detection_mode(self.config.mode),
            plan=self._decider.decide(self._conditions_builder.build(context)),
            backends=self._backends.status(),
            frames_dropped=self._runs.dropped,
            hedges=replace(self._executor.hedges),
            traffic=Traffic.of(self._backends.meters),
            budgets=self._accounts.ledger.status(),
        )

    async def __aenter__(self) -> Self:
        if self._was_entered:
            state = "open already" if self._is_open else "closed"
            msg = f"this HybridDetectionService is {state}: make a new one"
            raise ClosedError(msg)
        self._was_entered, self._owner = True, os.getpid()
        try:
            if self._consent is not None:
                loop = asyncio.get_running_loop()
                self._consent_stops = self._consent.on_withdrawal(
                    partial(self._on_withdrawal, loop)
                )
            await self._accounts.start()
            await self._backends.start()
            self._is_open = True
            await self._backends.usable(detection_mode(self.config.mode))
        except BaseException:
            await self.aclose()
            raise
        return self

    def _on_withdrawal(self, loop: asyncio.AbstractEventLoop, record: ConsentRecord) -> None:
        """Called in the thread that withdraws: recalls the frames under way before it returns."""
        if record.subject == self.config.session_id:
            call_in_loop(loop, self._executor.recall)

    async def wait_ready(self) -> None:
        """Wait until every backend has either become ready or failed to for the first time."""
        await self._backends.all_checked()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop everything; frames under way fail. May be called more than once."""
        self._is_open = False
        if self._consent_stops is not None:
            self._consent_stops()
            self._consent_stops = None
        await self._runs.aclose()
        await self._backends.aclose()
        await self._hooks.aclose()
        await self._accounts.aclose()

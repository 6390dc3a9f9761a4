"""One call for a face detection that works wherever the network and the device stand.

For each frame: observe, decide, detect, fall back, feed back.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, Self

from hybrid_detect.backends import create_backend
from hybrid_detect.backends.base import Backend, open_frame
from hybrid_detect.backends.remote.link_meter import LinkMeter
from hybrid_detect.backends.remote.remote_backend import RemoteBackend
from hybrid_detect.config import ServiceConfig, detection_mode
from hybrid_detect.errors import (
    ClosedError,
    ConfigurationError,
    InvalidFrameError,
)
from hybrid_detect.frames.frame import Frame, ImageLike, PixelFormat
from hybrid_detect.privacy.consent import ConsentLedger
from hybrid_detect.privacy.consent_record import ConsentRecord
from hybrid_detect.privacy.privacy_policy import FramePrivacy, PrivacyPolicy
from hybrid_detect.selection.auto import AutoPolicy
from hybrid_detect.selection.policy import ORDERS, ModePolicy, Policy
from hybrid_detect.service.conditions_builder import ConditionsBuilder, FrameContext, frame_privacy
from hybrid_detect.service.managed_backend import BackendStatus, ManagedBackend
from hybrid_detect.service.plan_executor import PlanExecutor
from hybrid_detect.service.status import ServiceStatus, Traffic
from hybrid_detect.service.streams import Stream, results_in_order
from hybrid_detect.sources.change_gate import ChangeGate
from hybrid_detect.sources.sources import (
    CapturedFrame,
    FrameSource,
    OpenSource,
    open_source,
)
from hybrid_detect.types import (
    BackendKind,
    DetectionMode,
    DetectionResult,
    DetectionStatus,
    Plan,
)

__all__ = ["HybridDetectionService"]


class HybridDetectionService:
    """Detects faces in camera frames, through whichever way serves each frame best.

    Use it as an async context manager; entering returns once a way is ready (the device, if it
    is preferred), or all have failed to become so. It belongs to one event loop, and
    `process_image` may be called several times at once.

    Args:
        endpoint: URL of the detection server; without one, the device is the only way.
        auth_token: Bearer token for the server.
        mode: Which ways may be used, and in which order.
        session_id: Your own name for this run of the app.
        config: Everything else; the arguments above win over its fields.
        backends: The ways to use instead of those that the configuration asks for.
        policy: Decides instead of the mode's own.
        privacy: What may leave the device; by default whatever is sent to the endpoint.
        consent: The consents that `privacy` asks for, of the subject named by `session_id`.
        clock: Monotonic time in seconds.

    Raises:
        ConfigurationError: If no way of the mode can work as configured.
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
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        given: dict[str, Any] = {
            "endpoint": endpoint,
            "auth_token": auth_token,
            "mode": mode,
            "session_id": session_id,
        }
        explicit = {name: value for name, value in given.items() if value is not None}
        self.config = replace(config or ServiceConfig(), **explicit)
        self._clock = clock
        self._policy = policy or self._default_policy()
        self._missing: dict[BackendKind, str] = {}
        privacy = privacy or PrivacyPolicy()
        made = self._create_backends(privacy) if backends is None else list(backends)
        self._backends = {backend.kind: ManagedBackend(backend, clock=clock) for backend in made}
        if len(self._backends) < len(made):
            msg = f"backends: expected one of each kind, got {[b.kind.value for b in made]}"
            raise ConfigurationError(msg)
        remote = [backend for backend in made if isinstance(backend, RemoteBackend)]
        meter = LinkMeter(clock=clock)
        for backend in remote:  # the ways to one server share what is known of the link
            backend.meter = meter
        self._meter = meter if remote else None
        self._conditions_builder = ConditionsBuilder(
            self.config,
            self._backends,
            self._missing,
            meter=self._meter,
            privacy=privacy,
            consent=consent,
            clock=clock,
        )
        self._executor = PlanExecutor(
            self._backends,
            self._missing,
            clock=clock,
            spawn=self._spawn,
            denied_reason=self._conditions_builder.denied_reason,
        )
        self._consent = consent
        self._consent_stops: Callable[[], None] | None = None
        self._is_open = False
        self._streams: set[asyncio.Task[Any]] = set()
        self._sources: set[OpenSource] = set()
        self._dropped = 0

    def _default_policy(self) -> Policy:
        limits: dict[str, Any] = {
            "target_bytes": int(self.config.target_file_size_kb * 1024),
            "quality": self.config.quality,
            "max_side_px": self.config.max_side_px,
        }
        if self.config.mode is DetectionMode.AUTO:
            return AutoPolicy(**limits)
        return ModePolicy(mode=self.config.mode, **limits)

    def _create_backends(self, privacy: PrivacyPolicy) -> list[Backend]:
        made = []
        errors = []
        for kind in ORDERS[detection_mode(self.config.mode)]:
            if why := privacy.always_denied_reason(kind):
                self._missing[kind] = why  # so that not even a connection is made
                continue
            try:
                made.append(create_backend(kind, self.config))
            except ConfigurationError as error:
                self._missing[kind] = str(error)
                errors.append(error)
        if made:
            return made
        if len(errors) == len(self._missing) == 1:
            raise errors[0]
        reasons = "; ".join(f"{kind.value}: {why}" for kind, why in self._missing.items())
        msg = f"no way of mode {str(self.config.mode)!r} can work: {reasons}"
        raise ConfigurationError(msg)

    # -- one frame ---------------------------------------------------------------------------

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
                `CameraImage`. Arrays must not be changed until this returns.
            pixel_format: What the channels of an ndarray are; other inputs say it themselves.
            deadline_s: Seconds this image has; the configuration's if `None`.
            privacy: ``local_only`` keeps this image on the device, whatever else is allowed.

        Returns:
            Who answered, and what they saw. The status is ``skipped`` if a newer image took this
            one's place while it waited; otherwise somebody looked.

        Raises:
            InvalidFrameError: If it is not an image this library can look at.
            AllBackendsFailedError: If no way could answer inside the deadline.
        """
        deadline_s = self.config.deadline_s if deadline_s is None else deadline_s
        if not isinstance(deadline_s, int | float) or not math.isfinite(deadline_s):
            msg = f"deadline_s: expected a number of seconds, got {deadline_s!r}"
            raise ConfigurationError(msg)
        context = FrameContext(ends_s=self._clock() + deadline_s, privacy=frame_privacy(privacy))
        frame = await open_frame(image, pixel_format=pixel_format)
        result = await self._look(frame, context)
        if result.status is DetectionStatus.FAILED:
            result.raise_for_status()
        return result

    async def _look(self, frame: Frame, context: FrameContext) -> DetectionResult:
        """Observe, decide, detect (and fall back), feed back."""
        self._require_open()
        started_s = self._clock()
        context = replace(
            context, captured_at_s=frame.captured_at_s, side_px=max(frame.width, frame.height)
        )
        plan = await self._decide(context)
        execution = await self._executor.execute(plan, frame, context)
        result = execution.to_result(
            frame, plan, total_s=self._clock() - started_s, session_id=self.config.session_id
        )
        self._conditions_builder.on_result(plan, result)
        return result

    def _require_open(self) -> None:
        if not self._is_open:
            msg = "the service is not open: use it as 'async with HybridDetectionService(...)'"
            raise ClosedError(msg)

    async def _decide(self, context: FrameContext) -> Plan:
        """Observe and decide; wait for a way that is still starting if there is no other."""
        while True:
            plan = self._policy.decide(self._conditions_builder.build(context))
            starting = [
                backend for backend in self._backends.values() if not backend.checked.is_set()
            ]
            if plan.backend is not None or plan.skip or not starting:
                return plan
            if not await _first_checked(starting, timeout_s=context.ends_s - self._clock()):
                return plan

    # -- many frames -------------------------------------------------------------------------

    async def start_detection(
        self,
        camera: FrameSource,
        *,
        max_fps: float | None = 10,
        every_frame: bool | None = None,
        pixel_format: PixelFormat | str = PixelFormat.RGB,
        privacy: FramePrivacy | str = FramePrivacy.DEFAULT,
        skip_unchanged: bool = False,
    ) -> AsyncGenerator[DetectionResult]:
        """Yield a result for each frame taken from `camera`, in the frames' order.

        Never raises for a single frame: a frame that nobody could look at, or that is not an
        image, yields a result with status ``failed`` and its error.

        Args:
            camera: Anything with ``read() -> (ok, image)`` such as ``cv2.VideoCapture``, or an
                iterable or async iterable of images.
            max_fps: Most frames to take in a second; `None` for as many as can be answered.
            every_frame: Whether to make the source wait rather than drop frames. By default a
                camera's frames are dropped when newer ones are there, an iterable's never.
            pixel_format: What the channels of ndarrays are (``cv2`` gives ``bgr``).
            privacy: ``local_only`` keeps these frames on the device.
            skip_unchanged: Whether a frame that looks like the last one that was looked at gets
                that one's faces, with status ``stale`` and their age, at most for a second.

        Raises:
            ConfigurationError: If `camera` is no source of frames.
            ClosedError: If the service is not open, or is closed meanwhile.
        """
        self._require_open()
        kept = frame_privacy(privacy)
        async with open_source(camera, max_fps=max_fps, every_frame=every_frame) as source:
            self._sources.add(source)
            stream = Stream(
                pixel_format=pixel_format,
                privacy=kept,
                max_fps=max_fps,
                must_answer=not source.drops,
                gate=ChangeGate() if skip_unchanged else None,
            )
            results = results_in_order(source, partial(self._look_at, stream), spawn=self._spawn)
            async with aclosing(results):
                try:
                    async for result in results:
                        yield result
                except asyncio.CancelledError:
                    task = asyncio.current_task()
                    if task is None or not task.cancelling():
                        # Nobody has cancelled the caller: closing has cancelled its frames.
                        self._require_open()
                    raise
                finally:
                    self._sources.discard(source)
                    self._dropped += source.dropped

    async def _look_at(self, stream: Stream, captured: CapturedFrame) -> DetectionResult:
        context = stream.context(captured, ends_s=self._clock() + self.config.deadline_s)
        try:
            frame = await open_frame(
                captured.image,
                pixel_format=stream.pixel_format,
                captured_at_s=captured.captured_at_s,
            )
            if (known := stream.unchanged(frame, now_s=self._clock())) is not None:
                return known
            result = await self._look(frame, context)
            stream.looked_at(frame, result, now_s=self._clock())
            return result
        except InvalidFrameError as error:
            return DetectionResult(
                status=DetectionStatus.FAILED,
                width=0,
                height=0,
                reason=f"not an image: {error}",
                session_id=self.config.session_id,
                error=error,
            )

    def _spawn(self, coroutine: Any) -> asyncio.Task[Any]:
        task = asyncio.create_task(coroutine)
        self._streams.add(task)
        task.add_done_callback(self._streams.discard)
        return task

    # -- life --------------------------------------------------------------------------------

    def status(self) -> ServiceStatus:
        """What the next frame would get, and how each way stands."""
        missing = tuple(
            BackendStatus(
                kind=kind,
                usable=False,
                unavailable_reason=why,
                breaker="",
                latency_s=None,
                answered=0,
                failed=0,
            )
            for kind, why in self._missing.items()
        )
        return ServiceStatus(
            mode=detection_mode(self.config.mode),
            plan=self._policy.decide(
                self._conditions_builder.build(
                    FrameContext(ends_s=self._clock() + self.config.deadline_s)
                )
            ),
            backends=tuple(backend.status() for backend in self._backends.values()) + missing,
            frames_dropped=self._dropped + sum(source.dropped for source in self._sources),
            hedges=replace(self._executor.hedges),
            traffic=self._traffic(),
        )

    def _traffic(self) -> Traffic:
        if self._meter is None:
            return Traffic()
        link = self._meter.link
        return Traffic(
            sent_bytes=link.bytes_sent,
            wasted_bytes=self._meter.wasted_bytes,
            probe_bytes=link.bytes_probing,
            pings=link.pings,
        )

    async def __aenter__(self) -> Self:
        try:
            if self._consent is not None:
                loop = asyncio.get_running_loop()
                self._consent_stops = self._consent.on_withdrawal(
                    partial(self._on_withdrawal, loop)
                )
            for kind, backend in tuple(self._backends.items()):
                try:
                    await backend.start()
                except ConfigurationError as error:
                    if len(self._backends) == 1:
                        raise
                    self._missing[kind] = str(error)
                    await self._backends.pop(kind).aclose()
            self._is_open = True
            await self._until_ready()
        except BaseException:
            await self.aclose()
            raise
        return self

    def _on_withdrawal(self, loop: asyncio.AbstractEventLoop, record: ConsentRecord) -> None:
        """Called in whatever thread withdraws."""
        if record.subject == self.config.session_id:
            loop.call_soon_threadsafe(self._executor.recall)

    async def wait_ready(self) -> None:
        """Wait until every way has either become ready or failed to for the first time."""
        await asyncio.gather(*(backend.checked.wait() for backend in self._backends.values()))

    async def _until_ready(self) -> None:
        device = self._backends.get(BackendKind.DEVICE)
        if device is not None and self.config.mode is DetectionMode.PREFER_ON_DEVICE:
            # A server may be ready sooner, but sending pictures is not what was preferred.
            await device.checked.wait()
        starting = list(self._backends.values())
        while starting and not any(
            backend.conditions().usable for backend in self._backends.values()
        ):
            await _first_checked(starting, timeout_s=None)
            starting = [backend for backend in starting if not backend.checked.is_set()]

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
        for task in tuple(self._streams):
            task.cancel()
        await asyncio.gather(*self._streams, return_exceptions=True)
        # Not left to streams that nobody goes on with: a camera must not be read any more.
        await asyncio.gather(*(source.aclose() for source in tuple(self._sources)))
        await asyncio.gather(*(backend.aclose() for backend in self._backends.values()))


async def _first_checked(backends: Iterable[ManagedBackend], *, timeout_s: float | None) -> bool:
    """Wait until the first of `ways` has ended its first check; False if time ran out."""
    waits = [asyncio.create_task(backend.checked.wait()) for backend in backends]
    try:
        done, _ = await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        return bool(done)
    finally:
        for wait in waits:
            wait.cancel()

"""One call for a face detection that works wherever the network and the device stand."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable
from dataclasses import replace
from typing import Self

from hybrid_detect.backends.base import Backend
from hybrid_detect.config import ServiceConfig, detection_mode
from hybrid_detect.errors import ClosedError
from hybrid_detect.frames.frame import ImageLike, PixelFormat
from hybrid_detect.monitoring.hooks import Hook
from hybrid_detect.monitoring.prices import PriceTable
from hybrid_detect.monitoring.tracing import NO_TRACER, Tracer
from hybrid_detect.privacy.consent import ConsentLedger
from hybrid_detect.privacy.privacy_policy import FramePrivacy, PrivacyPolicy
from hybrid_detect.selection.policy import Policy
from hybrid_detect.service.conditions_builder import (
    FrameContext,
    checked_deadline_s,
    frame_privacy,
)
from hybrid_detect.service.detection_stream import DetectionStream
from hybrid_detect.service.feedback import feedback_event
from hybrid_detect.service.loop_thread import FORKED
from hybrid_detect.service.parts import Parts
from hybrid_detect.service.status import ServiceStatus, Traffic
from hybrid_detect.service.switching import with_arguments, within_config
from hybrid_detect.sources.captured import Intent
from hybrid_detect.sources.sources import SILENCE_S, FrameSource
from hybrid_detect.types import DetectionMode, DetectionResult, DetectionStatus, FeedbackVerdict

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
            one kind stand in for each other: the fastest that works gets the frame. They are this
            service's alone, which closes them.
        policy: Decides instead of the mode's own.
        privacy: What may leave the device; by default every frame may go to the endpoint.
        consent: The consents that `privacy` asks for, of the subject named by `session_id`.
        hooks: Objects with ``on_frame(event)``, ``on_backend(event)`` and so on, told what became
            of each frame and what has changed. They are not closed with the service.
        prices: Prices by the number of pictures in a month, which replace the targets' own.
        tracer: Traces each frame up to the server's detector, as `OpenTelemetryTracer` does.
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
        tracer: Tracer = NO_TRACER,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = with_arguments(
            config, endpoint=endpoint, auth_token=auth_token, mode=mode, session_id=session_id
        )
        self._clock = clock
        parts = Parts.of(
            self.config,
            require_open=self._require_open,
            backends=backends,
            policy=policy,
            privacy=within_config(privacy or PrivacyPolicy(), self.config),
            consent=consent,
            hooks=hooks,
            prices=prices,
            tracer=tracer,
            clock=clock,
        )
        self._accounts = parts.accounts
        self._hooks = parts.hooks
        self._backends = parts.backends
        self._runs = parts.runs
        self._planner = parts.planner
        self._executor = parts.executor
        self._processor = parts.processor
        self._settings = parts.settings
        self._withdrawals = parts.withdrawals
        self._is_open = self._was_entered = False
        self._owner = 0

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
        ends_s = self._clock() + checked_deadline_s(deadline_s, self.config)
        context = FrameContext(ends_s=ends_s, privacy=frame_privacy(privacy))
        self._require_open()
        result = await self._processor.process(image, pixel_format, context)
        if result.status is DetectionStatus.FAILED:
            result.raise_for_status()
        return result

    def _require_open(self) -> None:
        if not self._is_open:
            msg = "the service is not open: use it as 'async with HybridDetectionService(...)'"
            raise ClosedError(msg)
        if os.getpid() != self._owner:
            raise ClosedError(FORKED)

    def start_detection(
        self,
        camera: FrameSource,
        *,
        max_fps: float | None = 10,
        intent: Intent | str = Intent.AUTO,
        pixel_format: PixelFormat | str = PixelFormat.RGB,
        privacy: FramePrivacy | str = FramePrivacy.DEFAULT,
        skip_unchanged: bool = False,
        keep_frames: bool = False,
        silence_s: float | None = SILENCE_S,
    ) -> DetectionStream:
        """Give a result for each frame taken from `camera`, in the frames' order.

        ``async for frame, result in service.start_detection(0).with_frames()`` gives both.

        A frame that no backend could look at gives a ``failed`` result with its error. So does a
        camera that is silent or lost; it is opened again if it can be.

        Args:
            camera: What `open_source` takes: a camera's index, the path of a video or a folder, an
                address, a camera; or an `open_source`, whose own settings then hold.
            max_fps: Most frames to take in a second; `None` for as many as can be answered.
            intent: ``freshest`` drops frames when newer ones are there, ``every_frame`` makes the
                source wait, ``auto`` does the former with live sources alone.
            pixel_format: What the channels of ndarrays are (``cv2`` gives ``bgr``), where the
                source does not tell it itself.
            privacy: ``local_only`` keeps these frames on the device.
            skip_unchanged: Whether a frame that looks like the last one that was looked at gets
                that one's faces, with status ``stale`` and their age, at most for a second.
            keep_frames: Whether a result holds its frame, and so its pixels, as ``result.frame``.
            silence_s: Seconds without a frame after which a live source counts as silent.

        Raises:
            ConfigurationError: If `camera` is no source of frames.
            ClosedError: If the service is not open, or is closed meanwhile.
        """
        return self._runs.of_camera(
            camera,
            max_fps=max_fps,
            intent=intent,
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
            deadline_s=checked_deadline_s(deadline_s, self.config),
            privacy=frame_privacy(privacy),
            max_in_flight=max_in_flight,
            most_pictures=self._backends.most_pictures(),
        )

    def status(self) -> ServiceStatus:
        """What the next frame would get, and how each backend stands."""
        context = FrameContext(ends_s=self._clock() + self.config.deadline_s)
        return ServiceStatus(
            mode=detection_mode(self.config.mode),
            plan=self._planner.preview(context),
            backends=self._backends.status(),
            drops=self._runs.dropped,
            link=self._planner.link(context),
            hedges=replace(self._executor.hedges),
            traffic=Traffic.of(self._backends.meters),
            budgets=self._accounts.ledger.status(),
            privacy=self._settings.privacy,
        )

    def report_feedback(
        self, result: DetectionResult, verdict: FeedbackVerdict | str, *, face: int | None = None
    ) -> None:
        """Tell the report (with `costs_path`) and a `DetectionHistory` what is said of a result.

        Args:
            result: The result, as the service gave it.
            verdict: ``correct``, ``false_positive`` (no face there) or ``missed_face``.
            face: Which of ``result.faces`` it is about, from 0; `None` for all of it.

        Raises:
            ConfigurationError: If there is no such verdict or face, or no backend looked.
            ClosedError: If the service is not open.
        """
        self._require_open()
        self._hooks.feedback(feedback_event(result, verdict, face=face, at_s=time.time()))

    async def set_mode(self, mode: DetectionMode | str) -> None:
        """Go on with another mode; streams and frames under way are not interrupted.

        Returns once a backend of the new mode is usable, or all have failed to become so; until
        then the old mode decides. Frames under way keep their plan (`set_privacy` recalls them),
        and what the new mode does not use is closed after the last of them, the app's own
        backends aside. A policy of the app's own goes on deciding.

        Raises:
            ConfigurationError: If there is no such mode, or no backend of it can work (none of the
                app's own `backends` serves it): the old mode stays.
            ClosedError: If the service is not open.
        """
        self._require_open()
        await self._settings.set_mode(mode)
        self.config = self._settings.config

    async def set_privacy(self, privacy: PrivacyPolicy | FramePrivacy | str) -> None:
        """Go on with another privacy policy; streams are not interrupted.

        It holds at once. Pictures under way that may not leave any more are recalled, and none
        is handed to a socket once this has returned. Connections that have become useless are
        closed, those of the app's own backends aside.

        Args:
            privacy: A policy; ``local_only`` to keep every frame on the device; or ``default``
                for the last policy, with which frames may leave again.

        Raises:
            ConfigurationError: If it is no privacy: nothing has changed then.
            ClosedError: If the service is not open.
        """
        self._require_open()
        await self._settings.set_privacy(privacy)

    async def __aenter__(self) -> Self:
        if self._was_entered:
            state = "open already" if self._is_open else "closed"
            msg = f"this HybridDetectionService is {state}: make a new one"
            raise ClosedError(msg)
        self._was_entered, self._owner = True, os.getpid()
        try:
            self._withdrawals.start()
            await self._accounts.start()
            mode = detection_mode(self.config.mode)
            await self._backends.start(mode)
            self._is_open = True
            await self._backends.usable(mode)
        except BaseException:
            await self.aclose()
            raise
        return self

    async def wait_ready(self) -> None:
        """Wait until every backend has either become ready or failed to for the first time."""
        await self._backends.all_checked()

    async def __aexit__(self, *_exc: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop everything; frames under way fail. May be called more than once."""
        self._is_open = False
        self._withdrawals.stop()
        await self._runs.aclose()
        await self._backends.aclose()
        await self._hooks.aclose()
        await self._accounts.aclose()

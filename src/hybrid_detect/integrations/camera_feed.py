"""A camera for a window: read, looked at and drawn in threads of its own.

The service's event loop has a thread to itself: inside a toolkit's own loop it would get a turn
only between two drawn frames, and a detection needs many turns.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from hybrid_detect.config import detection_mode
from hybrid_detect.frames.frame import PixelFormat
from hybrid_detect.frames.overlay import Overlay
from hybrid_detect.integrations.camera_session import CameraSession
from hybrid_detect.integrations.feed_status import FeedState, FeedStatus
from hybrid_detect.integrations.viewfinder import Viewfinder
from hybrid_detect.privacy.privacy_policy import FramePrivacy, PrivacyPolicy
from hybrid_detect.service.conditions_builder import frame_privacy
from hybrid_detect.service.hybrid import HybridDetectionService
from hybrid_detect.service.loop_thread import LoopThread
from hybrid_detect.sources.sources import FrameSource
from hybrid_detect.types import DetectionMode, DetectionResult

__all__ = ["CameraFeed", "FeedState", "FeedStatus"]

Shown = TypeVar("Shown")


class CameraFeed(Generic[Shown]):
    """A camera, a service and a viewfinder, for the widget of any toolkit.

    Every method returns at once and may be called from the window's thread. A feed that is dropped
    without being closed is closed then.

    Args:
        camera: Anything that `open_source` takes, or an `open_source`.
        finish: As in `Viewfinder`. It must not refer to the feed.
        max_fps: Most frames to look at in a second; all of them are shown.
        pixel_format: The channels of arrays whose source does not tell them.
        mirror: Whether the picture is shown mirrored, as a selfie is.
        enlarges: As in `Viewfinder`.
        overlay: Draws the boxes; `None` for one as it comes.
        is_paused: Whether it waits for `resume` before it opens the camera.
        service: What `HybridDetectionService` takes. ``backends`` may also be a function that makes
            them, so that the same options do for several feeds.

    Raises:
        ConfigurationError: If the service cannot work as configured.
        InvalidFrameError: If there is no such pixel format.
    """

    def __init__(
        self,
        camera: FrameSource,
        finish: Callable[[NDArray[np.uint8]], Shown],
        *,
        max_fps: float | None = 10,
        pixel_format: PixelFormat | str = PixelFormat.RGB,
        mirror: bool = False,
        enlarges: bool = False,
        overlay: Overlay | None = None,
        is_paused: bool = False,
        **service: Any,
    ) -> None:
        overlay = overlay or Overlay(label=False)
        overlay.mirror = overlay.mirror or mirror
        if callable(make := service.get("backends")):
            service["backends"] = make()
        self._service = HybridDetectionService(**service)
        self._viewfinder = Viewfinder(
            finish, overlay=overlay, pixel_format=pixel_format, enlarges=enlarges
        )
        self._session = CameraSession(
            camera,
            self._service,
            self._viewfinder,
            max_fps=max_fps,
            pixel_format=pixel_format,
            is_paused=is_paused,
        )
        try:
            self._loop = LoopThread(self._session, type(self).__name__)
        except BaseException:
            self._viewfinder.close()
            raise

    @property
    def status(self) -> FeedStatus:
        """How it stands; another value when it has changed."""
        return self._session.status

    @property
    def result(self) -> DetectionResult | None:
        """The newest result."""
        return self._session.result

    def take(self) -> Shown | None:
        """The newest picture to show; `None` if there is none since the last one."""
        return self._viewfinder.take()

    def resize(self, width: int, height: int) -> None:
        """Make pictures that fit into `width` by `height` pixels."""
        self._viewfinder.resize(width, height)

    def set_mode(self, mode: DetectionMode | str) -> None:
        """Go on with another mode; `status` tells when it holds, or why it cannot.

        Raises:
            ConfigurationError: If there is no such mode.
        """
        self._change(partial(self._service.set_mode, detection_mode(mode)))

    def set_privacy(self, privacy: PrivacyPolicy | FramePrivacy | str) -> None:
        """Go on with another privacy policy, as `HybridDetectionService.set_privacy` does.

        It holds once the service's thread has got round to it, in the order of the calls, and
        before the first frame is looked at; `status` tells.

        Raises:
            ConfigurationError: If it is no privacy.
        """
        if not isinstance(privacy, PrivacyPolicy):
            privacy = frame_privacy(privacy)
        self._change(partial(self._service.set_privacy, privacy))

    def _change(self, change: Callable[[], Awaitable[None]]) -> None:
        self._session.ask()
        self._loop.start(partial(self._session.change, change))

    def pause(self) -> None:
        """Read the camera no more, and look at nothing, until `resume`.

        A camera is let go, and opened again then; a video, a folder or an iterable goes on where it
        was.
        """
        self._loop.start(self._session.pause)

    def resume(self) -> None:
        """Go on after `pause`; a camera that could not be opened is tried again at once."""
        self._loop.start(self._session.resume)

    def close(self, *, wait: bool = False) -> None:
        """End everything. May be called more than once.

        Args:
            wait: Whether to return only once the camera and the service are closed.
        """
        self._viewfinder.close()
        self._session.closed()
        if wait:
            self._loop.close()
        else:
            self._loop.ask_to_close()

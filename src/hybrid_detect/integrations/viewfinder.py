"""What a window shows of a camera: its newest frame at the window's size, with the newest boxes.

Everything that takes time is done in a thread of its own, so that the window's thread is left with
handing the pixels to its toolkit.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hybrid_detect.errors import InvalidFrameError
from hybrid_detect.frames.array_picture import as_pixel_format
from hybrid_detect.frames.frame import Frame, PixelFormat
from hybrid_detect.frames.overlay import Overlay
from hybrid_detect.sources.captured import CapturedFrame
from hybrid_detect.types import DetectionResult

__all__ = ["Viewfinder"]

logger = logging.getLogger("hybrid_detect")

Shown = TypeVar("Shown")

MAX_ENLARGEMENT = 4.0
"""A small camera in a large window stays a picture that is cheap to make."""


class Viewfinder(Generic[Shown]):
    """Makes pictures to be shown out of captured frames: only ever of the newest one.

    `offer` and `update` may be called from any threads, `take` from the window's.

    Args:
        finish: Makes of the RGB pixels, shape ``(height, width, 3)``, what the toolkit is handed.
            Called in the viewfinder's thread; the pixels are the toolkit's own from then on.
        overlay: Draws the boxes.
        pixel_format: The channels of arrays whose source does not tell them.
        enlarges: Whether to make pictures larger than their frames, for a toolkit that cannot.

    Raises:
        InvalidFrameError: If there is no such pixel format.
    """

    def __init__(
        self,
        finish: Callable[[NDArray[np.uint8]], Shown],
        *,
        overlay: Overlay,
        pixel_format: PixelFormat | str = PixelFormat.RGB,
        enlarges: bool = False,
    ) -> None:
        self._finish = finish
        self._overlay = overlay
        self._pixel_format = as_pixel_format(pixel_format)
        self._enlarges = enlarges
        self._changed = threading.Condition()
        self._frame: CapturedFrame | None = None
        self._area: tuple[int, int] | None = None
        self._shown: Shown | None = None
        self._is_open = True
        self._has_failed = False
        # A daemon: nothing it does is worth keeping a program from ending.
        threading.Thread(target=self._run, name="hybrid-detect-viewfinder", daemon=True).start()

    def offer(self, captured: CapturedFrame) -> None:
        """Show `captured` next, unless a newer one comes before."""
        with self._changed:
            self._frame = captured
            self._changed.notify()

    def update(self, result: DetectionResult) -> None:
        """Show the faces of `result` from now on."""
        self._overlay.update(result)

    def resize(self, width: int, height: int) -> None:
        """Fit what is shown into `width` by `height` pixels from now on."""
        self._area = (width, height) if width > 1 and height > 1 else None

    def take(self) -> Shown | None:
        """The newest picture; `None` if there is none since the last one."""
        with self._changed:
            shown, self._shown = self._shown, None
            return shown

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._is_open = False
            self._frame = self._shown = None
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while self._is_open and self._frame is None:
                    self._changed.wait()
                if self._frame is None or not self._is_open:
                    return
                captured, self._frame = self._frame, None
            try:
                shown = self._finish(self._picture(captured))
            except InvalidFrameError:
                continue  # the frame's result tells
            except Exception:
                if not self._has_failed:
                    self._has_failed = True
                    logger.exception("a frame could not be shown; this is logged once")
                continue
            with self._changed:
                if self._is_open:
                    self._shown = shown

    def _picture(self, captured: CapturedFrame) -> NDArray[np.uint8]:
        frame = Frame.of(captured.image, pixel_format=captured.pixel_format or self._pixel_format)
        scale = self._scale(frame)
        side_px = max(1, round(max(frame.width, frame.height) * min(scale, 1.0)))
        picture = frame.pil(max_side_px=side_px).convert("RGB")
        if scale > 1:
            size = (round(picture.width * scale), round(picture.height * scale))
            picture = picture.resize(size, Image.Resampling.BILINEAR)
        pixels = np.array(picture)
        if self._overlay.mirror:
            pixels = np.ascontiguousarray(pixels[:, ::-1])
        return self._overlay.draw(pixels, captured_at_s=captured.captured_at_s)

    def _scale(self, frame: Frame) -> float:
        if self._area is None:
            return 1.0
        scale = min(self._area[0] / frame.width, self._area[1] / frame.height)
        return min(scale, MAX_ENLARGEMENT if self._enlarges else 1.0)

"""Kivy's own camera, read from its texture: for where nothing else opens the camera."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from hybrid_detect.errors import ConfigurationError
from hybrid_detect.frames.frame import PixelFormat
from hybrid_detect.sources.frame_feed import FrameFeed
from hybrid_detect.sources.protocol import Reader

__all__ = ["KivyCameraSource"]


class KivyCameraSource:
    """The camera of a Kivy app: ``kivy.uix.camera.Camera``, or the one of ``kivy.core.camera``.

    A texture can be read in the app's main thread alone, and reading it waits for the graphics
    processor (60 ms for 1280x720 where OpenGL is drawn in software). So use it where Kivy alone
    opens the camera, as on Android, with a small `max_fps`; elsewhere hand ``0`` to `open_source`.

    Args:
        camera: The widget, or the camera inside it. It is started and stopped by the app.
        max_fps: Most frames that are read in a second; the others are left in the texture.
        clock: Monotonic time in seconds.

    Raises:
        ConfigurationError: If it is no camera of Kivy's or has none yet, or `max_fps` is 0 or
            less.
    """

    def __init__(
        self, camera: Any, *, max_fps: float = 5.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        core = getattr(camera, "_camera", camera)  # where the widget keeps it
        if not callable(getattr(core, "bind", None)) or not hasattr(core, "texture"):
            msg = f"expected a camera of Kivy's with an index, got {type(camera).__name__}"
            raise ConfigurationError(msg)
        if not max_fps > 0:
            msg = f"max_fps: expected a number above 0, got {max_fps!r}"
            raise ConfigurationError(msg)
        self._core = core
        self._period_s = 1 / max_fps
        self._clock = clock
        self._due_s = float("-inf")
        self._feed = FrameFeed(pixel_format=PixelFormat.RGBA)

    def open(self) -> Reader:
        """Listen to the camera from now on."""
        self._core.bind(on_texture=self._on_texture)
        reader = self._feed.open()
        return _KivyReader(reader, lambda: self._core.unbind(on_texture=self._on_texture))

    def _on_texture(self, *_: Any) -> None:
        """Called by Kivy, in its main thread, when the camera has drawn a frame."""
        now_s = self._clock()
        texture = self._core.texture
        if texture is None or now_s < self._due_s:
            return
        self._due_s = now_s + self._period_s
        width, height = texture.size
        # Rows come as the camera gave them, whichever way the texture is shown.
        self._feed.push(np.frombuffer(texture.pixels, np.uint8).reshape(height, width, 4))

    def __repr__(self) -> str:
        return f"<KivyCameraSource: {type(self._core).__name__}>"


class _KivyReader:
    """Reads the frames that Kivy draws."""

    is_live = True
    pixel_format = PixelFormat.RGBA

    def __init__(self, reader: Any, unbind: Callable[[], object]) -> None:
        self._unbind = unbind
        self.read = reader.read
        self.interrupt = reader.interrupt

    def close(self) -> None:
        """Listen no more."""
        self._unbind()

"""Kivy's camera, against a stand-in with the calls of ``kivy.core.camera.CameraBase``.

A texture's pixels are RGBA and come in the order in which the camera gave them: seen with Kivy
2.3.1 under Xvfb, whether the texture was flipped or not.
"""

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hybrid_detect.errors import ConfigurationError
from hybrid_detect.sources.kivy_camera import KivyCameraSource
from hybrid_detect.sources.sources import open_source
from hybrid_detect.testing import FakeClock

from ..waiting import LIMIT_S, until

pytestmark = pytest.mark.anyio


class CoreCamera:
    def __init__(self) -> None:
        self.texture: Any = None
        self.listeners: list[Callable[..., Any]] = []

    def bind(self, *, on_texture: Callable[..., Any]) -> None:
        self.listeners.append(on_texture)

    def unbind(self, *, on_texture: Callable[..., Any]) -> None:
        self.listeners.remove(on_texture)

    def draw(self, level: int) -> None:
        pixels = np.full((2, 3, 4), level, np.uint8)
        pixels[1] += 1
        self.texture = SimpleNamespace(size=(3, 2), pixels=pixels.tobytes())
        for listener in self.listeners:
            listener(self)


async def test_frames_come_as_they_are_drawn_at_the_rate_that_is_asked_for() -> None:
    core, clock = CoreCamera(), FakeClock()
    widget = SimpleNamespace(_camera=core)
    source = KivyCameraSource(widget, max_fps=10, clock=clock)
    async with asyncio.timeout(LIMIT_S), open_source(source) as opened:
        assert opened.is_live
        for level, pause_s, is_read in ((10, 0.0, True), (20, 0.05, False), (30, 0.06, True)):
            clock.advance(pause_s)
            core.draw(level)
            if is_read:
                captured = await opened.take()
                assert captured is not None
                assert captured.pixel_format == "rgba"
                assert captured.image.shape == (2, 3, 4)
                assert captured.image[:, 0, 0].tolist() == [level, level + 1]
    await until(lambda: not core.listeners)


def test_what_is_no_camera_is_refused() -> None:
    for camera in (object(), SimpleNamespace(_camera=None)):
        with pytest.raises(ConfigurationError, match="expected a camera of Kivy's"):
            KivyCameraSource(camera)
    for max_fps in (0, -1.0, float("nan")):
        with pytest.raises(ConfigurationError, match="max_fps"):
            KivyCameraSource(SimpleNamespace(bind=print, texture=None), max_fps=max_fps)

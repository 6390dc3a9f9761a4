"""A Kivy app that does one thing after the other to its camera, and prints what it saw as JSON.

python -m tests.integrations.kivy_app
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Callable, Generator
from typing import Any

os.environ |= {"KIVY_NO_ARGS": "1", "KIVY_NO_CONSOLELOG": "1", "KIVY_NO_FILELOG": "1"}

from kivy.app import App
from kivy.clock import Clock
from kivy.uix.boxlayout import BoxLayout
from kivy.uix.screenmanager import Screen, ScreenManager

from hybrid_detect.integrations.camera_feed import FeedState
from hybrid_detect.integrations.kivy import FaceCamera, FaceCameraControls
from hybrid_detect.testing import FakeBackend
from hybrid_detect.types import BackendKind, BoundingBox, Face

from .cameras import SteadyCamera

FACE = Face(BoundingBox(50, 100, 110, 160))
seen: dict[str, Any] = {}

WALK_S = 45.0
"""For all steps, which take six seconds; less than the test waits for this program."""


def two_backends() -> list[FakeBackend]:
    return [FakeBackend(kind, faces=[FACE]) for kind in ("cloud", "device")]


class StepsApp(App):
    def build(self) -> BoxLayout:
        self.window = BoxLayout(orientation="vertical")
        self.camera = SteadyCamera()
        self.faces = FaceCamera(
            camera=self.camera,
            max_fps=30,
            service={
                "backends": two_backends,
                "mode": "prefer_cloud",
                "endpoint": "https://faces.test",
            },
        )
        self.window.add_widget(self.faces)
        self.controls = FaceCameraControls(self.faces)
        self.window.add_widget(self.controls)
        self.steps = self.walk()
        self.condition: Callable[[], object] = lambda: True
        self.gives_up_s = time.monotonic() + WALK_S
        Clock.schedule_interval(self.step, 0)
        self.screens = ScreenManager()
        for name, inside in (("camera", self.window), ("other", BoxLayout())):
            screen = Screen(name=name)
            screen.add_widget(inside)
            self.screens.add_widget(screen)
        return self.screens

    def step(self, _elapsed_s: float) -> None:
        """Go on once the condition that the walk waits for holds."""
        if time.monotonic() > self.gives_up_s:
            seen["gave up at"] = sorted(seen)
            self.stop()
        elif self.condition():
            try:
                self.condition = next(self.steps)
            except StopIteration:
                self.stop()

    def walk(self) -> Generator[Callable[[], object]]:
        faces, status = self.faces, lambda: self.faces.status
        yield lambda: faces.result is not None and faces.texture is not None
        yield lambda: status().backend is BackendKind.CLOUD
        seen["mode in the menu"] = self.controls.children[0].children[1].text
        seen["texture"] = list(faces.texture.size)
        pixels = bytes(faces.texture.pixels)
        seen["top left"] = list(pixels[:3])
        self.controls.children[0].children[0].state = "down"
        yield lambda: status().backend is BackendKind.DEVICE and not status().may_leave
        seen["stays"] = faces.local_only
        self.controls.children[0].children[1].text = "on_device"
        yield lambda: status().mode.value == "on_device"
        faces.mode = "clod"
        yield lambda: faces.mode == self.controls.children[0].children[1].text == "on_device"
        faces.local_only = False
        seen["the switch follows"] = self.controls.children[0].children[0].state
        self.dispatch("on_pause")
        yield lambda: status().state is FeedState.PAUSED
        self.dispatch("on_resume")
        yield lambda: status().state is FeedState.RUNNING
        self.window.remove_widget(faces)
        yield lambda: status().state is FeedState.PAUSED
        self.window.add_widget(faces)
        yield lambda: status().state is FeedState.RUNNING
        self.screens.current = "other"
        yield lambda: status().state is FeedState.PAUSED
        self.screens.current = "camera"
        yield lambda: status().state is FeedState.RUNNING
        seen["fills"] = faces.norm_image_size in (
            [faces.width, faces.width * 3 / 4],
            [faces.height * 4 / 3, faces.height],
        )
        self.camera.is_there = False
        yield lambda: "camera" in faces._notice.text
        faces.camera = SteadyCamera()  # with the same options
        yield lambda: not faces._notice.text and status().state is FeedState.RUNNING
        yield lambda: status().backend is BackendKind.DEVICE
        faces.camera = None
        yield lambda: faces.texture is None
        seen["no camera"] = faces.status_text, faces._notice.text, faces.norm_image_size
        device = FakeBackend("device")
        other = FaceCamera(camera=SteadyCamera(), service={"backends": [device]})
        self.window.add_widget(other)
        yield lambda other=other: other.result is not None
        other.mode = "clod"  # what is logged of it must not keep it
        self.window.remove_widget(other)
        del other
        yield lambda: gc.collect() >= 0 and device._closed
        faces.mode, faces.service = "", {"mode": "cloud"}
        faces.camera = SteadyCamera()
        yield lambda: "no endpoint is configured" in faces.status_text
        seen["done"] = True

    def on_stop(self) -> None:
        self.faces.close()
        self.faces.camera = SteadyCamera()  # closed for good
        seen["closed"] = self.faces.status.state.value
        seen["told"] = self.faces.status_text


if __name__ == "__main__":
    StepsApp().run()
    sys.__stdout__.write(json.dumps(seen) + "\n")

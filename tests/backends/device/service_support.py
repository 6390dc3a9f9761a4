"""What the tests of the on-device service share: a stand-in for MediaPipe in this process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from hybrid_detect.backends.device.on_device import OnDeviceDetectionService
from hybrid_detect.frames.frame import Frame
from hybrid_detect.types import (
    BackendKind,
    BoundingBox,
    Face,
    Plan,
)

from ...waiting import LIMIT_S, wait_until

ASTRONAUT_FACE = BoundingBox(169, 64, 283, 178)
SOON_S = 0.05


class FakeEngine:
    """Answers with one face as wide as the picture, once `may_answer` is set."""

    def __init__(self) -> None:
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.may_load = threading.Event()
        self.may_load.set()
        self.load_error: Exception | None = None
        self.detect_error: Exception | None = None
        self.looking = threading.Event()
        self.loads = 0
        self.widths: list[int] = []
        self.threads: set[str] = set()
        self.closed = 0

    def load(self, _name: str, *, progress: Callable[..., None], **_: Any) -> bytes:
        self.loads += 1
        while not self.may_load.wait(0.005):
            progress("source", 0, None)
        if self.load_error:
            raise self.load_error
        return b"model"

    def build(self, _model: bytes, *, min_confidence: float, slim: bool) -> FakeEngine:
        self.threads.add(threading.current_thread().name)
        return self

    def detect(self, image_rgb: np.ndarray) -> tuple[Face, ...]:
        self.threads.add(threading.current_thread().name)
        self.looking.set()
        assert self.may_answer.wait(LIMIT_S)
        self.looking.clear()
        if self.detect_error:
            raise self.detect_error
        self.widths.append(image_rgb.shape[1])
        return (Face(BoundingBox(0, 0, image_rgb.shape[1], 1), 0.9),)

    def close(self) -> None:
        self.threads.add(threading.current_thread().name)
        self.closed += 1


def assert_no_thread_of_ours() -> None:
    wait_until(lambda: not any(t.name.startswith("hybrid-detect") for t in threading.enumerate()))


def service_of(**options: Any) -> OnDeviceDetectionService:
    """The service around the stand-in, which lives in this process."""
    options.setdefault("model", "short_range")  # no look of the stand-in's is timed then
    return OnDeviceDetectionService(isolation="none", **options)


def frame_of(width: int) -> Frame:
    return Frame.of(np.zeros((8, width, 3), np.uint8))


def plan(deadline_s: float = LIMIT_S) -> Plan:
    return Plan(backend=BackendKind.DEVICE, reason="test", deadline_s=deadline_s)

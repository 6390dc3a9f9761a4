"""Every backend is held to the same contract."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from hybrid_detect.backends.base import Backend
from hybrid_detect.backends.device.models import load_model
from hybrid_detect.backends.device.on_device import OnDeviceDetectionService
from hybrid_detect.backends.remote.cloud import CloudDetectionService
from hybrid_detect.backends.remote.streaming import StreamingService
from hybrid_detect.errors import ModelError
from hybrid_detect.extras import is_installed
from hybrid_detect.frames.frame import Frame
from hybrid_detect.testing import BackendContract, FakeBackend
from hybrid_detect.types import BoundingBox, Face

if TYPE_CHECKING:
    from hybrid_detect.server.serving import ServerProcess

pytestmark = pytest.mark.anyio

ASTRONAUT_FACE = BoundingBox(177, 82, 272, 177)


class AstronautContract(BackendContract):
    """The contract on the one photo that comes with scikit-image."""

    @pytest.fixture
    def picture(self, astronaut: np.ndarray) -> np.ndarray:
        return astronaut

    @pytest.fixture
    def face(self) -> BoundingBox:
        return ASTRONAUT_FACE


def astronaut_unless_black(frame: Frame) -> tuple[Face, ...]:
    if not frame.rgb().any():
        return ()
    box = ASTRONAUT_FACE.scaled(frame.width / 512, frame.height / 512)
    clipped = box.clipped(frame.width, frame.height)
    return (Face(clipped, 0.9),)


class TestFakeBackend(AstronautContract):
    def make(self, **options: Any) -> Backend:
        return FakeBackend(faces=astronaut_unless_black, latency_s=0.005, **options)


@pytest.mark.device
class TestOnDeviceDetectionService(AstronautContract):
    @pytest.fixture
    def options(self) -> dict[str, Any]:
        if not is_installed("mediapipe"):
            pytest.skip("MediaPipe is not installed")
        try:
            load_model("short_range")
        except ModelError as error:
            pytest.skip(f"no model to be had: {error}")
        return {}

    def make(self, **options: Any) -> Backend:
        return OnDeviceDetectionService(**options)


@pytest.mark.server
class TestCloudDetectionService(AstronautContract):
    @pytest.fixture
    def options(self, server: ServerProcess) -> dict[str, Any]:
        return {"endpoint": server.url, "auth_token": "test-token"}

    def make(self, **options: Any) -> Backend:
        return CloudDetectionService(**options)


@pytest.mark.server
class TestStreamingService(AstronautContract):
    @pytest.fixture
    def options(self, server: ServerProcess) -> dict[str, Any]:
        return {"endpoint": server.url, "auth_token": "test-token"}

    def make(self, **options: Any) -> Backend:
        return StreamingService(**options)

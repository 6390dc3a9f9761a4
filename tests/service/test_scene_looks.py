"""What a stream's answers show of its scene reaches the next frame's conditions."""

import asyncio

import numpy as np
import pytest

from hybrid_detect.geometry import BoundingBox, Face
from hybrid_detect.selection.conditions import Conditions, SceneConditions
from hybrid_detect.service.hybrid import HybridDetectionService
from hybrid_detect.testing.fakes import FakeBackend
from hybrid_detect.types import BackendKind, Plan

STREAMING, DEVICE = BackendKind.STREAMING, BackendKind.DEVICE
IMAGES = [np.full((90, 160, 3), number, np.uint8) for number in range(4)]


def face(height: float) -> Face:
    return Face(box=BoundingBox(10.0, 10.0, 10.0 + height, 10.0 + height), score=0.9)


class Seeing(FakeBackend):
    """A device whose model finds faces from a tenth of the picture's longer side on."""

    @property
    def recall_by_height(self) -> tuple[tuple[float, float], ...]:
        return ((0.0, 0.0), (0.1, 0.9))


class Asks:
    """Gives every frame to one plan, and keeps what it was shown."""

    def __init__(self, backend: BackendKind, **fields: object) -> None:
        self.fields = {"backend": backend, "deadline_s": 1.0, "reason": "test"} | fields
        self.shown: list[SceneConditions | None] = []

    def decide(self, conditions: Conditions) -> Plan:
        self.shown.append(conditions.scene)
        return Plan(**self.fields)


async def streamed(policy: Asks, *backends: FakeBackend, **limits: object) -> Asks:
    async with HybridDetectionService(backends=backends, policy=policy) as service:
        async for result in service.start_detection(iter(IMAGES), max_fps=None, **limits):
            assert result.answered
    return policy


@pytest.mark.anyio
@pytest.mark.parametrize(("height", "low", "high"), [(64.0, 0.8, 1.0), (4.0, 0.0, 0.1)])
async def test_the_server_s_faces_tell_what_the_device_would_see(
    height: float, low: float, high: float
) -> None:
    server = FakeBackend("streaming", faces=[face(height)] * 3)
    policy = await streamed(Asks(STREAMING), server, Seeing("device"))
    first, last = policy.shown[0], policy.shown[-1]
    assert first is not None
    assert last is not None
    assert first.device_share == 0.8, "the configuration's, before anything was seen"
    assert low <= last.device_share <= high
    assert last.faces == 3


@pytest.mark.anyio
async def test_the_late_answer_of_a_probe_is_seen_too() -> None:
    """The device's answer is the frame's; the server's, which comes after it, shows the crowd."""
    released = asyncio.Event()

    async def wait(_seconds: float) -> None:
        await released.wait()

    server = FakeBackend("streaming", faces=[face(4.0)] * 3, sleep=wait)
    policy = Asks(STREAMING, hedge=DEVICE, probe=True)
    async with HybridDetectionService(
        backends=[server, Seeing("device")], policy=policy
    ) as service:
        results = service.start_detection(iter(IMAGES), max_fps=None)
        assert (await anext(results)).backend is DEVICE
        released.set()
        shares = [result.backend async for result in results]
    assert set(shares) <= {DEVICE, STREAMING}
    last = policy.shown[-1]
    assert last is not None
    assert last.faces == 3


@pytest.mark.anyio
async def test_nothing_is_said_of_a_scene_without_the_device_s_recall_or_a_stream() -> None:
    def server() -> FakeBackend:
        return FakeBackend("streaming", faces=[face(4.0)])

    for devices in ([FakeBackend("device")], []):
        policy = await streamed(Asks(STREAMING), server(), *devices)
        assert set(policy.shown) == {None}
    policy = Asks(STREAMING)
    backends = [server(), Seeing("device")]
    async with HybridDetectionService(backends=backends, policy=policy) as service:
        for image in IMAGES:
            await service.process_image(image)
        async for _ in service.process_images(iter(IMAGES)):
            pass
    assert set(policy.shown) == {None}, "a lone picture tells nothing of the next"


@pytest.mark.anyio
async def test_each_stream_has_a_scene_of_its_own() -> None:
    server = FakeBackend("streaming", faces=lambda frame: [face(4.0)] if frame.width > 160 else [])
    policy = Asks(STREAMING)
    wide = [np.zeros((90, 200, 3), np.uint8)] * 3
    async with HybridDetectionService(
        backends=[server, Seeing("device")], policy=policy
    ) as service:
        for images in (wide, IMAGES):
            async for _ in service.start_detection(iter(images), max_fps=None):
                pass
    first_of_second = policy.shown[len(wide)]
    assert first_of_second is not None
    assert first_of_second.faces is None

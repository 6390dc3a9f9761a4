"""The app's tests. No camera, no photo, no network beyond this machine: ``pytest``."""

from __future__ import annotations

import pytest
from door_camera import DoorCamera

from hybrid_detect import (
    BackendUnavailableError,
    BoundingBox,
    CloudDetectionService,
    Face,
    ServiceConfig,
)
from hybrid_detect.server.serving import ServerProcess
from hybrid_detect.sync import HybridDetectionService
from hybrid_detect.testing import FakeBackend, FaultyLink, drawn_frames
from hybrid_detect.testing.provider_servers import Failure, GoogleServer

FACE = Face(BoundingBox(100, 100, 200, 200), score=0.9)
CLOUD_FIRST = ServiceConfig(mode="prefer_cloud", deadline_s=2.0)
(GROUP,) = (frame.image for frame in drawn_frames(1, faces=4))


# 1. What the app says, whatever the detector: a fake sees what the test wants.
@pytest.mark.parametrize(
    ("faces", "said"), [([], "nobody"), ([FACE], "a visitor"), ([FACE] * 7, "7 visitors")]
)
def test_it_says_who_is_there(faces, said):
    device = FakeBackend("device", faces=faces)
    with HybridDetectionService(backends=[device]) as service:
        assert DoorCamera(service).look(GROUP) == said


# 2. The network dies: a script says what happens to each picture.
def test_it_goes_on_when_the_network_dies():
    tunnel = BackendUnavailableError("the tunnel")
    cloud = FakeBackend("cloud", faces=[FACE, FACE], script=["ok", tunnel, tunnel, tunnel])
    device = FakeBackend("device", faces=[FACE])
    with HybridDetectionService(config=CLOUD_FIRST, backends=[cloud, device]) as service:
        door = DoorCamera(service)
        assert door.look(GROUP) == "2 visitors"  # the cloud's answer
        assert door.look(GROUP) == "a visitor"  # the device's
        device.error = BackendUnavailableError("no memory")
        assert door.look(GROUP) == "I cannot see"


# 3. The network is slow: a real server behind a link with faults.
@pytest.fixture(scope="module")
def server():
    with ServerProcess(auth_token="a-test-token", model="full_range") as server:
        yield server


def test_a_slow_network_keeps_no_visitor_waiting(server):
    device = FakeBackend("device", faces=[FACE])
    with FaultyLink(server.url) as link:
        cloud = CloudDetectionService(endpoint=link.url, auth_token="a-test-token")
        with HybridDetectionService(config=CLOUD_FIRST, backends=[cloud, device]) as service:
            service.wait_ready()  # until then the device answers
            assert len(service.process_image(GROUP, deadline_s=30).faces) == 4
            link.bytes_per_s = 1_000
            assert DoorCamera(service).look(GROUP) == "a visitor"


# 4. A provider refuses: its scripted server checks keys and sizes, and records what it was sent.
def test_a_provider_that_refuses_is_not_asked_again_and_again():
    device = FakeBackend("device", faces=[FACE])
    with GoogleServer(api_key="a-key") as google:
        cloud = CloudDetectionService("google", endpoint=google.url, api_key="a-key")
        with HybridDetectionService(config=CLOUD_FIRST, backends=[cloud, device]) as service:
            service.wait_ready()
            google.fail_always(Failure(403, "PERMISSION_DENIED"))  # the key is withdrawn
            asked = len(google.requests)
            door = DoorCamera(service)
            assert [door.look(GROUP) for _ in range(5)] == ["a visitor"] * 5
        assert len(google.requests) == asked + 1


# 5. A thousand pictures leave nothing behind.
def test_it_holds_its_memory(memory_budget):
    frames = [frame.image for frame in drawn_frames(8)]
    with HybridDetectionService(backends=[FakeBackend("device", faces=[FACE])]) as service:
        door = DoorCamera(service)
        memory_budget("5 MB", frames=1000).run(lambda number: door.look(frames[number % 8]))

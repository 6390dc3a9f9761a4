"""A camera for a window: it never waits, whatever the camera, the backends and the network do."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from hybrid_detect.errors import (
    BackendUnavailableError,
    ConfigurationError,
    InvalidFrameError,
    SourceError,
)
from hybrid_detect.frames.overlay import Overlay
from hybrid_detect.integrations.camera_feed import CameraFeed, FeedState
from hybrid_detect.privacy.privacy_policy import PrivacyPolicy
from hybrid_detect.sources.sources import open_source
from hybrid_detect.testing import FakeBackend
from hybrid_detect.types import BackendKind, BoundingBox, DetectionMode, Face

from ..waiting import wait_until
from .cameras import SteadyCamera, is_still

FACE = Face(BoundingBox(50, 100, 110, 160))
DEVICE, CLOUD = BackendKind.DEVICE, BackendKind.CLOUD


class Feeds:
    """Opens feeds over fake backends; the cameras are read as fast as they give frames."""

    def __init__(self) -> None:
        self.opened: list[CameraFeed[np.ndarray]] = []

    def __call__(self, camera: Any, *backends: FakeBackend, **options: Any) -> Any:
        backends = backends or (FakeBackend("device", faces=[FACE]),)
        feed = CameraFeed(camera, lambda pixels: pixels, max_fps=None, backends=backends, **options)
        self.opened.append(feed)
        return feed


@pytest.fixture
def feeds() -> Iterator[Feeds]:
    yield (feeds := Feeds())
    for feed in feeds.opened:
        feed.close(wait=True)


def test_pictures_with_boxes_results_and_the_rate_come(feeds: Feeds) -> None:
    feed = feeds(SteadyCamera())
    wait_until(lambda: (picture := feed.take()) is not None and picture[130, 50, 1] > 200)
    assert feed.result.faces == (FACE,)
    wait_until(lambda: feed.status.fps > 0)
    assert feed.status.state is FeedState.RUNNING
    assert feed.status.backend is DEVICE
    assert str(feed.status).startswith("device, ")
    assert not feed.status.notice


def test_mode_and_privacy_change_while_it_runs(feeds: Feeds) -> None:
    cloud, device = FakeBackend("cloud"), FakeBackend("device")
    feed = feeds(SteadyCamera(), cloud, device, mode="cloud", endpoint="https://faces.test")
    wait_until(lambda: feed.status.backend is CLOUD)
    feed.set_mode("prefer_cloud")
    wait_until(lambda: feed.status.mode is DetectionMode.PREFER_CLOUD)
    feed.set_privacy("local_only")
    wait_until(lambda: not feed.status.may_leave and feed.status.backend is DEVICE)
    asked = len(cloud.plans)
    wait_until(lambda: len(device.plans) > 5)
    assert len(cloud.plans) == asked
    feed.set_privacy("default")
    wait_until(lambda: feed.status.may_leave and feed.status.backend is CLOUD)


def test_the_policy_it_is_made_with_is_told(feeds: Feeds) -> None:
    feed = feeds(SteadyCamera(), privacy=PrivacyPolicy(may_leave=False))
    wait_until(lambda: feed.status.state is FeedState.RUNNING)
    assert not feed.status.may_leave


def test_what_is_asked_before_the_service_is_open_holds_from_the_first_frame_on(
    feeds: Feeds,
) -> None:
    opens = asyncio.Event()
    cloud, device = Slow("cloud", opens), Slow("device", opens)
    feed = feeds(SteadyCamera(), cloud, device, mode="prefer_cloud", endpoint="https://faces.test")
    feed.set_privacy("local_only")
    feed.set_mode("prefer_on_device")
    wait_until(lambda: cloud.loop is not None)
    assert feed.status.state is FeedState.STARTING
    assert feed.status.notice == "starting"
    assert cloud.loop is not None
    cloud.loop.call_soon_threadsafe(opens.set)
    wait_until(lambda: len(device.plans) > 3)
    assert not cloud.plans
    assert feed.status.mode is DetectionMode.PREFER_ON_DEVICE


class Slow(FakeBackend):
    """A fake whose first check waits for `opens`."""

    def __init__(self, kind: str, opens: asyncio.Event) -> None:
        super().__init__(kind)
        self._opens = opens
        self.loop: asyncio.AbstractEventLoop | None = None

    async def check(self, *, deadline_s: float) -> None:
        self.loop = asyncio.get_running_loop()
        await self._opens.wait()


def test_no_call_waits_for_a_backend_that_never_starts(feeds: Feeds) -> None:
    camera = SteadyCamera()
    feed = feeds(camera, Slow("device", asyncio.Event()))
    feed.set_mode("on_device")
    feed.set_privacy("local_only")
    feed.pause()
    feed.resume()
    feed.resize(100, 100)
    assert feed.take() is None
    feed.close()
    assert feed.status.state is FeedState.CLOSED
    feed.set_mode("auto")
    feed.resume()
    assert camera.reads == 0


def test_a_change_that_is_refused_is_told_and_one_that_is_wrong_is_raised(
    feeds: Feeds, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed = feeds(SteadyCamera())
    with pytest.raises(ConfigurationError, match="mode: expected one of"):
        feed.set_mode("clod")
    with pytest.raises(ConfigurationError, match="privacy: expected one of"):
        feed.set_privacy("local")

    async def refuse(mode: object) -> None:
        raise ConfigurationError("no such backend here")

    monkeypatch.setattr(feed._service, "set_mode", refuse)
    feed.set_mode("cloud")
    wait_until(lambda: feed.status.trouble == "no such backend here")
    assert "(no such backend here)" in str(feed.status)
    feed.set_privacy("default")
    wait_until(lambda: not feed.status.trouble)


def test_paused_it_reads_no_camera_and_resumed_it_goes_on(feeds: Feeds) -> None:
    camera = SteadyCamera()
    feed = feeds(camera)
    wait_until(lambda: feed.result is not None)
    feed.pause()
    wait_until(lambda: feed.status.state is FeedState.PAUSED)
    wait_until(lambda: is_still(camera))
    feed.resume()
    wait_until(lambda: feed.status.state is FeedState.RUNNING)
    reads = camera.reads
    wait_until(lambda: camera.reads > reads)


def test_paused_from_the_start_it_says_so_and_opens_no_camera(feeds: Feeds) -> None:
    camera = SteadyCamera()
    feed = feeds(camera, is_paused=True)
    wait_until(lambda: feed.status.state is FeedState.PAUSED)
    assert not feed.status.notice
    assert camera.reads == 0
    feed.resume()
    wait_until(lambda: feed.status.state is FeedState.RUNNING)


def test_what_is_not_live_goes_on_where_it_was_paused(feeds: Feeds) -> None:
    given = []

    def images() -> Iterator[Any]:
        for number in range(10_000):
            given.append(number)
            yield SteadyCamera().image

    feed = feeds(images())
    wait_until(lambda: feed.result is not None)
    feed.pause()
    wait_until(lambda: feed.status.state is FeedState.PAUSED)
    wait_until(lambda: feed.result.source_index >= 0 and is_quiet(given))
    held_at = len(given)
    feed.resume()
    wait_until(lambda: feed.result.source_index > held_at)


def is_quiet(given: list[int]) -> bool:
    before = len(given)
    time.sleep(0.1)
    return len(given) == before


def test_async_images_go_on_where_they_were_paused(feeds: Feeds) -> None:
    async def images() -> Any:
        while True:
            await asyncio.sleep(0.001)
            yield SteadyCamera().image

    feed = feeds(images())
    wait_until(lambda: feed.result is not None)
    feed.pause()
    wait_until(lambda: feed.status.state is FeedState.PAUSED)
    held_at = feed.result.source_index
    feed.resume()
    wait_until(lambda: feed.result.source_index > held_at + 3)


def test_until_a_camera_gives_its_first_frame_it_is_starting(feeds: Feeds) -> None:
    gives = threading.Event()

    class Warming(SteadyCamera):
        def read(self) -> tuple[bool, Any]:
            gives.wait(30)
            return super().read()

    feed = feeds(Warming())
    wait_until(lambda: feed._session._stream is not None and feed._session._stream.is_live)
    assert feed.status.notice == "starting"
    gives.set()
    wait_until(lambda: feed.status.state is FeedState.RUNNING and not feed.status.notice)


class Exclusive:
    """A camera that one program at a time may open, as most are."""

    def __init__(self) -> None:
        self.is_taken = False
        self.opened = 0

    def open(self) -> Any:
        if self.is_taken:
            raise SourceError("the camera is busy")
        self.is_taken = True
        self.opened += 1
        owner = self

        class Reader(SteadyCamera):
            def close(self) -> None:
                owner.is_taken = False

        return Reader()


def test_a_camera_that_another_program_holds_is_opened_once_it_is_free(feeds: Feeds) -> None:
    camera = Exclusive()
    camera.is_taken = True
    feed = feeds(camera)
    wait_until(lambda: feed.status.state is FeedState.FAILED)
    assert feed.status.notice == "the camera is busy"
    camera.is_taken = False
    wait_until(lambda: feed.status.state is FeedState.RUNNING)


def test_two_feeds_of_one_camera_follow_each_other(feeds: Feeds) -> None:
    camera = Exclusive()
    for _ in range(3):
        feed = feeds(camera)
        wait_until(lambda feed=feed: feed.status.state is FeedState.RUNNING)
        feed.close()  # the camera may be let go of a while later
    assert camera.opened == 3


def test_resume_tries_a_camera_that_cannot_be_opened_at_once(
    feeds: Feeds, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hybrid_detect.sources.live.FIRST_PAUSE_S", 1000.0)
    monkeypatch.setattr("hybrid_detect.sources.live.MAX_PAUSE_S", 1000.0)
    camera = Exclusive()
    camera.is_taken = True
    feed = feeds(camera)
    wait_until(lambda: feed.status.state is FeedState.FAILED)
    feed.pause()
    camera.is_taken = False
    feed.resume()
    wait_until(lambda: feed.status.state is FeedState.RUNNING)


def test_quick_pauses_and_resumes_end_as_the_last_of_them_says(feeds: Feeds) -> None:
    camera = Exclusive()
    feed = feeds(camera)
    wait_until(lambda: feed.result is not None)
    for _ in range(20):
        feed.pause()
        feed.resume()
    wait_until(lambda: feed.status.state is FeedState.RUNNING and camera.is_taken)
    feed.pause()
    wait_until(lambda: feed.status.state is FeedState.PAUSED and not camera.is_taken)


def test_a_source_with_settings_of_its_own_is_shown_as_well(feeds: Feeds) -> None:
    told = []
    feed = feeds(open_source(SteadyCamera(), silence_s=1, on_frame=told.append))
    wait_until(lambda: feed.take() is not None and feed.result is not None)
    assert told


def test_a_feed_that_is_dropped_is_closed() -> None:
    camera, device = SteadyCamera(), FakeBackend("device")
    feeds = [CameraFeed(camera, np.asarray, backends=[device])]
    wait_until(lambda: feeds[0].result is not None)
    feeds.clear()
    gc.collect()
    wait_until(lambda: device._closed)
    wait_until(lambda: is_still(camera))


def test_an_overlay_of_the_app_is_mirrored_as_well(feeds: Feeds) -> None:
    image = SteadyCamera().image.copy()
    image[:, :10] = 255
    feed = feeds(SteadyCamera(image), mirror=True, overlay=Overlay(label=False))
    wait_until(lambda: (picture := feed.take()) is not None and (picture[5, 315] == 255).all())


def test_a_pixel_format_that_does_not_exist_is_refused_at_once() -> None:
    with pytest.raises(InvalidFrameError, match="pixel_format"):
        CameraFeed(SteadyCamera(), np.asarray, pixel_format="brg", backends=[FakeBackend()])


def test_a_change_is_under_way_until_it_holds_or_was_refused(feeds: Feeds) -> None:
    opens = asyncio.Event()
    device = Slow("device", opens)
    feed = feeds(SteadyCamera(), device)
    feed.set_privacy("local_only")
    assert feed.status.is_changing
    wait_until(lambda: device.loop is not None)
    device.loop.call_soon_threadsafe(opens.set)  # type: ignore[union-attr]
    wait_until(lambda: not feed.status.is_changing)
    assert not feed.status.may_leave


def test_options_whose_backends_are_a_function_do_for_several_feeds() -> None:
    made = []

    def backends() -> list[FakeBackend]:
        made.append(FakeBackend("device", faces=[FACE]))
        return [made[-1]]

    options = {"backends": backends, "mode": "on_device"}
    first, second = (CameraFeed(SteadyCamera(), np.asarray, **options) for _ in range(2))
    for feed in (first, second):
        wait_until(lambda feed=feed: feed.status.backend is DEVICE)
    first.close(wait=True)
    answered = second.result.frame_id
    wait_until(lambda: second.result.frame_id > answered + 3 and second.result.answered)
    second.close(wait=True)
    third = CameraFeed(SteadyCamera(), np.asarray, **options)
    wait_until(lambda: third.status.backend is DEVICE)
    third.close(wait=True)
    assert len(made) == 3


def test_backends_that_another_feed_has_or_had_are_told_and_left_alone(feeds: Feeds) -> None:
    device = FakeBackend("device", faces=[FACE])
    first = feeds(SteadyCamera(), device)
    wait_until(lambda: first.status.backend is DEVICE)
    second = feeds(SteadyCamera(), device)
    wait_until(lambda: second.status.state is FeedState.FAILED)
    assert "the device backend is in another open service" in second.status.notice
    second.close(wait=True)
    looked_at = len(device.plans)
    wait_until(lambda: len(device.plans) > looked_at + 3)
    assert first.status.state is FeedState.RUNNING
    first.close(wait=True)
    third = feeds(SteadyCamera(), device)
    wait_until(lambda: third.status.state is FeedState.FAILED)
    assert third.status.notice == "the device backend is closed: make a new one"


def test_backends_that_fail_are_told_and_pictures_go_on(feeds: Feeds) -> None:
    device = FakeBackend("device")
    feed = feeds(SteadyCamera(), device)
    wait_until(lambda: feed.status.backend is DEVICE)
    device.error = BackendUnavailableError("it is too hot")
    wait_until(lambda: feed.status.backend is None and "it is too hot" in feed.status.reason)
    feed.take()
    wait_until(lambda: feed.take() is not None)
    assert feed.status.state is FeedState.RUNNING


def test_a_lost_camera_is_told(feeds: Feeds) -> None:
    camera = SteadyCamera()
    feed = feeds(camera)
    wait_until(lambda: feed.result is not None)
    camera.is_there = False
    wait_until(lambda: feed.status.state in {FeedState.LOST, FeedState.FAILED})
    assert "camera" in feed.status.notice


def test_images_that_end_are_told(feeds: Feeds) -> None:
    feed = feeds([SteadyCamera().image])
    wait_until(lambda: feed.status.state is FeedState.ENDED)
    assert not feed.status.notice


def test_a_camera_that_cannot_be_opened_is_told(feeds: Feeds) -> None:
    feed = feeds("missing.mp4")
    wait_until(lambda: feed.status.state is FeedState.FAILED)
    assert feed.status.notice


def test_a_bug_is_told_and_logged(
    feeds: Feeds, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def bug(*_arguments: object, **_options: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("hybrid_detect.service.hybrid.HybridDetectionService.start_detection", bug)
    feed = feeds(SteadyCamera())
    wait_until(lambda: feed.status.state is FeedState.FAILED)
    wait_until(lambda: "a camera's view has ended by a bug" in caplog.text)


def test_a_service_that_cannot_work_is_refused_at_once() -> None:
    with pytest.raises(ConfigurationError, match="no endpoint is configured"):
        CameraFeed(SteadyCamera(), lambda pixels: pixels, mode="cloud")


def test_closed_it_reads_nothing_and_may_be_closed_again(feeds: Feeds) -> None:
    camera = SteadyCamera()
    feed = feeds(camera)
    wait_until(lambda: feed.result is not None)
    feed.close()
    feed.close(wait=True)
    wait_until(lambda: is_still(camera))  # a read that was under way may still end
    assert feed.take() is None
    assert feed.status.state is FeedState.CLOSED

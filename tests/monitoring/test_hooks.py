"""Hooks: told of everything, in order, and unable to break or hold up a call."""

import gc
import logging
import threading
import time
from typing import Any

import numpy as np
import pytest

from hybrid_detect import Frame, HybridDetectionService
from hybrid_detect.errors import BackendTimeoutError, ConfigurationError
from hybrid_detect.monitoring.events import BackendEvent, FrameEvent, FrameOutcome
from hybrid_detect.monitoring.hooks import QUEUE_EVENTS, SLOW_CALLS, SLOW_S, Dispatcher
from hybrid_detect.testing import FakeBackend
from hybrid_detect.types import BackendKind

from ..waiting import until

pytestmark = pytest.mark.anyio

LIMIT_S = 5.0


def frame(number: int = 1) -> FrameEvent:
    return FrameEvent(at_s=0.0, outcome=FrameOutcome.ANSWERED, frame_id=number)


BACKEND = BackendEvent(at_s=0.0, backend=BackendKind.CLOUD, usable=False)


class Collects:
    """Keeps the events of both kinds, and the thread it was called in."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.threads: list[threading.Thread] = []

    def on_frame(self, event: FrameEvent) -> None:
        self.events.append(event)
        self.threads.append(threading.current_thread())

    def on_backend(self, event: BackendEvent) -> None:
        self.events.append(event)


class Blocking(Collects):
    """Says that it blocks, and does so until it is let go."""

    blocking = True

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()

    def on_frame(self, event: FrameEvent) -> None:
        assert self.go.wait(LIMIT_S)
        super().on_frame(event)


class Raises:
    def on_frame(self, event: FrameEvent) -> None:
        raise RuntimeError("a hook's bug")


async def test_each_hook_is_told_in_order_before_the_call_goes_on() -> None:
    first, second = Collects(), Collects()
    dispatcher = Dispatcher([first, second])
    for number in range(3):
        dispatcher.frame(frame(number))
    dispatcher.backend(BACKEND)
    expected = [frame(0), frame(1), frame(2), BACKEND]
    assert first.events == second.events == expected
    assert set(first.threads) == {threading.current_thread()}


async def test_a_hook_may_take_one_kind_alone() -> None:
    class FramesAlone:
        events: list[FrameEvent] = []  # noqa: RUF012 - one test

        def on_frame(self, event: FrameEvent) -> None:
            self.events.append(event)

    dispatcher = Dispatcher([FramesAlone()])
    assert (dispatcher.wants_frames, dispatcher.wants_backends) == (True, False)
    dispatcher.backend(BACKEND)
    dispatcher.frame(frame())
    assert FramesAlone.events == [frame()]
    assert not Dispatcher().wants_frames


async def test_a_hook_that_raises_is_logged_once_and_the_others_are_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    after = Collects()
    dispatcher = Dispatcher([Raises(), after])
    for number in range(5):
        dispatcher.frame(frame(number))
    assert len(after.events) == 5
    (record,) = caplog.records
    assert "Raises" in record.getMessage()
    assert record.levelno == logging.ERROR


async def test_a_blocking_hook_holds_nothing_up_and_misses_nothing_until_its_queue_is_full(
    caplog: pytest.LogCaptureFixture,
) -> None:
    hook = Blocking()
    dispatcher = Dispatcher([hook])
    dispatcher.frame(frame(0))
    for number in range(1, QUEUE_EVENTS):
        dispatcher.frame(frame(number))
    assert hook.events == []
    hook.go.set()
    await dispatcher.aclose()
    assert [event.frame_id for event in hook.events] == list(range(QUEUE_EVENTS))
    assert threading.current_thread() not in hook.threads
    assert not caplog.records


async def test_a_hook_that_failed_once_is_told_of_when_it_misses_events(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Failing(Blocking):
        def on_frame(self, event: FrameEvent) -> None:
            super().on_frame(event)
            raise ValueError

    hook = Failing()
    hook.go.set()
    dispatcher = Dispatcher([hook])
    dispatcher.frame(frame(0))
    await until(lambda: caplog.records)
    hook.go.clear()
    for number in range(QUEUE_EVENTS + 50):
        dispatcher.frame(frame(number))
    hook.go.set()
    await dispatcher.aclose()
    told = [record.getMessage() for record in caplog.records]
    assert told == [
        "the hook Failing failed; this is logged once",
        "the hook Failing is too slow: it misses events",
    ]


async def test_a_queue_that_is_full_drops_the_oldest_and_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    hook = Blocking()
    dispatcher = Dispatcher([hook])
    for number in range(QUEUE_EVENTS + 50):
        dispatcher.frame(frame(number))
    hook.go.set()
    await dispatcher.aclose()
    assert hook.events[-1].frame_id == QUEUE_EVENTS + 49
    assert QUEUE_EVENTS <= len(hook.events) <= QUEUE_EVENTS + 1
    assert [record.getMessage() for record in caplog.records] == [
        "the hook Blocking is too slow: it misses events"
    ]


async def test_a_hook_that_turns_out_to_block_is_moved_to_a_thread(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Sleeps(Collects):
        def on_frame(self, event: FrameEvent) -> None:
            super().on_frame(event)
            if len(self.events) <= SLOW_CALLS:
                time.sleep(2 * SLOW_S)

    hook = Sleeps()
    dispatcher = Dispatcher([hook])
    for number in range(SLOW_CALLS + 2):
        dispatcher.frame(frame(number))
    await dispatcher.aclose()
    assert [event.frame_id for event in hook.events] == list(range(SLOW_CALLS + 2))
    assert set(hook.threads[:SLOW_CALLS]) == {threading.current_thread()}
    assert threading.current_thread() not in hook.threads[SLOW_CALLS:]
    assert "blocking = True" in caplog.text


async def test_a_hook_that_never_returns_does_not_keep_closing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hybrid_detect.monitoring.hooks.DRAIN_S", 0.01)
    hook = Blocking()
    dispatcher = Dispatcher([hook])
    dispatcher.frame(frame())
    await dispatcher.aclose()
    assert hook.events == []
    hook.go.set()


async def test_a_hook_that_declares_that_it_does_not_block_stays(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Stays(Collects):
        blocking = False

        def on_frame(self, event: FrameEvent) -> None:
            super().on_frame(event)
            time.sleep(2 * SLOW_S)

    hook = Stays()
    dispatcher = Dispatcher([hook])
    for number in range(SLOW_CALLS + 1):
        dispatcher.frame(frame(number))
    assert len(hook.events) == SLOW_CALLS + 1
    assert not caplog.records


@pytest.mark.parametrize("hook", [None, object(), print, Collects])
def test_what_is_no_hook_is_refused(hook: Any) -> None:
    with pytest.raises(ConfigurationError, match="on_frame"):
        Dispatcher([hook])


async def test_a_hook_that_keeps_every_event_keeps_no_picture() -> None:
    def frames() -> int:
        gc.collect()
        return sum(isinstance(each, Frame) for each in gc.get_objects())

    hook, cloud = Collects(), FakeBackend("cloud")
    images = [np.zeros((48, 64, 3), np.uint8) for _ in range(5)]
    before = frames()
    async with HybridDetectionService(
        backends=[cloud, FakeBackend("device")], mode="prefer_cloud", hooks=[hook]
    ) as service:
        await service.process_image(images[0])
        cloud.error = BackendTimeoutError("late")
        await service.process_image(images[1])
        async for result in service.start_detection(images, keep_frames=True, max_fps=None):
            assert result.frame is not None
        del result
    told = [event for event in hook.events if isinstance(event, FrameEvent)]
    assert len(told) == 7
    assert any(event.attempts for event in told)
    assert frames() == before

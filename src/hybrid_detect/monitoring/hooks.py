"""Hooks: objects that are told what happened, and the dispatcher that tells them.

A hook can neither break nor hold up a call. What it raises is logged once and dropped. A hook
that writes to a disk or a network declares ``blocking = True`` and is called from a thread of
its own, behind a bounded queue; a hook that turns out to block is moved there by itself, unless it
declares ``blocking = False``.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeAlias, runtime_checkable

from hybrid_detect.errors import ConfigurationError
from hybrid_detect.monitoring.events import (
    BackendEvent,
    FeedbackEvent,
    FrameEvent,
    SettingsEvent,
)

__all__ = ["BackendHook", "Dispatcher", "FeedbackHook", "FrameHook", "Hook", "SettingsHook"]

logger = logging.getLogger("hybrid_detect.hooks")

SLOW_S = 0.01
SLOW_CALLS = 3
"""A hook whose inline calls take longer than 10 ms, a third of a frame at 30 fps, three times in a
row is moved to a thread. Once may be the machine's doing."""

QUEUE_EVENTS = 1000
"""Events that may wait for a blocking hook, about 1 MB; the oldest are dropped beyond that. At
15 fps it is a minute's worth."""

DRAIN_S = 1.0
"""Seconds that closing waits for blocking hooks to take what is queued."""

DRAIN_STEP_S = 0.005
"""Seconds between two looks at whether they have."""


@runtime_checkable
class FrameHook(Protocol):
    """A hook that is told what became of each frame."""

    def on_frame(self, event: FrameEvent) -> None:
        """Take an event, right after its frame's end, in the order of the ends.

        A frame that was also sent to learn about the link is told once that request has ended.
        """
        ...


@runtime_checkable
class BackendHook(Protocol):
    """A hook that is told when a backend becomes usable or unusable."""

    def on_backend(self, event: BackendEvent) -> None:
        """Take an event."""
        ...


@runtime_checkable
class SettingsHook(Protocol):
    """A hook that is told when the app changes the mode or the privacy policy."""

    def on_settings(self, event: SettingsEvent) -> None:
        """Take an event, once the change has taken effect."""
        ...


@runtime_checkable
class FeedbackHook(Protocol):
    """A hook that is told what was said of results with `report_feedback`."""

    def on_feedback(self, event: FeedbackEvent) -> None:
        """Take an event, after that of the frame it is about."""
        ...


Hook: TypeAlias = FrameHook | BackendHook | SettingsHook | FeedbackHook
"""A hook has one of the four methods, or several."""


class Dispatcher:
    """Tells every hook of every event.

    Args:
        hooks: The hooks, told in this order.

    Raises:
        ConfigurationError: If one has none of a hook's methods.
    """

    def __init__(self, hooks: Iterable[Hook] = ()) -> None:
        hooks = tuple(hooks)
        for hook in hooks:
            if not isinstance(hook, Hook) or isinstance(hook, type):
                msg = f"hooks: expected on_frame(event) or on_backend(event), got {hook!r:.80}"
                raise ConfigurationError(msg)
        listeners = [(hook, _Listener(hook)) for hook in hooks]
        self._listeners = [listener for _hook, listener in listeners]
        self._frame = _methods(listeners, FrameHook, "on_frame")
        self._backend = _methods(listeners, BackendHook, "on_backend")
        self._settings = _methods(listeners, SettingsHook, "on_settings")
        self._feedback = _methods(listeners, FeedbackHook, "on_feedback")
        self.wants_frames = bool(self._frame)
        """Whether a hook takes `FrameEvent`; else none need be made."""
        self.wants_backends = bool(self._backend)
        """Whether a hook takes `BackendEvent`."""

    def frame(self, event: FrameEvent) -> None:
        """Tell the hooks what became of a frame."""
        for listener, method in self._frame:
            listener.tell(method, event)

    def backend(self, event: BackendEvent) -> None:
        """Tell the hooks of a change of a backend."""
        for listener, method in self._backend:
            listener.tell(method, event)

    def settings(self, event: SettingsEvent) -> None:
        """Tell the hooks of a change of mode or privacy."""
        for listener, method in self._settings:
            listener.tell(method, event)

    def feedback(self, event: FeedbackEvent) -> None:
        """Tell the hooks what was said of a result."""
        for listener, method in self._feedback:
            listener.tell(method, event)

    async def aclose(self) -> None:
        """Wait until the blocking hooks have taken what is queued, at most `DRAIN_S` seconds."""
        for listener in self._listeners:
            listener.close()
        ends_s = time.monotonic() + DRAIN_S
        # Polled, because a thread that hangs in a hook cannot say so.
        while any(map(_Listener.is_running, self._listeners)) and time.monotonic() < ends_s:  # noqa: ASYNC110
            await asyncio.sleep(DRAIN_STEP_S)


def _methods(
    listeners: Iterable[tuple[Any, _Listener]], kind: type, name: str
) -> list[tuple[_Listener, Callable[[Any], None]]]:
    """The method `name` of each hook that has it, and who calls it."""
    return [(each, getattr(hook, name)) for hook, each in listeners if isinstance(hook, kind)]


class _Listener:
    """The methods of one hook, called in the order of the events, inline or from one thread."""

    def __init__(self, hook: Any) -> None:
        self._name = type(hook).__name__
        declared = getattr(hook, "blocking", None)
        self._is_blocking = bool(declared)
        self._may_move = declared is None
        self._slow_calls = 0
        self._has_failed = False
        self._has_missed = False
        self._queue: deque[Any] = deque(maxlen=QUEUE_EVENTS)
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closing = False

    def tell(self, method: Callable[[Any], None], event: Any) -> None:
        """Hand `event` to the hook's `method`."""
        if self._is_blocking:
            self._enqueue(method, event)
            return
        began_s = time.perf_counter()
        self._call(method, event)
        took_s = time.perf_counter() - began_s
        self._slow_calls = self._slow_calls + 1 if took_s > SLOW_S else 0
        if self._may_move and self._slow_calls == SLOW_CALLS:
            self._is_blocking = True
            logger.warning(
                "the hook %s takes %.0f ms of the event loop's time and is called from a thread "
                "of its own from now on: declare 'blocking = True' on it",
                self._name,
                took_s * 1000,
            )

    def _call(self, method: Callable[[Any], None], event: Any) -> None:
        try:
            method(event)
        except Exception:
            if not self._has_failed:
                self._has_failed = True
                logger.exception("the hook %s failed; this is logged once", self._name)

    def _enqueue(self, method: Callable[[Any], None], event: Any) -> None:
        with self._changed:
            if len(self._queue) == QUEUE_EVENTS and not self._has_missed:
                self._has_missed = True
                logger.error("the hook %s is too slow: it misses events", self._name)
            self._queue.append((method, event))
            self._changed.notify()
            if self._thread is None:
                self._closing = False
                # A daemon: a hook that never returns must not keep the app from ending.
                self._thread = threading.Thread(
                    target=self._run, name="hybrid-detect-hook", daemon=True
                )
                self._thread.start()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._queue:
                    if self._closing:
                        self._thread = None
                        return
                    self._changed.wait()
                method, event = self._queue.popleft()
            self._call(method, event)

    def close(self) -> None:
        """Let the thread end once it has nothing left to do; a later event starts another."""
        with self._changed:
            self._closing = True
            self._changed.notify()

    def is_running(self) -> bool:
        """Whether there is a thread that has not ended."""
        return self._thread is not None

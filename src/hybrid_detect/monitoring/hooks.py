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
from hybrid_detect.monitoring.events import BackendEvent, FrameEvent, SettingsEvent

__all__ = ["BackendHook", "Dispatcher", "FrameHook", "Hook", "SettingsHook"]

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


Hook: TypeAlias = FrameHook | BackendHook | SettingsHook
"""A hook has one of the three methods, or several."""


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
        self._frame = [_Listener(hook, hook.on_frame) for hook in _of(hooks, FrameHook)]
        self._backend = [_Listener(hook, hook.on_backend) for hook in _of(hooks, BackendHook)]
        self._settings = [_Listener(hook, hook.on_settings) for hook in _of(hooks, SettingsHook)]
        self.wants_frames = bool(self._frame)
        """Whether a hook takes `FrameEvent`; else none need be made."""
        self.wants_backends = bool(self._backend)
        """Whether a hook takes `BackendEvent`."""

    def frame(self, event: FrameEvent) -> None:
        """Tell the hooks what became of a frame."""
        for listener in self._frame:
            listener.tell(event)

    def backend(self, event: BackendEvent) -> None:
        """Tell the hooks of a change of a backend."""
        for listener in self._backend:
            listener.tell(event)

    def settings(self, event: SettingsEvent) -> None:
        """Tell the hooks of a change of mode or privacy."""
        for listener in self._settings:
            listener.tell(event)

    async def aclose(self) -> None:
        """Wait until the blocking hooks have taken what is queued, at most `DRAIN_S` seconds."""
        listeners = (*self._frame, *self._backend, *self._settings)
        for listener in listeners:
            listener.close()
        ends_s = time.monotonic() + DRAIN_S
        # Polled, because a thread that hangs in a hook cannot say so.
        while any(map(_Listener.is_running, listeners)) and time.monotonic() < ends_s:  # noqa: ASYNC110
            await asyncio.sleep(DRAIN_STEP_S)


def _of(hooks: Iterable[Any], kind: type) -> list[Any]:
    return [hook for hook in hooks if isinstance(hook, kind)]


class _Listener:
    """One method of one hook, called inline or from a thread."""

    def __init__(self, hook: Any, method: Callable[[Any], None]) -> None:
        self._name = type(hook).__name__
        self._method = method
        declared = getattr(hook, "blocking", None)
        self._is_blocking = bool(declared)
        self._may_move = declared is None
        self._slow_calls = 0
        self._has_failed = False
        self._queue: deque[Any] = deque(maxlen=QUEUE_EVENTS)
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closing = False

    def tell(self, event: Any) -> None:
        """Hand `event` to the hook."""
        if self._is_blocking:
            self._enqueue(event)
            return
        began_s = time.perf_counter()
        self._call(event)
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

    def _call(self, event: Any) -> None:
        try:
            self._method(event)
        except Exception:
            if not self._has_failed:
                self._has_failed = True
                logger.exception("the hook %s failed; this is logged once", self._name)

    def _enqueue(self, event: Any) -> None:
        with self._changed:
            if len(self._queue) == QUEUE_EVENTS and not self._has_failed:
                self._has_failed = True
                logger.error("the hook %s is too slow: it misses events", self._name)
            self._queue.append(event)
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
                event = self._queue.popleft()
            self._call(event)

    def close(self) -> None:
        """Let the thread end once it has nothing left to do; a later event starts another."""
        with self._changed:
            self._closing = True
            self._changed.notify()

    def is_running(self) -> bool:
        """Whether there is a thread that has not ended."""
        return self._thread is not None

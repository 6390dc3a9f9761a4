"""A backend as the service sees it: what is known about it, and the watch over it."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from hybrid_detect.backends.base import Backend, UploadGate
from hybrid_detect.backends.remote.remote_backend import RemoteBackend
from hybrid_detect.backends.remote.target_pool import TargetStatus
from hybrid_detect.charges import SentRequest
from hybrid_detect.destination import Destination
from hybrid_detect.errors import (
    BackendError,
    BackendResponseError,
    BackendTimeoutError,
    HybridDetectError,
    ProtocolError,
    SupersededError,
)
from hybrid_detect.frames.frame import Frame
from hybrid_detect.monitoring.events import BackendEvent
from hybrid_detect.selection.breaker import BreakerState, CircuitBreaker
from hybrid_detect.selection.conditions import BackendConditions
from hybrid_detect.selection.estimators import LatencyEstimate
from hybrid_detect.selection.quantiles import WindowedQuantile
from hybrid_detect.selection.scene import Recall
from hybrid_detect.types import BackendKind, DetectionResult, Plan

__all__ = ["BackendStatus", "ManagedBackend", "Unaffordable"]

logger = logging.getLogger("hybrid_detect")


SLOW_SHARE = 0.8
"""An answer that took more of its frame's time than this counts as slow: one in which a little
more would have gone wrong is missed."""


Unaffordable = Callable[[BackendKind, Iterable[Destination]], str]
"""Why there is no money for a frame to any of some destinations of a backend."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendStatus:
    """One backend in `HybridDetectionService.status()`."""

    kind: BackendKind
    usable: bool
    """Whether a frame may be given to it now."""
    unavailable_reason: str
    """If not usable: why."""
    breaker: str
    """``closed``, ``open`` or ``half_open``; empty if the backend is missing."""
    latency_s: float | None
    """Predicted seconds for one frame; `None` when there is no recent measurement."""
    answered: int
    """Frames it answered."""
    failed: int
    """Frames it was given and could not answer."""
    host: str = ""
    """The host that the next frame would go to; empty for the device, and where it is unknown."""
    runtime: str = ""
    """What runs the device's model, and why that; empty for the other backends."""
    targets: tuple[TargetStatus, ...] = ()
    """How each of its targets stands, those included that it may not ask; empty for the device."""


class ManagedBackend:
    """A backend with its breaker and its latency estimate.

    While the breaker is open, a task asks the backend for a sign of life in growing
    intervals, so that no frame has to be risked to find out that it is back.

    Args:
        backend: The backend.
        clock: Monotonic time in seconds.
        on_change: Called when it becomes usable or unusable, or its breaker changes.
        unaffordable: Why there is no money for a frame to any of some destinations; empty if
            there is.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        clock: Callable[[], float],
        on_change: Callable[[BackendEvent], None] | None = None,
        unaffordable: Unaffordable | None = None,
    ) -> None:
        self.kind = backend.kind
        self._unaffordable = unaffordable
        self.checked = asyncio.Event()
        """Set once the first check has ended, either way."""
        self.settled = asyncio.Event()
        """Set once a check has ended that was not cut short while the backend was starting."""
        self._backend = backend
        self._remote = backend if isinstance(backend, RemoteBackend) else None
        self._clock = clock
        self._on_change = on_change
        self._told: tuple[bool, BreakerState] | None = None
        self._breaker = CircuitBreaker()
        self._latency = LatencyEstimate()
        self._median = WindowedQuantile()
        self._opened = asyncio.Event()
        self._watcher: asyncio.Task[None] | None = None
        self._trouble = ""
        self._trouble_kind: type[Exception] | None = None
        self._running: dict[object, float] = {}
        self._asked_to_wait_until_s = -math.inf
        self._answered = 0
        self._failed = 0

    @property
    def host(self) -> str:
        """The host that the next frame would go to."""
        return self._backend.host

    @property
    def recall_by_height(self) -> Recall | None:
        """The share of the faces that its model finds, by their height; `None` if unknown."""
        return self._backend.recall_by_height

    @property
    def destinations(self) -> tuple[Destination, ...]:
        """Every destination that a frame may go to."""
        return self._backend.destinations

    @property
    def most_pictures(self) -> int:
        """Pictures that one request of it may carry."""
        return 1 if self._remote is None else self._remote.most_pictures

    @property
    def measures_link(self) -> bool:
        """Whether it measures what the link to its host carries."""
        return self._backend.measures_link

    async def start(self) -> None:
        """Start the backend and the watch over it."""
        await self._backend.start()
        self._opened.set()
        self._watcher = asyncio.create_task(self._watch(), name=f"hybrid-detect-watch-{self.kind}")
        self._watcher.add_done_callback(self._report_bug)

    def conditions(self) -> BackendConditions:
        """What a policy may know about this backend now."""
        unavailable_reason = self._unavailable_reason()
        if self._on_change is not None:
            self._tell_change(unavailable_reason)
        return BackendConditions(
            kind=self.kind,
            usable=not unavailable_reason,
            unavailable_reason=unavailable_reason,
            latency_s=self._latency_s(),
            busy_s=self._busy_s(),
            ladder=self._backend.ladder,
        )

    def _tell_change(self, unavailable_reason: str) -> None:
        """Report whether it is usable, if that or its breaker is not as last reported."""
        now = (not unavailable_reason, self._breaker.state)
        if now == self._told or self._on_change is None or not self.checked.is_set():
            return
        self._told = now
        self._on_change(
            BackendEvent(
                at_s=time.time(),
                backend=self.kind,
                host=self.host,
                usable=not unavailable_reason,
                reason=unavailable_reason,
                breaker=self._breaker.state.value,
            )
        )

    def _latency_s(self) -> float | None:
        """Predicted seconds for one frame; `None` if nothing is known."""
        if self.kind is BackendKind.DEVICE:
            # Nothing but its own load moves it, so that an old measurement still holds.
            return self._median.predict()
        return self._latency.predict_s(now_s=self._clock())

    def _busy_s(self) -> float:
        """Seconds until the frames it has are done, if it takes one after the other."""
        if self.kind is not BackendKind.DEVICE or not self._running:
            return 0.0
        usual_s = self._latency_s() or 0.0
        first_s = max(usual_s - (self._clock() - min(self._running.values())), 0.0)
        return first_s + usual_s * (len(self._running) - 1)

    def statuses(self) -> tuple[BackendStatus, ...]:
        """The status of this backend, alone."""
        return (self.status(),)

    def status(self) -> BackendStatus:
        """How the backend stands now, for a person."""
        now = self.conditions()
        return BackendStatus(
            kind=self.kind,
            host=self.host,
            usable=now.usable,
            unavailable_reason=now.unavailable_reason,
            breaker=self._breaker.state.value,
            latency_s=now.latency_s,
            answered=self._answered,
            failed=self._failed,
            runtime=self._backend.runtime,
            targets=() if self._remote is None else self._remote.target_statuses(),
        )

    def _unavailable_reason(self) -> str:
        if self._unaffordable is not None and (
            reason := self._unaffordable(self.kind, self.destinations)
        ):
            return reason
        wait_s = self._asked_to_wait_until_s - self._clock()
        if wait_s > 0:
            return f"the server asks to wait {wait_s:.1f} s"
        if self._breaker.state is BreakerState.CLOSED:
            return self._backend.unavailable_reason
        return self._trouble or self._backend.unavailable_reason or "starting"

    async def detect(self, frame: Frame, plan: Plan, gate: UploadGate) -> DetectionResult:
        """Give the frame to the backend, and learn from its answer or its failure.

        Args:
            frame: The frame.
            plan: The plan, with what is left of the deadline.
            gate: Asked at each hand-over of bytes to a transport.

        Raises:
            BackendError: If it could not answer.
        """
        started_s = self._clock()
        call = object()  # the same frame may be looked at twice at once
        self._running[call] = started_s
        try:
            if self._remote is not None:
                result = await self._remote.detect(frame, plan, gate=gate)
            else:
                result = await self._detect_elsewhere(frame, plan, gate)
        except SupersededError:
            raise  # says nothing about the backend
        except BackendError as error:
            if error is gate.refusal:
                raise  # nor does a frame that may not leave, or that there is no money for
            self._failed += 1
            if isinstance(error, BackendTimeoutError):
                self._latency.observe_at_least(self._clock() - started_s, now_s=self._clock())
            self._on_failure(error)
            raise
        except asyncio.CancelledError:
            # Another backend was faster: this one takes at least so long.
            self._latency.observe_at_least(self._clock() - started_s, now_s=self._clock())
            raise
        finally:
            del self._running[call]
        elapsed_s = self._clock() - started_s
        self._answered += 1
        if self.kind is BackendKind.DEVICE:
            self._median.observe(elapsed_s)
        else:
            self._latency.observe(elapsed_s, now_s=self._clock())
        # Without another backend a slow answer is the best to be had, and from the device it is
        # the last resort.
        has_other = self.kind is not BackendKind.DEVICE and bool(plan.fallbacks or plan.hedge)
        slow = has_other and elapsed_s > SLOW_SHARE * plan.deadline_s
        self._breaker.on_success(now_s=self._clock(), slow=slow)
        if self._breaker.state is BreakerState.OPEN:
            self._trouble, self._trouble_kind = self._breaker.why_open, None
            logger.warning("%s is out: %s", self.kind.value, self._trouble)
            self._opened.set()
            self._tell_change(self._unavailable_reason())
        return result

    async def _detect_elsewhere(
        self, frame: Frame, plan: Plan, gate: UploadGate
    ) -> DetectionResult:
        """Ask a backend that does not tell when it sends: what it did send is recorded for it."""
        if self.kind is BackendKind.DEVICE:
            result = await self._backend.detect(frame, plan)
            gate.span.add_ended("detect", took_s=result.timings.detect_s)
            return result
        for destination in self.destinations:  # it may use any of them
            gate.destination = destination
            gate.require_open()
        request = SentRequest(at_s=time.time(), backend=self.kind.value, target=self.host)
        try:
            result = await self._backend.detect(frame, plan)
        except (
            asyncio.CancelledError,
            BackendTimeoutError,
            BackendResponseError,
            ProtocolError,
        ):
            gate.record(request)  # it has left, or may well have
            raise
        request = replace(request, bytes_sent=result.bytes_sent)
        gate.answered(gate.record(request))
        return result

    def _on_failure(self, error: HybridDetectError) -> None:
        if isinstance(error, BackendError) and error.retry_after_s is not None:
            wait_s = min(error.retry_after_s, CircuitBreaker.LONGEST_WAIT_S)
            self._asked_to_wait_until_s = self._clock() + wait_s
        for_good = error.is_configuration if isinstance(error, BackendError) else True
        was_closed = self._breaker.state is BreakerState.CLOSED
        self._breaker.on_failure(now_s=self._clock(), for_good=for_good)
        if self._breaker.state is not BreakerState.OPEN:
            return
        self._opened.set()
        if was_closed or self._trouble_kind is not type(error):
            # Once for each outage, not once for each number in its message.
            level = logging.ERROR if for_good else logging.WARNING
            logger.log(level, "%s is out: %s", self.kind.value, error)
        self._trouble = str(error)
        self._trouble_kind = type(error)
        self._tell_change(self._unavailable_reason())

    async def _watch(self) -> None:
        """Check the backend whenever its breaker is open and the pause is over."""
        while True:
            await self._opened.wait()
            due_s = max(self._breaker.retry_at_s, self._asked_to_wait_until_s)
            await asyncio.sleep(max(due_s - self._clock(), 0.0))
            self._opened.clear()
            if self._breaker.state is BreakerState.CLOSED:
                continue  # a frame that was still under way has shown that it works
            self._breaker.begin_check()
            was_starting = self._backend.is_starting
            try:
                await self._backend.check(deadline_s=self._backend.check_deadline_s)
            except HybridDetectError as error:
                if isinstance(error, BackendTimeoutError) and was_starting:
                    # It is slow, not broken: the next check waits for the same start.
                    self._trouble = str(error)
                    self._opened.set()
                else:
                    self._on_failure(error)
                    self.settled.set()
            else:
                if self._trouble and self.settled.is_set():
                    logger.warning("%s is back", self.kind.value)
                self._trouble, self._trouble_kind = "", None
                self._breaker.on_success()
                self.settled.set()
            self.checked.set()
            self._tell_change(self._unavailable_reason())

    def recall(self) -> None:
        """Keep what is left here of given-up frames from leaving."""
        self._backend.recall()

    async def aclose(self) -> None:
        """Stop the watch, then the backend."""
        watcher, self._watcher = self._watcher, None
        self.checked.set()  # nothing may wait for it any more
        self.settled.set()
        try:
            if watcher is not None:
                watcher.cancel()
                await asyncio.wait([watcher])
        finally:
            await self._backend.aclose()

    def _report_bug(self, watcher: asyncio.Task[None]) -> None:
        # Only errors of this library are expected in a check; anything else must be seen. With
        # its watch ended the backend stays out, and no frame may wait for it.
        if not watcher.cancelled() and (bug := watcher.exception()) is not None:
            logger.error("%s is out: its check has a bug", self.kind.value, exc_info=bug)
            self._trouble = f"its check has a bug ({type(bug).__name__})"
            self.checked.set()
            self.settled.set()

"""A backend that answers as a test tells it to."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Literal, TypeAlias

from hybrid_detect.backends.base import Backend
from hybrid_detect.errors import (
    BackendError,
    BackendTimeoutError,
    ClosedError,
    ConfigurationError,
)
from hybrid_detect.frames.frame import Frame
from hybrid_detect.types import BackendKind, DetectionResult, Face, Plan, Timings

__all__ = ["FakeBackend", "ScriptStep"]

ScriptStep: TypeAlias = Literal["ok", "hang"] | float | BackendError
"""What happens to one frame: an answer as usual, none before the deadline, an answer after so many
seconds, or an error."""


class FakeBackend(Backend):
    """A backend for tests.

    It keeps every promise of the interface: frames are decoded, the deadline holds, a closed
    backend refuses.

    Args:
        kind: The backend it stands for.
        faces: The faces it sees, or a function from the frame to them.
        latency_s: Seconds it takes; `sleep` is what spends them.
        script: What happens to each frame, in order: ``"ok"``, ``"hang"``, seconds that it takes,
            or an error to raise. When it has ended, frames are answered as usual.
        sleep: Instead of ``asyncio.sleep``, for tests with a clock of their own.

    Attributes:
        error: Raised instead of an answer, by `detect` and `check`, while it is not `None`.
        latency_s: May be changed while running.
        plans: The plan of every frame it was given, in order.

    Raises:
        ConfigurationError: If there is no such kind, the latency is below 0, or the script has a
            step that is none of these.

    Example:
        >>> from hybrid_detect import BackendUnavailableError
        >>> tunnel = BackendUnavailableError("the tunnel")
        >>> server = FakeBackend("streaming", script=["ok", 0.3, tunnel, tunnel, "hang", "ok"])
    """

    def __init__(
        self,
        kind: BackendKind | str = BackendKind.DEVICE,
        *,
        faces: Iterable[Face] | Callable[[Frame], Iterable[Face]] = (),
        latency_s: float = 0.0,
        script: Iterable[ScriptStep] = (),
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.kind = _kind(kind)
        if not latency_s >= 0:
            msg = f"latency_s: expected seconds of at least 0, got {latency_s!r}"
            raise ConfigurationError(msg)
        self._faces = faces if callable(faces) else lambda _frame, seen=tuple(faces): seen
        self.latency_s = latency_s
        self.error: BackendError | None = None
        self.plans: list[Plan] = []
        if isinstance(script, Sequence):  # anything else may have no end
            script = [_checked(step) for step in script]
        self._script = iter(script)
        self._sleep = sleep
        self._closed = False

    async def start(self) -> None:
        """Refuse if it is closed."""
        self._require_open()

    async def check(self, *, deadline_s: float) -> None:
        """Succeed at once, unless `error` is set."""
        self._raise_if_told()

    async def detect(self, frame: Frame, plan: Plan) -> DetectionResult:
        """Answer after `latency_s`, or raise `error`, or do what the script says."""
        self.plans.append(plan)
        self._raise_if_told()
        frame.rgb()
        takes_s = self._next_takes_s()
        try:
            async with asyncio.timeout(plan.deadline_s):
                # The deadline holds on a clock of the test's own as well.
                await self._sleep(min(takes_s, plan.deadline_s))
        except TimeoutError:
            takes_s = math.inf
        if takes_s > plan.deadline_s:
            msg = f"no answer within {plan.deadline_s:.3f} s"
            raise BackendTimeoutError(
                msg, backend=self.kind.value, deadline_s=plan.deadline_s, elapsed_s=plan.deadline_s
            )
        # An error that was set meanwhile fails the frame under way, as a broken link does.
        self._raise_if_told()
        return self.answer(
            frame,
            plan,
            self._faces(frame),
            model="fake",
            timings=Timings(total_s=takes_s, detect_s=takes_s),
        )

    def _next_takes_s(self) -> float:
        """Seconds that the next frame takes, by the script; its error is raised here."""
        step = _checked(next(self._script, "ok"))
        if isinstance(step, BackendError):
            step.backend = self.kind.value
            raise step.with_traceback(None)
        if isinstance(step, str):
            return self.latency_s if step == "ok" else math.inf
        return step

    def _raise_if_told(self) -> None:
        self._require_open()
        if self.error is not None:
            self.error.backend = self.kind.value
            raise self.error.with_traceback(None)

    def _require_open(self) -> None:
        if self._closed:
            msg = f"the {self.kind.value} backend is closed: make a new one"
            raise ClosedError(msg)

    async def aclose(self) -> None:
        """Refuse from now on."""
        self._closed = True


def _kind(kind: BackendKind | str) -> BackendKind:
    try:
        return BackendKind(kind)
    except ValueError:
        known = ", ".join(known.value for known in BackendKind)
        msg = f"kind: expected one of {known}, got {kind!r}"
        raise ConfigurationError(msg) from None


def _checked(step: ScriptStep) -> ScriptStep:
    if (
        isinstance(step, BackendError)
        or step in ("ok", "hang")
        or (isinstance(step, int | float) and step >= 0)
    ):
        return step
    msg = f"script: expected 'ok', 'hang', seconds or a BackendError, got {step!r}"
    raise ConfigurationError(msg)

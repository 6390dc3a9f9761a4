"""A backend that answers as a test tells it to."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from hybrid_detect.backends.base import Backend
from hybrid_detect.errors import BackendError, BackendTimeoutError, ClosedError
from hybrid_detect.frames.frame import Frame
from hybrid_detect.types import BackendKind, DetectionResult, Face, Plan, Timings

__all__ = ["FakeBackend"]


class FakeBackend(Backend):
    """A backend for tests.

    It keeps every promise of the interface: frames are decoded, the deadline holds, a closed
    backend refuses.

    Args:
        kind: The backend it stands for.
        faces: The faces it sees, or a function from the frame to them.
        latency_s: Seconds it takes; `sleep` is what spends them.
        sleep: Instead of ``asyncio.sleep``, for tests with a clock of their own.

    Attributes:
        error: Raised instead of an answer, by `detect` and `check`, while it is not `None`.
        latency_s: May be changed while running.
        plans: The plan of every frame it was given, in order.
    """

    def __init__(
        self,
        kind: BackendKind | str = BackendKind.DEVICE,
        *,
        faces: Iterable[Face] | Callable[[Frame], Iterable[Face]] = (),
        latency_s: float = 0.0,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.kind = BackendKind(kind)
        self._faces = faces if callable(faces) else lambda _frame, seen=tuple(faces): seen
        self.latency_s = latency_s
        self.error: BackendError | None = None
        self.plans: list[Plan] = []
        self._sleep = sleep
        self._closed = False

    async def check(self, *, deadline_s: float) -> None:
        """Succeed at once, unless `error` is set."""
        self._raise_if_told()

    async def detect(self, frame: Frame, plan: Plan) -> DetectionResult:
        """Answer after `latency_s`, or raise `error`."""
        self.plans.append(plan)
        self._raise_if_told()
        frame.rgb()
        try:
            async with asyncio.timeout(plan.deadline_s):
                await self._sleep(self.latency_s)
        except TimeoutError:
            msg = f"no answer within {plan.deadline_s:.3f} s"
            raise BackendTimeoutError(
                msg, backend=self.kind.value, deadline_s=plan.deadline_s, elapsed_s=plan.deadline_s
            ) from None
        # An error that was set meanwhile fails the frame under way, as a broken link does.
        self._raise_if_told()
        return self.answer(
            frame,
            plan,
            self._faces(frame),
            model="fake",
            timings=Timings(total_s=self.latency_s, detect_s=self.latency_s),
        )

    def _raise_if_told(self) -> None:
        if self._closed:
            msg = f"the {self.kind.value} backend is closed"
            raise ClosedError(msg)
        if self.error is not None:
            self.error.backend = self.kind.value
            raise self.error.with_traceback(None)

    async def aclose(self) -> None:
        """Refuse from now on."""
        self._closed = True

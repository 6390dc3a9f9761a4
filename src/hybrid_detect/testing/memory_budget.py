"""Memory budgets: call something many times and measure what the process came to hold.

::

    warm-up, rest, warm-up -> baseline, rest -> call, read, call, read, ... -> rest
                                 |        |           |                         |
                                 +--------|--- peak --+                         |
                                          +------------------- growth ----------+

What counts is private anonymous memory: the heap of Python and of every native library, and what
is mapped without a file. Pages of files (libraries, models, the page cache) come and go as the
kernel likes, so resident memory as a whole (RSS) would make a test fail by chance.
How it is read: see `memory_meter`.

At rest, garbage has been collected and the allocator has given its free memory back (glibc's
``malloc_trim``, macOS's ``malloc_zone_pressure_relief``). The rest halfway through the warm-up
takes away what earlier tests freed and the allocator kept, where a leak could hide; the other half
brings back what the calls themselves work with, so that the baseline has it. In between, garbage
collection runs as it does in the app: cyclic garbage that waits for it counts towards the peak, not
as growth. Free memory that the allocator keeps is given back each time that it may have come to a
quarter of the budget: on a heap that earlier tests left in pieces, calls that hold nothing touch
one page after another.

`MemoryBudget` needs no pytest; `pytest_plugin` brings it there.
"""

from __future__ import annotations

import gc
import inspect
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, ClassVar, Self

from hybrid_detect.errors import ConfigurationError
from hybrid_detect.testing.memory_meter import (
    MemoryMeter,
    MemoryRecorder,
    give_free_memory_back,
    heap_in_use,
)
from hybrid_detect.testing.memory_report import MB, MemoryReport, parse_size, slope

__all__ = ["DEFAULT_FRAMES", "DEFAULT_WARM_UP", "MemoryBudget", "MemoryBudgetError"]

DEFAULT_FRAMES = 1000
"""Enough that 10 KB lost a call are 10 MB."""

DEFAULT_WARM_UP = 50
"""By then pools, caches and the allocator's free lists of a client have settled."""

KEPT_SHARE = 0.25
"""So much of the budget the level may rise before the allocator is asked for what is free of it."""

STOP_RATIO = 3
STOP_MARGIN_BYTES = 16 * MB
"""Above three budgets and this margin there is nothing left to find out but an empty machine."""


class MemoryBudgetError(AssertionError):
    """More memory was held than the budget allows."""

    report: MemoryReport | None
    """What was measured."""

    def __init__(self, message: str = "", *, report: MemoryReport | None = None) -> None:
        super().__init__(message)
        self.report = report


class MemoryBudget:
    """A budget for what calls may come to hold above a warmed-up baseline.

    Use `run` (or `run_async`), or a loop of your own::

        with MemoryBudget("10 MB") as budget:
            for image in images:
                look_at(image)
                budget.sample()

    Args:
        limit: The most that may be held above the baseline at any moment: ``"10 MB"``,
            ``"10 MiB"`` or bytes.
        frames: Calls to measure.
        warm_up: Calls (or samples) before the baseline is taken.
        children: Whether processes below this one count as well. Theirs are read between calls,
            at most every 20 ms; pages shared after a fork count once.
        control: Makes the test's own allocations only. It runs first, as often, and what it comes
            to hold is subtracted.

    Attributes:
        report: What was measured last; `None` before.

    Raises:
        ConfigurationError: If an argument is outside its range.
    """

    def __init__(
        self,
        limit: str | int,
        *,
        frames: int = DEFAULT_FRAMES,
        warm_up: int = DEFAULT_WARM_UP,
        children: bool = False,
        control: Callable[..., object] | None = None,
    ) -> None:
        self.limit_bytes = parse_size(limit)
        for name, value, least in (("frames", frames, 1), ("warm_up", warm_up, 0)):
            if not isinstance(value, int) or value < least:
                msg = f"{name}: expected a whole number of at least {least}, got {value!r}"
                raise ConfigurationError(msg)
        if control is not None and not callable(control):
            msg = f"control: expected something to call, got {control!r}"
            raise ConfigurationError(msg)
        self.frames = frames
        self.warm_up = warm_up
        self.children = children
        self.control = control
        self.report: MemoryReport | None = None
        self._control_report: MemoryReport | None = None
        self._watch: _Watch | None = None

    def run(self, call: Callable[..., object]) -> MemoryReport:
        """Call `call` `warm_up` + `frames` times, the control before it, and judge.

        Args:
            call: Called with the number of the call, from 0, if it takes an argument that has no
                default; else without.

        Raises:
            MemoryBudgetError: If the peak or the growth is above the limit. Far above it, at once.
            ConfigurationError: If `call` is asynchronous (``await run_async(call)`` instead), or
                inside another budget.
        """
        __tracebackhide__ = True
        own = self._measured_control()
        with _Watch(self, own) as watch:
            self._repeat(call, watch)
        return self._judge(watch.end())

    async def run_async(self, call: Callable[..., Awaitable[object]]) -> MemoryReport:
        """`run` for a function whose every call is awaited, on the event loop that is running.

        The control may be of either kind.
        """
        __tracebackhide__ = True
        own = None
        if self.control is not None:
            with _Watch(self, is_control=True) as watch:
                await self._repeat_async(self.control, watch)
            own = watch.end()
        with _Watch(self, own) as watch:
            await self._repeat_async(call, watch)
        return self._judge(watch.end())

    def _measured_control(self) -> MemoryReport | None:
        __tracebackhide__ = True
        if self.control is None:
            return None
        with _Watch(self, is_control=True) as watch:
            self._repeat(self.control, watch)
        return watch.end()

    def _repeat(self, call: Callable[..., object], watch: _Watch) -> None:
        __tracebackhide__ = True
        give = _numbered(call)
        for number in range(self.warm_up + self.frames):
            outcome = give(number)
            if inspect.isawaitable(outcome):
                if inspect.iscoroutine(outcome):
                    outcome.close()
                what = "control" if watch.is_control else "call"
                msg = f"an asynchronous {what} is for 'await budget.run_async(call)'"
                raise ConfigurationError(msg)
            del outcome  # else each result would live until the next one replaces it
            if not watch.step():
                break

    async def _repeat_async(self, call: Callable[..., object], watch: _Watch) -> None:
        __tracebackhide__ = True
        give = _numbered(call)
        for number in range(self.warm_up + self.frames):
            outcome = give(number)
            if inspect.isawaitable(outcome):
                await outcome
            del outcome
            if not watch.step():
                break

    def __enter__(self) -> Self:
        own = self._measured_control()
        self._watch = _Watch(self, own).__enter__()
        return self

    def sample(self) -> None:
        """Read the memory, after each turn of a loop of your own.

        Raises:
            MemoryBudgetError: If it is far above the limit.
            ConfigurationError: Outside the ``with`` block.
        """
        __tracebackhide__ = True
        if self._watch is None:
            msg = "sample() is for the inside of 'with budget:'"
            raise ConfigurationError(msg)
        if not self._watch.step():
            self._judge(self._watch.end())

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        __tracebackhide__ = True
        watch, self._watch = self._watch, None
        if watch is None:
            return
        watch.__exit__(exc_type, exc, traceback)
        if exc_type is not None:
            return
        if not watch.recorder.calls:
            msg = (
                f"expected more than the warm-up's {self.warm_up} calls of sample(), "
                f"got {watch.calls}"
            )
            raise ConfigurationError(msg)
        self._judge(watch.end())

    def _judge(self, report: MemoryReport) -> MemoryReport:
        __tracebackhide__ = True
        self.report = report
        if not report.passed:
            raise MemoryBudgetError(str(report), report=report)
        return report


class _Watch:
    """One run under a budget: warm-up, baseline, readings, end.

    One at a time in a process: it has one high-water mark, and each would reset the other's.
    """

    _is_held: ClassVar[bool] = False

    def __init__(
        self, budget: MemoryBudget, own: MemoryReport | None = None, *, is_control: bool = False
    ) -> None:
        self.is_control = is_control
        self._budget = budget
        self._own = own
        self._meter = MemoryMeter(children=budget.children)
        self.recorder = MemoryRecorder(self._meter.read)
        self.calls = 0
        self._baseline = 0
        self._stopped = False
        most = budget.limit_bytes + (max(own.peak_bytes, 0) if own else 0)
        self._stop_at = STOP_RATIO * most + STOP_MARGIN_BYTES
        self._may_keep = KEPT_SHARE * budget.limit_bytes
        self._give_back_at = 0.0
        self._resting: tuple[int, ...] = ()
        self._in_use = (0, 0)

    def __enter__(self) -> Self:
        if _Watch._is_held:
            msg = "a memory budget cannot be measured inside another one"
            raise ConfigurationError(msg)
        self._reach(0)
        _Watch._is_held = True
        return self

    def __exit__(self, *exc_info: object) -> None:
        _Watch._is_held = False

    def _reach(self, calls: int) -> None:
        if calls == self._budget.warm_up // 2:
            self._rest()
        if calls == self._budget.warm_up:
            gc.collect()
            self._baseline = self._meter.start()
            self._give_back_at = self._baseline + self._may_keep
            self._resting = self._rest()
            self._in_use = heap_in_use()

    def _rest(self) -> tuple[int, ...]:
        gc.collect()
        give_free_memory_back()
        return self._meter.at_rest()

    def step(self) -> bool:
        """Take note of one more call; whether it is worth going on."""
        self.calls += 1
        if self.calls <= self._budget.warm_up:
            self._reach(self.calls)
            return True
        peak = self.recorder.record()
        if self.recorder.level > self._give_back_at:
            give_free_memory_back()
            self._give_back_at = self._meter.read()[0] + self._may_keep
        self._stopped = not self.is_control and peak - self._baseline > self._stop_at
        return not self._stopped

    def end(self) -> MemoryReport:
        """Come to rest, read a last time, and report."""
        growth = max(now - then for now, then in zip(self._rest(), self._resting, strict=True))
        in_use = (now - then for now, then in zip(heap_in_use(), self._in_use, strict=True))
        growth = max(growth, min(in_use))
        recorder, base, own = self.recorder, self._baseline, self._own
        recorder.finish()
        levels = [(0, 0), *((call, level - base) for call, level, _ in recorder.points)]
        curve = [(0, 0), *((call, peak - base) for call, _, peak in recorder.points)]
        rise = slope(levels[1:]) * 1000
        return MemoryReport(
            limit_bytes=self._budget.limit_bytes,
            calls=recorder.calls,
            warm_up=self._budget.warm_up,
            baseline_bytes=base,
            peak_bytes=recorder.highest - base - (max(own.peak_bytes, 0) if own else 0),
            peak_call=recorder.highest_at,
            growth_bytes=growth - (max(own.growth_bytes, 0) if own else 0),
            slope_bytes_per_1000=rise - (max(own.slope_bytes_per_1000, 0) if own else 0),
            curve=tuple(curve),
            levels=tuple(levels),
            highest_level_bytes=recorder.highest_level - base,
            stopped_early=self._stopped,
            measured=self._meter.description,
            control=own,
        )


def _numbered(call: Callable[..., object]) -> Callable[[int], Any]:
    """`call` as a function of the call's number, which it gets only if it asks for one."""
    try:
        parameters = inspect.signature(call).parameters.values()
    except (TypeError, ValueError):  # some builtins do not tell
        parameters = {}.values()
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if any(each.kind in positional and each.default is each.empty for each in parameters):
        return call

    def without_number(_: int) -> Any:
        __tracebackhide__ = True
        return call()

    return without_number

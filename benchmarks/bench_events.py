"""What events cost a frame: without a hook, with the monitor, and with the hooks that write.

A service with a backend that answers at once is asked in turns, with another set of hooks each
time, so that the machine's moods fall on all of them alike. A frame's own time varies more than an
event costs, so the making and the telling are timed on their own as well.

    python benchmarks/bench_events.py [ROUNDS]
"""

import asyncio
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hybrid_detect import (
    BackendProcessingMonitor,
    BoundingBox,
    CostMeter,
    DetectionResult,
    DetectionStatus,
    Face,
    HybridDetectionService,
    JsonLinesHook,
    LoggingHook,
    SentRequest,
)
from hybrid_detect.monitoring.events import frame_event
from hybrid_detect.monitoring.hooks import Dispatcher
from hybrid_detect.testing import FakeBackend
from hybrid_detect.types import BackendKind

ROUNDS = 40
BATCH = 50
"""Calls timed together: one event takes microseconds, which a clock's own noise would hide."""

FACE = Face(BoundingBox(100.0, 100.0, 200.0, 200.0), 0.9)
RESULT = DetectionResult(
    status=DetectionStatus.OK, width=1280, height=720, faces=(FACE,), backend=BackendKind.DEVICE
)

REQUESTS = (
    SentRequest(
        at_s=time.time(), backend="cloud", target="a", provider="google", price_nanos=1_500_000
    ),
)


def told(hooks: list[Any]) -> Callable[[], None]:
    """One frame's event made and told to `hooks`, as the service does it."""
    dispatcher = Dispatcher(hooks)

    def tell() -> None:
        if dispatcher.wants_frames:
            event = frame_event(RESULT, at_s=time.time(), total_s=0.05, requests=REQUESTS)
            dispatcher.frame(event)

    return tell


def medians_us(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            started_s = time.perf_counter()
            for _ in range(BATCH):
                call()
            taken[name].append((time.perf_counter() - started_s) / BATCH * 1e6)
    return {name: statistics.median(values) for name, values in taken.items()}


async def frames_us(sets: dict[str, list[Any]], rounds: int) -> dict[str, float]:
    """Median microseconds of a whole frame with each set of hooks, asked in turns."""
    image = np.zeros((48, 64, 3), np.uint8)
    taken: dict[str, list[float]] = {name: [] for name in sets}
    services = {
        name: HybridDetectionService(backends=[FakeBackend("device")], hooks=hooks)
        for name, hooks in sets.items()
    }
    for service in services.values():
        await service.__aenter__()
    for _ in range(rounds):
        for name, service in services.items():
            started_s = time.perf_counter()
            for _ in range(BATCH):
                await service.process_image(image)
            taken[name].append((time.perf_counter() - started_s) / BATCH * 1e6)
    for service in services.values():
        await service.aclose()
    return {name: statistics.median(values) for name, values in taken.items()}


def show(title: str, found: dict[str, float]) -> None:
    base = next(iter(found.values()))
    print(f"\n{title}\n{'':34}{'us':>9}  more than the first")
    for name, value in found.items():
        print(f"{name:34}{value:9.2f}  {value - base:8.2f}")


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    quiet = logging.getLogger("bench")
    quiet.propagate = False
    with tempfile.TemporaryDirectory() as folder, JsonLinesHook(Path(folder) / "e.jsonl") as lines:
        sets: dict[str, list[Any]] = {
            "no hook": [],
            "the monitor": [BackendProcessingMonitor()],
            "the cost meter": [CostMeter()],
            "logging, below its level": [LoggingHook(quiet)],
            "monitor, logging and JSON lines": [
                BackendProcessingMonitor(),
                LoggingHook(quiet),
                lines,
            ],
        }
        show(
            "making and telling one event",
            medians_us({n: told(h) for n, h in sets.items()}, rounds),
        )
        show("a whole frame, backend free", asyncio.run(frames_us(sets, rounds)))


if __name__ == "__main__":
    main()

"""What a replica is doing, measured where it detects: pictures under way, latency, refusals."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Awaitable, Callable

from hybrid_detect.exchange.wire import DetectRequest
from hybrid_detect.server.admission import OverloadedError
from hybrid_detect.server.cluster.scaling import Load
from hybrid_detect.server.detectors import Detection, Detector
from hybrid_detect.server.served_worker import IsAbandoned

__all__ = ["LoadMeter"]

WINDOW_S = 10.0
"""Seconds that latencies and refusals count for: two of Ray Serve's looks, and no longer, so that a
burst that is over starts no replica."""

MAX_SAMPLES = 1024
"""Enough for a percentile of any rate a replica has."""

PERCENTILE = 0.9


class LoadMeter:
    """Measures what a replica is doing.

    Args:
        clock: Seconds that only grow.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._under_way = self._streams = 0
        self._counted_s = 0.0  # picture-seconds under way since the last look
        self._changed_s = self._looked_s = clock()
        self._answers: deque[tuple[float, float, float]] = deque(maxlen=MAX_SAMPLES)
        self._refusals: deque[float] = deque(maxlen=MAX_SAMPLES)

    def watch(self, detector: Detector) -> Detector:
        """`detector`, of which every picture is measured from now on."""
        return _WatchedDetector(detector, self)

    def count_streams(self, by: int) -> None:
        """Count streams that were opened, or ended if `by` is negative."""
        self._streams += by

    async def measured(self, detecting: Awaitable[Detection]) -> Detection:
        """What `detecting` finds; how long that takes is noted."""
        began_s = self._clock()
        self._change(1)
        try:
            found = await detecting
        except OverloadedError:
            self._refusals.append(self._clock())
            raise
        finally:
            self._change(-1)
        now_s = self._clock()
        self._answers.append((now_s, now_s - began_s, found.queue_s))
        return found

    def load(self) -> Load:
        """What it is doing: `work` on average since the last call, the rest of `WINDOW_S`."""
        self._change(0)
        now_s = self._clock()
        past_s = now_s - self._looked_s
        work = self._counted_s / past_s if past_s > 0 else float(self._under_way)
        self._counted_s, self._looked_s = 0.0, now_s
        while self._answers and self._answers[0][0] < now_s - WINDOW_S:
            self._answers.popleft()
        while self._refusals and self._refusals[0] < now_s - WINDOW_S:
            self._refusals.popleft()
        return Load(
            work=work,
            streams=float(self._streams),
            latency_s=_percentile([latency_s for _, latency_s, _ in self._answers]),
            wait_s=_percentile([wait_s for _, _, wait_s in self._answers]),
            refused=len(self._refusals) / WINDOW_S,
        )

    def _change(self, by: int) -> None:
        now_s = self._clock()
        self._counted_s += self._under_way * (now_s - self._changed_s)
        self._changed_s = now_s
        self._under_way += by


class _WatchedDetector:
    """A detector whose pictures are measured: those of requests, batches and streams alike."""

    def __init__(self, detector: Detector, meter: LoadMeter) -> None:
        self._detector = detector
        self._meter = meter
        self.model = detector.model
        self.info = detector.info

    async def start(self) -> None:
        await self._detector.start()
        self.model, self.info = self._detector.model, self._detector.info

    async def detect(
        self, request: DetectRequest, *, caller: str = "", is_abandoned: IsAbandoned | None = None
    ) -> Detection:
        return await self._meter.measured(
            self._detector.detect(request, caller=caller, is_abandoned=is_abandoned)
        )

    async def aclose(self) -> None:
        await self._detector.aclose()


def _percentile(values: list[float]) -> float:
    if not values:
        return 0.0
    return sorted(values)[min(int(len(values) * PERCENTILE), len(values) - 1)]

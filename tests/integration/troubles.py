"""A camera, a service that chooses, and a server behind a network with troubles to switch on.

The client, the server's app and the sockets are real; the detectors on both ends are not. Used by
`test_choosing.py` and `benchmarks/bench_faults.py`.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from hybrid_detect.backends.remote.cloud import CloudDetectionService
from hybrid_detect.backends.remote.streaming import StreamingService
from hybrid_detect.config import ServiceConfig
from hybrid_detect.exchange.wire import DetectRequest
from hybrid_detect.server.detectors import Detection
from hybrid_detect.server.rate_limit import RateLimiter
from hybrid_detect.service.hybrid import HybridDetectionService, Traffic
from hybrid_detect.testing import FakeBackend, FaultyLink
from hybrid_detect.types import BackendKind, DetectionResult

from ..server.loopback import OneFace, served

FPS = 10
DEADLINE_S = 1.0
ON_TIME_S = 0.2
DEVICE_S = 0.01
SERVER_S = 0.035
"""Median of the reference server, `docs/explanation/choosing.md`."""
SLOWER = 10
RETRY_AFTER_S = 2.0
DELAY_S = 0.01
"""Each way: a round trip of 20 ms."""
LINK_BYTES_PER_S = 1_600_000
"""13 Mbit/s, each way."""


class Detector(OneFace):
    """Looks at one picture after the other, each for `takes_s`; has a bug while `broken`."""

    def __init__(self) -> None:
        super().__init__()
        self.takes_s = SERVER_S
        self.broken = False
        self._turn = asyncio.Lock()

    async def detect(
        self,
        request: DetectRequest,
        *,
        caller: str = "",
        is_abandoned: Callable[[], Awaitable[bool]] | None = None,
    ) -> Detection:
        loop = asyncio.get_running_loop()
        came_s = loop.time()
        async with self._turn:
            began_s = loop.time()
            await asyncio.sleep(self.takes_s)
            if self.broken:
                raise RuntimeError("the detector has a bug")
            return Detection(
                width=1280,
                height=720,
                faces=(),
                queue_s=began_s - came_s,
                detect_s=loop.time() - began_s,
            )


@dataclass
class World:
    """What can go wrong between a client and its server."""

    link: FaultyLink
    detector: Detector

    @property
    def url(self) -> str:
        """By name, so that the name has to be resolved."""
        return f"http://localhost:{urlsplit(self.link.url).port}"

    @contextmanager
    def no_trouble(self) -> Iterator[None]:
        yield

    @contextmanager
    def black_hole(self) -> Iterator[None]:
        """Nothing passes, nothing is said."""
        self.link.stall()
        try:
            yield
        finally:
            self.link.resume()

    @contextmanager
    def refused(self) -> Iterator[None]:
        """Connections are reset, the ones that stand as well."""
        self.link.refuse = True
        self.link.cut()
        try:
            yield
        finally:
            self.link.refuse = False

    @contextmanager
    def no_name(self) -> Iterator[None]:
        """The connections are gone and the server's name is not found."""

        def unknown(*_args: Any, **_options: Any) -> Any:
            raise socket.gaierror(socket.EAI_AGAIN, "temporary failure in name resolution")

        self.link.cut()
        with mock.patch.object(socket, "getaddrinfo", unknown):
            yield

    @contextmanager
    def slow_server(self) -> Iterator[None]:
        """Each picture takes ten times as long."""
        self.detector.takes_s = SERVER_S * SLOWER
        try:
            yield
        finally:
            self.detector.takes_s = SERVER_S

    @contextmanager
    def server_bug(self) -> Iterator[None]:
        """Each picture gets a 500."""
        self.detector.broken = True
        try:
            yield
        finally:
            self.detector.broken = False

    @contextmanager
    def too_many(self) -> Iterator[None]:
        """Each picture gets a 429 with a Retry-After."""
        with mock.patch.object(RateLimiter, "take", return_value=RETRY_AFTER_S):
            yield


Trouble = Callable[[World], AbstractContextManager[None]]

TROUBLES: dict[str, Trouble] = {
    "none": World.no_trouble,
    "black hole": World.black_hole,
    "refused": World.refused,
    "no name": World.no_name,
    "slow server": World.slow_server,
    "server bug": World.server_bug,
    "too many requests": World.too_many,
}


@asynccontextmanager
async def world() -> AsyncIterator[World]:
    """A server behind a network without troubles yet."""
    detector = Detector()
    async with (
        served(detector=detector) as server,
        FaultyLink(f"http://127.0.0.1:{server.port}") as link,
    ):
        link.delay_s, link.bytes_per_s = DELAY_S, LINK_BYTES_PER_S
        yield World(link, detector)


@dataclass(frozen=True)
class Seen:
    """One frame: when its result was there, and the result."""

    at_s: float
    result: DetectionResult


@dataclass(frozen=True)
class Run:
    """What a camera's user saw."""

    seen: tuple[Seen, ...]
    began_s: float
    ended_s: float
    faults: tuple[tuple[float, float], ...]
    traffic: Traffic

    def answered(self, within_s: float = DEADLINE_S, *, during_faults: bool = False) -> float:
        """Share of the frames taken that were answered in time, age since capture included."""
        chosen = [
            each.result
            for each in self.seen
            if not during_faults
            or any(start <= each.at_s - each.result.age_s < end for start, end in self.faults)
        ]
        good = [result for result in chosen if result.answered and result.age_s <= within_s]
        return len(good) / len(chosen) if chosen else math.nan

    @property
    def fps(self) -> float:
        return len(self.seen) / (self.ended_s - self.began_s)

    @property
    def backends(self) -> list[BackendKind]:
        return [each.result.backend for each in self.seen if each.result.backend is not None]

    @property
    def on_device(self) -> float:
        """Share of the device's answers among those to frames of the faults' second halves."""
        late = [
            each.result.backend
            for each in self.seen
            for start, end in self.faults
            if (start + end) / 2 <= each.at_s - each.result.age_s < end
        ]
        return late.count(BackendKind.DEVICE) / len(late) if late else math.nan

    @property
    def switches(self) -> int:
        """Changes between the device and the server, either way."""
        on_device = [kind is BackendKind.DEVICE for kind in self.backends]
        return sum(before != after for before, after in itertools.pairwise(on_device))

    @property
    def recovery_s(self) -> float:
        """From the end of the last fault to the first answer of the server; infinite if none."""
        if not self.faults:
            return 0.0
        end_s = self.faults[-1][1]
        back = [
            each.at_s - end_s
            for each in self.seen
            if each.at_s >= end_s and each.result.backend not in {None, BackendKind.DEVICE}
        ]
        return min(back, default=math.inf)

    @property
    def figures(self) -> str:
        minutes = (self.ended_s - self.began_s) / 60
        unanswered = [each.result.reason for each in self.seen if not each.result.answered]
        return (
            f"{len(self.seen)} frames at {self.fps:.1f} fps, answered {self.answered():.1%} in 1 s "
            f"({self.answered(during_faults=True):.1%} during the fault), "
            f"{self.answered(ON_TIME_S):.1%} in 200 ms, {self.switches} switches "
            f"({self.switches / minutes:.0f} a minute), back after {self.recovery_s:.2f} s, "
            f"{self.traffic.sent_bytes / 1e3:.0f} KB sent, {self.traffic.wasted_bytes / 1e3:.0f} "
            f"wasted, {self.traffic.probe_bytes / 1e3:.0f} probing, unanswered: {unanswered[:3]}"
        )


def picture() -> np.ndarray:
    """1280x720 of soft noise: 120 KB as a JPEG of quality 80, a little more than usual."""
    coarse = np.random.default_rng(5).integers(0, 255, (36, 64, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((1280, 720), Image.Resampling.BICUBIC))


async def watch(
    fault: Trouble,
    *,
    before_s: float,
    fault_s: float,
    after_s: float,
    flaps: int = 1,
    calm_s: float = 0.0,
    stop_when_back: bool = False,
) -> Run:
    """Watch a camera of 30 fps through a service that looks at 10 of them.

    Args:
        fault: What goes wrong.
        before_s: Seconds without trouble at first; measured from the first answer of the server.
        fault_s: How long it goes wrong.
        after_s: Seconds without trouble in the end.
        flaps: How often it goes wrong, with `calm_s` in between.
        calm_s: Seconds between two faults.
        stop_when_back: Whether to end when the server has answered five frames again.
    """
    image = picture()
    loop = asyncio.get_running_loop()
    done = asyncio.Event()
    seen: list[Seen] = []
    faults: list[tuple[float, float]] = []

    async def camera() -> AsyncIterator[np.ndarray]:
        began_s = loop.time()
        for number in itertools.count():
            if done.is_set():
                return
            yield image
            await asyncio.sleep(max(began_s + (number + 1) / 30 - loop.time(), 0.0))

    async with world() as place:
        device = FakeBackend(BackendKind.DEVICE, latency_s=DEVICE_S)
        url = place.url
        service = HybridDetectionService(
            config=ServiceConfig(endpoint=url, mode="auto", deadline_s=DEADLINE_S),
            backends=[
                CloudDetectionService(endpoint=url),
                StreamingService(endpoint=url),
                device,
            ],
        )

        def is_back(since_s: float, frames: int) -> bool:
            last = [each for each in seen if each.at_s >= since_s][-frames:]
            return len(last) == frames and all(
                each.result.backend not in {None, BackendKind.DEVICE} for each in last
            )

        async def trouble() -> None:
            try:
                while not is_back(0.0, 3):
                    await asyncio.sleep(0.02)
                await asyncio.sleep(before_s)
                for number in range(flaps):
                    if number:
                        await asyncio.sleep(calm_s)
                    start_s = loop.time()
                    with fault(place):
                        await asyncio.sleep(fault_s)
                    faults.append((start_s, loop.time()))
                end_s = loop.time()
                while loop.time() < end_s + after_s:
                    await asyncio.sleep(0.02)
                    if stop_when_back and is_back(end_s, 5):
                        break
            finally:
                done.set()

        async with service:
            await service.wait_ready()
            began_s = loop.time()
            troubling = asyncio.create_task(trouble())
            try:
                async for result in service.start_detection(
                    camera(), max_fps=FPS, intent="freshest"
                ):
                    seen.append(Seen(loop.time(), result))  # noqa: PERF401 - watched as it grows
            finally:
                done.set()
                troubling.cancel()
                await asyncio.gather(troubling, return_exceptions=True)
            return Run(tuple(seen), began_s, loop.time(), tuple(faults), service.status().traffic)

"""All backends look at the same pictures, in turns: what `bench backends` measures."""

from __future__ import annotations

import asyncio
import itertools
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from hybrid_detect.charges import money
from hybrid_detect.config import ServiceConfig
from hybrid_detect.errors import AllBackendsFailedError, HybridDetectError
from hybrid_detect.monitoring.events import FrameEvent
from hybrid_detect.service.hybrid import HybridDetectionService
from hybrid_detect.system.memory_probe import child_pids, process_anonymous_bytes
from hybrid_detect.testing.fakes import FakeBackend
from hybrid_detect.types import BackendKind, DetectionMode

__all__ = ["CONTROL", "LOOK_LIMIT_S", "Image", "Trial", "run_trials"]

Image = NDArray[np.uint8]

CONTROL = "control"
"""The name of a backend that answers at once: what this machine and the library themselves take."""

MODES = {
    BackendKind.CLOUD: DetectionMode.CLOUD,
    BackendKind.STREAMING: DetectionMode.STREAMING,
    BackendKind.DEVICE: DetectionMode.ON_DEVICE,
}

LOOK_LIMIT_S = 10.0
"""What a look may take at most: late answers are measured, rather than given up."""


@dataclass(slots=True)
class Trial:
    """What one backend did."""

    name: str
    """A value of `BackendKind`, or `CONTROL`."""
    unusable: str = ""
    """Why it cannot be used; empty if it can."""
    took_s: list[float] = field(default_factory=list)
    """Seconds of every look; infinite for one without an answer."""
    faces_of: dict[int, int] = field(default_factory=dict)
    """Faces by the number of their picture."""
    bytes_sent: int = 0
    nanos: Counter[str] = field(default_factory=Counter)
    """What was spent, in billionths, by currency."""
    memory_bytes: int = 0
    """What this process and its children came to hold by opening it and by its first look."""
    error: str = ""
    """What the last look without an answer raised."""

    def on_frame(self, event: FrameEvent) -> None:
        """Count what left the device, failed attempts included."""
        self.bytes_sent += event.bytes_sent
        for request in event.requests:
            self.nanos[request.currency] += request.price_nanos

    def quantile_s(self, share: float) -> float:
        """The seconds that so great a share of the looks took at most; nearest rank."""
        ranked = sorted(self.took_s)
        return ranked[max(math.ceil(share * len(ranked)) - 1, 0)] if ranked else math.inf

    def share_within(self, deadline_s: float) -> float:
        """The share of the looks that were answered within so many seconds."""
        return sum(s <= deadline_s for s in self.took_s) / max(len(self.took_s), 1)

    @property
    def answered(self) -> int:
        """How many looks were answered."""
        return sum(map(math.isfinite, self.took_s))

    @property
    def faces(self) -> int:
        """Faces in all pictures, each picture counted once."""
        return sum(self.faces_of.values())

    @property
    def bytes_per_look(self) -> float:
        """Bytes that left the device for a look, on average."""
        return self.bytes_sent / max(len(self.took_s), 1)

    @property
    def cost_of_1000(self) -> str:
        """What a thousand looks cost; empty if they are free."""
        looks = max(len(self.took_s), 1)
        return " + ".join(
            money(round(nanos * 1000 / looks), currency)
            for currency, nanos in sorted(self.nanos.items())
            if nanos
        )


async def run_trials(
    config: ServiceConfig,
    pictures: Sequence[Callable[[], Image]],
    *,
    looks: int,
    seconds: float,
    show: Callable[[int, int], None],
) -> list[Trial]:
    """Let every backend look at the pictures, one after the other, each round in another order.

    In turns, so that a network or a machine that changes meanwhile changes for all of them.

    Args:
        config: Of the service; its mode and deadline are not used.
        pictures: They are decoded when their turn comes, before the time is taken.
        looks: Of each backend, at most. Each may cost money.
        seconds: After which no round begins.
        show: Told how many rounds are done, and of how many.
    """
    trials = [Trial(CONTROL), *(Trial(kind.value) for kind in MODES)]
    in_use: list[tuple[Trial, HybridDetectionService]] = []
    first = await asyncio.to_thread(pictures[0])
    async with AsyncExitStack() as stack:
        for trial in trials:
            service = await _opened(trial, config, first, stack)
            if service is not None:
                in_use.append((trial, service))
        if len(in_use) == 1:
            return trials  # the control has nothing to be compared with
        ends_s = time.monotonic() + seconds
        for number in range(looks):
            if number and time.monotonic() >= ends_s:
                break
            picture = number % len(pictures)
            image = await asyncio.to_thread(pictures[picture])
            turn = number % len(in_use)
            for trial, service in itertools.chain(in_use[turn:], in_use[:turn]):
                await _look(trial, service, image, picture)
            show(number + 1, looks)
    return trials


async def _opened(
    trial: Trial, config: ServiceConfig, image: Image, stack: AsyncExitStack
) -> HybridDetectionService | None:
    """A service that has this backend alone, warm; `None` if it cannot be used."""
    before = _held_bytes()
    try:
        service = _service(trial, config)
        await stack.enter_async_context(service)
    except HybridDetectError as error:
        trial.unusable = str(error)
        return None
    try:
        await service.wait_ready()
        await service.process_image(image)
    except HybridDetectError as error:
        reasons = [backend.unavailable_reason for backend in service.status().backends]
        trial.unusable = "; ".join(filter(None, reasons)) or str(error)
        await service.aclose()  # else it would try again and again beside those that are measured
        return None
    trial.memory_bytes = max(_held_bytes() - before, 0)
    trial.bytes_sent = 0
    trial.nanos.clear()
    return service


def _service(trial: Trial, config: ServiceConfig) -> HybridDetectionService:
    if trial.name == CONTROL:
        alone = replace(config, mode=DetectionMode.ON_DEVICE, costs_path=None)
        return HybridDetectionService(config=alone, backends=[FakeBackend(BackendKind.DEVICE)])
    mode = MODES[BackendKind(trial.name)]
    alone = replace(config, mode=mode, deadline_s=LOOK_LIMIT_S)
    return HybridDetectionService(config=alone, hooks=[trial])


async def _look(trial: Trial, service: HybridDetectionService, image: Image, number: int) -> None:
    began_s = time.perf_counter()
    try:
        result = await service.process_image(image)
    except AllBackendsFailedError as error:
        trial.took_s.append(math.inf)
        trial.error = str(error)
    else:
        trial.took_s.append(time.perf_counter() - began_s if result.answered else math.inf)
        trial.faces_of[number] = max(len(result.faces), trial.faces_of.get(number, 0))


def _held_bytes() -> int:
    pids = (os.getpid(), *child_pids(os.getpid()))
    return sum(process_anonymous_bytes(pid) or 0 for pid in pids)

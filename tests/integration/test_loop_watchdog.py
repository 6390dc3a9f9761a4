"""A watchdog over the event loop, while images of every kind are handed to a service."""

from __future__ import annotations

import asyncio
import contextlib
import io
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hybrid_detect.config import ServiceConfig
from hybrid_detect.errors import HybridDetectError
from hybrid_detect.frames.frame import Frame
from hybrid_detect.service.hybrid import HybridDetectionService
from hybrid_detect.testing import FakeBackend
from hybrid_detect.types import BackendKind, DetectionResult, Plan, Timings

from ..frames.broken_files import JPEG, PNG, WEBP, chunk, gif_with, riff, segment, webp

pytestmark = [pytest.mark.anyio, pytest.mark.hostile]

LIMIT_S = 0.020
"""What no call may hold the loop up for."""

SIZE_BYTES = 2 << 20


class _Idle(FakeBackend):
    """Answers without decoding, which the real backends do in threads or processes."""

    async def detect(self, frame: Frame, plan: Plan) -> DetectionResult:
        return self.answer(frame, plan, (), model="none", timings=Timings())


class Watchdog:
    """Notes the longest time between two turns of the loop."""

    def __init__(self) -> None:
        self.worst_s = 0.0

    async def __aenter__(self) -> Watchdog:
        self._task = asyncio.create_task(self._run())
        await asyncio.sleep(0)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await asyncio.sleep(0)
        self._task.cancel()

    async def _run(self) -> None:
        last_s = time.perf_counter()
        while True:
            await asyncio.sleep(0)
            now_s = time.perf_counter()
            self.worst_s = max(self.worst_s, now_s - last_s)
            last_s = now_s


def _photo(kind: str, **options: Any) -> bytes:
    noise = np.random.default_rng(3).integers(0, 256, (3000, 4000, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).save(out, kind, **options)
    return out.getvalue()


IMAGES: dict[str, Callable[[], Any]] = {
    "small": lambda: JPEG,
    "12 megapixels, JPEG": lambda: _photo("JPEG", quality=80),
    "12 megapixels, PNG": lambda: _photo("PNG", compress_level=1),
    "12 megapixels, opened lazily": lambda: Image.open(io.BytesIO(_photo("PNG", compress_level=1))),
    "12 megapixels, array": lambda: np.zeros((3000, 4000, 3), np.uint8),
    "12 megapixels, Pillow": lambda: Image.new("RGB", (4000, 3000)),
    "a file object": lambda: io.BytesIO(_photo("JPEG", quality=80)),
    "jpeg: comments": lambda: JPEG[:20] + b"\xff\xfe\0\2" * (SIZE_BYTES // 4) + JPEG[20:],
    "jpeg: fill": lambda: JPEG[:20] + b"\xff" * SIZE_BYTES + JPEG[20:],
    "jpeg: fill in the pixels": lambda: JPEG[:-2] + b"\xff" * SIZE_BYTES + JPEG[-2:],
    "jpeg: restarts": lambda: JPEG[:-2] + b"\xff\xd0" * (SIZE_BYTES // 2) + JPEG[-2:],
    "jpeg: tables": lambda: JPEG[:20] + segment(0xC4, bytes(17)) * 1400 + JPEG[20:],
    "png: chunks": lambda: PNG[:33] + chunk(b"prVt", b"") * (SIZE_BYTES // 12) + PNG[33:],
    "webp: chunks": lambda: webp(riff(b"PRVT", b"") * (SIZE_BYTES // 8), WEBP[12:]),
    "gif: blocks": lambda: gif_with(b"!\xfe" + (b"\x40" + b"c" * 64) * (SIZE_BYTES // 65) + b"\0"),
}


async def _noise_s() -> float:
    """The longest time between two turns of the loop beside a thread that only computes."""
    stop = threading.Event()
    thread = threading.Thread(target=lambda: [None for _ in iter(stop.is_set, True)])
    thread.start()
    try:
        async with Watchdog() as watchdog:
            ends_s = time.perf_counter() + 0.3
            while time.perf_counter() < ends_s:
                await asyncio.sleep(0)
    finally:
        stop.set()
        thread.join()
    return watchdog.worst_s


@pytest.mark.parametrize("name", IMAGES)
async def test_no_image_holds_the_loop_up(name: str) -> None:
    image = IMAGES[name]()
    config = ServiceConfig(deadline_s=20)
    async with HybridDetectionService(
        config=config, backends=[_Idle(BackendKind.DEVICE)]
    ) as service:
        await service.process_image(JPEG)  # what is loaded at the first use is loaded now
        # What a busy machine itself takes is not the image's.
        noise_s = await _noise_s()
        async with Watchdog() as watchdog:
            with contextlib.suppress(HybridDetectError):
                await service.process_image(image)
    assert watchdog.worst_s <= LIMIT_S + 2 * noise_s

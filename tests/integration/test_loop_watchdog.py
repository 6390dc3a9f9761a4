"""A watchdog over the event loop, while images of every kind are handed to a service."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hybrid_detect.backends.base import Backend
from hybrid_detect.backends.remote.cloud import CloudDetectionService
from hybrid_detect.backends.remote.streaming import StreamingService
from hybrid_detect.config import ServiceConfig
from hybrid_detect.errors import HybridDetectError
from hybrid_detect.frames.frame import Frame
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.service.hybrid import HybridDetectionService
from hybrid_detect.testing import FakeBackend
from hybrid_detect.types import BackendKind, DetectionResult, Plan, Timings

from ..frames.bad_inputs import BAD_INPUTS
from ..frames.broken_files import JPEG, PNG, WEBP, chunk, gif_with, riff, segment, webp
from ..loop_steps import LoopSteps
from ..server.loopback import served_beside

pytestmark = pytest.mark.anyio

LIMIT_S = 0.020
"""CPU seconds that no step of the loop may take."""

SIZE_BYTES = 2 << 20


class _Idle(FakeBackend):
    """Answers without decoding, which the real backends do in threads or processes."""

    async def detect(self, frame: Frame, plan: Plan) -> DetectionResult:
        return self.answer(frame, plan, (), model="none", timings=Timings())


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


QUICKLY_MADE = [name for name in IMAGES if not name.startswith(("12 ", "a file"))]


async def dearest_step(service: HybridDetectionService, image: Any, **options: Any) -> LoopSteps:
    """The loop's steps while `service` is given `image`, which it may refuse."""
    gc.disable()  # what many other tests have left is not to be searched in one of these steps
    try:
        with LoopSteps() as steps, contextlib.suppress(HybridDetectError):
            # In a task, whose steps are counted from the first on; this one is under way already.
            await asyncio.create_task(service.process_image(image, **options))
    finally:
        gc.enable()
    return steps


@asynccontextmanager
async def warmed_up(*backends: Backend) -> AsyncIterator[HybridDetectionService]:
    """A service that has loaded what it loads at its first frame."""
    config = ServiceConfig(deadline_s=20)
    async with HybridDetectionService(config=config, backends=backends) as service:
        await service.wait_ready()
        await service.process_image(JPEG)
        yield service


async def check(name: str) -> None:
    async with warmed_up(_Idle(BackendKind.DEVICE)) as service:
        steps = await dearest_step(service, IMAGES[name]())
    assert steps.count
    assert steps.worst_s <= LIMIT_S, steps.worst


@pytest.mark.hostile
@pytest.mark.parametrize("name", IMAGES)
async def test_no_image_holds_the_loop_up(name: str) -> None:
    await check(name)


@pytest.mark.parametrize("name", QUICKLY_MADE[::3])
async def test_no_image_of_a_few_holds_the_loop_up(name: str) -> None:
    await check(name)


async def test_no_bad_input_holds_the_loop_up(tmp_path: Path) -> None:
    async with warmed_up(_Idle(BackendKind.DEVICE)) as service:
        for bad in BAD_INPUTS:
            with contextlib.suppress(HybridDetectError):
                image, options = bad.make(tmp_path)
                known = {name: options[name] for name in options if name == "pixel_format"}
                steps = await dearest_step(service, image, **known)
                assert steps.worst_s <= LIMIT_S, (bad, steps.worst)


@pytest.mark.hostile
@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("backend", [CloudDetectionService, StreamingService])
async def test_no_image_that_is_sent_holds_the_loop_up(
    backend: Callable[..., Backend], name: str
) -> None:
    with served_beside(ServerConfig(rate_per_s=0)) as server:
        async with warmed_up(backend(endpoint=f"http://127.0.0.1:{server.port}")) as service:
            steps = await dearest_step(service, IMAGES[name]())
    assert steps.worst_s <= LIMIT_S, steps.worst

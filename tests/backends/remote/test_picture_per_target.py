"""Targets with different limits: a frame is compressed once, and again only where it must be."""

from __future__ import annotations

from typing import Any

import httpx
import numpy as np
import pytest

from hybrid_detect.backends.remote.cloud import CloudDetectionService
from hybrid_detect.backends.remote.frame_jobs import suits
from hybrid_detect.backends.remote.protocol import Capabilities
from hybrid_detect.backends.remote.providers.face_mapping import FaceMapping
from hybrid_detect.backends.remote.providers.json_endpoint import JsonEndpoint
from hybrid_detect.backends.remote.targets import Target
from hybrid_detect.compression.compressed_image import CompressedImage
from hybrid_detect.compression.compressor import ImageCompressionService
from hybrid_detect.errors import BackendError
from hybrid_detect.frames.frame import Frame
from hybrid_detect.types import BackendKind, DetectionResult, Plan

NOISE = Frame.of(np.random.default_rng(3).integers(0, 255, (120, 160, 3), np.uint8))


class Limited(JsonEndpoint):
    """A provider with limits of its own."""

    def __init__(self, **limits: Any) -> None:
        super().__init__(FaceMapping())
        self.capabilities = Capabilities(**limits)


class Counting(ImageCompressionService):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def compress(self, *args: Any, **options: Any) -> CompressedImage:
        self.count += 1
        return super().compress(*args, **options)


async def look(*limits: dict[str, Any], fails: int = 1) -> tuple[DetectionResult, list[int], int]:
    """Send a frame to targets with these limits, of which the first `fails` fail."""
    sizes: list[int] = []

    async def answer(request: httpx.Request) -> httpx.Response:
        sizes.append(len(await request.aread()))

        async def content() -> Any:
            yield b'{"faces": [{"box": [0, 0, 16, 16]}]}'

        status = 503 if len(sizes) <= fails else 200
        kind = {"Content-Type": "application/json"}
        return httpx.Response(status, content=content(), headers=kind)

    targets = [
        Target(url=f"https://{n}.example", protocol=Limited(**each), preference=n)
        for n, each in enumerate(limits)
    ]
    compressor = Counting()
    transport = httpx.MockTransport(answer)
    async with CloudDetectionService(
        targets=targets, transport=transport, compressor=compressor
    ) as cloud:
        plan = Plan(backend=BackendKind.CLOUD, reason="test", deadline_s=20.0, retries=0)
        result = await cloud.detect(NOISE, plan)
    return result, sizes, compressor.count


@pytest.mark.anyio
async def test_a_picture_that_the_next_target_takes_as_it_is_is_sent_as_it_is() -> None:
    result, sizes, count = await look({"max_picture_bytes": 50_000}, {"max_picture_bytes": 60_000})
    assert count == 1
    assert sizes[0] == sizes[1]
    assert result.faces[0].box.x_max == pytest.approx(16, abs=1)


@pytest.mark.anyio
async def test_a_picture_that_is_too_large_for_the_next_target_is_made_again_for_it() -> None:
    result, sizes, count = await look({}, {"max_picture_bytes": 3000})
    assert count == 2
    assert sizes[0] > 3000 >= sizes[1]
    assert result.answered


@pytest.mark.anyio
async def test_a_small_limit_of_one_target_costs_the_others_nothing() -> None:
    _, sizes, count = await look({}, {"max_picture_bytes": 3000}, fails=0)
    assert count == 1
    assert sizes[0] > 3000


@pytest.mark.anyio
async def test_a_picture_is_enlarged_for_a_target_that_asks_for_more_pixels() -> None:
    result, _, count = await look({}, {"min_side_px": 240})
    assert count == 2
    assert result.faces[0].box.x_max == pytest.approx(8, abs=1), "in the frame's own pixels"


@pytest.mark.anyio
async def test_a_target_that_no_picture_fits_is_passed_over() -> None:
    result, sizes, _ = await look({"max_picture_bytes": 100}, {}, fails=0)
    assert len(sizes) == 1
    assert result.target == "1.example"
    with pytest.raises(BackendError, match="fits"):
        await look({"max_picture_bytes": 100}, fails=0)


@pytest.mark.parametrize(
    ("limits", "fits"),
    [
        ({}, True),
        ({"max_picture_bytes": 1000}, True),
        ({"max_picture_bytes": 999}, False),
        ({"min_picture_bytes": 1001}, False),
        ({"min_side_px": 48}, True),
        ({"min_side_px": 49}, False),
        ({"max_side_px": 63}, False),
        ({"max_pixels": 64 * 48 - 1}, False),
        ({"formats": frozenset({"webp"})}, False),
    ],
)
def test_whether_a_provider_takes_a_picture_as_it_is(limits: dict[str, Any], fits: bool) -> None:
    picture = CompressedImage(
        data=bytes(1000),
        width=64,
        height=48,
        original_width=64,
        original_height=48,
        quality=80,
        encodes=1,
    )
    assert suits(picture, Capabilities(**limits)) is fits

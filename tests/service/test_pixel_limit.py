"""The limit on an image's pixels, from the configuration to every image of a service."""

from __future__ import annotations

import numpy as np
import pytest

from hybrid_detect.compression.compressor import ImageCompressionService
from hybrid_detect.config import ServiceConfig
from hybrid_detect.errors import InvalidFrameError
from hybrid_detect.frames import frame as frame_module
from hybrid_detect.frames.frame import Frame
from hybrid_detect.service.hybrid import HybridDetectionService
from hybrid_detect.testing import FakeBackend
from hybrid_detect.types import BackendKind

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]

IMAGE = np.zeros((48, 64, 3), np.uint8)
PIXELS = 48 * 64


def service(max_pixels: int | None) -> HybridDetectionService:
    config = ServiceConfig(max_pixels=max_pixels)
    return HybridDetectionService(config=config, backends=[FakeBackend(BackendKind.DEVICE)])


async def test_the_configured_limit_holds_for_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame_module, "MAX_PIXELS", PIXELS - 1)
    async with service(None) as by_default:
        with pytest.raises(InvalidFrameError, match="max_pixels"):
            await by_default.process_image(IMAGE)
    async with service(PIXELS) as raised:
        assert (await raised.process_image(IMAGE)).answered


async def test_a_limit_that_a_frame_was_made_under_holds_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(frame_module, "MAX_PIXELS", PIXELS - 1)
    frame = Frame.of(IMAGE, max_pixels=PIXELS)
    async with service(None) as by_default:
        assert (await by_default.process_image(frame)).answered
    assert ImageCompressionService().compress(frame).width == 64
    async with service(PIXELS - 1) as lowered:
        with pytest.raises(InvalidFrameError, match="max_pixels"):
            await lowered.process_image(frame)

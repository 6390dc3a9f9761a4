"""A backend of the app is in one open service at a time."""

from __future__ import annotations

import numpy as np
import pytest

from hybrid_detect import sync
from hybrid_detect.errors import ClosedError, ConfigurationError
from hybrid_detect.service.hybrid import HybridDetectionService
from hybrid_detect.testing import FakeBackend
from hybrid_detect.types import BackendKind

IMAGE = np.zeros((48, 64, 3), np.uint8)


class Reopened(FakeBackend):
    """One that may be started again after it was closed."""

    closes = 0

    async def aclose(self) -> None:
        self.closes += 1


@pytest.mark.anyio
@pytest.mark.virtual_time
async def test_a_second_service_is_refused_and_the_first_goes_on() -> None:
    shared, other = Reopened("device"), Reopened("cloud")
    async with HybridDetectionService(backends=[shared]) as first:
        second = HybridDetectionService(backends=[other, shared])
        with pytest.raises(ConfigurationError, match="the device backend is in another open servi"):
            async with second:
                pass
        await second.aclose()
        assert shared.closes == 0
        assert (await first.process_image(IMAGE)).backend is BackendKind.DEVICE
        async with HybridDetectionService(backends=[other]) as third:  # the refused took none
            assert (await third.process_image(IMAGE)).backend is BackendKind.CLOUD
    async with HybridDetectionService(backends=[shared]) as fourth:
        assert (await fourth.process_image(IMAGE)).backend is BackendKind.DEVICE
    assert shared.closes == 2


def test_a_closed_one_is_refused_when_the_service_is_opened() -> None:
    backends = [FakeBackend()]
    with sync.HybridDetectionService(backends=backends) as service:
        service.process_image(IMAGE)
    with pytest.raises(ClosedError, match="the device backend is closed: make a new one"):
        sync.HybridDetectionService(backends=backends).open()

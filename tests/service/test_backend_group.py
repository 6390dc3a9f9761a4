"""Several backends of one kind: who gets the frame, who stands in, and what is known of each."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hybrid_detect.errors import AllBackendsFailedError, BackendUnavailableError
from hybrid_detect.privacy.privacy_policy import PrivacyPolicy
from hybrid_detect.selection.conditions import Conditions
from hybrid_detect.selection.fixed import FixedPolicy
from hybrid_detect.service.hybrid import HybridDetectionService
from hybrid_detect.testing import FakeBackend
from hybrid_detect.types import BackendKind, DetectionStatus, Plan

pytestmark = pytest.mark.anyio

IMAGE = np.zeros((48, 64, 3), np.uint8)


class Cloud(FakeBackend):
    def __init__(self, host: str, **options: Any) -> None:
        super().__init__(BackendKind.CLOUD, **options)
        self.host = host
        self.checks = 0

    async def check(self, *, deadline_s: float) -> None:
        self.checks += 1
        await super().check(deadline_s=deadline_s)


def service_of(*backends: FakeBackend, **options: Any) -> HybridDetectionService:
    policy = options.pop("policy", FixedPolicy(backend="cloud"))
    return HybridDetectionService(mode="cloud", backends=backends, policy=policy, **options)


def down() -> BackendUnavailableError:
    return BackendUnavailableError("down", retryable=True)


async def test_the_first_gets_the_frames_while_nothing_is_known() -> None:
    first, second = Cloud("one.example"), Cloud("two.example")
    async with service_of(first, second) as service:
        result = await service.process_image(IMAGE)
    assert result.status is DetectionStatus.OK
    assert (len(first.plans), len(second.plans)) == (1, 0)


async def test_the_other_stands_in_for_one_that_fails_inside_the_same_frame() -> None:
    first, second = Cloud("one.example"), Cloud("two.example")
    async with service_of(first, second) as service:
        first.error = down()
        results = [await service.process_image(IMAGE) for _ in range(4)]
    assert all(result.answered for result in results)
    assert len(second.plans) == 4
    assert len(first.plans) == 1, "the one that answered keeps the frames"
    assert second.plans[0].deadline_s < first.plans[0].deadline_s, "what is left of the deadline"


async def test_one_that_is_out_from_the_start_is_not_asked() -> None:
    first, second = Cloud("one.example"), Cloud("two.example")
    first.error = down()
    async with service_of(first, second) as service:
        assert (await service.process_image(IMAGE)).answered
        await service.wait_ready()
        statuses = {status.host: status for status in service.status().backends}
    assert first.plans == []
    assert not statuses["one.example"].usable
    assert statuses["two.example"].usable
    assert statuses["two.example"].answered == 1


async def test_if_all_fail_the_caller_is_told_so() -> None:
    first, second = Cloud("one.example"), Cloud("two.example")
    async with service_of(first, second) as service:
        first.error, second.error = down(), down()
        with pytest.raises(AllBackendsFailedError):
            await service.process_image(IMAGE)
    assert (len(first.plans), len(second.plans)) == (1, 1)


async def test_a_backend_on_a_host_that_is_not_allowed_is_left_out() -> None:
    first, second = Cloud("one.example"), Cloud("two.example")
    privacy = PrivacyPolicy(hosts=frozenset({"one.example"}))
    async with service_of(first, second, privacy=privacy) as service:
        first.error = down()
        with pytest.raises(AllBackendsFailedError, match="down"):
            await service.process_image(IMAGE)
    assert len(first.plans) == 1
    assert second.plans == []
    assert second.checks == 0


async def test_what_a_policy_sees_is_the_one_that_would_get_the_frame() -> None:
    seen: list[Conditions] = []

    class Watching:
        def decide(self, conditions: Conditions) -> Plan:
            seen.append(conditions)
            return FixedPolicy(backend="cloud").decide(conditions)

    first, second = Cloud("one.example"), Cloud("two.example")
    async with service_of(first, second, policy=Watching()) as service:
        await service.process_image(IMAGE)
        first.error = second.error = down()
        for _ in range(2):
            with pytest.raises(AllBackendsFailedError):
                await service.process_image(IMAGE)
        service.status()
    assert all(len(conditions.backends) == 1 for conditions in seen)
    assert seen[1].backends[0].usable
    assert not seen[-1].backends[0].usable
    why = seen[-1].backends[0].unavailable_reason
    assert "one.example: down" in why
    assert "two.example: down" in why

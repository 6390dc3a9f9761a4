"""Providers and regions as hard rules: a target outside them is never asked for anything."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from hybrid_detect.backends.remote.cloud import CloudDetectionService
from hybrid_detect.backends.remote.providers.face_mapping import FaceMapping
from hybrid_detect.backends.remote.providers.json_endpoint import JsonEndpoint
from hybrid_detect.backends.remote.targets import Target
from hybrid_detect.destination import Destination
from hybrid_detect.errors import AllBackendsFailedError, BackendUnavailableError
from hybrid_detect.monitoring.events import FrameEvent
from hybrid_detect.privacy.consent import ConsentLedger
from hybrid_detect.privacy.privacy_policy import PrivacyPolicy
from hybrid_detect.service.hybrid import HybridDetectionService
from hybrid_detect.testing import FakeBackend
from hybrid_detect.types import BackendKind

from ..foreign_server import Request, foreign_server, json_answer

pytestmark = pytest.mark.anyio

IMAGE = np.zeros((48, 64, 3), np.uint8)
DEADLINE_S = 20.0


@dataclass
class Canary:
    """A server that must not be met."""

    url: str = ""
    connections: int = 0


@contextlib.asynccontextmanager
async def canary() -> AsyncIterator[Canary]:
    made = Canary()

    async def count(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        made.connections += 1
        writer.close()

    server = await asyncio.start_server(count, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield made


async def one_face(_: Request) -> tuple[int, bytes, str]:
    return json_answer({"faces": [{"box": [8, 8, 24, 24]}]})


async def broken(_: Request) -> tuple[int, bytes, str]:
    return json_answer({}, status=503)


class Acme(JsonEndpoint):
    name = "acme"


def target_at(url: str, *, protocol: type[JsonEndpoint] = JsonEndpoint, **options: Any) -> Target:
    return Target(url=url, protocol=protocol(FaceMapping(), health_path="/up"), **options)


RULES = {
    "region": (PrivacyPolicy(allowed_regions=frozenset({"EU-West-1"})), "region"),
    "provider": (PrivacyPolicy(allowed_providers=frozenset({"json_endpoint"})), "provider"),
    "host": (PrivacyPolicy(hosts=frozenset({"127.0.0.1"})), "host"),
}


@pytest.mark.parametrize("rule", RULES)
async def test_a_target_outside_the_rule_is_never_met_even_if_the_others_fail(rule: str) -> None:
    privacy, word = RULES[rule]
    events: list[FrameEvent] = []

    class Hook:
        def on_frame(self, event: FrameEvent) -> None:
            events.append(event)

    async with canary() as outside, foreign_server(one_face) as inside:
        denied = {
            "region": target_at(outside.url, region="us-east-1", preference=-1),
            "provider": target_at(outside.url, protocol=Acme, region="eu-west-1", preference=-1),
            "host": target_at(
                outside.url.replace("127.0.0.1", "localhost"), region="eu-west-1", preference=-1
            ),
        }[rule]
        allowed = target_at(inside.url, region="eu-west-1", name="near")
        cloud = CloudDetectionService(targets=[denied, allowed])
        async with HybridDetectionService(
            mode="cloud", backends=[cloud], privacy=privacy, hooks=[Hook()]
        ) as service:
            result = await service.process_image(IMAGE, deadline_s=DEADLINE_S)
            assert (result.target, result.provider, result.region) == (
                "near",
                "json_endpoint",
                "eu-west-1",
            )
            inside.answer = broken
            for _ in range(3):
                with pytest.raises(AllBackendsFailedError):
                    await service.process_image(IMAGE, deadline_s=DEADLINE_S)
            (status,) = service.status().backends
        assert outside.connections == 0
    near, far = status.targets
    assert (near.name, near.denied_reason) == ("near", "")
    assert word in far.denied_reason
    assert (far.region, far.answered, far.failed) == (denied.region, 0, 0)
    assert (events[0].target, events[0].region) == ("near", "eu-west-1")


async def test_a_target_that_names_no_region_is_outside_every_region() -> None:
    async with canary() as nowhere:
        cloud = CloudDetectionService(targets=[target_at(nowhere.url)])
        async with HybridDetectionService(
            mode="auto",
            backends=[cloud, FakeBackend(BackendKind.DEVICE)],
            privacy=PrivacyPolicy(allowed_regions=frozenset({"eu-west-1"})),
        ) as service:
            result = await service.process_image(IMAGE)
            whys = {each.kind: each.unavailable_reason for each in service.status().backends}
        assert result.backend is BackendKind.DEVICE
        assert result.target == result.region == ""
        assert "names no region" in whys[BackendKind.CLOUD]
        assert nowhere.connections == 0


async def test_a_backend_that_may_have_no_frame_is_not_even_checked() -> None:
    async with canary() as server:
        cloud = CloudDetectionService(targets=[target_at(server.url)])
        async with HybridDetectionService(
            mode="auto",
            backends=[cloud, FakeBackend(BackendKind.DEVICE)],
            privacy=PrivacyPolicy(may_leave=False),
        ) as service:
            await service.wait_ready()
        assert server.connections == 0


@pytest.mark.parametrize("grouped", [False, True], ids=["targets", "backends"])
async def test_a_consent_that_names_regions_sends_the_frame_there_alone(grouped: bool) -> None:
    ledger = ConsentLedger()
    ledger.grant("visit", version="1", recorded_by="test", regions=["eu-west-1"])
    privacy = PrivacyPolicy(require_consent=True, consent_version="1")
    async with foreign_server(one_face) as far, foreign_server(one_face) as near:
        targets = [
            target_at(far.url, region="us-east-1", preference=-1),
            target_at(near.url, region="eu-west-1"),
        ]
        clouds = [CloudDetectionService(targets=targets)]
        if grouped:
            clouds = [CloudDetectionService(targets=[target]) for target in targets]
        async with HybridDetectionService(
            mode="cloud", session_id="visit", backends=clouds, privacy=privacy, consent=ledger
        ) as service:
            await service.wait_ready()
            for _ in range(3):
                result = await service.process_image(IMAGE, deadline_s=DEADLINE_S)
                assert result.region == "eu-west-1"
            near.answer = broken
            with pytest.raises(AllBackendsFailedError):
                await service.process_image(IMAGE, deadline_s=DEADLINE_S)
            ledger.grant("visit", version="1", recorded_by="test", regions=["us-east-1"])
            result = await service.process_image(IMAGE, deadline_s=DEADLINE_S)
            assert result.region == "us-east-1", "the newest consent holds"
            ledger.grant("visit", version="1", recorded_by="test", providers=["aws"])
            with pytest.raises(AllBackendsFailedError, match="consent was not given"):
                await service.process_image(IMAGE, deadline_s=DEADLINE_S)
        pictures = [request for request in far.requests if request.method == "POST"]
        assert len(pictures) == 1


async def test_a_failure_elsewhere_is_not_held_against_a_target_that_consent_denies() -> None:
    """It was not asked: its breaker and its count of failures stay as they are."""
    ledger = ConsentLedger()
    ledger.grant("visit", version="1", recorded_by="test", regions=["eu-west-1"])
    async with foreign_server(one_face) as far, foreign_server(one_face) as near:
        targets = [
            target_at(far.url, region="us-east-1"),
            target_at(near.url, region="eu-west-1"),
        ]
        async with HybridDetectionService(
            mode="cloud",
            session_id="visit",
            backends=[CloudDetectionService(targets=targets)],
            privacy=PrivacyPolicy(require_consent=True, consent_version="1"),
            consent=ledger,
        ) as service:
            for _ in range(5):
                await service.process_image(IMAGE, deadline_s=DEADLINE_S)
            (status,) = service.status().backends
    assert [(each.answered, each.failed) for each in status.targets] == [(0, 0), (5, 0)]


class Elsewhere(FakeBackend):
    """A cloud backend of the app's own, which does not ask before it sends."""

    def __init__(self, *regions: str) -> None:
        super().__init__(BackendKind.CLOUD)
        self.regions = regions

    @property
    def destinations(self) -> tuple[Destination, ...]:
        return tuple(
            Destination(host=f"{region}.example", provider="own", region=region)
            for region in self.regions
        )


@pytest.mark.parametrize("regions", [("us",), ("us", "eu")], ids=["denied", "denied in part"])
async def test_a_backend_of_one_s_own_gets_no_frame_for_a_region_without_consent(
    regions: tuple[str, ...],
) -> None:
    """Neither in the place of one that is out, nor because one of its regions may have it."""
    ledger = ConsentLedger()
    ledger.grant("visit", version="1", recorded_by="test", regions=["eu"])
    near, far = Elsewhere("eu"), Elsewhere(*regions)
    async with HybridDetectionService(
        mode="cloud",
        session_id="visit",
        backends=[near, far],
        privacy=PrivacyPolicy(require_consent=True, consent_version="1"),
        consent=ledger,
    ) as service:
        await service.wait_ready()
        await service.process_image(IMAGE, deadline_s=DEADLINE_S)
        near.error = BackendUnavailableError("down")
        for _ in range(5):
            with pytest.raises(AllBackendsFailedError):
                await service.process_image(IMAGE, deadline_s=0.5)
        statuses = service.status().backends
    assert near.plans
    assert far.plans == []
    assert statuses[1].failed == 0, "it was not asked"

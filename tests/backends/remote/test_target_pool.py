"""Several targets behind one backend: which one a frame goes to, and who stands in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from hybrid_detect.backends.remote.cloud import CloudDetectionService
from hybrid_detect.backends.remote.credentials import BearerToken
from hybrid_detect.backends.remote.providers.face_mapping import FaceMapping
from hybrid_detect.backends.remote.providers.json_endpoint import JsonEndpoint
from hybrid_detect.backends.remote.target_pool import TargetPool
from hybrid_detect.backends.remote.targets import Target
from hybrid_detect.errors import (
    BackendResponseError,
    BackendTimeoutError,
    BackendUnavailableError,
    ConfigurationError,
)
from hybrid_detect.frames.frame import Frame
from hybrid_detect.selection.breaker import CircuitBreaker
from hybrid_detect.selection.conditions import Conditions
from hybrid_detect.service.hybrid import HybridDetectionService
from hybrid_detect.testing import FakeClock
from hybrid_detect.types import BackendKind, DetectionResult, Plan

from ...foreign_server import Request, foreign_server, json_answer

DEADLINE_S = 20.0
FRAME = Frame.of(np.zeros((48, 64, 3), np.uint8))


def pool_of(clock: Callable[[], float], *prices: float) -> TargetPool:
    targets = [
        Target(url=f"https://{n}.example", price_per_frame=price) for n, price in enumerate(prices)
    ]
    return TargetPool(targets, clock=clock, choice=lambda drawn: drawn[0])


def answer(pool: TargetPool, clock: FakeClock, took_s: float) -> Target:
    target = pool.pick()
    pool.begin(target)
    clock.advance(took_s)
    pool.answered(target, took_s=took_s)
    return target


def fail(pool: TargetPool, target: Target, error: Any = None) -> None:
    pool.begin(target)
    pool.failed(target, error or BackendUnavailableError("down", retryable=True))


def test_the_cheapest_is_used_while_nothing_is_known() -> None:
    pool = pool_of(FakeClock(), 0.2, 0.1, 0.1)
    assert pool.present is pool.pick() is pool.targets[1]


def test_the_fastest_wins_and_stays() -> None:
    clock = FakeClock()
    pool = pool_of(clock, 0, 0)
    first, second = pool.targets
    assert answer(pool, clock, 0.5) is first
    assert answer(pool, clock, 0.1) is second, "what is not known yet is tried"
    assert [answer(pool, clock, 0.1) for _ in range(5)] == [second] * 5


def test_a_slow_one_is_tried_again_only_after_a_while() -> None:
    clock = FakeClock()
    pool = pool_of(clock, 0, 0)
    answer(pool, clock, 1.0)
    used = [answer(pool, clock, 0.1) for _ in range(1000)]
    first_again = used.index(pool.targets[0])
    assert first_again * 0.1 > 30, "a frame that is late is dear"


def test_one_that_fails_is_passed_over_until_its_pause_is_over() -> None:
    clock = FakeClock()
    pool = pool_of(clock, 0, 0)
    first, second = pool.targets
    answer(pool, clock, 0.1)
    for _ in range(CircuitBreaker.FAILURES_TO_OPEN):
        fail(pool, first)
    assert pool.other([first]) is second
    assert pool.pick() is second
    assert pool.limit_s(second, 1.0) == 1.0, "no other could answer"
    clock.advance(CircuitBreaker.MAX_PAUSE_S * 2)
    assert pool.limit_s(second, 1.0) == 0.5


def test_one_frame_at_a_time_finds_out_whether_it_works_again() -> None:
    clock = FakeClock()
    pool = pool_of(clock, 0, 0)
    first, second = pool.targets
    for _ in range(CircuitBreaker.FAILURES_TO_OPEN):
        fail(pool, first)
    clock.advance(CircuitBreaker.MAX_PAUSE_S)
    pool.begin(first)
    assert pool.other([second]) is None
    assert pool.pick() is second
    pool.answered(first, took_s=0.1)
    assert pool.other([second]) is first


def test_one_that_has_never_failed_may_be_tried_by_many_frames_at_once() -> None:
    pool = pool_of(FakeClock(), 0, 0)
    first, second = pool.targets
    pool.begin(second)
    assert pool.other([first]) is second
    assert pool.limit_s(first, 1.0) == 0.5


def test_one_that_was_never_asked_is_not_told_as_broken() -> None:
    clock = FakeClock()
    pool = pool_of(clock, 0, 0)
    assert [each.breaker for each in pool.statuses()] == ["half_open", "half_open"]
    answer(pool, clock, 0.1)
    fail(pool, pool.targets[1])
    assert [each.breaker for each in pool.statuses()] == ["closed", "open"]


def test_if_none_works_the_one_whose_pause_ends_first_is_used() -> None:
    clock = FakeClock()
    pool = pool_of(clock, 0, 0)
    first, second = pool.targets
    fail(pool, first, BackendResponseError("no", status_code=403))
    clock.advance(0.01)
    fail(pool, second)
    assert pool.other([first]) is None
    assert pool.pick() is second


def test_a_refused_picture_says_nothing_about_the_target() -> None:
    pool = pool_of(FakeClock(), 0, 0)
    first = pool.targets[0]
    for _ in range(5):
        fail(pool, first, BackendResponseError("no", status_code=422))
    assert pool.pick() is first


def test_an_attempt_gets_its_share_of_the_time_or_twice_what_is_usual() -> None:
    clock = FakeClock()
    pool = pool_of(clock, 0, 0, 0)
    first = pool.targets[0]
    assert pool.limit_s(first, 0.9) == pytest.approx(0.3)
    answer(pool, clock, 0.25)
    assert pool.limit_s(first, 0.9) == pytest.approx(0.5, abs=0.01)
    assert pool.limit_s(first, 0.9, pool.targets[1:]) == 0.9


def test_the_best_preference_that_works_is_used_and_is_tried_again_when_its_pause_is_over() -> None:
    clock = FakeClock()
    targets = [
        Target(url=f"https://{name}.example", preference=preference)
        for name, preference in (("last", 9), ("second", 1), ("first", -1))
    ]
    pool = TargetPool(targets, clock=clock, choice=lambda drawn: drawn[0])
    last, second, first = targets
    assert pool.present is first
    assert [answer(pool, clock, 0.4) for _ in range(3)] == [first] * 3, "slow, yet preferred"
    for _ in range(CircuitBreaker.FAILURES_TO_OPEN):
        fail(pool, first)
    assert [answer(pool, clock, 0.01) for _ in range(3)] == [second] * 3
    assert pool.other([second]) is last
    clock.advance(CircuitBreaker.FIRST_PAUSE_S * 2)
    assert answer(pool, clock, 0.4) is first


def test_a_dead_target_is_tried_less_and_less_often() -> None:
    clock = FakeClock()
    pool = pool_of(clock, 0, 0)
    dead, well = pool.targets
    tries = 0
    for _ in range(10_000):  # at 10 fps
        clock.advance(0.1)
        target = pool.pick()
        if target is dead:
            fail(pool, dead)
            tries += 1
            target = pool.other([dead])
        assert target is well
        pool.begin(well)
        pool.answered(well, took_s=0.05)
    assert tries <= 50, "each is a request that is paid for"


@pytest.mark.parametrize("preference", [True, 1.5, "1"])
def test_a_preference_is_a_whole_number(preference: Any) -> None:
    with pytest.raises(ConfigurationError, match="preference"):
        Target(url="https://a.example", preference=preference)


def test_one_target_is_never_passed_over() -> None:
    pool = pool_of(FakeClock(), 0)
    for _ in range(9):
        fail(pool, pool.targets[0])
    assert pool.pick() is pool.targets[0]
    assert pool.limit_s(pool.targets[0], 0.9) == 0.9


@pytest.mark.parametrize(
    "options",
    [
        {"targets": []},
        {"targets": [Target()]},
        {"targets": [Target(url="https://a.example")], "endpoint": "https://b.example"},
    ],
)
def test_a_cloud_has_an_endpoint_or_targets_with_addresses(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        CloudDetectionService(**options)


def test_a_target_shows_no_credentials_and_no_price_below_nothing() -> None:
    target = Target(url="https://a.example", credentials=BearerToken("canary"))
    assert "canary" not in repr(target)
    assert target.name == target.host == "a.example"
    with pytest.raises(ConfigurationError):
        Target(url="https://a.example", price_per_frame=-1)
    with pytest.raises(ConfigurationError):
        Target(url="http://a.example")


# ---- over loopback


async def one_face(_: Request) -> tuple[int, bytes, str]:
    return json_answer({"faces": [{"box": [8, 8, 24, 24]}]})


async def hang(_: Request) -> tuple[int, bytes, str]:
    await asyncio.Event().wait()
    raise AssertionError


def refuse(status: int, kind: str = "application/json") -> Any:
    async def refusing(_: Request) -> tuple[int, bytes, str]:
        return status, b"{}", kind

    return refusing


def target_at(url: str, **options: Any) -> Target:
    return Target(url=url, protocol=JsonEndpoint(FaceMapping()), **options)


async def look(cloud: CloudDetectionService, deadline_s: float = DEADLINE_S) -> DetectionResult:
    plan = Plan(backend=BackendKind.CLOUD, reason="test", deadline_s=deadline_s, retries=0)
    return await cloud.detect(FRAME, plan)


@pytest.mark.anyio
@pytest.mark.parametrize(
    "first",
    [refuse(503), refuse(500), refuse(401), refuse(403), refuse(404), refuse(200, "text/html")],
    ids=["503", "500", "401", "403", "404", "another server"],
)
async def test_the_next_target_answers_the_frame_that_the_first_refuses(first: Any) -> None:
    async with foreign_server(first) as bad, foreign_server(one_face) as good:
        targets = [target_at(bad.url), target_at(good.url)]
        async with CloudDetectionService(targets=targets) as cloud:
            for _ in range(3):
                assert (await look(cloud)).faces
            assert len(good.requests) == 3
            assert len(bad.requests) <= 2


@pytest.mark.anyio
async def test_a_dead_target_costs_no_frame() -> None:
    async with foreign_server(one_face) as gone:
        url = gone.url
    async with foreign_server(one_face) as good:
        targets = [target_at(url), target_at(good.url)]
        async with CloudDetectionService(targets=targets) as cloud:
            assert (await look(cloud)).faces
            assert cloud.meter is cloud.meters.of("127.0.0.1")


@pytest.mark.anyio
async def test_a_target_that_hangs_leaves_the_other_its_time() -> None:
    async with foreign_server(hang) as bad, foreign_server(one_face) as good:
        targets = [target_at(bad.url), target_at(good.url)]
        async with CloudDetectionService(targets=targets) as cloud:
            assert (await look(cloud, deadline_s=2.0)).faces
            assert (await look(cloud, deadline_s=2.0)).faces
        assert (len(bad.requests), len(good.requests)) == (1, 2)


@pytest.mark.anyio
async def test_if_all_targets_hang_the_deadline_holds() -> None:
    async with foreign_server(hang) as one, foreign_server(hang) as two, asyncio.timeout(10):
        targets = [target_at(one.url), target_at(two.url)]
        async with CloudDetectionService(targets=targets) as cloud:
            with pytest.raises(BackendTimeoutError):
                await look(cloud, deadline_s=0.4)
        assert (len(one.requests), len(two.requests)) == (1, 1)


@pytest.mark.anyio
async def test_a_picture_that_one_target_cannot_read_is_not_sent_to_the_next() -> None:
    async with foreign_server(refuse(422)) as first, foreign_server(one_face) as second:
        targets = [target_at(first.url), target_at(second.url)]
        async with CloudDetectionService(targets=targets) as cloud:
            with pytest.raises(BackendResponseError):
                await look(cloud)
        assert second.requests == []


@pytest.mark.anyio
async def test_each_target_has_credentials_of_its_own() -> None:
    async with foreign_server(refuse(503)) as first, foreign_server(one_face) as second:
        targets = [
            target_at(first.url, credentials=BearerToken("one")),
            target_at(second.url, credentials=BearerToken("two")),
        ]
        async with CloudDetectionService(targets=targets) as cloud:
            await look(cloud)
        assert first.requests[0].headers["authorization"] == "bearer one"
        assert second.requests[0].headers["authorization"] == "bearer two"


@pytest.mark.anyio
async def test_a_check_succeeds_while_one_target_is_well_and_the_well_one_gets_the_frame() -> None:
    mapping = JsonEndpoint(FaceMapping(), health_path="/up")
    async with foreign_server(refuse(503)) as bad, foreign_server(one_face) as good:
        targets = [Target(url=bad.url, protocol=mapping), Target(url=good.url, protocol=mapping)]
        async with CloudDetectionService(targets=targets) as cloud:
            await cloud.check(deadline_s=DEADLINE_S)
            assert (await look(cloud)).faces
            good.answer = refuse(503)
            with pytest.raises(BackendResponseError):
                await cloud.check(deadline_s=DEADLINE_S)
        assert {request.path for request in bad.requests} <= {"/up"}


@pytest.mark.anyio
async def test_a_check_does_not_wait_for_a_target_that_hangs() -> None:
    mapping = JsonEndpoint(FaceMapping(), health_path="/up")
    async with foreign_server(hang) as bad, foreign_server(one_face) as good, asyncio.timeout(10):
        targets = [Target(url=bad.url, protocol=mapping), Target(url=good.url, protocol=mapping)]
        async with CloudDetectionService(targets=targets) as cloud:
            await cloud.check(deadline_s=60)
            good.answer = hang
            with pytest.raises(BackendTimeoutError):
                await cloud.check(deadline_s=0.2)


@pytest.mark.anyio
async def test_hosts_have_links_of_their_own_and_policies_see_the_present_one() -> None:
    seen: list[Conditions] = []

    class Watching:
        def decide(self, conditions: Conditions) -> Plan:
            seen.append(conditions)
            return Plan(
                backend=BackendKind.CLOUD,
                reason="test",
                deadline_s=conditions.deadline_s,
                retries=0,
            )

    async with foreign_server(refuse(503)) as bad, foreign_server(one_face) as good:
        targets = [target_at(bad.url.replace("127.0.0.1", "localhost")), target_at(good.url)]
        cloud = CloudDetectionService(targets=targets)
        async with HybridDetectionService(
            mode="cloud", backends=[cloud], policy=Watching()
        ) as service:
            await service.process_image(FRAME, deadline_s=DEADLINE_S)
            await service.process_image(FRAME, deadline_s=DEADLINE_S)
            traffic = service.status().traffic
    hosts = [destination.host for destination in cloud.destinations]
    assert {cloud.meters.of(host).link.bytes_sent > 0 for host in hosts} == {True}
    assert hosts == ["localhost", "127.0.0.1"]
    assert cloud.host == "127.0.0.1"
    assert traffic.sent_bytes == sum(m.link.bytes_sent for m in cloud.meters)
    link = seen[-1].link_to(BackendKind.CLOUD)
    assert link is not None
    assert link == seen[-1].backends[0].link == seen[-1].link
    assert link != seen[0].link


@pytest.mark.anyio
async def test_a_token_that_is_renewed_says_nothing_about_the_target() -> None:
    async def guarded(request: Request) -> tuple[int, bytes, str]:
        if request.headers["authorization"] != "bearer new":
            return json_answer({}, status=401)
        return await one_face(request)

    tokens = iter(("old", "new"))
    credentials = BearerToken(lambda: next(tokens))
    async with foreign_server(guarded) as first, foreign_server(one_face) as second:
        targets = [
            target_at(first.url, credentials=credentials),
            target_at(second.url, preference=1),
        ]
        async with CloudDetectionService(targets=targets) as cloud:
            for _ in range(3):
                assert (await look(cloud)).faces
            statuses = cloud.target_statuses()
        assert [(status.failed, status.answered) for status in statuses] == [(0, 3), (0, 0)]
        assert len(first.requests) == 4

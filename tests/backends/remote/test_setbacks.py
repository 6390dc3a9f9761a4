"""What one refusal has switched off comes back."""

from __future__ import annotations

import asyncio

import httpx
import numpy as np
import pytest

from hybrid_detect.backends.remote.setbacks import (
    LONGEST_PAUSE_S,
    PAUSE_S,
    LearnedLimit,
    Setback,
)
from hybrid_detect.exchange.wire import CONTENT_TYPE, decode_request, encode_reply
from hybrid_detect.frames.frame import Frame

from .test_batches import Server, cloud_of, look, plan, reply_to, widths

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]


async def test_what_was_refused_is_offered_again_after_pauses_that_grow_to_an_hour() -> None:
    setback, waited_s = Setback(), []
    for _ in range(10):
        began_s = asyncio.get_running_loop().time()
        setback.refused()
        while not setback.is_over:
            await asyncio.sleep(PAUSE_S / 2)
        waited_s.append(asyncio.get_running_loop().time() - began_s)
    doubling = [PAUSE_S * 2.0**n for n in range(10)]
    assert waited_s == [min(pause_s, LONGEST_PAUSE_S) for pause_s in doubling]


async def test_refusals_of_what_was_offered_at_the_same_time_are_one() -> None:
    setback = Setback()
    for _ in range(10):
        setback.refused()
    await asyncio.sleep(PAUSE_S)
    assert setback.is_over


async def test_a_limit_is_the_least_that_was_learned_until_more_is_taken() -> None:
    limit = LearnedLimit()
    assert limit.most_bytes == float("inf")
    limit.refused(700)
    limit.refused(900)
    limit.taken(700)
    assert limit.most_bytes == 700
    await asyncio.sleep(PAUSE_S)
    assert limit.most_bytes == float("inf"), "more may be offered again"
    limit.refused(900)
    assert limit.most_bytes == 700
    await asyncio.sleep(PAUSE_S)
    assert limit.most_bytes == 700, "the second pause is longer"
    limit.taken(701)
    assert limit.most_bytes == float("inf")


async def test_a_gateway_without_the_route_for_batches_is_tried_again_and_may_have_learned() -> (
    None
):
    server = Server()
    server.refuses_batches = 404
    async with cloud_of(server) as cloud:
        for pause_s in (PAUSE_S, 2 * PAUSE_S):
            server.pictures.clear()
            assert widths(await look(cloud, 3)) == [64, 72, 80]
            assert server.sizes == [3, 1, 1, 1]
            assert widths(await look(cloud, 3)) == [64, 72, 80]
            assert server.sizes == [3, 1, 1, 1, 1, 1, 1], "not asked for before its time"
            await asyncio.sleep(pause_s)
        server.refuses_batches = 0
        server.pictures.clear()
        for _ in range(3):
            assert widths(await look(cloud, 3)) == [64, 72, 80]
        assert server.sizes == [3, 3, 3]


async def test_requests_that_were_too_large_are_made_as_large_again_later() -> None:
    server = Server()
    server.refuses_batches = 413
    async with cloud_of(server) as cloud:
        assert widths(await look(cloud, 4)) == [64, 72, 80, 88]
        server.refuses_batches = 0
        server.pictures.clear()
        await look(cloud, 4)
        assert max(server.sizes) < 4
        await asyncio.sleep(PAUSE_S)
        server.pictures.clear()
        assert widths(await look(cloud, 4)) == [64, 72, 80, 88]
        assert server.sizes == [4]


async def test_pictures_are_made_as_large_again_once_the_gateway_takes_them() -> None:
    sizes: list[int] = []
    most_bytes = 2_000

    async def serve(request: httpx.Request) -> httpx.Response:
        body = await request.aread()
        sizes.append(len(body))
        if len(body) > most_bytes:
            return httpx.Response(413, headers={"Content-Type": "text/html"})
        return Server._answer(200, encode_reply(reply_to(decode_request(body))), CONTENT_TYPE)

    noise = Frame.of(np.random.default_rng(5).integers(0, 255, (48, 96, 3), np.uint8))
    async with cloud_of(serve) as cloud:  # type: ignore[arg-type]
        await cloud.detect(noise, plan())
        whole, halved = sizes
        assert halved <= most_bytes < whole
        await cloud.detect(noise, plan())
        assert len(sizes) == 3
        assert sizes[2] <= halved, "held to what was taken"
        most_bytes = whole
        await asyncio.sleep(PAUSE_S)
        for _ in range(2):
            await cloud.detect(noise, plan())
        assert len(sizes) == 5
        assert min(sizes[3:]) > halved

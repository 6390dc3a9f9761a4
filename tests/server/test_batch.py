"""Several pictures in one request to the server: each is answered as if it had come alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from hybrid_detect.exchange.batch import (
    BATCH_CONTENT_TYPE,
    BATCH_PATH,
    MAX_BATCH,
    decode_batch,
    encode_batch,
)
from hybrid_detect.exchange.key_files import write_key_file
from hybrid_detect.exchange.key_ring import KeyRing
from hybrid_detect.exchange.keys import PrivateKey, Suite
from hybrid_detect.exchange.sealer import Sealer
from hybrid_detect.exchange.wire import ErrorReply, ResultReply, decode_reply
from hybrid_detect.server.app import create_app
from hybrid_detect.server.config import ServerConfig

from .test_app import CONFIG, GOOD, FakeDetector, jpeg, request

pytestmark = pytest.mark.anyio

HEADERS = {**GOOD, "Content-Type": BATCH_CONTENT_TYPE, "Accept": BATCH_CONTENT_TYPE}


@pytest.fixture
def detector() -> FakeDetector:
    return FakeDetector()


@pytest.fixture
async def client(detector: FakeDetector) -> AsyncIterator[httpx.AsyncClient]:
    async for made in _client(CONFIG, detector):
        yield made


async def _client(config: ServerConfig, detector: Any) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_app(config, detector), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as made:
        yield made


async def ask(client: httpx.AsyncClient, *messages: bytes) -> list[ResultReply | ErrorReply]:
    reply = await client.post(BATCH_PATH, content=encode_batch(messages), headers=HEADERS)
    assert reply.status_code == 200
    assert reply.headers["Content-Type"] == BATCH_CONTENT_TYPE
    assert reply.headers["Cache-Control"] == "no-store"
    return [decode_reply(message) for message in decode_batch(reply.content)]


async def test_each_picture_is_answered_in_its_place(client: httpx.AsyncClient) -> None:
    messages = [request(n, jpeg(64 + n, 48)) for n in range(4)]
    replies = await ask(client, *messages)
    assert [reply.request_id for reply in replies] == [0, 1, 2, 3]
    widths = [reply.width for reply in replies if isinstance(reply, ResultReply)]
    assert widths == [64, 65, 66, 67]


async def test_a_picture_that_cannot_be_read_leaves_the_others_their_results(
    client: httpx.AsyncClient,
) -> None:
    replies = await ask(client, request(1), request(2, b"no picture"), b"no message", request(4))
    kinds = [reply.status if isinstance(reply, ErrorReply) else 200 for reply in replies]
    assert kinds == [200, 422, 400, 200]


@pytest.mark.parametrize(
    "body", [b"", b"\0\0\0\1", encode_batch([b"x"] * (MAX_BATCH + 1))], ids=["", "cut", "many"]
)
async def test_what_is_no_batch_is_refused_as_a_whole(
    client: httpx.AsyncClient, detector: FakeDetector, body: bytes
) -> None:
    reply = await client.post(BATCH_PATH, content=body, headers=HEADERS)
    assert reply.status_code == 400
    assert reply.json()["code"] == "bad_request"
    assert detector.seen == []


async def test_a_batch_has_the_limit_of_any_body_and_needs_the_token(
    client: httpx.AsyncClient, detector: FakeDetector
) -> None:
    large = encode_batch([bytes(CONFIG.max_body_bytes)])
    assert (await client.post(BATCH_PATH, content=large, headers=HEADERS)).status_code == 413
    without = {"Content-Type": BATCH_CONTENT_TYPE}
    body = encode_batch([request()])
    assert (await client.post(BATCH_PATH, content=body, headers=without)).status_code == 401
    assert (await client.get(BATCH_PATH, headers=HEADERS)).status_code == 405
    assert detector.seen == []


async def test_each_picture_counts_against_the_rate_of_its_caller(detector: FakeDetector) -> None:
    config = ServerConfig(auth_token=CONFIG.auth_token, rate_per_s=0.001, burst=3)
    async for client in _client(config, detector):
        replies = await ask(client, *(request(n) for n in range(5)))
        reply = await client.post(BATCH_PATH, content=encode_batch([request()]), headers=HEADERS)
    late = [reply for reply in replies if isinstance(reply, ErrorReply)]
    assert [isinstance(each, ResultReply) for each in replies] == [True] * 3 + [False] * 2
    assert [each.request_id for each in late] == [3, 4]
    assert all(each.status == 429 and each.retry_after_s for each in late)
    assert reply.status_code == 429
    assert len(detector.seen) == 3


async def test_sealed_pictures_come_in_batches_too_and_open_ones_are_refused_there(
    detector: FakeDetector, tmp_path: Any
) -> None:
    key = PrivateKey.generate(Suite.X25519_CHACHA20, datetime.now(UTC) + timedelta(days=1))
    path = tmp_path / "keys.json"
    write_key_file(path, KeyRing((key,)))
    config = ServerConfig(auth_token=CONFIG.auth_token, keys_path=path, require_encryption=True)
    sealer = Sealer(key.public)
    async for client in _client(config, detector):
        seal = sealer.seal(request(1))
        body = encode_batch([seal.data, request(2)])
        reply = await client.post(BATCH_PATH, content=body, headers=HEADERS)
    first, second = decode_batch(reply.content)
    assert isinstance(decode_reply(sealer.open_answer(first, seal)), ResultReply)
    refused = decode_reply(second)
    assert isinstance(refused, ErrorReply)
    assert refused.code == "encryption_required"
    assert len(detector.seen) == 1

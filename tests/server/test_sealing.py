"""The server's part: it opens what is fresh, once, and answers sealed or says why not."""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from hybrid_detect.errors import ConfigurationError
from hybrid_detect.exchange import envelope
from hybrid_detect.exchange.envelope import KEYS_REQUEST, SEALED_CONTENT_TYPE, decode_keys
from hybrid_detect.exchange.key_files import write_key_file
from hybrid_detect.exchange.key_ring import GRACE, KeyRing
from hybrid_detect.exchange.keys import PrivateKey, PublicKey, Suite
from hybrid_detect.exchange.sealer import Sealer
from hybrid_detect.exchange.sealing import SealedRequest, open_reply
from hybrid_detect.exchange.wire import (
    CONTENT_TYPE,
    DetectRequest,
    ErrorReply,
    ResultReply,
    decode_reply,
    encode_request,
    peek_request_id,
    with_request_id,
)
from hybrid_detect.frames.frame import Frame
from hybrid_detect.server.app import create_app
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.server.detectors import Detection
from hybrid_detect.server.sealing import RELOAD_S, Received, Sealing, SealRefusedError
from hybrid_detect.server.shared_state import LocalState
from hybrid_detect.types import BoundingBox, Face

from ..clock import FakeClock
from ..exchange.suites import needs_post_quantum
from ..fuzzing import examples

TOKEN = "a-token-of-the-tests"
HEADERS = {
    "Authorization": f"Bearer {TOKEN}",
    "Content-Type": SEALED_CONTENT_TYPE,
    "Accept": CONTENT_TYPE,
}
START_S = 1_800_000_000.0
FACE = Face(BoundingBox(1, 2, 30, 40), 0.9)


class FakeDetector:
    """Reads the picture's size."""

    model = "fake"
    info = None

    def __init__(self) -> None:
        self.seen: list[DetectRequest] = []

    async def start(self) -> None: ...

    async def detect(
        self, request: DetectRequest, *, is_abandoned: Any = None, **_: object
    ) -> Detection:
        self.seen.append(request)
        frame = Frame.of(request.image)
        return Detection(
            width=frame.width, height=frame.height, faces=(FACE,), queue_s=0.001, detect_s=0.002
        )

    async def aclose(self) -> None: ...


def key(suite: Suite = Suite.X25519_CHACHA20, *, days: float = 20_000) -> PrivateKey:
    ends = datetime.fromtimestamp(START_S, UTC) + timedelta(days=days)
    return PrivateKey.generate(suite, ends)


def message(**options: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(out, "JPEG")
    values = {"request_id": 0, "image": out.getvalue(), "session_id": "the-session", **options}
    return encode_request(DetectRequest(**values))


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(START_S)


@pytest.fixture
def private() -> PrivateKey:
    return key()


@pytest.fixture
def path(tmp_path: Path, private: PrivateKey) -> Path:
    write_key_file(tmp_path / "keys.json", KeyRing((private,)))
    return tmp_path / "keys.json"


@pytest.fixture
def sealing(path: Path, clock: FakeClock) -> Sealing:
    return Sealing(path, clock=clock)


@pytest.fixture
def client(private: PrivateKey, clock: FakeClock) -> Sealer:
    return Sealer(private.public, clock=clock)


def memory(clock: FakeClock, steady: FakeClock) -> LocalState:
    return LocalState(ServerConfig(), clock=clock, steady_clock=steady)


def receive(sealing: Sealing, data: bytes) -> Received:
    return asyncio.run(sealing.receive(data))


def refusal(sealing: Sealing, data: bytes) -> ErrorReply:
    with pytest.raises(SealRefusedError) as caught:
        receive(sealing, data)
    return caught.value.reply


# ---- opening and sealing


def test_a_sealed_message_is_opened_and_its_reply_sealed(sealing: Sealing, client: Sealer) -> None:
    sealed = client.seal(message())
    received = receive(sealing, with_request_id(sealed.data, 9))
    assert received.message == message()
    reply = received.protected(b"faces")
    assert peek_request_id(reply) == 9
    assert client.open(reply, sealed) == b"faces"


def test_a_plain_message_passes_where_that_is_allowed(sealing: Sealing) -> None:
    assert sealing.is_taken_as_it_is(message())


def test_plaintext_is_refused_where_encryption_is_required(path: Path, clock: FakeClock) -> None:
    sealing = Sealing(path, require=True, clock=clock)
    for plain in (with_request_id(message(), 5), b"\xff\xd8 a bare picture"):
        assert not sealing.is_taken_as_it_is(plain)
        reply = refusal(sealing, plain)
        assert (reply.status, reply.code) == (403, "encryption_required")


def test_a_replay_is_refused(sealing: Sealing, client: Sealer, clock: FakeClock) -> None:
    sealed = client.seal(message())
    receive(sealing, sealed.data)
    for number in (0, 1):  # the number on the link makes it no other request
        reply = refusal(sealing, with_request_id(sealed.data, number))
        assert (reply.status, reply.code, reply.request_id) == (409, "replayed", number)
    clock.now_s += 31
    assert refusal(sealing, sealed.data).code == "stale"


def test_requests_may_come_in_another_order(
    sealing: Sealing, client: Sealer, clock: FakeClock
) -> None:
    first = client.seal(message())
    clock.now_s += 1
    second = client.seal(message())
    for sealed in (second, first):
        received = receive(sealing, sealed.data)
        assert open_reply(received.protected(b"faces"), sealed).message == b"faces"


def test_a_refused_forgery_does_not_use_up_the_true_requests_nonce(
    sealing: Sealing, client: Sealer
) -> None:
    sealed = client.seal(message())
    forged = sealed.data[:-1] + bytes([sealed.data[-1] ^ 1])
    assert refusal(sealing, forged).code == "bad_seal"
    assert receive(sealing, sealed.data).message == message()


@pytest.mark.parametrize("offset_s", [-31, 31, -3600, 1e8])
def test_a_clock_far_off_is_told_so(
    sealing: Sealing, client: Sealer, clock: FakeClock, offset_s: float
) -> None:
    clock.now_s += offset_s
    sealed = client.seal(message())
    clock.now_s = START_S
    reply = refusal(sealing, sealed.data)
    assert (reply.status, reply.code) == (412, "stale")


@pytest.mark.parametrize("ahead_s", [20.0, 3600.0, 1e6])
def test_a_clock_that_is_put_right_locks_no_client_out(
    path: Path, client: Sealer, clock: FakeClock, ahead_s: float, caplog: pytest.LogCaptureFixture
) -> None:
    steady = FakeClock(0)
    clock.now_s += ahead_s
    sealing = Sealing(path, clock=clock, state=memory(clock, steady))
    steady.now_s += 10
    clock.now_s += 10 - ahead_s
    sealed = client.seal(message())
    assert receive(sealing, sealed.data).message == message()
    assert refusal(sealing, sealed.data).code == "replayed"
    assert [record.getMessage() for record in caplog.records] == [
        f"the clock was set back by {ahead_s:.0f} s: sealed requests start over"
    ]
    for clock_s in (0.5, 1.0):  # and goes on as before
        clock.now_s += clock_s
        steady.now_s += clock_s
        receive(sealing, client.seal(message()).data)
    assert len(caplog.records) == 1


def test_a_clock_that_is_set_forward_or_slewed_starts_nothing_over(
    path: Path, client: Sealer, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    steady = FakeClock(0)
    sealing = Sealing(path, clock=clock, state=memory(clock, steady))
    early = client.seal(message())
    for clock_s, steady_s in ((3600, 1), (10, 10.9), (10, 10.9)):
        clock.now_s += clock_s
        steady.now_s += steady_s
        receive(sealing, client.seal(message()).data)
        assert refusal(sealing, early.data).code == "stale"
    assert caplog.records == []


def test_a_wrong_key_is_told_so(sealing: Sealing, clock: FakeClock) -> None:
    stranger = Sealer(key().public, clock=clock)
    reply = refusal(sealing, stranger.seal(message()).data)
    assert (reply.status, reply.code) == (421, "unknown_key")


def test_a_server_without_keys_opens_nothing_and_publishes_nothing(
    client: Sealer, clock: FakeClock
) -> None:
    sealing = Sealing(None, clock=clock)
    assert refusal(sealing, client.seal(message()).data).code == "unknown_key"
    assert sealing.published() == []
    assert sealing.is_taken_as_it_is(message())


def test_a_suite_named_wrongly_is_refused(sealing: Sealing, client: Sealer) -> None:
    header, body = envelope.unpack_request(client.seal(message()).data)
    downgraded = envelope.pack_request(
        replace(header, suite=Suite.X25519_AES_GCM.code), bytes(body)
    )
    assert refusal(sealing, downgraded).code == "bad_seal"


@settings(
    max_examples=examples(300),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.binary(max_size=200) | st.binary(max_size=200).map(lambda rest: b"HS\1\1" + rest))
def test_whatever_comes_it_passes_or_is_refused(sealing: Sealing, data: bytes) -> None:
    sealing.answer(data)
    try:
        assert receive(sealing, data).message == data
    except SealRefusedError as refused:
        assert 400 <= refused.reply.status < 500  # noqa: PT017 - both are right


# ---- keys


def published_over_the_link(sealing: Sealing) -> list[str]:
    answer = sealing.answer(with_request_id(KEYS_REQUEST, 3))
    assert answer is not None
    assert peek_request_id(answer) == 3
    return [PublicKey.from_json(value).id for value in decode_keys(answer)]


def test_keys_are_published_and_nothing_private_with_them(
    sealing: Sealing, private: PrivateKey
) -> None:
    assert published_over_the_link(sealing) == [private.public.id]
    assert private.to_json()["private_key"] not in str(sealing.published())
    assert sealing.answer(message()) is None
    assert sealing.answer(b"HS\7") is None


def test_a_rotation_is_noticed_and_the_old_key_goes_on(
    sealing: Sealing,
    client: Sealer,
    path: Path,
    private: PrivateKey,
    clock: FakeClock,
) -> None:
    new = key()
    write_key_file(path, KeyRing((new, private)))
    assert published_over_the_link(sealing) == [private.public.id], "not looked at yet"
    clock.now_s += RELOAD_S
    assert published_over_the_link(sealing) == [new.public.id, private.public.id]

    sealed = client.seal(message())
    assert client.open(receive(sealing, sealed.data).protected(b"faces"), sealed) == b"faces"
    assert client.public_key == new.public, "the reply has named the successor"
    sealed = client.seal(message())
    assert client.open(receive(sealing, sealed.data).protected(b"faces"), sealed) == b"faces"
    assert client.public_key == new.public


@needs_post_quantum
def test_a_client_is_named_a_newer_key_of_its_own_suite_or_the_post_quantum_one(
    path: Path, clock: FakeClock
) -> None:
    old = {suite: key(suite) for suite in Suite}
    new = {suite: key(suite) for suite in Suite}
    chacha, lattice = Suite.X25519_CHACHA20, Suite.MLKEM768_X25519

    def successor_of(used: PrivateKey, *ring: PrivateKey) -> PublicKey | None:
        write_key_file(path, KeyRing(ring))
        sealing = Sealing(path, clock=clock)
        sealed = Sealer(used.public, clock=clock).seal(message())
        return open_reply(receive(sealing, sealed.data).protected(b""), sealed).successor

    for suite in Suite:
        assert successor_of(old[suite], *old.values()) is None
        assert successor_of(old[suite], new[suite], old[suite]) == new[suite].public
        expected = None if suite is lattice else new[lattice].public
        assert successor_of(new[suite], new[lattice], *new.values(), *old.values()) == expected
    assert successor_of(old[lattice], new[chacha], old[lattice]) is None
    assert successor_of(old[chacha], new[lattice], old[chacha]) == new[lattice].public


def test_a_revoked_key_is_refused(
    sealing: Sealing, client: Sealer, path: Path, clock: FakeClock
) -> None:
    write_key_file(path, KeyRing((key(),)))
    clock.now_s += RELOAD_S
    assert refusal(sealing, client.seal(message()).data).code == "unknown_key"


def test_a_key_opens_a_grace_longer_than_it_is_published(path: Path, clock: FakeClock) -> None:
    ending = key(days=1)
    write_key_file(path, KeyRing((ending,)))
    sealing = Sealing(path, clock=clock)
    late = FakeClock(START_S + 86_400)  # by the client's clock, it has just not ended
    client = Sealer(ending.public, clock=late)
    clock.now_s = late.now_s + 20
    assert sealing.published() == []
    assert receive(sealing, client.seal(message()).data).message == message()
    clock.now_s += GRACE.total_seconds()
    assert refusal(sealing, client.seal(message()).data).code == "unknown_key"


def test_a_damaged_key_file_does_not_end_a_server_that_works(
    sealing: Sealing,
    client: Sealer,
    path: Path,
    clock: FakeClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path.write_text("{")
    clock.now_s += RELOAD_S
    assert receive(sealing, client.seal(message()).data).message == message()
    assert "old ones stay" in caplog.text
    path.unlink()
    clock.now_s += RELOAD_S
    assert receive(sealing, client.seal(message()).data).message == message()


def test_a_server_does_not_start_with_keys_it_cannot_use(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        create_app(ServerConfig(keys_path=tmp_path / "none"), FakeDetector())
    with pytest.raises(ConfigurationError, match="keys_path"):
        ServerConfig(require_encryption=True)


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX's")
def test_a_server_does_not_start_with_keys_that_others_may_read(path: Path) -> None:
    path.chmod(0o644)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        create_app(ServerConfig(keys_path=path), FakeDetector())


# ---- over HTTP


@pytest.fixture
def detector() -> FakeDetector:
    return FakeDetector()


@pytest.fixture
async def http(path: Path, detector: FakeDetector) -> AsyncIterator[httpx.AsyncClient]:
    config = ServerConfig(auth_token=TOKEN, keys_path=path, require_encryption=True)
    transport = httpx.ASGITransport(create_app(config, detector), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as made:
        yield made


def sealed_now(private: PrivateKey, **options: Any) -> SealedRequest:
    """By the real clock, which the app has."""
    return Sealer(private.public).seal(message(**options))


@pytest.mark.anyio
async def test_a_sealed_picture_gets_a_sealed_answer(
    http: httpx.AsyncClient, detector: FakeDetector, private: PrivateKey
) -> None:
    sealed = sealed_now(private)
    reply = await http.post("/v1/detect", content=sealed.data, headers=HEADERS)
    assert reply.status_code == 200
    assert reply.headers["Content-Type"] == SEALED_CONTENT_TYPE
    assert "Server-Timing" not in reply.headers
    assert b'"faces"' not in reply.content
    found = decode_reply(open_reply(reply.content, sealed).message)
    assert isinstance(found, ResultReply)
    assert found.faces == (FACE,)
    assert found.receive_s is not None
    assert detector.seen[0].session_id == "the-session"

    again = await http.post("/v1/detect", content=sealed.data, headers=HEADERS)
    assert again.status_code == 409
    assert len(detector.seen) == 1


@pytest.mark.anyio
async def test_what_is_wrong_with_an_opened_picture_is_said_sealed(
    http: httpx.AsyncClient, private: PrivateKey
) -> None:
    sealed = sealed_now(private, image=b"no picture")
    reply = await http.post("/v1/detect", content=sealed.data, headers=HEADERS)
    assert reply.status_code == 422
    assert b"invalid_image" not in reply.content
    found = decode_reply(open_reply(reply.content, sealed).message)
    assert isinstance(found, ErrorReply)
    assert found.code == "invalid_image"


@pytest.mark.anyio
async def test_the_sealed_message_must_be_one_of_the_wire_format(
    http: httpx.AsyncClient, private: PrivateKey
) -> None:
    sealed = Sealer(private.public).seal(b"anything")
    reply = await http.post("/v1/detect", content=sealed.data, headers=HEADERS)
    assert reply.status_code == 400
    found = decode_reply(open_reply(reply.content, sealed).message)
    assert isinstance(found, ErrorReply)


@pytest.mark.anyio
@pytest.mark.parametrize("content_type", [CONTENT_TYPE, SEALED_CONTENT_TYPE, "image/jpeg"])
async def test_plaintext_is_refused_whatever_it_calls_itself(
    http: httpx.AsyncClient, detector: FakeDetector, content_type: str
) -> None:
    headers = {**HEADERS, "Content-Type": content_type}
    for content in (message(), b"\xff\xd8 a bare picture"):
        reply = await http.post("/v1/detect", content=content, headers=headers)
        assert reply.status_code == 403
    assert detector.seen == []


@pytest.mark.anyio
async def test_the_public_keys_can_be_read(http: httpx.AsyncClient, private: PrivateKey) -> None:
    reply = await http.get("/v1/keys", headers=HEADERS)
    assert reply.status_code == 200
    (value,) = reply.json()["keys"]
    assert set(value) == {"id", "suite", "not_after", "public_key"}
    assert PublicKey.from_json(value) == private.public


@pytest.mark.anyio
async def test_encryption_is_no_way_around_the_token(
    http: httpx.AsyncClient, detector: FakeDetector, private: PrivateKey
) -> None:
    headers = {**HEADERS, "Authorization": "Bearer wrong"}
    for content in (sealed_now(private).data, KEYS_REQUEST):
        reply = await http.post("/v1/detect", content=content, headers=headers)
        assert reply.status_code == 401
    assert detector.seen == []

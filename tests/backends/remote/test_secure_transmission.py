"""One picture sealed and sent by hand: over a function, and over a backend's transport."""

from __future__ import annotations

import io
from datetime import UTC, datetime

import numpy as np
import pytest
from PIL import Image

from hybrid_detect.backends.remote.protocol import HttpRequest, HttpResponse
from hybrid_detect.backends.remote.remote_backend import RemoteBackend
from hybrid_detect.backends.remote.secure_transmission import SecureImageTransmission
from hybrid_detect.errors import BackendResponseError
from hybrid_detect.exchange.keys import PrivateKey, PublicKey, Suite
from hybrid_detect.exchange.sealing import OpenedRequest, open_request, seal_reply
from hybrid_detect.exchange.wire import ErrorReply, ResultReply, decode_request, encode_reply
from hybrid_detect.types import BackendKind, BoundingBox, Face

from ...exchange.suites import AVAILABLE, each_suite

END = datetime(2099, 1, 1, tzinfo=UTC)
KEYS = {suite: PrivateKey.generate(suite, END) for suite in AVAILABLE}
OTHERS = {suite: PrivateKey.generate(suite, END) for suite in AVAILABLE}
FACE = Face(BoundingBox(8, 8, 24, 24), 0.75)
RESULT = ResultReply(request_id=0, width=64, height=48, faces=(FACE,), model="m")


def picture() -> np.ndarray:
    return np.full((48, 64, 3), 128, dtype=np.uint8)


class Server:
    """Opens, answers, and keeps what came."""

    def __init__(self, key: PrivateKey, successor: PublicKey | None = None) -> None:
        self.key = key
        self.successor = successor
        self.reply: ResultReply | ErrorReply = RESULT
        self.came: list[bytes] = []
        self.opened: list[OpenedRequest] = []

    async def __call__(self, data: bytes) -> bytes:
        self.came.append(data)
        request = open_request(data, {self.key.public.id: self.key})
        self.opened.append(request)
        return seal_reply(encode_reply(self.reply), request, successor=self.successor)


class Carrier(RemoteBackend):
    kind = BackendKind.STREAMING

    def __init__(self, server: Server) -> None:
        super().__init__()
        self.server = server

    async def exchange(
        self, request: HttpRequest, *, deadline_s: float, upload: object = None
    ) -> HttpResponse:
        assert 0 < deadline_s <= 20
        return HttpResponse(status=200, body=await self.server(request.body))


@pytest.mark.anyio
@each_suite
async def test_encrypt_and_send(suite: Suite) -> None:
    server = Server(KEYS[suite])
    transmission = SecureImageTransmission(KEYS[suite].public.text)
    result = await transmission.encrypt_and_send(picture(), send=server, session_id="the-session")
    assert result.answered
    assert [face.box.xyxy for face in result.faces] == [(8, 8, 24, 24)]
    assert result.bytes_sent == len(server.came[0])
    assert b"the-session" not in server.came[0]
    request = decode_request(server.opened[0].message)
    assert request.session_id == "the-session"
    assert request.min_confidence is None, "left to the server's model"
    with Image.open(io.BytesIO(request.image)) as sent:
        assert sent.size == (64, 48)


@pytest.mark.anyio
async def test_a_backend_may_carry_it() -> None:
    key = KEYS[Suite.X25519_CHACHA20]
    result = await SecureImageTransmission(key.public).encrypt_and_send(
        picture(), send=Carrier(Server(key)), deadline_s=20
    )
    assert result.backend is BackendKind.STREAMING
    assert len(result.faces) == 1


@pytest.mark.anyio
async def test_a_refusal_is_an_error() -> None:
    server = Server(KEYS[Suite.X25519_CHACHA20])
    server.reply = ErrorReply(request_id=0, status=422, code="invalid_image")
    with pytest.raises(BackendResponseError) as caught:
        await SecureImageTransmission(server.key.public).encrypt_and_send(picture(), send=server)
    assert caught.value.status_code == 422


@pytest.mark.anyio
async def test_a_new_key_that_the_old_one_vouches_for_is_used_from_then_on() -> None:
    old, new = KEYS[Suite.X25519_CHACHA20], OTHERS[Suite.X25519_CHACHA20]
    told: list[PublicKey] = []
    transmission = SecureImageTransmission(old.public, on_successor=told.append)
    await transmission.encrypt_and_send(picture(), send=Server(old, successor=new.public))
    assert transmission.public_key == new.public
    assert told == [new.public]
    server = Server(new)
    await transmission.encrypt_and_send(picture(), send=server)
    assert server.opened[0].key_id == new.public.id


@pytest.mark.anyio
@each_suite
async def test_a_new_key_of_a_weaker_or_another_suite_is_not_used(suite: Suite) -> None:
    for other in set(Suite) - {suite, Suite.MLKEM768_X25519}:
        transmission = SecureImageTransmission(KEYS[suite].public)
        await transmission.encrypt_and_send(
            picture(), send=Server(KEYS[suite], successor=OTHERS[other].public)
        )
        assert transmission.public_key == KEYS[suite].public

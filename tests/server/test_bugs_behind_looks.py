"""A bug in what follows a look costs its picture the result, which is told so, and no other."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect

from hybrid_detect.exchange.batch import BATCH_CONTENT_TYPE, BATCH_PATH, decode_batch, encode_batch
from hybrid_detect.exchange.wire import (
    DETECT_PATH,
    RESUME_HEADER,
    STREAM_PATH,
    DetectRequest,
    ErrorReply,
    ResultReply,
    decode_reply,
    encode_reply,
    encode_request,
)
from hybrid_detect.server import app, observation
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.server.detectors import Detection
from hybrid_detect.server.live import LiveSessions, Presence
from hybrid_detect.server.picture_requests import SESSION_HEADER
from hybrid_detect.server.retention import Retention

from ..waiting import LIMIT_S
from .loopback import OneFace, jpeg, served

pytestmark = pytest.mark.anyio

SESSION = "visit"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def message(number: int) -> bytes:
    return encode_request(DetectRequest(request_id=number, image=jpeg(), session_id=SESSION))


class Unfinished(OneFace):
    """Finds, in its first picture, what is no face."""

    async def detect(self, request: DetectRequest, **asked: Any) -> Detection:
        found = await super().detect(request)
        faces: Any = None if self.looks == 1 else found.faces
        return Detection(width=9, height=9, faces=faces, queue_s=0.0, detect_s=0.0)


def fails_once(real: Callable[..., Any]) -> Callable[..., Any]:
    """`real`, but for the first call, which has a bug."""
    calls = 0

    def function(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 1:
            msg = "a secret cause"
            raise LookupError(msg)
        return real(*arguments, **options)

    return function


def broken(monkeypatch: pytest.MonkeyPatch, part: str) -> OneFace:
    """A detector whose first picture meets a bug in that part of the server."""
    owners: dict[str, tuple[object, str, Any]] = {
        "live": (LiveSessions, "publish", LiveSessions.publish),
        "presence": (Presence, "note", Presence.note),
        "retention": (Retention, "keep", Retention.keep),
        "encoding": (app, "encode_reply", encode_reply),
        "observation": (observation._Noting, "reply", observation._Noting.reply),
    }
    if part == "reply":
        return Unfinished()
    owner, name, real = owners[part]
    monkeypatch.setattr(owner, name, fails_once(real))
    return OneFace()


def bugs_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


ONE_LINE = ["answering a picture failed with a bug"]


@pytest.mark.parametrize("is_resumable", [False, True], ids=["", "resumable"])
@pytest.mark.parametrize(
    "part", ["reply", "live", "presence", "retention", "encoding", "observation"]
)
async def test_a_stream_s_picture_is_told_and_the_stream_goes_on(
    part: str,
    is_resumable: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    path = tmp_path / "history.db"
    config = ServerConfig(rate_per_s=0, history_path=path, metrics_token="t" * 32)
    headers = {RESUME_HEADER: "0" * 32} if is_resumable else {}
    async with (
        asyncio.timeout(LIMIT_S),
        served(config, detector=broken(monkeypatch, part)) as server,
        connect(
            f"ws://127.0.0.1:{server.port}{STREAM_PATH}",
            compression=None,
            additional_headers=headers,
        ) as link,
    ):
        await link.send(message(1))
        first = await link.recv()
        await link.send(message(2))
        second = await link.recv()
    assert isinstance(first, bytes)
    assert isinstance(second, bytes)
    told = decode_reply(first)
    assert isinstance(told, ErrorReply)
    assert (told.request_id, told.status, told.code) == (1, 500, "internal")
    assert b"secret" not in first
    answered = decode_reply(second)
    assert isinstance(answered, ResultReply)
    assert answered.request_id == 2
    assert bugs_in(caplog) == ONE_LINE
    assert "LookupError" in caplog.text or part == "reply"


async def test_a_picture_of_a_batch_is_told_and_the_others_have_their_results(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config, detector = ServerConfig(rate_per_s=0), broken(monkeypatch, "live")
    async with served(config, detector=detector) as server, httpx.AsyncClient() as client:
        answer = await client.post(
            f"http://127.0.0.1:{server.port}{BATCH_PATH}",
            content=encode_batch([message(1), message(2), message(3)]),
            headers={"Content-Type": BATCH_CONTENT_TYPE, "Accept": BATCH_CONTENT_TYPE},
        )
    replies = [decode_reply(reply) for reply in decode_batch(answer.content)]
    codes = [reply.code if isinstance(reply, ErrorReply) else "" for reply in replies]
    assert codes == ["internal", "", ""]
    assert bugs_in(caplog) == ONE_LINE


async def test_a_request_is_told_the_same(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config, detector = ServerConfig(rate_per_s=0), broken(monkeypatch, "live")
    async with served(config, detector=detector) as server, httpx.AsyncClient() as client:
        answer = await client.post(
            f"http://127.0.0.1:{server.port}{DETECT_PATH}",
            content=jpeg(),
            headers={SESSION_HEADER: SESSION},
        )
    assert (answer.status_code, json.loads(answer.content)["code"]) == (500, "internal")
    assert len(bugs_in(caplog)) == 1

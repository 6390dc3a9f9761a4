"""Credentials: tokens that end, functions that give them, and what nobody may see."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from typing import Any

import numpy as np
import pytest

from hybrid_detect.backends.remote import renewal
from hybrid_detect.backends.remote.cloud import CloudDetectionService
from hybrid_detect.backends.remote.credentials import AccessToken, ApiKeyHeader, BearerToken
from hybrid_detect.backends.remote.protocol import HttpRequest
from hybrid_detect.backends.remote.renewal import REASK_S, REFRESH_BEFORE_S
from hybrid_detect.backends.remote.streaming import StreamingService
from hybrid_detect.config import ServiceConfig
from hybrid_detect.errors import (
    BackendResponseError,
    BackendUnavailableError,
    ConfigurationError,
)
from hybrid_detect.frames.frame import Frame
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.service.hybrid import HybridDetectionService
from hybrid_detect.types import BackendKind, Plan

from ...foreign_server import Request, foreign_server, json_answer
from ...server.loopback import served
from ...waiting import until

REQUEST = HttpRequest(url="https://a.example/x", headers={"Accept": "y"})
FRAME = Frame.of(np.zeros((48, 64, 3), np.uint8))
NOW_S = 1_800_000_000.0


def plan(kind: BackendKind) -> Plan:
    return Plan(backend=kind, reason="test", deadline_s=20.0, retries=0)


def refused(status: int) -> BackendResponseError:
    return BackendResponseError("no", status_code=status)


def jwt(**claims: Any) -> str:
    text = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"e30.{text}.c2ln"


class Giver:
    """Gives tokens by turns and counts the questions."""

    def __init__(self, *tokens: Any) -> None:
        self.tokens = tokens
        self.asked = 0
        self.threads: set[str] = set()

    def __call__(self) -> Any:
        self.threads.add(threading.current_thread().name)
        self.asked += 1
        token = self.tokens[min(self.asked, len(self.tokens)) - 1]
        if isinstance(token, Exception):
            raise token
        return token


async def sent(credentials: BearerToken | ApiKeyHeader, now_s: float = NOW_S) -> dict[str, str]:
    await credentials.prepare(now_s=now_s)
    return dict(credentials.apply(REQUEST, now_s=now_s).headers)


@pytest.mark.anyio
async def test_a_token_goes_into_its_header_beside_the_others() -> None:
    assert await sent(BearerToken("t")) == {"Accept": "y", "Authorization": "Bearer t"}
    assert await sent(ApiKeyHeader("k")) == {"Accept": "y", "X-Api-Key": "k"}
    assert (await sent(ApiKeyHeader("k", header="Ocp-Key")))["Ocp-Key"] == "k"


@pytest.mark.anyio
async def test_a_function_is_asked_once_and_not_on_the_event_loops_thread() -> None:
    giver = Giver("one", "two")
    credentials = BearerToken(giver)
    for _ in range(3):
        assert (await sent(credentials))["Authorization"] == "Bearer one"
    assert giver.asked == 1
    assert threading.current_thread().name not in giver.threads


@pytest.mark.anyio
async def test_an_async_function_gives_a_token_too() -> None:
    async def give() -> AccessToken:
        return AccessToken("one")

    assert (await sent(BearerToken(give)))["Authorization"] == "Bearer one"
    assert (await sent(BearerToken(lambda: give())))["Authorization"] == "Bearer one"


@pytest.mark.anyio
async def test_frames_that_wait_share_one_question() -> None:
    asked = 0
    go = asyncio.Event()

    async def give() -> str:
        nonlocal asked
        asked += 1
        await go.wait()
        return "one"

    credentials = BearerToken(give)
    waiting = [asyncio.create_task(sent(credentials)) for _ in range(5)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    go.set()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert all(result["Authorization"] == "Bearer one" for result in results[1:])  # type: ignore[index,call-overload]
    assert asked == 1


@pytest.mark.anyio
@pytest.mark.parametrize(
    "first",
    [AccessToken("one", NOW_S + 3600), jwt(exp=NOW_S + 3600)],
    ids=["told", "a JSON Web Token"],
)
async def test_a_token_is_asked_for_again_shortly_before_it_ends(first: Any) -> None:
    giver = Giver(first, "two")
    credentials = BearerToken(giver)
    text = first.value if isinstance(first, AccessToken) else first
    early_s = NOW_S + 3600 - REFRESH_BEFORE_S - 1
    assert (await sent(credentials))["Authorization"] == f"Bearer {text}"
    assert (await sent(credentials, early_s))["Authorization"] == f"Bearer {text}"
    await sent(credentials, early_s + 2)
    await until(lambda: credentials._token.current().value == "two")
    assert (await sent(credentials, early_s + 2))["Authorization"] == "Bearer two"
    assert giver.asked == 2


@pytest.mark.anyio
async def test_a_short_lived_token_is_used_for_nine_tenths_of_its_life() -> None:
    giver = Giver(AccessToken("one", NOW_S + 20), AccessToken("two", NOW_S + 3600))
    credentials = BearerToken(giver)
    for at_s in (0, 17.9, 18.1):
        assert (await sent(credentials, NOW_S + at_s))["Authorization"] == "Bearer one"
    await until(lambda: credentials._token.current().value == "two")
    assert giver.asked == 2


@pytest.mark.anyio
async def test_a_token_that_is_still_good_serves_while_a_new_one_is_fetched() -> None:
    asked = 0
    go = asyncio.Event()

    async def give() -> AccessToken:
        nonlocal asked
        asked += 1
        if asked > 1:
            await go.wait()
        return AccessToken(f"token-{asked}", NOW_S + 3600 * asked)

    credentials = BearerToken(give)
    await sent(credentials)
    due_s = NOW_S + 3600 - REFRESH_BEFORE_S
    for _ in range(3):
        assert (await sent(credentials, due_s))["Authorization"] == "Bearer token-1"
    ended = asyncio.create_task(sent(credentials, NOW_S + 3600))
    refusing = asyncio.create_task(sent(credentials, due_s))
    await asyncio.sleep(0)
    assert (await refusing)["Authorization"] == "Bearer token-1"
    assert not ended.done(), "one that has ended is not sent"
    go.set()
    assert (await ended)["Authorization"] == "Bearer token-2"
    assert asked == 2


@pytest.mark.anyio
async def test_a_refused_token_is_not_sent_again_however_long_it_should_last() -> None:
    giver = Giver(AccessToken("one", NOW_S + 3600), RuntimeError(), "two")
    credentials = BearerToken(giver)
    await sent(credentials)
    assert credentials.on_refused(refused(401))
    with pytest.raises(BackendUnavailableError):
        await sent(credentials)
    assert (await sent(credentials))["Authorization"] == "Bearer two"


@pytest.mark.anyio
async def test_a_function_that_hangs_holds_one_thread_and_its_late_answer_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(renewal, "FETCH_S", 0.02)
    asked: list[str] = []
    release = threading.Event()

    def give() -> str:
        asked.append(threading.current_thread().name)
        release.wait(60)
        return "late"

    credentials = BearerToken(give)
    try:
        for _ in range(3):
            with pytest.raises(BackendUnavailableError, match="TimeoutError"):
                await sent(credentials)
        monkeypatch.setattr(renewal, "FETCH_S", 60.0)
    finally:
        release.set()
    assert (await sent(credentials))["Authorization"] == "Bearer late"
    assert len(asked) == 1


@pytest.mark.anyio
async def test_a_fetch_that_fails_costs_no_frame_while_the_token_is_good() -> None:
    giver = Giver(AccessToken("one", NOW_S + 3600), RuntimeError("canary"), "two")
    credentials = BearerToken(giver)
    await sent(credentials)
    due_s = NOW_S + 3600 - REFRESH_BEFORE_S
    assert (await sent(credentials, due_s))["Authorization"] == "Bearer one"
    await until(lambda: credentials._token._renewing is None)
    assert (await sent(credentials, due_s + REASK_S / 2))["Authorization"] == "Bearer one"
    assert giver.asked == 2, "once a second, not per frame"
    await sent(credentials, due_s + REASK_S)
    await until(lambda: credentials._token.current().value == "two")


@pytest.mark.anyio
async def test_a_function_that_gives_ended_tokens_is_asked_once_a_second() -> None:
    giver = Giver(AccessToken("one", NOW_S - 5))
    credentials = BearerToken(giver)
    for at_s in (0, REASK_S / 2, REASK_S * 0.9):
        await sent(credentials, NOW_S + at_s)
    assert giver.asked == 1
    await sent(credentials, NOW_S + REASK_S * 1.1)
    assert giver.asked == 2


@pytest.mark.anyio
async def test_a_refused_token_is_asked_for_again_if_there_is_anyone_to_ask() -> None:
    giver = Giver("one", "two")
    credentials = BearerToken(giver)
    await sent(credentials)
    assert not credentials.on_refused(refused(403))
    assert credentials.on_refused(refused(401))
    assert (await sent(credentials))["Authorization"] == "Bearer two"
    assert not BearerToken("fixed").on_refused(refused(401))


@pytest.mark.anyio
@pytest.mark.parametrize(
    "given",
    [RuntimeError("canary"), ValueError("canary"), "can ary", "canary\n", 7, None, b"canary"],
)
async def test_a_function_that_fails_is_a_typed_error_without_its_words(given: Any) -> None:
    with pytest.raises(BackendUnavailableError) as caught:
        await sent(BearerToken(Giver(given)))
    assert "canary" not in f"{caught.value!r} {caught.value.__cause__!r}"


@pytest.mark.anyio
async def test_after_a_failure_the_next_frame_asks_again() -> None:
    credentials = BearerToken(Giver(RuntimeError(), "two"))
    with pytest.raises(BackendUnavailableError):
        await sent(credentials)
    assert (await sent(credentials))["Authorization"] == "Bearer two"


@pytest.mark.parametrize("token", ["", "a b", "a\n", "é", 7, None, b"x"])
def test_what_cannot_be_a_token_is_refused_at_construction(token: Any) -> None:
    for make in (BearerToken, ApiKeyHeader):
        with pytest.raises(ConfigurationError):
            make(token)


@pytest.mark.parametrize("header", ["", "X Key", "X-Key:", "X\n", "Ä"])
def test_what_cannot_be_a_header_is_refused_at_construction(header: str) -> None:
    with pytest.raises(ConfigurationError):
        ApiKeyHeader("k", header=header)


@pytest.mark.parametrize(
    "text", ["a.b.c", "a.e30.c", jwt(exp="soon"), jwt(exp=None), jwt(exp=1e999)]
)
def test_what_only_looks_like_a_json_web_token_has_no_known_end(text: str) -> None:
    assert BearerToken(text).on_refused(refused(401)) is False


def test_no_token_is_in_a_repr() -> None:
    for value in (
        AccessToken("canary"),
        BearerToken("canary"),
        ApiKeyHeader("canary"),
        ServiceConfig(auth_token="canary"),
        ServiceConfig(api_key="canary"),
        BearerToken("canary").apply(REQUEST, now_s=0.0),
    ):
        assert "canary" not in repr(value)
    with pytest.raises(ConfigurationError):
        ServiceConfig(auth_token="a", api_key="b")


# ---- over loopback


@pytest.mark.anyio
async def test_a_token_that_has_ended_costs_no_frame() -> None:
    accepted = {"bearer one"}

    async def guarded(request: Request) -> tuple[int, bytes, str]:
        if request.headers["authorization"] not in accepted:
            return json_answer({}, status=401)
        return json_answer({"faces": []})

    giver = Giver("one", "two", "three")
    async with (
        foreign_server(guarded) as server,
        CloudDetectionService("json_endpoint", endpoint=server.url, auth_token=giver) as cloud,
    ):
        await cloud.detect(FRAME, plan(cloud.kind))
        accepted = {"bearer two"}
        await cloud.detect(FRAME, plan(cloud.kind))
        assert giver.asked == 2
        accepted = {"bearer nobody's"}
        with pytest.raises(BackendResponseError) as caught:
            await cloud.detect(FRAME, plan(cloud.kind))
        assert caught.value.status_code == 401
        assert giver.asked == 3, "once after a refusal, not for ever"


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["cloud", "streaming"])
async def test_both_transports_renew_a_refused_token_with_our_own_server(kind: str) -> None:
    giver = Giver("an-old-token", "the-new-token")
    async with served(ServerConfig(auth_token="the-new-token")) as server:
        config = ServiceConfig(
            endpoint=f"http://127.0.0.1:{server.port}", mode=kind, auth_token=giver, deadline_s=20
        )
        async with HybridDetectionService(config=config) as service:
            result = await service.process_image(FRAME)
    assert result.answered
    assert giver.asked == 2


@pytest.mark.anyio
async def test_a_stream_does_not_ask_for_ever_for_a_token_that_is_refused() -> None:
    giver = Giver("wrong-one", "wrong-two")
    async with served(ServerConfig(auth_token="the-right-token")) as server:
        url = f"http://127.0.0.1:{server.port}"
        async with StreamingService(endpoint=url, auth_token=giver) as stream:
            with pytest.raises(BackendResponseError):
                await stream.check(deadline_s=20)
            with pytest.raises(BackendResponseError):
                await stream.detect(FRAME, plan(stream.kind))
    assert giver.asked == 2

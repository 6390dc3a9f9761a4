"""Live results of a session: who sees them, what of them, and what watching may cost."""

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from starlette.requests import ClientDisconnect
from starlette.types import Message
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from hybrid_detect.exchange.envelope import SEALED_CONTENT_TYPE
from hybrid_detect.exchange.key_files import write_key_file
from hybrid_detect.exchange.key_ring import KeyRing
from hybrid_detect.exchange.keys import PrivateKey, Suite
from hybrid_detect.exchange.sealer import Sealer
from hybrid_detect.exchange.wire import (
    CONTENT_TYPE,
    CREDENTIAL_ENDED,
    SUBPROTOCOL,
    DetectRequest,
    ResultReply,
    decode_reply,
    encode_request,
)
from hybrid_detect.server.api_keys import ApiKeyFile
from hybrid_detect.server.app import create_app
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.server.live import LiveSessions, TooManyWatchersError, Watcher
from hybrid_detect.server.live_page import PAGE, PAGE_POLICY

from ..waiting import LIMIT_S, until
from .loopback import FACE, OneFace, Served, jpeg, served

pytestmark = pytest.mark.anyio


def reply(number: int = 0) -> ResultReply:
    return ResultReply(request_id=number, width=64, height=48, faces=(FACE,))


def live(**limits: int) -> LiveSessions:
    limits = {"max_watchers": 99, "max_per_session": 99} | limits
    return LiveSessions(**limits, clock=lambda: 1_800_000_000.25)


async def seen_by(watcher: Watcher) -> list[int]:
    """The request ids of the results until the end."""
    seen = []
    while (result := await watcher.next()) is not None:
        seen.append(result.request_id)
    return seen


# -- who sees what -------------------------------------------------------------------------------


async def test_each_who_watches_sees_each_result_with_its_number_and_time() -> None:
    sessions = live()
    watchers = [sessions.watch("key a", "visit") for _ in range(3)]
    for number in (7, 8):
        sessions.publish("key a", "visit", reply(number))
        for watcher in watchers:
            result = await watcher.next()
            assert result is not None
            assert (result.request_id, result.number) == (number, number - 6)
            assert result.at_s == 1_800_000_000.25
            assert result.faces == (FACE,)


@pytest.mark.parametrize(
    ("owner", "session"), [("key b", "visit"), ("key a", "visit2"), ("token", "visit"), ("", "")]
)
async def test_no_one_sees_another_owner_s_or_another_session(owner: str, session: str) -> None:
    sessions = live()
    watcher = sessions.watch("key a", "visit")
    sessions.publish(owner, session, reply())
    sessions.publish("key a", None, reply())
    watcher.close()
    assert await seen_by(watcher) == []


async def test_who_is_slow_sees_the_newest_and_slows_no_one() -> None:
    sessions = live()
    slow, quick = sessions.watch("", "s"), sessions.watch("", "s")
    seen = []
    for number in range(1000):
        sessions.publish("", "s", reply(number))
        seen.append((await quick.next()).request_id)  # type: ignore[union-attr]
    slow.close()
    assert await seen_by(slow) == [998, 999]
    assert seen == list(range(1000))


async def test_so_many_watch_and_no_more() -> None:
    sessions = live(max_watchers=3, max_per_session=2)
    first, _ = sessions.watch("", "a"), sessions.watch("", "a")
    with pytest.raises(TooManyWatchersError) as caught:
        sessions.watch("", "a")
    assert caught.value.of_session
    sessions.watch("", "b")
    with pytest.raises(TooManyWatchersError) as caught:
        sessions.watch("", "c")
    assert not caught.value.of_session
    first.close()
    first.close()
    sessions.watch("", "a")
    assert sessions.watchers == 3


async def test_it_ends_with_the_last_stream_that_says_goodbye() -> None:
    sessions = live()
    watcher = sessions.watch("", "s")
    streams = [sessions.presence("") for _ in range(3)]
    for stream in streams:
        stream.note("s")
        stream.note("s")
    streams[0].leave(for_good=True)
    streams[1].leave(for_good=False)
    sessions.publish("", "s", reply(5))
    assert watcher.end is None
    streams[2].leave(for_good=True)
    assert await seen_by(watcher) == [5]
    assert watcher.end is not None
    assert (watcher.end.code, watcher.end.reason) == (1000, "the session has ended")


async def test_a_stream_that_breaks_ends_no_session() -> None:
    sessions = live()
    watcher = sessions.watch("", "s")
    broken, next_one = sessions.presence(""), sessions.presence("")
    broken.note("s")
    broken.leave(for_good=False)
    assert watcher.end is None
    next_one.note("s")
    sessions.publish("", "s", reply(6))
    assert (await watcher.next()).request_id == 6  # type: ignore[union-attr]


async def test_nothing_is_remembered_of_sessions_without_watchers_and_streams() -> None:
    sessions = live()
    for number in range(100):
        watcher = sessions.watch("", f"watched {number}")
        stream = sessions.presence("")
        stream.note(f"watched {number}")
        for other in range(100):
            stream.note(f"of many {other}")
        stream.leave(for_good=number % 2 == 0)
        stream.note("after its end")
        watcher.close()
        sessions.publish("", f"never watched {number}", reply())
    assert len(sessions) == 0
    assert sessions.watchers == 0


# -- over the network ----------------------------------------------------------------------------


async def send(server: Served, session: str, key: str = "") -> None:
    headers = {"X-Session-ID": session} | ({"X-API-Key": key} if key else {})
    url = f"http://127.0.0.1:{server.port}/v1/detect"
    async with httpx.AsyncClient(timeout=LIMIT_S) as client:
        (await client.post(url, content=jpeg(), headers=headers)).raise_for_status()


@asynccontextmanager
async def watching(
    server: Served, session: str = "visit", key: str = ""
) -> AsyncIterator[ClientConnection]:
    url = f"ws://127.0.0.1:{server.port}/v1/sessions/{session}/live"
    headers = {"X-API-Key": key} if key else {}
    async with (
        asyncio.timeout(LIMIT_S),
        connect(
            url, subprotocols=[SUBPROTOCOL], additional_headers=headers, compression=None
        ) as link,
    ):
        yield link


@asynccontextmanager
async def events(
    server: Served, session: str = "visit", **headers: str
) -> AsyncIterator[AsyncIterator[str]]:
    url = f"http://127.0.0.1:{server.port}/v1/sessions/{session}/live"
    async with (
        httpx.AsyncClient(timeout=LIMIT_S) as client,
        client.stream("GET", url, headers=headers) as answer,
    ):
        assert answer.status_code == 200
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        assert answer.headers["Cache-Control"] == "no-store"
        lines = answer.aiter_lines()
        assert await anext(lines) == ": watching"
        yield lines


async def event_of(lines: AsyncIterator[str]) -> tuple[str, dict[str, object]]:
    """The next event that is no comment."""
    name = ""
    async for line in lines:
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            return name, json.loads(line.removeprefix("data: "))
    raise AssertionError("the events ended")


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    file = ApiKeyFile(tmp_path / "keys.json")
    return tmp_path / "keys.json", {name: file.add(name) for name in ("ann", "ben")}


async def test_results_come_over_both_ways_and_bring_no_pixels() -> None:
    async with (
        served(ServerConfig(rate_per_s=0)) as server,
        watching(server, "a%20b/c") as link,
        events(server, "a%20b/c") as lines,
    ):
        assert link.subprotocol == SUBPROTOCOL
        await send(server, "another")
        await send(server, "a b/c")
        message = await link.recv()
        assert isinstance(message, bytes)
        result = decode_reply(message)
        assert isinstance(result, ResultReply)
        assert (result.width, result.height, result.faces, result.number) == (64, 48, (FACE,), 1)
        name, values = await event_of(lines)
        assert name == "result"
        assert values["faces"] == [
            {"box": {"x_min": 1.0, "y_min": 2.0, "x_max": 30.0, "y_max": 40.0}, "score": 0.9}
        ]
        assert values["number"] == 1
        assert values["at_s"] == pytest.approx(result.at_s)
        assert len(message) < 400
        assert not {"image", "session_id"} & set(values)


async def test_a_caller_sees_its_own_sessions_alone(keys: tuple[Path, dict[str, str]]) -> None:
    path, secrets = keys
    config = ServerConfig(rate_per_s=0, api_keys=path)
    async with (
        served(config) as server,
        watching(server, key=secrets["ann"]) as ann,
        watching(server, key=secrets["ben"]) as ben,
    ):
        await send(server, "visit", secrets["ben"])
        await send(server, "visit", secrets["ann"])
        await send(server, "visit", secrets["ann"])
        for number in (1, 2):
            assert decode_reply(await ann.recv()).number == number  # type: ignore[union-attr,arg-type]
        assert decode_reply(await ben.recv()).number == 1  # type: ignore[union-attr,arg-type]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await ben.recv()


@pytest.mark.parametrize("key", ["", "wrong"])
async def test_without_a_credential_nothing_is_watched(
    keys: tuple[Path, dict[str, str]], key: str
) -> None:
    async with served(ServerConfig(api_keys=keys[0])) as server:
        with pytest.raises(InvalidStatus) as caught:
            async with watching(server, key=key):
                pass
        assert caught.value.response.status_code == 401
        headers = {"X-API-Key": key} if key else {}
        url = f"http://127.0.0.1:{server.port}/v1/sessions/visit/live"
        async with httpx.AsyncClient() as client:
            assert (await client.get(url, headers=headers)).status_code == 401


@pytest.mark.parametrize(
    ("config", "session", "status", "code"),
    [
        (ServerConfig(max_watchers=0), "visit", 503, "overloaded"),
        (ServerConfig(max_watchers_per_session=1), "taken", 429, "too_many"),
        (ServerConfig(), "x" * 1025, 400, "bad_request"),
    ],
    ids=["server", "session", "too long"],
)
async def test_a_refusal_to_watch_says_why(
    config: ServerConfig, session: str, status: int, code: str
) -> None:
    async with served(config) as server:
        url = f"http://127.0.0.1:{server.port}/v1/sessions/{session}/live"
        async with httpx.AsyncClient() as client:
            if session == "taken":
                async with watching(server, session):
                    answer = await client.get(url)
            else:
                answer = await client.get(url)
                with pytest.raises(InvalidStatus) as caught:
                    async with watching(server, session):
                        pass
                assert caught.value.response.status_code == status
        assert (answer.status_code, answer.json()["code"]) == (status, code)


@pytest.fixture
def private() -> PrivateKey:
    return PrivateKey.generate(Suite.X25519_CHACHA20, datetime.now(UTC) + timedelta(days=1))


async def test_where_encryption_is_required_nothing_is_shown_in_the_clear(
    tmp_path: Path, private: PrivateKey
) -> None:
    write_key_file(tmp_path / "keys", KeyRing((private,)))
    config = ServerConfig(keys_path=tmp_path / "keys", require_encryption=True)
    async with served(config) as server, httpx.AsyncClient() as client:
        answer = await client.get(f"http://127.0.0.1:{server.port}/v1/sessions/s/live")
        assert (answer.status_code, answer.json()["code"]) == (403, "encryption_required")


async def test_what_came_sealed_is_not_shown_in_the_clear(
    tmp_path: Path, private: PrivateKey
) -> None:
    write_key_file(tmp_path / "keys", KeyRing((private,)))
    config = ServerConfig(rate_per_s=0, keys_path=tmp_path / "keys")
    plain = encode_request(DetectRequest(request_id=0, image=jpeg(), session_id="visit"))
    async with served(config) as server, watching(server) as link, httpx.AsyncClient() as client:
        sealed = Sealer(private.public).seal(plain).data
        url = f"http://127.0.0.1:{server.port}/v1/detect"
        for body, media_type in ((sealed, SEALED_CONTENT_TYPE), (plain, CONTENT_TYPE)):
            answer = await client.post(url, content=body, headers={"Content-Type": media_type})
            assert answer.status_code == 200
        assert decode_reply(await link.recv()).number == 1  # type: ignore[union-attr,arg-type]
        assert server.detector.looks == 2
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await link.recv()


async def test_a_session_s_end_ends_both_ways() -> None:
    async with (
        served(ServerConfig(rate_per_s=0)) as server,
        watching(server) as link,
        events(server) as lines,
    ):
        url = f"ws://127.0.0.1:{server.port}/v1/stream"
        message = encode_request(DetectRequest(request_id=1, image=jpeg(), session_id="visit"))
        async with connect(url, compression=None) as camera:
            await camera.send(message)
            await camera.recv()
            await link.recv()
        with pytest.raises(ConnectionClosed):
            await link.recv()
        assert (link.close_code, link.close_reason) == (1000, "the session has ended")
        assert (await event_of(lines))[0] == "result"
        assert await event_of(lines) == ("end", {"reason": "the session has ended"})


async def test_a_stop_ends_both_ways_at_once() -> None:
    async with asyncio.timeout(LIMIT_S), served(ServerConfig()) as server:
        async with watching(server) as link, events(server) as lines:
            stop = asyncio.create_task(server.server.__aexit__(None, None, None))
            with pytest.raises(ConnectionClosed):
                await link.recv()
            assert link.close_code == 1012
            assert await event_of(lines) == ("end", {"reason": "the server is being stopped"})
        await stop


async def test_who_has_watched_long_for_nothing_is_let_go() -> None:
    async with (
        served(ServerConfig(stream_idle_s=0.05)) as server,
        watching(server) as link,
        events(server) as lines,
    ):
        with pytest.raises(ConnectionClosed):
            await link.recv()
        assert link.close_code == 1001
        assert await event_of(lines) == ("end", {"reason": "idle"})


async def test_a_key_that_is_revoked_ends_the_watching(
    keys: tuple[Path, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hybrid_detect.server.live_routes.RECHECK_S", 0.0)
    path, secrets = keys
    config = ServerConfig(rate_per_s=0, api_keys=path)
    async with (
        served(config) as server,
        watching(server, key=secrets["ann"]) as link,
        events(server, **{"X-API-Key": secrets["ann"]}) as lines,
    ):
        await send(server, "visit", secrets["ann"])
        await link.recv()
        (ann,) = (key for key in ApiKeyFile(path).read() if key.name == "ann")
        ApiKeyFile(path).revoke(ann.id)
        live_sessions = server.server._app.state.live
        live_sessions.publish(f"key {ann.id}", "visit", reply())
        with pytest.raises(ConnectionClosed):
            await link.recv()
        assert (link.close_code, link.close_reason) == (1008, CREDENTIAL_ENDED)
        assert (await event_of(lines))[0] == "result"
        assert (await event_of(lines))[0] == "end"


@pytest.mark.parametrize("how", ["close", "abort", "speak"])
async def test_who_goes_leaves_nothing_behind(how: str) -> None:
    async with served(ServerConfig(rate_per_s=0)) as server:
        live_sessions = server.server._app.state.live
        async with watching(server) as link:
            if how == "abort":
                link.transport.abort()
            elif how == "speak":
                await link.send("hello")
                with pytest.raises(ConnectionClosed):
                    await link.recv()
                assert link.close_code == 1008
        async with events(server):
            pass
        await until(lambda: live_sessions.watchers == 0)
        assert len(live_sessions) == 0
        await until(lambda: server.connections == 0)


async def test_who_goes_before_the_first_event_leaves_nothing_behind() -> None:
    """As ASGI servers tell it: what is sent then raises."""
    app = create_app(ServerConfig(), OneFace())

    async def gone(message: Message) -> None:
        raise OSError

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "method": "GET",
        "path": "/v1/sessions/visit/live",
        "headers": [],
        "query_string": b"",
        "client": ("127.0.0.1", 1),
    }
    with contextlib.suppress(ClientDisconnect):
        await app(scope, receive, gone)
    assert app.state.live.watchers == 0


async def test_who_takes_nothing_slows_neither_the_session_nor_the_others() -> None:
    async with (
        served(ServerConfig(rate_per_s=0)) as server,
        watching(server) as quick,
        watching(server) as stalled,
    ):
        stalled.transport.pause_reading()
        live_sessions = server.server._app.state.live
        (watchers,) = (each.watchers for each in live_sessions._sessions.values())
        many = ResultReply(request_id=1, width=64, height=48, faces=(FACE,) * 500)

        async def shown() -> int:
            live_sessions.publish("token", "visit", many)
            return decode_reply(await quick.recv()).number or 0  # type: ignore[union-attr,arg-type]

        async with asyncio.timeout(LIMIT_S):
            number = await shown()
            while max(len(watcher._waiting) for watcher in watchers) < 2:  # the buffers fill
                number = await shown()
            for count in range(1, 6):
                assert await shown() == number + count
        assert max(len(watcher._waiting) for watcher in watchers) == 2
        stalled.transport.abort()


# -- the page ------------------------------------------------------------------------------------


async def test_the_page_is_open_and_loads_nothing_from_elsewhere() -> None:
    async with served(ServerConfig(auth_token="a-token")) as server, httpx.AsyncClient() as client:
        answer = await client.get(f"http://127.0.0.1:{server.port}/v1/live")
    assert answer.status_code == 200
    assert answer.text == PAGE
    assert answer.headers["Content-Type"].startswith("text/html")
    assert answer.headers["Content-Security-Policy"] == PAGE_POLICY
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "'unsafe-inline'" not in PAGE_POLICY
    assert not re.search(
        r"(src|href|action)=|https?:|@import|url\(|innerHTML| style=| on\w+=", PAGE
    )

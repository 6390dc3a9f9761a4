"""Watching a session: over the real server, over links that break, and against other servers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime

import pytest
from websockets.asyncio.server import ServerConnection, serve

from hybrid_detect import LiveResult, watch_session
from hybrid_detect.backends.remote import watching
from hybrid_detect.errors import (
    BackendError,
    BackendResponseError,
    BackendUnavailableError,
    ConfigurationError,
    ProtocolError,
)
from hybrid_detect.exchange.wire import (
    CREDENTIAL_ENDED,
    SUBPROTOCOL,
    ErrorReply,
    ResultReply,
    encode_reply,
)
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.server.live import LiveSessions
from hybrid_detect.testing import FaultyLink
from hybrid_detect.types import BoundingBox, Face

from ...server.loopback import Served, served
from ...waiting import LIMIT_S, until

pytestmark = pytest.mark.anyio

FACE = Face(BoundingBox(8, 8, 24, 24), 0.75)


def result(number: int | None = None) -> ResultReply:
    return ResultReply(
        request_id=1,
        width=64,
        height=48,
        faces=(FACE,),
        model="m",
        detect_s=0.25,
        number=number,
        at_s=None if number is None else 1_800_000_000.0,
    )


def live_of(server: Served) -> LiveSessions:
    sessions = server.server._app.state.live
    assert isinstance(sessions, LiveSessions)
    return sessions


def url_of(server: Served) -> str:
    return f"http://127.0.0.1:{server.port}"


@asynccontextmanager
async def watched(url: str, **options: object) -> AsyncIterator[AsyncIterator[LiveResult]]:
    watch = watch_session(url, "visit 1", **options)  # type: ignore[arg-type]
    async with asyncio.timeout(LIMIT_S), aclosing(watch):  # type: ignore[type-var]
        yield watch


async def seen_next(watch: AsyncIterator[LiveResult], live: LiveSessions) -> LiveResult:
    """A result that is shown once there is a watcher: after it the client has its link, too."""
    each = asyncio.create_task(anext(watch))
    await until(lambda: live.watchers)
    live.publish("token", "visit 1", result())
    return await each


@asynccontextmanager
async def another_server(*messages: object, close: tuple[int, str] | None) -> AsyncIterator[str]:
    """A server that sends `messages` over each link, then closes it so, or keeps it."""

    async def talk(link: ServerConnection) -> None:
        for message in messages:
            await link.send(message)  # type: ignore[arg-type]
        if close is None:
            await link.wait_closed()
        else:
            await link.close(*close)

    async with serve(talk, "127.0.0.1", 0, subprotocols=[SUBPROTOCOL]) as server:  # type: ignore[list-item]
        port = next(iter(server.sockets)).getsockname()[1]
        yield f"http://127.0.0.1:{port}"


async def test_results_come_as_they_are_found_until_the_session_ends() -> None:
    async with served(ServerConfig(auth_token="a-token")) as server:
        live = live_of(server)
        camera = live.presence("token")
        camera.note("visit 1")
        async with watched(url_of(server), auth_token="a-token") as watch:
            seen = await seen_next(watch, live)
            assert (seen.session_id, seen.number, seen.missed) == ("visit 1", 1, 0)
            assert (seen.width, seen.height, seen.faces) == (64, 48, (FACE,))
            assert (seen.model, seen.detect_s, seen.queue_s) == ("m", 0.25, None)
            assert abs(seen.at - datetime.now(UTC)).total_seconds() < LIMIT_S
            live.publish("token", "visit 1", result())
            assert (await anext(watch)).number == 2
            camera.leave(for_good=True)
            assert [each async for each in watch] == []
        await until(lambda: not live.watchers)


async def test_who_is_slow_gets_the_newest_and_is_told_what_it_missed() -> None:
    async with served() as server, watched(url_of(server)) as watch:
        live = live_of(server)
        assert (await seen_next(watch, live)).missed == 0
        (session,) = live._sessions.values()
        (watcher,) = session.watchers
        for _ in range(50):
            live.publish("token", "visit 1", result())
            await until(lambda: not watcher._waiting)  # sent, each of them
        seen = await anext(watch)
        while seen.number < 51:  # what is still on its way
            assert seen.missed >= 0
            seen = await anext(watch)
        assert seen.number == 51
        live.publish("token", "visit 1", result())
        assert ((await anext(watch)).number, seen.number) == (52, 51)


async def test_a_link_that_breaks_is_opened_again() -> None:
    async with served() as server, FaultyLink(url_of(server)) as link, watched(link.url) as watch:
        live = live_of(server)
        camera = live.presence("token")
        camera.note("visit 1")  # so that the server goes on counting
        numbers = []
        for _ in range(3):
            numbers.append((await seen_next(watch, live)).number)
            link.cut()
            await until(lambda: not live.watchers)
        assert numbers == [1, 2, 3]
        assert link.connections >= 3


async def test_a_server_that_falls_silent_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "HEARTBEAT_S", 0.1)
    async with served() as server, FaultyLink(url_of(server)) as link, watched(link.url) as watch:
        live = live_of(server)
        await seen_next(watch, live)
        each = asyncio.create_task(anext(watch))
        link.stall()
        await until(lambda: link.connections > 1)
        link.resume()
        link.cut()

        def has_come() -> bool:
            live.publish("token", "visit 1", result())
            return each.done()

        await until(has_come)
        assert (await each).faces == (FACE,)


async def test_a_server_that_stays_away_is_given_up() -> None:
    async with served() as server, FaultyLink(url_of(server)) as link:
        async with watched(link.url, give_up_after_s=0.2) as watch:
            await seen_next(watch, live_of(server))
            link.refuse = True
            link.cut()
            with pytest.raises(BackendUnavailableError):
                await anext(watch)
        assert link.connections > 1


@asynccontextmanager
async def misrouting_gateway() -> AsyncIterator[str]:
    """Answers everything with its own page, which says 404."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = b"HTTP/1.1 404 Not Found\r\nContent-Type: text/html\r\nContent-Length: 0"
        writer.write(head + b"\r\nConnection: close\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_a_gateway_that_knows_no_server_for_a_while_ends_no_watch() -> None:
    async with (
        served() as server,
        misrouting_gateway() as gateway,
        FaultyLink(url_of(server)) as link,
        watched(link.url) as watch,
    ):
        live = live_of(server)
        await seen_next(watch, live)
        link.lead_to(gateway)
        before = link.connections
        link.cut()
        await until(lambda: not live.watchers)
        each = asyncio.create_task(anext(watch))
        await until(lambda: link.connections > before + 1)
        link.lead_to(url_of(server))
        await until(lambda: live.watchers)
        live.publish("token", "visit 1", result())
        assert (await each).faces == (FACE,)


async def test_but_it_is_a_wrong_address_where_there_never_was_a_link() -> None:
    async with misrouting_gateway() as gateway, watched(gateway) as watch:
        with pytest.raises(BackendResponseError) as caught:
            await anext(watch)
        assert caught.value.status_code == 404


@pytest.mark.parametrize(
    ("config", "token", "status"),
    [
        (ServerConfig(auth_token="a-token"), "wrong", 401),
        (ServerConfig(max_watchers=0), None, 503),
    ],
    ids=["unauthorized", "overloaded"],
)
async def test_a_refusal_is_told_at_once(
    config: ServerConfig, token: str | None, status: int
) -> None:
    async with served(config) as server, watched(url_of(server), auth_token=token) as watch:
        with pytest.raises(BackendResponseError) as caught:
            await anext(watch)
        assert caught.value.status_code == status


async def test_a_first_attempt_that_fails_is_told() -> None:
    async with served() as server, FaultyLink(url_of(server)) as link, watched(link.url) as watch:
        link.refuse = True
        with pytest.raises(BackendError):
            await anext(watch)


@pytest.mark.parametrize(
    ("message", "close", "error"),
    [
        ("a text", None, ProtocolError),
        (b"no message", None, ProtocolError),
        (encode_reply(ErrorReply(request_id=0, status=503, code="x")), None, ProtocolError),
        (
            encode_reply(ResultReply(request_id=0, width=1, height=1, at_s=1e300)),
            None,
            ProtocolError,
        ),
        (encode_reply(result(1)), (1008, CREDENTIAL_ENDED), BackendResponseError),
        (encode_reply(result(1)), (3003, ""), BackendResponseError),
    ],
    ids=["text", "garbage", "error", "time", "credential", "forbidden"],
)
async def test_what_no_other_link_would_mend_is_raised(
    message: object, close: tuple[int, str] | None, error: type[BackendError]
) -> None:
    async with another_server(message, close=close) as url, watched(url) as watch:
        with pytest.raises(error):
            async for _ in watch:
                pass


async def test_numbers_that_begin_again_are_no_missed_results() -> None:
    numbers = iter([(3, 9), (1, 2)])

    async def talk(link: ServerConnection) -> None:
        with contextlib.suppress(StopIteration):
            for number in next(numbers):
                await link.send(encode_reply(result(number)))
                await asyncio.sleep(0.05)  # or the newest alone would be seen
            await link.close(1012)
            return
        await link.close(1000)

    async with serve(talk, "127.0.0.1", 0, subprotocols=[SUBPROTOCOL]) as server:  # type: ignore[list-item]
        port = next(iter(server.sockets)).getsockname()[1]
        async with watched(f"http://127.0.0.1:{port}") as watch:
            seen = [(each.number, each.missed) async for each in watch]
    assert seen == [(3, 0), (9, 5), (1, 0), (2, 0)]


@pytest.mark.parametrize("session", ["", "x" * 1025])
async def test_a_session_that_cannot_be_one_is_refused(session: str) -> None:
    with pytest.raises(ConfigurationError, match="session_id"):
        await anext(watch_session("http://127.0.0.1:1", session))


async def test_results_go_in_the_clear_within_this_machine_only() -> None:
    with pytest.raises(ConfigurationError, match="https"):
        await anext(watch_session("http://faces.example.com", "s"))

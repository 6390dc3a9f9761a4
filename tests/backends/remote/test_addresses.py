"""Look-ups that hang and addresses that are dead: what a connection waits for."""

from __future__ import annotations

import asyncio
import socket
import threading

import pytest

from hybrid_detect.backends.remote import addresses
from hybrid_detect.backends.remote.addresses import (
    Address,
    Connected,
    Resolver,
    connect_first,
    interleaved,
)

from ...waiting import LIMIT_S, until
from .hostile_network import Names, black_hole, raw_server

pytestmark = pytest.mark.anyio

NAME = "faces.test"
V4, V6 = socket.AF_INET, socket.AF_INET6


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    return Names(monkeypatch)


async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"hello")
    await writer.drain()


def v4(port: int, host: str = "127.0.0.1") -> Address:
    return Address(V4, (host, port))


# ---- look-ups


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", Address(V4, ("127.0.0.1", 80))),
        ("fd00::5", Address(V6, ("fd00::5", 80, 0, 0))),
    ],
)
async def test_an_address_is_not_looked_up(
    host: str, address: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", None)
    assert await Resolver().find(host, 80) == [address]


async def test_a_name_has_its_addresses_in_the_system_s_order(names: Names) -> None:
    names.set(NAME, "127.0.0.2", "127.0.0.1")
    assert await Resolver().find(NAME, 80) == [v4(80, "127.0.0.2"), v4(80)]


async def test_a_name_that_is_none_and_a_name_that_is_not_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(UnicodeError):
        await Resolver().find("a..b", 80)

    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(socket.gaierror):
        await Resolver().find(NAME, 80)


async def test_frames_that_ask_at_the_same_time_share_one_look_up(names: Names) -> None:
    names.set(NAME, "127.0.0.1")
    resolver = Resolver()
    await asyncio.gather(*[resolver.find(NAME, 80) for _ in range(20)])
    assert names.asked == [NAME]
    await resolver.find(NAME, 80)
    assert names.asked == [NAME] * 2, "an answer is not kept: the network may have changed"


async def test_a_hung_look_up_occupies_no_thread_of_the_event_loop(names: Names) -> None:
    names.hang(NAME)
    resolver = Resolver()
    waiting = [asyncio.create_task(resolver.find(NAME, 80)) for _ in range(64)]
    try:
        await until(lambda: names.asked)
        async with asyncio.timeout(LIMIT_S):
            assert await asyncio.to_thread(lambda: "still free") == "still free"
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert names.asked == [NAME]
    finally:
        names.release()


async def test_hung_look_ups_are_few_however_long_it_lasts(
    names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(addresses, "NEXT_LOOK_UP_S", -1.0)
    names.hang(NAME)
    resolver = Resolver()
    waiting = [asyncio.create_task(resolver.find(NAME, 80)) for _ in range(64)]
    try:
        await until(lambda: len(names.asked) == addresses.MAX_LOOK_UPS)
        alive = [t for t in threading.enumerate() if t.name == "hybrid-detect-call"]
        assert len(alive) == addresses.MAX_LOOK_UPS
        assert all(thread.daemon for thread in alive), "the program's end waits for no daemon"
    finally:
        names.release()
        answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(answer, socket.gaierror) for answer in answers)


async def test_a_later_look_up_answers_for_one_that_hangs(
    names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(addresses, "NEXT_LOOK_UP_S", -1.0)
    names.hang(NAME)
    resolver = Resolver()
    hung = asyncio.create_task(resolver.find(NAME, 80))
    try:
        await until(lambda: names.asked)
        names.set(NAME, "127.0.0.1")
        assert await resolver.find(NAME, 80) == [v4(80)]
        hung.cancel()
    finally:
        names.release()
        await asyncio.gather(hung, return_exceptions=True)


async def test_closing_ends_the_wait_for_a_hung_look_up(names: Names) -> None:
    names.hang(NAME)
    resolver = Resolver()
    waiting = asyncio.create_task(resolver.find(NAME, 80))
    try:
        await until(lambda: names.asked)
        resolver.close()
        with pytest.raises(ConnectionAbortedError):
            await waiting
    finally:
        names.release()


# ---- happy eyeballs


def test_the_families_take_turns() -> None:
    six = [Address(V6, (f"fd00::{n}", 1, 0, 0)) for n in range(3)]
    four = [Address(V4, (f"10.0.0.{n}", 1)) for n in range(2)]
    assert interleaved([*six, *four]) == [six[0], four[0], six[1], four[1], six[2]]
    assert interleaved([four[0], *six, four[0]]) == [four[0], *six]
    assert interleaved([]) == []


async def test_a_dead_first_address_costs_its_delay_and_no_more() -> None:
    async with raw_server(talk) as port:
        with black_hole("127.0.0.2", port):
            async with asyncio.timeout(LIMIT_S):
                found = [v4(port, "127.0.0.2"), v4(port)]
                connected = await connect_first(found, attempt_delay_s=0.01)
            with connected.sock as sock:
                assert sock.getpeername() == ("127.0.0.1", port)


async def test_a_refused_first_address_costs_nothing() -> None:
    async with raw_server(talk) as port:
        found = [v4(port, "127.0.0.3"), v4(port)]
        connected = await connect_first(found, attempt_delay_s=3600.0)
        with connected.sock as sock:
            assert sock.getpeername() == ("127.0.0.1", port)


async def test_a_late_first_address_still_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = asyncio.Event()
    real = addresses._connect

    async def late(address: Address) -> Connected:
        if address.sockaddr[0] == "127.0.0.2":
            await asyncio.Event().wait()
        else:
            await go_on.wait()
        return await real(address)

    monkeypatch.setattr(addresses, "_connect", late)
    async with raw_server(talk) as port:
        found = [v4(port), v4(port, "127.0.0.2")]
        attempt = asyncio.create_task(connect_first(found, attempt_delay_s=0.0))
        await asyncio.sleep(0.01)
        go_on.set()
        (await attempt).sock.close()


async def test_the_first_failure_is_told_if_all_fail() -> None:
    async with raw_server(talk) as port:
        pass
    with pytest.raises(ConnectionRefusedError):
        await connect_first([v4(port), v4(port, "127.0.0.2")])
    with pytest.raises(OSError, match="no address"):
        await connect_first([])


@pytest.mark.parametrize("turns", range(8))
async def test_no_socket_is_left_whenever_it_is_cancelled(turns: int) -> None:
    """ResourceWarning is an error in this suite."""
    async with raw_server(talk) as port:
        found = [v4(port), v4(port, "127.0.0.2"), v4(port)]
        attempt = asyncio.create_task(connect_first(found, attempt_delay_s=0.0))
        for _ in range(turns):
            await asyncio.sleep(0)
        attempt.cancel()
        results = await asyncio.gather(attempt, return_exceptions=True)
        if isinstance(results[0], Connected):
            results[0].sock.close()
        await asyncio.sleep(0)

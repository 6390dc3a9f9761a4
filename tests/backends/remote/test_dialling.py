"""Sockets through proxies that relay, refuse, lie and fall silent."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest

from hybrid_detect.backends.remote.dialling import Dialler
from hybrid_detect.backends.remote.proxies import Proxy
from hybrid_detect.endpoint import Endpoint
from hybrid_detect.errors import BackendError, BackendResponseError, BackendUnavailableError

from ...waiting import LIMIT_S
from .hostile_network import RelayProxy, Serve, raw_server

pytestmark = pytest.mark.anyio

HOST = "faces.example.com"


async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"hello")
    await writer.drain()


async def dialled(serve: Serve, scheme: str, *, host: str = HOST, user: str = "") -> socket.socket:
    async with raw_server(serve) as port:
        proxy = Proxy.parse("ALL_PROXY", f"{scheme}://{user}{'@' if user else ''}127.0.0.1:{port}")
        endpoint = Endpoint.parse(f"https://[{host}]" if ":" in host else f"https://{host}")
        async with asyncio.timeout(LIMIT_S):
            sock = await Dialler(endpoint, proxy=proxy).dial()
            with contextlib.closing(sock):
                assert await asyncio.get_running_loop().sock_recv(sock, 16) == b"hello"
            return sock


@contextlib.asynccontextmanager
async def relay(**options: object) -> AsyncIterator[RelayProxy]:
    async with raw_server(greet) as port:
        yield RelayProxy(port, **options)  # type: ignore[arg-type]


async def test_an_http_proxy_is_asked_for_a_tunnel() -> None:
    async with relay() as proxy:
        await dialled(proxy.http, "http")
    assert proxy.asked == [f"CONNECT {HOST}:443 HTTP/1.1"]
    assert f"host: {HOST}:443".encode() in proxy.heads[0].lower()
    assert b"authorization" not in proxy.heads[0].lower()


async def test_an_ipv6_address_stands_in_brackets() -> None:
    async with relay() as proxy:
        await dialled(proxy.http, "http", host="fd00::5")
    assert proxy.asked == ["CONNECT [fd00::5]:443 HTTP/1.1"]


async def test_credentials_go_to_the_proxy_alone() -> None:
    async with relay(user="ada:secret") as proxy:
        await dialled(proxy.http, "http", user="ada:secret")
    assert b"\r\nProxy-Authorization: Basic YWRhOnNlY3JldA==\r\n" in proxy.heads[0]


@pytest.mark.parametrize(
    ("host", "asked"),
    [(HOST, HOST), ("10.1.2.3", "10.1.2.3"), ("fd00::5", "fd00::5")],
    ids=["name", "IPv4", "IPv6"],
)
async def test_a_socks_proxy_looks_the_name_up(host: str, asked: str) -> None:
    async with relay() as proxy:
        await dialled(proxy.socks, "socks5h", host=host)
    assert proxy.asked == [asked]


async def test_a_socks_proxy_is_told_a_user_if_it_asks() -> None:
    async with relay(user="ada:secret") as proxy:
        await dialled(proxy.socks, "socks5", user="ada:secret")
    async with relay() as proxy:
        await dialled(proxy.socks, "socks5", user="ada:secret")


@pytest.mark.parametrize("scheme", ["http", "socks5"])
@pytest.mark.parametrize(
    ("user", "told"), [("", "asks for a user"), ("ada:wrong", "does not accept this user")]
)
async def test_a_proxy_that_asks_for_a_user_is_named(scheme: str, user: str, told: str) -> None:
    async with relay(user="ada:secret") as proxy:
        if scheme == "http" and user:
            proxy._status = 407
        serve = proxy.http if scheme == "http" else proxy.socks
        with pytest.raises(BackendResponseError, match=f"^the proxy of ALL_PROXY {told}") as caught:
            await dialled(serve, scheme, user=user)
    assert caught.value.status_code == 407
    assert "wrong" not in str(caught.value)


@pytest.mark.parametrize("status", [302, 403, 500, 502, 504])
async def test_a_proxy_that_refuses_says_its_status(status: int) -> None:
    async with relay(status=status) as proxy:
        with pytest.raises(BackendUnavailableError, match=f"ALL_PROXY.*status {status}") as caught:
            await dialled(proxy.http, "http")
    assert caught.value.retryable


@pytest.mark.parametrize(("reply", "told"), [(2, "not allow"), (5, "refused"), (9, "reply 9")])
async def test_a_socks_proxy_that_fails_says_why(reply: int, told: str) -> None:
    async with relay(socks_reply=reply) as proxy:
        with pytest.raises(BackendUnavailableError, match=f"ALL_PROXY.*{told}"):
            await dialled(proxy.socks, "socks5")


@pytest.mark.parametrize("scheme", ["http", "socks5"])
@pytest.mark.parametrize(
    "words",
    [
        b"",
        b"\x05",
        b"SSH-2.0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 9000,
        b"HTTP/1.1 200 OK\r\n\r\nwords of its own",
        bytes(99),
    ],
    ids=["nothing", "a byte", "SSH", "a long head", "more than its head", "zeros"],
)
async def test_a_proxy_that_speaks_something_else_is_a_broken_one(
    scheme: str, words: bytes
) -> None:
    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(64 * 1024)
        writer.write(words)
        await writer.drain()

    with pytest.raises(BackendError, match=r"^the proxy of ALL_PROXY") as caught:
        await dialled(say, scheme)
    assert caught.value.retryable


async def test_a_proxy_that_is_not_there_is_named() -> None:
    async with raw_server(greet) as port:
        pass
    proxy = Proxy.parse("HTTPS_PROXY", f"127.0.0.1:{port}")
    with pytest.raises(BackendUnavailableError, match="proxy of HTTPS_PROXY could not be reached"):
        await Dialler(Endpoint.parse(f"https://{HOST}"), proxy=proxy).dial()


@pytest.mark.parametrize("scheme", ["http", "socks5"])
async def test_a_proxy_that_says_nothing_leaves_no_socket_when_given_up(scheme: str) -> None:
    asked = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read(64 * 1024)
        asked.set()
        await reader.read(1)

    attempt = asyncio.create_task(dialled(silent, scheme))
    await asked.wait()
    attempt.cancel()
    with pytest.raises(asyncio.CancelledError):
        await attempt

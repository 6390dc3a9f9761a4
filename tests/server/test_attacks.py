"""Attacks on the server, over a real socket. The table of docs/explanation/threat-model.md names
each test here and in its neighbours."""

import asyncio
import io
import json
import struct
import zlib
from collections.abc import Iterator

import pytest
from PIL import Image
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from hybrid_detect.exchange.wire import DetectRequest, ErrorReply, decode_reply, encode_request
from hybrid_detect.server import shared_state
from hybrid_detect.server.config import ServerConfig

from .loopback import Served, jpeg, served_beside

pytestmark = pytest.mark.anyio

TOKEN = "s3cret-token-of-the-house"
CONFIG = ServerConfig(auth_token=TOKEN, max_body_bytes=200_000, max_pixels=1_000_000, rate_per_s=0)
GOOD = f"Authorization: Bearer {TOKEN}".encode()


@pytest.fixture(scope="module")
def running() -> Iterator[Served]:
    with pytest.MonkeyPatch.context() as patch:
        # Its own test is in test_admission.py; here each attack is to be answered for itself.
        patch.setattr(shared_state, "FAILURES_AT_ONCE", 10_000)
        with served_beside(CONFIG) as server:
            yield server


@pytest.fixture
def server(running: Served) -> Served:
    running.detector.looks = 0
    return running


def post(*headers: bytes, body: bytes = b"", line: bytes = b"POST /v1/detect HTTP/1.1") -> bytes:
    lines = [line, b"Host: x", *headers, b"Connection: close"]
    sent = b"\n".join(headers).lower()
    if b"content-length" not in sent and b"transfer-encoding" not in sent:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def statuses(answer: bytes) -> list[int]:
    """The status of each answer in `answer`; what is no HTTP at all fails."""
    assert answer.startswith(b"HTTP/1.1 ") or not answer
    return [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:]]


async def works(server: Served) -> bool:
    """Whether a good request is answered still."""
    return statuses(await server.raw(post(GOOD, body=jpeg()))) == [200]


# -- too much --------------------------------------------------------------------------------


@pytest.mark.parametrize("announced", [200_001, 10**12, 2**63, 2**64 + 5, 10**40])
async def test_an_oversize_body_is_refused_by_its_announcement(
    server: Served, announced: int
) -> None:
    answer = await server.raw(post(GOOD, b"Content-Length: %d" % announced))
    assert statuses(answer) in ([413], [400])
    assert server.detector.looks == 0
    assert await works(server)


async def test_an_oversize_body_in_chunks_is_refused_while_it_grows(server: Served) -> None:
    chunks = b"".join(b"10000\r\n" + bytes(0x10000) + b"\r\n" for _ in range(5)) + b"0\r\n\r\n"
    answer = await server.raw(post(GOOD, b"Transfer-Encoding: chunked", body=chunks))
    assert statuses(answer) == [413]
    assert server.detector.looks == 0
    assert await works(server)


def png_bomb(width: int, height: int) -> bytes:
    """A few bytes that say they are so many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1000), 9)
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", header),
            chunk(b"IDAT", pixels),
            chunk(b"IEND", b""),
        )
    )


def text_bomb() -> bytes:
    """A PNG with a comment of 50 MiB in 50 KiB."""
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "PNG")
    data = b"Comment\0\0" + zlib.compress(bytes(50 * 1024 * 1024), 9)
    chunk = struct.pack(">I", len(data)) + b"zTXt" + data
    chunk += struct.pack(">I", zlib.crc32(b"zTXt" + data))
    return out.getvalue()[:33] + chunk + out.getvalue()[33:]


def gif_bomb() -> bytes:
    out = io.BytesIO()
    frames = [Image.new("P", (999, 999), n) for n in range(40)]
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:])
    return out.getvalue()


def scan_bomb() -> bytes:
    """A progressive JPEG whose last scan, of few bytes, comes again and again."""
    out = io.BytesIO()
    Image.new("RGB", (1000, 1000)).save(out, "JPEG", progressive=True)
    whole = out.getvalue()[:-2]
    last = whole[whole.rindex(b"\xff\xda") :]
    return whole + last * (150_000 // len(last)) + b"\xff\xd9"


@pytest.mark.parametrize(
    ("picture", "allowed"),
    [
        (png_bomb(60_000, 60_000), {422}),
        (png_bomb(2**31 - 1, 2**31 - 1), {422}),
        (png_bomb(1001, 1000), {422}),
        (png_bomb(0, 5), {422}),
        (text_bomb(), {200, 422}),
        (gif_bomb(), {200, 422}),
        (scan_bomb(), {422}),
        (
            jpeg()[:-20].replace(
                b"\xff\xc0\x00\x11\x08\x00\x30\x00\x40", b"\xff\xc0\x00\x11\x08\xff\xff\xff\xff"
            ),
            {422},
        ),
    ],
    ids=["png", "png of 2^62 pixels", "just above", "no pixels", "text", "frames", "scans", "jpeg"],
)
async def test_a_decompression_bomb_is_refused_before_it_is_unpacked(
    server: Served, picture: bytes, allowed: set[int]
) -> None:
    (status,) = statuses(await server.raw(post(GOOD, body=picture)))
    assert status in allowed
    assert await works(server)


async def test_a_content_encoding_is_not_unpacked(server: Served) -> None:
    body = zlib.compress(bytes(100_000_000), 9)
    for name in (b"deflate", b"gzip", b"br"):
        request = post(GOOD, b"Content-Encoding: " + name, body=body)
        assert statuses(await server.raw(request)) == [422]


async def test_an_oversize_stream_message_closes_the_stream(server: Served) -> None:
    url = f"ws://127.0.0.1:{server.port}/v1/stream"
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with connect(url, additional_headers=headers, compression=None) as link:
        await link.send(bytes(200_001))
        with pytest.raises(ConnectionClosed) as caught:
            await link.recv()
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1009
    async with connect(url, additional_headers=headers, compression=None) as link:
        await link.send([bytes(100_000), bytes(100_000), b"x"])  # in fragments
        with pytest.raises(ConnectionClosed):
            await link.recv()


async def test_a_stream_takes_no_compressed_messages(server: Served) -> None:
    """A few bytes could become 4 MiB."""
    url = f"ws://127.0.0.1:{server.port}/v1/stream"
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with connect(url, additional_headers=headers, compression="deflate") as link:
        assert "Sec-WebSocket-Extensions" not in (link.response.headers if link.response else {})


# -- the way in ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [b"Authorization:"],
        [b"Authorization: Bearer"],
        [b"Authorization: Bearer "],
        [b"Authorization: Bearer null"],
        [b"Authorization: Bearer undefined"],
        [b"Authorization: Bearer " + TOKEN.upper().encode()],
        [b"Authorization: Bearer " + TOKEN[:-1].encode()],
        [b"Authorization: Bearer " + TOKEN.encode() + b"\x00"],
        [b"Authorization: Bearer " + TOKEN.encode() + b" x"],
        [b'Authorization: Bearer "' + TOKEN.encode() + b'"'],
        [b"Authorization: Bearer Bearer " + TOKEN.encode()],
        [b"Authorization: Bearer,Bearer " + TOKEN.encode()],
        [b"Authorization: Bearer\xa0" + TOKEN.encode()],
        [b"Authorization: Bearer x, Bearer " + TOKEN.encode()],
        [b"Authorization: Basic " + TOKEN.encode()],
        [b"Authorization: " + TOKEN.encode()],
        [b"Authorization: Bearer wrong", GOOD],
        [GOOD, b"Authorization: Bearer wrong"],
        [GOOD, GOOD],
        [GOOD, b"X-API-Key: wrong"],
        [b"X-API-Key: "],
        [b"X-API-Key: Bearer " + TOKEN.encode()],
        [b"Authorization : Bearer " + TOKEN.encode()],
        [b"Authorization_: Bearer " + TOKEN.encode()],
        [b"Proxy-Authorization: Bearer " + TOKEN.encode()],
        [b"Cookie: token=" + TOKEN.encode()],
        [b"X-Forwarded-For: 127.0.0.1", b"X-Real-IP: 127.0.0.1"],
        [b"X-Original-URL: /v1/health"],
        [b"X-Rewrite-URL: /v1/health"],
        [b"A: b\r\n " + GOOD],
        [b"A: b\n " + GOOD],
    ],
    ids=repr,
)
async def test_no_variant_of_the_credential_but_the_right_one_comes_in(
    server: Served, headers: list[bytes]
) -> None:
    answer = await server.raw(post(*headers, body=jpeg()))
    assert statuses(answer) in ([401], [400])
    assert server.detector.looks == 0
    assert TOKEN.encode() not in answer


@pytest.mark.parametrize(
    "headers", [[GOOD], [GOOD.lower().replace(b"s3c", b"s3c")], [GOOD + b"\t "]]
)
async def test_the_right_one_comes_in(server: Served, headers: list[bytes]) -> None:
    assert statuses(await server.raw(post(*headers, body=jpeg()))) == [200]


@pytest.mark.parametrize(
    "target",
    [
        b"/v1/detect?token=" + TOKEN.encode(),
        b"/v1/detect?access_token=" + TOKEN.encode(),
        b"/v1/detect?api_key=" + TOKEN.encode(),
        b"/v1/detect#" + TOKEN.encode(),
        b"//v1/health/../detect",
        b"/v1/health/../detect",
        b"/v1/health/..%2fdetect",
        b"/v1/health%2f..%2fdetect",
        b"/v1/%64etect",
        b"/v1/detect;/v1/health",
        b"/v1/detect/",
        b"/v1/detect%00",
        b"/V1/DETECT",
        b"http://x/v1/detect",
        b"http://" + TOKEN.encode() + b"@x/v1/detect",
    ],
    ids=repr,
)
async def test_no_way_of_writing_the_address_comes_in_without_a_credential(
    server: Served, target: bytes
) -> None:
    answer = await server.raw(post(line=b"POST " + target + b" HTTP/1.1", body=jpeg()))
    assert statuses(answer) in ([401], [400])
    assert server.detector.looks == 0


@pytest.mark.parametrize(
    "target",
    [
        b"/../../etc/passwd",
        b"/v1/../../etc/passwd",
        b"/..%2f..%2fetc%2fpasswd",
        b"/%2e%2e/%2e%2e/etc/passwd",
        b"/..%c0%af..%c0%afetc/passwd",
        b"/....//....//etc/passwd",
        b"/v1/keys/../../../etc/passwd",
        b"/v1/openapi.json%00.html",
        b"\\..\\..\\windows\\win.ini",
        b"file:///etc/passwd",
        b"/proc/self/environ",
    ],
    ids=repr,
)
async def test_no_path_leads_to_a_file(server: Served, target: bytes) -> None:
    answer = await server.raw(
        b"GET " + target + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + GOOD + b"\r\n\r\n"
    )
    assert statuses(answer) in ([404], [400])
    assert b"root:" not in answer


@pytest.mark.parametrize(
    "name", [b"X-HTTP-Method-Override", b"X-HTTP-Method", b"X-Method-Override", b"_method"]
)
async def test_a_method_cannot_be_overridden(server: Served, name: bytes) -> None:
    head = b"GET /v1/detect?_method=POST HTTP/1.1"
    answer = await server.raw(post(GOOD, name + b": POST", body=jpeg(), line=head))
    assert statuses(answer) == [405]
    assert server.detector.looks == 0


@pytest.mark.parametrize("method", [b"TRACE", b"CONNECT", b"OPTIONS", b"PUT", b"PROPFIND", b"get"])
async def test_other_methods_echo_and_open_nothing(server: Served, method: bytes) -> None:
    answer = await server.raw(post(GOOD, line=method + b" /v1/detect HTTP/1.1"))
    assert statuses(answer) in ([405], [400])
    assert TOKEN.encode() not in answer


async def test_a_tunnel_cannot_be_asked_for(server: Served) -> None:
    answer = await server.raw(b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com\r\n\r\n")
    assert statuses(answer) in ([400], [401], [404], [405])


# -- header injection ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        b"POST /v1/detect%0d%0aX-Evil:%20yes HTTP/1.1",
        b"POST /v1/x?a=%0d%0aSet-Cookie:%20evil=1 HTTP/1.1",
        b"POST /v1/x\rX-Evil: yes HTTP/1.1",
    ],
)
@pytest.mark.parametrize(
    "header", [b"Accept: a\rX-Evil: yes", b"Accept: application/json", b"A: \x00"]
)
async def test_what_is_sent_does_not_become_a_header_of_the_answer(
    server: Served, line: bytes, header: bytes
) -> None:
    answer = await server.raw(post(GOOD, header, line=line))
    assert statuses(answer) in ([404], [400])
    head = answer.partition(b"\r\n\r\n")[0].lower()
    assert b"x-evil" not in head
    assert b"set-cookie" not in head


async def test_the_host_that_was_sent_does_not_come_back(server: Served) -> None:
    answer = await server.raw(
        b"GET /v1/detect/ HTTP/1.1\r\nHost: evil.example\r\nX-Forwarded-Host: evil.example\r\n"
        b"Connection: close\r\n" + GOOD + b"\r\n\r\n"
    )
    assert statuses(answer) == [404]
    assert b"evil.example" not in answer


# -- request smuggling -----------------------------------------------------------------------

HIDDEN = post(GOOD, body=jpeg())
"""What is to be taken for a second request, by the server alone."""


@pytest.mark.parametrize(
    "headers",
    [
        [b"Content-Length: 4", b"Transfer-Encoding: chunked"],
        [b"Transfer-Encoding: chunked", b"Content-Length: 4"],
        [b"Content-Length: 0", b"Content-Length: %d" % len(HIDDEN)],
        [b"Content-Length: %d" % len(HIDDEN), b"Content-Length: 0"],
        [b"Content-Length: 0, 5"],
        [b"Content-Length: +5"],
        [b"Content-Length: -5"],
        [b"Content-Length: 0x5"],
        [b"Content-Length: 5 5"],
        [b"Content-Length : 5"],
        [b"Transfer-Encoding: xchunked"],
        [b"Transfer-Encoding: chunked, identity"],
        [b"Transfer-Encoding: identity", b"Transfer-Encoding: chunked", b"Content-Length: 3"],
        [b"Transfer-Encoding : chunked"],
        [b"Transfer-Encoding:\x0bchunked", b"Content-Length: 3"],
        [b"Transfer-Encoding: chunked\r\n , identity"],
        [b"X: y\nTransfer-Encoding: chunked", b"Content-Length: 3"],
    ],
    ids=repr,
)
async def test_a_request_of_two_lengths_hides_no_other(
    server: Served, headers: list[bytes]
) -> None:
    """The one that hides it has no credential, so that each look means a hidden one came in."""
    answer = await server.raw(post(*headers, body=b"0\r\n\r\n" + HIDDEN))
    assert statuses(answer) in ([400], [401])
    assert server.detector.looks == 0
    assert await works(server)


@pytest.mark.parametrize(
    "chunk",
    [
        b"-1\r\n",
        b"0x5\r\nhello\r\n",
        b"FFFFFFFFFFFFFFFFF\r\n",
        b"5;" + b"x" * 70_000 + b"\r\n",
        b"5\nhello\r\n",
        b"5\r\nhello0\r\n",
        b"\r\n",
    ],
    ids=lambda chunk: repr(chunk[:12]),
)
async def test_a_malformed_chunk_ends_the_connection(server: Served, chunk: bytes) -> None:
    request = post(GOOD, b"Transfer-Encoding: chunked", body=chunk + b"0\r\n\r\n" + HIDDEN)
    assert 200 not in statuses(await server.raw(request))
    assert server.detector.looks == 0
    assert await works(server)


async def test_bytes_after_the_last_request_are_no_request(server: Served) -> None:
    """After ``Connection: close`` nothing more is read."""
    answer = await server.raw(post(GOOD, body=jpeg()) + HIDDEN)
    assert statuses(answer) == [200]
    assert server.detector.looks == 1


@pytest.mark.parametrize(
    "upgrade", [b"h2c", b"websocket", b"TLS/1.0", b"websocket, h2c", b"WebSocket"]
)
async def test_an_upgrade_that_cannot_be_is_refused(server: Served, upgrade: bytes) -> None:
    lines = [b"GET /v1/detect HTTP/1.1", b"Host: x", b"Connection: Upgrade", b"Upgrade: " + upgrade]
    async with server.dialled() as (reader, writer):
        writer.write(b"\r\n".join([*lines, b"", b""]))
        answer = await reader.readuntil(b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 4")
    assert server.detector.looks == 0


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS to a plain port
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"\x00" * 100,
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\n\r\n",
        b"EHLO mail.example.com\r\n",
        b"*1\r\n$4\r\nPING\r\n",
    ],
    ids=repr,
)
async def test_another_protocol_is_refused(server: Served, garbage: bytes) -> None:
    assert statuses(await server.raw(garbage)) in ([400], [401], [404])
    assert await works(server)


# -- streams ---------------------------------------------------------------------------------


async def test_a_stream_s_credential_is_checked_in_the_handshake(server: Served) -> None:
    for path in ("/v1/stream", "/v1/stream/", "/v1/detect", "/nowhere"):
        with pytest.raises(InvalidStatus) as caught:
            await connect(f"ws://127.0.0.1:{server.port}{path}")
        assert caught.value.response.status_code == 401
        assert json.loads(caught.value.response.body or b"")["code"] == "unauthorized"


async def test_a_stream_to_another_path_is_refused(server: Served) -> None:
    for path in ("/v1/detect", "/v1/stream/", "/"):
        with pytest.raises(InvalidStatus) as caught:
            await connect(
                f"ws://127.0.0.1:{server.port}{path}",
                additional_headers={"Authorization": f"Bearer {TOKEN}"},
            )
        assert caught.value.response.status_code in {403, 404}


async def test_a_stream_s_garbage_costs_that_message_alone(server: Served) -> None:
    url = f"ws://127.0.0.1:{server.port}/v1/stream"
    good = encode_request(DetectRequest(request_id=5, image=jpeg()))
    async with connect(
        url, additional_headers={"Authorization": f"Bearer {TOKEN}"}, compression=None
    ) as link:
        for garbage in (
            b"",
            b"HD",
            good[:20],
            b"HD\x01\x01" + b"\xff" * 8,
            good[:8] + b"\xff" * 99,
        ):
            await link.send(garbage)
            reply = decode_reply(await link.recv())
            assert isinstance(reply, ErrorReply)
            assert reply.status == 400
        await link.send(good)
        assert decode_reply(await link.recv()).request_id == 5


async def test_a_frame_that_breaks_the_protocol_closes_that_stream_alone(server: Served) -> None:
    url = f"ws://127.0.0.1:{server.port}/v1/stream"
    headers = {"Authorization": f"Bearer {TOKEN}"}
    for raw in (
        b"\x82\x05hello",  # not masked
        b"\x83\x80\x00\x00\x00\x00",  # an opcode that does not exist
        b"\x80\x80\x00\x00\x00\x00",  # a continuation of nothing
        b"\xf2\x80\x00\x00\x00\x00",  # reserved bits
        b"\x89\xfe\x01\x00" + bytes(4 + 256),  # a ping that is too long
        b"\x82\xff" + b"\xff" * 8,  # 2^64 bytes
    ):
        async with connect(url, additional_headers=headers, compression=None) as link:
            link.transport.write(raw)
            with pytest.raises(ConnectionClosed):
                await link.recv()
    assert await works(server)


async def test_clients_that_hang_up_midway_disturb_no_other(server: Served) -> None:
    whole = post(GOOD, body=jpeg())
    for cut in range(0, len(whole), 97):
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(whole[:cut])
        writer.transport.abort()
    assert await works(server)

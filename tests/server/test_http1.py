"""HTTP/1.1 as bytes: the same whatever the pieces in which it comes."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_detect.server.http1 import (
    MAX_HEAD_BYTES,
    BadRequestError,
    ChunkedBody,
    HeadParser,
    HeadReader,
    RequestHead,
    response_head,
)

HEAD = (
    b"POST /v1/detect%20it?a=%2f HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nX-A: one\r\n"
    b"X-A: two\r\nExpect: 100-Continue\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
)


def read(*pieces: bytes) -> tuple[RequestHead | None, bytes]:
    parser = HeadParser()
    head, rest = None, b""
    for number, piece in enumerate(pieces):
        head, rest = parser.feed(piece)
        if head is not None:
            return head, rest + b"".join(pieces[number + 1 :])
    return head, rest


def test_a_head_is_read() -> None:
    head, rest = read(b"\r\n" + HEAD + b"hello")
    assert head is not None
    assert (head.method, head.path, head.raw_path) == (
        "POST",
        "/v1/detect it",
        b"/v1/detect%20it",
    )
    assert (head.query, head.http_version, head.body_bytes) == (b"a=%2f", "1.1", 5)
    assert head.values(b"x-a") == [b"one", b"two"]
    assert head.keep_alive
    assert head.expects_continue
    assert not head.opens_websocket
    assert rest == b"hello"


@given(cuts=st.lists(st.integers(0, len(HEAD) + 5), max_size=6))
def test_the_pieces_do_not_matter(cuts: list[int]) -> None:
    whole = HEAD + b"hello"
    edges = [0, *sorted(cuts), len(whole)]
    pieces = [whole[a:b] for a, b in itertools.pairwise(edges)]
    assert read(*pieces) == read(whole)


LINES = (
    b"Content-Length: 5",
    b"content-length:120000",
    b"Content-Length: 007",
    b"Content-Length: 5 ",
    b"Content-Length: +5",
    b"Content-Length: 9999999999999999999",
    b"Content-Length: 99999999999999999999",
    b"Content-Length: ",
    b"Transfer-Encoding: chunked",
    b"X-Content-Length: 5",
    b"X-A: b\r\n Content-Length: 5",
    b"Authorization: Bearer one",
    b"Connection: close",
    b"Expect: 100-continue",
)


@given(
    heads=st.lists(
        st.tuples(
            st.sampled_from([b"POST /a HTTP/1.1", b"GET /b HTTP/1.1", b"\r\nPOST /a HTTP/1.1"]),
            st.lists(st.sampled_from(LINES), max_size=3),
            st.sampled_from([b"", b"hello", b"POST /c HTTP/1.1\r\n\r\n"]),
        ),
        max_size=5,
    ),
    cut=st.integers(0, 200),
)
def test_what_came_before_changes_nothing_of_a_head(
    heads: list[tuple[bytes, list[bytes], bytes]], cut: int
) -> None:
    """The heads of one connection are read as if each were the first."""
    reader = HeadReader()
    for start, lines, behind in heads:
        data = b"\r\n".join([start, b"Host: x", *lines, b"", behind])
        pieces = (data[:cut], data[cut:]) if 0 < cut < len(data) - len(behind) else (data,)
        try:
            expected = read(*pieces)
        except BadRequestError:
            with pytest.raises(BadRequestError):
                any(reader.feed(piece)[0] for piece in pieces)
            return
        assert not reader.has_begun
        for piece in pieces[:-1]:
            assert reader.feed(piece) == (None, b"")
            assert reader.has_begun
        assert reader.feed(pieces[-1]) == expected


def test_a_head_that_differs_in_the_length_alone_is_not_parsed_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parsed: list[HeadParser] = []

    class Counted(HeadParser):
        def __init__(self) -> None:
            super().__init__()
            parsed.append(self)

    monkeypatch.setattr("hybrid_detect.server.http1.HeadParser", Counted)
    reader = HeadReader()
    lengths = [5, 80_000, 5, 123_456]
    for length in lengths:
        head, _ = reader.feed(b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % length)
        assert head is not None
        assert (head.body_bytes, head.values(b"content-length")) == (length, [b"%d" % length])
    assert len(parsed) == 1


@pytest.mark.parametrize(
    ("lines", "opens"),
    [
        (b"Upgrade: websocket", True),
        (b"Upgrade: WebSocket", True),
        (b"Upgrade: h2c", False),
        (b"Upgrade: websocket, h2c", False),
        (b"Upgrade: h2c\r\nUpgrade: websocket", False),
        (b"X: websocket", False),
    ],
)
def test_websocket_alone_is_an_upgrade(lines: bytes, opens: bool) -> None:
    head, _ = read(b"GET / HTTP/1.1\r\nConnection: Upgrade\r\n" + lines + b"\r\n\r\n")
    assert head is not None
    assert head.opens_websocket is opens


@pytest.mark.parametrize(
    "lines",
    [
        b"Content-Length: 4\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked\r\nContent-Length: 4",
        b"Content-Length: 4\r\nContent-Length: 4",
        b"Content-Length: 4, 4",
        b"Content-Length: 18446744073709551616",
        b"Transfer-Encoding: gzip, chunked",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: identity",
        b"Host: a\r\nHost: b",
        b" folded: line",
        b"bare: carriage\rreturn",
        b"bare: line\nfeed",
        b"nul: \x00",
    ],
    ids=repr,
)
def test_what_two_readers_could_read_in_two_ways_is_refused(lines: bytes) -> None:
    with pytest.raises(BadRequestError):
        read(b"POST / HTTP/1.1\r\n" + lines + b"\r\n\r\n")
    with pytest.raises(BadRequestError):
        read(b"POST / HTTP/1.1\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n" + lines + b"\r\n\r\n")


def test_chunks_are_not_of_http_1_0() -> None:
    with pytest.raises(BadRequestError):
        read(b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n")


@pytest.mark.parametrize("more", [0, 1])
def test_a_head_has_a_bound(more: int) -> None:
    start, end = b"GET / HTTP/1.1\r\nA: ", b"\r\n\r\n"
    whole = start + b"x" * (MAX_HEAD_BYTES + more - len(start) - len(end)) + end
    pieces = [whole[at : at + 1000] for at in range(0, len(whole), 1000)]
    if not more:
        assert read(*pieces)[0] is not None
        return
    with pytest.raises(BadRequestError) as caught:
        read(*pieces)
    assert caught.value.status == 431


CHUNKS = b"3;ext=1\r\nabc\r\n2\r\nde\r\n0\r\nTrailer: x\r\n\r\n"


@given(cuts=st.lists(st.integers(0, len(CHUNKS)), max_size=6))
def test_chunks_are_decoded_whatever_the_pieces(cuts: list[int]) -> None:
    body = ChunkedBody()
    edges = [0, *sorted(cuts), len(CHUNKS)]
    found = [part for a, b in itertools.pairwise(edges) for part in body.feed(CHUNKS[a:b])]
    assert b"".join(found) == b"abcde"
    assert body.is_complete
    assert not body.has_more


def test_what_is_behind_the_last_chunk_is_no_chunk() -> None:
    body = ChunkedBody()
    assert b"".join(body.feed(CHUNKS + b"GET / HTTP/1.1\r\n\r\n")) == b"abcde"
    assert body.is_complete
    assert body.has_more


def test_tiny_chunks_have_a_bound() -> None:
    body = ChunkedBody()
    for _ in range(13):
        body.feed(b"1\r\nx\r\n" * 1000)
    with pytest.raises(BadRequestError) as caught:
        body.feed(b"1\r\nx\r\n" * 1000)
    assert caught.value.status == 431


@pytest.mark.parametrize(
    "header",
    [(b"A", b"x\r\nB: y"), (b"A", b"x\n"), (b"A", b"\x00"), (b"A: b", b"x"), (b"", b"x")],
    ids=repr,
)
def test_no_answer_carries_a_header_of_two_lines(header: tuple[bytes, bytes]) -> None:
    with pytest.raises(ValueError, match="control characters"):
        response_head(200, [header], close=True)


def test_an_answer_has_a_date_and_says_how_it_ends() -> None:
    head = response_head(200, [(b"A", b"b"), (b"Connection", b"keep-alive")], close=True)
    assert head.startswith(b"HTTP/1.1 200 OK\r\nDate: ")
    assert head.endswith(b"\r\nA: b\r\nConnection: close\r\n\r\n")
    assert response_head(499, [], close=False).startswith(b"HTTP/1.1 499 \r\n")

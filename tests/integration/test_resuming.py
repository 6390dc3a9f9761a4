"""A stream whose link breaks goes on over the next: no frame is looked at twice, no answer lost."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from websockets.asyncio.client import connect

from hybrid_detect.backends.remote import frames_in_flight, streaming
from hybrid_detect.backends.remote.frames_in_flight import FrameInFlight
from hybrid_detect.backends.remote.link_meter import LinkMeter, Upload
from hybrid_detect.backends.remote.protocol import HttpRequest
from hybrid_detect.backends.remote.streaming import StreamingService
from hybrid_detect.charges import SentRequest
from hybrid_detect.errors import BackendError, BackendUnavailableError
from hybrid_detect.exchange.key_files import write_key_file
from hybrid_detect.exchange.key_ring import KeyRing
from hybrid_detect.exchange.keys import PrivateKey, Suite
from hybrid_detect.exchange.trust import TrustedKey
from hybrid_detect.exchange.wire import (
    DETECT_PATH,
    RESUME_HEADER,
    STREAM_PATH,
    DetectRequest,
    ResultReply,
    decode_reply,
    decode_request,
    encode_request,
)
from hybrid_detect.frames.frame import Frame
from hybrid_detect.server import resumption
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.server.detectors import Detection
from hybrid_detect.server.live import LiveSessions
from hybrid_detect.server.resumption import Resumption, Stream, StreamKey
from hybrid_detect.testing import FaultyLink
from hybrid_detect.types import BackendKind, Plan

from ..server.loopback import OneFace, Served, jpeg, served
from ..waiting import LIMIT_S, until

pytestmark = pytest.mark.anyio

CONFIG = ServerConfig(rate_per_s=0)


class Named(OneFace):
    """Looks that tell which frame they were at; each waits until it may end."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()
        self.go = asyncio.Event()
        self.ended = 0

    async def detect(self, request: DetectRequest, **_: object) -> Detection:
        name = request.session_id or ""
        self.seen[name] += 1
        found = replace(await super().detect(request), model=name)
        await self.go.wait()
        self.ended += 1
        return found


class CutOnce(FaultyLink):
    """Breaks once, after so many bytes from now on that go to the server, or come from it."""

    def __init__(self, upstream: str) -> None:
        super().__init__(upstream)
        self.left: dict[bool, int | None] = {True: None, False: None}

    def _cut_at(self, passed: int, size: int, *, is_reply: bool) -> int | None:
        left = self.left[is_reply]
        if left is not None and left < size:
            self.left[is_reply] = None
            return left
        self.left[is_reply] = None if left is None else left - size
        return None


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another link is tried at once, and waited for as long as it takes here."""
    monkeypatch.setattr(streaming, "RECONNECT_BASE_S", 0.001)
    monkeypatch.setattr(streaming, "RECONNECT_CAP_S", 0.001)
    monkeypatch.setattr(frames_in_flight, "RESUME_WAIT_S", LIMIT_S)
    monkeypatch.setattr(resumption, "RESUME_S", LIMIT_S)


@asynccontextmanager
async def streaming_to(
    config: ServerConfig = CONFIG, **options: object
) -> AsyncIterator[tuple[Named, CutOnce, StreamingService, Served]]:
    detector = Named()
    async with (
        served(config, detector=detector) as server,
        CutOnce(f"http://127.0.0.1:{server.port}") as link,
        StreamingService(endpoint=link.url, **options) as service,
    ):
        await service.check(deadline_s=LIMIT_S)
        yield detector, link, service, server


async def look(service: StreamingService, name: str, upload: Upload | None = None) -> str:
    body = encode_request(DetectRequest(request_id=0, image=jpeg(), session_id=name))
    request = HttpRequest(url=DETECT_PATH, body=body)
    reply = decode_reply((await service.exchange(request, deadline_s=LIMIT_S, upload=upload)).body)
    assert isinstance(reply, ResultReply)
    return reply.model


async def looks(service: StreamingService, *names: str) -> list[str | BaseException]:
    return await asyncio.gather(*(look(service, name) for name in names), return_exceptions=True)


@pytest.mark.parametrize(
    "cuts", [25, pytest.param(0, marks=pytest.mark.hostile)], ids=["some", "every byte"]
)
@pytest.mark.parametrize("is_reply", [False, True], ids=["to the server", "from the server"])
async def test_a_cut_at_any_byte_doubles_and_loses_nothing(is_reply: bool, cuts: int) -> None:
    async with streaming_to() as (detector, link, service, server):
        detector.go.set()
        message = len(encode_request(DetectRequest(request_id=0, image=jpeg(), session_id="a 00")))
        # Announcement and message; the answer. Each has 8 bytes of frame and mask at most.
        size = 170 if is_reply else message + 12 + 16
        names = []
        for cut_at in range(0, 2 * size, size // cuts if cuts else 1):
            link.left[is_reply] = cut_at
            pair = [f"a {cut_at}", f"b {cut_at}"]
            assert await looks(service, *pair) == pair
            names += pair
            link.left[is_reply] = None
            await until(lambda: not service.unavailable_reason)
        assert detector.seen == Counter(names)
        assert link.connections > 0.8 * len(names) / 2  # nearly each of them broke a link
    assert len(server.server._app.state.live) == 0


async def test_what_is_looked_at_while_the_link_breaks_is_answered_over_the_next() -> None:
    async with streaming_to() as (detector, link, service, _):
        frames = asyncio.create_task(looks(service, "a", "b"))
        await until(lambda: sum(detector.seen.values()) == 2)
        link.cut()
        await until(lambda: link.connections == 2 and not service.unavailable_reason)
        detector.go.set()
        assert await frames == ["a", "b"]
        assert detector.seen == Counter("ab")


async def test_what_is_answered_while_there_is_no_link_comes_over_the_next() -> None:
    async with streaming_to() as (detector, link, service, server):
        frames = asyncio.create_task(looks(service, "a", "b"))
        await until(lambda: sum(detector.seen.values()) == 2)
        link.stall()
        link.cut()
        await until(lambda: link.connections == 2)
        detector.go.set()
        await until(lambda: detector.ended == 2)
        sent = []
        link.left[False] = 10**9
        link.resume()
        assert await frames == ["a", "b"]
        assert detector.seen == Counter("ab")
        # The handshake alone went to the server: no picture was sent again.
        sent.append(10**9 - (link.left[False] or 0))
        assert sent[0] < 600
        assert await look(service, "c") == "c"
        assert server.connections == 1


async def test_another_link_gives_a_stream_no_other_rate() -> None:
    config = ServerConfig(rate_per_s=0, stream_rate_per_s=0.001)  # one at once
    async with streaming_to(config) as (detector, link, service, _):
        detector.go.set()
        assert await looks(service, "a") == ["a"]
        first = service._link
        link.cut()
        await until(lambda: service._link not in (first, None))
        (refused,) = await looks(service, "b")
        assert "too_fast" in str(refused)
        assert detector.seen == Counter("a")


async def test_the_link_breaks_again_and_again() -> None:
    async with streaming_to() as (detector, link, service, _):
        for number in range(20):
            detector.go.clear()
            names = [f"a {number}", f"b {number}"]
            frames = asyncio.create_task(looks(service, *names))
            await until(lambda: set(names) <= set(detector.seen))  # noqa: B023 - now
            for _ in range(2):
                connections = link.connections
                link.cut()
                await until(
                    lambda: link.connections > connections and not service.unavailable_reason  # noqa: B023
                )
            detector.go.set()
            assert await frames == names
        assert set(detector.seen.values()) == {1}


async def test_a_sealed_frame_is_opened_once_and_answered_over_the_next_link(
    tmp_path: Path,
) -> None:
    private = PrivateKey.generate(Suite.X25519_CHACHA20, datetime.now(UTC) + timedelta(days=1))
    write_key_file(tmp_path / "keys", KeyRing((private,)))
    config = replace(CONFIG, keys_path=tmp_path / "keys", require_encryption=True)
    plan = Plan(backend=BackendKind.STREAMING, reason="test", deadline_s=LIMIT_S)
    trusted = TrustedKey(private.public)
    async with streaming_to(config, encryption=trusted, session_id="s") as (
        detector,
        link,
        service,
        _,
    ):
        for number, cut_at in enumerate((None, 40, 500)):  # looked at; not yet all there
            detector.go.clear()
            link.left[False] = cut_at
            frame = asyncio.create_task(service.detect(Frame.of(jpeg()), plan))
            await until(lambda: detector.seen["s"] == number + 1)  # noqa: B023 - now
            if cut_at is None:
                link.cut()
                await until(lambda: link.connections == 2 and not service.unavailable_reason)
            detector.go.set()
            assert (await frame).faces
        assert detector.seen == Counter({"s": 3})
        assert link.connections == 4


async def test_a_frame_that_breaks_every_link_is_given_up() -> None:
    async with streaming_to() as (_, link, service, _):
        frame = asyncio.create_task(looks(service, "a"))
        for _ in range(frames_in_flight.MAX_LINKS):
            link.left[False] = 300  # behind the handshake of the next one, amid the picture
            await until(lambda: link.left[False] is None or frame.done())
        (error,) = await frame
        assert isinstance(error, BackendUnavailableError)
        assert error.retryable


async def test_frames_fail_at_once_when_the_next_attempt_at_a_link_fails() -> None:
    async with streaming_to() as (detector, link, service, _):
        frames = asyncio.create_task(looks(service, "a", "b"))
        await until(lambda: sum(detector.seen.values()) == 2)
        link.refuse = True
        link.cut()
        for error in await frames:
            assert isinstance(error, BackendError)
            assert error.retryable
        assert link.connections == 2


async def test_frames_wait_for_the_next_link_no_longer_than_they_should(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(frames_in_flight, "RESUME_WAIT_S", 0.05)
    async with streaming_to() as (detector, link, service, _):
        frames = asyncio.create_task(looks(service, "a", "b"))
        await until(lambda: sum(detector.seen.values()) == 2)
        link.stall()
        link.cut()
        for error in await frames:
            assert isinstance(error, BackendUnavailableError)
        link.resume()
        detector.go.set()
        await until(lambda: not service.unavailable_reason)
        assert await look(service, "c") == "c"


async def test_a_frame_that_may_leave_no_more_is_not_sent_again() -> None:
    class Gate:
        asked = 0

        def hand_over(self, _: SentRequest) -> int:
            self.asked += 1
            if self.asked > 1:
                msg = "consent has ended"
                raise BackendUnavailableError(msg)
            return 0

        record = hand_over

        def answered(self, _: int) -> None: ...

    gate = Gate()
    sent = SentRequest(at_s=0.0, backend="streaming", target="x", bytes_sent=900)
    upload = LinkMeter().upload(sent, gate=gate)
    async with streaming_to() as (detector, link, service, _):
        link.left[False] = 200  # amid the picture, so that the server has not got it
        with pytest.raises(BackendUnavailableError, match="consent has ended"):
            await look(service, "a", upload)
        assert gate.asked == 2
        assert detector.seen == Counter()


def test_a_frame_that_is_sent_again_tells_the_time_that_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    body = encode_request(DetectRequest(request_id=0, image=b"x", deadline_s=1.0))
    frame = FrameInFlight(7, body, None, None, begun_s=100.0)  # type: ignore[arg-type]
    monkeypatch.setattr(frames_in_flight.time, "monotonic", lambda: 100.25)
    frame.links = 1
    assert (decode_request(frame.message()).deadline_s, frame.message()[4:8]) == (1.0, b"\0\0\0\7")
    frame.links = 2
    assert decode_request(frame.message()).deadline_s == 0.75
    sealed = b"HS" + body[2:]
    assert FrameInFlight(7, sealed, None, None, links=2).message()[12:] == sealed[12:]  # type: ignore[arg-type]


# -- the server's side ---------------------------------------------------------------------------


async def test_a_client_that_does_not_come_back_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resumption, "RESUME_S", 0.02)
    async with streaming_to() as (detector, link, service, server):
        frames = asyncio.create_task(looks(service, "a", "b"))
        await until(lambda: sum(detector.seen.values()) == 2)
        streams = server.server._app.state.streams
        link.stall()
        link.cut()
        await until(lambda: not streams._resumption)
        assert detector.ended == 0  # the looks were cancelled
        assert len(server.server._app.state.live) == 0
        link.resume()
        detector.go.set()
        assert await frames == ["a", "b"]  # sent again, as the server says that it has neither
        assert detector.seen == Counter("aabb")


async def test_a_client_that_says_goodbye_leaves_nothing() -> None:
    async with streaming_to() as (detector, _, service, server):
        frames = asyncio.create_task(looks(service, "a", "b"))
        await until(lambda: sum(detector.seen.values()) == 2)
        await service.aclose()
        streams = server.server._app.state.streams
        await until(lambda: not streams._resumption)
        assert all(isinstance(each, BackendError) for each in await frames)
        assert detector.ended == 0


async def test_a_stream_is_its_owner_s_alone() -> None:
    made = []

    def make() -> object:
        made.append(object())
        return made[-1]

    streams = Resumption(max_lost=2)
    name = "0" * 32
    first = streams.taken_up(StreamKey("key a", name), make)  # type: ignore[arg-type]
    assert streams.taken_up(StreamKey("key a", name), make) is first  # type: ignore[arg-type]
    assert streams.taken_up(StreamKey("key b", name), make) is not first  # type: ignore[arg-type]
    assert len(made) == 2


async def test_an_older_link_that_breaks_late_ends_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resumption, "RESUME_S", 0.01)
    presence = LiveSessions(max_watchers=1, max_per_session=1).presence("")
    stream = Stream(places=1, presence=presence, is_resumable=True)
    streams, key = Resumption(max_lost=2), StreamKey("", "0" * 32)
    streams.taken_up(key, lambda: stream)  # over the next link, which is about to open
    streams.lost(key)  # and now the older one breaks
    streams.found(key)
    other = StreamKey("", "1" * 32)
    streams.taken_up(other, lambda: Stream(places=1, presence=presence, is_resumable=True))
    streams.lost(other)
    await until(lambda: len(streams) == 1)
    assert not stream.is_over
    assert streams.taken_up(key, lambda: stream) is stream


def named_link(server: Served) -> connect:
    return connect(
        f"ws://127.0.0.1:{server.port}{STREAM_PATH}",
        compression=None,
        ping_interval=None,
        additional_headers={RESUME_HEADER: "0" * 32},
    )


def a_picture(number: int) -> bytes:
    return encode_request(DetectRequest(request_id=number, image=jpeg(), session_id=str(number)))


async def test_an_older_link_that_ends_late_ends_no_newer_stream() -> None:
    """Its client said goodbye over a later link, and began a stream of the same name."""
    detector = Named()
    detector.go.set()
    async with (
        served(CONFIG, detector=detector) as server,
        asyncio.timeout(LIMIT_S),
        named_link(server) as oldest,
    ):
        streams = server.server._app.state.streams._resumption
        oldest.transport.pause_reading()  # so that it does not answer the server's goodbye
        async with named_link(server) as older:
            await older.send(a_picture(1))
            await older.recv()
        await until(lambda: not len(streams))
        async with named_link(server) as link:
            await link.send(a_picture(2))
            await link.recv()
            oldest.transport.abort()
            await until(lambda: server.connections == 1)
            assert (len(streams), len(streams._lost)) == (1, 0)
            await link.send(a_picture(3))
            assert isinstance(decode_reply(await link.recv()), ResultReply)


async def test_an_older_link_s_goodbye_does_not_give_up_a_lost_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resumption, "RESUME_S", LIMIT_S)
    detector = Named()
    async with (
        served(CONFIG, detector=detector) as server,
        asyncio.timeout(LIMIT_S),
        named_link(server) as older,
    ):
        streams = server.server._app.state.streams._resumption
        older.transport.pause_reading()
        async with named_link(server) as link:
            await link.send(a_picture(1))
            await until(lambda: detector.looks == 1)
            link.transport.abort()
            await until(lambda: len(streams._lost) == 1)
        older.transport.resume_reading()
        await until(lambda: server.connections == 0)
        async with named_link(server) as link:
            detector.go.set()
            assert isinstance(decode_reply(await link.recv()), ResultReply)
        assert detector.looks == 1


async def test_a_stream_that_was_lost_twice_and_found_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resumption, "RESUME_S", 0.01)
    presence = LiveSessions(max_watchers=1, max_per_session=1).presence("")
    streams, key = Resumption(max_lost=2), StreamKey("", "0" * 32)
    stream = streams.taken_up(key, lambda: Stream(places=1, presence=presence, is_resumable=True))
    streams.lost(key)
    streams.lost(key)  # a second link of it, that was being opened
    streams.found(key)
    other = StreamKey("", "1" * 32)
    streams.taken_up(other, lambda: Stream(places=1, presence=presence, is_resumable=True))
    streams.lost(other)
    await until(lambda: len(streams) == 1)
    assert not stream.is_over


async def test_of_many_lost_streams_the_longest_lost_are_given_up() -> None:
    class Counted:
        is_over = False

        def end(self, *, for_good: bool) -> None:
            assert not for_good
            self.is_over = True

    streams = Resumption(max_lost=3)
    keys = [StreamKey("", str(number)) for number in range(10)]
    made = [streams.taken_up(key, Counted) for key in keys]  # type: ignore[arg-type]
    for key in keys:
        streams.lost(key)
    assert [each.is_over for each in made] == [True] * 7 + [False] * 3
    streams.close()
    assert all(each.is_over for each in made)
    assert len(streams) == 0

"""Several pictures in one request: when they share it, and what becomes of each."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest

from hybrid_detect.backends.base import UploadGate
from hybrid_detect.backends.remote.batches import SAFETY_FACTOR, Batches
from hybrid_detect.backends.remote.cloud import CloudDetectionService
from hybrid_detect.backends.remote.frame_jobs import FrameJob
from hybrid_detect.backends.remote.protocol import Capabilities
from hybrid_detect.backends.remote.providers.custom import CustomProtocol
from hybrid_detect.backends.remote.remote_backend import MAX_REPLY_BYTES
from hybrid_detect.backends.remote.sending import Share
from hybrid_detect.backends.remote.targets import Target
from hybrid_detect.charges import SentRequest
from hybrid_detect.compression.compressed_image import CompressedImage
from hybrid_detect.errors import (
    BackendError,
    BackendResponseError,
    BackendTimeoutError,
    BackendUnavailableError,
    ClosedError,
    ConfigurationError,
    ProtocolError,
    Refusal,
)
from hybrid_detect.exchange.batch import (
    BATCH_CONTENT_TYPE,
    BATCH_PATH,
    MAX_BATCH,
    decode_batch,
    encode_batch,
)
from hybrid_detect.exchange.wire import (
    CONTENT_TYPE,
    DETECT_PATH,
    DetectRequest,
    ErrorReply,
    ResultReply,
    decode_request,
    encode_reply,
)
from hybrid_detect.frames.frame import Frame
from hybrid_detect.testing.provider_servers import GoogleServer
from hybrid_detect.types import BackendKind, BoundingBox, DetectionResult, Face, Plan

from ...waiting import until

pytestmark = pytest.mark.anyio

DEADLINE_S = 20.0

PADDING_BYTES = MAX_REPLY_BYTES
"""With a reply before it, more than the answer about one picture may have."""


def frame(width: int = 64) -> Frame:
    return Frame.of(np.zeros((48, width, 3), np.uint8))


def reply_to(request: DetectRequest) -> ResultReply | ErrorReply:
    """A face as wide as the picture, so that a reply of another picture would be noticed."""
    seen = Frame.of(request.image)
    face = Face(BoundingBox(0, 0, seen.width, 24), 0.9)
    return ResultReply(request_id=0, width=seen.width, height=seen.height, faces=(face,))


class Server:
    """Our own server, as the cloud backend's transport."""

    def __init__(
        self, reply: Callable[[DetectRequest], ResultReply | ErrorReply] = reply_to
    ) -> None:
        self.reply = reply
        self.bodies: list[tuple[str, bytes]] = []
        self.pictures: list[list[DetectRequest]] = []
        self.refuses_batches: int = 0
        self.waits: Callable[[], Awaitable[Any]] | None = None
        self.under_way = 0

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        body = await request.aread()
        self.bodies.append((request.url.path, body))
        is_batch = request.url.path == BATCH_PATH
        messages = decode_batch(body) if is_batch else [body]
        requests = [decode_request(message) for message in messages]
        self.pictures.append(requests)
        self.under_way += 1
        try:
            if self.waits is not None:
                await self.waits()
        finally:
            self.under_way -= 1
        if is_batch and self.refuses_batches:
            return self._answer(self.refuses_batches, b"{}", "application/json")
        replies = [encode_reply(self.reply(each)) for each in requests]
        if is_batch:
            return self._answer(200, encode_batch(replies), BATCH_CONTENT_TYPE)
        return self._answer(200, replies[0], CONTENT_TYPE)

    @staticmethod
    def _answer(status: int, body: bytes, kind: str) -> httpx.Response:
        async def content() -> Any:
            yield body

        return httpx.Response(status, content=content(), headers={"Content-Type": kind})

    @property
    def sizes(self) -> list[int]:
        return [len(pictures) for pictures in self.pictures]


def cloud_of(server: Server, **options: Any) -> CloudDetectionService:
    transport = httpx.MockTransport(server)
    if "targets" not in options:
        options["endpoint"] = "https://faces.example"
    return CloudDetectionService(transport=transport, **options)


def plan(deadline_s: float = DEADLINE_S, **options: Any) -> Plan:
    options.setdefault("retries", 0)
    return Plan(backend=BackendKind.CLOUD, reason="test", deadline_s=deadline_s, **options)


async def look(
    cloud: CloudDetectionService, count: int, **options: Any
) -> list[DetectionResult | BaseException]:
    looks = (cloud.detect(frame(64 + 8 * n), plan(**options)) for n in range(count))
    return await asyncio.gather(*looks, return_exceptions=True)


def widths(results: Sequence[DetectionResult | BaseException]) -> list[float]:
    return [
        -1 if isinstance(result, BaseException) else round(result.faces[0].box.x_max)
        for result in results
    ]


async def test_frames_that_are_compressed_together_share_a_request_and_keep_their_faces() -> None:
    server = Server()
    async with cloud_of(server) as cloud:
        results = await look(cloud, 5)
    assert server.sizes == [5]
    assert server.bodies[0][0] == BATCH_PATH
    assert widths(results) == [64, 72, 80, 88, 96]
    sent = [result.bytes_sent for result in results if isinstance(result, DetectionResult)]
    assert sum(sent) == len(server.bodies[0][1]), "each tells its part"


async def test_a_lone_frame_goes_alone() -> None:
    server = Server()
    async with cloud_of(server) as cloud:
        for _ in range(3):
            await cloud.detect(frame(), plan())
    assert [path for path, _ in server.bodies] == [DETECT_PATH] * 3


async def test_no_request_has_more_pictures_than_the_protocol_takes() -> None:
    server = Server()
    async with cloud_of(server, provider_options={"max_pictures": 3}) as cloud:
        results = await look(cloud, 8)
    assert max(server.sizes) <= 3
    assert sum(server.sizes) == 8
    assert widths(results) == [64 + 8 * n for n in range(8)]
    server = Server()
    async with cloud_of(server, provider_options={"max_pictures": 1}) as cloud:
        await look(cloud, 4)
    assert server.sizes == [1] * 4


@pytest.mark.parametrize("value", [0, MAX_BATCH + 1, True, "4", None])
def test_a_number_of_pictures_that_cannot_be_is_refused(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="max_pictures"):
        CustomProtocol(max_pictures=value)


async def test_one_picture_that_cannot_be_looked_at_leaves_the_others_their_answers() -> None:
    def reply(request: DetectRequest) -> ResultReply | ErrorReply:
        answer = reply_to(request)
        if isinstance(answer, ResultReply) and answer.width == 72:
            return ErrorReply(request_id=0, status=422, code="invalid_image")
        return answer

    server = Server(reply)
    async with cloud_of(server) as cloud:
        results = await look(cloud, 3)
    assert server.sizes == [3]
    assert widths(results) == [64, -1, 80]
    error = results[1]
    assert isinstance(error, BackendResponseError)
    assert error.status_code == 422


async def test_a_reply_that_cannot_be_read_leaves_the_others_their_answers() -> None:
    class Broken(Server):
        @staticmethod
        def _answer(status: int, body: bytes, kind: str) -> httpx.Response:
            if kind == BATCH_CONTENT_TYPE:
                replies = decode_batch(body)
                body = encode_batch([replies[0], b"nonsense", *replies[2:]])
            return Server._answer(status, body, kind)

    server = Broken()
    async with cloud_of(server) as cloud:
        results = await look(cloud, 3)
    assert server.sizes == [3]
    assert widths(results) == [64, -1, 80]
    assert isinstance(results[1], ProtocolError)


async def test_a_server_without_batches_is_asked_for_each_picture_from_then_on() -> None:
    server = Server()
    server.refuses_batches = 404
    async with cloud_of(server) as cloud:
        assert widths(await look(cloud, 3)) == [64, 72, 80]
        assert widths(await look(cloud, 3)) == [64, 72, 80]
        assert cloud.pool.statuses()[0].failed == 0
    assert server.sizes == [3, 1, 1, 1, 1, 1, 1]


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_a_request_that_is_refused_for_its_pictures_is_sent_again_one_by_one(
    status: int,
) -> None:
    server = Server()
    server.refuses_batches = status
    async with cloud_of(server) as cloud:
        assert widths(await look(cloud, 3)) == [64, 72, 80]
    assert server.sizes == [3, 1, 1, 1]


async def test_a_request_that_was_too_large_is_not_made_as_large_again() -> None:
    server = Server()
    async with cloud_of(server) as cloud:
        server.refuses_batches = 413
        assert widths(await look(cloud, 4)) == [64, 72, 80, 88]
        server.refuses_batches = 0
        assert widths(await look(cloud, 4)) == [64, 72, 80, 88]
    assert server.sizes[:5] == [4, 1, 1, 1, 1]
    assert max(server.sizes[5:]) in {2, 3}, "smaller ones are still shared"


@pytest.mark.parametrize(("count", "is_read"), [(1, False), (4, True)])
async def test_the_answer_about_several_pictures_may_be_longer(count: int, is_read: bool) -> None:
    class Wordy(CustomProtocol):
        """Takes what is behind the reply for padding."""

        def decode(self, response: Any, pictures: Any) -> Any:
            return super().decode(replace(response, body=response.body[:-PADDING_BYTES]), pictures)

    class WordyServer(Server):
        @staticmethod
        def _answer(status: int, body: bytes, kind: str) -> httpx.Response:
            return Server._answer(status, body + bytes(PADDING_BYTES), kind)

    server = WordyServer()
    targets = [Target(url="https://faces.example", protocol=Wordy())]
    async with cloud_of(server, targets=targets) as cloud:
        results = await look(cloud, count)
    assert server.sizes == [count]
    assert [isinstance(result, DetectionResult) for result in results] == [is_read] * count
    if not is_read:
        assert isinstance(results[0], ProtocolError)


async def test_a_failure_is_each_frames_own_and_counts_once() -> None:
    server = Server()
    server.refuses_batches = 503
    async with cloud_of(server) as cloud:
        results = await look(cloud, 3)
        assert cloud.pool.statuses()[0].failed == 1
    assert server.sizes == [3]
    assert all(isinstance(result, BackendResponseError) for result in results)
    assert len({id(result) for result in results}) == 3


async def test_the_next_target_gets_the_frames_together_as_well() -> None:
    failing, working = Server(), Server()
    failing.refuses_batches = 503

    async def both(request: httpx.Request) -> httpx.Response:
        return await (failing if request.url.host == "one.example" else working)(request)

    targets = [Target(url="https://one.example"), Target(url="https://two.example", preference=1)]
    transport = httpx.MockTransport(both)
    async with CloudDetectionService(targets=targets, transport=transport) as cloud:
        results = await look(cloud, 4)
    assert (failing.sizes, working.sizes) == ([4], [4])
    assert widths(results) == [64, 72, 80, 88]


async def test_a_target_that_hangs_leaves_each_frame_of_a_request_its_time_for_the_next() -> None:
    hanging, working = Server(), Server()
    hanging.waits = asyncio.Event().wait

    async def both(request: httpx.Request) -> httpx.Response:
        return await (hanging if request.url.host == "one.example" else working)(request)

    targets = [Target(url="https://one.example"), Target(url="https://two.example", preference=1)]
    transport = httpx.MockTransport(both)
    async with CloudDetectionService(targets=targets, transport=transport) as cloud:
        results = await asyncio.gather(
            cloud.detect(frame(64), plan(deadline_s=6.0)), cloud.detect(frame(72), plan())
        )
    assert hanging.sizes == [2]
    assert widths(results) == [64, 72]


async def test_a_picture_that_may_not_leave_any_more_does_not_leave_with_the_others() -> None:
    server = Server()
    closed = {"now": False}

    def denied(_: object) -> str:
        return "consent was withdrawn" if closed["now"] else ""

    gates = [UploadGate(BackendKind.CLOUD, lambda _: "") for _ in range(3)]
    gates[1] = UploadGate(BackendKind.CLOUD, denied)
    async with cloud_of(server) as cloud:
        looks = [
            asyncio.ensure_future(cloud.detect(frame(64 + 8 * n), plan(), gate=gate))
            for n, gate in enumerate(gates)
        ]
        await asyncio.sleep(0)
        closed["now"] = True  # while it is compressed
        results = await asyncio.gather(*looks, return_exceptions=True)
    assert isinstance(results[1], BackendUnavailableError)
    assert widths(results) == [64, -1, 80]
    assert server.sizes == [2]
    assert [len(gate.requests) for gate in gates] == [1, 0, 1], "what left is told once"
    assert gates[1].bytes_sent == 0


async def test_each_frame_is_told_its_part_of_the_request_and_its_price() -> None:
    server = Server()
    gates = [UploadGate(BackendKind.CLOUD, lambda _: "") for _ in range(3)]
    target = Target(url="https://faces.example", price_per_frame="0.25", region="eu", name="near")
    async with cloud_of(server, targets=[target]) as cloud:
        looks = (cloud.detect(frame(64 + 8 * n), plan(), gate=gate) for n, gate in enumerate(gates))
        await asyncio.gather(*looks)
    assert server.sizes == [3]
    told = [request for gate in gates for request in gate.requests]
    assert len(told) == 3
    assert {(each.images, each.target, each.region, each.answered) for each in told} == {
        (1, "near", "eu", True)
    }
    assert sum(each.bytes_sent for each in told) == len(server.bodies[0][1])
    assert {str(each.price) for each in told} == {"0.25"}


async def test_a_frame_that_is_given_up_takes_no_other_with_it() -> None:
    server = Server()
    going_on = asyncio.Event()
    server.waits = going_on.wait
    async with cloud_of(server) as cloud:
        looks = [asyncio.ensure_future(cloud.detect(frame(64 + 8 * n), plan())) for n in range(3)]
        await until(lambda: server.under_way)
        looks[0].cancel()
        await asyncio.sleep(0)
        going_on.set()
        results = await asyncio.gather(*looks, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert widths(results) == [-1, 72, 80]


async def test_a_request_that_no_frame_waits_for_any_more_is_broken_off() -> None:
    server = Server()
    server.waits = asyncio.Event().wait
    async with cloud_of(server) as cloud:
        looks = [asyncio.ensure_future(cloud.detect(frame(), plan())) for _ in range(3)]
        await until(lambda: server.under_way)
        for each in looks:
            each.cancel()
        await asyncio.gather(*looks, return_exceptions=True)
        await until(lambda: not server.under_way)
    assert server.sizes == [3]


async def test_each_frame_keeps_its_own_deadline_in_a_shared_request() -> None:
    server = Server()
    going_on = asyncio.Event()
    server.waits = going_on.wait
    async with cloud_of(server) as cloud:
        long = asyncio.ensure_future(cloud.detect(frame(72), plan()))
        short = asyncio.ensure_future(cloud.detect(frame(64), plan(deadline_s=2.0)))
        with pytest.raises(BackendTimeoutError):
            await short
        going_on.set()
        assert widths([await long]) == [72]
    assert server.sizes == [2]


async def test_a_budget_that_has_room_for_one_lets_one_leave() -> None:
    server = Server()
    left = [1]

    def charge(request: SentRequest, *, has_left: bool) -> SentRequest:
        if not left:
            raise BackendUnavailableError("the budget is spent")
        left.pop()
        return request

    gates = [UploadGate(BackendKind.CLOUD, lambda _: "", charge=charge) for _ in range(3)]
    async with cloud_of(server) as cloud:
        looks = (cloud.detect(frame(64 + 8 * n), plan(), gate=gate) for n, gate in enumerate(gates))
        results = await asyncio.gather(*looks, return_exceptions=True)
    assert server.sizes == [1]
    assert widths(results) == [64, -1, -1]
    assert [len(gate.requests) for gate in gates] == [1, 0, 0], "each is charged once"


@pytest.mark.parametrize("count", [1, 3])
async def test_frames_that_may_not_leave_say_nothing_about_their_target(count: int) -> None:
    server = Server()

    def charge(request: SentRequest, *, has_left: bool) -> SentRequest:
        if request.target == "one.example":
            raise BackendUnavailableError("the budget is spent")
        return request

    targets = [Target(url="https://one.example"), Target(url="https://two.example", preference=1)]
    async with cloud_of(server, targets=targets) as cloud:
        for _ in range(3):
            gates = [
                UploadGate(BackendKind.CLOUD, lambda _: "", charge=charge) for _ in range(count)
            ]
            looks = (cloud.detect(frame(64 + 8 * n), plan(), gate=g) for n, g in enumerate(gates))
            assert widths(await asyncio.gather(*looks)) == [64 + 8 * n for n in range(count)]
        assert [status.failed for status in cloud.target_statuses()] == [0, 0]
    assert sum(server.sizes) == 3 * count


async def test_google_takes_them_together_and_tells_of_each() -> None:
    with GoogleServer(api_key="your-key") as google:
        google.picture_errors = {1: 3}
        targets = [{"provider": "google", "endpoint": google.url, "api_key": "your-key"}]
        async with CloudDetectionService(targets=targets) as cloud:
            results = await look(cloud, 4)
    assert [len(request.json()["requests"]) for request in google.requests] == [4]
    answered = [isinstance(result, DetectionResult) for result in results]
    assert answered == [True, False, True, True]
    assert isinstance(results[1], BackendResponseError)
    assert results[1].refusal is Refusal.PICTURE


# ---- when frames share, on a clock of their own

JPEG = CompressedImage(
    data=bytes(1000),
    width=64,
    height=48,
    original_width=64,
    original_height=48,
    quality=80,
    encodes=1,
)


class Asked:
    """Batches whose requests take no time, and what went into each."""

    def __init__(self, *, expected_s: float = 0.1, **capabilities: Any) -> None:
        capabilities.setdefault("max_pictures", 8)
        protocol = CustomProtocol()
        protocol.capabilities = Capabilities(**capabilities)
        self.sizes: list[int] = []
        target = Target(url="https://faces.example", protocol=protocol)
        self.batches = Batches(target, self._send, expected_s=lambda _size, _count: expected_s)

    async def _send(
        self, _target: Target, shares: Sequence[Share], _out: Sequence[Target]
    ) -> list[Any]:
        self.sizes.append(len(shares))
        return [BackendError("told apart by the test") for _ in shares]

    async def ask(self, *, left_s: float = math.inf, probe: bool = False) -> None:
        import time

        job = FrameJob(frame(), plan(probe=probe), time.monotonic() + left_s, None)
        with pytest.raises(BackendError, match="told apart"):
            await self.batches.answer(job, JPEG, ())


async def test_a_frame_waits_for_those_in_preparation_but_not_for_later_ones() -> None:
    asked = Asked()
    later = asked.batches.preparing()
    with asked.batches.preparing():
        first = asyncio.ensure_future(asked.ask())
        await asyncio.sleep(0)
        later.__enter__()
        assert asked.sizes == []
    second = asyncio.ensure_future(asked.ask())
    await first
    assert asked.sizes[0] in {1, 2}, "the later one is not waited for"
    later.__exit__(None, None, None)
    await second


async def test_a_frame_does_not_wait_for_one_that_fails_to_be_compressed() -> None:
    asked = Asked()
    preparation = asked.batches.preparing()
    preparation.__enter__()
    first = asyncio.ensure_future(asked.ask())
    await asyncio.sleep(0)
    with pytest.raises(ValueError, match="broken"):
        preparation.gen.throw(ValueError("broken"))  # type: ignore[attr-defined]
    await first
    assert asked.sizes == [1]


async def test_a_probe_is_never_shared() -> None:
    asked = Asked()
    with asked.batches.preparing():
        await asked.ask(probe=True)
    assert asked.sizes == [1]


async def test_a_request_stays_under_the_providers_cap() -> None:
    asked = Asked(max_request_bytes=6000)
    with asked.batches.preparing():
        looks = [asyncio.ensure_future(asked.ask()) for _ in range(5)]
        await asyncio.sleep(0)
    await asyncio.gather(*looks)
    assert sum(asked.sizes) == 5
    assert max(asked.sizes) == 2, "each counts as base64, with room for its keys"


async def test_closing_gives_up_what_is_under_way() -> None:
    async def never(*_: Any) -> list[Any]:
        await asyncio.Event().wait()
        raise AssertionError

    asked = Asked()
    asked.batches._send = never
    with asked.batches.preparing():
        first = asyncio.ensure_future(asked.ask())
        await asyncio.sleep(0)
    await until(lambda: asked.batches._requests)
    with asked.batches.preparing():
        second = asyncio.ensure_future(asked.ask())
        await asyncio.sleep(0)
        await asked.batches.aclose()
    for look in (first, second):
        with pytest.raises(ClosedError):
            await look
    assert asked.batches._timer is None


@pytest.mark.virtual_time
@pytest.mark.parametrize("left_s", [0.05, 0.2, 0.3, 1.0])
async def test_waiting_costs_no_frame_its_deadline(left_s: float) -> None:
    """A frame leaves while twice what its request is expected to take is left of its time."""
    loop = asyncio.get_running_loop()
    asked = Asked(expected_s=0.1)
    began_s = loop.time()
    with asked.batches.preparing():  # one that never comes
        await asked.ask(left_s=left_s)
        waited_s = loop.time() - began_s
    assert waited_s == pytest.approx(max(left_s - SAFETY_FACTOR * 0.1, 0.0), abs=0.01)


@pytest.mark.virtual_time
async def test_a_frame_in_a_hurry_does_not_join_those_that_would_delay_it() -> None:
    asked = Asked(expected_s=0.1)
    with asked.batches.preparing():
        patient = asyncio.ensure_future(asked.ask(left_s=10))
        await asyncio.sleep(0)
        await asked.ask(left_s=0.15)
        await patient
    assert asked.sizes == [1, 1]


# ---- the format

MESSAGES = [b"", b"a", b"bc" * 1000]


def test_a_batch_is_read_as_it_was_written() -> None:
    assert decode_batch(encode_batch(MESSAGES)) == MESSAGES


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0\0\0",
        b"\0\0\0\2a",
        b"\xff\xff\xff\xff",
        encode_batch([b"a"]) + b"\0",
        encode_batch([b"a"] * (MAX_BATCH + 1)),
    ],
)
def test_what_is_no_batch_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_batch(data)


async def test_an_answer_of_another_number_of_replies_is_refused() -> None:
    class Short(Server):
        @staticmethod
        def _answer(status: int, body: bytes, kind: str) -> httpx.Response:
            if kind == BATCH_CONTENT_TYPE:
                body = encode_batch(decode_batch(body)[:-1])
            return Server._answer(status, body, kind)

    async with cloud_of(Short()) as cloud:
        results = await look(cloud, 3)
    assert all(isinstance(result, ProtocolError) for result in results)


async def test_closing_goes_on_where_a_frame_is_given_up_in_the_same_moment() -> None:
    asked = Asked()
    with asked.batches.preparing():
        waiting = [asyncio.ensure_future(asked.ask()) for _ in range(2)]
        await asyncio.sleep(0)
        closing = asyncio.ensure_future(asked.batches.aclose())
        waiting[0].cancel()  # its answer is cancelled at once, and it hears of that after closing
        await closing
    for look, error in zip(waiting, (asyncio.CancelledError, ClosedError), strict=True):
        with pytest.raises(error):
            await look
    assert asked.sizes == []


async def test_what_ends_pictures_that_are_sent_one_by_one_is_seen_as_it_is() -> None:
    asked = Asked()

    async def refuse_then_close(_: Target, shares: Sequence[Share], __: Any) -> list[Any]:
        if len(shares) > 1:
            raise BackendResponseError("no", refusal=Refusal.SIZE)
        raise ClosedError("the backend is closed")

    asked.batches._send = refuse_then_close
    with asked.batches.preparing():
        waiting = [asyncio.ensure_future(asked.ask()) for _ in range(3)]
        await asyncio.sleep(0)
    for look in waiting:
        with pytest.raises(ClosedError):
            await look

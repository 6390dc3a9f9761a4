"""A whole cluster: Ray, replicas with real detectors, HAProxy. `nox -s cluster` runs it.

One cluster is shared by most tests, which therefore leave it as they found it: with replicas that
answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import csv
import io
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import psutil
import pytest
from PIL import Image
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from hybrid_detect import BackendKind, CloudDetectionService, Frame, Plan, StreamingService
from hybrid_detect.backends.device.models import load_model
from hybrid_detect.errors import BackendError, ModelError
from hybrid_detect.exchange.envelope import SEALED_CONTENT_TYPE
from hybrid_detect.exchange.key_files import write_key_file
from hybrid_detect.exchange.key_ring import KeyRing
from hybrid_detect.exchange.keys import PrivateKey, Suite
from hybrid_detect.exchange.sealer import Sealer
from hybrid_detect.exchange.wire import (
    CONTENT_TYPE,
    DETECT_PATH,
    STREAM_PATH,
    DetectRequest,
    ErrorReply,
    ResultReply,
    decode_reply,
    encode_request,
)
from hybrid_detect.server.api_keys import ApiKeyFile
from hybrid_detect.server.serving import ServerProcess

from ...waiting import wait_until

pytest.importorskip("ray", reason="Ray is not installed: nox -s cluster")
pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(550), pytest.mark.server]

START_LIMIT_S = 180.0
KILLS = 20


@dataclass(frozen=True)
class Cluster:
    """A cluster that runs."""

    process: ServerProcess
    folder: Path
    keys: PrivateKey
    api_keys: ApiKeyFile
    api_key: str

    @property
    def url(self) -> str:
        return self.process.url

    @property
    def streams(self) -> str:
        return self.url.replace("http", "ws") + STREAM_PATH

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.api_key}"}

    def descendants(self, words: str) -> list[psutil.Process]:
        """The processes below the command whose names begin with `words`."""
        assert self.process.pid is not None
        found = []
        for child in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if " ".join(child.cmdline()).startswith(words):
                    found.append(child)
        return found

    def replicas(self) -> list[psutil.Process]:
        return self.descendants("ray::ServeReplica:hybrid-detect")

    def gateways(self) -> list[psutil.Process]:
        assert self.process.pid is not None
        children = psutil.Process(self.process.pid).children()
        return [each for each in children if each.name() == "haproxy"]

    def ready_ports(self) -> set[int]:
        """The ports of the replicas that the gateway sends work to."""
        [gateway] = self.gateways()
        with socket.socket(socket.AF_UNIX) as channel:
            channel.connect(str(Path(gateway.cmdline()[-1]).with_name("s")))
            channel.sendall(b"show stat pictures 4 -1\n")
            rows = csv.DictReader(channel.makefile())
            return {int(row["addr"].rpartition(":")[2]) for row in rows if row["status"] == "UP"}

    def ready_replicas(self) -> set[int]:
        """The pids of the replicas that the gateway sends work to."""
        ports, found = self.ready_ports(), set()
        for process in self.replicas():
            with contextlib.suppress(psutil.Error):
                if any(each.laddr.port in ports for each in process.net_connections("tcp4")):
                    found.add(process.pid)
        return found


async def seen(condition: Callable[[], bool], *, limit_s: float = 120.0) -> None:
    """Like `until`, with time between looks: each look reads the whole tree of processes."""
    ends_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < ends_s, f"still not so after {limit_s:g} s"
        await asyncio.sleep(0.1)


@contextlib.contextmanager
def cluster(folder: Path, settings: str, *options: str) -> Iterator[Cluster]:
    try:
        load_model("full_range")
    except ModelError as error:
        pytest.skip(f"no model to be had: {error}")
    private = PrivateKey.generate(Suite.X25519_CHACHA20, datetime.now(UTC) + timedelta(days=90))
    write_key_file(folder / "keys.json", KeyRing((private,)))
    api_keys = ApiKeyFile(folder / "api-keys.json")
    api_key = api_keys.add("the tests")
    (folder / "cluster.toml").write_text(settings, encoding="utf-8")
    process = ServerProcess(
        model="full_range",
        keys_path=folder / "keys.json",
        options=[
            *("--cluster", str(folder / "cluster.toml")),
            *("--api-keys", str(folder / "api-keys.json")),
            *options,
        ],
        start_timeout_s=START_LIMIT_S,
        stop_timeout_s=30.0,
    )
    with process:
        yield Cluster(process, folder, private, api_keys, api_key)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of two to three replicas, with a history."""
    folder = tmp_path_factory.mktemp("two")
    settings = "min_replicas = 2\nmax_replicas = 3\nupscale_delay_s = 1000\n"
    with cluster(folder, settings, "--history", str(folder / "history.db")) as made:
        wait_until(lambda: len(made.ready_replicas()) == 2, limit_s=60)
        yield made


@pytest.fixture(scope="session")
def picture(astronaut: object) -> bytes:
    out = io.BytesIO()
    Image.fromarray(astronaut).save(out, "JPEG", quality=80)  # type: ignore[arg-type]
    return out.getvalue()


@pytest.fixture
async def client(two: Cluster) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=two.url, headers=two.headers, timeout=20) as made:
        yield made


def message(picture: bytes, number: int = 1) -> bytes:
    return encode_request(DetectRequest(request_id=number, image=picture))


async def test_our_clients_are_answered(two: Cluster, picture: bytes) -> None:
    for make, kind in (
        (CloudDetectionService, BackendKind.CLOUD),
        (StreamingService, BackendKind.STREAMING),
    ):
        backend = make(endpoint=two.url, auth_token=two.api_key)
        try:
            plan = Plan(backend=kind, deadline_s=20.0, reason="a test")
            found = await backend.detect(Frame.of(picture), plan)
            assert len(found.faces) == 1
        finally:
            await backend.aclose()


async def test_idle_streams_take_no_place(
    two: Cluster, client: httpx.AsyncClient, picture: bytes
) -> None:
    # Ray Serve's own front would take five of a replica's requests for open streams, and no more.
    async with contextlib.AsyncExitStack() as streams:
        opened = [
            await streams.enter_async_context(connect(two.streams, additional_headers=two.headers))
            for _ in range(30)
        ]
        assert (await client.post(DETECT_PATH, content=picture)).status_code == 200
        await opened[-1].send(message(picture, 7))
        reply = decode_reply(await opened[-1].recv(decode=False))
        assert isinstance(reply, ResultReply)
        assert reply.request_id == 7


async def test_a_sealed_request_is_answered_once_by_all_replicas(
    two: Cluster, picture: bytes
) -> None:
    """Each copy has a connection of its own, so that copies meet every replica."""
    sealed = Sealer(two.keys.public).seal(message(picture)).data
    headers = {**two.headers, "Content-Type": SEALED_CONTENT_TYPE, "Accept": CONTENT_TYPE}

    async def copy(_: int) -> int:
        async with httpx.AsyncClient(base_url=two.url, headers=headers, timeout=20) as own:
            return (await own.post(DETECT_PATH, content=sealed)).status_code

    first = Counter(await asyncio.gather(*map(copy, range(12))))
    assert first == {200: 1, 409: 11}
    assert Counter(await asyncio.gather(*map(copy, range(12)))) == {409: 12}


async def test_the_owner_of_the_state_dies_and_no_replay_passes(
    two: Cluster, client: httpx.AsyncClient, picture: bytes
) -> None:
    sealed = Sealer(two.keys.public).seal(message(picture)).data
    headers = {"Content-Type": SEALED_CONTENT_TYPE, "Accept": CONTENT_TYPE}

    async def send(data: bytes) -> int:
        return (await client.post(DETECT_PATH, content=data, headers=headers)).status_code

    assert await send(sealed) == 200
    [owner] = two.descendants("ray::StateOwner")
    owner.kill()
    statuses = set()
    limit_s = time.monotonic() + 60
    while not two.descendants("ray::StateOwner") or time.monotonic() < limit_s - 50:
        assert time.monotonic() < limit_s
        statuses.add(await send(sealed))
        # What is not sealed is looked at all the while.
        assert (await client.post(DETECT_PATH, content=picture)).status_code == 200
    assert statuses <= {409, 412, 503}
    assert 200 not in statuses
    while await send(Sealer(two.keys.public).seal(message(picture)).data) != 200:
        assert time.monotonic() < limit_s


async def test_a_session_s_results_are_together_wherever_they_were_made(
    two: Cluster, client: httpx.AsyncClient, picture: bytes
) -> None:
    async def detect(_: int) -> int:
        async with httpx.AsyncClient(base_url=two.url, headers=two.headers, timeout=20) as own:
            sent = {"X-Session-ID": "ann"}
            return (await own.post(DETECT_PATH, content=picture, headers=sent)).status_code

    assert Counter(await asyncio.gather(*map(detect, range(10)))) == {200: 10}
    exported = await client.get("/v1/sessions/ann/export")
    assert (exported.status_code, exported.content[:2]) == (200, b"PK")
    assert (await client.delete("/v1/sessions/ann")).json() == {"results": 10, "images": 0}
    assert (await client.get("/v1/sessions/ann/export")).status_code == 404


async def test_those_who_watch_a_session_see_what_any_replica_looks_at(
    two: Cluster, client: httpx.AsyncClient, picture: bytes
) -> None:
    url = f"{two.url.replace('http', 'ws')}/v1/sessions/eve/live"
    async with contextlib.AsyncExitStack() as opened:
        watchers = [
            await opened.enter_async_context(connect(url, additional_headers=two.headers))
            for _ in range(4)
        ]
        seen_of: list[int] = [0] * len(watchers)

        async def watch(index: int) -> None:
            async for data in watchers[index]:
                reply = decode_reply(data)  # type: ignore[arg-type]
                assert isinstance(reply, ResultReply)
                seen_of[index] += 1

        watching = [asyncio.create_task(watch(index)) for index in range(len(watchers))]
        sent = {"X-Session-ID": "eve"}

        async def all_have_seen() -> bool:
            async with httpx.AsyncClient(base_url=two.url, headers=two.headers) as own:
                assert (await own.post(DETECT_PATH, content=picture, headers=sent)).is_success
            return all(count >= 6 for count in seen_of)

        async with asyncio.timeout(60):
            while not await all_have_seen():
                pass
        for each in watching:
            each.cancel()


async def test_a_revoked_key_is_refused_by_every_replica(two: Cluster, picture: bytes) -> None:
    key = two.api_keys.add("to be revoked")

    async def status(_: int) -> int:
        headers = {"Authorization": f"Bearer {key}"}
        async with httpx.AsyncClient(base_url=two.url, headers=headers, timeout=20) as own:
            return (await own.post(DETECT_PATH, content=picture)).status_code

    assert set(await asyncio.gather(*map(status, range(6)))) == {200}
    two.api_keys.revoke(key.split("_")[1])
    assert set(await asyncio.gather(*map(status, range(6)))) == {401}


async def test_a_full_queue_is_refused_with_a_time_to_wait(
    two: Cluster, client: httpx.AsyncClient, picture: bytes
) -> None:
    async def post(deadline_s: float) -> httpx.Response:
        body = encode_request(DetectRequest(request_id=1, image=picture, deadline_s=deadline_s))
        async with httpx.AsyncClient(base_url=two.url, headers=two.headers, timeout=30) as own:
            return await own.post(DETECT_PATH, content=body, headers={"Content-Type": CONTENT_TYPE})

    answers = await asyncio.gather(*(post(0.3) for _ in range(60)))
    refused = [answer for answer in answers if answer.status_code == 503]
    assert refused
    assert all(int(answer.headers["Retry-After"]) >= 1 for answer in refused)
    assert {answer.status_code for answer in answers} <= {200, 429, 503, 504}
    assert (await client.post(DETECT_PATH, content=picture)).status_code == 200


async def test_the_gateway_is_started_again(
    two: Cluster, client: httpx.AsyncClient, picture: bytes
) -> None:
    [gateway] = two.gateways()
    gateway.kill()
    ends_s = time.monotonic() + 30
    while True:
        try:
            if (await client.post(DETECT_PATH, content=picture)).status_code == 200:
                break
        except httpx.TransportError:
            pass
        assert time.monotonic() < ends_s
    assert [each.pid for each in two.gateways()] != [gateway.pid]


async def test_replicas_are_killed_under_load_and_no_client_notices(
    two: Cluster, picture: bytes
) -> None:
    """Twenty kills: every frame is answered after the client's own retries, none of them twice."""
    is_over = asyncio.Event()
    tally: Counter[str] = Counter()
    frame = Frame.of(picture)

    async def ask(backend: CloudDetectionService | StreamingService, kind: BackendKind) -> None:
        plan = Plan(backend=kind, deadline_s=20.0, retries=8, reason="a test")
        try:
            while not is_over.is_set():
                try:
                    found = await backend.detect(frame, plan)
                except BackendError as error:
                    tally[f"failed: {kind.value}: {error}"] += 1
                else:
                    tally[kind.value] += 1
                    assert len(found.faces) == 1
        finally:
            await backend.aclose()

    async def ask_over_streams() -> None:
        """What came without an answer is sent again over the next stream, under its number."""
        number = 0
        answered: Counter[int] = Counter()
        while not is_over.is_set():
            try:
                async with connect(two.streams, additional_headers=two.headers) as stream:
                    tally["streams opened"] += 1
                    while not is_over.is_set():
                        if answered[number]:
                            number += 1
                        await stream.send(message(picture, number))
                        reply = decode_reply(await stream.recv(decode=False))
                        if isinstance(reply, ErrorReply):
                            assert reply.status in {429, 503, 504}
                            await asyncio.sleep(0.1)
                            continue
                        assert reply.request_id == number
                        answered[reply.request_id] += 1
                        tally["stream"] += 1
            except (WebSocketException, OSError) as error:
                tally[f"stream ended: {type(error).__name__}"] += 1
                await asyncio.sleep(0.05)
        assert set(answered.values()) <= {0, 1}  # none twice

    def others(victim: int) -> set[int]:
        return two.ready_replicas() - {victim}

    async def kill() -> None:
        try:
            for _ in range(KILLS):
                await seen(lambda: len(two.ready_replicas()) >= 2)
                victim = min(two.ready_replicas())
                os.kill(victim, signal.SIGKILL)
                was = tally["cloud"]
                await seen(lambda victim=victim: len(others(victim)) >= 2)
                await seen(lambda was=was: tally["cloud"] >= was + 10)
        finally:
            is_over.set()

    async with asyncio.TaskGroup() as tasks:
        for _ in range(3):
            cloud = CloudDetectionService(endpoint=two.url, auth_token=two.api_key)
            tasks.create_task(ask(cloud, BackendKind.CLOUD))
        streaming = StreamingService(endpoint=two.url, auth_token=two.api_key)
        tasks.create_task(ask(streaming, BackendKind.STREAMING))
        tasks.create_task(ask_over_streams())
        tasks.create_task(kill())
    assert not [name for name in tally if name.startswith("failed")], tally
    assert tally["cloud"] >= KILLS * 10
    assert tally["streaming"] > KILLS
    assert tally["stream"] > KILLS


async def test_the_rate_is_one_for_all_replicas(tmp_path: Path, picture: bytes) -> None:
    settings = "min_replicas = 2\nmax_replicas = 2\n"
    options = ("--rate", "0.01", "--burst", "6")
    with cluster(tmp_path, settings, *options) as limited:
        wait_until(lambda: len(limited.ready_replicas()) == 2, limit_s=60)

        async def status(_: int) -> int:
            async with httpx.AsyncClient(
                base_url=limited.url, headers=limited.headers, timeout=20
            ) as own:
                return (await own.post(DETECT_PATH, content=picture)).status_code

        assert Counter([await status(number) for number in range(14)]) == {200: 6, 429: 8}


async def test_replicas_are_added_under_load_and_what_was_taken_is_answered_at_the_end(
    tmp_path: Path, picture: bytes
) -> None:
    settings = "max_replicas = 3\nupscale_delay_s = 1\ndownscale_delay_s = 1\n"
    with cluster(tmp_path, settings) as made:
        assert len(made.replicas()) == 1
        is_over = asyncio.Event()
        statuses: Counter[object] = Counter()

        async def ask() -> None:
            async with httpx.AsyncClient(
                base_url=made.url, headers=made.headers, timeout=20
            ) as own:
                while not is_over.is_set():
                    answer = await own.post(DETECT_PATH, content=picture)
                    statuses[answer.status_code] += 1
                    if answer.status_code != 200:
                        await asyncio.sleep(int(answer.headers["Retry-After"]))

        asking = [asyncio.create_task(ask()) for _ in range(8)]
        await seen(lambda: len(made.ready_replicas()) == 3 or asking[0].done())
        is_over.set()
        await asyncio.gather(*asking)
        assert set(statuses) <= {200, 503, 504}
        # Fewer again; those that leave lose nothing.
        async with connect(made.streams, additional_headers=made.headers) as stream:
            await stream.send(message(picture))
            assert isinstance(decode_reply(await stream.recv(decode=False)), ResultReply)
        await seen(lambda: len(made.replicas()) == 1)

        # The end: what is under way is answered, streams are told to come back.
        async with connect(made.streams, additional_headers=made.headers) as stream:
            await stream.send(message(picture, 1))
            await stream.recv(decode=False)
            assert made.process.pid is not None
            await stream.send(message(picture, 2))
            os.kill(made.process.pid, signal.SIGTERM)
            reply = decode_reply(await stream.recv(decode=False))
            assert isinstance(reply, ResultReply)
            assert reply.request_id == 2
            with pytest.raises(ConnectionClosed) as caught:
                await stream.recv()
            assert caught.value.rcvd is not None
            assert caught.value.rcvd.code == 1012
        pid = made.process.pid
        await asyncio.to_thread(made.process.stop)
        assert not psutil.pid_exists(pid)


async def test_a_killed_command_takes_everything_with_it(tmp_path: Path) -> None:
    with cluster(tmp_path, "max_replicas = 1\n") as made:
        assert made.process.pid is not None
        below = psutil.Process(made.process.pid).children(recursive=True)
        assert {"haproxy", "raylet"} <= {each.name() for each in below}
        made.process.kill()
        # Ray's two agents notice after a minute that they are alone.
        names = ("DashboardAgent", "RuntimeEnvAgent")
        ours = [each for each in below if not each.name().endswith(names)]
        _, left = await asyncio.to_thread(psutil.wait_procs, ours, 30)
        assert not left, left

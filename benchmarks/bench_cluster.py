"""Replicas behind the cluster's gateway against the plain server with as many detectors.

Both look at the same photo with the same model, in turns: eight connections without pause, over
HTTP and over streams, then one alone. Start, memory of all processes, and the CPU time that the
gateway and the owner of the rates spend on a picture are measured beside, and a larger cluster is
simulated from them (`cluster_simulation.py`).

    pip install 'hybrid-detect[cluster,device-lite]'; python benchmarks/bench_cluster.py [SECONDS]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import re
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import psutil
from cluster_simulation import Measured, simulate, simulate_scaling
from PIL import Image
from skimage import data
from websockets.asyncio.client import connect

from hybrid_detect.exchange.wire import (
    STREAM_PATH,
    DetectRequest,
    ResultReply,
    decode_reply,
    encode_request,
)
from hybrid_detect.server.cluster.scaling import Targets
from hybrid_detect.server.serving import ServerProcess

WORKERS = 2
CLIENTS = 8
ROUNDS = 6
MODEL = "full_range"
FLEET = (1, 2, 4, 8, 16, 32, 64, 128)
"""Replicas of the simulated clusters."""


def photo() -> bytes:
    out = io.BytesIO()
    Image.fromarray(data.astronaut()).resize((1280, 720)).save(out, "JPEG", quality=75)
    return out.getvalue()


Call = Callable[[], Awaitable[float]]
"""Sends a picture; gives the seconds that a detector took."""


@contextlib.asynccontextmanager
async def over_http(url: str, picture: bytes):
    host, _, port = url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"POST /v1/detect HTTP/1.1\r\nHost: x\r\nContent-Length: {len(picture)}\r\n\r\n"
    request = head.encode() + picture

    async def call() -> float:
        writer.write(request)
        answer = (await reader.readuntil(b"\r\n\r\n")).lower()
        assert b" 200 " in answer.partition(b"\r\n")[0], answer
        await reader.readexactly(int(answer.split(b"content-length: ")[1].split()[0]))
        return float(re.findall(rb"detect;dur=([\d.]+)", answer)[0]) / 1000

    yield call
    writer.close()


@contextlib.asynccontextmanager
async def over_a_stream(url: str, picture: bytes):
    message = encode_request(DetectRequest(request_id=1, image=picture))
    async with connect(url.replace("http", "ws") + STREAM_PATH, compression=None) as stream:

        async def call() -> float:
            await stream.send(message)
            reply = decode_reply(await stream.recv(decode=False))
            assert isinstance(reply, ResultReply), reply
            return reply.detect_s or 0.0

        yield call


KINDS = {"HTTP": over_http, "stream": over_a_stream}


async def measured(
    url: str, kind: str, picture: bytes, clients: int, seconds: float
) -> tuple[list[float], list[float]]:
    """Seconds that each picture took, and a detector took for it; of those that ended in time."""
    took: list[float] = []
    looked: list[float] = []

    async def repeat(call: Call) -> None:
        while (began_s := time.perf_counter()) < ends_s:
            look_s = await call()
            if (now_s := time.perf_counter()) < ends_s:
                looked.append(look_s)
                took.append(now_s - began_s)

    async with contextlib.AsyncExitStack() as stack:
        calls = [await stack.enter_async_context(KINDS[kind](url, picture)) for _ in range(clients)]
        ends_s = time.perf_counter() + seconds
        await asyncio.gather(*map(repeat, calls))
    return took, looked


def tree(server: ServerProcess) -> list[psutil.Process]:
    assert server.pid is not None
    root = psutil.Process(server.pid)
    return [root, *root.children(recursive=True)]


def memory_mib(server: ServerProcess) -> float:
    total = 0
    for process in tree(server):
        with contextlib.suppress(psutil.Error):
            total += process.memory_full_info().uss
    return total / 2**20


def cpu_s(server: ServerProcess, words: str) -> float:
    """CPU time of the processes below `server` whose command begins with `words`."""
    total = 0.0
    for process in tree(server):
        with contextlib.suppress(psutil.Error):
            command = " ".join(process.cmdline())
            if words in command.split(" ")[0]:
                times = process.cpu_times()
                total += times.user + times.system
    return total


@contextlib.contextmanager
def servers(folder: Path) -> Iterator[dict[str, ServerProcess]]:
    file = folder / "cluster.toml"
    file.write_text(f"min_replicas = {WORKERS}\nmax_replicas = {WORKERS}\n")
    rate = ["--rate", "1000000", "--burst", "1000000"]  # counted, and never reached
    many = ["--connections-per-peer", "512"]
    made = {
        "plain": ServerProcess(model=MODEL, options=["--detectors", str(WORKERS), *rate, *many]),
        "cluster": ServerProcess(
            model=MODEL,
            options=["--cluster", str(file), *rate, *many],
            start_timeout_s=180,
            stop_timeout_s=30,
        ),
    }
    with contextlib.ExitStack() as stack:
        for name, server in made.items():
            began_s = time.perf_counter()
            stack.enter_context(server)
            print(f"{name}: ready after {time.perf_counter() - began_s:.1f} s")
        ends_s = time.perf_counter() + 60
        while sum("ServeReplica" in " ".join(p.cmdline()) for p in tree(made["cluster"])) < WORKERS:
            assert time.perf_counter() < ends_s
            time.sleep(0.2)
        time.sleep(2)  # until the last replica has its place
        yield made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("seconds", nargs="?", type=float, default=5.0)
    seconds = parser.parse_args().seconds
    picture = photo()
    rates: dict[tuple[str, str], list[float]] = {}
    alone: dict[tuple[str, str], list[float]] = {}
    services: list[float] = []
    with tempfile.TemporaryDirectory() as folder, servers(Path(folder)) as running:
        before = {name: cpu_s(running["cluster"], name) for name in ("haproxy", "ray::StateOwner")}
        pictures = 0
        for _ in range(ROUNDS):
            for kind in KINDS:
                for name, server in running.items():
                    found = asyncio.run(measured(server.url, kind, picture, CLIENTS, seconds))
                    rates.setdefault((name, kind), []).append(len(found[0]) / seconds)
                    pictures += len(found[0]) * (name == "cluster")
                    single = asyncio.run(measured(server.url, kind, picture, 1, seconds / 5))
                    alone.setdefault((name, kind), []).extend(single[0])
                    pictures += len(single[0]) * (name == "cluster")
                    if name == "plain":
                        services += single[1]
        after = {name: cpu_s(running["cluster"], name) for name in before}
        for name, server in running.items():
            print(
                f"{name}: {memory_mib(server):.0f} MiB of its own in {len(tree(server))} processes"
            )
    each = {name: (after[name] - before[name]) / pictures for name in before}
    for kind in KINDS:
        ratios = [
            cluster / plain
            for cluster, plain in zip(rates["cluster", kind], rates["plain", kind], strict=True)
        ]
        p50 = {name: statistics.median(alone[name, kind]) * 1000 for name in running}
        print(
            f"{kind}: {statistics.median(rates['cluster', kind]):.0f} against "
            f"{statistics.median(rates['plain', kind]):.0f} pictures/s, ratio "
            f"{statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]; alone p50 "
            f"{p50['cluster']:.1f} against {p50['plain']:.1f} ms"
        )
    costs = Measured(
        service_s=services,
        gateway_s=each["haproxy"],
        owner_s=each["ray::StateOwner"],
    )
    print(
        f"a picture: detector {statistics.mean(services) * 1000:.1f} ms, gateway "
        f"{costs.gateway_s * 1000:.2f} ms, owner of the rates {costs.owner_s * 1000:.2f} ms of CPU"
    )
    report(costs)


def report(costs: Measured) -> None:
    """Print what larger clusters would do."""
    capacity = 1 / statistics.mean(costs.service_s)
    print("\nsimulated, 80 % of the detectors' capacity offered for 30 s")
    print(
        f"{'replicas':>9}{'offered/s':>11}{'answered/s':>12}{'share':>7}{'p50 ms':>8}{'p99 ms':>8}"
    )
    for replicas in FLEET:
        rate = 0.8 * capacity * replicas
        seconds = min(30.0, 60_000 / rate)
        found = simulate(costs, replicas=replicas, rate_per_s=rate, seconds=seconds)
        within = found.answered_per_s
        p50, p99 = (found.percentile_s(share) * 1000 for share in (0.5, 0.99))
        print(f"{replicas:9}{rate:11.0f}{within:12.0f}{within / rate:7.2f}{p50:8.1f}{p99:8.1f}")
    print(
        f"the gateway ends at {1 / costs.gateway_s:.0f} pictures/s for each of its threads,", end=""
    )
    print(f" the owner of the rates at {1 / costs.owner_s:.0f}/s")
    print("\nsimulated, ten replicas' load from one moment to the next (start 5 s, delay 5 s)")
    print(f"{'s':>5}{'replicas':>10}{'refused':>9}{'p90 ms':>8}")
    for at_s, replicas, refused, p90_s in simulate_scaling(
        costs,
        rate_per_s=0.8 * capacity * 10,
        seconds=60,
        targets=Targets(work=2.0, streams=200.0, latency_s=0.3),
        max_replicas=20,
        start_s=5.0,
        delay_s=5.0,
    )[::3]:
        print(f"{at_s:5.0f}{replicas:10}{refused:9.0%}{p90_s * 1000:8.0f}")


if __name__ == "__main__":
    main()

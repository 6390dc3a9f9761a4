"""The same model file and pictures, served by this server and by what one would take instead.

NVIDIA Triton (PyTriton's wheel), BentoML and LitServe run in environments of their own, which are
made at the first run and kept; one that cannot be installed or started is left out with its reason.
All run the same decoder, runtime and detector (`peers/looking.py`) in as many processes as there
are cores, each with one thread, and must find the same faces in the same pictures. Only one is
asked at a time, over eight connections, in turns, in reverse in every other round; ratios are
within a round. Roboflow's server is not among them: it serves models of Roboflow's own hub, with a
key, and none from a file.

    python benchmarks/bench_peers.py [SECONDS] [--rounds 3] [--level high] [--venvs FOLDER]

Start is from the command to the first answer; memory is the private memory of all of a server's
processes after the rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from bench_detections import CONNECTIONS, TOKEN, pictures
from links import LostError, Target
from photo_scores import FOLDER
from picture_load import requests, served, without_pause

from hybrid_detect.exchange.wire import ResultReply, decode_reply

HERE = Path(__file__).parent
PEERS = HERE / "peers"
SOURCE = HERE.parent / "src"
START_LIMIT_S = 120.0
PROJECT = tomllib.loads((HERE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NUMPY = next(each for each in PROJECT["dependencies"] if each.startswith("numpy"))
NEEDED = [each for each in PROJECT["dependencies"] if each != NUMPY]
BASE = (*NEEDED, "simplejpeg", "onnxruntime", "ai-edge-litert")
"""What looking at a picture needs beside this package's source and NumPy, in every environment."""

BOUNDARY = "a-boundary-that-no-picture-holds"


def _post(path: str, body: bytes, headers: str) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _plain(jpeg: bytes) -> bytes:
    return _post("/detect", jpeg, "Content-Type: image/jpeg\r\n")


def _form(jpeg: bytes) -> bytes:
    disposition = 'Content-Disposition: form-data; name="picture"; filename="p.jpg"'
    start = f"--{BOUNDARY}\r\n{disposition}\r\nContent-Type: image/jpeg\r\n\r\n".encode()
    body = start + jpeg + f"\r\n--{BOUNDARY}--\r\n".encode()
    return _post("/detect", body, f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n")


def _tensor(jpeg: bytes) -> bytes:
    data = len(jpeg).to_bytes(4, "little") + jpeg
    told = json.dumps(
        {
            "inputs": [
                {
                    "name": "picture",
                    "shape": [1],
                    "datatype": "BYTES",
                    "parameters": {"binary_data_size": len(data)},
                }
            ],
            "outputs": [{"name": "faces", "parameters": {"binary_data": False}}],
        }
    ).encode()
    headers = (
        "Content-Type: application/octet-stream\r\n"
        f"Inference-Header-Content-Length: {len(told)}\r\n"
    )
    return _post("/v2/models/faces/infer", told + data, headers)


def _count_in_json(body: bytes) -> int:
    return len(json.loads(body)["faces"])


def _count_in_tensor(body: bytes) -> int:
    (output,) = json.loads(body)["outputs"]
    return len(json.loads(output["data"][0])["faces"])


def _count_in_reply(body: bytes) -> int:
    reply = decode_reply(body)
    assert isinstance(reply, ResultReply), reply
    return len(reply.faces)


@dataclass(frozen=True)
class Peer:
    """Another server."""

    name: str
    packages: tuple[str, ...]
    command: Callable[[Path, int], list[str]]
    """Of the folder of its programs and the port."""
    request: Callable[[bytes], bytes]
    count: Callable[[bytes], int]
    """Faces in an answer."""
    numpy: str = NUMPY
    python: str = sys.executable
    """What its environment is made with."""


SYSTEM_PYTHON = "/usr/bin/python3"
"""Debian's 3.11.2 and Ubuntu's 3.10 and 3.12 run Triton's Python backend. It brings an interpreter
of its own, with the standard library of the one it meets: with 3.11.7's it fails (``RLock`` lacks
``_recursion_count``).

It is built for NumPy 1 and misreads every tensor beside NumPy 2, as a script in ``findings`` shows.
Where NumPy 2 is asked for, pip goes back to PyTriton 0.5.7, the last that does not exclude it; so
versions are named for both.
"""

ALL = (
    Peer(
        "Triton",
        ("nvidia-pytriton>=0.7",),
        lambda programs, _: [str(programs / "python"), str(PEERS / "peer_triton.py")],
        _tensor,
        _count_in_tensor,
        "numpy>=1.26,<2",
        SYSTEM_PYTHON if Path(SYSTEM_PYTHON).exists() else sys.executable,
    ),
    Peer(
        "BentoML",
        ("bentoml",),
        lambda programs, port: [
            str(programs / "bentoml"),
            *("serve", "peer_bentoml:Faces", "--working-dir", str(PEERS)),
            *("--host", "127.0.0.1", "--port", str(port)),
        ],
        _plain,
        _count_in_json,
    ),
    Peer(
        "LitServe",
        ("litserve", "python-multipart"),
        lambda programs, _: [str(programs / "python"), str(PEERS / "peer_litserve.py")],
        _form,
        _count_in_json,
    ),
)


@dataclass
class Running:
    """A server that answers, and what was measured of it."""

    name: str
    port: int
    pid: int
    start_s: float
    asked: Sequence[bytes]
    count: Callable[[bytes], int]
    per_s: list[float] = field(default_factory=list)
    times_s: list[float] = field(default_factory=list)

    def memory_mb(self) -> float:
        process = psutil.Process(self.pid)
        processes = [process, *process.children(recursive=True)]
        total = 0
        for each in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                total += each.memory_full_info().uss
        return total / 1e6


def installed(peer: Peer, folder: Path) -> Path:
    """The programs of the environment with `peer`, made if it is not there, or of other packages.

    Raises:
        subprocess.CalledProcessError: If it cannot be installed.
    """
    home = folder / peer.name.lower()
    programs = home / "bin"
    packages = [*peer.packages, *BASE, peer.numpy]
    complete = home / "complete"
    if not complete.exists() or complete.read_text(encoding="utf-8").split("\n") != packages:
        shutil.rmtree(home, ignore_errors=True)
        subprocess.run([peer.python, "-m", "venv", home], check=True, capture_output=True)
        install = [programs / "python", "-m", "pip", "install", "-q", *packages]
        subprocess.run(install, check=True, stdout=subprocess.DEVNULL)
        complete.write_text("\n".join(packages), encoding="utf-8")
    return programs


@contextlib.contextmanager
def running(
    peer: Peer, folder: Path, level: str, cores: int, data: list[bytes]
) -> Iterator[Running]:
    """`peer` in processes of its own.

    Raises:
        RuntimeError: If it does not start.
    """
    programs = installed(peer, folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PYTHON")},
        "PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', '')}",
        "PYTHONPATH": os.pathsep.join([str(SOURCE), str(PEERS)]),
        "PEER_LEVEL": level,
        "PEER_PORT": str(port),
        "PEER_WORKERS": str(cores),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "BENTOML_DO_NOT_TRACK": "True",
    }
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory() as left, tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            peer.command(programs, port),
            env={**environment, "PYTRITON_HOME": left},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
        try:
            asked = [peer.request(each) for each in data]
            while (refused := _refused(port, asked[0], peer.count)) is not None:
                if process.poll() is not None or time.monotonic() - began_s > START_LIMIT_S:
                    said.seek(0)
                    errors = [line for line in said if "Error" in line] or ["it logged none"]
                    msg = f"no faces from it: {refused}; last error: {errors[-1].strip()[-200:]}"
                    raise RuntimeError(msg)
                time.sleep(0.05)
            start_s = time.monotonic() - began_s
            yield Running(peer.name, port, process.pid, start_s, asked, peer.count)
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a server with all of its processes."""
    with contextlib.suppress(psutil.NoSuchProcess):
        children = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        _, alive = psutil.wait_procs(children, timeout=10)
        for child in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(5)
    process.kill()
    process.wait()


@contextlib.contextmanager
def ours(level: str, data: list[bytes]) -> Iterator[Running]:
    """This server."""
    began_s = time.monotonic()
    with served(auth_token=TOKEN, quality=level) as (port, pid):
        asked = requests(Target(port, TOKEN), data, level)
        while _refused(port, asked[0], _count_in_reply) is not None:
            time.sleep(0.05)
        start_s = time.monotonic() - began_s
        yield Running("hybrid_detect", port, pid, start_s, asked, _count_in_reply)


def _refused(port: int, request: bytes, count: Callable[[bytes], int]) -> str | None:
    """What came instead of an answer with faces; ``None`` if that came."""
    try:
        with contextlib.closing(Target(port).link()) as link:
            body = link.ask(request, limit_s=10.0)
    except (OSError, LostError) as error:
        return type(error).__name__
    try:
        count(body)
    except (ValueError, KeyError):
        return repr(body[-300:])
    return None


def found(server: Running) -> list[int]:
    """Faces in each of the pictures."""
    with contextlib.closing(Target(server.port).link()) as link:
        return [server.count(link.ask(each)) for each in server.asked]


def load(server: Running, seconds: float) -> None:
    """Each connection sends its next picture when it has the answer to the last one."""
    sent = without_pause(Target(server.port), server.asked, seconds, connections=CONNECTIONS)
    for answer in sent.answers:
        server.count(answer.body)  # which an error has not
    server.per_s.append(len(sent.answers) / seconds)
    server.times_s += (answer.took_s for answer in sent.answers)


def told(servers: Sequence[Running]) -> None:
    base = servers[0]
    print(
        f"{'':14} {'per s':>7} {'of ours':>18} {'p50 ms':>7} {'p99 ms':>7} {'MB':>7} {'start s':>8}"
    )
    for server in servers:
        cuts = statistics.quantiles(server.times_s, n=100)
        ratios = [mine / our for mine, our in zip(server.per_s, base.per_s, strict=True)]
        span = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
        print(
            f"{server.name:14} {statistics.median(server.per_s):7.1f} {span:>18}"
            f" {cuts[49] * 1000:7.0f} {cuts[98] * 1000:7.0f} {server.memory_mb():7.0f}"
            f" {server.start_s:8.1f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("seconds", nargs="?", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--level", choices=["fast", "high"], default="high")
    parser.add_argument("--photos", type=Path, default=FOLDER, metavar="FOLDER")
    parser.add_argument(
        "--venvs", type=Path, default=Path(tempfile.gettempdir()) / "hybrid-detect-peers"
    )
    arguments = parser.parse_args()
    level = arguments.level
    data = pictures(arguments.photos)
    arguments.venvs.mkdir(parents=True, exist_ok=True)
    cores = len(os.sched_getaffinity(0))
    with contextlib.ExitStack() as ends:
        servers = [ends.enter_context(ours(level, data))]
        for peer in ALL:
            try:
                started = running(peer, arguments.venvs, level, cores, data)
                servers.append(ends.enter_context(started))
            except (RuntimeError, subprocess.CalledProcessError) as error:
                print(f"without {peer.name}: {error}")
        counts = {server.name: found(server) for server in servers}
        expected = counts["hybrid_detect"]
        for name, others in counts.items():
            if others != expected:
                print(f"{name} finds other faces: {others} instead of {expected}")
        for server in servers:
            load(server, 1.0)
            server.per_s.clear()
            server.times_s.clear()
        for number in range(arguments.rounds):
            for server in servers[:: -1 if number % 2 else 1]:
                load(server, arguments.seconds)
        print(
            f"{level}, {len(data)} pictures of 1280x720, {cores} cores, {arguments.rounds} rounds"
        )
        told(servers)


if __name__ == "__main__":
    main()

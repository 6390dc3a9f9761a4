"""What counting and logging add to a request of the server, in CPU time.

The app itself, without a socket and with a detector that sees nothing at once, answers the same
request plain, with metrics, with a log line, and with both, in turns. Beside it stands what a
request takes of the whole server, its detectors included, that looks at a photo with the full-range
model over loopback. A scrape is told by itself: there is one every few seconds.

    python benchmarks/bench_server_metrics.py [REQUESTS]
"""

import asyncio
import io
import logging
import statistics
import sys
import time
from typing import Any

import httpx
import psutil
from PIL import Image
from skimage import data

from hybrid_detect.server.app import create_app
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.server.detectors import Detection
from hybrid_detect.server.logs import set_up_logging
from hybrid_detect.server.serving import ServerProcess

REQUESTS = 4000
AT_ONCE = 50
"""Requests between two readings of the clock of CPU time, whose steps are coarse."""

TOKEN = "a-token"  # noqa: S105 - for this benchmark alone
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "metrics": {"metrics_port": 0},
    "log line": {"request_log": "all"},
    "both": {"metrics_port": 0, "request_log": "all"},
}


class InstantDetector:
    """Sees nothing, at once."""

    model = "instant"
    info = None

    async def start(self) -> None: ...

    async def detect(self, request: object, **_: object) -> Detection:
        return Detection(width=1280, height=720, faces=(), queue_s=0.0, detect_s=0.0)

    async def aclose(self) -> None: ...


def photo() -> bytes:
    out = io.BytesIO()
    Image.fromarray(data.astronaut()).save(out, "JPEG", quality=80)
    return out.getvalue()


async def ask(app: Any, body: bytes) -> None:
    """One request, as an ASGI server hands it to the app."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        return messages.pop() if messages else {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        assert message.get("status", 200) == 200, message

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/v1/detect",
        "raw_path": b"/v1/detect",
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"a"), (b"authorization", f"Bearer {TOKEN}".encode())],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
    }
    await app(scope, receive, send)


async def in_turns(requests: int) -> dict[str, float]:
    """The median CPU seconds of a request of each variant."""
    body = photo()
    apps = {
        name: create_app(ServerConfig(auth_token=TOKEN, rate_per_s=0, **options), InstantDetector())
        for name, options in VARIANTS.items()
    }
    taken: dict[str, list[float]] = {name: [] for name in apps}
    for _ in range(requests // AT_ONCE):
        for name, app in apps.items():
            started_s = time.process_time()
            for _ in range(AT_ONCE):
                await ask(app, body)
            taken[name].append((time.process_time() - started_s) / AT_ONCE)
    return {name: statistics.median(each[1:]) for name, each in taken.items()}


def of_a_whole_server(requests: int = 100) -> tuple[float, float]:
    """CPU seconds of a request of the server and its detectors, and of a scrape."""
    options = ["--metrics-port", "0"]
    body, headers = photo(), {"Authorization": f"Bearer {TOKEN}"}
    with (
        ServerProcess(auth_token=TOKEN, model="full_range", options=options) as server,
        httpx.Client() as http,
    ):
        process = psutil.Process(server.pid)

        def cpu_s() -> float:
            times = [each.cpu_times() for each in (process, *process.children())]
            return sum(each.user + each.system for each in times)

        def spent_s(url: str, method: str, content: bytes | None, count: int) -> float:
            started_s = cpu_s()
            for _ in range(count):
                http.request(method, url, content=content, headers=headers).raise_for_status()
            return (cpu_s() - started_s) / count

        spent_s(f"{server.url}/v1/detect", "POST", body, 10)
        return (
            spent_s(f"{server.url}/v1/detect", "POST", body, requests),
            spent_s(server.metrics_url, "GET", None, requests),
        )


def main() -> None:
    requests = int(sys.argv[1]) if len(sys.argv) > 1 else REQUESTS
    sys.stderr = io.StringIO()  # the log's lines cost what they cost; reading them is no part
    set_up_logging("json")
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    figures = asyncio.run(in_turns(requests))
    sys.stderr = sys.__stderr__
    whole_s, scrape_s = of_a_whole_server()
    print(f"a request of the whole server: {whole_s * 1e3:.1f} ms of CPU")
    for name in VARIANTS:
        added_s = figures[name] - figures["plain"]
        print(
            f"{name:8}: {figures[name] * 1e6:6.0f} us without detector and socket, "
            f"{added_s * 1e6:+5.0f} us, {added_s / whole_s:+.2%} of the whole"
        )
    print(f"a scrape: {scrape_s * 1e3:.1f} ms, {scrape_s / 15:.3%} of a core every 15 s")


if __name__ == "__main__":
    main()

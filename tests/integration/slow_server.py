"""A server in a process of its own whose looks take `LOOK_S` each; prints its address."""

import asyncio
import time
from typing import Any

from hybrid_detect.exchange.wire import DetectRequest
from hybrid_detect.server.app import create_app
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.server.detectors import Detection
from hybrid_detect.server.listening import Server

LOOK_S = 0.3


class SlowLooks:
    """A detector of which every look takes `LOOK_S`; faces it sees none."""

    model, info = "slow", None

    async def start(self) -> None: ...

    async def detect(self, request: DetectRequest, **_: Any) -> Detection:
        began_s = time.monotonic()
        await asyncio.sleep(LOOK_S)
        detect_s = time.monotonic() - began_s
        return Detection(width=64, height=48, faces=(), queue_s=0.0, detect_s=detect_s)

    async def aclose(self) -> None: ...


if __name__ == "__main__":
    config = ServerConfig(port=0, rate_per_s=0)
    Server(create_app(config, SlowLooks()), config).run(lambda url: print(url, flush=True))  # noqa: T201

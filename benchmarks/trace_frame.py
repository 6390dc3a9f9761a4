"""The path of one cloud frame through the library: files entered, calls made, depth of the stack.

The service is warm and the frame is the third of its kind. httpx is real; its transport is a stub
that answers at once and looks at the stack it is called on. Only the library's own functions are
counted, a coroutine once however often it is resumed.

    python benchmarks/trace_frame.py [--files]
"""

import argparse
import asyncio
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import httpx
import numpy as np

import hybrid_detect
from hybrid_detect import CloudDetectionService, HybridDetectionService
from hybrid_detect.exchange.wire import CONTENT_TYPE, ResultReply, encode_reply

OWN = str(Path(hybrid_detect.__file__).parent)
HEALTH = b'{"status": "ok", "model": "stub", "version": "0"}'
REPLY = encode_reply(ResultReply(request_id=0, width=640, height=480, detect_s=0.001))


class Trace:
    """What the profiler sees of the library's own functions."""

    def __init__(self) -> None:
        self.files: Counter[str] = Counter()
        self.stack: list[str] = []
        self._seen: set[FrameType] = set()

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and is_own(frame.f_code) and frame not in self._seen:
            self._seen.add(frame)  # a coroutine that goes on is called again
            self.files[relative(frame.f_code)] += 1

    def at_transport(self) -> None:
        """Note the own functions on the stack below the caller."""
        frame: FrameType | None = sys._getframe(1)
        self.stack = []
        while frame is not None:
            if is_own(frame.f_code):
                self.stack.append(f"{relative(frame.f_code)}:{frame.f_code.co_qualname}")
            frame = frame.f_back


def is_own(code: CodeType) -> bool:
    return code.co_filename.startswith(OWN)


def relative(code: CodeType) -> str:
    return code.co_filename.removeprefix(OWN + "/")


class Stub(httpx.AsyncBaseTransport):
    """Answers at once."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self._trace.at_transport()
        await request.aread()
        if request.url.path.endswith("/health"):
            return answer(HEALTH, "application/json")
        return answer(REPLY, CONTENT_TYPE)


def answer(content: bytes, content_type: str) -> httpx.Response:
    async def body() -> AsyncIterator[bytes]:
        yield content

    return httpx.Response(200, headers={"Content-Type": content_type}, content=body())


async def trace_frame() -> Trace:
    """Send three frames and trace the last."""
    trace = Trace()
    image = np.zeros((480, 640, 3), np.uint8)
    cloud = CloudDetectionService(endpoint="http://localhost:9", transport=Stub(trace))
    async with HybridDetectionService(mode="cloud", backends=[cloud]) as service:
        await service.process_image(image)
        # The encoding thread has started by now and never looks at `threading.setprofile`.
        await asyncio.get_running_loop().run_in_executor(cloud._encoder, sys.setprofile, trace)
        await service.process_image(image)
        trace.files.clear()
        threading.setprofile(trace)
        sys.setprofile(trace)
        try:
            await service.process_image(image)
        finally:
            sys.setprofile(None)
            threading.setprofile(None)
        await asyncio.get_running_loop().run_in_executor(cloud._encoder, sys.setprofile, None)
    return trace


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--files", action="store_true", help="list files and stack")
    arguments = parser.parse_args()
    trace = asyncio.run(trace_frame())
    print(
        f"own files entered: {len(trace.files)}, calls: {sum(trace.files.values())}, "
        f"own stack frames at the transport: {len(trace.stack)}"
    )
    if arguments.files:
        for name, calls in sorted(trace.files.items()):
            print(f"{calls:5d}  {name}")
        print("\n".join(trace.stack))


if __name__ == "__main__":
    main()

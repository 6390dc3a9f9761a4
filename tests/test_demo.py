"""``hybrid-detect demo``: a server that is slow to start, stays unused or does not come back."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest

from hybrid_detect.cli import demo
from hybrid_detect.config import ServiceConfig
from hybrid_detect.errors import BackendUnavailableError
from hybrid_detect.types import (
    BackendKind,
    BoundingBox,
    DetectionMode,
    DetectionResult,
    DetectionStatus,
    Face,
    Timings,
)

pytestmark = pytest.mark.anyio

CONFIG = ServiceConfig(endpoint="http://127.0.0.1:9", auth_token="a-token")
README = (Path(__file__).parents[1] / "README.md").read_text("utf-8")
REASON = (
    "auto: streaming 640 px q80, 100% in time at 106.3 Mbit/s, round trip 4 ms; 1.00 of the faces "
    "seen on the device; streaming could not answer (the link broke)"
)
PHOTO = np.zeros((48, 64, 3), np.uint8)
SLOW_FRAMES = 3 * demo.PATIENCE_FRAMES
"""Frames that a start takes on a machine with much else to do."""


class SlowServer:
    """A server whose start ends once so many frames have passed; it may fail, or be ignored."""

    def __init__(self, *, fails: bool = False) -> None:
        self.running = True
        self.fails = fails
        self.let_up = threading.Event()

    def kill(self) -> None:
        self.running = False

    def start(self) -> None:
        assert self.let_up.wait(60), "the stream ended before the server was ready"
        if self.fails:
            msg = "the server did not start: no memory"
            raise BackendUnavailableError(msg)
        self.running = True


def a_service(monkeypatch: pytest.MonkeyPatch, server: SlowServer, *, goes_back: bool) -> list[Any]:
    """Have the demo use a service that asks `server` while it runs; returns the frames' images."""
    images: list[Any] = []

    class Service:
        def __init__(self, config: ServiceConfig) -> None:
            assert config.device_cost == demo.DEVICE_COST

        async def __aenter__(self) -> Self:
            return self

        async def __aexit__(self, *_: object) -> None: ...

        async def wait_ready(self) -> None: ...

        async def start_detection(
            self, camera: AsyncIterator[Any], **_: object
        ) -> AsyncIterator[DetectionResult]:
            gone = False
            async for image in camera:
                images.append(image)
                await asyncio.sleep(0)  # the start of the server has its turn
                if len(images) == SLOW_FRAMES:
                    server.let_up.set()
                gone = gone or not server.running
                asked = server.running and (goes_back or not gone)
                yield DetectionResult(
                    status=DetectionStatus.OK,
                    width=64,
                    height=48,
                    backend=BackendKind.STREAMING if asked else BackendKind.DEVICE,
                    reason=REASON,
                )

    monkeypatch.setattr(demo, "HybridDetectionService", Service)
    return images


async def test_the_stream_goes_on_until_a_slow_server_is_ready_and_used_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = SlowServer()
    images = a_service(monkeypatch, server, goes_back=True)
    assert await demo._cut(PHOTO, CONFIG, server)
    assert len(images) > SLOW_FRAMES
    said = capsys.readouterr().out
    assert "frame 15: server killed; frame 35: started again, ready at frame " in said
    assert " ".join(said.split()).endswith("the server was used again.")


async def test_what_it_prints_fits_a_terminal_of_80_columns_and_readme_shows_the_same_tables(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    await a_look_at_one_photo(monkeypatch)
    server = SlowServer()
    a_service(monkeypatch, server, goes_back=True)
    await demo._cut(PHOTO, CONFIG, server)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert REASON in " ".join(line.strip() for line in lines)
    heads = [line for line in lines if line.startswith(("backend ", "frames "))]
    assert len(heads) == 2
    shown = README.splitlines()
    assert [" ".join(head.split()) for head in heads] == [
        " ".join(line.split()) for line in shown if line.startswith(("backend ", "frames "))
    ]


async def a_look_at_one_photo(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first table, with what is widest in it."""

    class Service:
        def __init__(self, *, mode: DetectionMode, config: ServiceConfig) -> None: ...

        async def __aenter__(self) -> Self:
            return self

        async def __aexit__(self, *_: object) -> None: ...

        async def process_image(self, _photo: object, **_: object) -> DetectionResult:
            return DetectionResult(
                status=DetectionStatus.OK,
                width=64,
                height=48,
                faces=(Face(BoundingBox(1, 2, 30, 40), 0.9),),
                backend=BackendKind.STREAMING,
                model="centerface",
                reason="streaming: streaming (1234 ms)",
                timings=Timings(total_s=1.234),
                bytes_sent=81_920,
            )

    monkeypatch.setattr(demo, "HybridDetectionService", Service)
    await demo._three_backends(PHOTO, CONFIG)


async def test_a_server_that_is_ready_and_not_used_is_told_as_that(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = SlowServer()
    images = a_service(monkeypatch, server, goes_back=False)
    assert not await demo._cut(PHOTO, CONFIG, server)
    assert len(images) >= SLOW_FRAMES + demo.PATIENCE_FRAMES
    said = capsys.readouterr().out
    assert " ".join(said.split()).endswith("the server was not used again.")


async def test_a_server_that_does_not_start_ends_the_demo_with_its_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = SlowServer(fails=True)
    a_service(monkeypatch, server, goes_back=True)
    with pytest.raises(BackendUnavailableError, match="no memory"):
        await demo._cut(PHOTO, CONFIG, server)


async def test_the_picture_never_moves_far_enough_to_cut_a_face(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    marked = PHOTO.copy()
    marked[:, 0] = 255
    server = SlowServer()
    images = a_service(monkeypatch, server, goes_back=True)
    await demo._cut(marked, CONFIG, server)
    shifts = [int(image[0, :, 0].argmax()) for image in images]
    assert max(shifts) == demo.PAN_FRAMES * demo.PAN_PX
    assert all(before != after for before, after in pairwise(shifts))

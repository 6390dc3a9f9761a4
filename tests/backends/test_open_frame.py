"""Opening frames from an event loop: what may take long happens in a thread."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hybrid_detect.backends import base
from hybrid_detect.backends.base import open_frame
from hybrid_detect.frames import frame as frame_module
from hybrid_detect.frames.camera import CameraImage
from hybrid_detect.frames.frame import Frame

from ..waiting import LIMIT_S


def encoded(kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (32, 24), "red").save(out, kind)
    return out.getvalue()


def _path(tmp_path: Path) -> Path:
    (tmp_path / "face.png").write_bytes(encoded())
    return tmp_path / "face.png"


SLOW: dict[str, Callable[[Path], Any]] = {
    "a path": _path,
    "a file object": lambda _: io.BytesIO(encoded()),
    "long bytes": lambda _: encoded("BMP"),
    "a long bytearray": lambda _: bytearray(encoded("BMP")),
    "a long view": lambda _: memoryview(encoded("BMP")),
    "a lazily opened image": lambda _: Image.open(io.BytesIO(encoded())),
    "a large array": lambda _: np.zeros((64, 64, 3), np.uint8),
}
QUICK: dict[str, Callable[[Path], Any]] = {
    "short bytes": lambda _: encoded(),
    "a small array": lambda _: np.zeros((24, 32, 3), np.uint8),
    "a frame": lambda _: Frame.of(np.zeros((24, 32, 3), np.uint8)),
    "camera planes": lambda _: CameraImage.from_buffer(
        bytes(32 * 24 * 3 // 2), format="i420", width=32, height=24
    ),
}


@pytest.mark.anyio
@pytest.mark.parametrize("name", [*SLOW, *QUICK])
async def test_what_may_take_long_is_done_in_a_thread(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frame_module, "AT_ONCE_ENCODED_BYTES", 1000)
    monkeypatch.setattr(frame_module, "AT_ONCE_ARRAY_BYTES", 10_000)
    threads: list[int] = []

    class NotingFrame(Frame):
        @classmethod
        def of(cls, *args: Any, **options: Any) -> Frame:
            threads.append(threading.get_ident())
            return Frame.of(*args, **options)

    image = (SLOW | QUICK)[name](tmp_path)
    monkeypatch.setattr(base, "Frame", NotingFrame)
    assert (await open_frame(image)).height
    assert [ident == threading.get_ident() for ident in threads] == [name in QUICK]


class _SlowFile(io.BytesIO):
    """A file on a drive that waits for the event loop: read on the loop, it would never go on."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.may_read = threading.Event()

    def read(self, size: int | None = -1) -> bytes:
        assert self.may_read.wait(LIMIT_S)
        return super().read(size)


@pytest.mark.anyio
async def test_the_loop_runs_while_a_slow_file_is_read() -> None:
    file = _SlowFile(encoded())
    opening = asyncio.create_task(open_frame(file))
    for _ in range(5):
        await asyncio.sleep(0)
    file.may_read.set()
    assert (await opening).width == 32


@pytest.mark.anyio
async def test_the_loop_runs_while_a_lazily_opened_image_is_read() -> None:
    file = _SlowFile(encoded())
    file.may_read.set()
    image = Image.open(file)
    file.may_read.clear()
    opening = asyncio.create_task(open_frame(image))
    for _ in range(5):
        await asyncio.sleep(0)
    file.may_read.set()
    assert (await opening).width == 32


@pytest.mark.anyio
async def test_a_file_that_is_too_slow_ends_with_its_limit() -> None:
    file = _SlowFile(encoded())
    with pytest.raises(TimeoutError):
        await open_frame(file, limit_s=0.01)
    file.may_read.set()

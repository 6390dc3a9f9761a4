"""What runs inside the detector's process: read a command, look, write the faces.

It imports what detecting needs and nothing else. Once its detector stands it can open neither a
file nor a socket any more, so whatever MediaPipe would like to tell anybody stays here. It ends
when its standard input ends, that is, with the process that started it, and never through
MediaPipe's own ``close()``.
"""

from __future__ import annotations

import mmap
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from hybrid_detect.backends.device.face_detector import MediaPipeFaceDetector
from hybrid_detect.backends.device.worker_messages import (
    DETECT,
    FAILED,
    FOUND,
    PING,
    READY,
    REQUEST,
    pack_faces,
    pack_reply,
)
from hybrid_detect.errors import HybridDetectError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["main"]

ORPHAN_POLL_S = 1.0
"""How often a process that may be stuck in native code looks whether its parent still lives."""


def main(options: dict[str, Any]) -> NoReturn:
    """Serve until standard input ends.

    Args:
        options: What `worker_process.WorkerProcess` has to say.
    """
    reply_fd = _private_stdout()
    try:
        worker, first = _Child(options), pack_reply(READY, b"")
    except Exception as error:
        worker, first = None, pack_reply(FAILED, _told(error))
    # Whatever was printed before is told from replies by the word before the first of them.
    os.write(reply_fd, options["word"].encode() + first)
    try:
        while worker is not None:
            header = _read_exactly(0, REQUEST.size)
            os.write(reply_fd, worker.answer(header))
    finally:
        os._exit(1)  # not by an error's way out, on which MediaPipe would be closed


def _told(error: Exception) -> bytes:
    known = isinstance(error, HybridDetectError)
    return (str(error) if known else f"{type(error).__name__}: {error}").encode()


class _Child:
    def __init__(self, options: dict[str, Any]) -> None:
        self._memory = _map(options["slot"], options["capacity"])
        _leave_no_core_file()
        _end_with(options["parent"])
        model = self._memory[: options["model_bytes"]]
        self._detector = MediaPipeFaceDetector(
            model, min_confidence=options["min_confidence"], slim=True
        )
        # The first detection allocates what the later ones use, and opens what they need.
        self._detector.detect(np.zeros((128, 128, 3), np.uint8))
        _limit(options["memory_cap_bytes"])

    def answer(self, header: bytes) -> bytes:
        """The reply to one command."""
        command, width, height = REQUEST.unpack(header)
        if command == PING:
            return pack_reply(READY, b"")
        if command != DETECT:
            return pack_reply(FAILED, b"unknown command")
        try:
            started_s = time.monotonic()
            faces = self._detector.detect(self._pixels(width, height))
        except (HybridDetectError, MemoryError) as error:
            return pack_reply(FAILED, f"{type(error).__name__}: {error}".encode())
        return pack_reply(FOUND, pack_faces(faces), time.monotonic() - started_s)

    def _pixels(self, width: int, height: int) -> NDArray[np.uint8]:
        pixels = np.frombuffer(self._memory, np.uint8, width * height * 3)
        return pixels.reshape(height, width, 3)


def _map(slot: object, capacity: int) -> mmap.mmap:
    if isinstance(slot, int):
        return mmap.mmap(slot, capacity)
    return mmap.mmap(-1, capacity, tagname=slot)  # type: ignore[call-arg]


def _private_stdout() -> int:
    """Keep standard output for replies, and send whatever else is printed nowhere."""
    reply_fd = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    return reply_fd


def _read_exactly(fd: int, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = os.read(fd, size - len(data))
        if not part:
            os._exit(0)  # not sys.exit: nothing of MediaPipe's may run on the way out
        data += part
    return data


def _leave_no_core_file() -> None:
    """If this process crashes, the picture in its memory shall not reach a disk."""
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _end_with(parent: int) -> None:
    """End when the parent does, even while native code keeps the main thread from noticing."""
    if sys.platform == "win32":
        return  # a parent's id stays the same there after its death; the pipe has to do

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(ORPHAN_POLL_S)
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


def _limit(memory_cap_bytes: int) -> None:
    """Cap the heap, and let no further file or socket be opened."""
    if sys.platform == "win32":
        return
    import resource

    if sys.platform == "linux" and memory_cap_bytes:
        # RLIMIT_AS would count the mapped library and end in a crash instead of a MemoryError.
        _, most = resource.getrlimit(resource.RLIMIT_DATA)
        cap = memory_cap_bytes if most == resource.RLIM_INFINITY else min(memory_cap_bytes, most)
        resource.setrlimit(resource.RLIMIT_DATA, (cap, cap))
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))

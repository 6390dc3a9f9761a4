"""The detector's process itself: how it is started, spoken to and ended.

`worker` decides what it is asked and when another replaces it.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import select
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import IO, Any

from hybrid_detect.backends.device import child_program
from hybrid_detect.backends.device.shared_slot import SharedSlot
from hybrid_detect.backends.device.worker_messages import REPLY, REQUEST

__all__ = ["WorkerOptions", "WorkerProcess"]

START_LIMIT_S = 30.0
"""A start takes 0.2 s on a desktop and a few seconds on a Raspberry Pi with a cold disk."""

ANSWER_LIMIT_S = 30.0
"""The last limit on any answer, so that no thread ever waits without an end. The event loop that
watches a detector ends a hang much earlier; this is for a loop that has ended."""

STOP_TIMEOUT_S = 1.0
"""An idle process ends within milliseconds of its input ending; one that does not is stuck."""

MAX_REPLY_BYTES = 1 << 20
"""About 7,000 faces. A longer reply comes from a process that is out of order."""

READ_BYTES = 4096
"""A reply of 28 faces, with its head, is read at once."""

MAX_NOISE_BYTES = 1 << 16
"""What a process may print before its first reply: a ``sitecustomize`` may print a line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """What a detector's process is told at its start."""

    runtime: str
    """What makes the detector: a `ModelRuntime.factory`."""
    side_px: int | None
    """Longer side of the picture that the network is given; `None` for the model's only one."""
    min_confidence: float
    """Faces below this score are left out, 0 to 1, unless a picture asks for another."""
    lowest_confidence: float
    """The lowest score that a picture may ask for."""
    threshold_moves_boxes: bool
    """`ModelRuntime.threshold_moves_boxes`."""
    enough_px: int | None
    """Pixels of a picture's longer side that suffice; `None` for all of them."""
    decodes: bool
    """Whether it loads the decoders of encoded pictures, 60 ms and 3 MB; it cannot do so later."""
    memory_cap_bytes: int
    """Heap limit of the process on Linux, which decoding a large picture may exceed by the
    picture's own needs; 0 for none."""
    start_limit_s: float | None = None
    """Seconds that its start may take; `None` for `START_LIMIT_S`."""
    niceness: int = 0
    """By how much it gives way to the app's own process where they share a core."""


class WorkerProcess:
    """A detector's process, and the memory that it shares with this one: they end together.

    It is also ended when this object is garbage. Only `kill` may be called from other threads than
    the one that asks.

    Args:
        model: The model file's bytes.
        options: What the process is told at its start.

    Raises:
        OSError: If there is no memory, file descriptor or process to be had.
        MemoryError: If there is no memory to be had.
    """

    def __init__(self, model: bytes, options: WorkerOptions) -> None:
        self.slot = slot = SharedSlot()
        try:
            heard, self._input = _open_pipe()
        except BaseException:
            slot.close()
            raise
        self._word = secrets.token_hex(16).encode()
        self._start_limit_s = options.start_limit_s
        try:
            slot.put(model)
            told = {
                **asdict(options),
                "sys_path": [entry for entry in sys.path if isinstance(entry, str)],
                "parent": os.getpid(),
                "word": self._word.decode(),
                "slot": slot.handle,
                "capacity": slot.capacity,
                "model_bytes": len(model),
            }
            self._process = subprocess.Popen(  # noqa: S603 - our own module
                child_program.command(json.dumps(told)),
                stdin=heard,
                stdout=subprocess.PIPE,
                # MediaPipe writes dozens of lines that say nothing to a user.
                stderr=subprocess.DEVNULL,
                pass_fds=slot.inherited,
                env=child_program.environment(),
                bufsize=0,
                **_group_of_its_own(),
            )
        except BaseException:
            heard.close()
            self._input.close()
            slot.close()
            raise
        self._output = _pipe(self._process.stdout)
        self._pipes = (heard, self._input, self._output)
        self._buffer = b""
        self.reply_kind: int | None = None
        """Kind of the reply that `read_on` has read; `None` while it is not complete."""
        self._ends_s = 0.0
        self.ended_after_s = 0.0
        """The limit on an answer after which it was killed; 0 as long as it was not."""
        self._limit_s = 0.0
        self._poll: select.poll | None = None
        self.reply_fd: int | None = None
        """What an event loop can wait for: readable when `read_on` has something to read. `None` on
        Windows, where a pipe cannot be waited for."""
        if sys.platform != "win32":
            self._poll = select.poll()
            self._poll.register(self._output, select.POLLIN)
            self.reply_fd = self._output.fileno()
        # Else the pipes would stay open in `subprocess`, and the process with them.
        self._discard = weakref.finalize(
            self, _discard, self._process, self._pipes, slot, os.getpid()
        )

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def ready(self) -> tuple[int, bytes]:
        """Wait for the first word: kind and body of the reply.

        Raises:
            EOFError: If it died instead, or took more than its `start_limit_s` and was killed.
        """
        with self._limited(self._start_limit_s or START_LIMIT_S):
            seen = b""
            while not seen.endswith(self._word):
                if len(seen) > MAX_NOISE_BYTES:
                    raise EOFError
                seen += self._read(1)
            return self._reply()

    def send(
        self,
        command: int,
        first: int = 0,
        second: int = 0,
        min_confidence: float = math.nan,
        level: int = 0,
    ) -> None:
        """Send a command (see `worker_messages`). Whether it died is told instead of the reply.

        Raises:
            EOFError: If it was ended, or has read none of thousands of commands.
        """
        request = REQUEST.pack(command, first, second, min_confidence, level)
        try:
            if self._input.write(request) != len(request):
                raise EOFError
        except (OSError, ValueError):
            raise EOFError from None

    def reply(self) -> tuple[int, bytes]:
        """Wait for kind and body of the reply to what was sent.

        Raises:
            EOFError: If it died, wrote what is no reply, or gave none within `ANSWER_LIMIT_S`.
        """
        if (kind := self.reply_kind) is not None:
            self.reply_kind = None
            body, self._buffer = self._buffer[REPLY.size :], b""
            return kind, body
        with self._limited(ANSWER_LIMIT_S):
            return self._reply()

    def read_on(self) -> bool:
        """Read what has come of a reply; for when there is something, else this waits.

        Returns:
            Whether `reply` would not have to wait any more.
        """
        try:
            part = self._output.read(READ_BYTES)
        except (OSError, ValueError):
            part = b""
        self._buffer += part
        size = len(self._buffer)
        if size >= REPLY.size:
            kind, length = REPLY.unpack_from(self._buffer)
            if size == REPLY.size + length:
                self.reply_kind = kind
            if size >= REPLY.size + length:
                return True
        return not part or size >= REPLY.size + MAX_REPLY_BYTES

    def kill(self) -> None:
        """End it at once; a thread that waits for its answer gets an `EOFError`."""
        self._process.kill()

    def end(self, *, at_once: bool = False) -> int:
        """Close the pipes, give the slot back and reap the process; its exit status.

        Args:
            at_once: Whether to kill it, instead of letting it end by itself.
        """
        self._discard.detach()
        code = self._process.poll()
        if at_once:
            self._process.kill()
        for pipe in self._pipes:
            pipe.close()  # the end of its input is what it ends on
        self.slot.close()
        if code is not None:
            return code
        try:
            return self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def _reply(self) -> tuple[int, bytes]:
        kind, length = REPLY.unpack(self._read(REPLY.size))
        if length > MAX_REPLY_BYTES:
            raise EOFError
        body = self._read(length)
        if self._buffer:  # which would be taken for the answer to what it was not asked yet
            raise EOFError
        return kind, body

    def _read(self, size: int) -> bytes:
        while len(self._buffer) < size:
            if self._poll is not None:
                left_s = max(self._ends_s - time.monotonic(), 0.0)
                if not self._poll.poll(left_s * 1000):
                    self._kill_late()
            try:
                part = self._output.read(READ_BYTES)
            except (OSError, ValueError):  # closed at the program's end, while a thread waits
                raise EOFError from None
            if not part:
                raise EOFError
            self._buffer += part
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data

    def _kill_late(self) -> None:
        self.ended_after_s = self._limit_s
        self.kill()  # which ends what it writes

    @contextmanager
    def _limited(self, seconds: float) -> Iterator[None]:
        """Kill the process if what is inside takes longer."""
        self._limit_s = seconds
        if self._poll is not None:
            self._ends_s = time.monotonic() + seconds
            yield
            return
        limit = threading.Timer(seconds, self._kill_late)  # Windows cannot wait for a pipe
        limit.daemon = True
        limit.start()
        try:
            yield
        finally:
            limit.cancel()
            limit.join()


def _discard(
    process: subprocess.Popen[bytes], pipes: Iterable[IO[bytes]], slot: SharedSlot, owner: int
) -> None:
    if os.getpid() != owner:
        return  # A forked child has a copy of this object, but the process is its parent's.
    process.kill()
    for pipe in pipes:
        pipe.close()
    slot.close()
    process.wait()


def _open_pipe() -> tuple[IO[bytes], IO[bytes]]:
    """What the process reads, and what is written to it.

    The first stays open here: so a command can be written after the process has died, and no
    SIGPIPE ends an app that has allowed it again. The process ends when the second is closed.
    A write never waits: an event loop writes, and the process may answer without reading.
    """
    heard, spoken = os.pipe()
    if sys.platform != "win32":
        os.set_blocking(spoken, False)
    return open(heard, "rb", buffering=0), open(spoken, "wb", buffering=0)


def _group_of_its_own() -> dict[str, Any]:
    """Options of `subprocess.Popen` that keep a terminal's Ctrl-C from the process."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"process_group": 0}


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    if pipe is None:
        raise AssertionError  # For the type checker: it was asked for.
    return pipe

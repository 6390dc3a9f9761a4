"""The process behind a `DetectorWorker`: started when it is needed, and again after it has died."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Never

from hybrid_detect.backends.device.processor import unsupported_instruction_message
from hybrid_detect.backends.device.restart_pauses import RestartPauses
from hybrid_detect.backends.device.worker_messages import (
    DROPPED,
    MAX_TEXT_BYTES,
    READY,
    REFUSED,
    DroppedError,
    Started,
    unpack_refusal,
    unpack_started,
)
from hybrid_detect.backends.device.worker_process import WorkerOptions, WorkerProcess
from hybrid_detect.errors import BackendUnavailableError
from hybrid_detect.types import BackendKind

__all__ = ["RestartedProcess"]

logger = logging.getLogger("hybrid_detect.device")


class RestartedProcess:
    """At most one process at a time. Only `kill` and the attributes are for other threads.

    Args:
        load_model: Gives the verified model file's bytes; called at every start.
        options: What each process is told at its start.
        before_start: Called before every start; what it raises keeps the process from starting.
    """

    def __init__(
        self,
        load_model: Callable[[], bytes],
        options: WorkerOptions,
        *,
        before_start: Callable[[], None] | None = None,
    ) -> None:
        self.pauses = RestartPauses()
        """The deaths so far."""
        self.running: WorkerProcess | None = None
        """The process; `None` while there is none."""
        self.told = Started("", ())
        """What the last process told at its start; empty before the first."""
        self.starting = False
        """Whether a process is starting, which does not count as owing an answer."""
        self.asked_since_s: float | None = None
        """Since when, on the monotonic clock, the process owes an answer; `None` if it does not."""
        self.decodes = options.decodes
        """Whether the process has decoders."""
        self._load_model = load_model
        self._options = options
        self._before_start = before_start
        self._owner = os.getpid()
        self._unusable = ""
        """Why no process can ever run here; empty as long as that is not known."""

    def started(self) -> WorkerProcess:
        """The process, started if there is none.

        Raises:
            BackendUnavailableError: If it does not start, or it is too soon after it died.
            Exception: What `load_model` and `before_start` raise.
        """
        if self.running is not None:
            return self.running
        if self._unusable:
            raise BackendUnavailableError(self._unusable, backend=BackendKind.DEVICE)
        if (wait_s := self.pauses.left_s()) > 0:
            count = self.pauses.failures
            msg = f"the detector's process died {count} times; next try in {wait_s:.1f} s"
            raise BackendUnavailableError(msg, backend=BackendKind.DEVICE)
        if self._before_start is not None:
            self._before_start()
        self.starting = True
        try:
            self.running = running = self._launched(self._load_model())
            try:
                kind, body = running.ready()
            except BaseException as error:
                raise self._broken(running, error) from None
        finally:
            self.starting = False
        if kind != READY:
            self._end(running, died=True)
            msg = f"the detector's process did not start: {body.decode(errors='replace')}"
            raise BackendUnavailableError(msg, backend=BackendKind.DEVICE)
        try:
            self.told = unpack_started(body)
        except ValueError:
            self.fail("its first reply is none")
        logger.info("the detector's process %d started: %s", running.pid, self.told.runs_on)
        return running

    def load_decoders(self) -> None:
        """Have decoders in the process from now on.

        A running process without them is ended: it has lost the right to open files, which loading
        them needs.
        """
        if not self.decodes:
            self.decodes = True
            self._options = replace(self._options, decodes=True)
            self.end()

    def ask(
        self,
        expected: int,
        command: int,
        first: int = 0,
        second: int = 0,
        min_confidence: float = math.nan,
        level: int = 0,
    ) -> bytes:
        """Send a command (see `worker_messages`) and wait for the body of its reply.

        Raises:
            InvalidFrameError: If the process refuses the picture.
            DroppedError: If the picture was not wanted any more.
            BackendUnavailableError: If it died, or failed and was ended, or does not start.
        """
        return self.answer(self.send(command, first, second, min_confidence, level), expected)

    def send(
        self, command: int, first: int, second: int, min_confidence: float, level: int
    ) -> WorkerProcess:
        """Send a command, to which `answer` then gives the reply; the process it was sent to.

        Raises:
            BackendUnavailableError: If the process died, or does not start.
        """
        running = self.running or self.started()
        self.asked_since_s = time.monotonic()
        try:
            running.send(command, first, second, min_confidence, level)
        except BaseException as error:
            self.asked_since_s = None
            raise self._broken(running, error) from None
        return running

    def answer(self, running: WorkerProcess, expected: int) -> bytes:
        """Wait for the body of the reply to what was sent to `running`.

        Raises:
            InvalidFrameError: If the process refuses the picture.
            DroppedError: If the picture was not wanted any more.
            BackendUnavailableError: If it died, or failed and was ended.
        """
        try:
            kind, body = running.reply()
        except BaseException as error:
            raise self._broken(running, error) from None
        finally:
            self.asked_since_s = None
        if kind == DROPPED:
            raise DroppedError
        if kind == REFUSED:
            self.pauses.forget_failures()
            raise unpack_refusal(body)
        if kind != expected:
            self.fail(body[:MAX_TEXT_BYTES].decode(errors="replace"))
        return body

    def fail(self, why: str) -> Never:
        """End a process that failed: a fresh one is the only state that is known to be good.

        Raises:
            BackendUnavailableError: Always, with `why`.
        """
        if self.running is not None:
            self._end(self.running, died=True)
        msg = f"the detector's process failed: {why}"
        raise BackendUnavailableError(msg, backend=BackendKind.DEVICE, retryable=True)

    def kill(self) -> None:
        """End the process at once, without waiting; a thread that waits for it gets an error."""
        running = self.running
        if running is not None and os.getpid() == self._owner:
            running.kill()

    def drop(self) -> None:
        """Tell the process that the picture under way is not wanted any more."""
        running = self.running
        if running is not None and os.getpid() == self._owner:
            with contextlib.suppress(ValueError):  # it ends, and its memory is closed
                running.slot.drop()

    def end(self) -> None:
        """End the process if there is one; the next call starts another."""
        if self.running is not None:
            self._end(self.running)

    def _launched(self, model: bytes) -> WorkerProcess:
        try:
            return WorkerProcess(model, self._options)
        except (OSError, MemoryError) as exc:
            # A lack of memory, file descriptors or processes, none of which lasts.
            self.pauses.count_death()
            reason = str(exc) or "there is not enough memory"
            msg = f"the detector's process cannot be started: {reason}"
            raise BackendUnavailableError(msg, backend=BackendKind.DEVICE, retryable=True) from exc

    def _broken(self, running: WorkerProcess, error: BaseException) -> BaseException:
        """End the process after asking it raised `error`; returns the error to raise instead.

        One that was interrupted half way has to end, too: the rest would be taken for the next
        picture's answer.
        """
        code = self._end(running, died=True)
        if isinstance(error, EOFError):
            return self._death(code, late_s=running.ended_after_s)
        return error

    def _death(self, code: int, *, late_s: float) -> BackendUnavailableError:
        """The error for a process that ended with `code`, or was killed after `late_s`."""
        if self.starting and code == -getattr(signal, "SIGILL", math.inf):
            self._unusable = unsupported_instruction_message()
            return BackendUnavailableError(self._unusable, backend=BackendKind.DEVICE)
        if late_s:
            what = "did not start" if self.starting else "gave no answer"
            msg = f"the detector's process {what} within {late_s:g} s and was ended"
            return BackendUnavailableError(msg, backend=BackendKind.DEVICE, retryable=True)
        how = f"signal {-code}" if code < 0 else f"status {code}"
        when = "at its start " if self.starting else ""
        msg = f"the detector's process died {when}({how})"
        return BackendUnavailableError(msg, backend=BackendKind.DEVICE, retryable=True)

    def _end(self, running: WorkerProcess, *, died: bool = False) -> int:
        """End the process; its exit status."""
        self.running = None
        if died:
            self.pauses.count_death()
        return running.end(at_once=died)

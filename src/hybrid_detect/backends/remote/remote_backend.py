"""What every remote way has in common: prepare, protect, exchange, restore.

A subclass implements `exchange`, which carries bytes. It sees neither pixels nor faces, so
it cannot forget to protect them. With a key of the server, what it carries is sealed.
"""

from __future__ import annotations

import asyncio
import re
import time
from abc import abstractmethod
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, ClassVar, Never

from hybrid_detect.backends.base import Backend
from hybrid_detect.backends.remote.link_meter import LinkMeter, current_upload
from hybrid_detect.backends.remote.retries import RetryBudget, retry
from hybrid_detect.compression.compressor import ImageCompressionService
from hybrid_detect.config import DEFAULT_MIN_CONFIDENCE
from hybrid_detect.errors import (
    BackendError,
    BackendResponseError,
    BackendTimeoutError,
    ClosedError,
    ConfigurationError,
    EncryptionError,
)
from hybrid_detect.exchange.envelope import KEYS_REQUEST, decode_keys, kind_of
from hybrid_detect.exchange.pipeline import Prepared, prepare, protect, restore
from hybrid_detect.exchange.wire import (
    MAX_TEXT_CHARS,
    ErrorReply,
    ResultReply,
    decode_reply,
)
from hybrid_detect.frames.frame import Frame
from hybrid_detect.types import DetectionResult, Plan, Timings

if TYPE_CHECKING:
    from hybrid_detect.exchange.encryption import SecureImageTransmission
    from hybrid_detect.exchange.trust import TrustedKey

__all__ = ["RemoteBackend", "checked_token"]

RETRYABLE_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Detecting has no side effect, so whatever a second try could cure is tried again.

Source: RFC 9110 section 15, RFC 6585 section 4 (429), RFC 8470 (425).
"""

MAX_REPLY_BYTES = 2 * 1024 * 1024
"""Twice the largest header of the wire format; more is not an answer of ours."""

_MEANING = {
    400: "the server could not read the request",
    401: "the server does not accept the auth token",
    403: "the server refuses this auth token, or pictures that are not encrypted",
    404: "there is no detection service at this endpoint",
    405: "there is no detection service at this endpoint",
    409: "the server has seen this sealed request before",
    412: "this device's clock and the server's are too far apart for sealed requests",
    413: "the picture is too large for the server",
    415: "the server does not take this picture format",
    421: "the server does not have the key that pictures are encrypted to",
    422: "the server could not decode the picture",
    429: "the server asks to send less",
    503: "the server is overloaded or stopping",
    504: "the server's deadline passed",
}


def checked_token(token: str | None) -> str | None:
    """`token`, if it can stand in an HTTP header.

    Checked at construction, because the errors of HTTP libraries repeat what they refuse.

    Raises:
        ConfigurationError: If it is empty or has blanks, line ends or non-ASCII characters.
    """
    if token is None or re.fullmatch(r"[!-~]+", token):
        return token
    why = "an empty one" if not token else "one with a blank, line end or non-ASCII character"
    msg = f"auth_token: expected visible ASCII characters only, got {why}"
    raise ConfigurationError(msg)


class RemoteBackend(Backend):
    """A way that sends the compressed frame elsewhere.

    Args:
        min_confidence: Faces below this score are left out, 0 to 1.
        session_id: The caller's own name for this run, at most 1024 characters.
        compressor: What makes the JPEG.
        encryption: The server's key. With it, nothing but sealed pictures is ever sent: if one
            cannot be sealed, that is an `EncryptionError`, and the next way's turn.
        meter: Learns from its uploads what the link carries; ways to one server share it.

    Raises:
        ConfigurationError: If a value is out of range, so that every frame would be refused.
    """

    def __init__(
        self,
        *,
        min_confidence: float = DEFAULT_MIN_CONFIDENCE,
        session_id: str | None = None,
        compressor: ImageCompressionService | None = None,
        encryption: TrustedKey | None = None,
        meter: LinkMeter | None = None,
    ) -> None:
        if not 0 <= min_confidence <= 1:
            msg = f"min_confidence: expected 0 to 1, got {min_confidence!r}"
            raise ConfigurationError(msg)
        if session_id is not None and len(session_id) > MAX_TEXT_CHARS:
            msg = f"session_id: expected at most {MAX_TEXT_CHARS} characters, got {len(session_id)}"
            raise ConfigurationError(msg)
        self._min_confidence = min_confidence
        self._session_id = session_id
        self._compressor = compressor or ImageCompressionService()
        self._encryption = encryption
        self.meter = meter or LinkMeter()
        self._budget = RetryBudget()
        # One encoding thread: with four, Pillow peaked at 50 MB instead of 16
        # (docs/explanation/performance.md).
        self._encoder = ThreadPoolExecutor(1, thread_name_prefix=f"hybrid-detect-{self.kind.value}")
        self._closed = False

    answers_late: ClassVar[bool] = False
    """Whether a request that nobody waits for any more goes on over the link all the same."""

    @abstractmethod
    async def exchange(self, request: bytes, *, deadline_s: float) -> bytes:
        """Send `request` once and return the whole reply.

        Args:
            request: A message of the wire format.
            deadline_s: Seconds until nobody waits for the reply any more.

        Raises:
            BackendError: If no reply came; `retryable` says whether another try makes sense.
        """

    async def detect(self, frame: Frame, plan: Plan) -> DetectionResult:
        """Compress `frame`, exchange it for a reply, scale the faces back."""
        self._require_open()
        started_s = time.monotonic()
        try:
            async with asyncio.timeout(plan.deadline_s):
                prepared = await asyncio.get_running_loop().run_in_executor(
                    self._encoder, self._prepare, frame, plan
                )
                if prepared.quality is not None:
                    self.meter.record_size(
                        prepared.picture_bytes, quality=prepared.quality, scale=prepared.scale
                    )
                sent_s = time.monotonic()
                ends_s = started_s + plan.deadline_s
                reply, bytes_sent = await retry(
                    lambda: self._ask(prepared, ends_s, probe=plan.probe),
                    retries=plan.retries,
                    deadline_s=ends_s - sent_s,
                    budget=self._budget,
                    sleep=asyncio.sleep,
                )
        except BackendError as error:
            error.backend = self.kind.value
            error.elapsed_s = time.monotonic() - started_s
            _let_go(error)
            raise
        except TimeoutError as error:
            self._budget.on_failure()
            _let_go(error)
            msg = f"no answer over {self.kind.value} within {plan.deadline_s:.3f} s"
            raise BackendTimeoutError(
                msg,
                backend=self.kind.value,
                elapsed_s=time.monotonic() - started_s,
                deadline_s=plan.deadline_s,
            ) from None
        done_s = time.monotonic()
        timings = Timings(
            total_s=done_s - started_s,
            prepare_s=sent_s - started_s,
            exchange_s=done_s - sent_s,
            server_receive_s=reply.receive_s,
            server_queue_s=reply.queue_s,
            detect_s=reply.detect_s,
        )
        return self.answer(
            frame,
            plan,
            restore(reply, prepared),
            model=reply.model,
            timings=timings,
            bytes_sent=bytes_sent,
        )

    def _require_open(self) -> None:
        if self._closed:
            msg = f"the {self.kind.value} backend is closed"
            raise ClosedError(msg)

    def _prepare(self, frame: Frame, plan: Plan) -> Prepared:
        self._require_open()  # it may have been closed while the frame waited for the thread
        return prepare(
            frame,
            plan,
            compressor=self._compressor,
            min_confidence=self._min_confidence,
            session_id=self._session_id,
        )

    async def _ask(
        self, prepared: Prepared, ends_s: float, *, probe: bool
    ) -> tuple[ResultReply, int]:
        """Send a request once; its reply, and the bytes that were sent."""
        self._require_open()
        transmission = None
        if self._encryption is not None:
            transmission = await self._transmission(
                self._encryption, deadline_s=ends_s - time.monotonic()
            )
        # Here and not before the retries: a server refuses a seal that it has seen.
        protected = protect(prepared, transmission)
        upload = self.meter.upload(len(protected.request), probe=probe)
        token = current_upload.set(upload)
        try:
            data = await self.exchange(protected.request, deadline_s=ends_s - time.monotonic())
            arrived_s = self.meter.clock()
            reply = protected.read(data)
            if isinstance(reply, ErrorReply):
                self._refuse(reply.status, retry_after_s=reply.retry_after_s, code=reply.code)
        except (asyncio.CancelledError, BackendTimeoutError):
            upload.given_up(still_comes=self.answers_late)
            raise
        except BaseException:
            upload.failed()
            raise
        finally:
            current_upload.reset(token)
        upload.answered(
            now_s=arrived_s, server_s=_sum(reply.queue_s, reply.detect_s), receive_s=reply.receive_s
        )
        return reply, len(protected.request)

    async def _transmission(self, key: TrustedKey, *, deadline_s: float) -> SecureImageTransmission:
        if key.transmission is None:
            await self.check_key(deadline_s=deadline_s)
        if key.transmission is None:  # what learn() would have raised for
            msg = "there is no key to encrypt to"
            raise EncryptionError(msg)
        return key.transmission

    async def check_key(self, *, deadline_s: float) -> None:
        """Ask the server for its keys, to learn whether it has the one that is sealed to.

        For a subclass's `check` to end with. Does nothing without encryption.

        Raises:
            UnknownKeyError: If it does not have that key.
            BackendError: If it did not say.
        """
        if self._encryption is None:
            return
        data = await self.exchange(KEYS_REQUEST, deadline_s=deadline_s)
        if kind_of(data) is None:
            reply = decode_reply(data)
            if isinstance(reply, ErrorReply):
                self._refuse(reply.status, retry_after_s=reply.retry_after_s, code=reply.code)
        self._encryption.learn(decode_keys(data))

    def _refuse(self, status: int, *, retry_after_s: float | None = None, code: str = "") -> Never:
        """Raise what an error status means. What else the peer wrote is not repeated."""
        msg = f"{_MEANING.get(status, 'the server answered with an error')} (status {status})"
        raise BackendResponseError(
            msg,
            backend=self.kind.value,
            retryable=status in RETRYABLE_STATUS,
            retry_after_s=retry_after_s,
            status_code=status,
            code=code if code.isidentifier() else "",
        )

    async def aclose(self) -> None:
        """Stop the encoding thread once it has finished what it is doing."""
        self._closed = True
        # Frames that wait for it fail at once, as closed; cancelling them would look to their
        # callers as if somebody had cancelled the call.
        await asyncio.to_thread(self._encoder.shutdown, wait=True)


def _sum(queue_s: float | None, detect_s: float | None) -> float | None:
    return None if detect_s is None else detect_s + (queue_s or 0.0)


def _let_go(error: BaseException | None) -> None:
    """Forget the tracebacks of `error` and its causes, which hold the frame and its request.

    tenacity's record of a failed call and the call's exception hold each other, so over a dead link
    twenty frames at a time would wait for the garbage collector.
    """
    while error is not None and error.__traceback__ is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__

"""End-to-end encryption: from here to the detection server and back, past everyone between.

A request is sealed to the server's key, its reply to a key that the client draws for that one
request. Whoever carries them (a proxy that terminates TLS, a tunnel, a cloud's gateway)
sees who sends how much and when, and neither picture, session nor faces. `sealing` says what
exactly is covered.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Protocol

from hybrid_detect.errors import BackendResponseError
from hybrid_detect.exchange.keys import PublicKey
from hybrid_detect.exchange.sealing import (
    OpenedReply,
    OpenedRequest,
    SealedRequest,
    open_reply,
    open_request,
    seal_reply,
    seal_request,
)

if TYPE_CHECKING:
    from hybrid_detect.compression.compressor import ImageCompressionService
    from hybrid_detect.frames.frame import ImageLike
    from hybrid_detect.types import DetectionResult

__all__ = [
    "OpenedReply",
    "OpenedRequest",
    "SealedRequest",
    "SecureImageTransmission",
    "open_reply",
    "open_request",
    "seal_reply",
    "seal_request",
]


class Exchange(Protocol):
    """What carries bytes to the server and its reply back, such as a `RemoteBackend`."""

    async def exchange(self, request: bytes, *, deadline_s: float) -> bytes:
        """Send `request` and return the whole reply."""


Send = Callable[[bytes], Awaitable[bytes]]
"""The same as a function."""


class SecureImageTransmission:
    """Sends pictures so that only the detection server can see them, and only we its answer.

    Args:
        public_key: The server's key, or its text as ``hybrid-detect keys show`` prints it.
        clock: Seconds since 1970.
        on_successor: Called with the server's new key when a reply names one. The old key
            vouches for it, and it is used from then on.

    Raises:
        ConfigurationError: If it is no key, or its suite is not to be had.
    """

    def __init__(
        self,
        public_key: PublicKey | str,
        *,
        clock: Callable[[], float] = time.time,
        on_successor: Callable[[PublicKey], None] | None = None,
    ) -> None:
        self._key = PublicKey.from_text(public_key) if isinstance(public_key, str) else public_key
        self._key.suite.hpke  # noqa: B018 - said now rather than at the first picture
        self._clock = clock
        self._on_successor = on_successor

    def __repr__(self) -> str:
        return f"SecureImageTransmission(key_id={self._key.id!r}, suite={self._key.suite.value!r})"

    @property
    def public_key(self) -> PublicKey:
        """The key that requests are sealed to now."""
        return self._key

    def seal(self, message: bytes) -> SealedRequest:
        """Seal one message of the wire format, for one attempt at sending it.

        A second attempt needs a seal of its own: the server refuses what it has seen.

        Raises:
            UnknownKeyError: If the server's key has ended.
            EncryptionError: If it cannot be sealed to.
        """
        return seal_request(message, self._key, now_s=self._clock())

    def open(self, reply: bytes, request: SealedRequest) -> bytes:
        """Open the reply to `request`, and go on with the server's new key if it names one.

        Raises:
            EncryptionError: If it is not the server's own, unaltered reply to this request.
        """
        opened = open_reply(reply, request)
        new = opened.successor
        if new is not None and new != self._key and new.suite.may_follow(self._key.suite):
            self._key = new
            if self._on_successor is not None:
                self._on_successor(new)
        return opened.message

    async def encrypt_and_send(
        self,
        image: ImageLike,
        *,
        send: Send | Exchange,
        compressor: ImageCompressionService | None = None,
        pixel_format: str = "rgb",
        min_confidence: float = 0.5,
        session_id: str | None = None,
        deadline_s: float = 1.0,
    ) -> DetectionResult:
        """Compress `image`, seal it, send it, open the reply: one attempt, nothing in the clear.

        Compressing happens in the caller's own thread. For a camera, give the key to a service or
        a backend instead, which compress in another.

        Args:
            image: Anything `Frame.of` takes.
            send: An async function from the request's bytes to the reply's, or a backend with the
                method ``exchange(request, *, deadline_s)``.
            compressor: What makes the JPEG.
            pixel_format: What the channels of an ndarray are.
            min_confidence: Faces below this score are left out, 0 to 1.
            session_id: Your own name for this run; only the server can read it.
            deadline_s: Seconds until nobody waits for the answer any more.

        Returns:
            The faces in the picture's own pixels; ``backend`` is the one that was given, if any.

        Raises:
            EncryptionError: If it could not be sealed, or the reply not be opened.
            BackendResponseError: If the server refused.
            ProtocolError: If the reply is not the wire format.
            InvalidFrameError: If it is not an image.
        """
        from hybrid_detect.compression.compressor import ImageCompressionService
        from hybrid_detect.exchange.pipeline import prepare, protect, restore
        from hybrid_detect.exchange.wire import ErrorReply
        from hybrid_detect.frames.frame import Frame
        from hybrid_detect.types import BackendKind, DetectionResult, DetectionStatus, Plan, Timings

        started_s = time.monotonic()
        frame = Frame.of(image, pixel_format=pixel_format)
        kind: BackendKind | None = getattr(send, "kind", None)
        reason = f"sealed to key {self._key.id}"
        prepared = prepare(
            frame,
            Plan(backend=kind or BackendKind.CLOUD, reason=reason, deadline_s=deadline_s),
            compressor=compressor or ImageCompressionService(),
            min_confidence=min_confidence,
            session_id=session_id,
        )
        protected = protect(prepared, self)
        if callable(send):
            data = await send(protected.request)
        else:
            data = await send.exchange(protected.request, deadline_s=deadline_s)
        reply = protected.read(data)
        if isinstance(reply, ErrorReply):
            msg = f"the server answered with an error (status {reply.status})"
            raise BackendResponseError(msg, status_code=reply.status, code=reply.code)
        return DetectionResult(
            status=DetectionStatus.OK,
            width=frame.width,
            height=frame.height,
            faces=restore(reply, prepared),
            backend=kind,
            model=reply.model,
            reason=reason,
            timings=Timings(total_s=time.monotonic() - started_s, detect_s=reply.detect_s),
            age_s=frame.age_s(),
            bytes_sent=len(protected.request),
            frame_id=frame.frame_id,
            session_id=session_id,
        )

"""Sending one picture sealed, by hand: a key, a picture, and something that carries bytes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hybrid_detect.backends.base import open_frame
from hybrid_detect.backends.remote.link_meter import Upload
from hybrid_detect.backends.remote.protocol import HttpRequest, HttpResponse
from hybrid_detect.backends.remote.remote_backend import RemoteBackend
from hybrid_detect.config import DEFAULT_DEADLINE_S
from hybrid_detect.exchange.envelope import SEALED_CONTENT_TYPE
from hybrid_detect.exchange.sealer import Sealer
from hybrid_detect.types import BackendKind, DetectionResult, Plan

if TYPE_CHECKING:
    from hybrid_detect.compression.compressor import ImageCompressionService
    from hybrid_detect.frames.frame import ImageLike

__all__ = ["SecureImageTransmission"]

Send = Callable[[bytes], Awaitable[bytes]]


class SecureImageTransmission(Sealer):
    """Sends pictures so that only the detection server can see them, and only we its answer.

    The arguments are those of `Sealer`: the server's `public_key`, and optionally `clock` and
    `on_successor`.
    """

    async def encrypt_and_send(
        self,
        image: ImageLike,
        *,
        send: Send | RemoteBackend,
        compressor: ImageCompressionService | None = None,
        pixel_format: str = "rgb",
        min_confidence: float | None = None,
        session_id: str | None = None,
        deadline_s: float = DEFAULT_DEADLINE_S,
    ) -> DetectionResult:
        """Compress `image`, seal it, send it, open the reply: one attempt, nothing in the clear.

        Args:
            image: Anything `Frame.of` takes.
            send: An async function from the request's bytes to the reply's, or a remote backend.
            compressor: What makes the JPEG.
            pixel_format: What the channels of an ndarray are.
            min_confidence: Faces below this score are left out, 0 to 1; `None` for the threshold of
                the server's model.
            session_id: Your own name for this run; only the server can read it.
            deadline_s: Seconds until the answer is worth nothing any more.

        Returns:
            The faces in the picture's own pixels; ``backend`` is the one that was given, if any.

        Raises:
            EncryptionError: If it could not be sealed, or the reply not be opened.
            BackendResponseError: If the server refused.
            BackendTimeoutError: If no answer came inside the deadline.
            ProtocolError: If the reply is not the wire format.
            InvalidFrameError: If it is not an image.
        """
        carrier = _Carrier(
            send,
            self,
            compressor=compressor,
            min_confidence=min_confidence,
            session_id=session_id,
        )
        frame = await open_frame(image, pixel_format=pixel_format)
        plan = Plan(
            backend=carrier.kind,
            reason=f"sealed to key {self.public_key.id}",
            deadline_s=deadline_s,
            retries=0,
        )
        async with carrier:
            result = await carrier.detect(frame, plan)
        kind = carrier.kind if isinstance(send, RemoteBackend) else None
        return replace(result, backend=kind, session_id=session_id)


class _Carrier(RemoteBackend):
    """A remote backend for one picture, over the transport that was given."""

    def __init__(self, send: Send | RemoteBackend, sealer: Sealer, **options: Any) -> None:
        self._send = send
        self._given = sealer
        if isinstance(send, RemoteBackend):
            self.kind = send.kind
            options["targets"] = send.targets
        else:
            self.kind = BackendKind.CLOUD
        super().__init__(**options)

    async def sealer(self, *, deadline_s: float) -> Sealer:
        return self._given

    async def exchange(
        self, request: HttpRequest, *, deadline_s: float, upload: Upload | None = None
    ) -> HttpResponse:
        """Hand the request over to what was given."""
        if isinstance(self._send, RemoteBackend):
            return await self._send.exchange(request, deadline_s=deadline_s, upload=upload)
        body = await self._send(request.body)
        return HttpResponse(status=200, headers={"content-type": SEALED_CONTENT_TYPE}, body=body)

"""What every remote backend has in common: compress, encode, seal, exchange, decode, scale back.

A subclass implements `exchange`, which carries a request and brings the response. It sees neither
pixels nor faces, so it cannot forget to protect them. With a key of the server, what it carries is
sealed.
"""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from hybrid_detect.backends.base import Backend, UploadGate
from hybrid_detect.backends.remote.batches import Batches, only
from hybrid_detect.backends.remote.failover import first_answer
from hybrid_detect.backends.remote.frame_jobs import Answer, FrameJob
from hybrid_detect.backends.remote.health import is_healthy, require_one_healthy
from hybrid_detect.backends.remote.link_meter import LinkMeter, LinkMeters, Upload
from hybrid_detect.backends.remote.pictures import (
    faces_in_frame,
    min_face_in_frame,
    picture_for,
)
from hybrid_detect.backends.remote.protocol import DetectParams, HttpRequest, HttpResponse
from hybrid_detect.backends.remote.refusals import mark_passing
from hybrid_detect.backends.remote.retries import RetryBudget, let_go
from hybrid_detect.backends.remote.sending import Sender, Share
from hybrid_detect.backends.remote.setbacks import LearnedLimit
from hybrid_detect.backends.remote.target_pool import TargetPool, TargetStatus
from hybrid_detect.backends.remote.targets import Target
from hybrid_detect.backends.remote.told_ladders import ToldLadders
from hybrid_detect.compression.compressed_image import CompressedImage
from hybrid_detect.compression.compressor import ImageCompressionService
from hybrid_detect.config import quality_level
from hybrid_detect.destination import Destination
from hybrid_detect.errors import (
    BackendError,
    BackendResponseError,
    BackendTimeoutError,
    BackendUnavailableError,
    ClosedError,
    Refusal,
)
from hybrid_detect.frames.frame import Frame
from hybrid_detect.selection.rungs import PictureLadder
from hybrid_detect.sources.daemon_threads import in_daemon_thread
from hybrid_detect.types import DetectionResult, Plan, QualityLevel, Timings

if TYPE_CHECKING:
    from hybrid_detect.exchange.sealer import Sealer
    from hybrid_detect.exchange.trust import TrustedKey

__all__ = ["RemoteBackend"]

MAX_REPLY_BYTES = 2 * 1024 * 1024
"""Eight times the largest header of our own wire format, for the talkative JSON of others; more is
not an answer about faces."""


class RemoteBackend(Backend):
    """A backend that sends the compressed frame elsewhere.

    Args:
        targets: Where to; by default one that speaks our own protocol, and has its address from
            the transport. Of several the fastest that works and has the best preference gets the
            frame, and the next one if it fails.
        min_confidence: Faces below this score are left out, 0 to 1; `None` for the model's own.
        session_id: The caller's own name for this run, at most 1024 characters.
        quality: How thoroughly a server of this project is to look: `QualityLevel`, or its name.
            `None` leaves it to the server, which says in its answer what it did.
        second_look: Whether such a server looks at the picture turned as well if it found no face.
        compressor: What makes the JPEG.
        encryption: The server's key. With it, nothing but sealed pictures is ever sent: if one
            cannot be sealed, that is an `EncryptionError`, and the next backend's turn.
        meters: Learn from its uploads what the links carry; the backends of a service share them.

    Raises:
        ConfigurationError: If a value is out of range, so that every frame would be refused, or if
            pictures are to be sealed for a target whose protocol cannot be.
    """

    def __init__(
        self,
        *,
        targets: Sequence[Target] = (),
        min_confidence: float | None = None,
        session_id: str | None = None,
        quality: QualityLevel | str | None = None,
        second_look: bool = False,
        compressor: ImageCompressionService | None = None,
        encryption: TrustedKey | None = None,
        meters: LinkMeters | None = None,
    ) -> None:
        self.params = DetectParams(
            min_confidence=min_confidence,
            session_id=session_id,
            quality=None if quality is None else quality_level(quality),
            second_look=second_look,
        )
        self.pool = TargetPool(targets or (Target(),))
        """Knows which target gets the next request."""
        for target in self.targets:
            target.require(sealed=encryption is not None)
        self._compressor = compressor or ImageCompressionService()
        self._encryption = encryption
        self.meters = meters or LinkMeters()
        self._budget = RetryBudget()
        # One encoding thread: with four, Pillow peaked at 50 MB instead of 16
        # (docs/explanation/performance.md).
        self._encoder = ThreadPoolExecutor(1, thread_name_prefix=f"hybrid-detect-{self.kind.value}")
        self._limits: defaultdict[int, LearnedLimit] = defaultdict(LearnedLimit)
        """Of pictures to targets that found one too large, by their `id`."""
        self._closed = False
        self.has_answered = False
        """Whether a target has ever answered in its own protocol."""
        self._sender = Sender(self)
        self._batches: dict[int, Batches] = {}
        self.told_ladders = ToldLadders(self.params.quality)

    @property
    def targets(self) -> tuple[Target, ...]:
        """The targets that may be asked."""
        return self.pool.targets

    @property
    def host(self) -> str:  # type: ignore[override]
        """The host that the next frame most likely goes to."""
        return self.pool.present.host

    @property
    def destinations(self) -> tuple[Destination, ...]:
        """Where its targets are."""
        return tuple(target.destination for target in self.targets)

    def restrict(self, denied_reason: Callable[[Destination], str]) -> str:
        """As in `Backend.restrict`: the targets that may have no frame are left out."""
        return self.pool.restrict(denied_reason)

    def target_statuses(self) -> tuple[TargetStatus, ...]:
        """How each target stands now, those included that are never asked."""
        return self.pool.statuses()

    @property
    def meter(self) -> LinkMeter:
        """What is known of the link to the host of the next frame."""
        return self.meters.of(self.host)

    @property
    def ladder(self) -> PictureLadder:
        """The pictures that are worth sending to the target of the next frame."""
        return self.told_ladders.of(self.pool.present)

    @property
    def most_pictures(self) -> int:
        """Pictures that one request to one of its targets may carry, at most."""
        return max(map(self._most_pictures, self.targets))

    def _most_pictures(self, target: Target) -> int:
        is_one = not self.shares_requests or self._encryption is not None  # a seal is of one
        return 1 if is_one else target.protocol.capabilities.max_pictures

    measures_link = True

    answers_late: ClassVar[bool] = False
    """Whether a request that is given up goes on over the link all the same."""

    shares_requests: ClassVar[bool] = False
    """Whether several frames may share a request, where the protocol takes it."""

    signs_requests: ClassVar[bool] = True
    """Whether each request carries address and credentials, rather than the link they go over."""

    @abstractmethod
    async def exchange(
        self, request: HttpRequest, *, deadline_s: float, upload: Upload | None = None
    ) -> HttpResponse:
        """Send `request` once and return the whole response, whatever its status.

        Args:
            request: What a protocol made, sealed or not, with its address and credentials. Nothing
                of it may be logged.
            deadline_s: Seconds until the response is worth nothing any more.
            upload: To be told when the network takes the request; `None` for a request that says
                nothing about the link.

        Raises:
            BackendError: If no response came; `retryable` says whether another try makes sense.
        """

    async def detect(
        self, frame: Frame, plan: Plan, *, gate: UploadGate | None = None
    ) -> DetectionResult:
        """Compress `frame`, exchange it for a reply, scale the faces back.

        Args:
            frame: The frame.
            plan: Its plan.
            gate: Asked right before each time the picture is handed to a transport; `None` lets
                it leave.

        Raises:
            BackendError: If there is no answer, or `gate` refuses.
            InvalidFrameError: If the frame turns out not to be a readable image.
        """
        self._require_open()
        started_s = time.monotonic()
        job = FrameJob(frame, plan, started_s + plan.deadline_s, gate)
        try:
            async with asyncio.timeout(plan.deadline_s):
                answer = await first_answer(
                    partial(self._ask, job),
                    self.pool,
                    denied=job.denied(self.targets),
                    retries=plan.retries,
                    left_s=lambda: job.ends_s - time.monotonic(),
                    budget=self._budget,
                )
        except BackendError as error:
            error.backend = self.kind.value
            error.elapsed_s = time.monotonic() - started_s
            let_go(error)
            raise
        except TimeoutError as error:
            self._budget.on_failure()
            let_go(error)
            msg = f"no answer over {self.kind.value} within {plan.deadline_s:.3f} s"
            raise BackendTimeoutError(
                msg,
                backend=self.kind.value,
                elapsed_s=time.monotonic() - started_s,
                deadline_s=plan.deadline_s,
            ) from None
        self._budget.on_success()
        total_s = time.monotonic() - started_s
        reply = answer.reply
        timings = Timings(
            total_s=total_s,
            prepare_s=job.prepare_s,
            exchange_s=total_s - job.prepare_s,
            server_receive_s=reply.receive_s,
            server_queue_s=reply.queue_s,
            detect_s=reply.detect_s,
        )
        with job.span.child("restore"):
            return self.answer(
                frame,
                plan,
                faces_in_frame(reply, answer.picture, min_confidence=self.params.min_confidence),
                model=reply.model,
                timings=timings,
                bytes_sent=answer.bytes_sent,
                quality=reply.quality,
                min_face_px=min_face_in_frame(reply, answer.picture),
                destination=answer.target.destination,
            )

    def _require_open(self) -> None:
        if self._closed:
            msg = f"the {self.kind.value} backend is closed: make a new one"
            raise ClosedError(msg)

    async def _picture(self, job: FrameJob, target: Target) -> CompressedImage:
        """The picture of `job` that `target` can have; compressed now if there is none yet."""
        if (known := job.picture_for(target)) is not None:
            return known
        with job.compressing():
            picture = await asyncio.get_running_loop().run_in_executor(
                self._encoder, self._compress, job.frame, job.plan, target
            )
            job.pictures.append(picture)
        if picture.encodes:
            self.meters.record_size(
                len(picture.data),
                quality=picture.quality,
                scale=picture.width / picture.original_width,
            )
        return picture

    def _compress(self, frame: Frame, plan: Plan, target: Target) -> CompressedImage:
        self._require_open()  # it may have been closed while the frame waited for the thread
        most_bytes = self._limits[id(target)].most_bytes
        if most_bytes < plan.target_bytes:
            plan = replace(plan, target_bytes=int(most_bytes))
        try:
            plan = self.told_ladders.of(target).limited(plan)
            return picture_for(frame, plan, (target,), self._compressor)
        except MemoryError as exc:
            msg = f"there is not enough memory to compress {frame.width}x{frame.height} pixels"
            raise BackendUnavailableError(msg, backend=self.kind.value) from exc

    async def _ask(self, job: FrameJob, target: Target, out: Sequence[Target]) -> Answer:
        """Ask `target` once; if it finds the picture too large, once more with half of its bytes.

        What it takes then is what later pictures are held to for a while: a server's limit may be
        less than what its protocol knows of. Those `out` of the question need no time left.
        """
        limit = self._limits[id(target)]
        batches = self._batches_of(target)
        too_large: BackendResponseError | None = None
        while True:
            self._require_open()
            try:
                with nullcontext() if batches is None else batches.preparing():
                    picture = await self._picture(job, target)
            except BackendError:
                if too_large is None:
                    raise
                raise too_large from None  # there is no smaller one
            try:
                if batches is None:
                    answer = only(await self._sender.send(target, [Share(job, picture)], out))
                else:
                    answer = await batches.answer(job, picture, out)
            except BackendResponseError as error:
                if error.refusal is not Refusal.SIZE or not job.halve():
                    raise
                too_large = error
                continue
            if too_large is None:
                limit.taken(len(answer.picture.data))
            else:
                limit.refused(len(answer.picture.data))
            return answer

    def _batches_of(self, target: Target) -> Batches | None:
        """The requests to `target`; `None` if each of them carries one picture."""
        if self._most_pictures(target) < 2:
            return None
        known = self._batches.get(id(target))
        if known is None:
            meter = self.meters.of(target.host)
            known = Batches(target, self._sender.send, expected_s=meter.expected_s)
            self._batches[id(target)] = known
        return known

    async def sealer(self, *, deadline_s: float) -> Sealer | None:
        """What seals the requests; `None` if they are sent as they are."""
        if self._encryption is None:
            return None
        if self._encryption.sealer is None:
            await self.check_key(deadline_s=deadline_s)
        return self._encryption.required_sealer

    def judge(self, error: BaseException | None) -> None:
        """Mark a refusal that is no verdict: a server that has answered stands behind it."""
        if self.has_answered:
            mark_passing(error)

    async def check_health(self, *, deadline_s: float) -> None:
        """Ask the server for its health, with the credentials, so that wrong ones are noticed.

        Raises:
            BackendError: If it refused, did not answer, or is another kind of server.
        """

        async def check(target: Target) -> bool:
            exchange = partial(self.exchange, deadline_s=deadline_s)
            learn = self.told_ladders.learn
            was_asked = await is_healthy(target, exchange, judge=self.judge, learn=learn)
            self.has_answered |= was_asked
            return was_asked

        await require_one_healthy(self.pool, check)

    async def check_key(self, *, deadline_s: float) -> None:
        """Ask the server for its keys, to learn whether it has the one that is sealed to.

        For a subclass's `check` to end with. Does nothing without encryption.

        Raises:
            UnknownKeyError: If it does not have that key.
            BackendError: If it did not say.
        """
        if self._encryption is None:
            return
        from hybrid_detect.backends.remote.sealed import KEYS, published_keys

        request = await self.pool.present.addressed(KEYS, now_s=time.time())
        response = await self.exchange(request, deadline_s=deadline_s)
        # In a thread: it may write the file of known keys, and wait for another process to.
        await in_daemon_thread(self._encryption.learn, published_keys(response))

    async def aclose(self) -> None:
        """Stop the encoding thread once it has finished what it is doing."""
        self._closed = True
        await asyncio.gather(*(batches.aclose() for batches in self._batches.values()))
        # Frames that wait for it fail at once, as closed; cancelling them would look to their
        # callers as if the call had been cancelled from outside.
        await in_daemon_thread(self._encoder.shutdown, wait=True)

"""One request to one target, with one picture or several: sent, answered, and learned from."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from hybrid_detect.backends.base import UploadGate
from hybrid_detect.backends.remote.exchange_spans import ExchangeSpans
from hybrid_detect.backends.remote.frame_jobs import Answer, FrameJob
from hybrid_detect.backends.remote.link_meter import Gate, Upload
from hybrid_detect.backends.remote.protocol import HttpRequest, HttpResponse
from hybrid_detect.backends.remote.targets import Target
from hybrid_detect.charges import SentRequest
from hybrid_detect.compression.compressed_image import CompressedImage
from hybrid_detect.errors import (
    BackendError,
    BackendResponseError,
    BackendTimeoutError,
    BackendUnavailableError,
    Refusal,
)
from hybrid_detect.exchange.wire import ResultReply
from hybrid_detect.sources.daemon_threads import in_daemon_thread

if TYPE_CHECKING:
    from hybrid_detect.backends.remote.remote_backend import RemoteBackend

__all__ = ["Sender", "Share", "ShareRefusedError", "is_about_sharing"]

_ABOUT_SHARING = frozenset({Refusal.ADDRESS, Refusal.CONTRACT, Refusal.PICTURE, Refusal.SIZE})


@dataclass(slots=True, eq=False)
class Share:
    """One picture of a request."""

    job: FrameJob
    picture: CompressedImage
    bytes_sent: int = 0
    """Its part of the request's bytes."""
    place: int | None = None
    """Where its gate has recorded the request; `None` before it was asked."""
    is_answered: bool = False
    """Whether the reply is about the picture, rather than an error."""

    @property
    def gate(self) -> UploadGate | None:
        """Asked before the picture leaves; `None` lets it leave."""
        return self.job.gate


class ShareRefusedError(BackendUnavailableError):
    """Some pictures of a request may not leave any more, so that it was not sent.

    Args:
        refused: Why, by picture.
    """

    def __init__(self, refused: dict[Share, BackendError]) -> None:
        super().__init__("some pictures of the request may not leave any more")
        self.refused = refused


def is_about_sharing(error: BaseException) -> bool:
    """Whether `error` may come of several pictures in one request: each alone may be answered."""
    return isinstance(error, BackendResponseError) and error.refusal in _ABOUT_SHARING


class _SharedGate:
    """The gates of several pictures as one: each records its own part of the request."""

    def __init__(self, shares: Sequence[Share], price_nanos: int) -> None:
        self._shares = shares
        self._price_nanos = price_nanos

    def hand_over(self, request: SentRequest) -> int:
        """Ask every gate; nothing leaves if one refuses.

        Raises:
            ShareRefusedError: If one does.
        """
        refused: dict[Share, BackendError] = {}
        for share in self._shares:
            try:
                if share.gate is not None:
                    share.gate.require_open()
                    if share.place is None:  # else it was recorded before another one refused
                        share.place = share.gate.hand_over(self._part(share, request))
            except BackendUnavailableError as error:
                refused[share] = error
        if refused:
            raise ShareRefusedError(refused)
        return 0

    def record(self, request: SentRequest) -> int:
        """Record a request that has left without being asked about."""
        for share in self._shares:
            if share.gate is not None and share.place is None:
                share.place = share.gate.record(self._part(share, request))
        return 0

    def answered(self, _place: int) -> None:
        """The request was answered; some pictures may have an error in the reply's place."""
        for share in self._shares:
            if share.gate is not None and share.place is not None and share.is_answered:
                share.gate.answered(share.place)

    def _part(self, share: Share, request: SentRequest) -> SentRequest:
        return replace(
            request, images=1, bytes_sent=share.bytes_sent, price_nanos=self._price_nanos
        )


class Sender:
    """Sends requests for a backend.

    Args:
        backend: Has the channel, the targets, and what is asked beside the pictures.
    """

    def __init__(self, backend: RemoteBackend) -> None:
        self._backend = backend

    async def send(
        self, target: Target, shares: Sequence[Share], out: Sequence[Target]
    ) -> list[Answer | BackendError]:
        """Send one request to `target`; what it says to each of `shares`.

        If the server no longer accepts a secret that can be renewed, once more with a new one.
        Encoded and sealed here and not before the retries: a server refuses a seal that it has
        seen, and is told the time that is left.

        Args:
            target: Where to.
            shares: The pictures, at least one.
            out: The targets that need no time left, as none of the frames will go there.

        Raises:
            BackendError: If the request as a whole was not answered.
        """
        backend, pool = self._backend, self._backend.pool
        may_renew = is_http = backend.signs_requests
        jobs = [share.job for share in shares]
        pictures = [share.picture for share in shares]
        while True:
            began_s = time.monotonic()
            upload = None
            pool.begin(target)
            try:
                with ExchangeSpans(jobs, target, is_http=is_http) as spans:
                    request, opened = await self._request(target, jobs, pictures, spans)
                    upload = self._upload(target, shares, request)
                    _require_open(target, shares)  # for a channel that does not ask it itself
                    limit_s = self._limit_s(target, shares, out)
                    response = await backend.exchange(request, deadline_s=limit_s, upload=upload)
                    arrived_s = backend.meters.of(target.host).clock()
                    spans.answered(response)
                    upload.has_left()
                    replies = target.protocol.decode(opened(response), pictures)
                    if len(shares) == 1 and isinstance(replies[0], BackendError):
                        raise replies[0]
            except BaseException as error:
                is_renewed = may_renew and target.can_renew(error)
                self._on_error(error, target, upload, shares, is_renewed=is_renewed)
                if not is_renewed:
                    raise
                may_renew = False
                for share in shares:
                    share.place = None
                continue
            backend.has_answered = True
            took_s = time.monotonic() - began_s
            results = self._on_replies(replies, target, shares, took_s=took_s)
            upload.answered(
                now_s=arrived_s,
                server_s=max((r.server_s for r in results if r.server_s is not None), default=None),
                receive_s=next((r.receive_s for r in results if r.receive_s is not None), None),
            )
            return [
                reply
                if isinstance(reply, BackendError)
                else Answer(reply, share.picture, target, share.bytes_sent)
                for share, reply in zip(shares, replies, strict=True)
            ]

    async def _request(
        self,
        target: Target,
        jobs: Sequence[FrameJob],
        pictures: Sequence[CompressedImage],
        spans: ExchangeSpans,
    ) -> tuple[HttpRequest, Callable[[HttpResponse], HttpResponse]]:
        """The request as it leaves, and what makes its response one that the protocol reads."""
        backend = self._backend
        left_s = max(job.ends_s for job in jobs) - time.monotonic()
        params = replace(
            backend.params,
            deadline_s=left_s if math.isfinite(left_s) else None,
            traceparents=spans.traceparents,
            tracestates=spans.tracestates,
        )
        if getattr(target.protocol, "is_slow_to_encode", False):
            request = await in_daemon_thread(target.encoded, pictures, params)
        else:
            request = target.encoded(pictures, params)
        opened = _as_it_is
        if sealer := await backend.sealer(deadline_s=left_s):
            from hybrid_detect.backends.remote import sealed

            with spans.sealing():
                request, seal = sealed.sealed(request, sealer)
            opened = partial(sealed.opened, sealer=sealer, seal=seal)
        request = spans.named(request)
        if backend.signs_requests:
            request = await target.addressed(request, now_s=time.time())
        return request, opened

    def _upload(self, target: Target, shares: Sequence[Share], request: HttpRequest) -> Upload:
        """What is told how `request` fares on the link."""
        size_bytes = len(request.body)
        _divide(size_bytes, shares)
        sent = target.sent_request(self._backend.kind, images=len(shares), bytes_sent=size_bytes)
        gate: Gate | None = shares[0].gate
        if len(shares) > 1 or shares[0].place is not None:
            gate = _SharedGate(shares, target.price_nanos)
        meter = self._backend.meters.of(target.host)
        return meter.upload(sent, probe=shares[0].job.plan.probe, gate=gate)

    def _on_replies(
        self,
        replies: Sequence[ResultReply | BackendError],
        target: Target,
        shares: Sequence[Share],
        *,
        took_s: float,
    ) -> list[ResultReply]:
        """Learn from an answer; what it says of the pictures that could be looked at."""
        pool = self._backend.pool
        results: list[ResultReply] = []
        for share, reply in zip(shares, replies, strict=True):
            if isinstance(reply, ResultReply):
                share.is_answered = True
                results.append(reply)
        if results:
            pool.answered(target, took_s=took_s)
        else:
            pool.failed(target, next(r for r in replies if isinstance(r, BackendError)))
        return results

    def _limit_s(self, target: Target, shares: Sequence[Share], out: Sequence[Target]) -> float:
        """Seconds that the request gets: each frame keeps its time for the next target."""
        now_s = time.monotonic()
        limit_s = self._backend.pool.limit_s
        if len(shares) == 1:
            return limit_s(target, shares[0].job.ends_s - now_s, out)
        lefts_s = [share.job.ends_s - now_s for share in shares]
        limits_s = [limit_s(target, left_s, out) for left_s in lefts_s]
        # Where there is no next target, the one with the most time counts.
        cut = (limit for limit, left in zip(limits_s, lefts_s, strict=True) if limit < left)
        return min(cut, default=max(limits_s))

    def _on_error(
        self,
        error: BaseException,
        target: Target,
        upload: Upload | None,
        shares: Sequence[Share],
        *,
        is_renewed: bool,
    ) -> None:
        """Learn from an attempt that brought no reply."""
        pool = self._backend.pool
        is_shared = len(shares) > 1
        is_withheld = isinstance(error, ShareRefusedError) or any(
            share.gate is not None and share.gate.refusal is error for share in shares
        )
        if upload is not None:
            if isinstance(error, asyncio.CancelledError | BackendTimeoutError):
                upload.given_up(still_comes=self._backend.answers_late)
            else:
                upload.failed()
        ends_s = max(share.job.ends_s for share in shares)
        if isinstance(error, asyncio.CancelledError) and time.monotonic() >= ends_s:
            pool.failed(target, BackendTimeoutError())
        elif is_withheld or is_renewed or (is_shared and is_about_sharing(error)):
            pool.left(target)  # not the target's doing; or the next requests will tell
        elif isinstance(error, BackendError):
            self._backend.judge(error)
            pool.failed(target, error)
        else:
            pool.left(target)


def _as_it_is(response: HttpResponse) -> HttpResponse:
    return response


def _divide(size_bytes: int, shares: Sequence[Share]) -> None:
    """Give each of `shares` its part of the request's bytes; together they are all of them."""
    total = sum(len(share.picture.data) for share in shares)
    rest = size_bytes
    for share in shares[1:]:
        share.bytes_sent = size_bytes * len(share.picture.data) // total
        rest -= share.bytes_sent
    shares[0].bytes_sent = rest


def _require_open(target: Target, shares: Sequence[Share]) -> None:
    refused: dict[Share, BackendError] = {}
    for share in shares:
        try:
            share.job.require_open(target)
        except BackendUnavailableError as error:
            refused[share] = error
    if len(shares) == 1 and refused:
        raise refused[shares[0]]
    if refused:
        raise ShareRefusedError(refused)

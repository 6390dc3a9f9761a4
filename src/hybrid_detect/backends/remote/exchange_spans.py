"""The spans of one request: one in the trace of each frame whose picture it carries.

Names and attributes are those of OpenTelemetry's semantic conventions for HTTP clients. The URL is
told without its query, which may hold a key.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from hybrid_detect.backends.remote.frame_jobs import FrameJob
from hybrid_detect.backends.remote.protocol import HttpRequest, HttpResponse
from hybrid_detect.backends.remote.targets import Target
from hybrid_detect.errors import BackendResponseError
from hybrid_detect.exchange.wire import STREAM_PATH
from hybrid_detect.monitoring.tracing import TRACEPARENT, TRACESTATE, Span, tracestate_of

__all__ = ["ExchangeSpans"]


class ExchangeSpans:
    """The spans of a request, from before it is encoded to the end of its answer.

    Args:
        jobs: The frames whose pictures it carries.
        target: Where it goes.
        is_http: Whether it is a request of its own, and not a message over a standing link.
    """

    def __init__(self, jobs: Sequence[FrameJob], target: Target, *, is_http: bool) -> None:
        self._is_http = is_http
        self._endpoint = target.endpoint
        self._carries_trace = target.protocol.capabilities.takes_trace
        self._spans: list[Span] = []
        for job in jobs:
            span = job.span
            if span.is_recording:
                attributes = _facts(target, job.requests, len(jobs), is_http=is_http)
                span = span.child("exchange", attributes, kind="client")
            job.requests += 1
            self._spans.append(span)
        self._recording = [span for span in self._spans if span.is_recording]

    @property
    def traceparents(self) -> tuple[str, ...]:
        """What names them for the target, in the order of the pictures; empty if it is not told."""
        if not self._carries_trace:
            return ()
        names = tuple(span.traceparent for span in self._spans)
        return names if any(names) else ()

    @property
    def tracestates(self) -> tuple[str, ...]:
        """What tracing systems add to them, in the same order; empty if it is nothing."""
        if not self.traceparents:
            return ()
        states = tuple(tracestate_of(span.tracestate) for span in self._spans)
        return states if any(states) else ()

    @contextmanager
    def sealing(self) -> Iterator[None]:
        """The request is sealed inside the block."""
        with ExitStack() as parts:
            for span in self._recording:
                parts.enter_context(span.child("seal"))
            yield

    def named(self, request: HttpRequest) -> HttpRequest:
        """`request`, before it is addressed and signed, with the trace that it belongs to.

        A request that several frames share belongs to the trace of the first one; each of its
        messages names its own.
        """
        path = request.url.partition("?")[0] if self._is_http else STREAM_PATH
        method = request.method if self._is_http else "send"
        for span in self._recording:
            span.rename(f"{method} {path}" if path else method)
            if self._is_http:
                span.set(
                    {"http.request.method": method, "http.request.body.size": len(request.body)}
                )
                if self._endpoint is not None:
                    span.set({"url.full": self._endpoint.url + path})
        if not self._is_http or not (names := self.traceparents):
            return request
        first = next(number for number, name in enumerate(names) if name)
        headers = {**request.headers, TRACEPARENT: names[first]}
        if (states := self.tracestates) and states[first]:
            headers[TRACESTATE] = states[first]
        return replace(request, headers=headers)

    def answered(self, response: HttpResponse) -> None:
        """The whole answer has come."""
        if self._is_http:
            for span in self._recording:
                span.set({"http.response.status_code": response.status})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for span in self._recording:
            if isinstance(exc, BackendResponseError) and exc.status_code:
                span.end(error=str(exc.status_code))
            else:
                span.__exit__(exc_type, exc, traceback)


def _facts(
    target: Target, resent: int, pictures: int, *, is_http: bool
) -> dict[str, str | bool | int | float]:
    facts: dict[str, str | bool | int | float] = {"hybrid_detect.provider": target.provider}
    if target.endpoint is not None:
        parts = urlsplit(target.endpoint.url)
        facts["server.address"] = target.host
        facts["server.port"] = parts.port or (443 if parts.scheme == "https" else 80)
    if target.region:
        facts["hybrid_detect.region"] = target.region
    if not is_http:
        facts["network.protocol.name"] = "websocket"
    if resent and is_http:
        facts["http.request.resend_count"] = resent
    if pictures > 1:
        facts["hybrid_detect.pictures"] = pictures
    return facts

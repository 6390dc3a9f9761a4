"""Where the time of one frame went, from camera to detector: a trace of spans.

This is the seam; nothing here records. A `Tracer` starts the span of a frame, and each part of its
way is a child of that span: capture, decide, and each attempt with what belongs to it. A span is
passed on as an argument or with the frame's job, never as a "current" one: several frames share a
request, a hedge runs in a task and an encoder in a thread, where there is no telling whose is
current.

Between machines a span is named by a W3C ``traceparent``, in the HTTP header of that name and in
the header of each message of the wire format, so that a stream carries a trace for each frame. What
tracing systems add to it, the ``tracestate``, is carried beside it.

Source of the formats: W3C, "Trace Context", Level 1.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Literal, Protocol, Self

__all__ = [
    "NO_SPAN",
    "NO_TRACER",
    "TRACEPARENT",
    "TRACESTATE",
    "Attributes",
    "Span",
    "SpanKind",
    "Tracer",
    "traceparent_of",
    "tracestate_of",
]

TRACEPARENT = "traceparent"
"""The HTTP header that carries a span's name."""

TRACESTATE = "tracestate"
"""The HTTP header that carries what tracing systems add to it."""

Attributes = Mapping[str, str | bool | int | float]
"""What a span says of its part: never a pixel, key, token, session, message or body."""

SpanKind = Literal["internal", "client", "server"]
"""Whether a span is of a request that is sent, of one that is answered, or of neither."""

GIVEN_UP = "hybrid_detect.given_up"
"""Attribute of a part that ended because its answer was not needed any more: that is no error."""

MAX_MEMBERS, MAX_STATE_CHARS, LONG_MEMBER_CHARS = 32, 512, 128
"""Of a ``tracestate``: its most members, how much of it has to be passed on, and the size beyond
which a member is the first to go. Source: "Trace Context", 3.3.1."""

_MEMBER = re.compile(
    r"([a-z][a-z0-9_\-*/]{0,255}|[a-z0-9][a-z0-9_\-*/]{0,240}@[a-z][a-z0-9_\-*/]{0,13})"
    r"=[ -+\--<>-~]{0,255}[!-+\--<>-~]"
)

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


class Span:
    """One part of a frame's way. This one records nothing; a tracer's spans override it.

    As a context manager it ends with its block, and an exception's class is its ``error.type``.
    It may be used from any thread.
    """

    __slots__ = ()

    @property
    def is_recording(self) -> bool:
        """Whether it is of any use to put together what it could say."""
        return False

    @property
    def trace_id(self) -> str:
        """The trace it is in, 32 hexadecimal digits; empty if it is not sampled."""
        return ""

    @property
    def span_id(self) -> str:
        """Its own id, 16 hexadecimal digits; empty if it is not sampled."""
        return ""

    @property
    def traceparent(self) -> str:
        """What names it on another machine, whether it is sampled or not; empty for none."""
        return ""

    @property
    def tracestate(self) -> str:
        """What tracing systems add to `traceparent`; empty for nothing."""
        return ""

    def child(
        self,
        name: str,
        attributes: Attributes | None = None,
        *,
        kind: SpanKind = "internal",
        began_s: float | None = None,
    ) -> Span:
        """Start the span of a part of this part.

        Args:
            name: What is done: one of few names.
            attributes: What is known of it at its start.
            kind: Whether it is a request.
            began_s: When it began, in seconds since 1970; `None` for now.
        """
        return self

    def add_ended(self, name: str, *, took_s: float | None) -> None:
        """Add a part that has just ended, after `took_s` seconds; none if they are unknown."""
        if self.is_recording and took_s is not None:
            now_s = time.time()
            self.child(name, began_s=now_s - took_s).end(ended_s=now_s)

    def rename(self, name: str) -> None:
        """Give it the name that was not known at its start."""

    def set(self, attributes: Attributes) -> None:
        """Add to what it says."""

    def end(self, *, error: str = "", ended_s: float | None = None) -> None:
        """End it; the first call counts.

        Args:
            error: What it ended with: the name of an error's class, or an HTTP status; empty if it
                did what it should.
            ended_s: When it ended, in seconds since 1970; `None` for now.
        """

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc is None:
            self.end()
        elif isinstance(exc, Exception):
            self.end(error=type(exc).__name__)
        else:  # cancelled, or a generator that is closed
            self.set({GIVEN_UP: True})
            self.end()


class Tracer(Protocol):
    """Starts the first span of a frame on this machine.

    It and its spans are called on the frame's way: they must neither raise nor block.
    """

    def start_span(
        self,
        name: str,
        attributes: Attributes | None = None,
        *,
        kind: SpanKind = "internal",
        parent: str = "",
        parent_state: str = "",
        own_trace: bool = False,
        began_s: float | None = None,
    ) -> Span:
        """Start a span; the tracer's sampler decides whether it records.

        Args:
            name: What is done.
            attributes: What is known of it at its start.
            kind: Whether it is a request.
            parent: The ``traceparent`` of the span on another machine that it is a part of. Empty
                for the span that is the caller's current one, if there is one.
            parent_state: The ``tracestate`` that came with `parent`.
            own_trace: Whether it begins a trace, which then links to the caller's current span: a
                stream's frames would make one endless trace otherwise. `parent` wins.
            began_s: When it began, in seconds since 1970; `None` for now.
        """


class _NoTracer:
    def start_span(
        self,
        name: str,
        attributes: Attributes | None = None,
        *,
        kind: SpanKind = "internal",
        parent: str = "",
        parent_state: str = "",
        own_trace: bool = False,
        began_s: float | None = None,
    ) -> Span:
        return NO_SPAN


NO_SPAN = Span()
"""Of a frame that is not traced."""

NO_TRACER: Tracer = _NoTracer()
"""Traces nothing."""


def traceparent_of(value: object) -> str:
    """The ``traceparent`` in what a peer sent, as version 00; empty if it is none.

    As the specification wants it, one that cannot be read is left out, and no error.
    """
    found = _TRACEPARENT.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        return ""
    version, trace_id, span_id, flags, more = found.groups()
    is_known = version == "00" and more is None
    is_newer = version not in {"00", "ff"}
    if not (is_known or is_newer) or not int(trace_id, 16) or not int(span_id, 16):
        return ""
    return f"00-{trace_id}-{span_id}-{flags}"


def tracestate_of(value: object) -> str:
    """The ``tracestate`` in what a peer sent, as much of it as is passed on; empty if it is none.

    As the specification wants it, one that cannot be read is left out as a whole, and of one that
    is too long, long members go first and then the last ones.
    """
    if not isinstance(value, str):
        return ""
    members = [member for part in value.split(",") if (member := part.strip(" \t"))]
    found = [_MEMBER.fullmatch(member) for member in members]
    keys = {each[1] for each in found if each is not None}
    if len(keys) < len(members) or len(members) > MAX_MEMBERS:  # unreadable, or twice the same key
        return ""
    while len(state := ",".join(members)) > MAX_STATE_CHARS:
        long = [member for member in members if len(member) > LONG_MEMBER_CHARS]
        members.remove(long[-1] if long else members[-1])
    return state

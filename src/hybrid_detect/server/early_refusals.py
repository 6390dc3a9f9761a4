"""Pictures that are refused by their first bytes, where they would be refused once they had come.

A busy server that reads every picture before it says no spends on the reading what its detectors
need. So while it refuses any (`Admission.is_pressed`), the head of a request and the header of its
message, which come first, decide whether a picture is let in. What is refused here is refused by
the same rules as behind the gate, counted and told in the same way; everything that the first bytes
leave open (a wrong credential, a token of an issuer, a sealed message, a malformed one) goes on to
the app, which answers it as it always does. So a caller that the gate would not let in learns
nothing here.
"""

from __future__ import annotations

import math
from enum import Enum
from functools import lru_cache, partial
from typing import NamedTuple, TypeAlias

from starlette.types import Scope

from hybrid_detect.errors import EncryptionError, ProtocolError
from hybrid_detect.exchange.envelope import kind_of
from hybrid_detect.exchange.first_bytes import request_in
from hybrid_detect.exchange.wire import (
    DETECT_PATH,
    PREAMBLE_BYTES,
    STREAM_PATH,
    DetectRequest,
    ErrorReply,
    header_bytes_in,
    peek_request_id,
    with_request_id,
)
from hybrid_detect.server.admission import Admission
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.server.credentials import Credentials, WrongCredentialError
from hybrid_detect.server.gate import CALLER
from hybrid_detect.server.head_facts import HeadFacts, facts_of
from hybrid_detect.server.http1 import RequestHead
from hybrid_detect.server.look_refusals import look_refusal
from hybrid_detect.server.looks import OverloadedError
from hybrid_detect.server.observation import Observation
from hybrid_detect.server.picture_requests import unsupported_body
from hybrid_detect.server.replies import answer_of, head_bytes, too_fast
from hybrid_detect.server.shared_state import Limit, LocalState
from hybrid_detect.server.tracing import Tracing
from hybrid_detect.server.websocket_frames import payload_of

__all__ = ["EarlyRefusals", "Refused", "RefusedMessage", "Undecided", "Verdict"]


class Undecided(Enum):
    """Why a picture is not refused by what there is of it."""

    LET_IN = "let in"
    """It is the app's to answer."""
    MORE = "more"
    """A few more of its bytes will tell."""


class Refused(NamedTuple):
    """A picture is refused."""

    status: int
    answer: bytes
    """Whole, as it is written to the connection."""


Verdict: TypeAlias = Refused | Undecided


class RefusedMessage(bytes):
    """The beginning of a message whose picture is refused and was not read."""

    retry_after_s = 0.0
    """What its sender is to be told."""


class EarlyRefusals:
    """Decides by a request's head and the first bytes of its body.

    Args:
        config: The limits.
        credentials: Who may come in.
        state: Counts rates.
        admission: Knows which pictures can be answered in time.
        observation: Is told of what is refused.
        tracing: Traces it.
    """

    def __init__(
        self,
        config: ServerConfig,
        *,
        credentials: Credentials,
        state: LocalState,
        admission: Admission,
        observation: Observation,
        tracing: Tracing,
    ) -> None:
        self._max_body_bytes = config.max_body_bytes
        self._credentials = credentials
        self._take = partial(state.take_at_once, Limit.PICTURES)
        self.admission = admission
        self._observation = observation
        self._is_observed = observation.is_on
        self._tracing = tracing
        self.are_likely = False
        """Whether pictures were being refused when a request last came."""

    def verdict(self, head: RequestHead, peer: str, start: bytes) -> Verdict:
        """What becomes of a request.

        Args:
            head: Its head.
            peer: Who sends it, as limits count it.
            start: What has come behind the head: of the body, or more than that.
        """
        self.are_likely = self.admission.is_pressed
        if not self.are_likely or head.path != DETECT_PATH or head.method != "POST":
            return Undecided.LET_IN
        size, facts = head.body_bytes, head.facts
        if size is None or size > self._max_body_bytes or facts.origins:
            return Undecided.LET_IN
        try:
            caller = self._credentials.caller_at_once(facts, peer)
        except WrongCredentialError:
            return Undecided.LET_IN
        if caller is None:  # who must ask at the gate
            return Undecided.LET_IN
        if len(start) > size:
            start = start[:size]
        if head.expects_continue and not start:
            # A picture that would be refused whatever its message says need not be sent.
            request: DetectRequest | Undecided = _PATIENT if facts.is_wire else _BARE
        else:
            request = _asked(facts, start)
        if isinstance(request, Undecided):
            is_over = head.expects_continue or len(start) == size
            return Undecided.LET_IN if is_over else request
        wait_s = self.admission.refusal(request.deadline_s, caller=caller, expects=True)
        if wait_s is None:
            return Undecided.LET_IN
        # As behind the gate, what comes too fast is told so, and counts for nothing.
        is_wire, close = facts.accepts_wire, not head.keep_alive
        if early_s := self._take(caller):
            told = _told(too_fast(0, early_s), is_wire=is_wire, close=close)
        else:
            told = _overloaded(math.ceil(wait_s * 1000), is_wire, close)
            if self._tracing.is_on:
                trace = facts.trace if facts.trace[0] else (request.traceparent, request.tracestate)
                self._tracing.refused(trace, OverloadedError(wait_s))
        status, body = told.reply.status, told.body
        if is_wire and facts.is_wire and (request_id := peek_request_id(start)):
            body = with_request_id(body, request_id)
        more: tuple[tuple[bytes, bytes], ...] = ()
        if self._is_observed:
            more = self._observation.refused_picture(
                peer,
                facts,
                told.reply,
                received_bytes=len(start),
                sent_bytes=len(body),
                is_read=status != 429,  # what comes too fast was not weighed by what it says
            )
        return Refused(status, head_bytes(status, more, told.head_end) + body)

    def refused_message(self, scope: Scope, frame: bytes) -> RefusedMessage | None:
        """The beginning of a stream's message, if its picture would be refused; `None` if not.

        The app answers it, as it is: a stream has a rate of its own, and may have sent it before.

        Args:
            scope: The ASGI scope of the stream, which the gate has let in or not yet.
            frame: What has come of the message's only frame, masked.
        """
        caller: str | None = scope.get(CALLER)
        if caller is None or scope["path"] != STREAM_PATH or not self.admission.is_pressed:
            return None
        start = payload_of(frame)
        request = _message_in(facts_of(scope), start)
        if isinstance(request, Undecided):
            return None
        wait_s = self.admission.refusal(request.deadline_s, caller=caller, expects=True)
        if wait_s is None:
            return None
        refused = RefusedMessage(start)
        refused.retry_after_s = wait_s
        return refused


class _Told(NamedTuple):
    """What a refused picture is told; the same for many of them."""

    reply: ErrorReply
    head_end: bytes
    """What is behind the Date."""
    body: bytes


def _told(reply: ErrorReply, *, is_wire: bool, close: bool) -> _Told:
    answer = answer_of(reply, is_wire=is_wire)
    return _Told(reply, answer.head_end(close=close), answer.body)


@lru_cache(maxsize=256)
def _overloaded(wait_ms: int, is_wire: bool, close: bool) -> _Told:
    """What a server without a free detector says: a flood has few other answers."""
    reply = look_refusal(0, OverloadedError(wait_ms / 1000))
    return _told(reply, is_wire=is_wire, close=close)


_BARE = DetectRequest(request_id=0, image=b"")
"""A picture that is no message, and so has no deadline."""

_PATIENT = DetectRequest(request_id=0, image=b"", deadline_s=math.inf)
"""A picture that can wait for longer than any other."""


def _asked(facts: HeadFacts, start: bytes) -> DetectRequest | Undecided:
    """What the picture of a request is sent with, as far as that matters here."""
    if facts.is_wire:
        return _message_in(facts, start)
    if unsupported_body(facts) is not None:
        return Undecided.LET_IN
    try:
        is_picture = kind_of(start) is None
    except EncryptionError:
        is_picture = False
    if not is_picture:
        return Undecided.LET_IN
    return _BARE if len(start) > 1 else Undecided.MORE


MAX_REMEMBERED_BYTES = 1024
"""Of a message's header. Chosen: ten times a camera's with a session."""


def _message_in(facts: HeadFacts, start: bytes) -> DetectRequest | Undecided:
    """What the message asks for that begins with `start`; the request id may be another's."""
    if (last := facts.last_message) is not None:
        known, request = last
        if len(start) >= len(known) and with_request_id(start[: len(known)], 0) == known:
            return request
    try:
        read, header_bytes = request_in(start), header_bytes_in(start)
    except ProtocolError:
        return Undecided.LET_IN
    if read is None or header_bytes is None:
        return Undecided.MORE
    # A message that belongs to a trace is unlike all others.
    if header_bytes <= MAX_REMEMBERED_BYTES and not read.traceparent:
        message = with_request_id(start[: PREAMBLE_BYTES + header_bytes], 0)
        facts.last_message = message, read
    return read

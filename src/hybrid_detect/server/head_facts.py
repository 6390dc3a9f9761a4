"""What the head of a request says, found once for all requests with an equal head.

The heads of one client are equal but for the length of the body. `Server` knows such a head again,
and gives these facts with each of its requests, so that nothing of them is looked for twice. What
may change meanwhile (a key is revoked, a token expires, a rate is used up) is no part of a head,
and is asked for each request.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import cached_property

from starlette.types import Scope

from hybrid_detect.exchange.wire import CONTENT_TYPE, DetectRequest
from hybrid_detect.monitoring.tracing import TRACEPARENT, TRACESTATE, traceparent_of, tracestate_of

__all__ = ["API_KEY_HEADER", "HEAD_FACTS", "HeadFacts", "facts_of"]

API_KEY_HEADER = "X-API-Key"
"""The header that many gateways and clients send instead of ``Authorization: Bearer``."""

HEAD_FACTS = "hybrid_detect.head_facts"
"""Where the ASGI scope has the `HeadFacts` of its headers, once they were asked for.

`Server` has them already where no middleware may change the headers."""

_API_KEY_NAME = API_KEY_HEADER.lower().encode()
_CREDENTIAL_NAMES = frozenset({b"authorization", _API_KEY_NAME})


class HeadFacts:
    """What some headers say.

    Args:
        headers: As ASGI has them, names in lower case. Of ``Content-Length``, which differs among
            heads that are equal else, nothing is told.
    """

    def __init__(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        self._headers = tuple(each for each in headers if each[0] != b"content-length")
        self.last_message: tuple[bytes, DetectRequest] | None = None
        """The last message that came with this head, up to its picture and with the request id 0,
        and what it asks for. A camera's messages are alike, so they are read once; see
        `early_refusals`."""

    def values(self, name: str) -> list[str]:
        """The values of every header `name` (lower case)."""
        wanted = name.encode()
        return [value.decode("latin-1") for found, value in self._headers if found == wanted]

    @cached_property
    def origins(self) -> tuple[str, ...]:
        """The web pages that it is said to come from."""
        return tuple(self.values("origin"))

    @cached_property
    def media_type(self) -> str:
        """The media type of the body, without its parameters; empty if none is named."""
        given = self.values("content-type")[:1] or [""]
        return given[0].partition(";")[0].strip().lower()

    @cached_property
    def is_wire(self) -> bool:
        """Whether the body is said to be a message of the wire format."""
        return self.media_type == CONTENT_TYPE

    @cached_property
    def accepts_wire(self) -> bool:
        """Whether the answer is wanted in the wire format."""
        return self.values("accept")[:1] == [CONTENT_TYPE]

    @cached_property
    def trace(self) -> tuple[str, str]:
        """Its ``traceparent`` and ``tracestate``; empty if it has none."""
        given = self.values(TRACEPARENT)
        traceparent = traceparent_of(given[0]) if len(given) == 1 else ""
        if not traceparent:
            return "", ""
        # RFC 9110, 5.2: several lines are one list.
        return traceparent, tracestate_of(",".join(self.values(TRACESTATE)))

    @cached_property
    def credential(self) -> str | None:
        """The one credential that was sent; empty if it cannot be one, `None` if there is none."""
        sent = [each for each in self._headers if each[0] in _CREDENTIAL_NAMES]
        if not sent:
            return None
        # With two of them, what is in front of this server may have checked the other one.
        if len(sent) > 1:
            return ""
        name, value = sent[0]
        text = value.decode("latin-1")
        if name == _API_KEY_NAME:
            return text.strip(" \t")
        scheme, _, given = text.partition(" ")
        return given.strip(" \t") if scheme.lower() == "bearer" else ""

    @cached_property
    def credential_digest(self) -> bytes:
        """A digest of `credential`: comparing it does not tell the length of the right one."""
        return hashlib.sha256((self.credential or "").encode("utf-8", "surrogateescape")).digest()


def facts_of(scope: Scope) -> HeadFacts:
    """What the headers of a request or a WebSocket say, by its ASGI scope."""
    facts: HeadFacts | None = scope.get(HEAD_FACTS)
    if facts is None:
        facts = scope[HEAD_FACTS] = HeadFacts(scope["headers"])
    return facts

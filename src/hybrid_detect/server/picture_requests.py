"""What a request over HTTP says of a bare picture: its media type, its session, its options."""

from __future__ import annotations

from hybrid_detect.errors import ProtocolError
from hybrid_detect.exchange.wire import DetectRequest, ErrorReply
from hybrid_detect.exchange.wire_values import MAX_TEXT_CHARS
from hybrid_detect.server.head_facts import HeadFacts
from hybrid_detect.server.replies import error_reply
from hybrid_detect.types import QualityLevel

__all__ = [
    "QUALITY_HEADER",
    "SECOND_LOOK_HEADER",
    "SESSION_HEADER",
    "bare_picture",
    "unsupported_body",
]

SESSION_HEADER = "X-Session-ID"
"""The session of a bare picture, in UTF-8; a message of the wire format carries its own."""

QUALITY_HEADER = "X-Quality"
"""How thoroughly to look at a bare picture: a `QualityLevel`."""

SECOND_LOOK_HEADER = "X-Second-Look"
"""Whether to look at a bare picture turned as well if no face was found: ``true`` or ``false``."""

_HOW = "send the picture's bytes as the body: curl --data-binary @photo.jpg"

_CONTAINERS = {
    "multipart": f"a form was sent, as by curl -F; {_HOW}",
    "application/json": f"JSON was sent; {_HOW}",
}


def unsupported_body(facts: HeadFacts) -> ErrorReply | None:
    """Why the body cannot be a picture, by its Content-Type; `None` if it may be one.

    A type that merely does not fit, such as the form type that curl adds to ``--data-binary``, is
    not believed: the bytes decide.
    """
    given = facts.media_type
    detail = _CONTAINERS.get(given) or _CONTAINERS.get(given.partition("/")[0])
    return error_reply(0, 415, "unsupported_body", detail) if detail else None


def bare_picture(facts: HeadFacts, image: bytes) -> DetectRequest:
    """The request whose body is a picture, with what its headers ask for.

    Raises:
        ProtocolError: If one of them cannot be read.
    """
    return DetectRequest(
        request_id=0,
        image=image,
        session_id=_session_of(facts),
        quality=_quality_of(facts),
        second_look=_second_look_of(facts),
    )


def _session_of(facts: HeadFacts) -> str | None:
    """The session in `SESSION_HEADER`; `None` without one.

    Raises:
        ProtocolError: If it is empty, too long, not UTF-8, or there is more than one.
    """
    given = facts.values(SESSION_HEADER.lower())
    if not given:
        return None
    try:
        (text,) = given
        session = text.encode("latin-1").decode()
    except ValueError:
        session = ""
    if not 0 < len(session) <= MAX_TEXT_CHARS:
        msg = f"{SESSION_HEADER}: expected 1 to {MAX_TEXT_CHARS} characters of UTF-8, given once"
        raise ProtocolError(msg)
    return session


def _quality_of(facts: HeadFacts) -> QualityLevel | None:
    """The level in `QUALITY_HEADER`; `None` without one.

    Raises:
        ProtocolError: If there is no such level, or more than one was given.
    """
    given = facts.values(QUALITY_HEADER.lower())
    if not given:
        return None
    try:
        (text,) = given
        return QualityLevel(text.strip().lower())
    except ValueError:
        msg = f"{QUALITY_HEADER}: expected one of {', '.join(QualityLevel)}, given once"
        raise ProtocolError(msg) from None


def _second_look_of(facts: HeadFacts) -> bool:
    """What `SECOND_LOOK_HEADER` says; `False` without one.

    Raises:
        ProtocolError: If it is something else, or was given more than once.
    """
    given = [text.strip().lower() for text in facts.values(SECOND_LOOK_HEADER.lower())]
    if given not in ([], ["true"], ["false"]):
        msg = f"{SECOND_LOOK_HEADER}: expected true or false, given once"
        raise ProtocolError(msg)
    return given == ["true"]

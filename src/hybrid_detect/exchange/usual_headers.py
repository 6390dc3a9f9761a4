"""The header of a detect message as this library's clients write it, read in one step.

A server reads one for each picture. `encode_request` writes the fields that a request has in a
fixed order and without spaces, so one regular expression tells a usual header from all others and
finds its values. What it matches is the JSON object that a parser finds there, with values that
pass the checks of `decode_request`; any other header is left to the parser and to those checks. No
two parts of the expression begin alike, so that matching does not backtrack.
"""

from __future__ import annotations

import re
from typing import Any

from hybrid_detect.exchange.wire_values import MAX_TEXT_CHARS
from hybrid_detect.monitoring.tracing import traceparent_of, tracestate_of
from hybrid_detect.types import QualityLevel

__all__ = ["usual_fields"]

_LEVELS = {level.value.encode(): level for level in QualityLevel}

_TEXT = rb'"([ !#-\[\]-~]{0,%d})"' % MAX_TEXT_CHARS  # ASCII that JSON spells as it is
_NUMBER = rb"((?:0|[1-9][0-9]{0,14})(?:\.[0-9]{1,20})?)"  # not negative, and far from infinity
_SCORE = rb"((?:0(?:\.[0-9]{1,20})?|1(?:\.0)?))"  # from 0 to 1

_USUAL = re.compile(
    rb'\{"format":'
    + _TEXT
    + rb'(?:,"min_confidence":'
    + _SCORE
    + rb')?(?:,"deadline_s":'
    + _NUMBER
    + rb')?(?:,"session_id":'
    + _TEXT
    + rb')?(?:,"quality":"('
    + b"|".join(_LEVELS)
    + rb')")?(,"second_look":true)?(?:,"traceparent":'
    + _TEXT
    + rb'(?:,"tracestate":'
    + _TEXT
    + rb")?)?\}"
)


def usual_fields(data: bytes, begin: int, end: int) -> dict[str, Any] | None:
    """The fields of a `DetectRequest` that the header from `begin` to `end` in `data` gives.

    Returns:
        Those that it has; `None` for a header that is not of the usual form.
    """
    found = _USUAL.fullmatch(data, begin, end)
    if found is None:
        return None
    picture, score, deadline, session, level, again, traceparent, tracestate = found.groups()
    fields: dict[str, Any] = {"format": picture.decode()}
    if score is not None:
        fields["min_confidence"] = float(score)
    if deadline is not None:
        fields["deadline_s"] = float(deadline)
    if session is not None:
        fields["session_id"] = session.decode()
    if level is not None:
        fields["quality"] = _LEVELS[level]
    if again is not None:
        fields["second_look"] = True
    if traceparent is not None and (trace := traceparent_of(traceparent.decode())):
        fields["traceparent"] = trace
        if tracestate is not None:
            fields["tracestate"] = tracestate_of(tracestate.decode())
    return fields

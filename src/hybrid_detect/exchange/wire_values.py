"""JSON values from a peer, checked one at a time: what passes is safe to use.

Each function raises a `ProtocolError` for a value that is not what it should be.
"""

from __future__ import annotations

import json
import math
from typing import Any, Never

from hybrid_detect.errors import ProtocolError

__all__ = [
    "MAX_TEXT_CHARS",
    "boolean",
    "coordinate",
    "fail",
    "integer",
    "json_object",
    "number",
    "optional_confidence",
    "optional_number",
    "optional_pixels",
    "optional_seconds",
    "optional_text",
    "text",
]

MAX_TEXT_CHARS = 1024
"""Names and sentences; far above any real one."""

MAX_COORDINATE_PX = 1e6
"""No picture is so large; beyond it, scaling a box to the frame could overflow."""


def coordinate(value: Any, name: str) -> float:
    """The coordinate `value` in pixels, which must not be far outside of any picture."""
    place = number(value, name)
    if abs(place) > MAX_COORDINATE_PX:
        fail(f"{name} within {MAX_COORDINATE_PX:.0f} pixels", "a number far outside")
    return place


def number(value: Any, name: str) -> float:
    """The finite number `value`."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        fail(f"a number for {name}", type(value).__name__)
    try:
        found = float(value)
    except OverflowError:
        fail(f"a finite number for {name}", "a huge integer")
    if not math.isfinite(found):
        fail(f"a finite number for {name}", "infinity")
    return found


def optional_seconds(value: Any, name: str) -> float | None:
    """The seconds `value`, 0 for negative ones; `None` if there are none."""
    return None if value is None else max(number(value, name), 0.0)


def optional_pixels(value: Any, name: str) -> float | None:
    """The length `value` in pixels, 0 for a negative one; `None` if there is none."""
    return None if value is None else max(coordinate(value, name), 0.0)


def optional_number(value: Any, name: str) -> float | None:
    """The finite number `value`; `None` if there is none."""
    return None if value is None else number(value, name)


def optional_confidence(value: Any, name: str) -> float | None:
    """The score `value`, which must be from 0 to 1; `None` if there is none."""
    if value is None:
        return None
    score = number(value, name)
    if not 0 <= score <= 1:
        fail(f"{name} from 0 to 1", str(score))
    return score


def boolean(value: Any, name: str) -> bool:
    """The value `value`, which must be true or false."""
    if not isinstance(value, bool):
        fail(f"true or false for {name}", type(value).__name__)
    return value


def integer(value: Any, name: str, *, low: int, high: int) -> int:
    """The integer `value`, which must be from `low` to `high`."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        fail(f"{name} from {low} to {high}", type(value).__name__)
    return value


def text(value: Any, name: str) -> str:
    """The short text `value`."""
    if not isinstance(value, str) or len(value) > MAX_TEXT_CHARS:
        fail(f"{name} as a short text", type(value).__name__)
    try:
        if not value.isascii():
            value.encode()
    except UnicodeEncodeError:  # JSON can spell half a character, which nothing can print
        fail(f"{name} as Unicode text", "half a character")
    return value


def optional_text(value: Any, name: str) -> str | None:
    """The short text `value`; `None` if there is none."""
    return None if value is None else text(value, name)


def fail(expected: str, actual: str) -> Never:
    """Refuse what a peer sent.

    Raises:
        ProtocolError: Always. It tells a kind of value, never the value of a text.
    """
    msg = f"expected {expected}, got {actual}"
    raise ProtocolError(msg)


def _no_constant(_: str) -> Never:
    raise ValueError  # NaN and Infinity are not JSON


_DECODER = json.JSONDecoder(parse_constant=_no_constant)
_SPACE = " \t\n\r"


def json_object(data: bytes, name: str) -> dict[str, Any]:
    """The JSON object in `data`, without NaN and infinities."""
    try:
        found = data.decode().strip(_SPACE)
        value, end = _DECODER.raw_decode(found)
        if end != len(found):
            raise ValueError  # there is more behind it
    except (ValueError, RecursionError):
        # Neither the text nor the parser's excerpt of it belongs into an error.
        fail(f"JSON as {name}", "something else")
    if not isinstance(value, dict):
        fail(f"a JSON object as {name}", type(value).__name__)
    return value

"""Reading what a provider wrote: JSON values with their types checked, nothing of them repeated.

Providers leave fields out (protobuf drops zeros), add new ones, and write ``NaN`` or ``null`` where
a model computed nothing. So a missing number has a default, an unknown field is ignored, a number
that is not finite is `None`, and anything of another type is a `ProtocolError`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Never, TypeVar

from hybrid_detect.backends.remote.protocol import HttpResponse
from hybrid_detect.errors import ProtocolError

__all__ = [
    "MAX_FACES",
    "each_apart",
    "items_of",
    "json_of",
    "number_of",
    "numbers_of",
    "object_of",
    "text_of",
]

Part = TypeVar("Part")
Read = TypeVar("Read")

MAX_NUMBER = 1e9
"""Nothing near it is a place in a picture; an integer of JSON may have thousands of digits."""

MAX_FACES = 1000
"""Faces in an answer. Providers stop at 100 or 300, and a model of one's own has none so many once
overlapping ones are suppressed. So many take 25 to 110 ms of the event loop."""


def json_of(response: HttpResponse, *, provider: str) -> Any:
    """The JSON value in `response`, with `None` for ``NaN`` and ``Infinity``.

    Args:
        response: The response.
        provider: Who answered, for the message.

    Raises:
        ProtocolError: If its body is not JSON: a captive portal answers anything with a page.
    """
    try:
        return json.loads(response.body, parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        msg = f"expected JSON from {provider}, got something else"
        raise ProtocolError(msg) from None


def object_of(value: Any, name: str) -> dict[str, Any]:
    """`value`, which has to be a JSON object.

    Raises:
        ProtocolError: If it is not.
    """
    if not isinstance(value, dict):
        _fail("an object", name, value)
    return value


def items_of(value: Any, name: str) -> list[Any]:
    """`value`, which has to be a list of at most `MAX_FACES` items.

    Raises:
        ProtocolError: If it is not.
    """
    if not isinstance(value, list):
        _fail("a list", name, value)
    if len(value) > MAX_FACES:
        msg = f"expected at most {MAX_FACES} items at {name!r} of the answer, got {len(value)}"
        raise ProtocolError(msg)
    return value


def number_of(value: Any, name: str) -> float | None:
    """`value` as a number; `None` for ``null`` and for what is not finite.

    Raises:
        ProtocolError: If it is of another type, or beyond `MAX_NUMBER`.
    """
    if type(value) is float and -MAX_NUMBER < value < MAX_NUMBER:
        return value  # as nearly all are
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        _fail("a number", name, value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if not -MAX_NUMBER < value < MAX_NUMBER:
        msg = f"expected a number of usual size at {name!r} of the answer, got another"
        raise ProtocolError(msg)
    return float(value)


def numbers_of(
    value: Any, names: Sequence[str], *, missing: float | None = 0.0
) -> list[float | None]:
    """The numbers at `names` of the object `value`; `missing` for one that is not there.

    Raises:
        ProtocolError: If `value` is no object, or one of them is of another type.
    """
    found = object_of(value, ", ".join(names))
    return [number_of(found.get(name, missing), name) for name in names]


def text_of(value: Any) -> str:
    """`value` if it is a text; else an empty one."""
    return value if isinstance(value, str) else ""


def each_apart(
    read: Callable[[Part], Read], parts: Iterable[Part]
) -> tuple[Read | ProtocolError, ...]:
    """What `read` makes of each of `parts`, the answers about the pictures of one request.

    One that cannot be read has its error in its place, so that the others keep their faces.

    Raises:
        ProtocolError: If it is the only one.
    """
    every = tuple(parts)
    if len(every) == 1:
        return (read(every[0]),)
    return tuple(_read_or_error(read, part) for part in every)


def _read_or_error(read: Callable[[Part], Read], part: Part) -> Read | ProtocolError:
    try:
        return read(part)
    except ProtocolError as error:
        return error.with_traceback(None)


def _fail(expected: str, name: str, value: Any) -> Never:
    msg = f"expected {expected} at {name!r} of the answer, got {type(value).__name__}"
    raise ProtocolError(msg)

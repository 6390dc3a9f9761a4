"""When a server wants to be asked again, in every form that servers say it; and its clock."""

from __future__ import annotations

import email.utils
import math
import re
import time
from collections.abc import Mapping
from datetime import UTC

__all__ = ["date_s", "duration_s", "retry_after_s"]

_MILLISECONDS = ("retry-after-ms", "x-ms-retry-after-ms", "x-amz-retry-after")
"""Headers of plain milliseconds, which are finer than Retry-After's seconds and come first.

Source: azure-core, `pipeline/policies/_utils.py` (the first two); botocore 1.44,
`retries/standard.py` (the third)."""

_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?", re.ASCII)


def retry_after_s(headers: Mapping[str, str], *, now_s: float | None = None) -> float | None:
    """Seconds that the headers of a response ask to wait; `None` if they do not say.

    Retry-After is a number of seconds, whole by RFC 9110 (10.2.3) and with a fraction from some
    servers, or an HTTP date. A date is counted from the server's own ``Date`` if it gives one:
    this device's clock may be minutes off.

    Args:
        headers: By name in lower case.
        now_s: Seconds since 1970, for a date without ``Date``; `None` asks the clock.
    """
    for name in _MILLISECONDS:
        milliseconds = _number(headers.get(name, ""))
        if milliseconds is not None:
            return milliseconds / 1000
    value = headers.get("retry-after", "")
    seconds = _number(value)
    if seconds is not None:
        return seconds
    then_s = date_s(value)
    if then_s is None:
        return None
    from_s = date_s(headers.get("date", ""))
    if from_s is None:
        from_s = time.time() if now_s is None else now_s
    return max(then_s - from_s, 0.0)


def duration_s(text: object) -> float | None:
    """Seconds in a `google.protobuf.Duration` of a ``RetryInfo``, such as ``"1.5s"``."""
    return _number(text[:-1]) if isinstance(text, str) and text.endswith("s") else None


def _number(text: str) -> float | None:
    # Not `float` alone, which reads "inf", "1_0" and digits of every script.
    text = text.strip()
    if not _NUMBER.fullmatch(text.removeprefix("-")):
        return None
    value = float(text)
    return max(value, 0.0) if math.isfinite(value) else None


def date_s(text: str) -> float | None:
    """Seconds since 1970 of an HTTP date (RFC 9110, 5.6.7); `None` if it is none.

    In the form of asctime, which names no time zone, it is UTC like the others.
    """
    try:
        moment = email.utils.parsedate_to_datetime(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError, TypeError):
        return None

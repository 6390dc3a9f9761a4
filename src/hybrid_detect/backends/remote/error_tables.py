"""What providers' error codes mean: each has a table of rules, read from top to bottom.

A provider reads the code out of its own error body; the table makes it a typed error. Nothing else
that the provider wrote is repeated, beyond that code and the id of the request.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from hybrid_detect.backends.remote.protocol import HttpResponse
from hybrid_detect.backends.remote.refusals import meaning_of
from hybrid_detect.backends.remote.retry_after import date_s
from hybrid_detect.errors import BackendResponseError, Refusal

__all__ = ["ErrorRule", "ErrorTable"]

_RETRYABLE = frozenset({Refusal.THROTTLED, Refusal.TRANSIENT})

_CODE = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)
_REQUEST_ID = re.compile(r"[A-Za-z0-9_.:/=+-]{1,128}", re.ASCII)

_REQUEST_ID_HEADERS = ("x-amzn-requestid", "apim-request-id", "x-ms-request-id", "x-request-id")
"""Google has none; its status is all there is."""


@dataclass(frozen=True, slots=True)
class ErrorRule:
    """One row: which errors it is about, and what they mean."""

    refusal: Refusal
    """What the error means, which decides what is done about it."""
    meaning: str
    """The same in words, for the error's message."""
    codes: Collection[str] = ()
    """The provider's codes that it is about; none for any."""
    statuses: Collection[int] = ()
    """The HTTP statuses that it is about; none for any."""
    retryable: bool | None = None
    """Whether the same request may succeed when sent again; `None` follows from `refusal`."""

    def fits(self, status: int, code: str) -> bool:
        """Whether it is about `code` with `status`."""
        return (not self.codes or code in self.codes) and (
            not self.statuses or status in self.statuses
        )


@dataclass(frozen=True, slots=True)
class ErrorTable:
    """The errors of one provider. What no rule is about means what its HTTP status means."""

    rules: tuple[ErrorRule, ...]

    def error(
        self,
        response: HttpResponse,
        *,
        code: str = "",
        variant: str = "",
        retry_after_s: float | None = None,
        by_server: bool | None = None,
    ) -> BackendResponseError:
        """The error for a refusal of a whole request, or of one picture of it.

        Args:
            response: What came, with its status.
            code: The provider's code, from the body; empty if there was none.
            variant: What rules are asked about instead, where one code means several things and
                the provider can tell which.
            retry_after_s: Seconds that the body asked to wait; the headers win.
            by_server: Whether the provider itself said it; `None` if a code, or the JSON type, is
                the sign of that: gateways and captive portals answer with pages for people.
        """
        code = code if _CODE.fullmatch(code) else ""
        status = response.status
        rule = next((rule for rule in self.rules if rule.fits(status, variant or code)), None)
        refusal = Refusal.of_status(status) if rule is None else rule.refusal
        retryable = rule.retryable if rule and rule.retryable is not None else refusal in _RETRYABLE
        request_id = _request_id(response)
        meaning = meaning_of(status) if rule is None else rule.meaning
        facts = [f"status {status}"]
        facts += [f"code {code}"] * bool(code) + [f"request {request_id}"] * bool(request_id)
        return BackendResponseError(
            f"{meaning} ({', '.join(facts)})",
            retryable=retryable,
            retry_after_s=(
                retry_after_s if response.retry_after_s is None else response.retry_after_s
            ),
            status_code=status,
            refusal=refusal,
            code=code,
            request_id=request_id,
            server_time_s=date_s(response.headers.get("date", "")),
            by_server=bool(code) or "json" in response.media_type
            if by_server is None
            else by_server,
        )


def _request_id(response: HttpResponse) -> str:
    for name in _REQUEST_ID_HEADERS:
        if _REQUEST_ID.fullmatch(value := response.headers.get(name, "")):
            return value
    return ""

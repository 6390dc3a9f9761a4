"""Where a picture goes: what privacy rules, events and status call a target."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

__all__ = ["Destination", "is_among", "same_name"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """The host, the provider and the region that a picture is sent to."""

    host: str = ""
    """Name or address of the host; empty for the service's own endpoint."""
    provider: str = ""
    """Whose protocol it speaks, such as ``aws``; empty if unknown."""
    region: str = ""
    """Where it processes pictures, such as ``eu-west-1``; empty if unknown."""
    target: str = ""
    """The name of the target."""

    def __str__(self) -> str:
        facts = ", ".join(fact for fact in (self.provider, self.region) if fact)
        name = self.target or self.host
        return f"{name} ({facts})" if facts else name


def same_name(text: str) -> str:
    """`text` as providers and regions are compared: their spelling in lower case, without blanks.

    ``EU-West-1`` is AWS's ``eu-west-1``; no two regions differ by case alone.
    """
    return text.strip().lower()


def is_among(value: object, allowed: Collection[str]) -> bool:
    """Whether a target's `value` is among the names that a rule allows; an unknown one is not."""
    return isinstance(value, str) and bool(value) and same_name(value) in allowed

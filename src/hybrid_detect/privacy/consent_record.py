"""One consent that was given: its words, its times, and whether it allows something now. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from hybrid_detect.destination import Destination, is_among, same_name
from hybrid_detect.errors import ConfigurationError

__all__ = ["SEND_FRAMES", "ConsentRecord", "checked_text", "iso_utc"]

SEND_FRAMES = "send_frames"
"""The scope this library asks for: sending frames to the configured endpoint."""

MAX_CHARS = 1024
"""Of a subject, a scope, a version or a name; far above any real one, as in the wire format."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsentRecord:
    """One consent that was given, and what became of it.

    Raises:
        ConfigurationError: If a text is empty or a time has no time zone.
    """

    subject: str
    """Who agreed: your own name for a person or a session, better a pseudonym than a name."""
    scope: str
    """What was agreed to, such as `SEND_FRAMES`."""
    version: str
    """Which version of the text was shown to the subject."""
    recorded_by: str
    """Who or what recorded it, such as ``consent-screen``."""
    granted_at: datetime
    """When, in UTC."""
    expires_at: datetime | None = None
    """Until when it holds; `None` until it is withdrawn."""
    providers: frozenset[str] | None = None
    """The providers it is for, such as ``aws``; `None` for all that frames are sent to. A consent
    has to name its recipients where they are known (GDPR, Articles 4(11) and 13(1)(e))."""
    regions: frozenset[str] | None = None
    """The regions it is for, such as ``eu-west-1``; `None` for all."""
    withdrawn_at: datetime | None = None
    """When it was withdrawn; `None` if it was not."""
    withdrawn_by: str | None = None
    """Who or what recorded the withdrawal."""

    def __post_init__(self) -> None:
        for name in ("subject", "scope", "version", "recorded_by"):
            checked_text(getattr(self, name), name)
        for name in ("granted_at", "expires_at", "withdrawn_at"):
            object.__setattr__(self, name, _in_utc(getattr(self, name), name))
        for name in ("providers", "regions"):
            object.__setattr__(self, name, _names(getattr(self, name), name))
        if self.expires_at is not None and self.expires_at <= self.granted_at:
            msg = f"expires_at: expected a time after the grant, got {self.expires_at.isoformat()}"
            raise ConfigurationError(msg)

    def denied_reason(
        self, *, scope: str, version: str, now: datetime, destination: Destination | None = None
    ) -> str:
        """Why it does not allow `scope` at `now`, in words a person can read; empty if it does.

        Args:
            scope: What is about to be done.
            version: The version of the text that has to have been shown.
            now: The time, with its time zone.
            destination: Where a frame would go; `None` if that is not asked.
        """
        if self.withdrawn_at is not None:  # at any time of the clock
            return f"consent was withdrawn at {iso_utc(self.withdrawn_at)}"
        if self.scope != scope:
            return f"consent was given for {self.scope!r}, not for {scope!r}"
        if self.version != version:
            return f"consent was given to version {self.version!r} of the text, not {version!r}"
        if not isinstance(now, datetime) or now.utcoffset() is None:
            return "the time is unknown, so consent may have expired"
        if now < self.granted_at:
            return f"consent is dated {iso_utc(self.granted_at)}, which is still to come"
        if self.expires_at is not None and now >= self.expires_at:
            return f"consent expired at {iso_utc(self.expires_at)}"
        if destination is not None:
            return self._why_not_there(destination)
        return ""

    def recipients(self) -> dict[str, list[str]]:
        """The providers and regions it is for, where it names some."""
        named = {"providers": self.providers, "regions": self.regions}
        return {name: sorted(names) for name, names in named.items() if names is not None}

    def _why_not_there(self, destination: Destination) -> str:
        for rule, allowed, value in (
            ("provider", self.providers, destination.provider),
            ("region", self.regions, destination.region),
        ):
            if allowed is not None and not is_among(value, allowed):
                what = f"the {rule} {value!r}" if value else f"a target that names no {rule}"
                return f"consent was not given for {what}"
        return ""


def checked_text(value: object, name: str) -> None:
    """Raise a `ConfigurationError` unless `value` is a text of 1 to `MAX_CHARS` characters."""
    if not isinstance(value, str) or not 0 < len(value) <= MAX_CHARS:
        actual = f"{len(value)} characters" if isinstance(value, str) else type(value).__name__
        msg = f"{name}: expected a text of 1 to {MAX_CHARS} characters, got {actual}"
        raise ConfigurationError(msg)


def _names(values: Iterable[str] | None, name: str) -> frozenset[str] | None:
    if values is None:
        return None
    names = () if isinstance(values, str) else tuple(values)
    if not names:
        msg = f"{name}: expected a set of names or None, got {values!r}"
        raise ConfigurationError(msg)
    for each in names:
        checked_text(each, name)
    return frozenset(map(same_name, names))


def _in_utc(value: datetime | None, name: str) -> datetime | None:
    if value is None:
        return None
    if not isinstance(value, datetime) or value.utcoffset() is None:
        msg = f"{name}: expected a datetime with a time zone, got {value!r}"
        raise ConfigurationError(msg)
    return value.astimezone(UTC)


def iso_utc(at: datetime) -> str:
    """`at` in UTC, as ISO 8601 spells it."""
    return at.astimezone(UTC).isoformat()

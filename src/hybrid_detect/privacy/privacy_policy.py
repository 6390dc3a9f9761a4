"""What may leave the device, to whom and from where. Pure, and never raising.

What is not known denies: a frame whose privacy cannot be read stays on the device, and so does one
for a host that no rule names, or for a target that does not say its region where regions are named.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Self

from hybrid_detect.destination import Destination, is_among, same_name
from hybrid_detect.errors import ConfigurationError
from hybrid_detect.privacy.consent_record import SEND_FRAMES, ConsentRecord
from hybrid_detect.types import BackendKind

__all__ = ["FramePrivacy", "PrivacyPolicy"]

REMOTE = frozenset({BackendKind.CLOUD, BackendKind.STREAMING})
"""The backends that take a frame off the device. One added later is denied until named."""


class FramePrivacy(StrEnum):
    """What may be done with one frame."""

    DEFAULT = "default"
    """All that the service's policy allows."""
    LOCAL_ONLY = "local_only"
    """It stays on the device, even where the policy allows more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyPolicy:
    """Says for each frame whether a backend may have it.

    As it stands without arguments, frames may go to the endpoint the app has configured, and
    nowhere while there is none.

    Raises:
        ConfigurationError: If a host is not a plain host name, if a backend is no remote one, or if
            consent is required but not to which version of the text.
    """

    may_leave: bool = True
    """Whether any frame may leave the device at all."""
    backends: frozenset[BackendKind] = REMOTE
    """The remote backends that may be used."""
    hosts: frozenset[str] | None = None
    """The hosts a frame may go to, such as ``faces.example.com``; `None` for the one the app
    has configured."""
    allowed_providers: frozenset[str] | None = None
    """The providers a frame may go to, such as ``aws``; `None` for all that are configured. A
    target of another one is never asked: not for its health or its keys either."""
    allowed_regions: frozenset[str] | None = None
    """The regions a frame may go to, such as ``eu-west-1``, as targets name theirs; `None` for all.
    A target of another region, or of none, is never asked."""
    sources: frozenset[str] | None = None
    """The cameras or sessions, by your own names, whose frames may leave; `None` for all."""
    require_consent: bool = False
    """Whether a frame may leave only while a consent stands."""
    consent_scope: str = SEND_FRAMES
    """What has to have been agreed to."""
    consent_version: str = ""
    """The version of the text that has to have been shown."""

    def __post_init__(self) -> None:
        for name in ("may_leave", "require_consent"):
            if not isinstance(getattr(self, name), bool):
                msg = f"{name}: expected True or False, got {getattr(self, name)!r}"
                raise ConfigurationError(msg)
        backends = _texts(self.backends, "backends")
        if not backends <= REMOTE:
            msg = f"backends: expected some of {sorted(REMOTE)}, got {sorted(backends)}"
            raise ConfigurationError(msg)
        object.__setattr__(self, "backends", frozenset(map(BackendKind, backends)))
        if self.hosts is not None:
            hosts = {host: _host_name(host) for host in _texts(self.hosts, "hosts")}
            for given, host in hosts.items():
                if not host:
                    msg = f"hosts: expected plain host names, got {given!r}"
                    raise ConfigurationError(msg)
            object.__setattr__(self, "hosts", frozenset(hosts.values()))
        for name in ("allowed_providers", "allowed_regions"):
            if (allowed := getattr(self, name)) is not None:
                names = frozenset(map(same_name, _texts(allowed, name)))
                if not all(names):
                    msg = f"{name}: expected names, got an empty one"
                    raise ConfigurationError(msg)
                object.__setattr__(self, name, names)
        if self.sources is not None:
            object.__setattr__(self, "sources", _texts(self.sources, "sources"))
        if self.require_consent and not (self.consent_scope and self.consent_version):
            msg = "require_consent needs consent_version=, the version of the text you show"
            raise ConfigurationError(msg)

    def denied_reason(
        self,
        kind: BackendKind,
        *,
        host: str | None,
        now: datetime,
        provider: str = "",
        region: str = "",
        privacy: FramePrivacy = FramePrivacy.DEFAULT,
        source: str | None = None,
        consent: ConsentRecord | None = None,
    ) -> str:
        """Why a frame may not be given to `kind`, in words a person can read; empty if it may.

        Args:
            kind: The backend. The device may have every frame: nothing leaves by it.
            host: Name of the host that the backend sends to; `None` if none is configured.
            now: The time, with its time zone.
            provider: Whose protocol that host speaks; empty if unknown.
            region: Where it processes frames; empty if unknown.
            privacy: The frame's own.
            source: Name of the frame's camera or session.
            consent: The consent of the person in the frame, as `ConsentLedger.current()` gives it.
        """
        if kind == BackendKind.DEVICE:
            return ""
        if privacy == FramePrivacy.LOCAL_ONLY:
            return "the frame is local_only"
        if privacy != FramePrivacy.DEFAULT:
            return f"the frame's privacy is unknown ({privacy!r})"
        destination = Destination(host=host or "", provider=provider, region=region)
        if why := self.destination_denied_reason(kind, destination):
            return why
        if self.sources is not None and not any(source == name for name in self.sources):
            return f"the privacy policy does not let frames of source {source!r} leave"
        return self._why_no_consent(consent, now, destination)

    def destination_denied_reason(self, kind: BackendKind, destination: Destination) -> str:
        """Why `kind` may send no frame at all to `destination`; empty if it may send some.

        Args:
            kind: The backend.
            destination: Where it would send to. What it does not say is not allowed by any rule.
        """
        if kind == BackendKind.DEVICE:
            return ""
        if why := self.always_denied_reason(kind):
            return why
        if not destination.host:
            return "no endpoint is configured"
        name = _host_name(destination.host)
        if not name or (self.hosts is not None and name not in self.hosts):
            return f"the privacy policy does not allow the host {destination.host!r}"
        for rule, allowed, value in (
            ("provider", self.allowed_providers, destination.provider),
            ("region", self.allowed_regions, destination.region),
        ):
            if allowed is not None and not is_among(value, allowed):
                what = f"the {rule} {value!r}" if value else f"a target that names no {rule}"
                return f"the privacy policy does not allow {what}"
        return ""

    def within(
        self, *, allowed_providers: Iterable[str] | None, allowed_regions: Iterable[str] | None
    ) -> Self:
        """This policy, where it allows no more than these providers and regions do.

        Args:
            allowed_providers: The providers that are allowed; `None` for those of this policy.
            allowed_regions: The regions that are allowed; `None` for those of this policy.
        """
        return replace(
            self,
            allowed_providers=_common(self.allowed_providers, allowed_providers),
            allowed_regions=_common(self.allowed_regions, allowed_regions),
        )

    def always_denied_reason(self, kind: BackendKind) -> str:
        """Why `kind` may have no frame at all; empty if it may have some."""
        if kind == BackendKind.DEVICE:
            return ""
        if not self.may_leave:
            return "the privacy policy lets no frame leave the device"
        if not any(
            kind == backend for backend in self.backends
        ):  # what is unknown may not be hashable
            return f"the privacy policy does not allow the backend {kind!s}"
        return ""

    def _why_no_consent(
        self, consent: ConsentRecord | None, now: datetime, destination: Destination
    ) -> str:
        if not self.require_consent:
            return ""
        if not isinstance(consent, ConsentRecord):
            return f"no consent stands for {self.consent_scope!r}"
        return consent.denied_reason(
            scope=self.consent_scope,
            version=self.consent_version,
            now=now,
            destination=destination,
        )


def _common(one: frozenset[str] | None, other: Iterable[str] | None) -> frozenset[str] | None:
    if other is None:
        return one
    names = frozenset(map(same_name, _texts(other, "allowed_providers, allowed_regions")))
    return names if one is None else one & names


def _texts(values: Iterable[str], name: str) -> frozenset[str]:
    if isinstance(values, str) or not all(isinstance(value, str) for value in values):
        msg = f"{name}: expected a set of texts, got {values!r}"
        raise ConfigurationError(msg)
    return frozenset(values)


def _host_name(host: object) -> str:
    """`host` as it is compared; empty if it is not a plain host name or address.

    ASCII alone: a name with other letters is compared in its ``xn--`` form, since what looks or
    folds alike is not the same host.
    """
    if not isinstance(host, str) or not host.isascii():
        return ""
    name = host.lower().removeprefix("[").removesuffix("]").removesuffix(".")
    allowed = set("abcdefghijklmnopqrstuvwxyz0123456789-._:")
    # A colon is an IPv6 address's, of which there are at least two; one alone is a port's.
    return name if name and set(name) <= allowed and name.count(":") != 1 else ""

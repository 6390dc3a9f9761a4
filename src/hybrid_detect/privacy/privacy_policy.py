"""What may leave the device, to whom and from where. Pure, and never raising.

What is not known denies: a frame whose privacy cannot be read stays on the device, and so does one
for a host that no rule names.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

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
        privacy: FramePrivacy = FramePrivacy.DEFAULT,
        source: str | None = None,
        consent: ConsentRecord | None = None,
    ) -> str:
        """Why a frame may not be given to `kind`, in words a person can read; empty if it may.

        Args:
            kind: The backend. The device may have every frame: nothing leaves by it.
            host: Name of the host that the backend sends to; `None` if none is configured.
            now: The time, with its time zone.
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
        if why := self.always_denied_reason(kind):
            return why
        if host is None or host == "":
            return "no endpoint is configured"
        name = _host_name(host)
        if not name or (self.hosts is not None and name not in self.hosts):
            return f"the privacy policy does not allow the host {host!r}"
        if self.sources is not None and not any(source == name for name in self.sources):
            return f"the privacy policy does not let frames of source {source!r} leave"
        return self._why_no_consent(consent, now)

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

    def _why_no_consent(self, consent: ConsentRecord | None, now: datetime) -> str:
        if not self.require_consent:
            return ""
        if not isinstance(consent, ConsentRecord):
            return f"no consent stands for {self.consent_scope!r}"
        return consent.denied_reason(
            scope=self.consent_scope, version=self.consent_version, now=now
        )


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

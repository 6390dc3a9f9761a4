"""Configuration: frozen values, validated at construction, every default explained.

Nothing here is global. The environment is read in `ServiceConfig.from_env` alone, and what a
caller passes explicitly wins over it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from hybrid_detect.charges import to_nanos
from hybrid_detect.endpoint import Endpoint
from hybrid_detect.environment import ENV_PREFIX, from_text, resolved_targets, warn_of_unknown
from hybrid_detect.errors import ConfigurationError
from hybrid_detect.types import DEFAULT_TARGET_BYTES, DetectionMode, Medium, QualityLevel

__all__ = ["ServiceConfig", "detection_mode", "quality_level"]

AUTO_MODEL = "auto"
"""The on-device model that suits this device."""

DEFAULT_DEADLINE_S = 1.0
"""An answer older than a second is of no use to an overlay."""

DEFAULT_MIN_CONFIDENCE = 0.5
"""For what needs a number and has none of its own: MediaPipe's own ``min_detection_confidence``."""

DEFAULT_TARGET_FILE_SIZE_KB = DEFAULT_TARGET_BYTES // 1024
"""`DEFAULT_TARGET_BYTES` in units of 1024 bytes."""

DEFAULT_QUALITY = 80
"""The upper of the mission's two JPEG presets (slow link 50, good link 80)."""

DEFAULT_MAX_SIDE_PX = 1280
"""The longer side of the mission's 1280x720 frame."""

DEFAULT_DEVICE_ACCURACY = 0.8
"""Between a selfie, of which the device finds as many faces as the server, and a crowd, of which it
finds none (`docs/explanation/choosing.md`)."""

DEFAULT_DEVICE_COST = 0.03
"""Of a Raspberry Pi 5; a desktop's is nearer 0.01, a slow phone's 0.06. Assumed, as in the
project's simulator."""

DEFAULT_NAMES_KEPT_S = 24 * 3600.0
"""As long as results are kept by default."""

MAX_USER_REGION_CHARS = 32
"""A country or a part of the world; more would be an address."""

MAX_NAME_CHARS = 1024
"""Of a session or a user: what the wire format and the file of costs take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceConfig:
    """Everything `HybridDetectionService` can be told.

    Raises:
        ConfigurationError: If a value is outside its range.
    """

    endpoint: str | None = None
    """URL of the detection server; `None` is the public address of a provider that has one, and
    otherwise leaves the device as the only backend."""
    provider: Any = "custom_backend"
    """Whose protocol the cloud backend speaks: ``custom_backend`` is this project's own server,
    ``json_endpoint`` any that answers in JSON, ``google``, ``aws`` and so on. In code also a
    `Protocol` of your own."""
    provider_options: Mapping[str, Any] | None = field(default=None, repr=False)
    """The provider's own settings; in the environment a JSON object."""
    auth_token: str | Callable[[], Any] | None = field(default=None, repr=False)
    """Bearer token for the server, or in code a function (sync or async) that gives one; never
    logged."""
    api_key: str | Callable[[], Any] | None = field(default=None, repr=False)
    """API key instead of a bearer token, for providers that have one; never logged."""
    credentials: Any = field(default=None, repr=False)
    """In code alone: what else a provider takes, such as `AwsKeys`, or a function that gives them;
    never logged."""
    region: str = ""
    """Where the server at `endpoint` processes pictures, such as ``eu-west-1``; for
    `allowed_regions`, and for what events and status tell."""
    targets: Sequence[Any] = field(default=(), repr=False)
    """Several servers, or regions, or providers, that the cloud backend asks in their place: each a
    mapping of a target's settings, or in code a `Target`. With them, `endpoint` is the stream's
    alone. In the environment a JSON list; see the how-to on several targets."""
    allowed_providers: Collection[str] | None = None
    """The providers that may get a picture; `None` for all that are configured. A target of another
    one is never asked. In the environment parted by commas."""
    allowed_regions: Collection[str] | None = None
    """The regions that may get a picture; `None` for all that are configured. A target of another
    one, or of none, is never asked. In the environment parted by commas."""
    mode: DetectionMode | str = DetectionMode.AUTO
    """Which backends may be used and in which order: a `DetectionMode`, or its name."""
    session_id: str | None = None
    """Your own name for this run of the app, of at most 1024 characters; sent with every frame,
    repeated in every result."""
    deadline_s: float = DEFAULT_DEADLINE_S
    """Seconds each frame has, everything included."""
    min_confidence: float | None = None
    """Faces below this score are left out, 0 to 1; `None` for the threshold at which the model that
    looks is at its best. A face without a score, as Azure gives, stays."""
    target_file_size_kb: float = DEFAULT_TARGET_FILE_SIZE_KB
    """The most a compressed frame may weigh, in units of 1024 bytes."""
    quality: int = DEFAULT_QUALITY
    """Highest JPEG quality worth sending, 1 to 95."""
    server_quality: QualityLevel | str | None = None
    """How thoroughly a server of this project is to look: ``fast``, ``high`` or ``max``; `None`
    leaves it to the server. It may look less thoroughly to keep a deadline, and says so."""
    server_second_look: bool = False
    """Whether such a server looks again at the picture turned by 90, 180 and 270 degrees if it
    found no face and has the time: for cameras that may lie on their side."""
    max_side_px: int | None = DEFAULT_MAX_SIDE_PX
    """Longest side sent to a remote backend, in pixels; `None` sends the full size."""
    max_pixels: int | None = None
    """The most pixels that an image may have; `None` for 64 million, and for a `Frame` the limit
    that it was made under. Some phones have sensors of 108 and 200 million."""
    model: str = AUTO_MODEL
    """The on-device model: a name from ``hybrid-detect models list``, or ``auto`` for
    ``full_range`` where a look takes a third of a frame's time at most, else ``short_range``; on a
    desktop with four cores, no battery, 2 GiB to spare, ONNX Runtime and no `memory_budget_bytes`,
    ``centerface``."""
    model_path: Path | None = None
    """A model file to use instead of looking for one; it must be the published file of `model`."""
    model_fetch: bool = True
    """Whether a missing model may be fetched from the network."""
    runtime: str = "auto"
    """What runs the model on the device: ``litert``, ``mediapipe``, which takes more memory, or
    ``auto`` for the first of them that is installed and runs on this processor."""
    device_quality: QualityLevel | str = QualityLevel.FAST
    """How thoroughly the device looks at a frame whose deadline leaves the time: ``fast`` once,
    ``high`` also turned where nothing was found, ``max`` also in tiles, which find faces a third as
    high at nine times the cost. The result says which it was."""
    isolation: str = "process"
    """Where the detector lives: in a ``process`` of its own, or (``none``) in the app's."""
    memory_budget_bytes: int | None = None
    """The most that the app and its children may hold before the device's detector is unloaded;
    `None` for whatever the system or the cgroup has."""
    device_accuracy: float = DEFAULT_DEVICE_ACCURACY
    """What the device's answers are worth beside the server's, 0 to 1, until a stream's answers
    show which share of its faces the device finds, and always for pictures outside a stream."""
    device_cost: float = DEFAULT_DEVICE_COST
    """What looking once on the device costs (energy, heat), in perfect answers."""
    metered: bool = False
    """Whether bytes cost the user money on this network."""
    medium: Medium | str | Callable[[], Any] | None = None
    """What carries the network's first hop, which decides what sending costs in energy: ``wired``,
    ``wifi``, ``cellular`` or ``unknown``, or in code a function that gives one of them, or `None`
    where it cannot tell. `None` leaves it to the system, which tells on Linux; elsewhere it is
    unknown, and sending then costs no energy."""
    price_per_frame: float | None = None
    """What a picture costs at targets without a price of their own; `None` for the provider's list
    price, which is 0 for a server of your own."""
    currency: str = "USD"
    """What the budgets and `price_per_frame` are counted in."""
    budget_per_hour: float | None = None
    """The most that may be spent in an hour of UTC; then what costs money is not used until the
    next one. Backends and targets at a price of 0 still are."""
    budget_per_day: float | None = None
    """The same for a day of UTC."""
    budget_per_month: float | None = None
    """The same for a calendar month of UTC."""
    spend_cap: float | None = None
    """The same for as long as the service is open."""
    costs_path: Path | None = None
    """Where what was spent is kept; processes that name the same file share its budgets. `None`
    keeps nothing: then each budget begins at 0 with each service."""
    user_id: str | None = None
    """Whose costs are kept in that file, if that is not `session_id`; never sent anywhere."""
    user_region: str = ""
    """Where the user is, as coarsely as the report is to tell it, such as ``DE`` or ``Europe``:
    kept in that file beside the sums, never derived by this library and never sent anywhere."""
    names_kept_s: float = DEFAULT_NAMES_KEPT_S
    """Seconds for which that file tells apart whose the sums are; then they stay without names."""
    allow_insecure_http: bool = False
    """Whether plain ``http`` may leave this machine. Pictures and token would be readable."""
    server_public_key: str | None = field(default=None, repr=False)
    """The server's key, or the name of a file with it, as ``hybrid-detect keys show`` prints it.
    With it, pictures are encrypted to the server, and never sent unencrypted."""
    trust_on_first_use: bool = False
    """Whether to encrypt to the key the server gives when it is first met, and to that key and its
    successors from then on. An attacker between the two at that moment can pass for the server."""
    known_keys_path: Path | None = None
    """Where keys trusted on first use are kept; below the home folder if `None`."""

    ca_file: Path | str | None = None
    """Certificates (PEM) of the CA that the server's must come from, in place of the system's."""
    client_cert: Path | str | None = None
    """Certificate (PEM) to show to a server that asks for one (mTLS), with those up to its CA."""
    client_key: Path | str | None = None
    """Its private key (PEM), not encrypted."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "mode", detection_mode(self.mode))
        if self.server_quality is not None:
            object.__setattr__(self, "server_quality", quality_level(self.server_quality))
        object.__setattr__(self, "device_quality", quality_level(self.device_quality))
        for name in ("deadline_s", "names_kept_s"):
            value = getattr(self, name)
            _check(0 < value < math.inf, name, "seconds above 0", value)
        for name in ("session_id", "user_id"):
            value = getattr(self, name)
            is_name = value is None or (isinstance(value, str) and len(value) <= MAX_NAME_CHARS)
            # Told by its size: it may be the name of a person.
            actual = f"{len(value)}" if isinstance(value, str) else type(value).__name__
            _check(is_name, name, f"a text of at most {MAX_NAME_CHARS} characters", actual)
        _check(
            len(self.user_region) <= MAX_USER_REGION_CHARS and self.user_region.isprintable(),
            "user_region",
            f"at most {MAX_USER_REGION_CHARS} printable characters",
            self.user_region,
        )
        lowest = self.min_confidence
        _check(lowest is None or 0 <= lowest <= 1, "min_confidence", "0 to 1", lowest)
        _check(
            0 < self.target_file_size_kb < math.inf,
            "target_file_size_kb",
            "above 0",
            self.target_file_size_kb,
        )
        _check(1 <= self.quality <= 95, "quality", "1 to 95", self.quality)
        _check(
            self.max_side_px is None or self.max_side_px > 0,
            "max_side_px",
            "above 0",
            self.max_side_px,
        )
        _check(
            self.max_pixels is None or self.max_pixels > 0, "max_pixels", "above 0", self.max_pixels
        )
        _check(
            self.isolation in {"process", "none"}, "isolation", "process or none", self.isolation
        )
        _check(
            self.memory_budget_bytes is None or self.memory_budget_bytes > 0,
            "memory_budget_bytes",
            "above 0",
            self.memory_budget_bytes,
        )
        for name in ("device_accuracy", "device_cost"):
            _check(0 <= getattr(self, name) <= 1, name, "0 to 1", getattr(self, name))
        for name in _AMOUNTS:
            if (value := getattr(self, name)) is not None:
                to_nanos(value, name=name)
        _check(
            not (self.server_public_key and self.trust_on_first_use),
            "trust_on_first_use",
            "one of it and server_public_key",
            "both",
        )
        _check(
            self.auth_token is None or self.api_key is None,
            "api_key",
            "one of it and auth_token",
            "both",
        )
        is_sealed = bool(self.server_public_key or self.trust_on_first_use)
        for provider in (self.provider, *map(_provider_of, self.targets)):
            _check(
                provider == "custom_backend" or not is_sealed,
                "provider",
                "custom_backend where pictures are encrypted: no other server opens them",
                provider,
            )
        _check(
            not self.targets or self.provider == "custom_backend",
            "provider",
            "none beside targets, each of which names its own",
            self.provider,
        )
        for name in ("allowed_providers", "allowed_regions"):
            allowed = getattr(self, name)
            is_set = allowed is None or not isinstance(allowed, str)
            is_names = is_set and all(isinstance(each, str) for each in allowed or ())
            _check(is_names, name, "a set of names", allowed)
        is_targets = not isinstance(self.targets, str | Mapping)
        _check(is_targets, "targets", "a list", type(self.targets).__name__)
        object.__setattr__(self, "targets", tuple(self.targets))
        if self.medium is not None and not callable(self.medium):
            names = ", ".join(Medium)
            is_medium = self.medium in list(Medium)
            _check(is_medium, "medium", f"one of {names}, or a function", self.medium)
        if self.endpoint is not None:
            Endpoint.parse(self.endpoint, allow_insecure_http=self.allow_insecure_http)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **explicit: Any) -> Self:
        """Read ``HYBRID_DETECT_ENDPOINT``, ``_AUTH_TOKEN``, ``_MODE``, ``_DEADLINE_S`` and so on.

        A variable that starts like these and is no setting is named in a warning, with the setting
        that it resembles: a misspelt one would be without effect otherwise.

        Args:
            environ: The environment to read; the process's own if `None`.
            **explicit: Fields given by the caller; these win.

        Raises:
            ConfigurationError: If a variable cannot be read as its field's type.
        """
        environ = os.environ if environ is None else environ
        values: dict[str, Any] = {}
        for spec in fields(cls):
            text = environ.get(ENV_PREFIX + spec.name.upper())
            if text and spec.name not in explicit:
                values[spec.name] = from_text(spec.name, str(spec.type), text)
        read: frozenset[str] = frozenset()
        if "targets" in values:
            values["targets"], read = resolved_targets(values["targets"], environ)
        warn_of_unknown(environ, {spec.name for spec in fields(cls)}, also=read)
        return cls(**values, **explicit)


_AMOUNTS = (
    "price_per_frame",
    "budget_per_hour",
    "budget_per_day",
    "budget_per_month",
    "spend_cap",
)
"""The fields that are amounts of money."""


def _provider_of(target: Any) -> Any:
    if isinstance(target, Mapping):
        return target.get("provider", "custom_backend")
    return getattr(target, "provider", None)


def detection_mode(value: str) -> DetectionMode:
    """The mode called `value`.

    Raises:
        ConfigurationError: If there is none.
    """
    try:
        return DetectionMode(value)
    except ValueError:
        names = ", ".join(mode.value for mode in DetectionMode)
        msg = f"mode: expected one of {names}, got {value!r}"
        raise ConfigurationError(msg) from None


def quality_level(value: str) -> QualityLevel:
    """The level called `value`.

    Raises:
        ConfigurationError: If there is none.
    """
    try:
        return QualityLevel(value)
    except ValueError:
        msg = f"quality: expected one of {', '.join(QualityLevel)}, got {value!r}"
        raise ConfigurationError(msg) from None


def _check(condition: bool, name: str, expected: str, actual: object) -> None:
    if not condition:
        msg = f"{name}: expected {expected}, got {actual!r}"
        raise ConfigurationError(msg)

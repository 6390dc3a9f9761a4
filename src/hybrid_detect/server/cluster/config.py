"""Configuration of a cluster: a small TOML file."""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from hybrid_detect.errors import ConfigurationError

__all__ = ["LOCAL", "MAX_REPLICAS", "ClusterConfig", "read_cluster_file"]

LOCAL = "local"
"""The address of a Ray of one's own, on this machine, which ends with the command."""

MAX_FILE_BYTES = 64 * 1024
"""A hundred times what all settings with comments take."""

MAX_REPLICAS = 1000
"""HAProxy keeps a place for each, and asks each for its health twice a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterConfig:
    """How many replicas there are, and what each of them takes. Every setting has a default.

    Raises:
        ConfigurationError: If a value is of another type or out of range.
    """

    address: str = LOCAL
    """The Ray cluster: ``local`` starts one on this machine, ``auto`` joins the one that runs on
    it, anything else is the address of its head, such as ``10.0.0.5:6379``."""
    min_replicas: int = 1
    """Replicas there are at any time."""
    max_replicas: int = 4
    """Replicas there are under load."""
    detectors_per_replica: int = 1
    """Detector processes of a replica, each of which takes a core of the cluster."""
    gpus_per_replica: float = 0.0
    """Graphics processors that a replica takes; a fraction shares one."""
    queue_per_replica: int = 32
    """Pictures that may wait at a replica; more are refused with 503 and Retry-After."""
    streams_per_replica: int = 200
    """Streams that may be open at a replica; more are refused with 503 and Retry-After."""
    work_per_replica: float = 2.0
    """Pictures under way at a replica, waiting ones included, beyond which replicas are added. Two
    for each detector keep it busy, without a queue that is felt."""
    target_latency_s: float = 0.3
    """Seconds from a picture's arrival to its answer, at the 90th percentile, beyond which replicas
    are added, as long as pictures wait: a third of a frame's default deadline."""
    upscale_delay_s: float = 5.0
    """Seconds that more replicas must be wanted before they are started."""
    downscale_delay_s: float = 120.0
    """Seconds that fewer must be wanted before one is ended: its streams have to move."""
    object_store_mib: int = 128
    """Memory for Ray's object store where ``local`` starts Ray, in MiB. Pictures never pass it."""
    metrics_targets: Path | None = None
    """File in which Prometheus finds the replicas (``file_sd_configs``): each serves its own
    metrics, at a port of its own. It is written when replicas come or go; `None` for no metrics."""
    haproxy: Path | None = None
    """The HAProxy to run; `None` takes the one that comes with Ray, or the system's."""

    def __post_init__(self) -> None:
        for field in fields(self):
            self._check(field.name, str(field.type), getattr(self, field.name))
        if not self.address:
            msg = f"address: expected {LOCAL!r}, 'auto' or an address, got nothing"
            raise ConfigurationError(msg)
        for name in (
            "min_replicas",
            "max_replicas",
            "detectors_per_replica",
            "queue_per_replica",
            "streams_per_replica",
        ):
            if getattr(self, name) < 1:
                msg = f"{name}: expected at least 1, got {getattr(self, name)}"
                raise ConfigurationError(msg)
        if not self.min_replicas <= self.max_replicas <= MAX_REPLICAS:
            msg = (
                f"max_replicas: expected {self.min_replicas} (min_replicas) to {MAX_REPLICAS}, "
                f"got {self.max_replicas}"
            )
            raise ConfigurationError(msg)
        for name in ("work_per_replica", "target_latency_s"):
            if not 0 < getattr(self, name) < math.inf:
                msg = f"{name}: expected more than 0, got {getattr(self, name)}"
                raise ConfigurationError(msg)
        for name in ("gpus_per_replica", "upscale_delay_s", "downscale_delay_s"):
            if not 0 <= getattr(self, name) < math.inf:
                msg = f"{name}: expected 0 or more, got {getattr(self, name)}"
                raise ConfigurationError(msg)
        if self.object_store_mib < 75:  # below it Ray refuses to start
            msg = f"object_store_mib: expected at least 75, got {self.object_store_mib}"
            raise ConfigurationError(msg)

    @property
    def is_local(self) -> bool:
        """Whether Ray is started on this machine and ends with the command."""
        return self.address == LOCAL

    @staticmethod
    def _check(name: str, kind: str, value: object) -> None:
        expected: tuple[type, ...] = {
            "int": (int,),
            "float": (int, float),
            "str": (str,),
            "Path | None": (Path, type(None)),
        }[kind]
        if isinstance(value, bool) or not isinstance(value, expected):
            msg = f"{name}: expected {kind}, got {type(value).__name__}"
            raise ConfigurationError(msg)


def read_cluster_file(path: Path) -> ClusterConfig:
    """The configuration in the TOML file at `path`; an empty file has every default.

    Raises:
        ConfigurationError: If it cannot be read, or a setting is unknown or out of range.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        msg = f"cannot read the cluster's settings in {path}: {error.strerror}"
        raise ConfigurationError(msg) from None
    if len(data) > MAX_FILE_BYTES:
        msg = f"{path}: expected at most {MAX_FILE_BYTES} bytes of settings"
        raise ConfigurationError(msg)
    try:
        values: dict[str, Any] = tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:  # TOML or UTF-8
        msg = f"{path} is no TOML: {error}"
        raise ConfigurationError(msg) from None
    known = {field.name for field in fields(ClusterConfig)}
    if unknown := sorted(set(values) - known):
        msg = f"{path}: unknown setting {unknown[0]!r}; there are {', '.join(sorted(known))}"
        raise ConfigurationError(msg)
    for name in ("haproxy", "metrics_targets"):
        if isinstance(values.get(name), str):
            values[name] = Path(values[name])
    try:
        return ClusterConfig(**values)
    except ConfigurationError as error:
        msg = f"{path}: {error}"
        raise ConfigurationError(msg) from None

"""Recorded networks: what a link carried, second by second.

A trace is a CSV file: a line ``# source=... licence=... kind=...``, a header, then rows of
``t_s,down_kbps[,up_kbps][,rtt_ms]``; an empty field was not measured, and a value holds until the
next row.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hybrid_detect.errors import ConfigurationError
from hybrid_detect.types import Medium

__all__ = ["RTT_MODELS", "UPLINK_CAPS_KBPS", "UPLINK_SHARES", "RttModel", "Trace", "read_traces"]

UPLINK_SHARES = {
    "3g": 0.50,
    "4g": 0.35,
    "5g": 0.15,
    "wifi": 0.50,
    "broadband": 1.0,
    "mixed": 1.0,
    "starlink": 0.08,
}
"""Uplink as a share of the downlink, by kind of network, for traces without a measured uplink.

Sources: the recordings that have both, which are Mahimahi's LTE and UMTS drives (0.2 to 1.2),
the NUWiNS 4G/5G drives (0.15) and Starlink on the Autobahn (0.08). 1.0 takes the downlink of a
slow line as an uplink process of its own; WiFi's is assumed."""

UPLINK_CAPS_KBPS = {"5g": 60e3, "wifi": 20e3}
"""Most that the scaled uplink may carry: the NUWiNS 5G drives, and a home's line behind its WiFi
(assumed)."""


@dataclass(frozen=True, slots=True)
class RttModel:
    """Round trips of a kind of network, for traces without measured ones.

    A log-normal median for the trace, an AR(1) process of the logarithm around it, and spikes.
    Source: medians and tails follow the pings of the NUWiNS drives (AT&T, Verizon, Starlink).
    """

    median_ms: float
    between_traces: float
    """Standard deviation of the median's logarithm."""
    within_trace: float
    """Standard deviation of the logarithm around the median."""
    spikes_per_s: float
    spike_factor: float
    """Mean factor of a spike."""


RTT_MODELS = {
    "3g": RttModel(100, 0.15, 0.25, 0.02, 4),
    "4g": RttModel(55, 0.15, 0.22, 0.02, 4),
    "5g": RttModel(45, 0.15, 0.20, 0.02, 4),
    "wifi": RttModel(25, 0.2, 0.25, 0.03, 4),
    "broadband": RttModel(30, 0.2, 0.10, 0.005, 3),
    "mixed": RttModel(40, 0.3, 0.15, 0.01, 3),
    "starlink": RttModel(45, 0.05, 0.25, 0.006, 3),
}
"""By kind of network."""


MEDIA = {
    "3g": Medium.CELLULAR,
    "4g": Medium.CELLULAR,
    "5g": Medium.CELLULAR,
    "wifi": Medium.WIFI,
    "broadband": Medium.WIRED,
    "mixed": Medium.UNKNOWN,
    "starlink": Medium.WIFI,
}
"""What carries the device's first hop, by kind of network. A dish brings its own WiFi; the viewers
of the sessions in ``mixed`` had all kinds."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trace:
    """One recording. The arrays have one value for each row; NaN was not measured."""

    name: str
    """Also the seed of what the simulator draws for it."""
    kind: str
    """A key of `UPLINK_SHARES`."""
    t_s: NDArray[np.float64]
    """Seconds from its beginning, rising."""
    down_kbps: NDArray[np.float64] | None = None
    up_kbps: NDArray[np.float64] | None = None
    rtt_ms: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        if self.kind not in UPLINK_SHARES:
            known = ", ".join(UPLINK_SHARES)
            msg = f"{self.name}: expected a kind of network ({known}), got {self.kind!r}"
            raise ConfigurationError(msg)
        if len(self.t_s) < 2 or not np.all(np.diff(self.t_s) >= 0) or self.t_s[-1] < 2:
            msg = f"{self.name}: expected rows of rising time over 2 s and more"
            raise ConfigurationError(msg)
        uplink = self.uplink_kbps()
        if len(uplink) != len(self.t_s) or not np.all(np.isfinite(uplink) & (uplink >= 0)):
            msg = f"{self.name}: expected a throughput of 0 or more in every row"
            raise ConfigurationError(msg)

    @property
    def has_uplink(self) -> bool:
        """Whether the uplink was measured; else it is scaled from the downlink."""
        return self.up_kbps is not None

    @property
    def medium(self) -> Medium:
        """What carries the device's first hop."""
        return MEDIA[self.kind]

    def uplink_kbps(self) -> NDArray[np.float64]:
        """What the uplink carries, in kbit/s.

        Raises:
            ConfigurationError: If the trace has no throughput at all.
        """
        if self.up_kbps is not None:
            return self.up_kbps
        if self.down_kbps is None:
            msg = f"{self.name}: expected a column down_kbps or up_kbps"
            raise ConfigurationError(msg)
        cap = UPLINK_CAPS_KBPS.get(self.kind, 1e9)
        return np.minimum(self.down_kbps * UPLINK_SHARES[self.kind], cap)


def read_traces(path: Path | str) -> list[Trace]:
    """The trace in the file `path`, or those in the folder `path`, by name.

    Raises:
        ConfigurationError: If there is none, or one that cannot be read.
    """
    path = Path(path)
    files = sorted(path.glob("*.csv")) if path.is_dir() else [path]
    if not files:
        msg = f"{path}: expected a folder with traces (*.csv), found none"
        raise ConfigurationError(msg)
    return [_read(file) for file in files]


def _read(file: Path) -> Trace:
    try:
        first, header, *rows = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        msg = f"{file}: cannot be read: {error.strerror}"
        raise ConfigurationError(msg) from None
    except ValueError:
        msg = f"{file}: expected a line of comment, a header and rows"
        raise ConfigurationError(msg) from None
    facts = dict(word.split("=", 1) for word in first.lstrip("# ").split() if "=" in word)
    names = header.split(",")
    if "t_s" not in names or "kind" not in facts:
        msg = f"{file}: expected 'kind=...' in the first line and a column t_s"
        raise ConfigurationError(msg)
    try:
        table = np.array(
            [[float(field) if field else np.nan for field in row.split(",")] for row in rows]
        ).reshape(len(rows), len(names))
    except ValueError:
        msg = f"{file}: expected {len(names)} numbers or empty fields in each row"
        raise ConfigurationError(msg) from None
    columns = {name: table[:, index] for index, name in enumerate(names)}
    return Trace(
        name=file.stem,
        kind=facts["kind"],
        t_s=columns["t_s"],
        down_kbps=columns.get("down_kbps"),
        up_kbps=columns.get("up_kbps"),
        rtt_ms=columns.get("rtt_ms"),
    )

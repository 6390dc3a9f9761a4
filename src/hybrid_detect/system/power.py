"""Energy and heat, as far as the platform tells: battery, power supply, a processor slowed down.

What the platform does not say is `None`, and no reading ever raises: this is only a hint to a
policy.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from hybrid_detect.system.cgroups import read_text
from hybrid_detect.types import PowerConditions

__all__ = ["PowerProbe", "system_battery"]

MAX_AGE_S = 10.0
"""A reading is kept for so long: charge and heat take longer than that to change."""

PI_SLOWED_DOWN = 0b1110
"""Bits of a Raspberry Pi's flag: the clock is capped (1), throttled (2), or at the soft temperature
limit (3). Bit 0, too low a voltage, slows nothing down by itself, and from 16 on they tell what
happened since the start. Source: Raspberry Pi documentation, ``vcgencmd get_throttled``."""

COOLS_BY_SLOWING = ("Processor", "cpufreq-", "thermal-cpufreq-")
"""Starts of the types of Linux' cooling devices that slow a processor down; others are fans.
Source: Linux, ``drivers/acpi/processor_driver.c`` and ``drivers/thermal/cpufreq_cooling.c``."""

MIN_TRIP_C = 50.0
"""Trip points below are placeholders that firmware left there: a processor idles at that."""


def system_battery() -> tuple[float, bool | None] | None:
    """Charge (0 to 1) and whether the supply is plugged in; `None` without a battery."""
    # Of the platforms where psutil lacks the function, it lacks the name as well.
    with suppress(psutil.Error, OSError, RuntimeError, ValueError, AttributeError):
        if (found := psutil.sensors_battery()) is not None and math.isfinite(found.percent):
            return min(max(found.percent / 100, 0.0), 1.0), found.power_plugged
    return None


class PowerProbe:
    """Reads energy and heat, at most every `MAX_AGE_S`.

    The first of these that is there tells whether the processor is slowed down: a Raspberry Pi's
    flag, the counters of an Intel processor (from the second reading on, as they only grow), the
    cooling devices that slow processors down, the passive trip points of the thermal zones.

    Args:
        root: Where the system's files lie; tests bring their own.
        clock: Monotonic seconds.
        battery: Tells charge (0 to 1) and whether the supply is plugged in.
    """

    def __init__(
        self,
        *,
        root: Path = Path("/"),
        clock: Callable[[], float] = time.monotonic,
        battery: Callable[[], tuple[float, bool | None] | None] = system_battery,
    ) -> None:
        self._sys = root / "sys"
        self._clock = clock
        self._battery = battery
        self._read_s = -math.inf
        self._last = PowerConditions()
        self._slowdowns: int | None = None

    def read(self) -> PowerConditions:
        """How energy and heat stand now, or stood up to `MAX_AGE_S` ago. Never raises."""
        now_s = self._clock()
        if now_s - self._read_s >= MAX_AGE_S:
            self._read_s = now_s
            charge, plugged = self._battery() or (None, None)
            self._last = PowerConditions(
                battery=charge,
                on_battery=None if plugged is None else not plugged,
                throttled=self._throttled(),
            )
        return self._last

    def _throttled(self) -> bool | None:
        for sensor in (self._flag, self._counters, self._cooling_devices, self._trip_points):
            if (answer := sensor()) is not None:
                return answer
        return None

    def _flag(self) -> bool | None:
        """A Raspberry Pi's; its firmware's device is called differently on each model."""
        for path in self._glob("devices/platform/soc*/soc*:firmware/get_throttled"):
            if (flags := _number(read_text(path), base=16)) is not None:
                return bool(flags & PI_SLOWED_DOWN)
        return None

    def _counters(self) -> bool | None:
        counters = self._glob("devices/system/cpu/cpu[0-9]*/thermal_throttle/*_throttle_count")
        counts = [_number(read_text(path)) for path in counters]
        if not (known := [count for count in counts if count is not None]):
            return None
        before, self._slowdowns = self._slowdowns, sum(known)
        return None if before is None else self._slowdowns > before

    def _cooling_devices(self) -> bool | None:
        states = [
            _number(read_text(device / "cur_state"))
            for device in self._glob("class/thermal/cooling_device*")
            if read_text(device / "type").startswith(COOLS_BY_SLOWING)
        ]
        known = [state for state in states if state is not None]
        return any(state > 0 for state in known) if known else None

    def _trip_points(self) -> bool | None:
        answer = None
        for zone in self._glob("class/thermal/thermal_zone*"):
            heat = _number(read_text(zone / "temp"))
            for kind in self._glob(f"class/thermal/{zone.name}/trip_point_*_type"):
                if heat is None or read_text(kind).strip() != "passive":
                    continue
                trip = _number(read_text(kind.with_name(kind.name.replace("_type", "_temp"))))
                if trip is not None and trip >= 1000 * MIN_TRIP_C:
                    answer = bool(answer) or heat >= trip
        return answer

    def _glob(self, pattern: str) -> list[Path]:
        try:
            return sorted(self._sys.glob(pattern))
        except OSError:
            return []


def _number(text: str, *, base: int = 10) -> int | None:
    """The integer in a file of the kernel's; `None` if there is something else."""
    text = text.strip()
    try:
        return int(text, base) if text.isascii() and len(text) < 20 else None
    except ValueError:
        return None

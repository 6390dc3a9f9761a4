"""What a memory budget tells: sizes as text, where and how fast memory rose, the report.

Pure: numbers in, words out.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

from hybrid_detect.errors import ConfigurationError

__all__ = [
    "MB",
    "MemoryReport",
    "megabytes",
    "parse_size",
    "slope",
    "steepest_tenth",
    "text_curve",
]

MB = 1_000_000
"""The unit of everything that is printed: 1 MB = 1,000,000 bytes, as on a disk's label."""

SLOPE_POINTS = 100
"""Points whose pairs make the slope: 4950 pairs take 2 ms."""

EVEN_RATIO = 0.2
"""A rise whose steepest tenth has less than a fifth of it has no place worth pointing at."""

_UNITS = {
    "b": 1, "kb": 1000, "mb": MB, "gb": 1000 * MB,
    "kib": 1024, "mib": 1024**2, "gib": 1024**3,
}  # fmt: skip


def parse_size(size: str | int) -> int:
    """Bytes from ``"10 MB"`` (10,000,000), ``"10MiB"`` (10,485,760) or a number of bytes.

    Raises:
        ConfigurationError: If it is none of these.
    """
    if isinstance(size, int) and not isinstance(size, bool) and size >= 0:
        return size
    if isinstance(size, str):
        found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kmg]i?b|b)", size.strip().lower(), re.ASCII)
        if found:
            return round(float(found[1]) * _UNITS[found[2]])
    msg = f"expected a size like '10 MB', '10 MiB' or a number of bytes, got {size!r}"
    raise ConfigurationError(msg)


def megabytes(size: float, *, sign: bool = False) -> str:
    """`size` in bytes as text in MB, with a sign if asked for."""
    return f"{size / MB:{'+' if sign else ''}.2f} MB"


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryReport:
    """What was measured. All sizes in bytes; peak and growth are above the baseline."""

    limit_bytes: int
    calls: int
    """Calls measured, without the warm-up."""
    warm_up: int
    baseline_bytes: int
    """What was held after the warm-up, garbage collected."""
    peak_bytes: int
    """The most that was held at any moment; the control's is subtracted."""
    peak_call: int
    growth_bytes: int
    """What more was held at rest at the end than after the warm-up; the control's is subtracted."""
    slope_bytes_per_1000: float
    """Rise for 1000 calls: the median over all pairs of points (Theil-Sen), so that neither a
    single step nor the saw teeth of the garbage collector count as a leak."""
    curve: tuple[tuple[int, int], ...]
    """Call, and the highest level up to it, above the baseline; nothing is subtracted."""
    levels: tuple[tuple[int, int], ...]
    """Call, and the level after it, above the baseline; nothing is subtracted."""
    highest_level_bytes: int
    """The highest of all levels between calls, above the baseline; nothing is subtracted."""
    stopped_early: bool
    measured: str
    """What was measured, and how."""
    control: MemoryReport | None = None
    """The test's own part, already subtracted."""

    @property
    def passed(self) -> bool:
        """Whether peak and growth stayed inside the budget."""
        return max(self.peak_bytes, self.growth_bytes) <= self.limit_bytes

    @property
    def _where(self) -> str:
        if self.peak_bytes <= self.limit_bytes or self.highest_level_bytes > self.limit_bytes:
            return f"at call {self.peak_call}"
        # Only the kernel's mark has seen it, and that tells no file from other memory.
        return f"inside call {self.peak_call}, files and shared memory it mapped there included"

    def __str__(self) -> str:
        limit = megabytes(self.limit_bytes)
        if self.passed:
            head = f"memory stayed inside its budget of {limit} (1 MB = 1,000,000 bytes)"
        else:
            head = f"memory grew past its budget of {limit} (1 MB = 1,000,000 bytes)"
        rows = [
            ("measured", self.measured),
            ("baseline", f"{megabytes(self.baseline_bytes)} after {self.warm_up} calls of warm-up"),
            ("peak", f"{megabytes(self.peak_bytes, sign=True)} {self._where}"),
            (
                "growth",
                f"{megabytes(self.growth_bytes, sign=True)} at rest after {self.calls} calls",
            ),
            ("slope", f"{megabytes(self.slope_bytes_per_1000, sign=True)} per 1000 calls"),
            ("rose", steepest_tenth(self.levels)),
        ]
        if self.control is not None:
            own = self.control
            peak, growth = megabytes(own.peak_bytes), megabytes(own.growth_bytes)
            rows.append(("control", f"peak {peak}, growth {growth}: subtracted above"))
        if self.stopped_early:
            rows.append(("stopped", f"after {self.calls} calls, far over the budget"))
        lines = [f"  {name:<9} {text}" for name, text in rows]
        return "\n".join((head, *lines, "", text_curve(self.curve)))


def slope(points: Sequence[tuple[int, int]]) -> float:
    """Bytes a call: the median of the slopes between all pairs of (thinned) `points`.

    Source:
        P. K. Sen, "Estimates of the Regression Coefficient Based on Kendall's Tau", 1968.
    """
    step = -(-len(points) // SLOPE_POINTS) or 1
    pairs = combinations(points[::step], 2)
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in pairs if b[0] != a[0]]
    return statistics.median(slopes) if slopes else 0.0


def steepest_tenth(levels: Sequence[tuple[int, int]]) -> str:
    """Which tenth of the calls the level rose most in, in words."""
    last = levels[-1][0]
    edges = [last * tenth // 10 for tenth in range(11)]
    at_edge = [max(point for point in levels if point[0] <= edge)[1] for edge in edges]
    rises = [after - before for before, after in pairwise(at_edge)]
    most = max(rises)
    if most <= 0:
        return "nowhere"
    if most <= EVEN_RATIO * sum(rises):
        return f"evenly, {megabytes(at_edge[-1], sign=True)} in all"
    tenth = rises.index(most)
    calls = f"calls {edges[tenth] + 1} to {edges[tenth + 1]}"
    return f"most in {calls}: {megabytes(most, sign=True)} of {megabytes(at_edge[-1], sign=True)}"


def text_curve(
    curve: Iterable[tuple[int, int]], *, columns: int = 60, rows: int = 8, unit: str = "calls"
) -> str:
    """The curve of (call, bytes) as text: one mark for the highest of each column's calls."""
    points = list(curve)
    last = max(points[-1][0], 1)
    heights: list[int | None] = [None] * columns
    for call, value in points:
        column = min(call * columns // last, columns - 1)
        heights[column] = max(value, heights[column] or value)
    top, bottom = max(0, *(p[1] for p in points)), min(0, *(p[1] for p in points))
    span = max(top - bottom, MB // 10)  # noise of some pages shall look flat
    lines: list[str] = []
    marks: list[int] = []
    before: float = 0
    for height in heights:
        before = before if height is None else height  # fewer points than columns
        marks.append(round((before - bottom) / span * (rows - 1)))
    for row in range(rows - 1, -1, -1):
        at = bottom + span * row / (rows - 1)
        label = megabytes(at, sign=True) if row in {0, rows - 1} else ""
        filled = "".join("*" if m == row else ":" if m > row else " " for m in marks)
        lines.append(f"  {label:>11} |{filled}".rstrip())
    lines.append(f"  {'':>11} +{'-' * columns}")
    lines.append(f"  {'':>12} 0{f'{last} {unit}':>{columns - 1}}")
    return "\n".join(lines)

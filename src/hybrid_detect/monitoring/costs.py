"""What was sent and spent: added up exactly, by hour, user, session, backend, target, provider.

`CostMeter` adds up events in memory; `summarise` groups what it, or a file of costs, holds.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from types import MappingProxyType
from typing import ClassVar

from hybrid_detect.charges import CostKey, CostRow, amount
from hybrid_detect.errors import ConfigurationError
from hybrid_detect.monitoring.events import FrameEvent
from hybrid_detect.monitoring.periods import HOUR_S, Period, hour_of

__all__ = ["DIMENSIONS", "CostMeter", "CostSummary", "summarise"]

MAX_ROWS = 10_000
"""Rows in memory, about 5 MB. Beyond it, those of earlier hours are added up by day, without
their sessions and users."""

_Key = tuple[int, str, str, str, str, str, str, str]
"""The values of a `CostKey`."""

_FRAMES, _REQUESTS, _ANSWERED, _IMAGES, _BYTES, _NANOS = range(6)


class CostMeter:
    """Adds up what frames cost. A hook; may be used from any thread.

    Every request of every event counts, at the price it was told with: answered, failed, hedged
    and retried ones alike. The sums are of whole numbers, so that they are exact.

    Args:
        user_of: The user that a session belongs to, by its name; without it the session is its
            own user.
        max_rows: Rows to hold. See `MAX_ROWS`.
    """

    blocking: ClassVar[bool] = False
    """Called on the event loop, so that figures are never behind."""

    def __init__(
        self, *, user_of: Callable[[str], str] | None = None, max_rows: int = MAX_ROWS
    ) -> None:
        self._user_of = user_of
        self._max_rows = max_rows
        self._lock = threading.Lock()
        self._rows: dict[_Key, list[int]] = {}
        self._hour = -HOUR_S, -1

    def on_frame(self, event: FrameEvent) -> None:
        """Add a frame, and each request that left for it."""
        session = event.session_id or ""
        user = session if self._user_of is None or not session else self._user_of(session)
        backend = event.backend
        frame_figures = None
        with self._lock:
            self._make_room()
            for request in event.requests:
                # A plain tuple equals the `CostKey` of its values, and is made in half the time.
                figures = self._figures(
                    (
                        self._hour_of(request.at_s),
                        session,
                        user,
                        request.backend,
                        request.target,
                        request.provider,
                        request.region,
                        request.currency,
                    )
                )
                figures[_REQUESTS] += 1
                figures[_IMAGES] += request.images
                figures[_BYTES] += request.bytes_sent
                figures[_NANOS] += request.price_nanos
                if request.answered:
                    figures[_ANSWERED] += 1
                    if request.backend == backend:
                        frame_figures = figures
            if frame_figures is None:
                hour = self._hour_of(event.at_s)
                frame_figures = self._figures((hour, session, user, backend or "", "", "", "", ""))
            frame_figures[_FRAMES] += 1

    def _hour_of(self, at_s: float) -> int:
        since_s, hour = self._hour
        if not 0 <= at_s - since_s < HOUR_S:
            hour = hour_of(at_s)
            self._hour = hour * HOUR_S, hour
        return hour

    def _figures(self, key: _Key) -> list[int]:
        figures = self._rows.get(key)
        if figures is None:
            figures = self._rows.setdefault(_plain(key), [0] * 6)
        return figures

    def _make_room(self) -> None:
        """Add up earlier hours by day and without names; all hours if that is not enough."""
        if len(self._rows) < self._max_rows:
            return
        latest = max(hour for hour, *_ in self._rows)
        for all_hours in (False, True):
            rows, self._rows = self._rows, {}
            for key, figures in rows.items():
                hour, _session, _user, *where = key
                if all_hours or hour < latest:
                    key = CostKey(Period.DAY.start(hour), "", "", *where)
                _add(self._rows.setdefault(key, [0] * 6), figures)
            if len(self._rows) < self._max_rows:
                return

    def rows(self) -> tuple[CostRow, ...]:
        """What was added up so far."""
        with self._lock:
            return tuple(_row(key, figures) for key, figures in self._rows.items())

    def summary(self, *by: str) -> list[CostSummary]:
        """What was added up so far, grouped; see `summarise`."""
        return summarise(self.rows(), by=by)

    def take(self) -> tuple[CostRow, ...]:
        """What was added up since the last `take`, to be kept elsewhere; begin again at zero."""
        with self._lock:
            rows, self._rows = self._rows, {}
        return tuple(_row(key, figures) for key, figures in rows.items())

    def add(self, rows: Iterable[CostRow]) -> None:
        """Add what was added up elsewhere, or taken and could not be kept."""
        with self._lock:
            for row in rows:
                self._make_room()
                _add(self._figures(row.key), row.figures)


def _plain(key: _Key) -> _Key:
    """`key` with plain texts: a member of an enumeration is slower to compare."""
    return (key[0], *map(str, key[1:]))  # type: ignore[return-value]


def _add(figures: list[int], more: Sequence[int]) -> None:
    for place, value in enumerate(more):
        figures[place] += value


def _row(key: _Key, figures: Sequence[int]) -> CostRow:
    frames, requests, answered, images, bytes_sent, nanos = figures
    return CostRow(
        key=CostKey(*key),
        frames=frames,
        requests=requests,
        answered=answered,
        images=images,
        bytes_sent=bytes_sent,
        price_nanos=nanos,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CostSummary:
    """The figures of some rows together."""

    labels: tuple[str, ...] = ()
    """What they have in common, in the order that was asked for."""
    frames: int = 0
    """Frames that ended."""
    requests: int = 0
    """Requests that left the device; one that several frames shared counts for each of them."""
    answered: int = 0
    """Requests that were answered."""
    images: int = 0
    """Pictures in the requests."""
    bytes_sent: int = 0
    """Bytes of the requests."""
    nanos: Mapping[str, int]
    """What they cost, by currency, in billionths of its unit."""

    @property
    def costs(self) -> dict[str, Decimal]:
        """What they cost, by currency."""
        return {currency: amount(nanos) for currency, nanos in self.nanos.items()}


_DIMENSIONS: dict[str, Callable[[CostKey], str]] = {
    "hour": lambda key: Period.HOUR.label(key.hour),
    "day": lambda key: Period.DAY.label(key.hour),
    "month": lambda key: Period.MONTH.label(key.hour),
    "session": lambda key: key.session,
    "user": lambda key: key.user,
    "backend": lambda key: key.backend,
    "target": lambda key: key.target,
    "provider": lambda key: key.provider,
    "region": lambda key: key.region,
}

DIMENSIONS = tuple(_DIMENSIONS)
"""What rows can be grouped by."""


def summarise(rows: Iterable[CostRow], *, by: Sequence[str] = ()) -> list[CostSummary]:
    """The sums of `rows`, for each combination of the dimensions `by`, in their order.

    Amounts in different currencies are never added to each other. Without `by` there is one
    summary, of all of it.

    Raises:
        ConfigurationError: If there is no such dimension.
    """
    if unknown := [name for name in by if name not in _DIMENSIONS]:
        msg = f"by: expected some of {', '.join(DIMENSIONS)}, got {', '.join(unknown)!r}"
        raise ConfigurationError(msg)
    labellers = [_DIMENSIONS[name] for name in by]
    groups: dict[tuple[str, ...], tuple[list[int], dict[str, int]]] = {}
    if not by:
        groups[()] = [0] * 6, {}
    for row in rows:
        labels = tuple(labeller(row.key) for labeller in labellers)
        figures, nanos = groups.setdefault(labels, ([0] * 6, {}))
        _add(figures, row.figures)
        if row.requests:
            nanos[row.key.currency] = nanos.get(row.key.currency, 0) + row.price_nanos
    return [
        CostSummary(
            labels=labels,
            frames=figures[_FRAMES],
            requests=figures[_REQUESTS],
            answered=figures[_ANSWERED],
            images=figures[_IMAGES],
            bytes_sent=figures[_BYTES],
            nanos=MappingProxyType(dict(sorted(nanos.items()))),
        )
        for labels, (figures, nanos) in sorted(groups.items())
    ]

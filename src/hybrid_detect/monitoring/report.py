"""What happened in a span of time: adds up what a file of sums holds. Pure.

`make_report` gives the figures, `report_json` plain values of them, `report_page` a page.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta, tzinfo

from hybrid_detect.charges import CostRow
from hybrid_detect.errors import StorageError
from hybrid_detect.monitoring.costs import summarise
from hybrid_detect.monitoring.periods import HOUR_S
from hybrid_detect.monitoring.projection import project_month
from hybrid_detect.monitoring.report_figures import (
    BackendFigures,
    Comparison,
    Feedback,
    Fortunes,
    Latency,
    Spending,
    Step,
    UsageReport,
)
from hybrid_detect.types import FeedbackVerdict
from hybrid_detect.usage import CONFIDENCE_BUCKETS, Measure, UsageRow

__all__ = ["make_report"]

MOST_BUCKET_CHARS = 4
"""Of the number of a bucket of seconds; a million seconds are in bucket 179."""

MOST_STEPS = 62
"""Days that are told one by one: two months; more are told by month, two and fewer by hour."""


def make_report(
    costs: Iterable[CostRow],
    usage: Iterable[UsageRow],
    *,
    now_s: float,
    zone: tzinfo = UTC,
    since: date | None = None,
    until: date | None = None,
) -> UsageReport:
    """The figures of what a file of sums holds.

    Hours are whole hours of UTC. In a time zone whose offset is no whole hour, each counts for the
    hour of the zone in which it begins.

    Args:
        costs: `CostStore.rows()`.
        usage: `CostStore.usage()`.
        now_s: The time, in seconds since 1970, for the projection.
        zone: The time zone that days and hours are told in.
        since: The first day, in that zone; `None` for the first there is.
        until: The last day, that included; `None` for the last there is.

    Raises:
        StorageError: If a count is not of its kind: the file is damaged.
    """
    span = _Span(zone, since, until)
    every = list(costs)
    paid = [row for row in every if row.key.hour in span]
    rows = [row for row in usage if row.key.hour in span]
    fared = _by_measure(rows)
    hours = [row.key.hour for row in paid] + [row.key.hour for row in rows]
    first_day, last_day, step, starts = span.steps(hours)
    users = {each.name: each for each in _spent_by_user(paid)}
    nameless = users.pop("", Spending())
    backends = _backends(fared, paid)
    currencies = sorted({row.key.currency for row in every if row.requests and row.price_nanos})
    return UsageReport(
        first_day=first_day,
        last_day=last_day,
        made_at=datetime.fromtimestamp(now_s, zone),
        time_zone=str(zone),
        step=step,
        fortunes=_fortunes(rows),
        latency=_latency(fared[Measure.LATENCY]),
        spending=_spent(paid),
        steps=_steps(span, step, starts, rows, paid),
        by_weekday=_by_weekday(span, fared[Measure.OUTCOME]),
        user_regions=_most_first(_counted(fared[Measure.OUTCOME], "user_region")),
        backends=backends,
        errors=_pairs(fared[Measure.ERROR]),
        switches=tuple((label, to, n) for to, label, n in _pairs(fared[Measure.SWITCH])),
        dropped=sum(row.number for row in fared[Measure.DROPPED]),
        users=tuple(sorted(users.values(), key=lambda each: (-each.frames, each.name))),
        nameless=nameless,
        projections=tuple(
            project_month(every, now_s=now_s, currency=currency) for currency in currencies
        ),
        feedback=_feedback(fared[Measure.FEEDBACK]),
        comparisons=_comparisons(fared[Measure.COMPARED]),
        compared_latency={
            backend: _latency(found)
            for backend, found in _by_backend(fared[Measure.COMPARED_LATENCY]).items()
        },
    )


class _Span:
    """The hours that a report is about, in its time zone."""

    def __init__(self, zone: tzinfo, since: date | None, until: date | None) -> None:
        self._zone = zone
        self._since = since or date.min
        self._until = until or date.max
        self._known: dict[int, datetime] = {}
        self._given = since, until

    def local(self, hour: int) -> datetime:
        """When the whole hour since 1970 begins, in the time zone."""
        found = self._known.get(hour)
        if found is None:
            found = self._known[hour] = datetime.fromtimestamp(hour * HOUR_S, self._zone)
        return found

    def __contains__(self, hour: int) -> bool:
        return self._since <= self.local(hour).date() <= self._until

    def steps(
        self, hours: Sequence[int]
    ) -> tuple[date | None, date | None, str, tuple[datetime, ...]]:
        """First and last day, what a step is, and where each begins."""
        if not hours:
            return (*self._given, "day", ())
        first, last = self.local(min(hours)).date(), self.local(max(hours)).date()
        first, last = self._given[0] or first, self._given[1] or last
        days = (last - first).days + 1
        step = "hour" if days <= 2 else "day" if days <= MOST_STEPS else "month"
        if step == "hour":
            return first, last, step, tuple(map(self.local, range(min(hours), max(hours) + 1)))
        starts: list[datetime] = []
        day = first
        while day <= last:
            start = datetime(day.year, day.month, day.day, tzinfo=self._zone)
            if step == "day" or day.day == 1 or not starts:
                starts.append(start.replace(day=1) if step == "month" else start)
            day += timedelta(days=1)
        return first, last, step, tuple(starts)

    def start_of(self, step: str, hour: int) -> datetime:
        """Where the step that `hour` is in begins."""
        local = self.local(hour)
        if step == "hour":
            return local
        day = datetime(local.year, local.month, local.day, tzinfo=self._zone)
        return day if step == "day" else day.replace(day=1)


# -- sums ----------------------------------------------------------------------------------------


def _by_measure(rows: Iterable[UsageRow]) -> dict[str, list[UsageRow]]:
    found: dict[str, list[UsageRow]] = {measure: [] for measure in Measure}
    for row in rows:
        found.setdefault(row.key.measure, []).append(row)
    return found


def _by_backend(rows: Iterable[UsageRow]) -> dict[str, list[UsageRow]]:
    found: dict[str, list[UsageRow]] = {}
    for row in rows:
        found.setdefault(row.key.backend, []).append(row)
    return found


def _counted(rows: Iterable[UsageRow], name: str) -> Counter[str]:
    counts: Counter[str] = Counter()
    for row in rows:
        counts[getattr(row.key, name)] += row.number
    return counts


def _most_first(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda each: (-each[1], each[0])))


def _pairs(rows: Iterable[UsageRow]) -> tuple[tuple[str, str, int], ...]:
    counts: Counter[tuple[str, str]] = Counter()
    for row in rows:
        counts[row.key.backend, row.key.label] += row.number
    ordered = sorted(counts.items(), key=lambda each: (-each[1], each[0]))
    return tuple((backend, label, number) for (backend, label), number in ordered)


def _fortunes(rows: Iterable[UsageRow]) -> Fortunes:
    outcomes = _counted((row for row in rows if row.key.measure == Measure.OUTCOME), "label")
    return Fortunes(outcomes=_most_first(outcomes))


def _latency(rows: Iterable[UsageRow]) -> Latency:
    buckets: Counter[int] = Counter()
    for row in rows:
        bucket = row.key.label
        if not bucket.removeprefix("-").isdecimal() or len(bucket) > MOST_BUCKET_CHARS:
            msg = "the counts are damaged: one of the times is none"
            raise StorageError(msg)
        buckets[int(bucket)] += row.number
    return Latency(buckets=dict(sorted(buckets.items())))


def _scores(rows: Iterable[UsageRow]) -> tuple[int, ...]:
    """Counts by the bucket that the label ends in."""
    counts = [0] * CONFIDENCE_BUCKETS
    for row in rows:
        last = row.key.label.rpartition(" ")[2]
        if last.isdecimal() and int(last) < CONFIDENCE_BUCKETS:
            counts[int(last)] += row.number
    return tuple(counts)


def _spent(rows: Iterable[CostRow], name: str = "") -> Spending:
    (total,) = summarise(rows)
    return Spending(
        name=name,
        frames=total.frames,
        requests=total.requests,
        in_vain=total.requests - total.answered,
        bytes_sent=total.bytes_sent,
        nanos=total.nanos,
    )


def _spent_by_user(rows: Iterable[CostRow]) -> list[Spending]:
    by_user: dict[str, list[CostRow]] = {}
    for row in rows:
        by_user.setdefault(row.key.user, []).append(row)
    return [_spent(found, user) for user, found in by_user.items()]


def _steps(
    span: _Span,
    step: str,
    starts: Iterable[datetime],
    rows: Iterable[UsageRow],
    paid: Iterable[CostRow],
) -> tuple[Step, ...]:
    starts = list(starts)
    # By text: two hours that a change of the clock gives one name are equal as datetimes.
    usage: dict[str, list[UsageRow]] = {start.isoformat(): [] for start in starts}
    costs: dict[str, list[CostRow]] = {start.isoformat(): [] for start in starts}
    for row in rows:
        usage[span.start_of(step, row.key.hour).isoformat()].append(row)
    for cost in paid:
        costs[span.start_of(step, cost.key.hour).isoformat()].append(cost)
    steps = []
    for start in starts:
        found = usage[start.isoformat()]
        latency = [row for row in found if row.key.measure == Measure.LATENCY]
        steps.append(
            Step(
                start=start,
                fortunes=_fortunes(found),
                latency=_latency(latency),
                answers=_most_first(_counted(latency, "backend")),
                spending=_spent(costs[start.isoformat()]),
            )
        )
    return tuple(steps)


def _by_weekday(span: _Span, rows: Iterable[UsageRow]) -> tuple[tuple[int, ...], ...]:
    counts = [[0] * 24 for _ in range(7)]
    for row in rows:
        local = span.local(row.key.hour)
        counts[local.weekday()][local.hour] += row.number
    return tuple(map(tuple, counts))


def _backends(
    fared: Mapping[str, list[UsageRow]], paid: Iterable[CostRow]
) -> tuple[BackendFigures, ...]:
    times = _by_backend(fared[Measure.LATENCY])
    scores = _by_backend(fared[Measure.CONFIDENCE])
    reasons = _by_backend(fared[Measure.REASON])
    sent = {each.labels[0]: each.bytes_sent for each in summarise(paid, by=("backend",))}
    whole = sum(row.number for row in fared[Measure.LATENCY])
    found = []
    for backend, rows in times.items():
        latency = _latency(rows)
        labels = _counted(scores.get(backend, ()), "label")
        found.append(
            BackendFigures(
                backend=backend,
                answers=latency.answers,
                share=latency.answers / whole,
                latency=latency,
                bytes_sent=sent.get(backend, 0),
                reasons=_most_first(_counted(reasons.get(backend, ()), "label")),
                scores=_scores(scores.get(backend, ())),
                without_face=labels["none"],
                unscored=labels["unscored"],
            )
        )
    return tuple(sorted(found, key=lambda each: (-each.answers, each.backend)))


def _feedback(rows: Iterable[UsageRow]) -> tuple[Feedback, ...]:
    found = []
    for backend, said in sorted(_by_backend(rows).items()):
        verdicts: Counter[str] = Counter()
        for row in said:
            verdicts[row.key.label.partition(" ")[0]] += row.number
        wrong = (row for row in said if row.key.label.startswith(FeedbackVerdict.FALSE_POSITIVE))
        found.append(
            Feedback(
                backend=backend,
                verdicts=_most_first(verdicts),
                false_positive_scores=_scores(wrong),
            )
        )
    return tuple(found)


def _comparisons(rows: Iterable[UsageRow]) -> tuple[Comparison, ...]:
    found = []
    for backend, compared in sorted(_by_backend(rows).items()):
        labels = _counted(compared, "label")
        found.append(
            Comparison(
                backend=backend,
                device_more=labels["device"],
                same=labels["same"],
                server_more=labels["server"],
            )
        )
    return tuple(found)

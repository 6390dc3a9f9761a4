"""The report of a simulated week of three users: every figure, counted again from the events."""

import json
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from hybrid_detect.charges import CostKey, CostRow
from hybrid_detect.errors import StorageError
from hybrid_detect.monitoring.events import FrameEvent, FrameOutcome
from hybrid_detect.monitoring.reasons import kind_of_reason
from hybrid_detect.monitoring.report import make_report
from hybrid_detect.monitoring.report_json import report_json
from hybrid_detect.storage.cost_store import CostStore
from hybrid_detect.types import BackendKind
from hybrid_detect.usage import UsageKey, UsageRow

from .simulated_week import MONDAY, USERS, WEEK_S, Week, keep, simulate

NOW_S = MONDAY.timestamp() + WEEK_S
BERLIN = ZoneInfo("Europe/Berlin")


@pytest.fixture(scope="module")
def week() -> Week:
    return simulate()


@pytest.fixture(scope="module")
def path(week: Week, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("week") / "costs.db"
    keep(week, path)
    return path


def told(path: Path, **options: Any) -> dict[str, Any]:
    with CostStore(path, clock=lambda: NOW_S) as store:
        report = make_report(store.rows(), store.usage(), now_s=NOW_S, **options)
    found = report_json(report)
    assert json.loads(json.dumps(found)) == found, "plain JSON values"
    return found


# -- the same figures, counted from the events ---------------------------------------------------


def every(week: Week) -> list[FrameEvent]:
    return [event for events in week.frames.values() for event in events]


def answered(events: Iterable[FrameEvent]) -> list[FrameEvent]:
    return [event for event in events if event.outcome is FrameOutcome.ANSWERED]


def nearest_rank(times: list[float], share: float) -> float | None:
    """The quantile, moved to the middle of its step on a ladder of 2^(1/8) through 0.2 s."""
    if not times:
        return None
    exact = sorted(times)[math.ceil(share * len(times)) - 1]
    step = math.ceil(round(8 * math.log2(exact / 0.2), 9))
    told = 0.2 * 2 ** ((step - 0.5) / 8)
    assert told == pytest.approx(exact, rel=0.05)
    return told


def latency(times: list[float]) -> dict[str, Any]:
    return {
        "answers": len(times),
        "p50_s": pytest.approx(nearest_rank(times, 0.5)),
        "p90_s": pytest.approx(nearest_rank(times, 0.9)),
        "p99_s": pytest.approx(nearest_rank(times, 0.99)),
        "on_time": sum(t <= 0.2 for t in times) / len(times) if times else None,
    }


def fortunes(events: list[FrameEvent]) -> dict[str, Any]:
    good = len(answered(events))
    bad = sum(event.outcome in {"failed", "invalid"} for event in events)
    return {
        "frames": len(events),
        "answered": good,
        "failed": bad,
        "left_out": len(events) - good - bad,
        "success_rate": good / (good + bad) if good + bad else None,
    }


def spending(events: list[FrameEvent]) -> dict[str, Any]:
    requests = [request for event in events for request in event.requests]
    nanos = sum(request.price_nanos for request in requests)
    cost = {"currency": "USD", "amount": f"{nanos / 1e9:.9f}"}
    cost["per_1000_frames"] = pytest.approx(nanos / 1e6 / max(len(events), 1))  # type: ignore[assignment]
    return {
        "frames": len(events),
        "requests": len(requests),
        "in_vain": sum(not request.answered for request in requests),
        "bytes_sent": sum(request.bytes_sent for request in requests),
        "costs": [cost] if requests else [],
    }


def ordered(counts: Counter[Any]) -> list[tuple[Any, int]]:
    return sorted(counts.items(), key=lambda each: (-each[1], each[0]))


def test_frames_answers_times_and_costs_of_the_week(week: Week, path: Path) -> None:
    found, events = told(path), every(week)
    outcomes = Counter("degraded" if e.degraded else e.outcome.value for e in events)
    assert found["outcomes"] == outcomes
    assert {name: found[name] for name in fortunes(events)} == fortunes(events)
    assert found["dropped"] == sum(event.dropped_before for event in events)
    assert found["latency"] == latency([e.total_s for e in answered(events)])
    assert found["spending"] == spending(events)
    assert (found["first_day"], found["last_day"]) == ("2026-11-16", "2026-11-22")


@pytest.mark.parametrize("zone", [UTC, BERLIN, ZoneInfo("Asia/Kolkata")], ids=str)
def test_each_day_and_each_hour_of_the_week_in_its_time_zone(
    week: Week, path: Path, zone: Any
) -> None:
    found = told(path, zone=zone)

    def hour(event: FrameEvent) -> datetime:
        """Sums are by whole hours of UTC, each told where it begins."""
        return datetime.fromtimestamp(event.at_s // 3600 * 3600, zone)

    counts = [[0] * 24 for _ in range(7)]
    for event in every(week):
        counts[hour(event).weekday()][hour(event).hour] += 1
    assert found["by_weekday"] == counts
    assert found["time_zone"] == str(zone)
    assert found["step"] == "day"
    days = sorted({hour(event).date() for event in every(week)})
    assert [datetime.fromisoformat(step["start"]).date() for step in found["steps"]] == days
    for step, day in zip(found["steps"], days, strict=True):
        events = [event for event in every(week) if hour(event).date() == day]
        assert {name: step[name] for name in fortunes(events)} == fortunes(events)
        assert step["latency"] == latency([e.total_s for e in answered(events)])
        assert step["answers"] == Counter(e.backend for e in answered(events))
        assert step["spending"] == spending(events)


def test_each_backend_and_why_it_answered(week: Week, path: Path) -> None:
    answers = answered(every(week))
    found = told(path)["backends"]
    assert [each["backend"] for each in found] == [
        name for name, _ in ordered(Counter(e.backend for e in answers))
    ]
    for each in found:
        own = [event for event in answers if event.backend == each["backend"]]
        requests = [r for e in every(week) for r in e.requests if r.backend == each["backend"]]
        scores = [0] * 20
        for event in own:
            if event.confidence is not None:
                scores[min(int(event.confidence * 20 + 1e-9), 19)] += 1
        assert each == {
            "backend": each["backend"],
            "answers": len(own),
            "share": len(own) / len(answers),
            "latency": latency([event.total_s for event in own]),
            "bytes_sent": sum(request.bytes_sent for request in requests),
            "reasons": [
                {"reason": kind, "answers": count, "share": count / len(own)}
                for kind, count in ordered(Counter(map(kind_of_reason, own)))
            ],
            "scores": scores,
            "without_face": sum(not event.faces for event in own),
            "unscored": 0,
        }
    kinds = {reason["reason"] for each in found for reason in each["reasons"]}
    assert kinds >= {"first choice", "cloud failed: timeout", "cloud out: budget spent"}


def test_what_went_wrong_and_the_switches(week: Week, path: Path) -> None:
    found = told(path)
    errors: Counter[tuple[str, str]] = Counter()
    switches: Counter[tuple[str, str]] = Counter()
    for events in week.frames.values():
        before = None
        for event in events:
            errors.update((a.backend, a.error) for a in event.attempts if a.error)
            if event.outcome in {"failed", "invalid"}:
                errors["", event.error] += 1
            if event.outcome is FrameOutcome.ANSWERED:
                if before not in {None, event.backend}:
                    switches[str(before), str(event.backend)] += 1
                before = event.backend
    assert [((e["backend"], e["error"]), e["count"]) for e in found["errors"]] == ordered(errors)
    told_pairs = {(e["from"], e["to"]): e["count"] for e in found["switches"]["from_to"]}
    assert told_pairs == switches
    assert found["switches"]["count"] == switches.total() > 10
    assert found["switches"]["per_1000_answers"] == pytest.approx(
        1000 * switches.total() / len(answered(every(week)))
    )


def test_each_user_and_region(week: Week, path: Path) -> None:
    found = told(path)
    with CostStore(path, clock=lambda: NOW_S) as store:
        tags = {store.tag("user", user.name): user for user in USERS}
    rows = found["users"]["rows"]
    assert {row["user"] for row in rows} == set(tags)
    for row in rows:
        assert row == {
            "user": row["user"],
            **spending(week.frames[tags[row["user"]].session]),
        }
    assert [row["frames"] for row in rows] == sorted((r["frames"] for r in rows), reverse=True)
    assert found["users"]["told_apart"] == 3
    assert found["users"]["nameless"] == spending([])
    total = float(found["spending"]["costs"][0]["amount"])
    assert found["users"]["per_user"] == [{"currency": "USD", "amount": pytest.approx(total / 3)}]
    regions = Counter({user.region: len(week.frames[user.session]) for user in USERS})
    assert found["user_regions"] == [
        {"user_region": name, "frames": count, "share": count / regions.total()}
        for name, count in ordered(regions)
    ]


def test_feedback_and_the_device_beside_the_server(week: Week, path: Path) -> None:
    found = told(path)
    said = [event for events in week.feedback.values() for event in events]
    verdicts = Counter(event.verdict.value for event in said)
    feedback = found["feedback"]
    assert {name: feedback[name] for name in verdicts} == verdicts
    assert feedback["judged"] == len(said) > 20
    assert feedback["false_positive_rate"] == verdicts["false_positive"] / len(said)
    for each in feedback["backends"]:
        own = [event for event in said if event.backend == each["backend"]]
        wrong = [event.confidence for event in own if event.verdict == "false_positive"]
        scores = [0] * 20
        for score in wrong:
            assert score is not None
            scores[min(int(score * 20 + 1e-9), 19)] += 1
        assert each["judged"] == len(own)
        assert each["false_positive_scores"] == scores
        assert each["false_positive_rate"] == len(wrong) / len(own)
    both = [event.answers for event in every(week) if len(event.answers) > 1]
    more = Counter(
        (device.faces > server.faces) - (device.faces < server.faces) for device, server in both
    )
    assert found["compared"]["backends"] == [
        {
            "backend": "cloud",
            "frames": len(both),
            "device_more": more[1],
            "same": more[0],
            "server_more": more[-1],
        }
    ]
    assert found["compared"]["frames"] == len(both) > 5
    for place, kind in enumerate((BackendKind.DEVICE, BackendKind.CLOUD)):
        times = [answers[place].elapsed_s for answers in both]
        assert {"backend": kind, **latency(times)} in found["compared"]["latency"]


def test_the_projection_is_that_of_the_costs(path: Path) -> None:
    (month,) = told(path)["projections"]
    assert (month["month"], month["currency"], month["days_seen"]) == ("2026-11", "USD", 7)
    assert float(month["spent"]) == pytest.approx(
        float(told(path)["spending"]["costs"][0]["amount"])
    )
    assert float(month["low"]) <= float(month["likely"]) <= float(month["high"])


# -- spans, and what is not there ----------------------------------------------------------------


def test_a_span_has_its_days_alone_and_the_projection_all(week: Week, path: Path) -> None:
    day = date(2026, 11, 18)
    found = told(path, since=day, until=day + timedelta(days=1))
    start = MONDAY.timestamp() + 2 * 24 * 3600
    events = [e for e in every(week) if start <= e.at_s < start + 2 * 24 * 3600]
    assert found["frames"] == len(events)
    assert found["step"] == "hour"
    assert sum(step["frames"] for step in found["steps"]) == len(events)
    assert found["projections"] == told(path)["projections"]


def test_days_without_frames_are_there_and_long_spans_are_by_month(path: Path) -> None:
    short = told(path, since=date(2026, 11, 10))
    assert [step["frames"] for step in short["steps"][:6]] == [0] * 6
    assert short["steps"][0]["success_rate"] is None
    assert short["steps"][0]["latency"]["p50_s"] is None
    long = told(path, since=date(2026, 8, 20), until=date(2026, 12, 5), zone=BERLIN)
    assert long["step"] == "month"
    assert [step["start"][:10] for step in long["steps"]] == [
        "2026-08-01", "2026-09-01", "2026-10-01", "2026-11-01", "2026-12-01"
    ]  # fmt: skip
    assert sum(step["frames"] for step in long["steps"]) == long["frames"] == short["frames"]


def test_an_hour_that_a_change_of_the_clock_repeats_loses_nothing() -> None:
    first = int(datetime(2026, 10, 24, 23, tzinfo=UTC).timestamp()) // 3600
    rows = [
        UsageRow(UsageKey(first + n, "", "", "", "outcome", "device", "answered"), 1)
        for n in range(4)
    ]
    found = report_json(make_report([], rows, now_s=first * 3600.0, zone=BERLIN))
    assert [step["frames"] for step in found["steps"]] == [1, 1, 1, 1]
    assert found["by_weekday"][6][1:4] == [1, 2, 1]


def test_users_who_are_forgotten_are_told_together(week: Week, tmp_path: Path) -> None:
    keep(week, tmp_path / "costs.db", names_kept_s=24 * 3600.0)
    with CostStore(tmp_path / "costs.db", clock=lambda: NOW_S + 30 * 3600) as store:
        store.sweep()
        report = make_report(store.rows(), store.usage(), now_s=NOW_S)
    found = report_json(report)
    assert found["users"]["rows"] == []
    assert found["users"]["per_user"] == []
    assert found["users"]["nameless"] == spending(every(week))
    assert found["frames"] == len(every(week))


def test_nothing_is_a_report_without_figures() -> None:
    found = report_json(make_report([], [], now_s=NOW_S))
    assert (found["frames"], found["success_rate"], found["steps"]) == (0, None, [])
    assert found["latency"]["p99_s"] is None


def test_currencies_are_never_added_to_each_other() -> None:
    key = CostKey(490_000, "ann", "ann", "cloud", "t", "google", "", "USD")
    rows = [
        CostRow(key=key, frames=1, requests=1, price_nanos=1_000_000_000),
        CostRow(key=key._replace(currency="EUR"), frames=1, requests=1, price_nanos=5_000_000_000),
    ]
    found = report_json(make_report(rows, [], now_s=490_000 * 3600.0))
    costs = {each["currency"]: each["amount"] for each in found["spending"]["costs"]}
    assert costs == {"EUR": "5.000000000", "USD": "1.000000000"}
    assert {each["currency"] for each in found["projections"]} == {"EUR", "USD"}


def test_a_count_of_a_newer_version_does_no_harm(path: Path) -> None:
    with CostStore(path, clock=lambda: NOW_S) as store:
        usage = store.usage()
    strange = replace_measure(usage[0])
    before = make_report([], usage, now_s=NOW_S)
    assert make_report([], [*usage, strange], now_s=NOW_S) == replace(before)


def replace_measure(row: UsageRow) -> UsageRow:
    return row._replace(key=row.key._replace(measure="of_tomorrow", label="?"))


@pytest.mark.parametrize("label", ["", "canary", "1e5", "99999", "--1"])
def test_a_time_that_is_none_is_a_typed_error(label: str) -> None:
    row = UsageRow(UsageKey(490_000, "", "", "", "latency", "device", label), 1)
    with pytest.raises(StorageError, match="damaged") as caught:
        make_report([], [row], now_s=NOW_S)
    assert "canary" not in str(caught.value)

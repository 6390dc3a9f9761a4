"""A report as plain JSON-able values: what ``hybrid-detect report --json`` prints. Pure.

The page shows these values and no others, so that the two agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hybrid_detect.charges import amount, in_full
from hybrid_detect.monitoring.report_figures import (
    Feedback,
    Fortunes,
    Latency,
    Spending,
    Step,
    UsageReport,
)
from hybrid_detect.types import FeedbackVerdict

__all__ = ["report_json"]


def report_json(report: UsageReport) -> dict[str, Any]:
    """`report` as plain values. Shares are from 0 to 1, amounts exact decimals as texts."""
    return {
        "first_day": None if report.first_day is None else report.first_day.isoformat(),
        "last_day": None if report.last_day is None else report.last_day.isoformat(),
        "made_at": report.made_at.isoformat(timespec="seconds"),
        "time_zone": report.time_zone,
        **_fortunes(report.fortunes),
        "outcomes": dict(report.fortunes.outcomes),
        "dropped": report.dropped,
        "latency": _latency(report.latency),
        "spending": _spending(report.spending),
        "step": report.step,
        "steps": [_step(each) for each in report.steps],
        "by_weekday": [list(hours) for hours in report.by_weekday],
        "user_regions": [
            {"user_region": name, "frames": count, "share": _share(count, report.fortunes.frames)}
            for name, count in report.user_regions.items()
        ],
        "backends": [
            {
                "backend": each.backend,
                "answers": each.answers,
                "share": each.share,
                "latency": _latency(each.latency),
                "bytes_sent": each.bytes_sent,
                "reasons": [
                    {"reason": kind, "answers": count, "share": count / each.answers}
                    for kind, count in each.reasons.items()
                ],
                "scores": list(each.scores),
                "without_face": each.without_face,
                "unscored": each.unscored,
            }
            for each in report.backends
        ],
        "errors": [
            {"backend": backend, "error": error, "count": count}
            for backend, error, count in report.errors
        ],
        "switches": {
            "count": report.switch_count,
            "per_1000_answers": _share(1000 * report.switch_count, report.fortunes.answered),
            "from_to": [
                {"from": one, "to": other, "count": count} for one, other, count in report.switches
            ],
        },
        "users": _users(report.users, report.nameless),
        "projections": [
            {"month": each.month, "currency": each.currency, "days_seen": each.days_seen}
            | {name: in_full(getattr(each, name)) for name in ("spent", "low", "likely", "high")}
            for each in report.projections
        ],
        "feedback": _feedback(report.feedback),
        "compared": {
            "frames": sum(each.frames for each in report.comparisons),
            "backends": [
                {
                    "backend": each.backend,
                    "frames": each.frames,
                    "device_more": each.device_more,
                    "same": each.same,
                    "server_more": each.server_more,
                }
                for each in report.comparisons
            ],
            "latency": [
                {"backend": backend, **_latency(latency)}
                for backend, latency in report.compared_latency.items()
            ],
        },
    }


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _fortunes(fortunes: Fortunes) -> dict[str, Any]:
    names = ("frames", "answered", "failed", "left_out", "success_rate")
    return {name: getattr(fortunes, name) for name in names}


def _latency(latency: Latency) -> dict[str, Any]:
    return {
        "answers": latency.answers,
        "p50_s": latency.quantile_s(0.5),
        "p90_s": latency.quantile_s(0.9),
        "p99_s": latency.quantile_s(0.99),
        "on_time": latency.on_time,
    }


def _spending(spent: Spending) -> dict[str, Any]:
    names = ("frames", "requests", "in_vain", "bytes_sent")
    return {name: getattr(spent, name) for name in names} | {
        "costs": [
            {
                "currency": currency,
                "amount": in_full(amount(nanos)),
                "per_1000_frames": _share(nanos / 1e6, spent.frames),
            }
            for currency, nanos in spent.nanos.items()
        ]
    }


def _step(step: Step) -> dict[str, Any]:
    return {
        "start": step.start.isoformat(),
        **_fortunes(step.fortunes),
        "latency": _latency(step.latency),
        "answers": dict(step.answers),
        "spending": _spending(step.spending),
    }


def _users(users: Sequence[Spending], nameless: Spending) -> dict[str, Any]:
    sums: dict[str, int] = {}
    for each in users:
        for currency, nanos in each.nanos.items():
            sums[currency] = sums.get(currency, 0) + nanos
    return {
        "told_apart": len(users),
        "per_user": [
            {"currency": currency, "amount": nanos / 1e9 / len(users)}
            for currency, nanos in sorted(sums.items())
        ],
        "rows": [{"user": each.name, **_spending(each)} for each in users],
        "nameless": _spending(nameless),
    }


def _feedback(said: Sequence[Feedback]) -> dict[str, Any]:
    judged = sum(each.judged for each in said)
    verdicts = {
        verdict.value: sum(each.verdicts.get(verdict, 0) for each in said)
        for verdict in FeedbackVerdict
    }
    return {
        "judged": judged,
        **verdicts,
        "false_positive_rate": _share(verdicts[FeedbackVerdict.FALSE_POSITIVE], judged),
        "backends": [
            {
                "backend": each.backend,
                "judged": each.judged,
                **{verdict.value: each.verdicts.get(verdict, 0) for verdict in FeedbackVerdict},
                "false_positive_rate": each.false_positive_rate,
                "false_positive_scores": list(each.false_positive_scores),
            }
            for each in said
        ],
    }

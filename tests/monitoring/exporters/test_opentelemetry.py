"""What OpenTelemetry's own SDK reads of a service."""

from typing import Any

import pytest

pytest.importorskip("opentelemetry.sdk", reason="opentelemetry-sdk is an extra of the tests")

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from hybrid_detect.charges import SentRequest
from hybrid_detect.monitoring.events import BackendEvent, FrameEvent, FrameOutcome
from hybrid_detect.monitoring.exporters.opentelemetry import OpenTelemetryHook
from hybrid_detect.types import Attempt, BackendKind


class Measured:
    """A hook, and what an exporter would get of it."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self.hook = OpenTelemetryHook(MeterProvider([self._reader]))

    def metrics(self) -> dict[str, Any]:
        data = self._reader.get_metrics_data()
        assert data is not None
        scopes = [scope for one in data.resource_metrics for scope in one.scope_metrics]
        assert {scope.scope.name for scope in scopes} == {"hybrid_detect"}
        return {metric.name: metric for scope in scopes for metric in scope.metrics}

    def points(self, name: str) -> dict[frozenset[tuple[str, Any]], Any]:
        metric = self.metrics()[f"hybrid_detect.{name}"]
        return {frozenset(point.attributes.items()): point for point in metric.data.data_points}

    def value(self, name: str, **attributes: Any) -> Any:
        return self.points(name)[labels(**attributes)].value


def labels(**attributes: Any) -> frozenset[tuple[str, Any]]:
    named = {"error": "error.type"}
    return frozenset((named.get(k, f"hybrid_detect.{k}"), v) for k, v in attributes.items())


@pytest.fixture
def measured() -> Measured:
    return Measured()


def frame(outcome: FrameOutcome = FrameOutcome.ANSWERED, **known: Any) -> FrameEvent:
    return FrameEvent(at_s=1.0, outcome=outcome, **known)


def test_every_counter_is_zero_before_anything_happens(measured: Measured) -> None:
    assert {
        point.attributes["hybrid_detect.outcome"] for point in measured.points("frames").values()
    } == {outcome.value for outcome in FrameOutcome}
    counters = [
        metric for metric in measured.metrics().values() if hasattr(metric.data, "is_monotonic")
    ]
    assert len(counters) == 11
    assert all(point.value == 0 for metric in counters for point in metric.data.data_points)


def test_an_answer_is_measured_in_base_units(measured: Measured) -> None:
    measured.hook.on_frame(
        frame(
            backend=BackendKind.CLOUD,
            planned=BackendKind.CLOUD,
            degraded=True,
            dropped_before=2,
            faces=3,
            bytes_sent=40_000,
            total_s=0.2,
            age_s=0.21,
            detect_s=0.03,
        )
    )
    assert measured.value("answers", backend="cloud") == 1
    assert measured.value("faces", backend="cloud") == 3
    assert measured.value("plans", backend="cloud") == 1
    assert measured.value("degraded") == 1
    assert measured.value("dropped_frames") == 2
    assert measured.metrics()["hybrid_detect.frame.duration"].unit == "s"
    assert measured.metrics()["hybrid_detect.sent.size"].unit == "By"
    assert list(measured.points("stage.duration")) == [labels(stage="detect")]
    point = measured.points("frame.duration")[labels(backend="cloud")]
    in_time = list(point.explicit_bounds).index(0.2)  # the bound belongs to its bucket
    assert sum(point.bucket_counts[: in_time + 1]) == 1


def test_attempts_carry_the_type_of_their_error(measured: Measured) -> None:
    attempts = (
        Attempt("cloud", "BackendTimeoutError", "late", 0.5),
        Attempt("streaming", "", "another answered first", 0.2),
        Attempt("cloud", "VendorSpecificError", "odd", 0.1),
    )
    measured.hook.on_frame(frame(FrameOutcome.FAILED, attempts=attempts))
    assert measured.value("failed_attempts", backend="cloud", error="BackendTimeoutError") == 1
    assert measured.value("failed_attempts", backend="streaming", error="given_up") == 1
    assert measured.value("failed_attempts", backend="cloud", error="other") == 1


def test_what_was_sent_is_counted_and_paid_in_its_currency(measured: Measured) -> None:
    sent = [
        SentRequest(at_s=1.0, backend="cloud", price_nanos=1_500_000, answered=True),
        SentRequest(at_s=1.0, backend="cloud", price_nanos=500_000, currency="EUR"),
        SentRequest(at_s=1.0, backend="streaming", answered=True),
    ]
    measured.hook.on_frame(frame(backend=BackendKind.CLOUD, requests=tuple(sent)))
    assert measured.value("requests", backend="cloud", answered=True) == 1
    assert measured.value("requests", backend="cloud", answered=False) == 1
    assert measured.value("requests", backend="streaming", answered=True) == 1
    assert measured.value("cost", backend="cloud", currency="USD") == pytest.approx(0.0015)
    assert measured.value("cost", backend="cloud", currency="EUR") == pytest.approx(0.0005)
    assert measured.value("cost", backend="streaming", currency="USD") == 0


def test_a_trace_without_a_span_hinders_no_count(measured: Measured) -> None:
    measured.hook.on_frame(frame(backend=BackendKind.CLOUD, trace_id="ab" * 16))
    assert measured.value("answers", backend="cloud") == 1


def test_answers_by_another_backend_than_before_are_switches(measured: Measured) -> None:
    for backend in (BackendKind.CLOUD, BackendKind.CLOUD, BackendKind.DEVICE):
        measured.hook.on_frame(frame(backend=backend))
    assert measured.value("switches") == 1
    measured.hook.on_frame(frame(backend=BackendKind.CLOUD, session_id="another's"))
    assert measured.value("switches") == 1


def test_a_backend_that_goes_and_comes_back_is_counted(measured: Measured) -> None:
    for usable in (False, True):
        measured.hook.on_backend(BackendEvent(at_s=1.0, backend=BackendKind.CLOUD, usable=usable))
    assert measured.value("backend.usable", backend="cloud") == 1
    assert measured.value("backend.changes", backend="cloud", usable=False) == 1


def test_no_word_of_a_session_a_reason_or_a_message_is_exported(measured: Measured) -> None:
    canary = "canary-7f3a"
    attempt = Attempt("cloud", canary, canary, 0.1)
    measured.hook.on_frame(
        frame(
            FrameOutcome.FAILED,
            session_id=canary,
            reason=canary,
            error=canary,
            model=canary,
            attempts=(attempt,),
        )
    )
    measured.hook.on_backend(
        BackendEvent(at_s=1.0, backend=BackendKind.CLOUD, host=canary, usable=False, reason=canary)
    )
    assert canary not in repr(measured.metrics())


def test_without_an_sdk_measuring_goes_nowhere() -> None:
    from opentelemetry.metrics import NoOpMeterProvider

    OpenTelemetryHook(NoOpMeterProvider()).on_frame(frame(backend=BackendKind.DEVICE))


def test_a_sampled_frame_leads_from_its_figures_to_its_trace(measured: Measured) -> None:
    ids = {"trace_id": "0af7651916cd43dd8448eb211c80319c", "span_id": "b7ad6b7169203331"}
    measured.hook.on_frame(frame(backend=BackendKind.CLOUD, total_s=0.1))
    assert not measured.points("frame.duration")[labels(backend="cloud")].exemplars
    measured.hook.on_frame(frame(backend=BackendKind.CLOUD, total_s=0.1, **ids))
    (exemplar,) = measured.points("frame.duration")[labels(backend="cloud")].exemplars
    assert f"{exemplar.trace_id:032x}" == ids["trace_id"]
    assert f"{exemplar.span_id:016x}" == ids["span_id"]

"""What Prometheus scrapes of a service: names, labels, series that are there before they move."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

prometheus_client = pytest.importorskip("prometheus_client", reason="prometheus-client is an extra")

from prometheus_client.openmetrics.parser import text_string_to_metric_families  # noqa: E402

from hybrid_detect import (  # noqa: E402
    BackendTimeoutError,
    DetectionMode,
    HybridDetectionService,
    InvalidFrameError,
)
from hybrid_detect.charges import SentRequest  # noqa: E402
from hybrid_detect.monitoring.events import BackendEvent, FrameEvent, FrameOutcome  # noqa: E402
from hybrid_detect.monitoring.exporters.prometheus import PrometheusHook  # noqa: E402
from hybrid_detect.testing import FakeBackend  # noqa: E402
from hybrid_detect.types import Attempt, BackendKind  # noqa: E402


class Exported:
    """A hook and its registry, read as Prometheus reads it."""

    def __init__(self) -> None:
        self.registry = prometheus_client.CollectorRegistry()
        self.hook = PrometheusHook(self.registry)

    def text(self) -> str:
        from prometheus_client.openmetrics.exposition import generate_latest

        return generate_latest(self.registry).decode()

    def series(self) -> set[tuple[str, tuple[tuple[str, str], ...]]]:
        return {
            (sample.name, tuple(sorted(sample.labels.items())))
            for family in text_string_to_metric_families(self.text())
            for sample in family.samples
        }

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"hybrid_detect_{name}", labels)


@pytest.fixture
def exported() -> Exported:
    return Exported()


def frame(outcome: FrameOutcome = FrameOutcome.ANSWERED, **known: Any) -> FrameEvent:
    return FrameEvent(at_s=1.0, outcome=outcome, **known)


def test_no_series_of_frames_appears_with_its_first_frame(exported: Exported) -> None:
    before = exported.series()
    for outcome in FrameOutcome:
        for backend in BackendKind:
            for error in ("BackendTimeoutError", "", "ReplayError", "MadeElsewhereError"):
                attempt = Attempt(backend.value, error, "a message", 0.1)
                exported.hook.on_frame(
                    frame(
                        outcome,
                        backend=backend,
                        planned=backend,
                        attempts=(attempt,),
                        degraded=True,
                        dropped_before=1,
                        bytes_sent=1000,
                        detect_s=0.1,
                        prepare_s=0.1,
                    )
                )
    assert exported.series() == before


def test_an_answer_is_counted_by_backend_in_base_units(exported: Exported) -> None:
    exported.hook.on_frame(
        frame(
            backend=BackendKind.CLOUD,
            planned=BackendKind.CLOUD,
            faces=3,
            bytes_sent=40_000,
            total_s=0.15,
            age_s=0.16,
            detect_s=0.03,
        )
    )
    assert exported.value("frames_total", outcome="answered") == 1
    assert exported.value("answers_total", backend="cloud") == 1
    assert exported.value("answers_total", backend="device") == 0
    assert exported.value("faces_total", backend="cloud") == 3
    assert exported.value("frame_duration_seconds_sum", backend="cloud") == pytest.approx(0.15)
    assert exported.value("stage_duration_seconds_count", stage="detect") == 1
    assert exported.value("stage_duration_seconds_count", stage="prepare") == 0
    assert exported.value("sent_bytes_sum") == 40_000


@pytest.mark.parametrize(("total_s", "in_time"), [(0.2, 1.0), (0.2001, 0.0)])
def test_the_share_of_answers_within_200_ms_can_be_read_exactly(
    exported: Exported, total_s: float, in_time: float
) -> None:
    exported.hook.on_frame(frame(backend=BackendKind.DEVICE, total_s=total_s))
    found = exported.value("frame_duration_seconds_bucket", backend="device", le="0.2")
    assert found == in_time


def test_failed_and_given_up_attempts_are_told_apart(exported: Exported) -> None:
    attempts = (
        Attempt("cloud", "BackendTimeoutError", "late", 0.5),
        Attempt("streaming", "", "another answered first", 0.2),
        Attempt("cloud", "VendorSpecificError", "odd", 0.1),
    )
    exported.hook.on_frame(frame(FrameOutcome.FAILED, attempts=attempts))
    count = exported.value
    assert count("failed_attempts_total", backend="cloud", error="BackendTimeoutError") == 1
    assert count("failed_attempts_total", backend="streaming", error="given_up") == 1
    assert count("failed_attempts_total", backend="cloud", error="other") == 1
    assert count("frames_total", outcome="failed") == 1


def test_answers_by_another_backend_than_before_are_switches(exported: Exported) -> None:
    for backend in (BackendKind.CLOUD, BackendKind.CLOUD, BackendKind.DEVICE, BackendKind.CLOUD):
        exported.hook.on_frame(frame(backend=backend))
    exported.hook.on_frame(frame(FrameOutcome.FAILED))
    assert exported.value("switches_total") == 2


def test_services_that_share_a_hook_do_not_switch_each_other_s_backends(
    exported: Exported,
) -> None:
    for _ in range(3):
        exported.hook.on_frame(frame(backend=BackendKind.CLOUD, session_id="ann"))
        exported.hook.on_frame(frame(backend=BackendKind.DEVICE, session_id="bob"))
    assert exported.value("switches_total") == 0
    exported.hook.on_frame(frame(backend=BackendKind.DEVICE, session_id="ann"))
    assert exported.value("switches_total") == 1


def test_what_was_sent_is_counted_and_paid_in_its_currency() -> None:
    registry = prometheus_client.CollectorRegistry()
    hook = PrometheusHook(registry, currency="EUR")

    def count(name: str, **labels: str) -> float | None:
        value: float | None = registry.get_sample_value(f"hybrid_detect_{name}_total", labels)
        return value

    assert count("cost", backend="cloud", currency="EUR") == 0
    sent = [
        SentRequest(at_s=1.0, backend="cloud", price_nanos=1_500_000, currency="EUR"),
        SentRequest(at_s=1.0, backend="streaming", answered=True),
    ]
    hook.on_frame(frame(backend=BackendKind.CLOUD, requests=tuple(sent)))
    assert count("requests", backend="cloud", answered="false") == 1
    assert count("requests", backend="streaming", answered="true") == 1
    assert count("cost", backend="cloud", currency="EUR") == pytest.approx(0.0015)
    assert count("cost", backend="streaming", currency="EUR") == 0


def test_a_backend_is_told_usable_only_once_it_is_known(exported: Exported) -> None:
    assert exported.value("backend_usable", backend="cloud") is None
    exported.hook.on_backend(BackendEvent(at_s=1.0, backend=BackendKind.CLOUD, usable=False))
    assert exported.value("backend_usable", backend="cloud") == 0
    exported.hook.on_backend(BackendEvent(at_s=2.0, backend=BackendKind.CLOUD, usable=True))
    assert exported.value("backend_usable", backend="cloud") == 1
    assert exported.value("backend_changes_total", backend="cloud", usable="false") == 1


def test_no_word_of_a_session_a_reason_or_a_message_becomes_a_label(exported: Exported) -> None:
    canary = "canary-7f3a"
    exported.hook.on_frame(
        frame(
            FrameOutcome.FAILED,
            session_id=canary,
            reason=canary,
            error=canary,
            model=canary,
            attempts=(Attempt("cloud", canary, canary, 0.1),),
        )
    )
    exported.hook.on_backend(
        BackendEvent(at_s=1.0, backend=BackendKind.CLOUD, host=canary, usable=False, reason=canary)
    )
    assert canary not in exported.text()


def test_a_sampled_frame_leads_from_its_figures_to_its_trace(exported: Exported) -> None:
    ids = {"trace_id": "0af7651916cd43dd8448eb211c80319c", "span_id": "b7ad6b7169203331"}
    late = Attempt("cloud", "BackendTimeoutError", "late", 0.5)
    exported.hook.on_frame(frame(backend=BackendKind.DEVICE, total_s=0.01))
    assert "trace_id" not in exported.text()
    exported.hook.on_frame(frame(backend=BackendKind.DEVICE, total_s=0.25, attempts=(late,), **ids))
    found = {
        sample.name: sample.exemplar.labels
        for family in text_string_to_metric_families(exported.text())
        for sample in family.samples
        if sample.exemplar
    }
    assert found["hybrid_detect_frame_duration_seconds_bucket"] == ids
    assert found["hybrid_detect_failed_attempts_total"] == ids


def test_two_hooks_of_one_registry_are_refused(exported: Exported) -> None:
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        PrometheusHook(exported.registry)


@pytest.mark.anyio
async def test_a_service_is_counted_as_it_works(exported: Exported) -> None:
    cloud = FakeBackend("cloud")
    image = np.zeros((48, 64, 3), np.uint8)
    async with HybridDetectionService(
        backends=[cloud, FakeBackend("device")],
        mode=DetectionMode.PREFER_CLOUD,
        hooks=[exported.hook],
    ) as service:
        await service.process_image(image)
        cloud.error = BackendTimeoutError("late")
        await service.process_image(image)
        with pytest.raises(InvalidFrameError):
            await service.process_image(np.zeros(3, np.uint8))
    count = exported.value
    assert count("frames_total", outcome="answered") == 2
    assert count("frames_total", outcome="invalid") == 1
    assert count("plans_total", backend="cloud") == 2
    assert count("answers_total", backend="cloud") == 1
    assert count("answers_total", backend="device") == 1
    assert count("degraded_total") == 1
    assert count("switches_total") == 1
    assert count("failed_attempts_total", backend="cloud", error="BackendTimeoutError") == 1


def test_processes_that_share_a_directory_are_added_up(tmp_path: Path) -> None:
    program = """
import sys
from prometheus_client import CollectorRegistry
from hybrid_detect.monitoring.events import BackendEvent, FrameEvent, FrameOutcome
from hybrid_detect.monitoring.exporters.prometheus import PrometheusHook
from hybrid_detect.types import BackendKind
hook = PrometheusHook(CollectorRegistry())
hook.on_frame(
    FrameEvent(
        at_s=1.0,
        outcome=FrameOutcome.ANSWERED,
        backend=BackendKind.CLOUD,
        trace_id="0af7651916cd43dd8448eb211c80319c",  # exemplars are left out there, not refused
        span_id="b7ad6b7169203331",
    )
)
hook.on_backend(BackendEvent(at_s=1.0, backend=BackendKind.CLOUD, usable=sys.argv[1] == "1"))
"""
    environ = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    for usable in ("1", "0"):
        subprocess.run([sys.executable, "-c", program, usable], env=environ, check=True, timeout=50)
    from prometheus_client.multiprocess import MultiProcessCollector

    registry = prometheus_client.CollectorRegistry()
    MultiProcessCollector(registry, path=str(tmp_path))  # type: ignore[no-untyped-call]
    value = registry.get_sample_value
    assert value("hybrid_detect_answers_total", {"backend": "cloud"}) == 2
    assert value("hybrid_detect_frame_duration_seconds_count", {"backend": "cloud"}) == 2
    assert value("hybrid_detect_degraded_total") == 0

"""The monitor's figures, from events and from frames of one's own."""

import math
from typing import Any

import numpy as np
import pytest

from hybrid_detect.errors import ConfigurationError
from hybrid_detect.monitoring.events import FrameEvent, FrameOutcome
from hybrid_detect.monitoring.monitor import MAX_MODES, WINDOW, BackendProcessingMonitor
from hybrid_detect.types import BackendKind, DetectionMode


def event(outcome: str, backend: str | None = None, **known: Any) -> FrameEvent:
    kind = BackendKind(backend) if backend else None
    return FrameEvent(at_s=0.0, outcome=FrameOutcome(outcome), backend=kind, **known)


def test_a_new_monitor_knows_nothing() -> None:
    figures = BackendProcessingMonitor().figures()
    assert (figures.frames, figures.bytes_sent, figures.switches) == (0, 0, 0)
    assert (figures.success_rate, figures.p50_s, figures.mean_confidence) == (None, None, None)
    assert figures.shares == {}


def test_every_outcome_is_counted_and_only_lost_frames_lower_the_success_rate() -> None:
    monitor = BackendProcessingMonitor()
    monitor.on_frame(event("answered", "device"))
    monitor.on_frame(event("answered", "cloud"))
    monitor.on_frame(event("answered", "cloud"))
    for outcome in ("stale", "skipped", "cancelled", "failed", "invalid"):
        monitor.on_frame(event(outcome))
    figures = monitor.figures()
    assert figures.frames == 8
    assert figures.outcomes["answered"] == 3
    assert figures.success_rate == pytest.approx(3 / 5)
    assert figures.shares == {"device": pytest.approx(1 / 3), "cloud": pytest.approx(2 / 3)}
    assert figures.switches == 1


def test_a_switch_is_one_within_a_session() -> None:
    monitor = BackendProcessingMonitor()
    for _ in range(3):
        monitor.on_frame(event("answered", "device", session_id="ann"))
        monitor.on_frame(event("answered", "cloud", session_id="bob"))
    assert monitor.figures().switches == 0
    monitor.on_frame(event("answered", "cloud", session_id="ann"))
    assert monitor.figures().switches == 1


def test_bytes_of_frames_without_an_answer_are_counted() -> None:
    monitor = BackendProcessingMonitor()
    monitor.on_frame(event("failed", bytes_sent=2048))
    monitor.on_frame(event("answered", "cloud", bytes_sent=1024, dropped_before=3))
    figures = monitor.figures()
    assert (figures.bytes_sent, figures.dropped) == (3072, 3)
    assert figures.mean_image_kb == pytest.approx(1.5)


def test_quantiles_are_of_the_last_thousand_answers() -> None:
    monitor = BackendProcessingMonitor()
    for _ in range(WINDOW):
        monitor.on_frame(event("answered", "device", total_s=99.0))
    for hundredth in range(WINDOW):
        monitor.on_frame(event("answered", "device", total_s=(hundredth + 1) / 1000))
    figures = monitor.figures()
    assert figures.p50_s == pytest.approx(0.5)
    assert figures.p90_s == pytest.approx(0.9)
    assert figures.p99_s == pytest.approx(0.99)


def test_frames_of_one_s_own_are_tracked() -> None:
    monitor = BackendProcessingMonitor()
    monitor.track_metrics(
        processing_time_ms=40, detection_mode="cloud", confidence=0.9, image_size_kb=80
    )
    monitor.track_metrics(
        processing_time_ms=np.float32(20), detection_mode=DetectionMode.ON_DEVICE, confidence=None
    )
    figures = monitor.figures()
    assert figures.shares == {"cloud": 0.5, "on_device": 0.5}
    assert (figures.p50_s, figures.p99_s) == (pytest.approx(0.02), pytest.approx(0.04))
    assert figures.bytes_sent == 80 * 1024
    assert figures.mean_confidence == pytest.approx(0.9)
    assert figures.success_rate == 1.0


@pytest.mark.parametrize("name", ["processing_time_ms", "confidence", "image_size_kb"])
@pytest.mark.parametrize("value", [-1, math.nan, math.inf, "1", True])
def test_what_is_no_measurement_is_refused(name: str, value: Any) -> None:
    given: dict[str, Any] = {"processing_time_ms": 1.0, "detection_mode": "cloud", name: value}
    with pytest.raises(ConfigurationError, match=name):
        BackendProcessingMonitor().track_metrics(**given)
    with pytest.raises(ConfigurationError, match="confidence"):
        BackendProcessingMonitor().track_metrics(
            processing_time_ms=1, detection_mode="cloud", confidence=1.5
        )


def test_names_of_modes_do_not_grow_without_end() -> None:
    monitor = BackendProcessingMonitor()
    for number in range(10 * MAX_MODES):
        monitor.track_metrics(processing_time_ms=1, detection_mode=f"mode {number}")
    assert len(monitor.figures().shares) == MAX_MODES + 1
    assert sum(monitor.figures().shares.values()) == pytest.approx(1.0)

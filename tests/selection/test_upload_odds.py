"""The odds of an upload, beside the same expectations taken one latency at a time."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_detect.selection.upload_odds import UploadOdds
from hybrid_detect.selection.utility import Utility

QUEUES_S = np.arange(0.0, 1.01, 0.02)
LATENCIES = st.lists(
    st.lists(st.floats(0.001, 3) | st.sampled_from([0.2, 1.0, 1e3]), min_size=63, max_size=63),
    min_size=2,
    max_size=2,
)


@given(
    latencies=LATENCIES,
    accuracies=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)),
    device_worth=st.sampled_from([0.0, 0.5, 1.0]) | st.floats(0, 1),
    on_time_s=st.sampled_from([0.2, 0.5, 5.0, 1e6]),
    decay_s=st.sampled_from([0.01, 0.2, 10.0]),
    deadline_s=st.sampled_from([0.0, 0.1, 1.0, 10.0, 1e6]),
    start_s=st.floats(0, 1),
)
def test_each_expectation_is_the_mean_over_the_latencies(
    latencies: list[list[float]],
    accuracies: tuple[float, float],
    device_worth: float,
    on_time_s: float,
    decay_s: float,
    deadline_s: float,
    start_s: float,
) -> None:
    utility = Utility(on_time_s=on_time_s, decay_s=decay_s)
    unqueued_s = np.array(latencies)
    odds = UploadOdds(
        unqueued_s,
        QUEUES_S,
        np.array(accuracies),
        device_worth=device_worth,
        utility=utility,
        deadline_s=deadline_s,
    )
    latency_s = unqueued_s[:, :, None] + QUEUES_S
    # Sums and comparisons of the same numbers in another order may differ at an edge.
    edges = (on_time_s, deadline_s, start_s)
    near = np.min([np.abs(latency_s - edge) for edge in edges], axis=0) < 1e-9
    worth = utility.worth(latency_s, deadline_s=deadline_s) * np.array(accuracies)[:, None, None]
    best = np.maximum(worth, device_worth)
    is_late = latency_s > start_s
    hedged, started = odds.hedged(np.full((2, len(QUEUES_S)), start_s))
    for found, expected in (
        (odds.in_time, (latency_s <= min(on_time_s, deadline_s)).mean(1)),
        (odds.alone, worth.mean(1)),
        (odds.with_device, best.mean(1)),
        (hedged, np.where(is_late, best, worth).mean(1)),
        (started, is_late.mean(1)),
    ):
        differs = np.abs(found - expected) > 1e-6
        assert not np.any(differs & ~near.any(1))


def test_the_late_and_the_usual_latency() -> None:
    unqueued_s = np.linspace(0.1, 0.72, 63)[None, ::-1]
    odds = UploadOdds(
        unqueued_s,
        QUEUES_S,
        np.ones(1),
        device_worth=0.8,
        utility=Utility(),
        deadline_s=math.inf,
    )
    assert odds.median_s[0] == pytest.approx(0.41)
    assert odds.late_s[0] == pytest.approx(0.69)

"""The simulated cluster against what queueing theory knows, and its limits."""

from __future__ import annotations

import random
import statistics

import pytest

from hybrid_detect.server.cluster.scaling import Targets

from ...benchmark_modules import benchmark_module

simulation = benchmark_module("cluster_simulation")

FIXED = [0.01]
"""Seconds of a detector that always takes as long."""


def exponential(mean_s: float) -> list[float]:
    chance = random.Random(7)
    return [chance.expovariate(1 / mean_s) for _ in range(20_000)]


def measured(**options: object) -> object:
    values = {"service_s": FIXED, "gateway_s": 0.0, "owner_s": 0.0, "queue": 10_000}
    return simulation.Measured(**{**values, **options})


def mean_latency_s(costs: object, *, rate_per_s: float) -> float:
    found = simulation.simulate(costs, replicas=1, rate_per_s=rate_per_s, seconds=500)
    return statistics.mean(found.latencies_s)


def test_one_detector_is_an_m_m_1_queue() -> None:
    # W = 1 / (mu - lambda)
    costs = measured(service_s=exponential(0.01))
    assert mean_latency_s(costs, rate_per_s=50.0) == pytest.approx(0.02, rel=0.15)


def test_a_detector_of_one_time_is_an_m_d_1_queue() -> None:
    # W = s + rho s / 2 (1 - rho)
    assert mean_latency_s(measured(), rate_per_s=50.0) == pytest.approx(0.015, rel=0.05)


def test_two_detectors_of_a_replica_are_an_m_m_2_queue() -> None:
    # Erlang C with rho = 0.5: W = 1 / mu (1 - rho^2)
    costs = measured(service_s=exponential(0.01), detectors=2)
    assert mean_latency_s(costs, rate_per_s=100.0) == pytest.approx(0.01 / 0.75, rel=0.15)


def test_a_full_queue_refuses_what_cannot_be_done() -> None:
    found = simulation.simulate(measured(queue=2), replicas=3, rate_per_s=600, seconds=20)
    assert found.answered_per_s == pytest.approx(300, rel=0.03)
    assert found.refused == pytest.approx(20 * 300, rel=0.15)
    assert found.percentile_s(1.0) <= 0.031  # one that is looked at and two that wait


def test_no_number_of_replicas_does_what_the_gateway_cannot() -> None:
    costs = measured(gateway_s=0.01)
    found = simulation.simulate(costs, replicas=100, rate_per_s=200, seconds=20)
    assert found.percentile_s(0.99) > 5.0
    assert found.percentile_s(0.0) < 0.1
    assert found.answered_per_s == pytest.approx(100, rel=0.03), "not what came, nor what was late"


def test_the_rule_brings_the_replicas_that_a_sudden_load_needs() -> None:
    told = simulation.simulate_scaling(
        measured(queue=32),
        rate_per_s=800,
        seconds=40,
        targets=Targets(work=2.0, streams=200.0, latency_s=0.3),
        max_replicas=20,
        start_s=5.0,
        delay_s=5.0,
    )
    assert told[0][1] == 1
    assert told[0][2] > 0.8  # refused, and soon none
    assert 8 <= told[-1][1] <= 17  # a full queue of 32 asks for 17
    assert told[-1][2] == 0.0
    assert told[-1][3] < 0.3

"""What the soak's verdict makes of curves: it must fail on growth, and on nothing else."""

import random
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable

import pytest

from .benchmark_modules import benchmark_module

SECONDS = 1800.0


def verdict(curve: Callable[[float], float]) -> bool:
    soak = benchmark_module("bench_soak")
    drawn = random.Random(3)
    run = soak.Soak(port=0)
    xs = [2.0 * step for step in range(int(SECONDS / 2))]
    run.curves["server MiB"] = [(x, curve(x) + drawn.gauss(0, 1)) for x in xs]
    picture = ElementTree.fromstring(soak.svg_of(run, SECONDS))  # noqa: S314 - our own
    assert picture.tag.endswith("svg")
    return bool(soak.judged(run, SECONDS))


@pytest.mark.parametrize(
    ("curve", "is_flat"),
    [
        (lambda x: 60.0, True),
        (lambda x: 60.0 + min(x, 500) / 25, True),  # it fills its pools, and stays
        (lambda x: 60.0 + 200 * (x % 100 < 10), True),  # floods
        (lambda x: 100.0 - x / 100, True),
        (lambda x: 60.0 + x / 60, False),  # a MiB a minute
        (lambda x: 60.0 + x / 60 + 200 * (x % 100 < 10), False),
        (lambda x: 60.0 + (x > 900) * (x - 900) / 30, False),
    ],
    ids=["flat", "warm-up", "spikes", "falling", "leak", "leak and spikes", "late leak"],
)
def test_growth_fails_and_nothing_else_does(curve: Callable[[float], float], is_flat: bool) -> None:
    assert verdict(curve) is is_flat


def test_too_few_samples_are_no_proof() -> None:
    soak = benchmark_module("bench_soak")
    run = soak.Soak(port=0)
    run.curves["files"] = [(1700.0, 30.0)] * 3
    assert not soak.judged(run, SECONDS)

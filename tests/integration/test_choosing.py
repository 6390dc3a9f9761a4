"""A network or server that fails: the service goes on answering, and finds the way back.

The goals are the project's: every frame answered by its deadline, a bounded number of switches, and
the server's answers within 3 s of the end of the trouble. The clock counts the waiting alone, so
that a busy machine judges nothing; `benchmarks/bench_faults.py` measures the same by a real clock.
"""

import asyncio

import pytest

from hybrid_detect.types import BackendKind

from ..waiting import LIMIT_S
from .troubles import TROUBLES, Run, watch

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]

RECOVERY_S = 3.0


def check(run: Run, *, switches: int) -> None:
    assert len(run.seen) > 20, run.figures
    assert run.answered() == 1.0, run.figures
    assert run.answered(during_faults=True) == 1.0, run.figures
    assert run.recovery_s <= RECOVERY_S, run.figures
    assert run.switches <= switches, run.figures


@pytest.mark.parametrize("name", [name for name in TROUBLES if name != "none"])
async def test_a_fault_costs_no_answer_and_the_way_back_is_found(name: str) -> None:
    async with asyncio.timeout(LIMIT_S):
        run = await watch(
            TROUBLES[name], before_s=0.5, fault_s=1.5, after_s=4.0, stop_when_back=True
        )
    # There and back; each frame that a hedge answers before or after is there and back as well.
    check(run, switches=10)
    # Of seven or eight frames; the last one's answer may come from a server that is just back.
    assert run.on_device >= 0.85, run.figures


@pytest.mark.parametrize("name", ["black hole", "refused"])
async def test_a_flapping_network_costs_no_answer(name: str) -> None:
    async with asyncio.timeout(LIMIT_S):
        run = await watch(
            TROUBLES[name],
            before_s=0.5,
            fault_s=0.8,
            after_s=4.0,
            flaps=3,
            calm_s=0.8,
            stop_when_back=True,
        )
    # Twice for each time that it goes away, and as for a single fault.
    check(run, switches=2 * 3 + 8)


async def test_without_trouble_the_server_answers_and_nothing_is_switched() -> None:
    async with asyncio.timeout(LIMIT_S):
        run = await watch(TROUBLES["none"], before_s=0.5, fault_s=1.5, after_s=0.0)
    assert run.answered() == 1.0, run.figures
    assert run.switches <= 2, run.figures
    assert run.backends[-1] is BackendKind.STREAMING, run.figures

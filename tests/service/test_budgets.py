"""A budget that is spent changes the strategy, says so once, and is shared with its file."""

import asyncio
import logging
import signal
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hybrid_detect.backends.remote.cloud import CloudDetectionService
from hybrid_detect.backends.remote.targets import Target
from hybrid_detect.config import ServiceConfig
from hybrid_detect.errors import AllBackendsFailedError, ConfigurationError, StorageError
from hybrid_detect.monitoring.costs import summarise
from hybrid_detect.monitoring.events import BackendEvent, FrameEvent
from hybrid_detect.monitoring.prices import PRICE_TABLES
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.service import accounts
from hybrid_detect.service.hybrid import HybridDetectionService
from hybrid_detect.storage.cost_store import CostStore
from hybrid_detect.sync import HybridDetectionService as SyncService
from hybrid_detect.testing import FakeBackend
from hybrid_detect.types import BackendKind
from hybrid_detect.usage import Measure

from ..clock import FakeClock
from ..monitoring.cost_rows import NOON_S
from ..server.loopback import OneFace, served
from ..waiting import until

pytestmark = pytest.mark.anyio

IMAGE = np.zeros((96, 128, 3), np.uint8)
CLOUD, DEVICE = BackendKind.CLOUD, BackendKind.DEVICE


class Events:
    def __init__(self) -> None:
        self.frames: list[FrameEvent] = []
        self.backends: list[BackendEvent] = []

    def on_frame(self, event: FrameEvent) -> None:
        self.frames.append(event)

    def on_backend(self, event: BackendEvent) -> None:
        self.backends.append(event)


@pytest.fixture(autouse=True)
def wall(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    clock = FakeClock(NOON_S)
    monkeypatch.setattr(accounts, "wall_clock", clock)
    monkeypatch.setattr(accounts, "EXCHANGE_S", 0.02)
    return clock


def service(*kinds: str, hooks: Any = (), **config: Any) -> HybridDetectionService:
    values = {"deadline_s": 10.0, "price_per_frame": 0.5, "mode": "prefer_cloud"}
    return HybridDetectionService(
        config=ServiceConfig(**(values | config)),
        backends=[FakeBackend(kind) for kind in kinds],
        hooks=hooks,
    )


async def look(made: HybridDetectionService, times: int) -> list[str]:
    return [(await made.process_image(IMAGE)).backend or "" for _ in range(times)]


async def test_a_spent_budget_keeps_frames_on_the_device_and_says_so_once(
    wall: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    events = Events()
    made = service("cloud", "device", hooks=[events], budget_per_day=1, session_id="ann")
    async with made:
        await made.wait_ready()
        assert await look(made, 4) == ["cloud", "cloud", "device", "device"]
        status = made.status()
        assert [(each.period, each.spent) for each in status.budgets] == [("day", Decimal(1))]
        assert "cloud is out (the budget of 1.00 USD for this day is spent" in status.plan.reason
        assert (status.plan.backend, status.plan.fallbacks) == (DEVICE, ())
        cloud = next(each for each in status.backends if each.kind is CLOUD)
        assert "budget" in cloud.unavailable_reason
        assert (cloud.usable, cloud.breaker, cloud.failed) == (False, "closed", 0)
        told = [(each.usable, each.reason) for each in events.backends if each.backend is CLOUD]
        assert [usable for usable, _ in told] == [True, False]
        assert told[-1][1] == cloud.unavailable_reason
        wall.advance(12 * 3600)
        assert await look(made, 1) == ["cloud"]
        assert events.backends[-1].usable
    logged = [each for each in caplog.records if each.name == "hybrid_detect.costs"]
    assert len(logged) == 1
    assert logged[0].levelno == logging.WARNING
    spent = [request.price for event in events.frames for request in event.requests]
    assert spent == [Decimal("0.5")] * 3


async def test_without_a_device_a_frame_fails_rather_than_cost_more() -> None:
    made = service("cloud", spend_cap=0.5, mode="cloud")
    async with made:
        await made.wait_ready()
        assert await look(made, 1) == ["cloud"]
        with pytest.raises(AllBackendsFailedError, match=r"spending cap of 0.50 USD is reached"):
            await made.process_image(IMAGE)


async def test_a_target_that_costs_nothing_is_still_used() -> None:
    async with served(ServerConfig(), detector=OneFace()) as server:
        url = f"http://127.0.0.1:{server.port}"
        events = Events()
        targets = [
            Target(url=url, name="paid", price_per_frame=0.5, preference=0),
            Target(url=url, name="own", price_per_frame=0, preference=1),
        ]
        async with HybridDetectionService(
            config=ServiceConfig(mode="prefer_cloud", deadline_s=20.0, budget_per_hour=1),
            backends=[CloudDetectionService(targets=targets), FakeBackend("device")],
            hooks=[events],
        ) as made:
            await made.wait_ready()
            assert set(await look(made, 5)) == {"cloud"}
            assert made.status().plan.backend is CLOUD
    used = [request.target for event in events.frames for request in event.requests]
    assert used == ["paid", "paid", "own", "own", "own"]


async def test_frames_at_once_do_not_exceed_the_budget_together() -> None:
    async with served(ServerConfig(), detector=OneFace()) as server:
        target = Target(url=f"http://127.0.0.1:{server.port}", price_per_frame=0.5)
        events = Events()
        async with HybridDetectionService(
            config=ServiceConfig(mode="prefer_cloud", deadline_s=20.0, budget_per_day=2),
            backends=[CloudDetectionService(targets=[target]), FakeBackend("device")],
            hooks=[events],
        ) as made:
            await made.wait_ready()
            await asyncio.gather(*(made.process_image(IMAGE) for _ in range(12)))
            status = made.status()
            assert status.budgets[0].spent == 2
            (cloud,) = (each for each in status.backends if each.kind is CLOUD)
            assert (cloud.breaker, cloud.failed) == ("closed", 0), "money says nothing about it"
    assert sum(len(event.requests) for event in events.frames) == 4


@pytest.mark.parametrize("mode", ["cloud", "streaming"])
async def test_a_configured_server_has_the_configured_price(mode: str) -> None:
    events = Events()
    async with served(ServerConfig(), detector=OneFace()) as server:
        config = ServiceConfig(
            endpoint=f"http://127.0.0.1:{server.port}",
            mode=mode,
            deadline_s=20.0,
            price_per_frame=0.25,
            currency="EUR",
            budget_per_day=0.5,
        )
        async with HybridDetectionService(config=config, hooks=[events]) as made:
            await made.wait_ready()
            assert await look(made, 2) == [mode] * 2
            with pytest.raises(AllBackendsFailedError, match=r"0.50 EUR for this day is spent"):
                await made.process_image(IMAGE)
    sent = [request for event in events.frames for request in event.requests]
    assert [(each.backend, each.price, each.currency) for each in sent] == [
        (mode, Decimal("0.25"), "EUR")
    ] * 2
    assert all(each.answered and each.provider == "custom_backend" for each in sent)


# -- a file that is shared ------------------------------------------------------------------


async def test_a_budget_outlives_the_service(tmp_path: Path) -> None:
    path = tmp_path / "costs.db"
    options: dict[str, Any] = {"budget_per_month": 1, "costs_path": path, "session_id": "ann"}
    async with service("cloud", "device", **options) as made:
        await made.wait_ready()
        assert await look(made, 1) == ["cloud"]
    async with service("cloud", "device", **options) as made:
        await made.wait_ready()
        assert made.status().budgets[0].spent == Decimal("0.5")
        assert await look(made, 2) == ["cloud", "device"]
    with CostStore(path) as store:
        rows = store.rows()
        (everything,) = summarise(rows)
        assert (everything.frames, everything.requests) == (3, 2)
        assert everything.costs == {"USD": Decimal(1)}
        assert {each.key.session for each in rows} == {store.tag("session", "ann")}


async def test_services_that_share_a_file_see_one_budget(tmp_path: Path) -> None:
    options: dict[str, Any] = {"budget_per_day": 2, "costs_path": tmp_path / "costs.db"}
    async with (
        service("cloud", "device", **options) as one,
        service("cloud", "device", **options) as other,
    ):
        await one.wait_ready()
        await other.wait_ready()
        assert await look(one, 3) == ["cloud"] * 3
        await until(lambda: other.status().budgets[0].spent == Decimal("1.5"))
        assert await look(other, 2) == ["cloud", "device"]
        await until(lambda: one.status().budgets[0].spent == 2)
        assert await look(one, 1) == ["device"]


async def test_a_clock_that_was_a_year_ahead_does_not_hide_what_others_spent(
    tmp_path: Path, wall: FakeClock
) -> None:
    options: dict[str, Any] = {"budget_per_day": 1, "costs_path": tmp_path / "costs.db"}
    async with service("cloud", **options) as other:
        await other.wait_ready()
        await look(other, 2)
    async with service("cloud", "device", **options) as made:
        await made.wait_ready()
        assert made.status().budgets[0].spent == 1
        wall.advance(365 * 86_400)
        assert made.status().budgets[0].spent == 0
        async with service("cloud", **options) as other:
            await other.wait_ready()
            await look(other, 1)
        await until(lambda: made.status().budgets[0].spent == Decimal("0.5"))
        wall.advance(-365 * 86_400)
        await until(lambda: made.status().budgets[0].spent == 1)
        assert await look(made, 1) == ["device"]


async def test_costs_are_kept_by_user(tmp_path: Path) -> None:
    path = tmp_path / "costs.db"
    made = service("cloud", costs_path=path, session_id="visit-1", user_id="ann", mode="cloud")
    async with made:
        await made.wait_ready()
        await look(made, 1)
    with CostStore(path) as store:
        assert {each.key.user for each in store.rows()} == {store.tag("user", "ann")}


def test_prices_by_volume_need_a_file(tmp_path: Path) -> None:
    """Else each run of an app would begin with the month's free pictures."""
    options: dict[str, Any] = {"prices": [PRICE_TABLES["google"]]}
    with pytest.raises(ConfigurationError, match="costs_path"):
        HybridDetectionService(backends=[FakeBackend("device")], **options)
    config = ServiceConfig(costs_path=tmp_path / "costs.db")
    with SyncService(config=config, backends=[FakeBackend("device")], **options) as made:
        assert made.process_image(IMAGE).backend is DEVICE


async def test_a_budget_that_cannot_be_known_does_not_start(tmp_path: Path) -> None:
    path = tmp_path / "costs.db"
    path.write_bytes(b"something else entirely" * 100)
    with pytest.raises(StorageError):
        async with service("cloud", budget_per_day=1, costs_path=path):
            pass


async def test_a_disk_that_fails_costs_no_answer_and_no_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "costs.db"
    broken = True
    add = CostStore.add

    def failing(self: CostStore, rows: Any, *, usage: Any = ()) -> None:
        if broken:
            msg = "the disk is full"
            raise StorageError(msg)
        add(self, rows, usage=usage)

    monkeypatch.setattr(CostStore, "add", failing)
    async with service("cloud", "device", budget_per_day=1, costs_path=path) as made:
        await made.wait_ready()
        assert await look(made, 3) == ["cloud", "cloud", "device"]
        await until(lambda: any("not being kept" in each.message for each in caplog.records))
        broken = False
        with CostStore(path) as store:
            await until(lambda: summarise(store.rows())[0].requests == 2)
            outcomes = [row for row in store.usage() if row.key.measure == Measure.OUTCOME]
            assert sum(row.number for row in outcomes) == 3
        assert made.status().budgets[0].spent == 1
    assert sum("not being kept" in each.message for each in caplog.records) == 1


APP = """
import asyncio, signal, sys
import numpy as np
from hybrid_detect import HybridDetectionService, ServiceConfig, sync
from hybrid_detect.testing import FakeBackend

IMAGE = np.zeros((32, 32, 3), np.uint8)
CONFIG = ServiceConfig(mode="cloud", price_per_frame=0.001, costs_path=sys.argv[1])
made = lambda: HybridDetectionService(config=CONFIG, backends=[FakeBackend("cloud")])

async def main():
    async with made() as service:
        number = 0
        while True:
            await service.process_image(IMAGE, deadline_s=30)
            number += 1
            print(number, flush=True)
            await asyncio.sleep(0.005)
"""

RUN = "asyncio.run(main())"

HANDLED = f"""
signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
{RUN}
"""

COMMAND = f"""
from types import SimpleNamespace
from hybrid_detect import cli

def add_parser(commands):
    commands.add_parser("look").set_defaults(run=lambda _: {RUN})

cli.COMMANDS = (SimpleNamespace(add_parser=add_parser),)
sys.exit(cli.main(["look"]))
"""

LEFT_OPEN = """
async def leave():
    service = await made().__aenter__()
    for number in range(3):
        await service.process_image(IMAGE, deadline_s=30)

asyncio.run(leave())
"""

LEFT_OPEN_BLOCKING = """
service = sync.HybridDetectionService(config=CONFIG, backends=[FakeBackend("cloud")])
service.open()
for number in range(3):
    service.process_image(IMAGE, deadline_s=30)
"""


@pytest.mark.parametrize("end", [LEFT_OPEN, LEFT_OPEN_BLOCKING], ids=["async", "blocking"])
def test_an_app_that_ends_without_closing_its_service_has_kept_everything(
    end: str, tmp_path: Path
) -> None:
    path = tmp_path / "costs.db"
    subprocess.run([sys.executable, "-c", APP + end, str(path)], check=True, timeout=50)
    with CostStore(path) as store:
        assert summarise(store.rows())[0].requests == 3


def test_a_forked_child_that_ends_writes_nothing_of_its_parents(tmp_path: Path) -> None:
    path = tmp_path / "costs.db"
    end = """
import os
async def fork():
    async with made() as service:
        await service.process_image(IMAGE, deadline_s=30)
        if not (child := os.fork()):
            import atexit
            atexit._run_exitfuncs()
            os._exit(0)
        os.waitpid(child, 0)

asyncio.run(fork())
"""
    subprocess.run([sys.executable, "-c", APP + end, str(path)], check=True, timeout=50)
    with CostStore(path) as store:
        assert summarise(store.rows())[0].requests == 1


@pytest.mark.parametrize(
    ("end", "status"),
    [(HANDLED, -signal.SIGINT), (COMMAND, -signal.SIGTERM)],
    ids=["with the handler of the how-to", "the command"],
)
def test_an_app_that_is_asked_to_end_has_kept_everything(
    end: str, status: int, tmp_path: Path
) -> None:
    path = tmp_path / "costs.db"
    command = [sys.executable, "-c", APP + end, str(path)]
    app = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert app.stdout is not None
    while int(app.stdout.readline()) < 3:
        pass
    app.send_signal(signal.SIGTERM)
    paid = max([3, *(int(line) for line in app.stdout.read().split())])
    assert app.wait(timeout=30) == status
    app.stdout.close()
    with CostStore(path) as store:  # and the frame that was under way, if it was answered
        assert summarise(store.rows())[0].requests in {paid, paid + 1}


def test_a_killed_app_has_kept_all_but_its_last_moments(tmp_path: Path) -> None:
    path = tmp_path / "costs.db"
    command = [sys.executable, "-c", APP + RUN, str(path)]
    app = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert app.stdout is not None
    with CostStore(path) as store:
        known: list[int] = []
        while len(known) < 3:  # three exchanges with the file
            paid = int(app.stdout.readline())
            kept = summarise(store.rows())[0].requests
            if kept > (known[-1] if known else 0):
                known.append(kept)
        app.send_signal(signal.SIGKILL)
        paid = max([paid, *(int(line) for line in app.stdout.read().split())])
        app.wait(timeout=30)
        app.stdout.close()
        (everything,) = summarise(store.rows())
    assert known[-1] <= everything.requests <= paid + 1
    assert everything.costs == {"USD": everything.requests * Decimal("0.001")}

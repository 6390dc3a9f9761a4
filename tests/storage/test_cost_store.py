"""Costs in a file: exact after restarts and kills, shared, forgotten with the session."""

import json
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_detect.charges import CostKey, CostRow
from hybrid_detect.errors import ConfigurationError, StorageError
from hybrid_detect.storage import cost_table
from hybrid_detect.storage.cost_store import CostStore
from hybrid_detect.storage.history import DetectionHistory
from hybrid_detect.usage import UsageKey, UsageRow

from ..clock import FakeClock
from .kept import DAY_S, on_disk

HOUR = 490_000


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(datetime.fromtimestamp(HOUR * 3600, UTC))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "costs.db"


@pytest.fixture
def store(path: Path, clock: FakeClock) -> Iterator[CostStore]:
    with CostStore(path, clock=clock) as opened:
        yield opened


def row(hour: int = HOUR, *, images: int = 1, **key: str) -> CostRow:
    values = {"backend": "cloud", "target": "t", "provider": "google", "currency": "USD"}
    return CostRow(
        key=CostKey(hour, **{**values, **key}),
        frames=images,
        requests=images,
        answered=images,
        images=images,
        bytes_sent=images * 1000,
        price_nanos=images * 1_500_000,
    )


def images(rows: list[CostRow]) -> int:
    assert all(each.price_nanos == each.images * 1_500_000 for each in rows)
    return sum(each.images for each in rows)


def test_rows_of_one_key_are_added_up_and_outlive_the_process(store: CostStore, path: Path) -> None:
    store.add([row(session="ann", user="a"), row(session="ann", user="a", images=4)])
    store.add([row(session="bob"), row(HOUR + 1, session="ann", user="a")])
    store.close()
    with CostStore(path) as again:
        kept = again.rows()
        assert [each.key.hour for each in kept] == [HOUR, HOUR, HOUR + 1]
        assert sorted(each.images for each in kept) == [1, 1, 5]
        tag = again.tag("session", "ann")
        assert images([each for each in kept if each.key.session == tag]) == 6
        assert images([each for each in kept if each.key.user == again.tag("user", "a")]) == 6
        assert images(again.rows(from_hour=HOUR + 1)) == 1


def test_nobody_is_named_in_the_file(store: CostStore, path: Path) -> None:
    store.add([row(session="canary-session", user="canary-user")])
    store.close()
    assert b"canary" not in on_disk(path)


def test_after_a_day_costs_do_not_tell_whose_they_are(
    store: CostStore, clock: FakeClock, path: Path
) -> None:
    store.add([row(session="ann", user="a"), row(session="bob"), row()])
    digest = bytes.fromhex(store.tag("session", "ann"))
    clock.advance(DAY_S - 1)
    store.sweep()
    assert len(store.rows()) == 3
    assert digest in on_disk(path)
    clock.advance(1)
    store.sweep()
    (left,) = store.rows()
    assert (left.key.session, left.key.user, left.images) == ("", "", 3)
    assert digest not in on_disk(path)


def test_a_clock_set_back_keeps_names_no_longer_than_their_time(
    store: CostStore, clock: FakeClock
) -> None:
    clock.advance(30 * DAY_S)
    store.add([row(session="ann")])
    clock.advance(-30 * DAY_S)
    store.sweep()
    clock.advance(DAY_S)
    store.sweep()
    assert [each.key.session for each in store.rows()] == [""]


def test_sums_are_dropped_after_a_year_and_a_month(store: CostStore, clock: FakeClock) -> None:
    store.add([row()])
    clock.advance(399 * DAY_S)
    store.sweep()
    assert images(store.rows()) == 1
    clock.advance(2 * DAY_S)
    store.sweep()
    assert store.rows() == []


@pytest.mark.parametrize("by_history", [True, False])
def test_erasing_a_session_keeps_the_sums_and_forgets_whose_they_are(
    store: CostStore, path: Path, clock: FakeClock, by_history: bool
) -> None:
    store.add([row(session="ann"), row(HOUR + 1, session="ann"), row(session="bob"), row()])
    digest = bytes.fromhex(store.tag("session", "ann"))
    if by_history:
        with DetectionHistory(path, clock=clock, sweeps=False) as history:
            assert history.tag("ann") == store.tag("session", "ann")
            history.erase("ann", who="test")
    else:
        assert store.erase("ann") == 2
    kept = store.rows()
    assert images(kept) == 4
    assert {each.key.session for each in kept} == {"", store.tag("session", "bob")}
    store.close()
    if not by_history:  # the history's audit says whose results were erased
        assert digest not in on_disk(path)


def test_the_export_of_a_session_holds_its_costs(
    store: CostStore, path: Path, clock: FakeClock, tmp_path: Path
) -> None:
    store.add([row(session="ann"), row(session="bob", target="not ann's")])
    with DetectionHistory(path, clock=clock, sweeps=False) as history:
        history.add({"faces": []}, session="ann")
        history.export("ann", tmp_path / "ann.zip")
    with zipfile.ZipFile(tmp_path / "ann.zip") as archive:
        (told,) = json.loads(archive.read("costs.json"))
    assert told["price"] == "0.001500000"
    assert told["hour"].startswith("2025-11-24T16")
    assert (told["target"], told["images"], told["currency"]) == ("t", 1, "USD")


@pytest.mark.parametrize("session", ["", "x" * 1025])
def test_what_cannot_be_a_session_erases_nothing(store: CostStore, session: str) -> None:
    store.add([row(images=3), row(session="ann")])
    with pytest.raises(ConfigurationError, match="session"):
        store.erase(session)
    assert images(store.rows()) == 4


def test_an_erased_session_leaves_no_copy_of_its_digest(store: CostStore, path: Path) -> None:
    """In random histories: SQLite moves rows between pages, and leaves what it moved behind."""
    chance = random.Random(7)
    sessions = [f"s{number}" for number in range(12)]
    for _ in range(60):
        store.add(
            [
                row(HOUR + chance.randrange(6), session=each, user=each)
                for each in chance.sample(sessions, 4)
            ]
        )
    for session in sessions:
        digests = [bytes.fromhex(store.tag(kind, session)) for kind in ("session", "user")]
        assert digests[0] in on_disk(path)
        store.erase(session)
        assert not any(digest in on_disk(path) for digest in digests), session
    assert images(store.rows()) == 240


def test_names_that_another_process_kept_in_the_log_are_removed_later(
    store: CostStore, path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.add([row(session="ann")])
    digest = bytes.fromhex(store.tag("session", "ann"))
    clock.advance(DAY_S)
    with monkeypatch.context() as patch:
        patch.setattr(store._file, "forget", lambda: False)
        store.sweep()
    assert digest in on_disk(path)
    store.sweep()
    assert digest not in on_disk(path)


VERSION_4 = """
DROP TABLE spent;
CREATE TABLE costs (
    hour INTEGER NOT NULL, session BLOB NOT NULL, user BLOB NOT NULL,
    backend TEXT NOT NULL, target TEXT NOT NULL, provider TEXT NOT NULL, region TEXT NOT NULL,
    currency TEXT NOT NULL, frames INTEGER NOT NULL, requests INTEGER NOT NULL,
    answered INTEGER NOT NULL, images INTEGER NOT NULL, bytes_sent INTEGER NOT NULL,
    price_nanos INTEGER NOT NULL, recorded_at REAL NOT NULL, kept_s REAL NOT NULL,
    PRIMARY KEY (hour, session, user, backend, target, provider, region, currency)
) WITHOUT ROWID;
PRAGMA user_version = 4;
"""


def test_costs_of_the_version_before_are_taken_over(
    store: CostStore, path: Path, clock: FakeClock
) -> None:
    seen = UsageRow(UsageKey(HOUR, "ann", "a", "", "outcome", "cloud", "answered"), 1)
    store.add([], usage=[seen])  # whose owner's costs are ann's of the first hour, too
    digests = {name: bytes.fromhex(store.tag("session", name)) for name in ("ann", "bob")}
    user = bytes.fromhex(store.tag("user", "a"))
    store.close()
    kept = [
        (HOUR, digests["ann"], user, "a", 1),
        (HOUR, digests["ann"], user, "b", 2),
        (HOUR + 1, digests["ann"], user, "a", 4),
        (HOUR, digests["bob"], b"", "a", 8),
        (HOUR, b"", b"", "a", 16),
        (HOUR + 1, b"", b"", "a", 32),
    ]
    old = sqlite3.connect(path)
    old.executescript(VERSION_4)
    old.executemany(
        "INSERT INTO costs VALUES (?, ?, ?, 'cloud', ?, 'google', 'eu', 'USD', 1, 1, 1, ?, 9, 7,"
        " ?, ?)",
        [(*each, HOUR * 3600.0, DAY_S) for each in kept],
    )
    old.commit()
    old.close()
    with CostStore(path, clock=clock) as again:
        told = [
            (hour, bytes.fromhex(session), bytes.fromhex(user), target, each.images)
            for each in again.rows()
            for hour, session, user, _, target, *_ in [each.key]
        ]
        assert sorted(told) == sorted(kept)
        assert {each.figures[:3] + each.figures[4:] for each in again.rows()} == {(1, 1, 1, 9, 7)}
        assert len(again.usage()) == 1
        assert again.erase("ann") == 3
        assert digests["ann"] not in on_disk(path)
        clock.advance(DAY_S)
        again.sweep()
        assert digests["bob"] not in on_disk(path)
        assert sum(each.images for each in again.rows()) == 63


ROWS = st.builds(
    row,
    st.integers(HOUR - 800, HOUR),
    images=st.integers(0, 16),
    session=st.sampled_from(["", "ann", "bob"]),
    user=st.sampled_from(["", "u"]),
    target=st.sampled_from("ab"),
    currency=st.sampled_from(["USD", "EUR"]),
)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.one_of(st.lists(ROWS, max_size=5), st.just("sweep"), st.just("erase"))))
def test_sums_stay_whatever_is_forgotten(
    tmp_path_factory: pytest.TempPathFactory, steps: list[Any]
) -> None:
    clock = FakeClock(datetime.fromtimestamp(HOUR * 3600, UTC))
    added = 0
    with CostStore(tmp_path_factory.mktemp("costs") / "costs.db", clock=clock) as store:
        for step in steps:
            if step == "sweep":
                clock.advance(DAY_S / 2)
                store.sweep()
            elif step == "erase":
                store.erase("ann")
                assert store.tag("session", "ann") not in {r.key.session for r in store.rows()}
            else:
                store.add(step)
                added += sum(each.images for each in step)
            assert images(store.rows()) == added


WRITER = """
import sys
from hybrid_detect.charges import CostKey, CostRow
from hybrid_detect.storage.cost_store import CostStore

key = CostKey(int(sys.argv[2]), "s", "", "cloud", "t", "google", "", "USD")
with CostStore(sys.argv[1]) as store:
    for number in range(int(sys.argv[3])):
        store.add([CostRow(key=key, images=1, price_nanos=1_500_000)] * 2)
        print(number + 1, flush=True)
"""


def writer(path: Path, times: int) -> "subprocess.Popen[str]":
    # The writer's clock is the machine's, and sums older than a year and a month are dropped.
    now = int(time.time()) // 3600
    command = [sys.executable, "-c", WRITER, str(path), str(now), str(times)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_two_processes_lose_nothing_of_each_other_s(path: Path, store: CostStore) -> None:
    writers = [writer(path, 100) for _ in range(2)]
    for number in range(50):
        store.add([row()])
        assert images(store.rows()) >= number
    for each in writers:
        each.communicate(timeout=50)
        assert each.returncode == 0
    assert images(store.rows()) == 50 + 2 * 2 * 100


def test_a_writer_that_is_killed_leaves_what_it_had_added(path: Path, store: CostStore) -> None:
    killed = writer(path, 1_000_000)
    assert killed.stdout is not None
    done = 0
    while done < 30:
        done = int(killed.stdout.readline())
    killed.send_signal(signal.SIGKILL)
    done = max([done, *(int(line) for line in killed.stdout.read().split())])
    killed.wait(timeout=30)
    killed.stdout.close()
    kept = images(store.rows())
    assert kept % 2 == 0, "a transaction is there in part"
    assert 2 * done <= kept <= 2 * done + 2
    store.add([row()])
    assert images(store.rows()) == kept + 1


def test_a_store_knows_when_others_have_written(
    store: CostStore, path: Path, clock: FakeClock
) -> None:
    store.has_changed()
    store.add([row()])
    assert not store.has_changed()
    with CostStore(path, clock=clock) as other:
        assert not store.has_changed()
        other.add([row()])
        assert store.has_changed()
        assert not store.has_changed()


def test_who_adds_nothing_forgets_all_the_same(store: CostStore, clock: FakeClock) -> None:
    store.add([row(session="ann")])
    clock.advance(DAY_S)
    store.sweep_if_due()
    assert [each.key.session for each in store.rows()] == [""]


def test_threads_may_share_a_store(store: CostStore) -> None:
    threads = [
        threading.Thread(target=lambda: [store.add([row()]) for _ in range(20)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert images(store.rows()) == 80


def test_a_row_that_cannot_be_added_adds_none(store: CostStore) -> None:
    with pytest.raises(ConfigurationError):
        store.add([row(), row(session="x" * 2000)])
    assert store.rows() == []


def test_a_text_that_cannot_be_written_is_a_typed_error_and_adds_nothing(
    store: CostStore,
) -> None:
    with pytest.raises(StorageError, match="no Unicode") as caught:
        store.add([row(), row(target="canary\udcff")])
    assert "canary" not in str(caught.value) + str(caught.value.__cause__)
    assert store.rows() == []


def test_what_could_not_forget_adds_nothing(
    store: CostStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that rows may be added again after an error, and are not counted twice."""

    def broken(*_: Any, **__: Any) -> int:
        raise StorageError

    store.add([row()])
    clock.advance(DAY_S)
    with monkeypatch.context() as patch:
        patch.setattr(cost_table.COSTS, "sweep", broken)
        with pytest.raises(StorageError):
            store.add([row()])
    store.add([row()])
    assert images(store.rows()) == 2


def test_a_damaged_table_is_an_error(store: CostStore, path: Path) -> None:
    store.add([row()])
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("UPDATE spent SET images = 'many'")
    other.close()
    with pytest.raises(StorageError, match="damaged"):
        store.rows()


@pytest.mark.parametrize("seconds", [0, -1, float("inf"), float("nan")])
def test_names_are_not_kept_for_ever(path: Path, seconds: float) -> None:
    with pytest.raises(ConfigurationError):
        CostStore(path, names_kept_s=seconds)
    assert not path.exists()


def test_the_table_s_columns_are_those_of_a_row() -> None:
    assert CostKey._fields[3:] == cost_table._WHERE
    assert CostRow(key=CostKey(0), **dict.fromkeys(cost_table._FIGURES, 7)).figures == (7,) * 6

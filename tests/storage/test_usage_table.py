"""Counts in a history's file: added up, forgotten with their session, brought into older files."""

import io
import json
import random
import sqlite3
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hybrid_detect.charges import CostKey, CostRow
from hybrid_detect.errors import StorageError
from hybrid_detect.monitoring.events import FeedbackEvent
from hybrid_detect.storage.cost_store import CostStore
from hybrid_detect.storage.history import DetectionHistory
from hybrid_detect.types import BackendKind, DetectionResult, DetectionStatus, FeedbackVerdict
from hybrid_detect.usage import UsageKey, UsageRow

from ..clock import FakeClock
from .kept import DAY_S, JPEG, on_disk

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


def row(hour: int = HOUR, *, session: str = "", user: str = "", number: int = 1) -> UsageRow:
    return UsageRow(UsageKey(hour, session, user, "DE", "outcome", "cloud", "answered"), number)


def test_counts_are_added_up_and_outlive_the_process(store: CostStore, path: Path) -> None:
    store.add([], usage=[row(session="ann", user="a"), row(session="ann", user="a", number=4)])
    store.add([], usage=[row(session="bob"), row(HOUR + 1, session="ann", user="a"), row()])
    store.close()
    with CostStore(path) as again:
        kept = again.usage()
        tag = again.tag("session", "ann")
        assert sorted((each.key.hour, each.number) for each in kept if each.key.session == tag) == [
            (HOUR, 5),
            (HOUR + 1, 1),
        ]
        assert {each.key.user for each in kept if each.key.session == tag} == {
            again.tag("user", "a")
        }
        assert [each.number for each in again.usage(from_hour=HOUR + 1)] == [1]
        assert sum(each.number for each in again.usage(end_hour=HOUR + 1)) == 7
        assert {each.key[3:] for each in kept} == {("DE", "outcome", "cloud", "answered")}


def test_costs_and_counts_are_kept_together_or_not_at_all(store: CostStore) -> None:
    cost = CostRow(key=CostKey(HOUR, "ann"), frames=1)
    with pytest.raises(StorageError):
        store.add([cost], usage=[row(), row()._replace(number=None)])  # type: ignore[arg-type]
    assert store.rows() == []
    assert store.usage() == []


def test_names_are_forgotten_after_their_time_and_counts_stay(
    store: CostStore, clock: FakeClock, path: Path
) -> None:
    store.add([], usage=[row(session="canary-ann", user="canary-a"), row(session="bob"), row()])
    assert b"canary" not in on_disk(path)
    digests = [bytes.fromhex(store.tag("session", "bob")), bytes.fromhex(store.tag("user", "a"))]
    clock.advance(DAY_S - 1)
    store.sweep()
    assert len(store.usage()) == 3
    clock.advance(1)
    store.sweep()
    (left,) = store.usage()
    assert (left.key.session, left.key.user, left.number) == ("", "", 3)
    assert not any(digest in on_disk(path) for digest in digests)


def test_an_erased_session_leaves_no_trace_of_its_digest(
    path: Path, store: CostStore, clock: FakeClock
) -> None:
    """In random histories, as SQLite moves rows between pages."""
    chance = random.Random(7)
    sessions = [f"s{number}" for number in range(30)]
    for _ in range(20):
        store.add(
            [],
            usage=[
                UsageRow(
                    UsageKey(
                        HOUR + chance.randrange(24),
                        session := chance.choice(sessions),
                        session,
                        "",
                        "latency",
                        "cloud",
                        str(chance.randrange(40)),
                    ),
                    1,
                )
                for _ in range(100)
            ],
        )
    total = sum(each.number for each in store.usage())
    for session in sessions[:25]:
        digests = [bytes.fromhex(store.tag(kind, session)) for kind in ("session", "user")]
        with DetectionHistory(path, clock=clock, sweeps=False) as history:
            history.erase(session)
        assert not any(digest in on_disk(path) for digest in digests), session
    assert sum(each.number for each in store.usage()) == total == 2000
    left = {each.key.session for each in store.usage()}
    assert left == {"", *(store.tag("session", session) for session in sessions[25:])}


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from hybrid_detect import CostStore, StorageError
from hybrid_detect.usage import UsageKey, UsageRow
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path = Path(sys.argv[1])
def rows(hours, session):
    return [
        UsageRow(UsageKey(490_000 + hour, session, session, "", "latency", "cloud", str(n)), 1)
        for hour in hours for n in range(60)
    ]
with CostStore(path, names_kept_s=1e9, clock=lambda: 490_000 * 3600.0) as store:
    store.add([], usage=rows(range(200), "ann"))
    digests = [bytes.fromhex(store.tag(kind, "ann")) for kind in ("session", "user")]
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size, resource.RLIM_INFINITY))
    try:
        store.add([], usage=rows(range(1000, 1400), "bob"))
        print("there was room")
    except StorageError:
        pass
    store.erase("ann")
    left = b"".join(file.read_bytes() for file in path.parent.glob(f"{path.name}*"))
    print(any(digest in left for digest in digests))
    print(sum(row.number for row in store.usage()), {row.key.session for row in store.usage()})
"""


def test_a_session_is_erased_from_the_counts_on_a_full_disk(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path)], capture_output=True, text=True, timeout=50
    )
    assert done.stdout.split("\n")[:2] == ["False", "12000 {''}"], done.stdout + done.stderr


def test_counts_are_dropped_after_a_year_and_a_month(store: CostStore, clock: FakeClock) -> None:
    store.add([], usage=[row(session="ann")])
    clock.advance(399 * DAY_S)
    store.sweep()
    assert [each.number for each in store.usage()] == [1]
    clock.advance(2 * DAY_S)
    store.sweep()
    assert store.usage() == []


def test_an_export_has_the_counts_of_its_session_alone(
    path: Path, store: CostStore, clock: FakeClock, tmp_path: Path
) -> None:
    store.add([], usage=[row(session="ann", number=3), row(session="bob", number=5)])
    with DetectionHistory(path, clock=clock, sweeps=False) as history:
        history.export("ann", tmp_path / "ann.zip")
    with zipfile.ZipFile(tmp_path / "ann.zip") as archive:
        assert json.loads(archive.read("usage.json")) == [
            {
                "hour": "2025-11-24T16:00:00+00:00",
                "user_region": "DE",
                "measure": "outcome",
                "backend": "cloud",
                "label": "answered",
                "count": 3,
            }
        ]


@pytest.mark.parametrize("version", [2, 3])
def test_a_file_of_an_older_version_is_brought_up_to_date(
    path: Path, clock: FakeClock, version: int
) -> None:
    with DetectionHistory(path, clock=clock, sweeps=False) as history:
        history.add({"faces": []}, session="ann")
    old = sqlite3.connect(path, isolation_level=None)
    for table in ("usage", "usage_owners", "spent"):
        old.execute(f"DROP TABLE {table}")
    if version == 3:
        where = "backend, target, provider, region, currency"
        figures = "frames, requests, answered, images, bytes_sent, price_nanos"
        old.execute(
            f"CREATE TABLE costs (hour, session, user, {where}, {figures}, recorded_at, kept_s)"
        )
    old.execute(f"PRAGMA user_version = {version}")
    old.close()
    with CostStore(path, clock=clock) as store:
        store.add([CostRow(key=CostKey(HOUR, "ann"), frames=1)], usage=[row(session="ann")])
        assert [each.number for each in store.usage()] == [1]
        assert [each.frames for each in store.rows()] == [1]
    with DetectionHistory(path, clock=clock, sweeps=False) as history:
        assert len(list(history.results("ann"))) == 1


@pytest.mark.parametrize(
    "damage", ["count = 'canary'", "count = -1", f"hour = {2**40}", "label = x'00'"]
)
def test_a_damaged_count_is_a_typed_error(store: CostStore, path: Path, damage: str) -> None:
    store.add([], usage=[row()])
    other = sqlite3.connect(path, isolation_level=None)
    other.execute(f"UPDATE usage SET {damage}")  # noqa: S608 - ours
    other.close()
    with pytest.raises(StorageError, match="damaged") as caught:
        store.usage()
    assert "canary" not in str(caught.value)


# -- what is said of a result --------------------------------------------------------------------


def result(frame_id: int = 7, captured_at_s: float = 12.25) -> DetectionResult:
    return DetectionResult(
        status=DetectionStatus.OK,
        width=640,
        height=480,
        backend=BackendKind.DEVICE,
        frame_id=frame_id,
        captured_at_s=captured_at_s,
        session_id="ann",
    )


def said(
    of: DetectionResult, verdict: str = "missed_face", *, face: int | None = None
) -> FeedbackEvent:
    assert of.backend is not None
    return FeedbackEvent(
        at_s=HOUR * 3600.0,
        verdict=FeedbackVerdict(verdict),
        face=face,
        session_id=of.session_id,
        frame_id=of.frame_id,
        captured_at_s=of.captured_at_s,
        backend=of.backend,
    )


def test_feedback_is_kept_with_the_record_of_its_frame(path: Path, clock: FakeClock) -> None:
    with DetectionHistory(path, clock=clock, sweeps=False) as history:
        for each in (result(7, 1.0), result(7, 12.25), result(77)):  # the first: another process
            history.add(each, image=JPEG + b"picture")
        history.on_feedback(said(result(), "missed_face"))
        history.on_feedback(said(result(), "false_positive", face=1))
        kept = list(history.results("ann"))
    assert [each.result.get("feedback", []) for each in kept] == [
        [],
        [
            {"at": "2025-11-24T16:00:00+00:00", "verdict": "missed_face", "face": None},
            {"at": "2025-11-24T16:00:00+00:00", "verdict": "false_positive", "face": 1},
        ],
        [],
    ]
    assert {each.image for each in kept} == {JPEG + b"picture"}


def test_feedback_is_exported_and_erased_with_its_record(path: Path, clock: FakeClock) -> None:
    with DetectionHistory(path, clock=clock, sweeps=False) as history:
        history.add(result())
        history.on_feedback(said(result()))
        pieces = io.BytesIO(b"".join(history.export_pieces("ann")))
        with zipfile.ZipFile(pieces) as archive:
            (told,) = json.loads(archive.read("results.json"))["results"]
        history.erase("ann")
    assert told["result"]["feedback"][0]["verdict"] == "missed_face"
    assert b"missed_face" not in on_disk(path)


def test_feedback_on_a_damaged_record_does_not_make_it_whole(path: Path, clock: FakeClock) -> None:
    with DetectionHistory(path, clock=clock, sweeps=False) as history:
        history.add(result())
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("UPDATE records SET result = replace(result, '640', '641')")
        other.close()
        with pytest.raises(StorageError, match="damaged"):
            history.on_feedback(said(result()))
        with pytest.raises(StorageError, match="damaged"):
            list(history.results("ann"))


def test_feedback_without_a_record_is_logged_and_changes_nothing(
    path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    with DetectionHistory(path, clock=clock, sweeps=False) as history:
        history.add(result(8))
        history.on_feedback(said(result(7)))
        assert "feedback" not in next(history.results("ann")).result
    assert "no record" in caplog.text


def test_a_record_takes_a_hundred_judgements(path: Path, clock: FakeClock) -> None:
    with DetectionHistory(path, clock=clock, sweeps=False) as history:
        history.add(result())
        for _ in range(102):
            history.on_feedback(said(result()))
        assert len(next(history.results("ann")).result["feedback"]) == 100

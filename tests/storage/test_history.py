import io
import json
import logging
import random
import re
import sqlite3
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hybrid_detect.errors import (
    ConfigurationError,
    InvalidFrameError,
    StorageError,
)
from hybrid_detect.storage import audit, database, history
from hybrid_detect.storage.history import DetectionHistory
from hybrid_detect.storage.records import Deleted
from hybrid_detect.types import BackendKind, BoundingBox, DetectionResult, DetectionStatus, Face

from ..clock import FakeClock
from .kept import DAY_S, JPEG, KIB, counts, on_disk


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(datetime(2026, 11, 23, 12, tzinfo=UTC))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history.db"


@pytest.fixture
def kept(path: Path, clock: FakeClock) -> Iterator[DetectionHistory]:
    with DetectionHistory(path, clock=clock, sweeps=False) as made:
        yield made


def result(**changes: Any) -> DetectionResult:
    values: dict[str, Any] = {
        "status": DetectionStatus.OK,
        "width": 640,
        "height": 480,
        "faces": (Face(BoundingBox(1, 2, 30, 40), 0.9),),
        "backend": BackendKind.DEVICE,
    }
    return DetectionResult(**{**values, **changes})


# -- keeping ---------------------------------------------------------------------------------


def test_a_result_comes_back_as_it_was_kept(kept: DetectionHistory, clock: FakeClock) -> None:
    seen = result(session_id="ann")
    kept.add(seen)
    kept.add(seen, session="ann", image=JPEG)
    kept.add({"faces": None}, session="bob")
    first, second = kept.results("ann")
    told = json.loads(seen.to_json())
    assert told.pop("session_id") == "ann"
    assert first.result == told
    assert first.recorded_at == datetime.fromtimestamp(clock.now_s, UTC)
    assert (first.image, second.image) == (None, JPEG)
    assert first.number < second.number
    assert [each.image for each in kept.results("ann", images=False)] == [None, None]
    assert [each.result for each in kept.results("bob")] == [{"faces": None}]


def test_a_session_is_not_named_in_the_files(path: Path, clock: FakeClock) -> None:
    name = "canary-session"
    with DetectionHistory(path, clock=clock, sweeps=False) as kept:
        kept.add(result(session_id=name), image=JPEG)
        kept.add(result(session_id=name).to_dict(), session=name)
        kept.erase("another", who="test")
        assert name.encode() not in on_disk(path)
        assert counts(kept, name) == Deleted(2, 1)
    assert name.encode() not in on_disk(path)


def test_a_session_belongs_to_its_owner(kept: DetectionHistory) -> None:
    kept.add({}, session="ann", owner="key 1")
    assert counts(kept, owner="key 1") == Deleted(1)
    for owner in ("", "key 2", "key 1 "):
        assert counts(kept, owner=owner) == Deleted()
        assert kept.erase("ann", owner=owner) == Deleted()
    assert counts(kept, owner="key 1") == Deleted(1)


@pytest.mark.parametrize("session", [None, "", "x" * 1025, 7])
def test_what_could_not_be_asked_for_again_is_not_kept(
    kept: DetectionHistory, session: Any
) -> None:
    with pytest.raises(ConfigurationError):
        kept.add(result(), session=session)


def test_pixels_are_not_kept_by_mistake(kept: DetectionHistory) -> None:
    pixels: Any = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(InvalidFrameError, match="ndarray"):
        kept.add(result(), session="ann", image=pixels)
    assert counts(kept) == Deleted()


def test_a_history_that_cannot_delete_takes_in_nothing(
    kept: DetectionHistory, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(now: float | None = None) -> Deleted:
        raise StorageError

    monkeypatch.setattr(kept, "sweep", broken)
    clock.now_s += history.SWEEP_EVERY_S
    with pytest.raises(StorageError):
        kept.add({}, session="ann")
    assert counts(kept) == Deleted()


def test_any_text_can_be_a_session(kept: DetectionHistory) -> None:
    names = ["../../etc/passwd", "a\0b", "\udcff", "'; DROP TABLE records; --", "\N{GRINNING FACE}"]
    for name in names:
        kept.add({"name": name}, session=name)
    for name in names:
        assert [each.result for each in kept.results(name)] == [{"name": name}]
        assert kept.erase(name) == Deleted(1)


def test_a_history_is_the_same_after_a_restart(path: Path, clock: FakeClock) -> None:
    with DetectionHistory(path, clock=clock, sweeps=False) as kept:
        kept.add(result(), session="ann", image=JPEG)
        before, tag = list(kept.results("ann")), kept.tag("ann")
    with DetectionHistory(path, clock=clock, sweeps=False) as kept:
        assert list(kept.results("ann")) == before
        assert kept.tag("ann") == tag


def test_what_is_added_while_reading_waits_for_the_next_time(kept: DetectionHistory) -> None:
    for number in range(3):
        kept.add({"n": number}, session="ann")
    reading = kept.results("ann")
    next(reading)
    kept.add({"n": 3}, session="ann")
    assert [each.result["n"] for each in reading] == [1, 2]


def test_many_threads_keep_everything(kept: DetectionHistory) -> None:
    def work(name: str) -> None:
        for number in range(20):
            kept.add({"n": number}, session=name, image=JPEG + bytes(2000))
            if number % 5 == 0:
                kept.sweep()
                list(kept.results(name))

    threads = [threading.Thread(target=work, args=(f"s{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    for number in range(4):
        found = [each.result["n"] for each in kept.results(f"s{number}")]
        assert found == list(range(20))


# -- for how long ----------------------------------------------------------------------------


def test_after_a_day_it_is_gone(kept: DetectionHistory, clock: FakeClock) -> None:
    kept.add({}, session="ann", image=JPEG)
    clock.now_s += DAY_S - 1
    assert counts(kept) == Deleted(1, 1)
    assert kept.sweep() == Deleted()
    clock.now_s += 1
    assert counts(kept) == Deleted()
    assert kept.sweep() == Deleted(1, 1)


def test_opening_deletes_what_has_expired(path: Path, clock: FakeClock) -> None:
    with DetectionHistory(path, clock=clock, sweeps=False) as kept:
        kept.add({}, session="ann", image=JPEG + b"CANARY" * 1000)
    assert b"CANARY" in on_disk(path)
    clock.now_s += DAY_S
    with DetectionHistory(path, clock=clock, sweeps=False):
        assert b"CANARY" not in on_disk(path)


def test_writing_deletes_what_has_expired(
    path: Path, kept: DetectionHistory, clock: FakeClock
) -> None:
    kept.add({}, session="ann", image=JPEG + b"CANARY" * 1000)
    clock.now_s += DAY_S
    kept.add({}, session="bob")
    assert b"CANARY" not in on_disk(path)


def test_it_deletes_by_itself_while_nothing_happens(path: Path) -> None:
    swept = threading.Event()
    clock = FakeClock(datetime(2026, 11, 23, 12, tzinfo=UTC))

    class Watched(DetectionHistory):
        def sweep(self, now: float | None = None) -> Deleted:
            deleted = super().sweep(now)
            if deleted.results:
                swept.set()
            return deleted

    with Watched(path, retention_s=0.1, clock=clock) as kept:
        kept.add({}, session="ann")
        clock.now_s += 1
        assert swept.wait(5)


def test_a_sweep_that_fails_is_told_once_and_tried_again(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tried = threading.Semaphore(0)

    class Broken(DetectionHistory):
        def sweep(self, now: float | None = None) -> Deleted:
            tried.release()
            if threading.current_thread() is not threading.main_thread():
                msg = "the disk is full"
                raise StorageError(msg)
            return super().sweep(now)

    with Broken(path, retention_s=0.01):
        for _ in range(4):
            assert tried.acquire(timeout=5)
    assert [r.message for r in caplog.records if r.levelno == logging.ERROR] == [
        "what has expired cannot be deleted: the disk is full"
    ]


def test_many_expired_rows_go_in_one_sweep(kept: DetectionHistory, clock: FakeClock) -> None:
    for _ in range(2 * history.BATCH + 1):
        kept.add({}, session="ann")
    clock.now_s += DAY_S
    assert kept.sweep() == Deleted(2 * history.BATCH + 1)


def test_a_clock_that_jumps_forward_deletes_too_early_not_too_late(
    kept: DetectionHistory, clock: FakeClock
) -> None:
    kept.add({}, session="ann")
    clock.now_s += 10 * DAY_S
    assert kept.sweep() == Deleted(1)


def test_what_a_wrong_clock_dated_into_the_future_gets_no_more_than_its_time(
    kept: DetectionHistory, clock: FakeClock
) -> None:
    kept.add({}, session="ann")
    clock.now_s -= 1000 * DAY_S  # the clock was set right
    kept.add({}, session="bob")  # writing sweeps at once after a jump
    clock.now_s += DAY_S - 1
    assert counts(kept, "ann") == Deleted(1)
    clock.now_s += 1
    assert kept.sweep() == Deleted(2)


def test_a_day_can_be_another_time(path: Path, clock: FakeClock) -> None:
    with DetectionHistory(path, clock=clock, retention_s=60, sweeps=False) as kept:
        kept.add({}, session="ann")
        clock.now_s += 60
        assert kept.sweep() == Deleted(1)


# -- erasure ---------------------------------------------------------------------------------


def test_erasing_takes_one_session_and_leaves_the_others(kept: DetectionHistory) -> None:
    for session in ("ann", "bob", "ann"):
        kept.add({}, session=session, image=JPEG if session == "ann" else None)
    assert kept.erase("ann") == Deleted(2, 2)
    assert kept.erase("ann") == Deleted()
    assert counts(kept, "ann") == Deleted()
    assert counts(kept, "bob") == Deleted(1)


@pytest.mark.parametrize("seed", [3, 8, 9])
def test_nothing_deleted_can_be_found_in_the_files(path: Path, clock: FakeClock, seed: int) -> None:
    """Random histories that leave remains where rows have no padding, as SQLite moves them."""
    chance = random.Random(seed)
    sessions = [f"session{number}" for number in range(8)]
    with DetectionHistory(path, clock=clock, retention_s=300, sweeps=False) as kept:
        for turn in range(400):
            clock.now_s += 1
            session = chance.choice(sessions)
            canary = f"<{session}-{turn}>"
            image = (canary * chance.randrange(1, 900)).encode() if chance.random() < 0.05 else None
            text = canary * chance.randrange(1, 12)
            kept.add({"text": text}, session=session, image=image)
            if chance.random() > 0.1:
                continue
            if chance.random() < 0.5:
                kept.erase(session)
            else:
                clock.now_s += chance.randrange(100)
            kept.sweep()
            readable = {
                each.result["text"].partition(">")[0].encode()
                for name in sessions
                for each in kept.results(name, images=False)
            }
            assert set(re.findall(rb"<session\d-\d+(?=>)", on_disk(path))) == readable
        for name in sessions:
            kept.erase(name)
        assert not re.search(rb"session\d", on_disk(path))


def erasures_with_remains(path: Path, clock: FakeClock, *, seed: int) -> tuple[int, int]:
    """Erasures in a random history after which the session's digest is still in the files."""
    chance = random.Random(seed)
    sessions = [f"session{number}" for number in range(chance.choice((4, 40)))]
    remains = erasures = 0
    with DetectionHistory(path, clock=clock, sweeps=False) as kept:
        for turn in range(1200):
            clock.now_s += 1
            kept.add({"text": "x" * chance.randrange(200)}, session=chance.choice(sessions))
            if turn % 25 == 24:
                kept.erase(session := chance.choice(sessions))
                erasures += 1
                remains += bytes.fromhex(kept.tag(session)) in on_disk(path)
    return remains, erasures


@pytest.mark.parametrize("seed", [1, 2])
def test_an_erased_session_leaves_no_digest_outside_of_the_audit(
    path: Path, clock: FakeClock, seed: int
) -> None:
    remains, erasures = erasures_with_remains(path, clock, seed=seed)
    assert (remains, erasures) == (0, 48)


def test_in_a_file_that_is_too_large_to_be_written_anew_it_may(
    path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the test above can fail."""
    monkeypatch.setattr(database, "REWRITE_BYTES", 0)
    assert sum(erasures_with_remains(path, clock, seed=each)[0] for each in (1, 2)) > 0


def test_erasing_says_so_if_another_process_keeps_an_older_state(
    path: Path, kept: DetectionHistory, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.add({}, session="ann", image=b"CANARY" * 1000)
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM records").fetchone()
    with kept._file.reading() as db:
        db.execute("PRAGMA busy_timeout = 1")
    try:
        with pytest.raises(StorageError, match="another process"):
            kept.erase("ann")
        assert counts(kept) == Deleted()
    finally:
        reader.close()
    kept.sweep()
    assert b"CANARY" not in on_disk(path)


# -- portability -----------------------------------------------------------------------------


def test_an_export_holds_every_result_and_picture(
    kept: DetectionHistory, clock: FakeClock, tmp_path: Path
) -> None:
    pictures = [JPEG + b"1", b"\x89PNG\r\n\x1a\n", b"RIFF....WEBP", b"?", None]
    for picture in pictures:
        clock.now_s += 1
        kept.add(result(), session="ann", image=picture)
    kept.add(result(), session="bob", image=JPEG + b"CANARY")
    target = kept.export("ann", tmp_path / "ann.zip")
    assert target.stat().st_mode & 0o777 == 0o600
    with zipfile.ZipFile(target) as bundle:
        assert bundle.testzip() is None
        listing = json.loads(bundle.read("results.json"))
        assert listing["session"] == "ann"
        assert [line["result"]["width"] for line in listing["results"]] == [640] * 5
        assert [
            each and bundle.read(each) for each in (r["image"] for r in listing["results"])
        ] == pictures
        suffixes = [name.rpartition(".")[2] for name in bundle.namelist()]
        assert suffixes == ["jpg", "png", "webp", "bin", "json"]
        times = [datetime.fromisoformat(line["recorded_at"]) for line in listing["results"]]
        assert times == [each.recorded_at for each in kept.results("ann")]
    assert b"CANARY" not in target.read_bytes()
    assert [file.name for file in tmp_path.glob("*.part")] == []


@pytest.mark.parametrize("picture", [None, JPEG])
def test_an_export_of_one_or_no_result_is_whole(
    kept: DetectionHistory, tmp_path: Path, picture: bytes | None, clock: FakeClock
) -> None:
    clock.now_s = 0.0  # a device without a clock, before it has met the network
    if picture:
        kept.add({}, session="\udcff", image=picture)
    with zipfile.ZipFile(kept.export("\udcff", tmp_path / "out.zip")) as bundle:
        assert len(json.loads(bundle.read("results.json"))["results"]) == (picture is not None)


def test_what_is_erased_during_an_export_is_left_out(kept: DetectionHistory) -> None:
    for number in range(3):
        kept.add({"n": number}, session="ann", image=JPEG + bytes(10))
    pieces = kept.export_pieces("ann")
    data = next(pieces)
    kept.erase("ann")
    data += b"".join(pieces)
    with zipfile.ZipFile(io.BytesIO(data)) as bundle:
        assert bundle.testzip() is None
        assert json.loads(bundle.read("results.json"))["results"] == []


def test_an_export_is_whole_or_not_there(kept: DetectionHistory, tmp_path: Path) -> None:
    kept.add({}, session="ann", image=JPEG)
    with pytest.raises(StorageError):
        kept.export("ann", tmp_path / "no" / "folder.zip")
    (tmp_path / "folder.zip").mkdir()
    with pytest.raises(StorageError):
        kept.export("ann", tmp_path / "folder.zip")
    assert [file.name for file in tmp_path.iterdir() if "part" in file.name] == []


# -- audit -----------------------------------------------------------------------------------


def test_the_audit_says_when_who_and_how_much_but_not_what(
    kept: DetectionHistory,
    clock: FakeClock,
    path: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    kept.add({"x": "CONTENT"}, session="ANN-CANARY", image=b"PICTURE")
    kept.export("ANN-CANARY", tmp_path / "out.zip", who="key 7")
    kept.erase("ANN-CANARY", who="support\r\nforged line")
    exported, erased = kept.audit()
    assert (exported.action, exported.who, exported.results, exported.images) == (
        ("exported", "key 7", 1, 1)
    )
    assert (erased.action, erased.who) == ("erased", "supportforged line")
    assert exported.at == datetime.fromtimestamp(clock.now_s, UTC)
    assert exported.session == erased.session == kept.tag("ANN-CANARY")
    assert "1 results with 1 images" in caplog.text
    for word in ("ANN-CANARY", "CONTENT", "PICTURE"):
        assert word not in caplog.text + repr(kept.audit())
        assert word.encode() not in on_disk(path)


def test_what_it_deletes_by_itself_shares_a_line_an_hour(
    kept: DetectionHistory, clock: FakeClock
) -> None:
    for _ in range(6):
        kept.add({}, session="ann")
        clock.now_s += 1000
    for _ in range(6):
        clock.now_s += 1000
        kept.sweep(clock.now_s + DAY_S - 6000)
    expired = kept.audit()
    assert {line.action for line in expired} == {"expired"}
    assert {line.who for line in expired} == {"history"}
    assert {line.session for line in expired} == {""}
    assert sum(line.results for line in expired) == 6
    assert len(expired) == 2


def test_the_audit_does_not_grow_for_ever(
    kept: DetectionHistory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "KEPT_LINES", 3)
    for number in range(5):
        kept.erase("ann", who=str(number))
    assert [line.who for line in kept.audit()] == ["2", "3", "4"]


# -- size ------------------------------------------------------------------------------------


def test_the_file_stays_within_its_size_and_the_newest_stays_in_it(
    path: Path, clock: FakeClock
) -> None:
    limit = 256 * KIB
    with DetectionHistory(path, clock=clock, max_bytes=limit, sweeps=False) as kept:
        for number in range(60):
            clock.now_s += 100
            kept.add({"n": number}, session="ann", image=JPEG + bytes(20_000))
        kept.sweep()
        numbers = [each.result["n"] for each in kept.results("ann")]
        assert numbers == list(range(60 - len(numbers), 60))
        assert 8 <= len(numbers) <= 12
        assert {line.action for line in kept.audit()} == {"displaced"}
    assert path.stat().st_size <= limit


def test_what_was_displaced_is_gone_after_the_next_sweep(path: Path, clock: FakeClock) -> None:
    with DetectionHistory(path, clock=clock, max_bytes=64 * KIB, sweeps=False) as kept:
        kept.add({}, session="ann", image=b"CANARY" * 2000)
        for _ in range(5):
            kept.add({}, session="ann", image=bytes(12_000))
        kept.sweep()
        assert b"CANARY" not in on_disk(path)


def test_a_result_larger_than_the_history_is_refused(path: Path) -> None:
    with DetectionHistory(path, max_bytes=64 * KIB, sweeps=False) as kept:
        kept.add({"n": 1}, session="ann")
        with pytest.raises(StorageError, match="too large"):
            kept.add({}, session="ann", image=bytes(64 * KIB))
        assert counts(kept) == Deleted(1)


@pytest.mark.parametrize(
    "options", [{"retention_s": 0}, {"retention_s": float("nan")}, {"max_bytes": 1000}]
)
def test_a_limit_out_of_range_is_refused(path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        DetectionHistory(path, **options)
    assert not path.exists()


def test_two_processes_may_share_a_history(path: Path, kept: DetectionHistory) -> None:
    code = (
        "import sys; from hybrid_detect import DetectionHistory\n"
        "with DetectionHistory(sys.argv[1], sweeps=False) as kept:\n"
        "    kept.add({'n': 1}, session='ann')\n"
        "    print(kept.tag('ann'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=30
    )
    assert done.stdout.strip() == kept.tag("ann"), done.stderr


def test_a_stored_result_does_not_show_its_picture(kept: DetectionHistory) -> None:
    kept.add({}, session="ann", image=b"PIXELS")
    assert "PIXELS" not in repr(list(kept.results("ann")))

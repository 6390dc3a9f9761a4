"""A history whose disk is full, whose file is damaged, and whose process is killed or forks."""

import hashlib
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from hybrid_detect.errors import ClosedError, StorageError
from hybrid_detect.storage.history import DetectionHistory
from hybrid_detect.storage.records import Deleted

from ..clock import FakeClock
from ..small_disk import SmallDisk
from ..waiting import wait_until
from .kept import DAY_S, JPEG, KIB, counts, on_disk


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(datetime(2026, 11, 23, 12, tzinfo=UTC))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history.db"


# -- faults ----------------------------------------------------------------------------------


def test_nobody_else_may_read_any_of_its_files(path: Path, clock: FakeClock) -> None:
    path.touch(mode=0o644)
    path.chmod(0o644)
    with DetectionHistory(path, clock=clock, sweeps=False) as kept:
        kept.add({}, session="ann")
        files = list(path.parent.iterdir())
        assert len(files) == 4, "the database, its log, the log's index and the reserve"
        assert {file.stat().st_mode & 0o777 for file in files} == {0o600}


def foreign(path: Path) -> None:
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE records (mine TEXT)")
    other.commit()
    other.close()


def newer(path: Path) -> None:
    DetectionHistory(path, sweeps=False).close()
    other = sqlite3.connect(path)
    other.execute("PRAGMA user_version = 99")
    other.close()


def truncated(path: Path) -> None:
    with DetectionHistory(path, sweeps=False) as kept:
        kept.add({}, session="ann", image=bytes(100_000))
    os.truncate(path, 5 * KIB)


def overwritten(path: Path) -> None:
    DetectionHistory(path, sweeps=False).close()
    with path.open("r+b") as file:
        file.seek(100)
        file.write(os.urandom(20 * KIB))


@pytest.mark.parametrize(
    "spoil",
    [
        foreign,
        newer,
        truncated,
        overwritten,
        lambda path: path.write_bytes(b"not a database" * 100),
        lambda path: path.write_bytes(b"SQLite format 3\0" + bytes(84)),
        lambda path: path.mkdir(),
        lambda path: os.mkfifo(path),
        lambda path: path.symlink_to(path.parent / "elsewhere"),
    ],
)
def test_a_file_that_is_no_history_is_refused_and_left_alone(path: Path, spoil: Any) -> None:
    spoil(path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(StorageError) as caught:
        DetectionHistory(path, sweeps=False)
    assert str(path) in str(caught.value)
    assert before is None or path.read_bytes() == before
    assert not (path.parent / "elsewhere").exists()


def test_a_missing_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No such file"):
        DetectionHistory(tmp_path / "no" / "history.db")


def test_damage_that_shows_later_is_a_typed_error(path: Path, clock: FakeClock) -> None:
    with DetectionHistory(path, clock=clock, sweeps=False) as kept:
        for number in range(50):
            kept.add({"n": number}, session="ann", image=bytes(5000))
    with path.open("r+b") as file:
        file.seek(20 * KIB)  # behind the schema
        file.write(b"\xff" * 200 * KIB)
    with (
        DetectionHistory(path, clock=clock, sweeps=False) as kept,
        pytest.raises(StorageError),
    ):
        list(kept.results("ann"))


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from hybrid_detect import DetectionHistory, StorageError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path = Path(sys.argv[1])
kept = DetectionHistory(path, sweeps=False)
kept.add({"n": 0}, session="ann", image=bytes(1000))
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
failed = 0
for n in range(1, 20):
    try:
        kept.add({"n": n}, session="ann", image=bytes(20_000))
    except StorageError as error:
        failed += 1
assert failed > 5, failed
numbers = [each.result["n"] for each in kept.results("ann")]
assert 0 < len(numbers) == 20 - failed, (numbers, failed)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
kept.add({"n": "last"}, session="ann", image=bytes(20_000))
print(kept.erase("ann").results == len(numbers) + 1)
"""


def test_a_full_disk_is_a_typed_error_and_loses_nothing(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path)], capture_output=True, text=True, timeout=30
    )
    assert done.stdout.strip() == "True", done.stderr


# -- a full disk -----------------------------------------------------------------------------


@pytest.fixture
def full(small_disk: SmallDisk, clock: FakeClock) -> Path:
    """A history of three sessions on a disk that is full, and stays so whatever is given back."""
    path = small_disk.path / "history.db"
    with DetectionHistory(path, clock=clock, sweeps=False) as kept:
        for number in range(12):
            image = f"CANARY-{number % 3}-".encode() * 5_000
            kept.add({"n": number}, session=["ann", "bob", "eve"][number % 3], image=image)
    small_disk.fill()
    return path


def test_a_full_disk_can_be_opened_erased_from_and_takes_in_nothing(
    full: Path, clock: FakeClock, small_disk: SmallDisk
) -> None:
    with DetectionHistory(full, clock=clock, sweeps=False) as kept:
        small_disk.fill()
        with pytest.raises(StorageError):
            kept.add({}, session="bob", image=bytes(50_000))
        assert kept.erase("ann") == Deleted(4, 4)
        small_disk.fill()
        assert counts(kept, "ann") == Deleted()
        assert counts(kept, "bob") == Deleted(4, 4)
        assert kept.erase("bob") == Deleted(4, 4)
        assert re.findall(rb"CANARY-[01]", on_disk(full)) == []
        assert [(line.action, line.results) for line in kept.audit()] == [("erased", 4)] * 2
    with DetectionHistory(full, clock=clock, sweeps=False) as kept:
        assert counts(kept, "eve") == Deleted(4, 4)
        small_disk.empty()
        kept.add({}, session="eve")


def test_what_expired_on_a_full_disk_is_deleted_when_it_is_opened(
    full: Path, clock: FakeClock, small_disk: SmallDisk
) -> None:
    clock.now_s += 2 * DAY_S
    with DetectionHistory(full, clock=clock, sweeps=False) as kept:
        assert sum(line.results for line in kept.audit() if line.action == "expired") == 12
        assert b"CANARY" not in on_disk(full)


def test_a_disk_that_was_full_when_its_writer_was_killed_can_be_opened_and_erased_from(
    small_disk: SmallDisk,
) -> None:
    path = small_disk.path / "history.db"
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    writer.wait(60)  # ends by itself, when there is no room
    if writer.stdout is not None:
        writer.stdout.close()
    small_disk.fill()
    with DetectionHistory(path, sweeps=False) as kept:
        before = counts(kept)
        assert before.results > 10
        assert kept.erase("ann") == before


@pytest.mark.parametrize("size", [1, 400_000])
def test_a_large_row_is_erased_on_a_full_disk(
    small_disk: SmallDisk, clock: FakeClock, size: int
) -> None:
    path = small_disk.path / "history.db"
    with DetectionHistory(path, clock=clock, sweeps=False) as kept:
        kept.add({}, session="ann", image=b"C" * size)
    small_disk.fill()
    with DetectionHistory(path, clock=clock, sweeps=False) as kept:
        small_disk.fill()
        assert kept.erase("ann") == Deleted(1, 1)
        assert b"C" * 1000 not in on_disk(path)


# -- damage ----------------------------------------------------------------------------------


def change(path: Path, statement: str, *values: Any) -> None:
    other = sqlite3.connect(path)
    other.execute(statement, values)
    other.commit()
    other.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE records SET session = (SELECT session FROM records WHERE id = 2) WHERE id = 1",
        "UPDATE records SET result = '{\"n\": 2}' WHERE id = 2",
        "UPDATE records SET result = 'not json' WHERE id = 2",
        "UPDATE records SET result = 7 WHERE id = 2",
        "UPDATE records SET image = x'ff' WHERE id = 2",
        "UPDATE records SET image = NULL WHERE id = 2",
        "UPDATE records SET image = 'text' WHERE id = 2",
        "UPDATE records SET seal = '' WHERE id = 2",
        "UPDATE records SET seal = 7 WHERE id = 2",
        "UPDATE records SET seal = (SELECT seal FROM records WHERE id = 1) WHERE id = 2",
        "UPDATE records SET recorded_at = x'00' WHERE id = 2",
    ],
)
def test_a_row_that_is_not_as_it_was_kept_is_a_typed_error(
    path: Path, clock: FakeClock, statement: str
) -> None:
    with DetectionHistory(path, clock=clock, sweeps=False) as kept:
        kept.add({"n": 1}, session="ann", image=JPEG)
        kept.add({"n": 1}, session="bob", image=JPEG)
    change(path, statement)
    with DetectionHistory(path, clock=clock, sweeps=False) as kept:
        if "recorded_at" in statement:  # a time that is none is one to come, and dated anew
            assert [each.result for each in kept.results("bob")] == [{"n": 1}]
        else:
            with pytest.raises(StorageError, match="damaged"):
                list(kept.results("bob"))
        kept.erase("bob")
        assert counts(kept, "bob") == Deleted()


def test_a_damaged_key_is_told_before_nothing_is_found(path: Path) -> None:
    DetectionHistory(path, sweeps=False).close()
    change(path, "UPDATE secret SET key = zeroblob(40)")
    with pytest.raises(StorageError, match="damaged"):
        DetectionHistory(path, sweeps=False)


def test_a_damaged_audit_is_a_typed_error(path: Path) -> None:
    with DetectionHistory(path, sweeps=False) as kept:
        kept.erase("ann")
    change(path, "UPDATE audit SET at = 'yesterday'")
    with DetectionHistory(path, sweeps=False) as kept, pytest.raises(StorageError, match="audit"):
        kept.audit()


@pytest.fixture(scope="module")
def two_sessions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("history") / "history.db"
    with DetectionHistory(path, sweeps=False) as kept:
        for number in range(40):
            kept.add({"of": "ann"}, session="ann", image=JPEG + b"ann" * number)
            kept.add({"of": "bob"}, session="bob", image=JPEG + b"bob" * number)
    return path


def damages(history: Path, count: int, seed: int) -> None:
    """Open a history after each of `count` damages, and read a session, and erase it."""
    whole = history.read_bytes()
    dice = random.Random(seed)
    copy = history.with_name("damaged.db")
    for _ in range(count):
        content = bytearray(whole)
        for _ in range(dice.choice([1, 1, 20])):
            place, length = dice.randrange(len(whole)), dice.choice([1, 1, 64, 1024])
            content[place : place + length] = dice.randbytes(length)
        copy.write_bytes(content)
        for log in copy.parent.glob("damaged.db-*"):
            log.unlink()
        with suppress(StorageError), DetectionHistory(copy, sweeps=False) as kept:
            for act in (
                lambda kept=kept: all(
                    each.result == {"of": "ann"}
                    and each.image is not None
                    and each.image.replace(b"ann", b"") == JPEG
                    for each in kept.results("ann")
                ),
                lambda kept=kept: kept.audit() is not None,
                lambda kept=kept: kept.erase("ann") is not None,
            ):
                with suppress(StorageError):
                    assert act()


def test_a_damaged_file_gives_a_typed_error_or_what_was_kept(two_sessions: Path) -> None:
    damages(two_sessions, 20, seed=1)


@pytest.mark.hostile
def test_400_damaged_files_give_typed_errors_or_what_was_kept(two_sessions: Path) -> None:
    damages(two_sessions, 400, seed=2)


# -- killed exports and forks ------------------------------------------------------------------


KILLED_EXPORT = """
import os, signal, sys
from hybrid_detect import DetectionHistory
from hybrid_detect.storage import private_files
private_files.os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
kept = DetectionHistory(sys.argv[1], sweeps=False)
kept.add({}, session="ann", image=bytes(100))
kept.export("ann", sys.argv[2])
"""


def test_a_start_removes_what_a_killed_export_left(path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "exports"
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", KILLED_EXPORT, str(path), str(folder / "ann.zip")], timeout=30
    )
    assert done.returncode == -signal.SIGKILL
    assert len(list(folder.iterdir())) == 1
    with DetectionHistory(path, sweeps=False) as kept:
        assert list(folder.iterdir()) == []
        with kept._file.reading() as db:
            assert db.execute("SELECT count(*) FROM exports").fetchone() == (0,)
        kept.export("ann", folder / "ann.zip")
        with kept._file.reading() as db:
            assert db.execute("SELECT count(*) FROM exports").fetchone() == (0,)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_is_refused_and_harms_nothing(path: Path) -> None:
    code = """
import os, sys
from hybrid_detect import DetectionHistory, StorageError
kept = DetectionHistory(sys.argv[1], sweeps=False)
kept.add({}, session="ann")
if (child := os.fork()) == 0:
    for act in (
        lambda: kept.add({}, session="ann"),
        lambda: list(kept.results("ann")),
        lambda: kept.erase("ann"),
        lambda: kept.sweep(),
    ):
        try:
            print("went through", act())
        except StorageError as error:
            assert "forked" in str(error)
    kept.close()
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
kept.add({}, session="ann")
print(len(list(kept.results("ann"))))
kept.close()
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stdout) == (0, "2\n"), done.stderr


WRITER = """
import hashlib, os, sys
from hybrid_detect import DetectionHistory
kept = DetectionHistory(sys.argv[1], sweeps=False)
print("ready", flush=True)
while True:
    image = os.urandom(30_000)
    kept.add({"sha": hashlib.sha256(image).hexdigest()}, session="ann", image=image)
"""


def test_a_kill_between_two_writes_leaves_no_half_record(path: Path) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == "ready\n"
    wait_until(lambda: len(set(re.findall(rb'"sha": "(\w{64})', on_disk(path)))) >= 20)
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    writer.stdout.close()
    with DetectionHistory(path, sweeps=False) as kept:
        found = list(kept.results("ann"))
        assert len(found) >= 19
        for each in found:
            assert each.image is not None
            assert hashlib.sha256(each.image).hexdigest() == each.result["sha"]
        with kept._file.reading() as db:
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_without_the_right_to_write_it_is_a_typed_error(tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o700)
    code = (
        "import os, sys\n"
        "from hybrid_detect.storage.history import DetectionHistory\n"
        "from hybrid_detect.errors import StorageError\n"
        "os.setuid(65534)\n"
        "try:\n    DetectionHistory(sys.argv[1])\n"
        "except StorageError as error:\n    print('Permission denied' in str(error))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder / "history.db")],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.stdout.strip() == "True", done.stderr


def test_a_closed_history_says_so(path: Path) -> None:
    kept = DetectionHistory(path)
    kept.close()
    kept.close()
    with pytest.raises(ClosedError):
        kept.add({}, session="ann")

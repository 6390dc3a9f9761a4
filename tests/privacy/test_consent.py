import errno
import json
import os
import random
import subprocess
import sys
import threading
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_detect.destination import Destination
from hybrid_detect.errors import ClosedError, ConfigurationError, StorageError
from hybrid_detect.privacy.consent import ConsentLedger
from hybrid_detect.privacy.consent_record import ConsentRecord

from ..clock import FakeClock
from ..small_disk import SmallDisk

START = datetime(2026, 11, 23, 12, tzinfo=UTC)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(START)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "consents.jsonl"


def grant(ledger: ConsentLedger, subject: str = "ann", **options: object) -> ConsentRecord:
    options = {"version": "3", "recorded_by": "screen", **options}
    return ledger.grant(subject, **options)  # type: ignore[arg-type]


def stands(ledger: ConsentLedger, subject: str = "ann", version: str = "3") -> bool:
    return ledger.current(subject, version=version) is not None


def test_a_grant_holds_for_its_subject_scope_and_version_alone(clock: FakeClock) -> None:
    ledger = ConsentLedger(clock=clock.utc)
    record = grant(ledger)
    assert ledger.current("ann", version="3") == record
    assert record.granted_at == START
    assert ledger.current("bob", version="3") is None
    assert ledger.current("ann", version="4") is None
    assert ledger.current("ann", version="3", scope="train") is None


def test_a_withdrawal_ends_it_and_is_kept(clock: FakeClock) -> None:
    ledger = ConsentLedger(clock=clock.utc)
    grant(ledger)
    clock.advance(hours=1)
    (withdrawn,) = ledger.withdraw("ann", recorded_by="settings page")
    assert not stands(ledger)
    assert withdrawn.withdrawn_at == START + timedelta(hours=1)
    assert withdrawn.withdrawn_by == "settings page"
    assert ledger.records("ann") == (withdrawn,)


def test_consent_can_be_given_anew(clock: FakeClock) -> None:
    ledger = ConsentLedger(clock=clock.utc)
    grant(ledger)
    ledger.withdraw("ann", recorded_by="ann")
    again = grant(ledger)
    assert ledger.current("ann", version="3") == again
    assert len(ledger.records("ann")) == 2


def test_a_withdrawal_of_one_scope_leaves_the_others(clock: FakeClock) -> None:
    ledger = ConsentLedger(clock=clock.utc)
    grant(ledger)
    grant(ledger, scope="train")
    ledger.withdraw("ann", recorded_by="ann", scope="train")
    assert stands(ledger)
    assert ledger.current("ann", version="3", scope="train") is None


def test_a_withdrawal_takes_every_version(clock: FakeClock) -> None:
    ledger = ConsentLedger(clock=clock.utc)
    grant(ledger, version="2")
    grant(ledger, version="3")
    assert len(ledger.withdraw("ann", recorded_by="ann")) == 2
    assert not stands(ledger, version="2")
    assert not stands(ledger, version="3")


def test_consent_ends_when_it_was_to_end(clock: FakeClock) -> None:
    ledger = ConsentLedger(clock=clock.utc)
    grant(ledger, expires_at=START + timedelta(days=1))
    clock.advance(hours=24, seconds=-1)
    assert stands(ledger)
    clock.advance(seconds=1)
    assert not stands(ledger)


def test_a_grant_from_the_future_does_not_hold_yet(clock: FakeClock) -> None:
    ledger = ConsentLedger(clock=clock.utc)
    grant(ledger)
    clock.advance(hours=-1)  # the clock was set right
    assert not stands(ledger)
    assert grant(ledger)
    assert stands(ledger)


def test_a_clock_set_back_does_not_bring_a_withdrawn_consent_back(clock: FakeClock) -> None:
    ledger = ConsentLedger(clock=clock.utc)
    grant(ledger)
    clock.advance(hours=2)
    ledger.withdraw("ann", recorded_by="ann")
    clock.advance(hours=-1)
    assert not stands(ledger)


@pytest.mark.parametrize(
    "options",
    [
        {"subject": ""},
        {"subject": "x" * 1025},
        {"version": ""},
        {"recorded_by": ""},
        {"scope": ""},
        {"version": 3},
        {"expires_at": START},
        {"expires_at": datetime(2030, 1, 1)},
        {"expires_at": "tomorrow"},
    ],
)
def test_an_unclear_grant_is_refused(
    path: Path, clock: FakeClock, options: dict[str, object]
) -> None:
    ledger = ConsentLedger(path, clock=clock.utc)
    with pytest.raises(ConfigurationError):
        grant(ledger, **options)  # type: ignore[arg-type]
    ledger.close()
    assert path.read_bytes() == b""


def test_a_clock_without_time_zone_records_nothing() -> None:
    ledger = ConsentLedger(clock=lambda: datetime(2026, 11, 23))
    with pytest.raises(ConfigurationError, match="time zone"):
        grant(ledger)
    assert ledger.records("ann") == ()


def test_times_are_kept_in_utc(clock: FakeClock) -> None:
    ledger = ConsentLedger(clock=clock.utc)
    local = timezone(timedelta(hours=5))
    record = grant(ledger, expires_at=datetime(2026, 11, 24, 5, tzinfo=local))
    assert record.expires_at == datetime(2026, 11, 24, tzinfo=UTC)
    assert record.expires_at.tzinfo is UTC


# -- at once ---------------------------------------------------------------------------------


def test_a_listener_is_told_when_the_consent_no_longer_stands(clock: FakeClock) -> None:
    ledger = ConsentLedger(clock=clock.utc)
    told: list[tuple[str, bool]] = []
    stop = ledger.on_withdrawal(lambda record: told.append((record.subject, stands(ledger))))
    grant(ledger)
    ledger.withdraw("ann", recorded_by="ann")
    ledger.withdraw("ann", recorded_by="ann")  # nothing stands any more
    assert told == [("ann", False)]
    stop()
    stop()
    grant(ledger)
    ledger.withdraw("ann", recorded_by="ann")
    assert len(told) == 1


def test_one_listener_s_bug_does_not_keep_the_others_from_hearing(
    clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = ConsentLedger(clock=clock.utc)
    told: list[ConsentRecord] = []

    def broken(record: ConsentRecord) -> None:
        raise RuntimeError

    ledger.on_withdrawal(broken)
    ledger.on_withdrawal(told.append)
    grant(ledger)
    ledger.withdraw("ann", recorded_by="ann")
    assert len(told) == 1
    assert "has a bug" in caplog.text
    assert "ann" not in caplog.messages[0]


def test_a_withdrawal_holds_in_other_threads_while_it_is_still_being_written(
    path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing, go_on = threading.Event(), threading.Event()
    sync = os.fsync

    def slow_disk(descriptor: int) -> None:
        writing.set()
        assert go_on.wait(5)
        sync(descriptor)

    with ConsentLedger(path, clock=clock.utc) as ledger:
        grant(ledger)
        monkeypatch.setattr(os, "fsync", slow_disk)
        thread = threading.Thread(
            target=ledger.withdraw, args=("ann",), kwargs={"recorded_by": "a"}
        )
        thread.start()
        assert writing.wait(5)
        assert not stands(ledger)
        go_on.set()
        thread.join(5)


def test_many_threads_lose_no_record(path: Path, clock: FakeClock) -> None:
    def work(ledger: ConsentLedger, number: int) -> None:
        for turn in range(5):
            grant(ledger, f"s{number}", version=str(turn))
        ledger.withdraw(f"s{number}", recorded_by="it", scope=None)
        grant(ledger, f"s{number}", version="last")

    with ConsentLedger(path, clock=clock.utc) as ledger:
        threads = [threading.Thread(target=work, args=(ledger, n)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
    with ConsentLedger(path, clock=clock.utc) as ledger:
        for number in range(4):
            assert len(ledger.records(f"s{number}")) == 6
            assert stands(ledger, f"s{number}", "last")
            assert not stands(ledger, f"s{number}", "1")


# -- on the disk -----------------------------------------------------------------------------


def test_a_ledger_is_the_same_after_a_restart(path: Path, clock: FakeClock) -> None:
    clock.advance(0.123456)
    with ConsentLedger(path, clock=clock.utc) as ledger:
        grant(ledger, expires_at=clock.utc() + timedelta(microseconds=1))
        grant(ledger, "bob\nwith \u2028 a strange name\udcff")
        ledger.withdraw("ann", recorded_by="ann")
        before = [ledger.records(s) for s in ("ann", "bob\nwith \u2028 a strange name\udcff")]
    with ConsentLedger(path, clock=clock.utc) as ledger:
        assert [
            ledger.records(s) for s in ("ann", "bob\nwith \u2028 a strange name\udcff")
        ] == before


def test_the_file_only_grows_by_lines_of_json(path: Path, clock: FakeClock) -> None:
    with ConsentLedger(path, clock=clock.utc) as ledger:
        grant(ledger)
        first = path.read_bytes()
        ledger.withdraw("ann", recorded_by="ann")
    assert path.read_bytes().startswith(first)
    events = [json.loads(line)["event"] for line in path.read_text().splitlines()]
    assert events == ["grant", "withdraw"]


def test_nobody_else_may_read_the_file(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ConsentLedger(path).close()
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    ConsentLedger(path).close()
    assert path.stat().st_mode & 0o777 == 0o600
    assert "could be read by others" in caplog.text


def test_one_ledger_at_a_time_has_the_file(path: Path) -> None:
    with ConsentLedger(path), pytest.raises(StorageError, match="in use"):
        ConsentLedger(path)
    ConsentLedger(path).close()


def opened(path: Path, clock: FakeClock | None = None) -> ConsentLedger | None:
    """The ledger, or `None` if it is refused, which allows nothing."""
    try:
        return ConsentLedger(path, clock=None if clock is None else clock.utc)
    except StorageError:
        return None


def standing(path: Path, subjects: tuple[str, ...], clock: FakeClock) -> set[str]:
    ledger = opened(path, clock)
    if ledger is None:
        return set()
    with ledger:
        return {subject for subject in subjects if stands(ledger, subject)}


@pytest.mark.parametrize(
    ("unfinished", "left"),
    [
        (b'{"event":"withdraw","subject":"ann","scope":"se', {"bob", "anna"}),
        (b'{"event":"withdraw","subject":"an', {"bob"}),
        (b'{"event":"withdraw","subject":"', set()),
        (b'{"event":"w', set()),
        (b"{", set()),
        (b"\0\0\0\0", set()),
        (b"\xff", set()),
        (b'{"event":"g', {"ann", "anna", "bob"}),
        (b'{"event":"grant","subject":"eve","scope":"send', {"ann", "anna", "bob"}),
    ],
)
def test_an_unfinished_line_withdraws_what_it_may_have_withdrawn(
    path: Path,
    clock: FakeClock,
    unfinished: bytes,
    left: set[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    subjects = ("ann", "anna", "bob")
    with ConsentLedger(path, clock=clock.utc) as ledger:
        for subject in subjects:
            grant(ledger, subject)
    with path.open("ab") as file:
        file.write(unfinished)
    assert standing(path, subjects, clock) == left
    assert "unfinished" in caplog.text
    caplog.clear()
    with ConsentLedger(path, clock=clock.utc) as ledger:
        assert {subject for subject in subjects if stands(ledger, subject)} == left
        grant(ledger, "eve")
    assert standing(path, (*subjects, "eve"), clock) == {*left, "eve"}


def test_a_whole_withdrawal_without_its_line_end_counts(path: Path, clock: FakeClock) -> None:
    with ConsentLedger(path, clock=clock.utc) as ledger:
        grant(ledger)
        grant(ledger, scope="train")
        ledger.withdraw("ann", recorded_by="settings page", scope="send_frames")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with ConsentLedger(path, clock=clock.utc) as ledger:
        sending, training = ledger.records("ann")
        assert sending.withdrawn_by == "settings page"
        assert training.withdrawn_at is None
    assert path.read_bytes() == whole


def test_a_grant_without_its_line_end_does_not_hold(path: Path, clock: FakeClock) -> None:
    with ConsentLedger(path, clock=clock.utc) as ledger:
        grant(ledger)
    path.write_bytes(path.read_bytes()[:-1])
    assert standing(path, ("ann",), clock) == set()


def test_a_ledger_cut_anywhere_brings_no_consent_back(path: Path, clock: FakeClock) -> None:
    with ConsentLedger(path, clock=clock.utc) as ledger:
        grant(ledger)
        granted = path.stat().st_size
        ledger.withdraw("ann", recorded_by="ann")
    whole = path.read_bytes()
    for size in range(granted + 1, len(whole)):
        path.write_bytes(whole[:size])
        assert standing(path, ("ann",), clock) == set(), size


SUBJECTS = ("ann", "bob", "eve")


@pytest.fixture(scope="module")
def withdrawn_ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger in which ann and eve have withdrawn, and bob has not."""
    path = tmp_path_factory.mktemp("ledger") / "consents.jsonl"
    with ConsentLedger(path, clock=FakeClock(START).utc) as ledger:
        for subject in SUBJECTS:
            grant(ledger, subject)
        ledger.withdraw("ann", recorded_by="ann")
        ledger.withdraw("eve", recorded_by="eve")
    return path


def damages(ledger: Path, count: int, seed: int) -> None:
    """Open a ledger after each of `count` changes of one byte."""
    whole = ledger.read_bytes()
    dice = random.Random(seed)
    copy = ledger.with_name("changed.jsonl")
    for _ in range(count):
        place, byte = dice.randrange(len(whole)), bytes([dice.randrange(256)])
        start, end = whole[:place], whole[place + 1 :]
        copy.write_bytes(
            dice.choice([start + byte + end, start + end, start + byte + whole[place:]])
        )
        copy.chmod(0o600)
        assert standing(copy, SUBJECTS, FakeClock(START)) <= {"bob"}, (place, byte)


def test_no_change_of_one_byte_brings_a_withdrawn_consent_back(withdrawn_ledger: Path) -> None:
    damages(withdrawn_ledger, 100, seed=1)


@pytest.mark.hostile
def test_none_of_3000_changes_of_one_byte_brings_a_withdrawn_consent_back(
    withdrawn_ledger: Path,
) -> None:
    damages(withdrawn_ledger, 3000, seed=2)


@given(data=st.data())
def test_no_line_can_be_taken_out_or_put_elsewhere(
    tmp_path_factory: pytest.TempPathFactory, withdrawn_ledger: Path, data: st.DataObject
) -> None:
    lines = withdrawn_ledger.read_bytes().splitlines(keepends=True)
    # Lines missing at the end cannot be noticed: so ends a ledger that is older.
    kept = data.draw(st.lists(st.sampled_from(lines), unique=True, max_size=5))
    path = tmp_path_factory.mktemp("ledger") / "consents.jsonl"
    path.write_bytes(b"".join(kept))
    path.chmod(0o600)
    ledger = opened(path)
    assert (ledger is not None) == (kept == lines[: len(kept)])
    if ledger is not None:
        ledger.close()


def test_lines_without_a_checksum_are_read_until_the_first_with_one(
    path: Path, clock: FakeClock
) -> None:
    old = json.dumps({**GOOD, "subject": "ann"}).encode() + b"\n"
    path.write_bytes(old)
    path.chmod(0o600)
    with ConsentLedger(path, clock=clock.utc) as ledger:
        assert stands(ledger)
        ledger.withdraw("ann", recorded_by="ann")
    assert standing(path, ("ann",), clock) == set()
    with path.open("ab") as file:
        file.write(old)
    with pytest.raises(StorageError, match="line 3"):
        ConsentLedger(path)


# -- forks and full disks ----------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("in_file", [True, False])
def test_a_forked_child_is_refused_and_takes_nothing_away(path: Path, in_file: bool) -> None:
    code = """
import os, sys
from hybrid_detect import ConsentLedger, StorageError
ledger = ConsentLedger(sys.argv[1] or None)
ledger.grant("ann", version="3", recorded_by="me")
tell, go_on = os.pipe(), os.pipe()
if (child := os.fork()) == 0:
    os.read(go_on[0], 1)
    for act in (
        lambda: ledger.current("ann", version="3"),
        lambda: ledger.records("ann"),
        lambda: ledger.grant("eve", version="3", recorded_by="me"),
        lambda: ledger.withdraw("ann", recorded_by="me"),
    ):
        try:
            print("went through", act())
        except StorageError as error:
            assert "forked" in str(error)
    ledger.close()
    sys.stdout.flush()
    os._exit(0)
ledger.withdraw("ann", recorded_by="me")
os.write(go_on[1], b"!")
os.waitpid(child, 0)
ledger.grant("bob", version="3", recorded_by="me")  # still its own
if sys.argv[1]:
    try:
        ConsentLedger(sys.argv[1])
    except StorageError as error:
        assert "in use" in str(error)
    if (child := os.fork()) == 0:
        os.read(tell[0], 1)
        os._exit(0)
    ledger.close()
    ConsentLedger(sys.argv[1]).close()  # although the child has a copy of what is open
    os.write(tell[1], b"!")
    os.waitpid(child, 0)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(path) if in_file else ""],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def fails(monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    """From now on, nothing can be written."""

    def write(_descriptor: int, _data: bytes) -> int:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "write", write)


@pytest.mark.parametrize("ends", ["grant", "withdraw", "close"])
def test_a_withdrawal_that_could_not_be_written_is_told_holds_and_is_written_later(
    path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    ledger = ConsentLedger(path, clock=clock.utc)
    grant(ledger)
    grant(ledger, "bob")
    with monkeypatch.context() as broken:
        fails(broken, errno.EIO)
        with pytest.raises(StorageError, match="cannot write"):
            ledger.withdraw("ann", recorded_by="ann")
        assert not stands(ledger)
        with pytest.raises(StorageError):
            grant(ledger, "eve")
    if ends == "grant":
        grant(ledger)
    elif ends == "withdraw":
        ledger.withdraw("bob", recorded_by="bob")
    ledger.close()
    with ConsentLedger(path, clock=clock.utc) as ledger:
        assert [r.withdrawn_at is None for r in ledger.records("ann")] == [False, True][
            : 1 + (ends == "grant")
        ]
        assert stands(ledger, "bob") == (ends != "withdraw")
        assert ledger.records("eve") == ()


def test_what_could_be_written_of_a_withdrawal_counts_at_the_next_opening(
    path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = ConsentLedger(path, clock=clock.utc)
    grant(ledger)
    grant(ledger, "bob")
    write = os.write

    def little(descriptor: int, data: bytes) -> int:
        if len(data) < 100:
            raise OSError(errno.ENOSPC, "full")
        return write(descriptor, data[:40])

    with monkeypatch.context() as full:
        full.setattr(os, "write", little)
        with pytest.raises(StorageError):
            ledger.withdraw("ann", recorded_by="ann" * 30)
        ledger.close()  # as if it were killed: it cannot be written now, either
    assert standing(path, ("ann", "bob"), clock) == {"bob"}


WRITER = """
import sys
from hybrid_detect import ConsentLedger
ledger = ConsentLedger(sys.argv[1])
print("ready", flush=True)
number = 0
while True:
    number += 1
    ledger.grant(f"s{number}", version="3", recorded_by="me")
    ledger.withdraw(f"s{number}", recorded_by="me")
    print(number, flush=True)
"""


def killed_while_writing(path: Path, after: int) -> int:
    """The last withdrawal that a writer knew to be written, when it was killed."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        for _ in range(after):
            assert writer.stdout.readline()
        writer.kill()
        said = writer.stdout.read().split()
    return int(said[-1]) if said else after - 1


def check_kill(path: Path, after: int) -> None:
    last = killed_while_writing(path, after)
    with ConsentLedger(path) as ledger:
        for number in range(1, last + 1):
            assert ledger.records(f"s{number}"), number
            assert not stands(ledger, f"s{number}"), number


def test_a_killed_writer_leaves_a_ledger_that_opens_and_knows_every_withdrawal(
    path: Path,
) -> None:
    check_kill(path, after=20)


@pytest.mark.hostile
def test_thirty_killed_writers_leave_ledgers_that_open(tmp_path: Path) -> None:
    for after in range(1, 31):
        check_kill(tmp_path / f"{after}.jsonl", after)


def try_grant(ledger: ConsentLedger) -> str:
    subject = f"s{random.random()}"
    with suppress(StorageError):
        grant(ledger, subject)
    return subject


def test_a_full_disk_grants_nothing_but_withdraws(small_disk: SmallDisk, clock: FakeClock) -> None:
    path = small_disk.path / "consents.jsonl"
    with ConsentLedger(path, clock=clock.utc) as ledger:
        for subject in (*SUBJECTS, "many"):
            grant(ledger, subject)
        small_disk.fill()
        while stands(ledger, try_grant(ledger)):  # until the file's last block is full
            pass
        for subject in SUBJECTS:
            ledger.withdraw(subject, recorded_by="it")
            small_disk.fill()
    assert standing(path, (*SUBJECTS, "many"), clock) == {"many"}


GOOD = {
    "event": "grant",
    "subject": "canary",
    "scope": "send_frames",
    "version": "3",
    "recorded_by": "me",
    "at": "2026-11-23T12:00:00+00:00",
    "expires_at": None,
}


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"null",
        b"[]",
        b"\xff\xfe{}",
        b"SQLite format 3\0",
        b"[" * 100_000,
        json.dumps({**GOOD, "event": "forget"}).encode(),
        json.dumps({**GOOD, "at": "yesterday"}).encode(),
        json.dumps({**GOOD, "at": "0001-01-01T00:00:00+23:00"}).encode(),
        json.dumps({**GOOD, "at": "2026-11-23T12:00:00"}).encode(),
        json.dumps({**GOOD, "version": None}).encode(),
        json.dumps({**GOOD, "expires_at": 7}).encode(),
        json.dumps({"event": "withdraw", "subject": "canary"}).encode(),
    ],
)
def test_a_ledger_that_cannot_be_trusted_allows_nothing(path: Path, line: bytes) -> None:
    good = json.dumps(GOOD).encode()
    path.write_bytes(b"\n".join((good, line, good, b"")))
    path.chmod(0o600)
    with pytest.raises(StorageError, match="line 2") as caught:
        ConsentLedger(path)
    assert "canary" not in str(caught.value)


@given(st.binary(max_size=200))
def test_no_file_content_does_worse_than_be_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.mktemp("ledger") / "consents.jsonl"
    path.write_bytes(content)
    path.chmod(0o600)
    try:
        ledger = ConsentLedger(path)
    except StorageError:
        return
    ledger.close()


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        ConsentLedger(tmp_path)
    with pytest.raises(StorageError):
        ConsentLedger(tmp_path / "no" / "folder")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StorageError, match="plain file"):
        ConsentLedger(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError):
        ConsentLedger(tmp_path / "link")
    assert not (tmp_path / "elsewhere").exists()


def test_a_closed_ledger_records_nothing(path: Path) -> None:
    ledger = ConsentLedger(path)
    grant(ledger)
    ledger.close()
    ledger.close()
    with pytest.raises(ClosedError):
        grant(ledger, "bob")
    assert not stands(ledger, "bob")
    assert stands(ledger, "ann")
    with pytest.raises(ClosedError):
        ledger.withdraw("ann", recorded_by="ann")
    assert not stands(ledger, "ann")


# -- whom it is for --------------------------------------------------------------------------

EU_AWS = Destination(provider="aws", region="EU-West-1")


@pytest.mark.parametrize(
    ("recipients", "destination", "why"),
    [
        ({}, EU_AWS, ""),
        ({}, Destination(), ""),
        ({"providers": ["AWS"]}, EU_AWS, ""),
        ({"providers": ["aws"], "regions": ["eu-west-1"]}, EU_AWS, ""),
        ({"providers": ["google"]}, EU_AWS, "provider 'aws'"),
        ({"regions": ["us-east-1"]}, EU_AWS, "region 'EU-West-1'"),
        ({"regions": ["eu-west-1"]}, Destination(provider="aws"), "names no region"),
        ({"providers": ["aws"]}, Destination(), "names no provider"),
    ],
)
def test_a_consent_may_name_whom_it_is_for(
    path: Path, recipients: dict[str, list[str]], destination: Destination, why: str
) -> None:
    with ConsentLedger(path) as ledger:
        grant(ledger, **recipients)
    with ConsentLedger(path) as ledger:  # as it was written
        record = ledger.current("ann", version="3")
    assert record is not None
    reason = record.denied_reason(
        scope="send_frames", version="3", now=datetime.now(UTC), destination=destination
    )
    assert why in reason
    assert bool(reason) == bool(why)


@pytest.mark.parametrize("name", ["providers", "regions"])
@pytest.mark.parametrize("value", [[], "", [""], [1]])
def test_a_consent_for_no_one_in_particular_is_refused(name: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=name):
        grant(ConsentLedger(), **{name: value})


@pytest.mark.parametrize("value", ['"aws"', "1", "null", "[]", "[1]", '{"aws": 1}'])
def test_a_line_whose_recipients_cannot_be_read_makes_the_file_untrusted(
    path: Path, value: str
) -> None:
    line = (
        '{"event":"grant","subject":"ann","scope":"send_frames","version":"3","recorded_by":"x",'
        f'"at":"2026-11-23T12:00:00+00:00","expires_at":null,"providers":{value}}}\n'
    )
    path.write_text(line, encoding="utf-8")
    with pytest.raises(StorageError):
        ConsentLedger(path)

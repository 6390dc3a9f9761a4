"""The hooks that write: a private file of JSON lines, and Python's logging."""

import json
import logging
import os
import signal
import stat
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from hybrid_detect.errors import ConfigurationError, StorageError
from hybrid_detect.monitoring.events import BackendEvent, FrameEvent, FrameOutcome
from hybrid_detect.monitoring.json_lines import JsonLinesHook
from hybrid_detect.monitoring.logging_hook import LoggingHook
from hybrid_detect.types import Attempt, BackendKind

FRAME = FrameEvent(
    at_s=12.5,
    outcome=FrameOutcome.ANSWERED,
    degraded=True,
    frame_id=7,
    backend=BackendKind.DEVICE,
    attempts=(Attempt("cloud", "BackendTimeoutError", "late", 0.5, 81_920),),
    faces=2,
    bytes_sent=81_920,
)
BACKEND = BackendEvent(at_s=13.0, backend=BackendKind.CLOUD, usable=False, reason="refused")


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_each_event_is_a_line_of_a_private_file(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with JsonLinesHook(path) as hook:
        hook.on_frame(FRAME)
        hook.on_backend(BACKEND)
    first, second = lines(path)
    assert (first["type"], first["outcome"], first["frame_id"]) == ("frame", "answered", 7)
    assert first["attempts"] == [
        {
            "backend": "cloud",
            "error": "BackendTimeoutError",
            "message": "late",
            "elapsed_s": 0.5,
            "bytes_sent": 81_920,
        }
    ]
    assert "result" not in first
    assert (second["type"], second["backend"], second["reason"]) == ("backend", "cloud", "refused")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("with_session", [False, True])
def test_the_session_is_written_if_it_is_asked_for(tmp_path: Path, with_session: bool) -> None:
    with JsonLinesHook(tmp_path / "events.jsonl", with_session=with_session) as hook:
        hook.on_frame(replace(FRAME, session_id="a-person"))
    (line,) = lines(tmp_path / "events.jsonl")
    assert line.get("session_id") == ("a-person" if with_session else None)
    assert ("session_id" in line) == with_session


def test_a_file_that_others_could_read_is_made_private_and_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text("{}\n", encoding="utf-8")
    path.chmod(0o644)
    with JsonLinesHook(path) as hook:
        hook.on_frame(FRAME)
    assert len(lines(path)) == 2
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_two_files_of_at_most_the_limit_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with JsonLinesHook(path, max_bytes=2000) as hook:
        for _ in range(20):
            hook.on_frame(FRAME)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["events.jsonl", "events.jsonl.1"]
    assert all(entry.stat().st_size <= 2000 for entry in tmp_path.iterdir())


def test_no_other_file_is_written_if_a_new_one_cannot_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number of a file that is closed is the next file's: a socket of the app's, say."""
    path, others = tmp_path / "events.jsonl", tmp_path / "others"
    with JsonLinesHook(path, max_bytes=1000) as hook:
        hook.on_frame(FRAME)
        with monkeypatch.context() as patch:
            patch.setattr(hook, "_open", lambda: os.open(tmp_path / "no" / "file", os.O_WRONLY))
            with pytest.raises(OSError, match="No such file"):
                hook.on_frame(FRAME)
            other = os.open(others, os.O_WRONLY | os.O_CREAT)
            with pytest.raises(OSError, match="No such file"):
                hook.on_frame(FRAME)
        hook.on_frame(FRAME)
        os.close(other)
    assert others.read_bytes() == b""
    assert len(lines(path)) == 1
    assert len(lines(tmp_path / "events.jsonl.1")) == 1


def test_a_second_process_does_not_set_aside_the_file_that_the_first_has_begun(
    tmp_path: Path,
) -> None:
    path = tmp_path / "events.jsonl"
    with JsonLinesHook(path, max_bytes=1000) as one, JsonLinesHook(path, max_bytes=1000) as other:
        one.on_frame(FRAME)
        one.on_frame(replace(FRAME, frame_id=8))  # which begins a new file
        other.on_frame(replace(FRAME, frame_id=9))
    assert [line["frame_id"] for line in lines(tmp_path / "events.jsonl.1")] == [7]
    assert [line["frame_id"] for line in lines(path)] == [8, 9]


@pytest.mark.skipif(sys.platform == "win32", reason="no limit of a file's size")
def test_a_line_that_a_full_disk_cut_does_not_spoil_the_next(tmp_path: Path) -> None:
    import resource

    path = tmp_path / "events.jsonl"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with JsonLinesHook(path) as hook:
        hook.on_frame(FRAME)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 20, before[1]))
            with pytest.raises(StorageError, match="disk is full"):
                hook.on_frame(FRAME)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, ignored)
        hook.on_frame(replace(FRAME, frame_id=9))
    whole, cut, after = path.read_text(encoding="utf-8").splitlines()
    assert (json.loads(whole)["frame_id"], json.loads(after)["frame_id"]) == (7, 9)
    assert len(cut) == 20


def test_a_closed_hook_drops_events(tmp_path: Path) -> None:
    hook = JsonLinesHook(tmp_path / "events.jsonl")
    hook.close()
    hook.close()
    hook.on_frame(FRAME)
    assert lines(tmp_path / "events.jsonl") == []


def test_a_file_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot write"):
        JsonLinesHook(tmp_path / "missing" / "events.jsonl")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match="cannot write"):
        JsonLinesHook(tmp_path / "link")
    assert not os.path.lexists(tmp_path / "elsewhere")
    with pytest.raises(ConfigurationError, match="max_bytes"):
        JsonLinesHook(tmp_path / "events.jsonl", max_bytes=0)


@pytest.mark.parametrize(
    ("outcome", "level"),
    [
        ("answered", logging.DEBUG),
        ("skipped", logging.DEBUG),
        ("failed", logging.WARNING),
        ("invalid", logging.WARNING),
    ],
)
def test_frames_are_logged_by_what_became_of_them(
    outcome: str, level: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    LoggingHook().on_frame(FrameEvent(at_s=0.0, outcome=FrameOutcome(outcome), reason="why"))
    (record,) = caplog.records
    assert (record.levelno, record.name) == (level, "hybrid_detect.events")
    assert outcome in record.getMessage()


def test_backends_are_logged_when_they_are_out_and_back(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    hook = LoggingHook(logging.getLogger("app"))
    hook.on_backend(BACKEND)
    hook.on_backend(BackendEvent(at_s=0.0, backend=BackendKind.CLOUD, usable=True))
    assert [record.getMessage() for record in caplog.records] == [
        "backend cloud is not usable: refused",
        "backend cloud is usable",
    ]

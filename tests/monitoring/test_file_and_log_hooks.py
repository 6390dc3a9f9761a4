"""The hooks that write: a private file of JSON lines, and Python's logging."""

import json
import logging
import os
import stat
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

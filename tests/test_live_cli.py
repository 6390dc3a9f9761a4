"""``stream`` and ``watch``: figures, screen, keys, lines, and a real terminal."""

import argparse
import asyncio
import io
import json
import logging
import os
import pty
import re
import shlex
import shutil
import signal
import subprocess
import sys
import termios
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from hybrid_detect.backends.remote.watching import LiveResult
from hybrid_detect.cli import live_view, main
from hybrid_detect.cli.exit_codes import ExitCode
from hybrid_detect.cli.live_figures import LiveFigures, Rate
from hybrid_detect.cli.live_output import LiveOutput
from hybrid_detect.cli.stream import _Run
from hybrid_detect.cli.terminal_keys import keys_pressed
from hybrid_detect.cli.watch import _Watching
from hybrid_detect.config import ServiceConfig
from hybrid_detect.errors import ConfigurationError, SourceError
from hybrid_detect.exchange.wire import ResultReply
from hybrid_detect.selection.conditions import LinkConditions, NetworkClass
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.service.managed_backend import BackendStatus
from hybrid_detect.service.plan_executor import HedgeCounts
from hybrid_detect.service.status import ServiceStatus, Traffic
from hybrid_detect.sources.captured import DropCause
from hybrid_detect.testing import FakeBackend
from hybrid_detect.types import (
    BackendKind,
    BoundingBox,
    DetectionMode,
    DetectionResult,
    DetectionStatus,
    Face,
    Plan,
)

from .server.loopback import served
from .waiting import LIMIT_S, until, wait_until

FACE = Face(BoundingBox(4, 5, 20, 30), 0.875)


def result(**changes: Any) -> DetectionResult:
    fields: dict[str, Any] = {
        "status": DetectionStatus.OK,
        "width": 64,
        "height": 48,
        "faces": (FACE,),
        "backend": BackendKind.DEVICE,
        "reason": "auto: device (20 ms)",
        "age_s": 0.05,
        "bytes_sent": 1000,
    }
    return DetectionResult(**(fields | changes))


# -- figures -------------------------------------------------------------------------------------


def test_a_rate_is_a_count_over_a_span() -> None:
    rate = Rate()
    assert rate.per_s(0.0) == 0
    for number in range(100):  # in pairs, as around a key frame: ten a second
        rate.note(10 + 0.2 * (number // 2) + 0.001 * (number % 2))
    assert rate.per_s(19.9) == pytest.approx(10, rel=0.03)
    assert rate.per_s(22.0) < 8, "a silence shows before the window is over"
    assert rate.per_s(40.0) == 0


def test_figures_are_of_the_answers_and_tell_the_last_trouble() -> None:
    figures = LiveFigures(started_s=0)
    figures.note(result(), now_s=1.0)
    figures.note(result(backend=BackendKind.CLOUD, faces=()), now_s=1.1)
    figures.note(result(status=DetectionStatus.FAILED, faces=(), reason="no network"), now_s=1.2)
    assert dict(figures.statuses) == {"ok": 2, "failed": 1}
    assert figures.shares() == {"device": 0.5, "cloud": 0.5}
    assert (figures.faces, figures.best_score, figures.bytes_sent) == (0, None, 3000)
    assert figures.trouble == "no network"
    figures.note(result(), now_s=1.3)
    assert figures.trouble == ""


def test_a_curve_is_drawn_to_its_greatest() -> None:
    assert live_view.curve([0, 1, 2, 4]) == "▁▃▅█"
    assert live_view.curve([0, 0]) == "▁▁"
    assert live_view.curve([]) == ""
    assert live_view.ages([]) == "-"
    assert live_view.ages([0.01, 0.03, 0.02]).startswith("20 ms, at most 30  ")


# -- the screen ----------------------------------------------------------------------------------


def status(**changes: Any) -> ServiceStatus:
    backend = BackendStatus(
        kind=BackendKind.STREAMING,
        usable=False,
        unavailable_reason="not connected: \x1b[2Jno route\n",
        breaker="open",
        latency_s=0.04,
        answered=7,
        failed=2,
    )
    fields: dict[str, Any] = {
        "mode": DetectionMode.AUTO,
        "plan": Plan(backend=None, reason="", deadline_s=1.0),
        "backends": (backend,),
        "hedges": HedgeCounts(),
        "traffic": Traffic(),
        "drops": {DropCause.BUSY: 3, DropCause.MAX_FPS: 41},
        "link": LinkConditions(
            bits_per_s=11.6e6,
            spread=0.2,
            rtt_s=0.023,
            rtt_deviation_s=0.001,
            server_s=0.05,
            in_flight=1,
            network=NetworkClass.GOOD,
        ),
    }
    return ServiceStatus(**(fields | changes))


def test_the_screen_tells_everything_in_80_columns() -> None:
    rich_console = pytest.importorskip("rich.console")
    figures = LiveFigures(started_s=0)
    for number in range(90):
        figures.note(result(age_s=0.05 + 0.001 * number), now_s=0.1 * number)
    figures.note(result(status=DetectionStatus.FAILED, faces=(), reason="lost " * 50), now_s=9.0)
    rows = live_view.rows_of_stream(
        figures, status(), memory={"app": 110_700_000}, max_fps=10, now_s=9.0
    )
    console = rich_console.Console(
        record=True, width=80, height=24, file=io.StringIO(), force_terminal=True
    )
    console.print(live_view.screen(" hybrid-detect stream \x1b[0m", rows, "q quit", cut="ellipsis"))
    text = console.export_text()
    lines = text.splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert len(lines) <= 23
    assert "\x1b" not in text, "what comes from outside moves no cursor"
    for told in (
        "10.0 of 10",
        "1, best 0.88",
        "auto: device (20 ms)",
        "11.6 Mbit/s, round trip 23 ms, good, 1 in flight",
        "ok 90, failed 1",
        "busy 3, max_fps 41",
        "app 110.7 MB",
        "out: not connected:",
        "lost lost",
        "q quit",
    ):
        assert told in text


def test_in_a_narrow_terminal_the_names_are_whole() -> None:
    rich_console = pytest.importorskip("rich.console")
    rows = [("streaming", "told " * 20, ""), ("fps", "1", "")]
    console = rich_console.Console(record=True, width=24, file=io.StringIO(), force_terminal=True)
    console.print(live_view.screen("title", rows, "q quit", cut="ellipsis"))
    lines = console.export_text().splitlines()
    assert lines[1].startswith("streaming  told")
    assert all(len(line) <= 24 for line in lines)


# -- the command without a terminal --------------------------------------------------------------


@pytest.fixture
def fake_device(monkeypatch: pytest.MonkeyPatch) -> None:
    def create(kind: Any, config: Any) -> FakeBackend:
        return FakeBackend(kind, faces=[FACE])

    monkeypatch.setattr("hybrid_detect.service.backend_factory.create_backend", create)
    monkeypatch.setattr("hybrid_detect.cli.fetching.load_model", lambda *_, **__: b"")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(4):
        Image.new("RGB", (64, 48), (number, 0, 0)).save(tmp_path / f"{number}.png")
    return tmp_path


def stream(folder: Path, *options: str) -> int:
    return main(
        ["stream", "--source", str(folder), "--mode", "on_device", "--max-fps", "100", *options]
    )


@pytest.mark.usefixtures("fake_device")
def test_a_stream_prints_a_line_of_json_for_each_result(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert stream(folder, "--json") == ExitCode.DONE
    results = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [result["source_index"] for result in results] == [0, 1, 2, 3]
    assert all(len(result["faces"]) == 1 for result in results)


@pytest.mark.usefixtures("fake_device")
def test_a_stream_prints_plain_lines_where_there_is_no_terminal(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert stream(folder, "--frames", "2") == ExitCode.DONE
    *lines, last = capsys.readouterr().out.splitlines()
    assert lines
    assert all(line.startswith("fps ") for line in lines)
    assert last.startswith("2 results in ")
    assert last.endswith(": 2 ok")


@pytest.mark.usefixtures("fake_device")
def test_a_source_that_is_lost_for_good_is_a_failure(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        def open(self) -> Any:
            return Reader()

    class Reader:
        is_live = False

        def read(self) -> Any:
            raise SourceError("the file breaks off")

        def close(self) -> None:
            pass

    monkeypatch.setattr("hybrid_detect.sources.sources.named_source", lambda _name: Broken())
    assert main(["stream", "--source", "clip.mp4", "--mode", "on_device"]) == ExitCode.FAILED
    assert "hybrid-detect: the file breaks off" in capsys.readouterr().err


def test_what_cannot_be_opened_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stream", "--source", "gopher://x", "--mode", "on_device", "--json"]) == 1
    assert "expected an address of" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["stream", "--source", "0", "--frames"], ["watch", "https://x.example", "--results"]]
)
@pytest.mark.parametrize("count", ["0", "-1", "1.5", "many"])
def test_an_end_that_never_comes_is_refused(
    words: list[str], count: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main([*words, count])
    assert left.value.code == ExitCode.USAGE
    assert "expected a number of 1 or more" in capsys.readouterr().err


@pytest.mark.parametrize("rate", ["0", "-1", "nan", "inf", "many"])
def test_a_rate_that_is_none_is_refused_before_anything_starts(
    rate: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["stream", "--source", "0", f"--max-fps={rate}"])
    assert left.value.code == ExitCode.USAGE
    assert f"expected a number above 0, got '{rate}'" in capsys.readouterr().err


# -- keys and a real terminal --------------------------------------------------------------------


@pytest.fixture
def terminal() -> Iterator[tuple[int, io.TextIOWrapper]]:
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "r", encoding="ascii") as stdin:
        yield ours, stdin
    os.close(ours)


@pytest.mark.anyio
async def test_keys_come_without_return_and_the_terminal_is_as_it_was(
    terminal: tuple[int, io.TextIOWrapper],
) -> None:
    ours, stdin = terminal
    before = termios.tcgetattr(stdin)
    seen: list[str] = []
    with keys_pressed(seen.append, stdin) as can_read:
        assert can_read
        os.write(ours, b"mq")
        await until(lambda: seen == ["m", "q"])
    assert termios.tcgetattr(stdin) == before
    with keys_pressed(seen.append, io.StringIO()) as can_read:
        assert not can_read


def test_the_screen_in_a_real_terminal(folder: Path, tmp_path: Path) -> None:
    """In tmux: it is drawn, the mode changes with m, and q ends it."""
    pytest.importorskip("rich")
    tmux = shutil.which("tmux")
    if tmux is None:
        pytest.skip("tmux is not installed")
    socket = ["-S", str(tmp_path / "tmux")]
    code = (
        "import sys; from hybrid_detect.cli import main; "
        "from hybrid_detect.service import backend_factory; "
        "from hybrid_detect.testing import FakeBackend; "
        "backend_factory.create_backend = lambda kind, config: FakeBackend(kind); "
        f"sys.exit(main(['stream', '--source', {str(folder)!r}, '--max-fps', '0.05',"
        " '--mode', 'on_device', '--model', 'short_range']))"
    )

    def run(*words: str) -> str:
        done = subprocess.run(
            [tmux, *socket, *words], capture_output=True, text=True, check=True, timeout=LIMIT_S
        )
        return done.stdout

    run("-f", "/dev/null", "new-session", "-d", "-x", "80", "-y", "24", "-s", "live", "sh")
    try:
        run("send-keys", "-t", "live", f"{sys.executable} -c {shlex.quote(code)}", "Enter")

        def shown() -> str:
            return run("capture-pane", "-p", "-t", "live")

        wait_until(lambda: "mode on_device" in shown() and "q quit  m mode" in shown())
        assert "results" in shown()
        run("send-keys", "-t", "live", "C-z")
        wait_until(lambda: "Stopped" in shown() and "q quit" not in shown())  # the shell's screen
        assert run("display", "-p", "-t", "live", "#{cursor_flag}").strip() == "1"
        run("send-keys", "-t", "live", "fg", "Enter")
        wait_until(lambda: "q quit  m mode" in shown())
        run("send-keys", "-t", "live", "m")
        wait_until(lambda: "mode prefer_" in shown())
        run("send-keys", "-t", "live", "q")
        wait_until(lambda: " results in " in shown())
    finally:
        run("kill-server")


HOSTILE = "\x1b]0;owned\x07\x1b[2Jgone\r\n\u202eback"


@pytest.mark.anyio
async def test_plain_lines_hold_nothing_that_a_terminal_obeys() -> None:
    shown = io.StringIO()
    rows = [("backend", HOSTILE, ""), ("model", "caf\u00e9", "")]
    output = LiveOutput(str, lambda: rows, quit=print, as_json=False, stdout=shown)
    output.show()
    line = shown.getvalue()
    assert line.endswith("; model caf\u00e9\n")
    assert line[:-1].isprintable()


@pytest.mark.usefixtures("fake_device")
def test_names_and_errors_hold_nothing_that_a_terminal_obeys(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    named = tmp_path / "\x1b[2Ja.png"
    Image.new("RGB", (64, 48)).save(named)
    damaged = tmp_path / "\x1b[2Jb.png"
    damaged.write_bytes(b"none")
    assert main(["detect", str(named), str(damaged), "--mode", "on_device"]) == ExitCode.PARTLY

    def fails(*_: Any) -> Any:
        raise ConfigurationError(HOSTILE)

    monkeypatch.setattr("hybrid_detect.sources.sources.named_source", fails)
    assert main(["stream", "--source", "clip.mp4", "--mode", "on_device"]) == ExitCode.FAILED
    said = capsys.readouterr()
    assert r"\x1b[2Ja.png: 1 face" in said.out
    assert r"\x1b[2Jb.png: " in said.err
    assert r"\x1b[2Jgone" in said.err
    assert (said.out + said.err).replace("\n", "").isprintable()


def test_warnings_hold_nothing_that_a_terminal_obeys(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a server gives as its reason is told in a warning, which no handler takes."""
    logger = logging.getLogger("hybrid_detect")
    monkeypatch.setattr(logger, "propagate", False)

    def warn(_arguments: Any) -> int:
        logger.warning("cloud is out: %s", HOSTILE)
        try:
            raise ValueError(HOSTILE)
        except ValueError:
            logger.exception("a bug")
        return 0

    before = logging.lastResort
    monkeypatch.setattr("hybrid_detect.cli.watch.run", warn)
    assert main(["watch", "https://faces.example.com"]) == 0
    first, *others = capsys.readouterr().err.splitlines()
    assert first.startswith(r"cloud is out: \x1b]0;owned\x07\x1b[2Jgone")
    assert others[:2] == ["a bug", "Traceback (most recent call last):"]
    assert all(line.isprintable() for line in (first, *others))
    assert logging.lastResort is before


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.anyio
async def test_a_terminal_without_a_cursor_gets_plain_lines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    shown = Terminal()
    output = LiveOutput(str, lambda: [("fps", "9", "")], quit=print, as_json=False, stdout=shown)
    async with output:
        await until(lambda: "fps 9" in shown.getvalue())
    assert "\x1b" not in shown.getvalue()


@pytest.mark.anyio
@pytest.mark.parametrize("term", ["dumb", "xterm"])
async def test_an_encoding_without_bars_gets_plain_ones(
    term: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", term)
    written = io.BytesIO()

    class Latin(io.TextIOWrapper):
        def isatty(self) -> bool:
            return True

    shown = Latin(written, encoding="latin-1", errors="backslashreplace", write_through=True)
    rows = [("age", live_view.curve([0.0, 0.5, 1.0]), ""), ("reason", "so " * 100, "")]
    async with LiveOutput(str, lambda: rows, quit=print, as_json=False, stdout=shown):
        await until(lambda: b"_=#" in written.getvalue())
    assert b"\\u" not in written.getvalue()


@pytest.mark.anyio
@pytest.mark.parametrize("is_asked", [False, True])
async def test_no_color_is_obeyed(is_asked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rich")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", "1" if is_asked else "")  # empty says nothing: no-color.org
    shown = Terminal()
    rows = [("backend", "device", "green")]
    async with LiveOutput(str, lambda: rows, quit=print, as_json=False, stdout=shown):
        await until(lambda: "device" in shown.getvalue())
    colours = re.findall(r"\x1b\[(?:[0-9;]*;)?(?:3[0-7]|9[0-7]|38;[0-9;]*)m", shown.getvalue())
    assert bool(colours) is not is_asked


@pytest.mark.anyio
async def test_a_screen_is_left_when_the_process_is_asked_to_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("rich")
    monkeypatch.setenv("TERM", "xterm")
    quitting, shown = asyncio.Event(), Terminal()
    before = signal.getsignal(signal.SIGTERM)
    output = LiveOutput(str, list, quit=quitting.set, as_json=False, stdout=shown)
    async with output:
        os.kill(os.getpid(), signal.SIGTERM)
        async with asyncio.timeout(LIMIT_S):
            await quitting.wait()
    assert "\x1b[?1049l" in shown.getvalue(), "the screen that was there before is back"
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.anyio
async def test_when_nobody_reads_the_lines_the_command_ends() -> None:
    class Broken(io.StringIO):
        def write(self, _text: str) -> int:
            raise BrokenPipeError

    quitting = asyncio.Event()
    output = LiveOutput(str, list, quit=quitting.set, as_json=False, stdout=Broken())
    with pytest.raises(BrokenPipeError):
        async with asyncio.timeout(LIMIT_S), output:
            await quitting.wait()


@pytest.mark.anyio
async def test_a_terminal_that_is_gone_is_not_read_again_and_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours, theirs = pty.openpty()
    reads: list[int] = []
    read = os.read

    def counted(number: int, size: int) -> bytes:
        if number == theirs:
            reads.append(size)
        return read(number, size)

    with (
        os.fdopen(theirs, "r", encoding="ascii") as stdin,
        keys_pressed(print, stdin) as can_read,
    ):
        assert can_read
        monkeypatch.setattr("hybrid_detect.cli.terminal_keys.os.read", counted)
        os.close(ours)
        await until(lambda: reads)
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(reads) == 1


def test_the_title_tells_no_password() -> None:
    for source in ("rtsp:/user:secret@camera", "rtsp://user:secret@camera", "user:secret@camera"):
        run = _Run(argparse.Namespace(source=source))
        run._service = SimpleNamespace(status=status)  # type: ignore[assignment]
        assert "secret" not in run._title()


# -- watch ---------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_watch_prints_what_the_server_finds(capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[Any] = []

    def printed() -> list[Any]:
        seen.extend(json.loads(line) for line in capsys.readouterr().out.splitlines())
        return seen

    async with served(ServerConfig(auth_token="a-token")) as server:
        live = server.server._app.state.live
        config = ServiceConfig(
            endpoint=f"http://127.0.0.1:{server.port}", auth_token="a-token", session_id="visit"
        )
        arguments = argparse.Namespace(json=True, results=2)
        watching = asyncio.create_task(_Watching(config, arguments).run())
        await until(lambda: live.watchers or watching.done())
        for number in (1, 2):
            live.publish(
                "token",
                "visit",
                ResultReply(
                    request_id=1, width=64, height=48, faces=(FACE,), model="m", detect_s=0.25
                ),
            )
            await until(lambda number=number: len(printed()) == number)
        assert await watching == ExitCode.DONE
    assert [line["number"] for line in seen] == [1, 2]
    assert seen[0]["faces"][0]["box"] == [4, 5, 20, 30]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("results", "told"),
    [(None, "2 results, 3 missed: the session has ended"), (1, "1 results, 0 missed")],
)
async def test_watch_says_why_it_has_ended(
    results: int | None,
    told: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def session(*_: Any, **__: Any) -> AsyncIterator[LiveResult]:
        for number, missed in ((1, 0), (5, 3)):
            yield LiveResult(
                session_id="visit",
                number=number,
                missed=missed,
                at=datetime.fromtimestamp(0, UTC),
                width=64,
                height=48,
                faces=(FACE,),
                model="m",
                quality="",
                receive_s=None,
                queue_s=None,
                detect_s=0.25,
            )

    monkeypatch.setattr("hybrid_detect.cli.watch.watch_session", session)
    config = ServiceConfig(endpoint="https://faces.example.com", session_id="visit")
    await _Watching(config, argparse.Namespace(json=False, results=results)).run()
    assert capsys.readouterr().out.splitlines()[-1] == told


def test_watch_needs_a_session(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HYBRID_DETECT_SESSION_ID", raising=False)
    assert main(["watch", "http://127.0.0.1:1"]) == ExitCode.USAGE
    assert "--session" in capsys.readouterr().err
    assert main(["watch", "http://127.0.0.1:1", "--session", "a", "--json"]) == ExitCode.FAILED

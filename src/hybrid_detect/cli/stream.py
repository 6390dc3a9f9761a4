"""``hybrid-detect stream``: find the faces in a camera's frames, and show how that goes."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from contextlib import aclosing, suppress
from typing import Any

import psutil

from hybrid_detect.cli.exit_codes import ExitCode
from hybrid_detect.cli.fetching import fetch_for_device
from hybrid_detect.cli.live_figures import LiveFigures
from hybrid_detect.cli.live_output import LiveOutput
from hybrid_detect.cli.live_view import Row, rows_of_stream
from hybrid_detect.cli.options import (
    above_zero,
    add_service_options,
    at_least_one,
    described,
    service_config,
)
from hybrid_detect.cli.plain_text import one_line
from hybrid_detect.errors import HybridDetectError, SourceError
from hybrid_detect.service.hybrid import HybridDetectionService
from hybrid_detect.sources import names
from hybrid_detect.sources.captured import Intent
from hybrid_detect.types import DetectionMode, DetectionResult

__all__ = ["add_parser"]


def add_parser(commands: Any) -> None:
    """Add the command to the parser's `commands`."""
    parser = commands.add_parser(
        "stream", **described("find the faces in a camera's frames, and show how that goes")
    )
    parser.add_argument(
        "--source",
        required=True,
        metavar="SOURCE",
        help="a camera's index, picamera2, the path of a video or of a folder of pictures, or an "
        "address such as rtsp://...",
    )
    parser.add_argument(
        "--max-fps",
        type=above_zero,
        default=10.0,
        metavar="N",
        help="most frames a second (default: 10)",
    )
    parser.add_argument(
        "--intent",
        choices=[intent.value for intent in Intent],
        default=Intent.AUTO.value,
        help="what to do when frames come too fast (default: auto)",
    )
    parser.add_argument(
        "--frames",
        type=at_least_one,
        metavar="N",
        help="end after so many results (default: at the source's end)",
    )
    add_service_options(parser)
    parser.add_argument(
        "--json", action="store_true", help="print one line of JSON for each result"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Look at frames until the source ends or the user does."""
    config = service_config(arguments)
    fetch_for_device(config)
    return asyncio.run(_Run(arguments).run(HybridDetectionService(config=config)))


class _Run:
    """One run of the command."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments
        self._figures = LiveFigures(started_s=time.monotonic())
        self._process = psutil.Process()
        self._tasks: set[asyncio.Task[None]] = set()
        self._quit = asyncio.Event()

    async def run(self, service: HybridDetectionService) -> ExitCode:
        self._service = service
        output = LiveOutput(
            self._title,
            self._rows,
            quit=self._quit.set,
            on_key={"m": ("mode", self._next_mode)},
            as_json=self._arguments.json,
        )
        async with service, output:
            last = await self._until_quit(self._take())
        self._summarise()
        if last is not None and isinstance(last.error, SourceError) and not last.error.goes_on:
            print(f"hybrid-detect: {one_line(last.error)}", file=sys.stderr)
            return ExitCode.FAILED
        return ExitCode.DONE

    async def _until_quit(self, work: Any) -> DetectionResult | None:
        """What `work` gives; `None` if the user quits before."""
        working = asyncio.create_task(work)
        quitting = asyncio.create_task(self._quit.wait())
        try:
            await asyncio.wait([working, quitting], return_when=asyncio.FIRST_COMPLETED)
            return working.result() if working.done() else None
        finally:
            for task in (working, quitting, *self._tasks):
                task.cancel()
            await asyncio.gather(working, quitting, *self._tasks, return_exceptions=True)

    async def _take(self) -> DetectionResult | None:
        arguments = self._arguments
        stream = self._service.start_detection(
            arguments.source, max_fps=arguments.max_fps, intent=arguments.intent
        )
        result = None
        async with aclosing(stream):
            async for result in stream:
                self._figures.note(result, now_s=time.monotonic())
                if arguments.json:
                    print(json.dumps(result.to_dict()), flush=True)
                if self._figures.statuses.total() == arguments.frames:
                    break
        return result

    def _next_mode(self) -> None:
        task = asyncio.create_task(self._change_mode())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _change_mode(self) -> None:
        modes = list(DetectionMode)
        now = modes.index(self._service.status().mode)
        for mode in (*modes[now + 1 :], *modes[:now]):
            with suppress(HybridDetectError):  # no backend of it can work here
                await self._service.set_mode(mode)
                return

    def _title(self) -> str:
        minutes, seconds = divmod(int(time.monotonic() - self._figures.started_s), 60)
        source = names.described(self._arguments.source, check=False)
        mode = self._service.status().mode.value
        return f" hybrid-detect stream  mode {mode}  {minutes:02}:{seconds:02}  {source} "

    def _rows(self) -> list[Row]:
        return rows_of_stream(
            self._figures,
            self._service.status(),
            memory=self._memory(),
            max_fps=self._arguments.max_fps,
            now_s=time.monotonic(),
        )

    def _memory(self) -> dict[str, int]:
        memory = {"app": self._process.memory_info().rss}
        children = 0
        for child in self._process.children(recursive=True):
            with suppress(psutil.Error):  # it has just ended
                children += child.memory_info().rss
        return memory | ({"detector": children} if children else {})

    def _summarise(self) -> None:
        if self._arguments.json:
            return
        counts = ", ".join(f"{count} {name}" for name, count in self._figures.statuses.items())
        spent_s = time.monotonic() - self._figures.started_s
        print(f"{self._figures.statuses.total()} results in {spent_s:.1f} s: {counts or 'none'}")

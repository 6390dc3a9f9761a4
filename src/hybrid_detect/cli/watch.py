"""``hybrid-detect watch``: see what a server finds in the frames that another client sends."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections import deque
from contextlib import aclosing
from typing import Any

from hybrid_detect.backends.remote.tls import client_context
from hybrid_detect.backends.remote.watching import LiveResult, watch_session
from hybrid_detect.cli.exit_codes import ExitCode
from hybrid_detect.cli.live_figures import TREND, Rate
from hybrid_detect.cli.live_output import LiveOutput
from hybrid_detect.cli.live_view import Row, ages
from hybrid_detect.cli.options import at_least_one, described
from hybrid_detect.config import ServiceConfig
from hybrid_detect.environment import ENV_PREFIX

__all__ = ["add_parser"]


def add_parser(commands: Any) -> None:
    """Add the command to the parser's `commands`."""
    parser = commands.add_parser(
        "watch", **described("see what a server finds in the frames that another client sends")
    )
    parser.add_argument("url", metavar="URL", help="the detection server")
    parser.add_argument(
        "--session",
        metavar="NAME",
        help=f"the session to watch (default: {ENV_PREFIX}SESSION_ID)",
    )
    parser.add_argument(
        "--results",
        type=at_least_one,
        metavar="N",
        help="end after so many results (default: with the session)",
    )
    parser.add_argument(
        "--json", action="store_true", help="print one line of JSON for each result"
    )
    parser.epilog = f"The server's token is read from {ENV_PREFIX}AUTH_TOKEN."
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Watch until the session ends or the user does."""
    given = {} if arguments.session is None else {"session_id": arguments.session}
    config = ServiceConfig.from_env(endpoint=arguments.url, **given)
    if not config.session_id:
        print("hybrid-detect watch: --session: expected the name of a session", file=sys.stderr)
        return ExitCode.USAGE
    return asyncio.run(_Watching(config, arguments).run())


class _Watching:
    """One run of the command."""

    def __init__(self, config: ServiceConfig, arguments: argparse.Namespace) -> None:
        self._config = config
        self._arguments = arguments
        self._rate = Rate()
        self._server_s: deque[float] = deque(maxlen=TREND)
        self._latest: LiveResult | None = None
        self._count = self._missed = 0
        self._quit = asyncio.Event()

    async def run(self) -> ExitCode:
        output = LiveOutput(
            self._title,
            self._rows,
            quit=self._quit.set,
            as_json=self._arguments.json,
        )
        async with output:
            watching = asyncio.create_task(self._watch())
            quitting = asyncio.create_task(self._quit.wait())
            try:
                await asyncio.wait([watching, quitting], return_when=asyncio.FIRST_COMPLETED)
                if watching.done():
                    watching.result()
            finally:
                for task in (watching, quitting):
                    task.cancel()
                await asyncio.gather(watching, quitting, return_exceptions=True)
        if not self._arguments.json:
            why = "" if self._quit.is_set() or self._is_enough() else ": the session has ended"
            print(f"{self._count} results, {self._missed} missed{why}")
        return ExitCode.DONE

    async def _watch(self) -> None:
        config = self._config
        results = watch_session(
            str(config.endpoint),
            str(config.session_id),
            auth_token=config.auth_token,
            allow_insecure_http=config.allow_insecure_http,
            ssl_context=client_context(
                ca_file=config.ca_file,
                client_cert=config.client_cert,
                client_key=config.client_key,
            ),
        )
        async with aclosing(results):  # type: ignore[type-var]
            async for result in results:
                self._note(result)
                if self._arguments.json:
                    print(json.dumps(_as_dict(result)), flush=True)
                if self._is_enough():
                    return

    def _is_enough(self) -> bool:
        return bool(self._count == self._arguments.results)

    def _note(self, result: LiveResult) -> None:
        self._latest = result
        self._count += 1
        self._missed += result.missed
        self._rate.note(time.monotonic())
        spent_s = (result.receive_s, result.queue_s, result.detect_s)
        self._server_s.append(sum(part or 0.0 for part in spent_s))

    def _title(self) -> str:
        return f" hybrid-detect watch  session {self._config.session_id} "

    def _rows(self) -> list[Row]:
        latest = self._latest
        if latest is None:
            return [("results", "none yet: the session may begin later", "yellow")]
        scores = [face.score for face in latest.faces if face.score is not None]
        best = f", best {max(scores):.2f}" if scores else ""
        spent = {"receive": latest.receive_s, "queue": latest.queue_s, "detect": latest.detect_s}
        parts = [f"{name} {s * 1000:.0f} ms" for name, s in spent.items() if s is not None]
        return [
            ("fps", f"{self._rate.per_s(time.monotonic()):.1f}", "bold green"),
            ("faces", f"{len(latest.faces)}{best}", ""),
            ("model", " ".join(filter(None, (latest.model, latest.quality))), "cyan"),
            ("picture", f"{latest.width}x{latest.height}", ""),
            ("server", ", ".join(parts) or "-", ""),
            ("trend", ages(list(self._server_s)), ""),
            ("results", f"{self._count}, {self._missed} missed", ""),
            ("latest", f"number {latest.number}, {latest.at:%H:%M:%S} UTC", ""),
        ]


def _as_dict(result: LiveResult) -> dict[str, Any]:
    return {
        "session_id": result.session_id,
        "number": result.number,
        "missed": result.missed,
        "at": result.at.isoformat(),
        "width": result.width,
        "height": result.height,
        "faces": [
            {
                "box": list(face.box.xyxy),
                "score": face.score,
                "keypoints": {point.name: [point.x, point.y] for point in face.keypoints},
            }
            for face in result.faces
        ],
        "model": result.model,
        "quality": result.quality,
        "receive_s": result.receive_s,
        "queue_s": result.queue_s,
        "detect_s": result.detect_s,
    }

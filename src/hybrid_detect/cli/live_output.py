"""Where live figures go: a screen in a terminal, plain lines elsewhere, or lines of JSON."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from types import MappingProxyType
from typing import Any, TextIO

from hybrid_detect.cli.live_view import CURVE, PLAIN, Cut, Row, screen
from hybrid_detect.cli.plain_text import one_line
from hybrid_detect.cli.terminal_keys import keys_pressed
from hybrid_detect.extras import is_installed

__all__ = ["LiveOutput"]

SCREEN_EVERY_S = 0.25
LINE_EVERY_S = 1.0

NO_SCREEN = ("dumb", "unknown")
"""Values of ``TERM`` for what shows text and knows no cursor: an editor's shell, a log."""

NO_RICH = "for a live screen: pip install 'hybrid-detect[tui]'"


class LiveOutput:
    """Shows the newest rows again and again, inside an ``async with`` block.

    Args:
        title: Gives the first line.
        rows: Gives what is told now.
        quit: Has the block end: called for the key ``q``, when the system asks the process to end,
            and when there is nowhere to show anything any more.
        on_key: What further keys do, by the letter; the word for each is shown.
        as_json: Whether lines of JSON are printed by the caller, and nothing else is.
        stdout: Where to.
    """

    def __init__(
        self,
        title: Callable[[], str],
        rows: Callable[[], Sequence[Row]],
        *,
        quit: Callable[[], object],
        on_key: Mapping[str, tuple[str, Callable[[], object]]] = MappingProxyType({}),
        as_json: bool,
        stdout: TextIO | None = None,
    ) -> None:
        self._title = title
        self._rows = rows
        self._quit = quit
        self._on_key = {"q": ("quit", quit), **on_key}
        self._stdout = sys.stdout if stdout is None else stdout
        self._is_quiet = as_json
        self._live: Any = None
        self._left = ExitStack()
        self._task: asyncio.Task[None] | None = None
        self._keys = ""

    async def __aenter__(self) -> LiveOutput:
        if self._is_quiet:
            return self
        if self._stdout.isatty() and os.environ.get("TERM") not in NO_SCREEN:
            if is_installed("rich"):
                self._open_screen()
            else:
                print(NO_RICH, file=sys.stderr)
        self._task = asyncio.create_task(self._repeat())
        self._task.add_done_callback(self._repeated)
        return self

    def _open_screen(self) -> None:
        from rich.console import Console
        from rich.live import Live

        # Ended or stopped at once, it would leave the terminal without a cursor and an echo.
        with suppress(AttributeError, NotImplementedError, RuntimeError, ValueError):
            self._on_signal(signal.SIGTERM, self._quit)  # not on Windows, nor in a thread
            self._on_signal(signal.SIGTSTP, self._suspend)
        console = Console(file=self._stdout)
        self._live = self._left.enter_context(
            Live(console=console, screen=True, auto_refresh=False)
        )
        if self._left.enter_context(keys_pressed(self._pressed)):
            self._keys = "  ".join(f"{key} {word}" for key, (word, _) in self._on_key.items())

    def _on_signal(self, number: signal.Signals, act: Callable[[], object]) -> None:
        """Call `act` when the signal comes, until the screen is left."""
        loop, before = asyncio.get_running_loop(), signal.getsignal(number)
        loop.add_signal_handler(number, act)
        if before is not None:  # which is only known of what Python has set
            self._left.callback(signal.signal, number, before)
        self._left.callback(loop.remove_signal_handler, number)

    def _suspend(self) -> None:
        """Ctrl-Z: give the terminal back, stop, and take it again when the shell says so."""
        self._left.close()
        signal.raise_signal(signal.SIGTSTP)  # stops here
        self._open_screen()

    def _pressed(self, key: str) -> None:
        _, act = self._on_key.get(key, ("", None))
        if act is not None:
            act()

    async def _repeat(self) -> None:
        while True:
            self.show()
            await asyncio.sleep(SCREEN_EVERY_S if self._live is not None else LINE_EVERY_S)

    def _repeated(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            self._quit()

    def show(self) -> None:
        """Show what there is now."""
        rows, has_bars = self._rows(), _can_write(CURVE, self._stdout)
        if not has_bars:
            rows = [(name, told.translate(PLAIN), style) for name, told, style in rows]
        if self._live is not None:
            cut: Cut = "ellipsis" if has_bars else "crop"
            self._live.update(screen(self._title(), rows, self._keys, cut=cut), refresh=True)
        else:
            line = "; ".join(f"{name} {told}" for name, told, _ in rows)
            print(one_line(line), file=self._stdout, flush=True)

    async def __aexit__(self, *exc_info: object) -> None:
        task, self._task = self._task, None
        try:
            if task is not None:
                task.cancel()
                await asyncio.wait([task])
        finally:
            self._left.close()
        if task is not None and not task.cancelled():
            task.result()  # raises what went wrong while showing


def _can_write(text: str, file: TextIO) -> bool:
    """Whether `file`, which may have no encoding, has letters for `text`."""
    try:
        text.encode(file.encoding or "utf-8")
    except UnicodeEncodeError:
        return False
    return True

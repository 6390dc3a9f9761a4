"""Keys that are pressed while a screen is shown."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

__all__ = ["keys_pressed"]


@contextmanager
def keys_pressed(on_key: Callable[[str], object], stdin: TextIO | None = None) -> Iterator[bool]:
    """Call `on_key` for each key in the running event loop, inside the block.

    Gives whether keys can be read: not where standard input is no terminal, nor on Windows, whose
    event loop cannot wait for it.
    """
    stdin = sys.stdin if stdin is None else stdin
    if sys.platform == "win32" or stdin is None or not stdin.isatty():
        yield False
        return
    import termios
    import tty

    number = stdin.fileno()
    before = termios.tcgetattr(number)
    loop = asyncio.get_running_loop()

    def read() -> None:
        try:
            pressed = os.read(number, 64)
        except OSError:  # the terminal is gone
            pressed = b""
        if not pressed:
            loop.remove_reader(number)  # else it would be called again and again
        for key in pressed.decode("ascii", "ignore"):
            on_key(key)

    tty.setcbreak(number)  # Ctrl-C still interrupts
    loop.add_reader(number, read)
    try:
        yield True
    finally:
        loop.remove_reader(number)
        with suppress(termios.error):  # the terminal is gone
            termios.tcsetattr(number, termios.TCSADRAIN, before)

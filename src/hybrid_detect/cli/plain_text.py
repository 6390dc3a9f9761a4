"""Text from outside, made fit for a terminal: servers, files and addresses name things as well."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["one_line", "warnings_told"]


def one_line(text: object) -> str:
    """`text` on one line, without what a terminal would obey: such characters are spelled out.

    A server's reason that holds an escape sequence could else clear the screen, write the title or
    fake a line.
    """
    return "".join(
        letter if letter.isprintable() else " " if letter.isspace() else _spelled_out(letter)
        for letter in str(text)
    )


def _spelled_out(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")


@contextmanager
def warnings_told() -> Iterator[None]:
    """Print what no handler of a log takes, warnings and worse, without what a terminal obeys."""
    before, logging.lastResort = logging.lastResort, _PlainLog()
    try:
        yield
    finally:
        logging.lastResort = before


class _PlainLog(logging.Handler):
    """Prints to what is standard error at the time, as `logging.lastResort` does."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.setFormatter(_PlainFormatter())

    def emit(self, record: logging.LogRecord) -> None:
        try:
            print(self.format(record), file=sys.stderr)
        except Exception:  # a line that cannot be written must not stop the library
            self.handleError(record)


class _PlainFormatter(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        return one_line(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's name
        return "\n".join(map(one_line, super().formatException(ei).split("\n")))

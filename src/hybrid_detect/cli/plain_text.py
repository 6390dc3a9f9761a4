"""Text from outside, made fit for a terminal: servers, files and addresses name things as well."""

from __future__ import annotations

__all__ = ["one_line"]


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

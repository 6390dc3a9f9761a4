"""Plain tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hybrid_detect.cli.plain_text import one_line

__all__ = ["table"]


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """`rows` under `header` in aligned columns; the last column is free to be long."""
    cells = [list(header), *([one_line(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    widths[-1] = 0
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in cells
    ]
    return "\n".join(line.rstrip() for line in lines)

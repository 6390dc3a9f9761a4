"""Part counts: how many parts an encoded image may consist of.

A part is a segment, a chunk, a block, a box or an entry of a directory. Each costs a decoder some
microseconds even if it is empty, so a file of very many empty parts costs seconds where its bytes
look harmless. Every container is walked here before a decoder sees it, and every walk counts.
"""

from __future__ import annotations

from hybrid_detect.errors import InvalidFrameError

__all__ = ["PartCount"]

FREE_PARTS = 1024
"""Parts that a file of any size may have. A photo of a phone has 10 to 60, a progressive JPEG with
tables for each scan about 100."""

BYTES_PER_PART = 1024
"""Bytes of the file for each part more, in the mean. Encoders write PNG chunks of 4 KiB or more,
and JPEG segments of metadata of up to 64 KiB."""


class PartCount:
    """The parts met so far in one file.

    Args:
        format: The file's format, for the error's message.
        length: Bytes of the file.
        bytes_per_part: Bytes of the file for each part beyond `FREE_PARTS`; `None` takes
            `BYTES_PER_PART`.
    """

    def __init__(self, format: str, length: int, *, bytes_per_part: int | None = None) -> None:
        self._format = format
        self._most = FREE_PARTS + length // (bytes_per_part or BYTES_PER_PART)
        self._count = 0

    def add(self, parts: int = 1) -> None:
        """Count `parts` more.

        Raises:
            InvalidFrameError: If these are more than the file may have.
        """
        self._count += parts
        if self._count > self._most:
            raise InvalidFrameError(
                expected=f"a {self._format} image of at most {self._most} parts for its size",
                actual="one of more",
            )

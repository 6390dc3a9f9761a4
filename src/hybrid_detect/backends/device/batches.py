"""Several encoded pictures in one exchange with a detector's process.

::

    slot   for each picture its length in bytes and the lowest score to report; then the pictures
    reply  what would be the reply to each picture alone, one behind the other
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

from hybrid_detect.backends.device.picture_faces import PictureFaces
from hybrid_detect.backends.device.worker_messages import (
    FOUND,
    FOUND_BATCH,
    REPLY,
    pack_found,
    pack_refusal,
    pack_reply,
    unpack_found,
    unpack_refusal,
)
from hybrid_detect.errors import InvalidFrameError

__all__ = ["Answer", "Picture", "pack_answers", "packed", "unpack_answers", "unpacked"]

Picture: TypeAlias = tuple[bytes, float]
"""An encoded picture, and the lowest score to report of its faces."""

Answer: TypeAlias = PictureFaces | InvalidFrameError
"""What was found in a picture, or why it was refused."""

_HEAD = struct.Struct("<Id")


def packed(pictures: Sequence[Picture]) -> bytes:
    """What lies in the slot."""
    heads = (_HEAD.pack(len(data), lowest) for data, lowest in pictures)
    return b"".join((*heads, *(data for data, _ in pictures)))


def unpacked(slot: mmap.mmap, count: int) -> Iterator[Picture]:
    """The `count` pictures in a slot."""
    end = count * _HEAD.size
    for length, lowest in _HEAD.iter_unpack(slot[:end]):
        yield slot[end : end + length], lowest
        end += length


def pack_answers(answers: Iterable[Answer]) -> bytes:
    """The reply to a batch."""
    parts = (
        pack_refusal(answer) if isinstance(answer, InvalidFrameError) else pack_found(answer)
        for answer in answers
    )
    return pack_reply(FOUND_BATCH, b"".join(parts))


def unpack_answers(body: bytes, count: int) -> list[Answer]:
    """The answers in the body of that reply.

    Raises:
        ValueError: If they are not `count` answers.
        struct.error: If one of them is half an answer.
    """
    answers: list[Answer] = []
    at = 0
    while at < len(body):
        kind, length = REPLY.unpack_from(body, at)
        at += REPLY.size
        part = body[at : at + length]
        if len(part) != length:
            msg = "half an answer"
            raise ValueError(msg)
        answers.append(unpack_found(part) if kind == FOUND else unpack_refusal(part))
        at += length
    if len(answers) != count:
        msg = f"{len(answers)} answers for {count} pictures"
        raise ValueError(msg)
    return answers

"""What a server tells of the model it looks with: in its health, and in a stream's handshake.

A client can size its pictures by it, and knows which faces the server would miss.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

from hybrid_detect.exchange.wire_values import fail, integer, json_object, number, text

__all__ = ["MODEL_INFO_HEADER", "ModelInfo"]

MODEL_INFO_HEADER = "X-Model-Info"
"""Of the response that opens a stream: the JSON of `ModelInfo`."""

MAX_BYTES = 8 * 1024
"""Of that JSON; a real one has 0.3 KB."""

MAX_LEVELS = 16
MAX_HEIGHTS = 64
"""Of levels and of recalls by face height; far above any real table."""

MAX_RUNGS = 8
"""Choosing takes time in proportion."""

MAX_SIDE_PX = 65535
"""The largest side a JPEG can have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """What a server looks with if a request asks for nothing else, and what that needs."""

    name: str
    """The model's name."""
    quality: str
    """The level of a request that names none."""
    qualities: tuple[str, ...]
    """The levels to be had, the quickest first."""
    side_px: int
    """The longer side of a picture, in pixels, beyond which the model gains next to nothing."""
    picture_bytes: int
    """The size of a compressed picture beyond which it gains next to nothing."""
    rungs: tuple[tuple[int, int, float], ...] = ()
    """Pictures that are worth sending, the best first: highest JPEG quality, longer side in pixels,
    and what the model makes of it as a share of what it makes of the best picture. Measured; empty
    if they were not."""
    recall: tuple[tuple[float, float], ...]
    """Face heights as shares of the picture's longer side, in rising order, and the share of the
    faces from that height to the next one that the model found when it was measured."""

    def to_values(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "name": self.name,
            "quality": self.quality,
            "qualities": list(self.qualities),
            "side_px": self.side_px,
            "picture_bytes": self.picture_bytes,
            "rungs": [list(rung) for rung in self.rungs],
            "recall": [list(pair) for pair in self.recall],
        }

    def to_header(self) -> str:
        """JSON in ASCII without line breaks, for `MODEL_INFO_HEADER`."""
        return json.dumps(self.to_values(), separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_header(cls, header: str) -> Self:
        """What `to_header` gave.

        Raises:
            ProtocolError: If it is something else.
        """
        data = header.encode(errors="replace")
        if len(data) > MAX_BYTES:
            fail(f"model_info of at most {MAX_BYTES} bytes", f"{len(data)} bytes")
        return cls.from_values(json_object(data, "model_info"))

    @classmethod
    def from_values(cls, values: Any) -> Self:
        """What `to_values` gave; fields that are not known are left out.

        Raises:
            ProtocolError: If a value is not what it should be.
        """
        if not isinstance(values, dict):
            fail("model_info as JSON object", type(values).__name__)
        return cls(
            name=text(values.get("name"), "name"),
            quality=text(values.get("quality"), "quality"),
            qualities=tuple(
                text(name, "qualities") for name in _list(values, "qualities", MAX_LEVELS)
            ),
            side_px=integer(values.get("side_px"), "side_px", low=1, high=MAX_SIDE_PX),
            picture_bytes=integer(
                values.get("picture_bytes"), "picture_bytes", low=1, high=2**31 - 1
            ),
            rungs=tuple(map(_rung, _list(values, "rungs", MAX_RUNGS))) if "rungs" in values else (),
            recall=_recall(_list(values, "recall", MAX_HEIGHTS)),
        )


def _list(values: dict[str, Any], name: str, most: int) -> list[Any]:
    value = values.get(name)
    if not isinstance(value, list) or len(value) > most:
        fail(f"{name} as a list of at most {most}", type(value).__name__)
    return value


def _recall(pairs: list[Any]) -> tuple[tuple[float, float], ...]:
    found = tuple(_pair(pair) for pair in pairs)
    if any(low >= high for (low, _), (high, _) in pairwise(found)):
        fail("recall by rising face height", "heights in another order")
    return found


def _rung(value: Any) -> tuple[int, int, float]:
    if not isinstance(value, list) or len(value) != 3:
        fail("a quality, a side and an accuracy", type(value).__name__)
    accuracy = number(value[2], "rungs")
    if not 0 <= accuracy <= 1:
        fail("an accuracy from 0 to 1", "a number outside")
    return (
        integer(value[0], "rungs", low=1, high=100),
        integer(value[1], "rungs", low=1, high=MAX_SIDE_PX),
        accuracy,
    )


def _pair(value: Any) -> tuple[float, float]:
    if not isinstance(value, list) or len(value) != 2:
        fail("a face height and its recall", type(value).__name__)
    height, recall = (number(each, "recall") for each in value)
    if not (0 <= height <= 1 and 0 <= recall <= 1):
        fail("a face height and its recall from 0 to 1", "a number outside")
    return height, recall

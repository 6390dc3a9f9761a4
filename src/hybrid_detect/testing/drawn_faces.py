"""Faces that are drawn, and frames of them: what a detector finds, free of photos and of licences.

All three models find a drawn face of 240 pixels, full range and CenterFace one of 150. That says
nothing about accuracy: no one looks like that.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from PIL.ImageDraw import Draw

from hybrid_detect.errors import ConfigurationError
from hybrid_detect.geometry import BoundingBox

__all__ = ["DrawnFrame", "drawn_frame", "drawn_frames"]

_Colour: TypeAlias = tuple[int, int, int]

WALL = (120, 140, 150)
SKINS: tuple[_Colour, ...] = ((224, 172, 140), (198, 134, 96), (165, 105, 70), (240, 200, 175))
HAIRS: tuple[_Colour, ...] = ((52, 36, 28), (20, 18, 18), (120, 80, 40), (130, 130, 130))
SHIRTS: tuple[_Colour, ...] = ((60, 70, 110), (120, 50, 60), (50, 100, 80), (190, 180, 60))

BOX_SHARE, BOX_ABOVE = 0.81, 0.30
"""Side of the box, and how far it reaches above the head's middle, in heights of the head. Fitted
to what the full-range model finds, whose boxes go from the brows' top to below the chin."""

STEP = 0.02
"""The farthest a face moves from one frame to the next, in widths of the frame: half of that on
average. A head that turns to something moves like that at 10 frames a second."""


@dataclass(frozen=True, slots=True)
class DrawnFrame:
    """A picture, and where its faces are."""

    image: NDArray[np.uint8]
    """Shape (height, width, 3), RGB."""
    boxes: tuple[BoundingBox, ...]
    """A box for each face, in MediaPipe's convention, in pixels."""


def drawn_frame(
    width: int = 1280, height: int = 720, *, boxes: Sequence[BoundingBox], seed: int = 0
) -> DrawnFrame:
    """A picture with a face in each of `boxes`.

    Args:
        width: Of the picture, in pixels.
        height: Of the picture, in pixels.
        boxes: Where the faces are. They are square: the height counts.
        seed: Of the colours of skin, hair and clothes.

    Raises:
        ConfigurationError: If the picture has no pixels.
    """
    _check_size(width, height)
    chance = random.Random(seed)  # noqa: S311 - colours
    picture = Image.new("RGB", (width, height), WALL)
    for box in boxes:
        person = _person(
            max(round(box.height / BOX_SHARE), 1),
            chance.choice(SKINS),
            chance.choice(HAIRS),
            chance.choice(SHIRTS),
        )
        head_px = box.height / BOX_SHARE
        left = (box.x_min + box.x_max) / 2 - person.width / 2
        top = box.y_min + BOX_ABOVE * head_px - _MIDDLE * person.height
        picture.paste(person, (round(left), round(top)), person)
    return DrawnFrame(np.asarray(picture), tuple(boxes))


def drawn_frames(
    count: int,
    width: int = 1280,
    height: int = 720,
    *,
    faces: int = 1,
    face_px: float | None = None,
    seed: int = 0,
) -> Iterator[DrawnFrame]:
    """What a camera might see: faces that move, the same ones in every run.

    Args:
        count: Frames; fewer if the iteration ends before.
        width: Of the frames, in pixels.
        height: Of the frames, in pixels.
        faces: How many, beside each other.
        face_px: Height of a face's box; a third of the frame's height, or what `faces` leave room
            for, if `None`.
        seed: Of colours and movements.

    Yields:
        A frame at a time; each has an array of its own.

    Raises:
        ConfigurationError: If a number is negative, or the frames or faces have no pixels.
    """
    if count < 0 or faces < 0 or not (face_px is None or 0 < face_px < math.inf):
        msg = f"expected numbers of 0 or more, got count={count}, faces={faces}, face_px={face_px}"
        raise ConfigurationError(msg)
    _check_size(width, height)
    return _moving(count, width, height, faces=faces, face_px=face_px, seed=seed)


def _check_size(width: int, height: int) -> None:
    if width < 1 or height < 1:
        msg = f"expected a width and a height of 1 or more, got {width} and {height}"
        raise ConfigurationError(msg)


def _moving(
    count: int, width: int, height: int, *, faces: int, face_px: float | None, seed: int
) -> Iterator[DrawnFrame]:
    side = face_px or min(height / 3, 0.6 * width / max(faces, 1))
    chance = random.Random(seed)  # noqa: S311 - movements
    phases = [(chance.uniform(0, 2 * math.pi), chance.uniform(0.5, 1)) for _ in range(faces)]
    room = width / max(faces, 1)
    swing_x, swing_y = max(room - side, 0.0) / 4, max(height - side, 0.0) / 8
    speed = STEP * width / max(swing_x, 1.0) if swing_x else 0.0
    for number in range(count):
        boxes = []
        for place, (phase, pace) in enumerate(phases):
            angle = phase + pace * min(speed, 0.5) * number
            x = room * (place + 0.5) + swing_x * math.sin(angle)
            y = height * 0.45 + swing_y * math.sin(1.7 * angle)
            boxes.append(BoundingBox(x - side / 2, y - side / 2, x + side / 2, y + side / 2))
        yield drawn_frame(width, height, boxes=boxes, seed=seed)


_WIDE, _HIGH, _MIDDLE = 1.5, 1.7, 0.48
"""A person's picture in heights of the head, and where in it the head's middle is."""


@lru_cache(maxsize=16)
def _person(head_px: int, skin: _Colour, hair: _Colour, shirt: _Colour) -> Image.Image:
    """Head and shoulders on a transparent ground, blurred a little as by a lens."""
    picture = Image.new("RGBA", (math.ceil(_WIDE * head_px), math.ceil(_HIGH * head_px)))
    pen = Draw(picture)
    middle_x, middle_y = picture.width / 2, picture.height * _MIDDLE

    def oval(x: float, y: float, radius_x: float, radius_y: float, colour: _Colour) -> None:
        left, top = middle_x + (x - radius_x) * head_px, middle_y + (y - radius_y) * head_px
        right, bottom = middle_x + (x + radius_x) * head_px, middle_y + (y + radius_y) * head_px
        pen.ellipse([left, top, right, bottom], fill=(*colour, 255))

    oval(0, 0.95, 0.62, 0.42, shirt)
    oval(0, 0.50, 0.17, 0.22, _shade(skin, 0.82))  # neck
    oval(0, -0.10, 0.42, 0.52, hair)
    for side in (-1, 1):
        oval(side * 0.37, 0, 0.055, 0.10, _shade(skin, 0.9))  # ear
    oval(0, 0.03, 0.36, 0.47, skin)
    above = [middle_x - 0.38 * head_px, middle_y - 0.56 * head_px]
    below = [middle_x + 0.38 * head_px, middle_y + 0.10 * head_px]
    pen.chord([*above, *below], 180, 360, fill=(*hair, 255))
    oval(0, -0.16, 0.33, 0.20, skin)
    for x, y, width in ((-0.18, 0.12, 0.10), (0.18, 0.12, 0.10), (0, -0.22, 0.20)):
        oval(x, y, width, 0.09, _shade(skin, 1.08))  # light on cheeks and forehead
    for side in (-1, 1):
        oval(side * 0.15, -0.060, 0.095, 0.055, _shade(skin, 0.8))  # the socket of the eye
        oval(side * 0.15, -0.050, 0.070, 0.032, (245, 240, 235))
        oval(side * 0.15, -0.050, 0.034, 0.034, (70, 50, 35))
        oval(side * 0.15, -0.050, 0.016, 0.016, (10, 10, 10))
        oval(side * 0.15, -0.135, 0.095, 0.020, hair)  # brow
        oval(side * 0.15, -0.083, 0.080, 0.012, _shade(skin, 0.55))  # lid
    bridge = ((-0.03, -0.03), (0.03, -0.03), (0.075, 0.15), (-0.075, 0.15))
    corners = [(middle_x + x * head_px, middle_y + y * head_px) for x, y in bridge]
    pen.polygon(corners, fill=(*_shade(skin, 0.93), 255))
    oval(0, 0.15, 0.075, 0.03, _shade(skin, 0.85))
    for side in (-1, 1):
        oval(side * 0.035, 0.16, 0.018, 0.012, _shade(skin, 0.45))  # nostril
    oval(0, 0.275, 0.130, 0.045, _shade(skin, 0.7))  # lips
    oval(0, 0.270, 0.115, 0.010, (95, 35, 35))
    oval(0, 0.360, 0.090, 0.030, _shade(skin, 0.8))
    return picture.filter(ImageFilter.GaussianBlur(0.012 * head_px))


def _shade(colour: _Colour, factor: float) -> _Colour:
    red, green, blue = (min(round(factor * part), 255) for part in colour)
    return red, green, blue

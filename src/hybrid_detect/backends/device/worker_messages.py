"""The small messages between the app and the detector's process; pixels never travel in them.

::

    request  command, width, height
    reply    kind, length of the body, seconds spent detecting; then the body
    face     box, score, number of keypoints, six keypoints (x, y), all as doubles
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

from hybrid_detect.types import KEYPOINT_NAMES, BoundingBox, Face, Keypoint

__all__ = [
    "DETECT",
    "FAILED",
    "FOUND",
    "PING",
    "READY",
    "REPLY",
    "REQUEST",
    "pack_faces",
    "pack_reply",
    "unpack_faces",
]

REQUEST = struct.Struct("<III")
REPLY = struct.Struct("<IId")
_FACE = struct.Struct(f"<{4 + 1 + 1 + 2 * len(KEYPOINT_NAMES)}d")

PING, DETECT = 1, 2
READY, FOUND, FAILED = 1, 2, 3


def pack_reply(kind: int, body: bytes, detect_s: float = 0.0) -> bytes:
    """A reply as bytes."""
    return REPLY.pack(kind, len(body), detect_s) + body


def pack_faces(faces: Sequence[Face]) -> bytes:
    """Faces as bytes."""
    return b"".join(map(_pack_face, faces))


def unpack_faces(body: bytes) -> tuple[Face, ...]:
    """The faces in `body`.

    Raises:
        ValueError: If it holds no faces.
        struct.error: If it holds half a face.
    """
    return tuple(_unpack_face(values) for values in _FACE.iter_unpack(body))


def _pack_face(face: Face) -> bytes:
    points = [side for point in face.keypoints for side in (point.x, point.y)]
    padding = [math.nan] * (2 * len(KEYPOINT_NAMES) - len(points))
    score = math.nan if face.score is None else face.score
    return _FACE.pack(*face.box.xyxy, score, len(face.keypoints), *points, *padding)


def _unpack_face(values: tuple[float, ...]) -> Face:
    x_min, y_min, x_max, y_max, score, count, *sides = values
    if not 0 <= count <= len(KEYPOINT_NAMES):
        msg = "a number of keypoints that no face has"
        raise ValueError(msg)
    points = tuple(
        Keypoint(name, sides[2 * index], sides[2 * index + 1])
        for index, name in enumerate(KEYPOINT_NAMES[: int(count)])
    )
    return Face(
        BoundingBox(x_min, y_min, x_max, y_max), None if math.isnan(score) else score, points
    )

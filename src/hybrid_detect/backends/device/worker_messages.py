"""The small messages between the app and the detector's process; pixels never travel in them.

::

    request  command, two numbers, lowest score to report (NaN: the usual one), level (`LEVELS`)
    reply    kind, length of the body; then the body
    started  JSON: what runs the model, the shapes of its tensors if it runs a network alone, and
             how long one look takes
    found    width and height of the upright picture, seconds of decoding (NaN: none), its faces
    face     box, score, number of keypoints, six keypoints (x, y), all as doubles
    written  the same as `found`, with the most certain faces as the wire format's text
             (`exchange.wire_faces`)
    refused  what was expected and what was given, with a null character between
    dropped  nothing: the picture was not wanted any more (`shared_slot.SharedSlot.drop`)

The picture itself lies in shared memory (`shared_slot`): RGB pixels for `DETECT`, whose two numbers
are width and height; an encoded file for `DETECT_ENCODED` and `DETECT_WRITTEN`, whose two numbers
are its length in bytes and the most pixels it may have; several encoded files for `DETECT_BATCH`
(`batches`), whose two numbers are how many there are and the most pixels each may have; a network's
tensors for `RUN`, as `litert_library` lays them out.
"""

from __future__ import annotations

import json
import math
import struct
from typing import NamedTuple

from hybrid_detect.backends.device.picture_faces import PictureFaces
from hybrid_detect.errors import InvalidFrameError
from hybrid_detect.exchange.wire_faces import MAX_FACES, WrittenFaces, faces_to_text, most_certain
from hybrid_detect.types import KEYPOINT_NAMES, BoundingBox, Face, Keypoint, QualityLevel

__all__ = [
    "DETECT",
    "DETECT_BATCH",
    "DETECT_ENCODED",
    "DETECT_WRITTEN",
    "DROPPED",
    "FAILED",
    "FOUND",
    "FOUND_BATCH",
    "LEVELS",
    "MAX_TEXT_BYTES",
    "PING",
    "READY",
    "REFUSED",
    "REPLY",
    "REQUEST",
    "RUN",
    "UNPACKED",
    "WRITTEN",
    "DroppedError",
    "Started",
    "pack_found",
    "pack_refusal",
    "pack_reply",
    "pack_started",
    "pack_written",
    "unpack_found",
    "unpack_refusal",
    "unpack_started",
    "unpack_written",
]

LEVELS = tuple(QualityLevel)
"""How thoroughly to look, by number."""

MAX_TEXT_BYTES = 512
"""What is read of a refusal or a failure: a longer text comes from a process that is out of order,
and would fill errors and logs."""

REQUEST = struct.Struct("<IIIdI")
REPLY = struct.Struct("<II")
_SEEN = struct.Struct("<IId")
_FACE = struct.Struct(f"<{4 + 1 + 1 + 2 * len(KEYPOINT_NAMES)}d")

PING, DETECT, DETECT_ENCODED, RUN, DETECT_BATCH, DETECT_WRITTEN = 1, 2, 3, 4, 5, 6
READY, FOUND, FAILED, REFUSED, FOUND_BATCH, DROPPED, WRITTEN = 1, 2, 3, 4, 5, 6, 7


class DroppedError(Exception):
    """A picture was not looked at any further, because its answer is not wanted any more."""


class Started(NamedTuple):
    """What a process tells once its detector is ready."""

    runs_on: str
    """What runs the model, for a person."""
    shapes: tuple[tuple[int, ...], ...]
    """Of the network's tensors, the input first, if the process runs a network and the steps around
    it are the app's; empty if it detects."""
    look_s: float = 0.0
    """Seconds of one look at a picture of 1280x720, or of one run of the network."""


def pack_started(started: Started) -> bytes:
    """The first reply of a process."""
    return pack_reply(READY, json.dumps(started).encode())


def unpack_started(body: bytes) -> Started:
    """What the body of the first reply tells.

    Raises:
        ValueError: If it is none.
    """
    runs_on, shapes, look_s = json.loads(body)
    return Started(str(runs_on), tuple(tuple(map(int, shape)) for shape in shapes), float(look_s))


def pack_reply(kind: int, body: bytes) -> bytes:
    """A reply as bytes."""
    return REPLY.pack(kind, len(body)) + body


def pack_found(found: PictureFaces) -> bytes:
    """The reply that tells what was found."""
    faces = b"".join(map(_pack_face, found.faces))
    decode_s = math.nan if found.decode_s is None else found.decode_s
    return pack_reply(FOUND, _SEEN.pack(found.width, found.height, decode_s) + faces)


def unpack_found(body: bytes) -> PictureFaces:
    """What the body of a `FOUND` reply tells.

    Raises:
        ValueError: If it holds no faces.
        struct.error: If it holds half a face, or no size.
    """
    width, height, told_s = _SEEN.unpack_from(body)
    faces = tuple(map(_unpack_face, _FACE.iter_unpack(memoryview(body)[_SEEN.size :])))
    return PictureFaces(width, height, faces, _seconds(told_s))


def pack_written(found: PictureFaces) -> bytes:
    """The reply that tells what was found with the faces as text, as many as a server sends on.

    Raises:
        ValueError: If a number in a face is not finite.
    """
    decode_s = math.nan if found.decode_s is None else found.decode_s
    seen = _SEEN.pack(found.width, found.height, decode_s)
    return pack_reply(WRITTEN, seen + faces_to_text(most_certain(found.faces)).encode())


def unpack_written(body: bytes) -> PictureFaces:
    """What the body of a `WRITTEN` reply tells.

    Raises:
        ValueError: If it holds no faces, or too many.
        struct.error: If it holds no size.
    """
    width, height, told_s = _SEEN.unpack_from(body)
    if body.count(b'"box"') > MAX_FACES:  # to check and to read all of them keeps an event loop
        msg = f"more than {MAX_FACES} faces"
        raise ValueError(msg)
    faces = WrittenFaces(body[_SEEN.size :].decode("ascii"))
    return PictureFaces(width, height, faces, _seconds(told_s))


UNPACKED = {FOUND: unpack_found, WRITTEN: unpack_written}
"""What reads the body of each kind of reply that has faces."""


def pack_refusal(error: InvalidFrameError) -> bytes:
    """The reply that refuses a picture."""
    return pack_reply(REFUSED, f"{error.expected}\0{error.actual}".encode())


def unpack_refusal(body: bytes) -> InvalidFrameError:
    """The error in the body of a `REFUSED` reply."""
    expected, _, actual = body[:MAX_TEXT_BYTES].decode(errors="replace").partition("\0")
    return InvalidFrameError(expected=expected, actual=actual)


def _seconds(told_s: float) -> float | None:
    """The seconds that a process told; `None` for NaN, and for what no time can be."""
    return told_s if 0.0 <= told_s < math.inf else None


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

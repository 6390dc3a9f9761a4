"""CenterFace: every face of a crowd from one look, around any runtime for ONNX files. NumPy alone.

The network gives four maps at a quarter of the picture's size: how much each cell looks like the
centre of a face, and, for such a cell, the logarithm of the box's height and width, where in the
cell the centre lies, and five points in fractions of the box. They are decoded here, and each box
is turned into MediaPipe's convention, so that faces from all models can be compared and tracked.

Four keypoints are reported, named as MediaPipe's: right eye, left eye, nose tip, and as the mouth's
centre the middle of its two corners. Ears are not predicted, and none are made up: extrapolated
from the others they miss by an eye's distance or more.

Source: Star-Clouds/CenterFace, ``prj-python/centerface.py`` (the decoding). Box convention and its
median IoU (0.74 becomes 0.81): fitted on 38 photos with 251 faces against MediaPipe's boxes.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hybrid_detect.backends.device.face_detector import check_pixels
from hybrid_detect.closing import Closing
from hybrid_detect.errors import ClosedError
from hybrid_detect.frames.raster import Interleaved
from hybrid_detect.frames.scaling import resized
from hybrid_detect.types import KEYPOINT_NAMES, BoundingBox, Face, Keypoint

__all__ = [
    "CenterFaceDetector",
    "Maps",
    "Network",
    "decode",
    "faces_in",
    "filling",
    "scaled_pixels",
]

STRIDE = 4
"""Pixels of the picture per cell of the maps."""

MULTIPLE = 32
"""The network halves the picture five times, and adds what it halved to what it doubled again."""

MAX_SUPPRESSED_IOU = 0.3
"""Of two boxes that overlap by more, the lower score's is dropped. Source: CenterFace."""

MAX_CANDIDATES = 4000
"""Cells that are looked at, best first: a face covers two to four. Without a limit, a threshold
near 0 would take seconds."""

LARGEST_LOG = 10.0
"""Largest logarithm of a box's side in cells: beyond it the number says nothing about a face, and
its exponential would overflow."""

LARGEST_PX = 1e6
"""Farther away there is no face either, and scaling such a place to the picture may overflow. The
longest side that `LARGEST_LOG` leaves is 88,000 pixels."""

DOWN_SHARE = 0.04
"""MediaPipe's box lies lower by this share of CenterFace's height."""


@dataclass(frozen=True, slots=True)
class Maps:
    """What the network gives for one picture; rows and columns are a quarter of the picture's."""

    heat: NDArray[np.float32]
    """Shape (rows, columns), 0 to 1."""
    log_size: NDArray[np.float32]
    """Shape (2, rows, columns): logarithm of height and width in cells."""
    offset: NDArray[np.float32]
    """Shape (2, rows, columns): y and x of the centre, in cells from the cell's own middle."""
    points: NDArray[np.float32]
    """Shape (10, rows, columns): y and x of five points in fractions of the box."""


class Network(Protocol):
    """Runs the file."""

    @property
    def runs_on(self) -> str:
        """See `FaceDetector`."""

    def run(self, pixels: NDArray[np.float32]) -> Maps:
        """The maps of a picture of shape (1, 3, height, width), RGB, 0 to 255.

        Height and width are multiples of `MULTIPLE`.
        """


@dataclass(frozen=True, slots=True)
class Candidates:
    """Faces in pixels of the picture that the network saw, best first."""

    scores: NDArray[np.float32]
    """Shape (n,)."""
    boxes: NDArray[np.float32]
    """Shape (n, 4): x_min, y_min, x_max, y_max."""
    points: NDArray[np.float32]
    """Shape (n, 5, 2): x and y of right eye, left eye, nose, right and left corner of the mouth."""


class CenterFaceDetector(Closing):
    """One face detector, usable from any thread, one picture at a time.

    Args:
        network: Runs the model.
        side_px: Longer side that a picture is shrunk or enlarged to, a multiple of 32.
        min_confidence: Faces below this score are left out, 0 to 1.
    """

    def __init__(self, network: Network, *, side_px: int, min_confidence: float) -> None:
        self._network: Network | None = network
        self.runs_on = network.runs_on
        self._side_px = side_px
        self._min_confidence = min_confidence
        self._lock = threading.Lock()

    def detect(self, image_rgb: NDArray[np.uint8]) -> tuple[Face, ...]:
        """Find the faces in a picture.

        Args:
            image_rgb: Shape (height, width, 3), uint8, RGB, C-contiguous. Not modified, not kept.

        Returns:
            The faces, boxes clipped to the picture, best first.

        Raises:
            InvalidFrameError: If the array is anything else.
            ClosedError: If the detector is closed.
            BackendUnavailableError: If the runtime failed.
        """
        check_pixels(image_rgb)
        height, width = image_rgb.shape[:2]
        size = filling(width, height, self._side_px)
        with self._lock:
            if self._network is None:
                msg = "the face detector is closed: make a new one"
                raise ClosedError(msg)
            maps = self._network.run(_input(image_rgb, size))
        return faces_in(maps, size, (width, height), min_score=self._min_confidence)

    def close(self) -> None:
        """Stop, after a detection that is going on. May be called more than once."""
        with self._lock:
            self._network = None


def filling(width: int, height: int, side_px: int) -> tuple[int, int]:
    """The size at which the longer side is `side_px`.

    A smaller picture is enlarged as well. It gains no detail, but the network does not know small
    faces: on photos sent at 640x360 and 20 KB, F1 is 0.93 with and 0.83 without.
    """
    scale = side_px / max(width, height)
    return max(round(width * scale), 1), max(round(height * scale), 1)


def scaled_pixels(image_rgb: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """The image at `size`, of shape (3, height, width)."""
    if size[0] > image_rgb.shape[1] or size[1] > image_rgb.shape[0]:
        pixels = np.asarray(resized(Image.fromarray(image_rgb), size))
    else:
        pixels = Interleaved(image_rgb, "RGB").resized(size).pixels
    return pixels.transpose(2, 0, 1)


def _input(image_rgb: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.float32]:
    """The image at `size`, with black below and to the right up to a multiple of `MULTIPLE`."""
    width, height = (-(-side // MULTIPLE) * MULTIPLE for side in size)
    padded = np.zeros((1, 3, height, width), np.float32)
    padded[0, :, : size[1], : size[0]] = scaled_pixels(image_rgb, size)
    return padded


def faces_in(
    maps: Maps, size: tuple[int, int], picture: tuple[int, int], *, min_score: float
) -> tuple[Face, ...]:
    """The faces that `maps` show, in the pixels of the picture, best first.

    Args:
        maps: What the network gave.
        size: Width and height at which it saw the picture.
        picture: Width and height of the picture.
        min_score: Faces below it are left out.
    """
    width, height = picture
    found = suppressed(decode(maps, min_score=min_score))
    scale = np.array((width / size[0], height / size[1]), np.float32)
    faces = (
        _face(float(score), box, points, width, height)
        for score, box, points in zip(
            found.scores, found.boxes * np.tile(scale, 2), found.points * scale, strict=True
        )
    )
    return tuple(face for face in faces if face is not None)


def decode(maps: Maps, *, min_score: float) -> Candidates:
    """The cells whose score reaches `min_score`, as faces, best first.

    Numbers that are no place or size are left out; a broken picture must not become a broken face.
    """
    rows, columns = np.nonzero(maps.heat >= min_score)
    scores = maps.heat[rows, columns]
    best = np.argsort(-scores, kind="stable")[:MAX_CANDIDATES]
    rows, columns, scores = rows[best], columns[best], scores[best]
    with np.errstate(invalid="ignore", over="ignore"):  # what comes of it is left out below
        size = STRIDE * np.exp(np.minimum(maps.log_size[:, rows, columns], LARGEST_LOG))
        centre = STRIDE * (maps.offset[:, rows, columns] + np.stack((rows, columns)) + 0.5)
        low = centre - size / 2
        # Axes 0 and 1 are y and x here, and x and y from here on.
        points = maps.points[:, rows, columns].reshape(5, 2, -1) * size + low
    corners = np.stack((low[1], low[0], (low + size)[1], (low + size)[0]), axis=1)
    named = np.ascontiguousarray(points[:, ::-1].transpose(2, 0, 1))
    # This is false for NaN as well.
    whole = (abs(corners) <= LARGEST_PX).all(axis=1) & (abs(named) <= LARGEST_PX).all(axis=(1, 2))
    return Candidates(
        scores[whole].astype(np.float32),
        corners[whole].astype(np.float32),
        named[whole].astype(np.float32),
    )


def suppressed(found: Candidates) -> Candidates:
    """The best of each group of overlapping candidates."""
    left = np.arange(len(found.scores))
    kept = []
    areas = np.prod(found.boxes[:, 2:] - found.boxes[:, :2], axis=1)
    while left.size:
        best, left = left[0], left[1:]
        kept.append(best)
        low = np.maximum(found.boxes[best, :2], found.boxes[left, :2])
        high = np.minimum(found.boxes[best, 2:], found.boxes[left, 2:])
        shared = np.prod(np.clip(high - low, 0, None), axis=1)
        left = left[shared <= MAX_SUPPRESSED_IOU * (areas[best] + areas[left] - shared)]
    return Candidates(found.scores[kept], found.boxes[kept], found.points[kept])


def _face(
    score: float, box: NDArray[np.float32], points: NDArray[np.float32], width: int, height: int
) -> Face | None:
    """The face in MediaPipe's convention: a square of the same area, moved down a little."""
    x_min, y_min, x_max, y_max = map(float, box)
    half = ((x_max - x_min) * (y_max - y_min)) ** 0.5 / 2
    x, y = (x_min + x_max) / 2, (y_min + y_max) / 2 + DOWN_SHARE * (y_max - y_min)
    right_eye, left_eye, nose, *mouth = points
    named = zip(KEYPOINT_NAMES, (right_eye, left_eye, nose, np.mean(mouth, axis=0)), strict=False)
    face = Face(
        BoundingBox(x - half, y - half, x + half, y + half),
        min(score, 1.0),
        tuple(Keypoint(name, float(point[0]), float(point[1])) for name, point in named),
    )
    return face.fitted(scale_x=1.0, scale_y=1.0, width=width, height=height)

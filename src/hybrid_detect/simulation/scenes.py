"""What is in front of the simulated camera: scenes of faces, each until the next cut.

A scene is the heights of its faces. They are drawn from labelled photos, or from stated
distributions where there are none. Whether a model finds a face is drawn once for a scene, by the
model's recall at that height: a person's profile stays a profile. From frame to frame it then
flickers a little. Of what is drawn a policy sees the answers only.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hybrid_detect.backends.device.model_registry import model_spec
from hybrid_detect.errors import ConfigurationError
from hybrid_detect.selection.scene import Recall, recall_at

__all__ = ["CONSTANT", "SCENES", "SceneDraws", "Scenes", "Stretch", "read_scenes"]

CONSTANT = "constant"
"""No faces at all: the device's answer is always worth the same."""

KINDS = ("selfie", "group", "crowd", "empty")
SCENES = (CONSTANT, "mixed", *KINDS)
"""``mixed`` takes one of the four kinds at each cut."""

SCENE_S, LEAST_SCENE_S = 15.0, 3.0
"""Lengths of scenes: exponential, with this mean beyond the least. Chosen."""

FLICKER = 0.01
"""A face that a model finds on a scene is missed in so many frames, and one that it does not find
is found in as many. Chosen."""

HEIGHT_NOISE = 0.05
"""Standard deviation of the logarithm of a box's height from frame to frame. Chosen."""

Heights = tuple[float, ...]
"""Of faces, as shares of the picture's longer side."""

CLOSE = 0.09
"""Heights from which a face is close, as shares of the longer side: the short-range model begins to
see them (`docs/explanation/models.md`)."""

_CATEGORIES = {"portrait": "selfie", "rotated": "selfie", "small": "group", "large": "crowd"}
_CATEGORIES["none"] = "empty"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenes:
    """What is filmed, and by which models it is seen.

    Args:
        kind: One of `SCENES`.
        photos: Heights by kind; made up if `None` (see `read_scenes`).
        device: The device's model, a key of `MODELS`; its recall by height is the table's.
        server: The server's model, likewise.
    """

    kind: str = CONSTANT
    photos: Mapping[str, Sequence[Heights]] | None = None
    device: str = "short_range"
    server: str = "centerface"

    def __post_init__(self) -> None:
        if self.kind not in SCENES:
            msg = f"expected scenes of a kind ({', '.join(SCENES)}), got {self.kind!r}"
            raise ConfigurationError(msg)
        for model in (self.device, self.server):
            model_spec(model)

    def draw(self, rng: np.random.Generator) -> Heights:
        """A scene's faces."""
        kind = self.kind if self.kind in KINDS else KINDS[int(rng.integers(len(KINDS)))]
        known = self.photos.get(kind) if self.photos else None
        return known[int(rng.integers(len(known)))] if known else _made_up(kind, rng)


def read_scenes(path: Path) -> dict[str, list[Heights]]:
    """Heights of faces by kind of scene, from the labels of photos.

    Args:
        path: A JSON file, or a folder with one named ``labels.json``::

            {"images": {"a.jpg": {"width": 640, "height": 480, "category": "portrait",
                                  "boxes": [[x, y, width, height]]}}}

            Categories are ``portrait`` and ``rotated`` (selfies, unless a face is lower than
            `CLOSE`), ``small`` (groups), ``large`` (crowds) and ``none``.

    Raises:
        ConfigurationError: If it is no such file.
    """
    file = path / "labels.json" if path.is_dir() else path
    photos: dict[str, list[Heights]] = {kind: [] for kind in KINDS}
    try:
        for each in json.loads(file.read_bytes())["images"].values():
            side = max(float(each["width"]), float(each["height"]))
            heights = tuple(float(box[3]) / side for box in each["boxes"])
            kind = _CATEGORIES[each["category"]]
            if kind == "selfie" and min(heights, default=0.0) < CLOSE:
                kind = "group"
            photos[kind].append(heights)
    except (
        OSError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        ZeroDivisionError,
    ) as error:
        msg = f"expected labels of photos in {file}: {type(error).__name__}"
        raise ConfigurationError(msg) from error
    return photos


def _made_up(kind: str, rng: np.random.Generator) -> Heights:
    """Heights like those of the project's photos: log-normal about the photos' medians."""
    if kind == "empty":
        return ()
    count, median, spread = {
        "selfie": (int(rng.integers(1, 3)), 0.25, 0.4),
        "group": (int(rng.integers(2, 11)), 0.06, 0.45),
        "crowd": (int(rng.integers(10, 51)), 0.03, 0.3),
    }[kind]
    return tuple(np.clip(median * np.exp(spread * rng.standard_normal(count)), 0.01, 0.6).tolist())


@dataclass(frozen=True, slots=True, eq=False)
class Stretch:
    """The frames between two cuts."""

    first: int
    heights: NDArray[np.float64]
    device_sees: NDArray[np.float64]
    """Probability that the device finds each face in a frame."""
    server_sees: NDArray[np.float64]

    @property
    def device_share(self) -> float:
        """Share of the faces that the device finds; of none it finds all."""
        return float(self.device_sees.mean()) if len(self.heights) else 1.0

    @property
    def server_share(self) -> float:
        """The same for the server."""
        return float(self.server_sees.mean()) if len(self.heights) else 1.0


class SceneDraws:
    """The scenes of one run, drawn in advance.

    Args:
        scenes: What to draw.
        frames: How many frames there are.
        fps: Frames in a second.
        seed: Of all draws.
    """

    def __init__(self, scenes: Scenes, *, frames: int, fps: float, seed: int) -> None:
        self.device, self.server = (
            model_spec(model).input().recall_by_height for model in (scenes.device, scenes.server)
        )
        self.stretches: list[Stretch] = []
        self._seed = seed
        self._found: dict[tuple[int, str], Sequence[float]] = {}
        rng = np.random.default_rng((seed, 1))
        frame = 0
        while frame < frames:
            heights = scenes.draw(rng)
            luck = rng.uniform(size=len(heights))  # what one model misses, the other does likelier
            self.stretches.append(
                Stretch(
                    first=frame,
                    heights=np.array(heights),
                    device_sees=_sees(self.device, heights, luck),
                    server_sees=_sees(self.server, heights, luck),
                )
            )
            length_s = LEAST_SCENE_S + rng.exponential(SCENE_S - LEAST_SCENE_S)
            frame += max(math.ceil(length_s * fps), 1)
        lengths = [
            after - before
            for before, after in pairwise([*(each.first for each in self.stretches), frames])
        ]
        self.of_frame = np.repeat(np.arange(len(self.stretches)), lengths)

    def share(self, who: str) -> NDArray[np.float64]:
        """For each frame, the share of the faces that ``device`` or ``server`` finds."""
        shares = [getattr(each, f"{who}_share") for each in self.stretches]
        return np.array(shares)[self.of_frame]

    def found(self, frame: int, who: str) -> Sequence[float]:
        """Heights of the faces in the answer of ``device`` or ``server`` to a frame."""
        # Several policies meet the same scenes.
        if (frame, who) not in self._found:
            self._found[frame, who] = self._draw_found(frame, who)
        return self._found[frame, who]

    def _draw_found(self, frame: int, who: str) -> Sequence[float]:
        stretch = self.stretches[self.of_frame[frame]]
        rng = np.random.default_rng((self._seed, 2, frame, len(who)))
        sees = stretch.device_sees if who == "device" else stretch.server_sees
        is_found = rng.uniform(size=len(sees)) < sees
        noise = np.exp(HEIGHT_NOISE * rng.standard_normal(len(sees)))
        heights: list[float] = (stretch.heights * noise)[is_found].tolist()
        return heights


def _sees(recall: Recall, heights: Heights, luck: NDArray[np.float64]) -> NDArray[np.float64]:
    by_height = np.array([recall_at(recall, height) for height in heights])
    return np.where(luck < by_height, 1.0 - FLICKER, np.where(by_height > 0, FLICKER, 0.0))

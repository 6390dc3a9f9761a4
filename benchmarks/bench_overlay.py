"""What an overlay costs for each frame, and how well its boxes lie on the faces.

A camera is moved over labelled photos (panned, shaken, zoomed), at 30 fps and 1280x720; in another
kind of scene the face itself moves over a photo that stands still. Answers come ten times a second,
some time late, with boxes that are off by 2 % of their size. The boxes that are shown on each frame
are compared with where the faces are (IoU): held where they were found, extrapolated from the last
two answers, and followed by the overlay.

    python benchmarks/bench_overlay.py [--photos FOLDER] [--short]
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hybrid_detect.frames.motion import FaceFollower, moved
from hybrid_detect.frames.overlay import Overlay
from hybrid_detect.geometry import BoundingBox, Face
from hybrid_detect.types import BackendKind, DetectionResult, DetectionStatus

FOLDER = Path(__file__).parents[2] / "shared" / "faces"
WIDTH, HEIGHT, FPS = 1280, 720, 30
SECONDS = 2
ANSWER_EVERY = 3
BOX_NOISE = 0.02
SENSOR_NOISE = 4.0


@dataclass(frozen=True)
class Shot:
    """A frame and the faces on it."""

    pixels: NDArray[np.uint8]
    faces: list[Face]


@dataclass(frozen=True)
class Move:
    """How a camera moves: left, top and scale of what it sees, by the second."""

    name: str
    at: Callable[[float], tuple[float, float, float]]


MOVES = [
    Move("still", lambda t: (0, 0, 1)),
    Move("pan 100 px/s", lambda t: (100 * t, 0, 1)),
    Move("pan 300 px/s", lambda t: (300 * (t if t < 1 else 2 - t if t < 2 else t - 2), 0, 1)),
    Move(
        "hand held",
        lambda t: (25 * math.sin(5 * t) + 9 * math.sin(17 * t), 18 * math.sin(6.1 * t), 1),
    ),
    Move("zoom 15 %/s", lambda t: (0, 0, 1.15**t)),
]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--photos", type=Path, default=FOLDER)
    parser.add_argument("--short", action="store_true")
    options = parser.parse_args()
    cost()
    photos = list(labelled(options.photos))[:: 12 if options.short else 3]
    print(f"\nIoU of the boxes that are shown with the faces, {len(photos)} photos")
    print(f"{'scene':<16}{'answer after':<14}{'held':>7}{'extrapolated':>14}{'followed':>10}")
    for path in [*MOVES, None]:
        for late_s in (0.1, 0.3):
            scores = np.array([scored(photo, path, late_s) for photo in photos])
            held, ahead, followed = scores.mean(axis=0)
            name = path.name if path else "face 200 px/s"
            when = f"{late_s * 1000:.0f} ms"
            print(f"{name:<16}{when:<14}{held:>7.3f}{ahead:>14.3f}{followed:>10.3f}", flush=True)


def labelled(folder: Path) -> Iterator[tuple[Image.Image, list[BoundingBox]]]:
    for name, label in json.loads((folder / "labels.json").read_text())["images"].items():
        if label.get("exif_orientation", 1) != 1 or not label["boxes"]:
            continue
        photo = Image.open(folder / name).convert("RGB")
        # Room to move in: the photo is a fifth larger than what the camera sees, and more.
        scale = max(1.3 * WIDTH / photo.width, 1.3 * HEIGHT / photo.height)
        size = (round(photo.width * scale), round(photo.height * scale))
        boxes = [
            BoundingBox(x * scale, y * scale, (x + w) * scale, (y + h) * scale)
            for x, y, w, h in label["boxes"]
        ]
        yield photo.resize(size, Image.Resampling.BILINEAR), boxes


def shots(photo: tuple[Image.Image, list[BoundingBox]], path: Move | None) -> Iterator[Shot]:
    rng = np.random.default_rng(7)
    image, boxes = photo
    cut = image.crop(tuple(round(v) for v in boxes[0].xyxy))
    for number in range(SECONDS * FPS):
        t = number / FPS
        left, top, zoom = path.at(t) if path else (0.0, 0.0, 1.0)
        left, top = left + 0.1 * WIDTH, top + 0.1 * HEIGHT
        middle_x, middle_y = left + WIDTH / 2, top + HEIGHT / 2
        left, top = middle_x - WIDTH / 2 / zoom, middle_y - HEIGHT / 2 / zoom
        view = image.transform(
            (WIDTH, HEIGHT),
            Image.Transform.AFFINE,
            (1 / zoom, 0, left, 0, 1 / zoom, top),
            Image.Resampling.BILINEAR,
        )
        seen = [
            BoundingBox(*((v - o) * zoom for v, o in zip(box.xyxy, (left, top) * 2, strict=True)))
            for box in boxes
        ]
        if path is None:
            x = round(200 + 200 * abs((t + 1) % 2 - 1))
            view.paste(cut, (x, 300))
            seen = [BoundingBox(x, 300, x + cut.width, 300 + cut.height)]
        pixels = (
            np.asarray(view) + rng.standard_normal((HEIGHT, WIDTH, 1), np.float32) * SENSOR_NOISE
        )
        visible = [Face(box) for box in seen if box.clipped(WIDTH, HEIGHT).area > 0.7 * box.area]
        yield Shot(pixels.clip(0, 255).astype(np.uint8), visible)


def scored(
    photo: tuple[Image.Image, list[BoundingBox]], path: Move | None, late_s: float
) -> tuple[float, float, float]:
    """The mean IoU of boxes that are held, extrapolated and followed."""
    rng = np.random.default_rng(3)
    late = round(late_s * FPS)
    follower = FaceFollower()
    frames = list(shots(photo, path))
    held: list[Face] = []
    ahead: list[Face] = []
    before: list[Face] = []
    speeds: list[tuple[float, float]] = []
    found_at = 0
    totals: list[tuple[float, float, float]] = []
    for number, frame in enumerate(frames):
        follower.see(frame.pixels, taken_at_s=number / FPS)
        answered = number - late
        if answered >= 0 and answered % ANSWER_EVERY == 0:
            held = [jittered(face, rng) for face in frames[answered].faces]
            follower.seen(held, captured_at_s=answered / FPS)
            speeds = [speed(face, before) for face in held]
            before, found_at = held, answered
        ahead = [
            moved(face, dx * (number - found_at), dy * (number - found_at))
            for face, (dx, dy) in zip(held, speeds, strict=True)
        ]
        if held and frame.faces:
            totals.append(
                (
                    overlap(held, frame.faces),
                    overlap(ahead, frame.faces),
                    overlap(follower.faces(), frame.faces),
                )
            )
    means = np.array(totals or [(1.0, 1.0, 1.0)]).mean(axis=0)
    return float(means[0]), float(means[1]), float(means[2])


def jittered(face: Face, rng: np.random.Generator) -> Face:
    noise = rng.standard_normal(4) * BOX_NOISE * face.box.width
    left, top, right, bottom = (v + n for v, n in zip(face.box.xyxy, noise, strict=True))
    return Face(BoundingBox(left, top, max(left, right), max(top, bottom)))


def speed(face: Face, before: list[Face]) -> tuple[float, float]:
    """Pixels a frame, from the face of the last answer that overlaps most."""
    last = max(before, key=lambda other: other.box.iou(face.box), default=None)
    if last is None or last.box.iou(face.box) == 0:
        return 0.0, 0.0
    a, b = last.box, face.box
    across = (b.x_min + b.x_max - a.x_min - a.x_max) / 2
    down = (b.y_min + b.y_max - a.y_min - a.y_max) / 2
    return across / ANSWER_EVERY, down / ANSWER_EVERY


def overlap(shown: list[Face], there: list[Face]) -> float:
    return statistics.mean(
        max((face.box.iou(other.box) for other in shown), default=0.0) for face in there
    )


def cost() -> None:
    """Print what drawing takes, by the number of faces."""
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
    print(f"A frame of {WIDTH}x{HEIGHT}, median of 200, ms of CPU time")
    print(f"{'faces':<8}{'drawn':>8}{'fading':>8}{'followed':>10}{'a copy':>8}")
    copied = timed(pixels.copy)
    for count in (0, 1, 3, 10):
        faces = tuple(
            Face(BoundingBox(100 * i + 10, 200, 100 * i + 90, 290), 0.9) for i in range(count)
        )
        result = DetectionResult(
            status=DetectionStatus.OK,
            width=WIDTH,
            height=HEIGHT,
            faces=faces,
            backend=BackendKind.DEVICE,
        )
        later_s = [0.0]
        steady = Overlay(hold_last_s=1e9)
        fading = Overlay(
            hold_last_s=0, fade_s=1e6, clock=lambda later_s=later_s: time.monotonic() + later_s[0]
        )
        steady.update(result)
        fading.update(result)
        later_s[0] = 5e5  # half of it is gone, so that every pixel is a mixture
        follower = FaceFollower()
        follower.see(pixels, taken_at_s=0)
        follower.seen(list(faces), captured_at_s=0)
        drawn = timed(lambda overlay=steady: overlay.draw(pixels))
        faded = timed(lambda overlay=fading: overlay.draw(pixels))
        followed = timed(lambda f=follower: f.see(pixels, taken_at_s=0))
        print(f"{count:<8}{drawn:>8.2f}{faded:>8.2f}{followed:>10.2f}{copied:>8.2f}")


def timed(call: Callable[[], object]) -> float:
    """Median milliseconds of CPU time of a call, which other work on the machine hardly changes."""
    times = []
    for _ in range(200):
        began = time.thread_time()
        call()
        times.append(time.thread_time() - began)
    return statistics.median(times) * 1000


if __name__ == "__main__":
    main()

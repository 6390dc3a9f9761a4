"""What the server finds, at each level and size of picture, beside what the device finds.

Each labelled photo is compressed by the library's client to fit 1280x720 at 80 KB, 640x360 at 40 KB
and 640x360 at 20 KB, and sent to a server on loopback at the levels ``fast`` (the full-range model
on the whole picture), ``high`` and ``max``. The device looks at the photo itself, short range.
Intervals are 95 %, from a bootstrap over photos. A second table turns the photos without
large groups; a third one measures how far CenterFace's keypoints lie from those of MediaPipe. The
client asks for no score, as by default, so each model reports faces from its own threshold on.

    python benchmarks/bench_accuracy.py [--photos FOLDER] [--min-confidence SCORE] [--short]

``high`` and ``max`` are asked for SCORE in place of that. FOLDER holds pictures and ``labels.json``
(see ``photo_scores.py``); the default lies beside the repository. Photos that no threshold was
chosen on tell most.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import secrets
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from photo_scores import FOLDER, Photo, Score, photos
from PIL import Image, ImageOps

from hybrid_detect import BoundingBox, CloudDetectionService, Face, Frame, Plan
from hybrid_detect.backends.base import Backend
from hybrid_detect.backends.device.on_device import OnDeviceDetectionService
from hybrid_detect.server.serving import ServerProcess
from hybrid_detect.types import BackendKind

TOKEN = secrets.token_urlsafe(16)
DEADLINE_S = 30.0
RESAMPLES = 2000
CLOSE_UP = 0.1
"""Of the longer side: the height of each face in a close-up."""


@dataclass(frozen=True)
class Sent:
    """How large a picture may be."""

    width: int
    height: int
    bytes: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}, {self.bytes // 1000} KB"

    def plan(self, width: int, height: int) -> Plan:
        longer, shorter = max(width, height), min(width, height)
        scale = min(1.0, self.width / longer, self.height / shorter)
        return Plan(
            backend=BackendKind.CLOUD,
            reason="a benchmark",
            deadline_s=DEADLINE_S,
            target_bytes=self.bytes,
            quality=95,
            max_side_px=max(round(longer * scale), 1),
        )


SIZES = (Sent(1280, 720, 80_000), Sent(640, 360, 40_000), Sent(640, 360, 20_000))

POPULATIONS: dict[str, Callable[[Photo], bool]] = {
    "all": lambda photo: True,
    "close-ups": lambda photo: (
        bool(photo.boxes) and min(box.height for box in photo.boxes) >= CLOSE_UP * photo.longer_px
    ),
    "groups": lambda photo: len(photo.boxes) > 1,
    "without large groups": lambda photo: photo.category != "large",
    "no face": lambda photo: not photo.boxes,
}

Counts = NDArray[np.int64]
"""One row a photo: hits, detections that count, labelled faces."""


def counted(photo: Photo, faces: Iterable[Face]) -> tuple[int, int, int]:
    score = Score().add(photo, faces)
    return score.hits, score.found, score.wanted


def f1(counts: Counts) -> NDArray[np.float64]:
    """F1 of sums over the last axis but one."""
    hits, found, wanted = np.moveaxis(counts.sum(axis=-2), -1, 0)
    return np.where(found + wanted > 0, 2 * hits / np.maximum(found + wanted, 1), 1.0)


def interval(counts: Counts, beside: Counts | None = None) -> tuple[float, float]:
    """Of F1, or of its ratio to another's on the same photos."""
    drawn = np.random.default_rng(7).integers(0, len(counts), (RESAMPLES, len(counts)))
    values = f1(counts[drawn])
    if beside is not None:
        values = values / np.maximum(f1(beside[drawn]), 1e-9)
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)


def row(counts: Counts) -> str:
    hits, found, wanted = counts.sum(axis=0)
    precision, recall = hits / found if found else 1.0, hits / wanted if wanted else 1.0
    low, high = interval(counts)
    return (
        f"P {precision:.3f} R {recall:.3f} F1 {float(f1(counts)):.3f} [{low:.2f}, {high:.2f}] "
        f"false {found - hits:3d}"
    )


def ratio(counts: Counts, beside: Counts) -> str:
    other = float(f1(beside))
    if not other:
        return "-"
    low, high = interval(counts, beside)
    return f"x{float(f1(counts)) / other:.2f} [{low:.2f}, {high:.2f}]"


async def looked(
    backend: Backend,
    images: Sequence[Image.Image],
    plan: Callable[[int, int], Plan],
    *,
    level: str | None = None,
) -> list[tuple[Face, ...]]:
    """The faces in each; each looked at on `level`, if one is asked for."""
    found = []
    for image in images:
        frame = Frame.of(image)
        result = await backend.detect(frame, plan(frame.width, frame.height))
        if level not in {None, result.quality}:
            raise SystemExit(f"expected a look at {level!r}, got one at {result.quality!r}")
        found.append(result.faces)
    return found


async def started(cloud: Backend, image: Image.Image, sent: Sent, level: str) -> None:
    """Have the server start `level`, which takes a moment for one above its own."""
    for _ in range(20):
        result = await cloud.detect(Frame.of(image), sent.plan(*image.size))
        if result.quality == level:
            return
        await asyncio.sleep(0.5)


def device_plan(width: int, height: int) -> Plan:
    return Plan(backend=BackendKind.DEVICE, reason="a benchmark", deadline_s=DEADLINE_S)


def opened(photo: Photo) -> Image.Image:
    with Image.open(photo.path) as image:
        return ImageOps.exif_transpose(image).convert("RGB")


async def score_all(chosen: list[Photo], server: ServerProcess, confidence: float | None) -> None:
    images = [opened(photo) for photo in chosen]

    def counts(found: list[tuple[Face, ...]]) -> Counts:
        rows = [counted(photo, faces) for photo, faces in zip(chosen, found, strict=True)]
        return np.array(rows, np.int64)

    async with OnDeviceDetectionService(model="short_range") as device:
        short = counts(await looked(device, images, device_plan))
    table: dict[str, Counts] = {"device: short range": short}
    full: dict[Sent, Counts] = {}
    for sent in SIZES:
        for level, score in (("fast", None), ("high", confidence), ("max", confidence)):
            async with CloudDetectionService(
                endpoint=server.url, auth_token=TOKEN, quality=level, min_confidence=score
            ) as cloud:
                await started(cloud, images[0], sent, level)
                found = counts(await looked(cloud, images, sent.plan, level=level))
            asked = "" if score is None else f" @{score:g}"
            table[f"server: {level}{asked}, {sent}"] = found
            if level == "fast":
                full[sent] = found
    for name, belongs in POPULATIONS.items():
        part = np.array([belongs(photo) for photo in chosen])
        faces = int(short[part][:, 2].sum())
        print(f"\n{name}: {part.sum()} photos, {faces} faces")
        if not part.any():
            continue
        for label, all_counts in table.items():
            mine = all_counts[part]
            ratios = ""
            if label.startswith(("server: high", "server: max")) and faces:
                sent = next(each for each in SIZES if label.endswith(str(each)))
                ratios = (
                    f"  of full range {ratio(mine, full[sent][part])}"
                    f"  of the device {ratio(mine, short[part])}"
                )
            print(f"  {label:38} {row(mine)}{ratios}")


def turned(photo: Photo, image: Image.Image, degrees: int) -> tuple[Image.Image, list[BoundingBox]]:
    """The image turned counter-clockwise on a black ground, and its boxes about their centres."""
    out = image.rotate(degrees, Image.Resampling.BICUBIC, expand=True)
    angle = math.radians(degrees)
    boxes = []
    for box in photo.boxes:
        x = (box.x_min + box.x_max) / 2 - image.width / 2
        y = (box.y_min + box.y_max) / 2 - image.height / 2
        centre_x = out.width / 2 + x * math.cos(angle) + y * math.sin(angle)
        centre_y = out.height / 2 - x * math.sin(angle) + y * math.cos(angle)
        half = math.sqrt(box.width * box.height) / 2
        boxes.append(
            BoundingBox(centre_x - half, centre_y - half, centre_x + half, centre_y + half)
        )
    return out, boxes


def share_found(boxes: Sequence[BoundingBox], faces: Iterable[Face]) -> int:
    """How many boxes have a face whose overlap is at least 0.4: a turned box is not exact."""
    left = list(boxes)
    for face in faces:
        best = max(left, key=face.box.iou, default=None)
        if best is not None and face.box.iou(best) >= 0.4:
            left.remove(best)
    return len(boxes) - len(left)


async def roll(chosen: list[Photo], server: ServerProcess, confidence: float | None) -> None:
    part = [photo for photo in chosen if photo.boxes and photo.category != "large"]
    angles = (0, 15, 30, 45, 60, 90, 180, 270)
    found: dict[str, list[float]] = defaultdict(list)
    for degrees in angles:
        pairs = [turned(photo, opened(photo), degrees) for photo in part]
        images, wanted = [image for image, _ in pairs], [boxes for _, boxes in pairs]
        total = sum(map(len, wanted))
        for level, score, again in (
            ("fast", None, False),
            ("high", confidence, False),
            ("high", confidence, True),
        ):
            async with CloudDetectionService(
                endpoint=server.url,
                auth_token=TOKEN,
                quality=level,
                second_look=again,
                min_confidence=score,
            ) as cloud:
                faces = await looked(cloud, images, SIZES[0].plan)
            hits = sum(map(share_found, wanted, faces))
            label = f"server: {level}{', second look' if again else ''}"
            found[label].append(hits / total)
        async with OnDeviceDetectionService(model="short_range") as device:
            faces = await looked(device, images, device_plan)
        found["device: short range"].append(sum(map(share_found, wanted, faces)) / total)
    print(
        f"\nrecall of {total} faces in {len(part)} photos without large groups, turned by degrees"
    )
    print(" " * 28, *(f"{degrees:5d}" for degrees in angles))
    for label, shares in found.items():
        print(f"  {label:26}", *(f"{share:5.2f}" for share in shares))


async def keypoints(chosen: list[Photo], server: ServerProcess, confidence: float | None) -> None:
    """Distances between the keypoints of ``high`` and of ``fast`` on faces that both find."""
    images = [opened(photo) for photo in chosen]
    faces = []
    for level, score in (("fast", None), ("high", confidence)):
        async with CloudDetectionService(
            endpoint=server.url, auth_token=TOKEN, quality=level, min_confidence=score
        ) as cloud:
            faces.append(await looked(cloud, images, SIZES[0].plan))
    distances: dict[str, list[float]] = defaultdict(list)
    for quick, thorough in zip(*faces, strict=True):
        for face in quick:
            best = max(thorough, key=lambda other: face.box.iou(other.box), default=None)
            if best is None or face.box.iou(best.box) < 0.5:
                continue
            beside = {point.name: point for point in best.keypoints}
            for point in face.keypoints:
                if (other := beside.get(point.name)) is not None:
                    distance = math.hypot(point.x - other.x, point.y - other.y)
                    distances[point.name].append(distance / face.box.height)
    print("\nkeypoints of high beside those of fast, in heights of the face: median, 90th of 100")
    for name, values in distances.items():
        tenth = statistics.quantiles(values, n=10)[8] if len(values) > 1 else values[0]
        print(f"  {name:18} {statistics.median(values):.3f} {tenth:.3f}  ({len(values)} faces)")


async def run(arguments: argparse.Namespace) -> None:
    chosen = photos(arguments.photos)
    if not chosen:
        raise SystemExit(f"there are no labelled photos in {arguments.photos}")
    with ServerProcess(auth_token=TOKEN) as server:
        async with CloudDetectionService(
            endpoint=server.url, auth_token=TOKEN, quality="high"
        ) as cloud:
            result = await cloud.detect(Frame.of(opened(chosen[0])), SIZES[0].plan(1280, 720))
        if result.quality != "high":
            raise SystemExit(f"the server has no level 'high'; it looked with {result.model}")
        await score_all(chosen, server, arguments.min_confidence)
        if not arguments.short:
            await roll(chosen, server, arguments.min_confidence)
            await keypoints(chosen, server, arguments.min_confidence)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, default=FOLDER, metavar="FOLDER")
    parser.add_argument("--min-confidence", type=float, metavar="SCORE")
    parser.add_argument("--short", action="store_true", help="leave roll and keypoints out")
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()

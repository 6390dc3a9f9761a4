"""What anonymising leaves for a detector to find, and what removing metadata costs.

python benchmarks/bench_privacy.py [FOLDER_OF_PHOTOS]

The photos lie beside the repository, with their faces in labels.json; without them only the cost is
measured.
"""

from __future__ import annotations

import io
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from hybrid_detect.backends.device.face_detector import MediaPipeFaceDetector
from hybrid_detect.backends.device.models import load_model
from hybrid_detect.frames.frame import Frame
from hybrid_detect.privacy.face_regions import FaceRegion
from hybrid_detect.privacy.filter import PrivacyFilter
from hybrid_detect.types import BoundingBox, Face

PHOTOS = Path(__file__).parents[2] / "shared" / "faces"
MODELS = ("short_range", "full_range")
MARGINS = (0.0, 0.25, 0.5)
PIXELATED_ROUNDS = 3
ROUNDS = 15

FILTER = PrivacyFilter()


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else PHOTOS
    measure_cost()
    if (folder / "labels.json").is_file():
        measure_what_is_found(folder)
    else:
        print("no photos: what a detector finds is not measured")


def measure_cost() -> None:
    """Time of remove_pii as a ratio to decoding the same file once."""
    noise = np.random.default_rng(1).normal(128, 40, (90, 160, 3)).clip(0, 255).astype(np.uint8)
    picture = Image.fromarray(noise).resize((1920, 1080), Image.Resampling.BICUBIC)
    print(f"{'remove_pii, 1920x1080':24} {'x decoding':>10}")
    for kind, options in (("JPEG", {"quality": 90}), ("PNG", {}), ("WEBP", {"quality": 90})):
        for orientation in (1, 6):
            exif = Image.Exif()
            exif[0x0112] = orientation
            out = io.BytesIO()
            picture.save(out, kind, exif=exif, **options)
            data = out.getvalue()
            decoding = took(lambda data=data: Frame.of(data).rgb())  # type: ignore[misc]
            removing = took(lambda data=data: FILTER.remove_pii(data))  # type: ignore[misc]
            name = f"{kind}, {'turned' if orientation > 1 else 'upright'}"
            print(f"{name:24} {removing / decoding:10.1f}")


def took(call: Callable[[], object]) -> float:
    seen = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        call()
        seen.append(time.perf_counter() - started)
    return statistics.median(seen)


def measure_what_is_found(folder: Path) -> None:
    labels = json.loads((folder / "labels.json").read_text())["images"]
    detectors = {name: MediaPipeFaceDetector(load_model(name)) for name in MODELS}
    photos = {name: np.ascontiguousarray(Frame.of(folder / name).rgb()) for name in labels}
    faces = {
        model: {name: list(detectors[model].detect(photos[name])) for name in photos}
        for model in MODELS
    }
    faces["labels"] = {
        name: [Face(BoundingBox(x, y, x + w, y + h)) for x, y, w, h in labels[name]["boxes"]]
        for name in photos
    }
    print(f"\n{len(photos)} photos, {sum(map(len, faces['labels'].values()))} labelled faces")
    print(f"{'method':10} {'margin':>6} {'destroyed':>10} {'found again':>12}")
    for method, rounds in (("fill", 1), ("pixelate", PIXELATED_ROUNDS)):
        for margin in MARGINS:
            destroyed = again = 0
            for _ in range(rounds):
                for found in faces.values():
                    for detector in detectors.values():
                        for name, picture in photos.items():
                            destroyed += len(found[name])
                            again += found_again(detector, picture, found[name], method, margin)
            print(f"{method:10} {margin:6.2f} {destroyed:10} {again:12}")
    print(f"\n{'redact':10} {'margin':>6} {'of':>10} {'found':>12}")
    for model in MODELS:
        for margin in (0.25, 1.0, 2.0):
            shown = sum(map(len, faces[model].values()))
            seen = sum(
                found_in_crops(detectors[model], photos[name], faces[model][name], margin)
                for name in photos
            )
            print(f"{model:10} {margin:6.2f} {shown:10} {seen:12}")


def found_again(
    detector: MediaPipeFaceDetector,
    picture: np.ndarray,
    faces: list[Face],
    method: str,
    margin: float,
) -> int:
    """Faces found that lie by more than half in a region that was destroyed."""
    if not faces:
        return 0
    done = FILTER.anonymize(picture, faces, method=method, margin=margin)  # type: ignore[arg-type]
    regions = [FaceRegion.around(face.box, margin=margin) for face in faces]
    return sum(
        any(shared(found.box, region) > 0.5 * found.box.area for region in regions)
        for found in detector.detect(done)
    )


def shared(box: BoundingBox, region: FaceRegion) -> float:
    """Square pixels that both cover."""
    width = min(box.x_max, region.right) - max(box.x_min, region.left)
    height = min(box.y_max, region.bottom) - max(box.y_min, region.top)
    return max(0.0, width) * max(0.0, height)


def found_in_crops(
    detector: MediaPipeFaceDetector, picture: np.ndarray, faces: list[Face], margin: float
) -> int:
    """How many of `faces` are found, at the same place, when nothing else is shown."""
    if not faces:
        return 0
    seen = detector.detect(FILTER.redact(picture, faces, margin=margin))
    return sum(any(face.box.iou(other.box) > 0.5 for other in seen) for face in faces)


if __name__ == "__main__":
    main()

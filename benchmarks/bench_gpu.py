"""CenterFace on a graphics processor: pictures a second, in batches and served, and the same faces.

Where there is none, it says why and ends. Needs ``pip install 'hybrid-detect[server-gpu]'``.

    python benchmarks/bench_gpu.py [--provider cuda|tensorrt] [--seconds 5] [--photos FOLDER]

It prints the provider that was really used, the time of batches of one and of eight, how many of
the faces found on the processor are found again, and detections a second over HTTP with as many
connections as two batches. TensorRT builds its engines first, which takes minutes once.
"""

from __future__ import annotations

import argparse
import io
import time
from pathlib import Path

import numpy as np
from bench_detections import TOKEN, pictures
from links import Target
from photo_scores import FOLDER
from picture_load import Load, requests, served, without_pause
from PIL import Image

from hybrid_detect.backends.device.models import load_model
from hybrid_detect.backends.device.onnx_gpu import MOST, BatchedCenterFace, open_session
from hybrid_detect.backends.device.runtimes import make_detector
from hybrid_detect.errors import HybridDetectError

SIDES_PX = (640, 1280)
MIN_SCORE = 0.45


def per_s(detector: BatchedCenterFace, images: list[np.ndarray], seconds: float) -> float:
    ends_s, done = time.perf_counter() + seconds, 0
    began_s = time.perf_counter()
    while time.perf_counter() < ends_s:
        detector.detect_batch(images)
        done += len(images)
    return done / (time.perf_counter() - began_s)


def found_again(detector: BatchedCenterFace, side_px: int, images: list[np.ndarray]) -> str:
    """Faces of the processor's detector that this one finds as well, with an IoU of 0.9."""
    processor = make_detector(
        "onnxruntime", load_model("centerface"), min_confidence=MIN_SCORE, side_px=side_px
    )
    hits = total = 0
    for image in images:
        found = detector.detect(image)
        for face in processor.detect(image):
            total += 1
            hits += any(face.box.iou(other.box) >= 0.9 for other in found)
    return f"{hits} of {total}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--provider", choices=["cpu", "cuda", "tensorrt"], default="cuda")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--photos", type=Path, default=FOLDER, metavar="FOLDER")
    arguments = parser.parse_args()
    data = pictures(arguments.photos)
    images = [np.asarray(Image.open(io.BytesIO(each)).convert("RGB")) for each in data]
    batch = [images[index % len(images)] for index in range(MOST)]
    for side_px in SIDES_PX:
        try:
            session = open_session(load_model("centerface"), arguments.provider)
        except HybridDetectError as error:
            print(f"nothing is measured: {error}")
            return
        used = session.get_providers()
        began_s = time.perf_counter()
        detector = BatchedCenterFace(
            session, runs_on=used[0], side_px=side_px, min_confidence=MIN_SCORE
        )
        warm_s = time.perf_counter() - began_s
        alone, together = (per_s(detector, each, arguments.seconds) for each in (batch[:1], batch))
        print(f"{used[0]}, {side_px} px: shapes met in {warm_s:.1f} s")
        print(f"  batches of 1     {alone:8.1f} pictures/s, scaling and decoding of maps included")
        print(f"  batches of {MOST}     {together:8.1f} pictures/s")
        print(f"  faces of the processor found again: {found_again(detector, side_px, images)}")
        detector.close()
    if arguments.provider == "cpu":
        return  # the server batches on graphics processors alone
    with served(auth_token=TOKEN, provider=arguments.provider) as (port, _):
        target = Target(port, TOKEN)
        asked = requests(target, data, "high")
        for seconds in (1.0, arguments.seconds):
            sent = without_pause(target, asked, seconds, connections=2 * MOST)
            load = Load.of(sent, seconds)
    print(
        f"over HTTP          {load.per_s:8.1f} detections/s, {2 * MOST} connections, {load.levels}"
    )


if __name__ == "__main__":
    main()

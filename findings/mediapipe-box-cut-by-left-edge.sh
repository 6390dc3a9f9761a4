#!/usr/bin/env bash
# Expected: MediaPipe's FaceDetector reports, for a face that the picture's left edge cuts, either the whole box
#           with a negative origin or the part of it that is inside the picture.
# Really:   the origin is moved to 0 and the width stays that of the whole face, so the box reaches too far to the right by
#           what the edge has cut off. A face cut by the right edge keeps its place and reaches beyond the picture.
# Version:  mediapipe==1.2.3 on Linux x86-64, CPython 3.11; model: face_detection_short_range.tflite of the wheel
#           mediapipe==0.10.21 (SHA-256 bbff11ce...8b3eca8).
# Source:   seen here. google-ai-edge/mediapipe documents BoundingBox as origin, width and height in pixels and names no
#           clamping.
# Cares:    everyone who crops, blurs or tracks faces near the edge: the box shows cheek-to-wall instead of the face, and its
#           centre jumps as a person walks out of the picture.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet mediapipe==1.2.3 scikit-image==0.26.0
venv/bin/pip download --quiet --no-deps --only-binary=:all: --python-version 3.11 --platform manylinux2014_x86_64 \
  --platform manylinux_2_28_x86_64 mediapipe==0.10.21
venv/bin/python -m zipfile -e mediapipe-0.10.21-*.whl wheel
cat > show.py <<'PYTHON'
import numpy as np
import mediapipe as mp
from mediapipe.tasks.python import BaseOptions, vision
from skimage import data

model = "wheel/mediapipe/modules/face_detection/face_detection_short_range.tflite"
options = vision.FaceDetectorOptions(base_options=BaseOptions(model_asset_path=model))
detector = vision.FaceDetector.create_from_options(options)


def box(pixels):
    image = mp.Image(image_format=mp.ImageFormat.SRGB, data=np.ascontiguousarray(pixels))
    (found,) = detector.detect(image).detections
    return found.bounding_box


photo = data.astronaut()  # one face, about x 177 to 272
whole = box(photo)
cut_px = 205
cut = box(photo[:, cut_px:])
inside = whole.origin_x + whole.width - cut_px
print(f"whole picture:          x {whole.origin_x}, width {whole.width}")
print(f"{cut_px} columns cut off: x {cut.origin_x}, width {cut.width}; inside the picture are {inside}")
assert cut.origin_x == 0
assert cut.width > inside + 10, "the box is shrunk now: this finding is out of date"
PYTHON
venv/bin/python show.py 2>/dev/null

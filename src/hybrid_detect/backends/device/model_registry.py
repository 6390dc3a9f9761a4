"""The face models there are, and how a file is known to be one of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from hybrid_detect.errors import ConfigurationError, ModelIntegrityError

__all__ = ["MODELS", "ModelSpec", "model_spec"]


ENOUGH_FACTOR = 5
"""How many times the network's input a decoded picture's longer side has to have. On 24 photos of
people of up to 12 megapixels, pictures decoded to 640 (short range) and 960 pixels (full range)
showed every face of the full ones, one more each, at a mean IoU of 0.98."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """One published model file."""

    name: str
    filename: str
    size_bytes: int
    sha256: str
    """Lower-case hexadecimal digest of the whole file."""
    url: str
    """Google's published address."""
    wheel_member: str
    """Path of the same file inside the wheel `model_sources.WHEEL_REQUIREMENT`."""
    input_px: int
    """Side of the square picture the network sees."""
    licence: str
    description: str

    @property
    def enough_px(self) -> int:
        """Pixels of a picture's longer side beyond which no face is gained; see `ENOUGH_FACTOR`."""
        return ENOUGH_FACTOR * self.input_px

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


def _published(name: str, filename: str, **facts: object) -> ModelSpec:
    return ModelSpec(
        name=name,
        filename=filename,
        url=f"https://storage.googleapis.com/mediapipe-assets/tasks/testdata/vision/{filename}",
        wheel_member=f"mediapipe/modules/face_detection/{filename}",
        licence="Apache-2.0",
        **facts,  # type: ignore[arg-type]  # the two calls below are the only ones
    )


# Source of sizes and digests: google-ai-edge/mediapipe, third_party/external_files.bzl; the
# files in the wheel were compared with them.
MODELS: Mapping[str, ModelSpec] = MappingProxyType(
    {
        spec.name: spec
        for spec in (
            _published(
                "short_range",
                "face_detection_short_range.tflite",
                size_bytes=229_714,
                sha256="bbff11cebd1eb27a1e004cae0b0e63ec8c551cbf34a4451148b4908b8db3eca8",
                input_px=128,
                description="faces within about 2 m of the camera; the fastest",
            ),
            _published(
                "full_range",
                "face_detection_full_range_sparse.tflite",
                size_bytes=676_746,
                sha256="2c3728e6da56f21e21a320433396fb06d40d9088f2247c05e5635a688d45dfe1",
                input_px=192,
                description="faces up to about 5 m from the camera; 2.4 times as slow",
            ),
        )
    }
)
"""The models by name."""


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

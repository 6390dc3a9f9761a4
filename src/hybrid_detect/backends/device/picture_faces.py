"""The faces in a picture, in that picture's own pixels even if a smaller one was looked at."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from hybrid_detect.types import Face

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["PictureFaces"]


@dataclass(frozen=True, slots=True)
class PictureFaces:
    """The faces in a picture, and the size that their boxes refer to."""

    width: int
    """Pixels of the upright picture."""
    height: int
    """Pixels of the upright picture."""
    faces: Sequence[Face]
    decode_s: float | None = field(default=None, compare=False)
    """Seconds that decoding it took; `None` if it came as pixels."""

    @classmethod
    def seen_in(
        cls,
        pixels: NDArray[np.uint8],
        faces: Iterable[Face],
        *,
        width: int,
        height: int,
        decode_s: float | None = None,
    ) -> Self:
        """The faces of a picture of `width` by `height` that was looked at as `pixels`.

        Args:
            pixels: What was looked at, shape ``(rows, columns, 3)``: the picture, or a smaller one.
            faces: The faces in `pixels`.
            width: Pixels of the picture.
            height: Pixels of the picture.
            decode_s: Seconds that decoding it took; `None` if it came as pixels.
        """
        rows, columns = pixels.shape[:2]
        if (columns, rows) == (width, height):
            return cls(width, height, tuple(faces), decode_s)
        scales = {"scale_x": width / columns, "scale_y": height / rows}
        fitted = (face.fitted(**scales, width=width, height=height) for face in faces)
        kept = tuple(face for face in fitted if face is not None)
        return cls(width, height, kept, decode_s)

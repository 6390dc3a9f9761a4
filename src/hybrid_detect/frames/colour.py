"""Colour: pictures with a profile of their own, brought to sRGB so that they need none."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageCms, features

__all__ = ["in_srgb"]

_SAME = 2
"""Levels of 255 by which a profile may differ from sRGB and count as sRGB: the many profiles
called so differ by rounding, the nearest other one (Display P3) by more than 20.
"""

_SPACES = {"GRAY": "L", "RGB ": "RGB", "CMYK": "CMYK"}
"""Pillow's modes for the colour spaces of profiles. Source: ICC.1:2022, table 19."""


def in_srgb(image: Image.Image) -> Image.Image:
    """`image` with the pixels that look in sRGB as they do with the profile in its ``info``.

    Returns:
        `image` itself if it has no profile, one that says sRGB, or one that cannot be used;
        16-bit greys, too, are not converted.
    """
    profile = image.info.get("icc_profile")
    if not profile or image.mode.startswith("I") or not features.check("littlecms2"):
        return image
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = _SPACES[source.profile.xcolor_space]
        if (mode == "CMYK") is not (image.mode == "CMYK") or (mode == "L" and _has_hue(image)):
            return image
        transform = ImageCms.buildTransform(
            source,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        if mode != "CMYK" and _changes_nothing(transform, mode):
            return image
        converted = transform.apply(image.convert(mode))
    except (ImageCms.PyCMSError, OSError, ValueError, KeyError, TypeError):
        return image  # Viewers take a broken profile for sRGB, too.
    if mode == "L":
        converted = converted.convert("L")
    if image.has_transparency_data:
        converted.putalpha(image.convert("RGBA").getchannel("A"))
    return converted


def _has_hue(image: Image.Image) -> bool:
    return image.mode not in {"1", "L", "LA"}


def _changes_nothing(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Whether a grid over all colours comes out as it went in."""
    if mode == "L":
        grid = Image.linear_gradient("L")
    else:
        steps = np.arange(0, 256, 15, dtype=np.uint8)
        axes = np.meshgrid(steps, steps, steps, indexing="ij")
        grid = Image.fromarray(np.stack(axes, axis=-1).reshape(len(steps) ** 2, len(steps), 3))
    before = np.asarray(grid.convert("RGB"), dtype=np.int16)
    after = np.asarray(transform.apply(grid), dtype=np.int16)
    return int(np.abs(after - before).max()) <= _SAME

"""Filling: a JPEG that is too small for a provider made longer, its pixels left as they are."""

from __future__ import annotations

__all__ = ["filled"]

_END = b"\xff\xd9"


def filled(jpeg: bytes, min_bytes: int) -> bytes:
    """`jpeg` with at least `min_bytes` bytes: fill bytes stand before its end marker.

    Any marker may be preceded by any number of bytes 0xFF (ITU-T T.81, B.1.1.2). They say nothing,
    so no comment and no metadata is added, and a decoder has all pixels before it meets them. A
    higher quality would not do: a picture of one colour has as many bytes at every quality.

    Args:
        jpeg: A whole file that ends with its end marker, as compression makes it.
        min_bytes: The least bytes wanted.
    """
    missing = min_bytes - len(jpeg)
    return jpeg if missing <= 0 else jpeg[:-2] + b"\xff" * missing + _END

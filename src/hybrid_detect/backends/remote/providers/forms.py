"""Forms with a picture as one of their files. Source: RFC 7578."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from hybrid_detect.compression.compressed_image import CompressedImage

__all__ = ["form", "with_field"]


def form(
    picture: CompressedImage, *, name: str, fields: Mapping[str, object] | None = None
) -> tuple[str, bytes]:
    """A form's media type and body.

    Args:
        picture: The file.
        name: Its name in the form.
        fields: The other fields; values are written as text.
    """
    # A hash of the picture is a boundary that is not in it.
    boundary = hashlib.sha256(picture.data).hexdigest()[:32]
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; '
        f'filename="picture.{picture.format}"\r\nContent-Type: image/{picture.format}\r\n\r\n'
    )
    parts = [_field(boundary, field, value) for field, value in (fields or {}).items()]
    end = f"\r\n--{boundary}--\r\n".encode()
    return (
        f"multipart/form-data; boundary={boundary}",
        b"".join(("".join((*parts, head)).encode(), picture.data, end)),
    )


def with_field(media_type: str, body: bytes, name: str, value: str) -> bytes:
    """The body of a form that `form` made, with one more field at its start."""
    boundary = media_type.rpartition("boundary=")[2]
    return _field(boundary, name, value).encode() + body


def _field(boundary: str, name: str, value: object) -> str:
    return f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'

"""Reading the forms that clients send."""

from __future__ import annotations

import email.parser
import email.policy

from hybrid_detect.testing.provider_servers.base import ReceivedRequest

__all__ = ["parts_of"]


def parts_of(request: ReceivedRequest) -> dict[str, tuple[str, bytes]]:
    """The parts of a form by name: each one's file name, which may be empty, and its bytes."""
    head = f"Content-Type: {request.headers.get('content-type', '')}\r\n\r\n".encode()
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + request.body)
    if not message.is_multipart():
        return {}
    parts = {}
    for part in message.iter_parts():
        name = part.get_param("name", header="content-disposition")
        content = part.get_payload(decode=True)
        if isinstance(name, str) and isinstance(content, bytes):
            parts[name] = (part.get_filename() or "", content)
    return parts

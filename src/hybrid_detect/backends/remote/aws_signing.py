"""AWS Signature Version 4: a request signed with a key that never leaves the device.

Pure. Checked against botocore's signer, over generated requests, and by moto's verification.

Source: AWS, "Create a signed AWS API request" (Signature Version 4).
"""

from __future__ import annotations

import hashlib
import hmac
import time
from functools import lru_cache
from urllib.parse import quote, urlsplit

from hybrid_detect.backends.remote.protocol import HttpRequest

__all__ = ["signed"]

_ALGORITHM = "AWS4-HMAC-SHA256"
_DEFAULT_PORTS = {"http": 80, "https": 443}


def signed(
    request: HttpRequest,
    *,
    access_key_id: str,
    secret_access_key: str,
    session_token: str | None,
    region: str,
    service: str,
    now_s: float,
) -> HttpRequest:
    """`request` with the headers ``X-Amz-Date`` and ``Authorization``, and the session's token.

    All headers of `request` are signed, and ``Host`` beside them, so that none may be added to it
    that a proxy changes. What was signed before is signed anew: the date changes.

    Args:
        request: Its URL absolute and without a query, its path in characters that a URL holds
            unquoted.
        access_key_id: Says whose key it is.
        secret_access_key: The key.
        session_token: Belongs to a temporary key; `None` for a lasting one.
        region: Such as ``eu-west-1``.
        service: The service's signing name, such as ``rekognition``.
        now_s: Seconds since 1970, by the server's clock as far as it is known.
    """
    moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now_s))
    added = {"X-Amz-Date": moment}
    if session_token is not None:
        added["X-Amz-Security-Token"] = session_token
    own = {"authorization", *(name.lower() for name in added), "x-amz-security-token"}
    headers = {name: text for name, text in request.headers.items() if name.lower() not in own}
    headers |= added
    host, path = _place(request.url)
    to_sign = {name.lower(): " ".join(text.split()) for name, text in headers.items()}
    to_sign["host"] = host
    names = ";".join(sorted(to_sign))
    canonical = "\n".join(
        (
            request.method,
            path,
            "",
            *(f"{name}:{to_sign[name]}" for name in sorted(to_sign)),
            "",
            names,
            hashlib.sha256(request.body).hexdigest(),
        )
    )
    scope = f"{moment[:8]}/{region}/{service}/aws4_request"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    key = f"AWS4{secret_access_key}".encode()
    for part in scope.split("/"):
        key = _mac(key, part)
    signature = _mac(key, f"{_ALGORITHM}\n{moment}\n{scope}\n{digest}").hex()
    headers["Authorization"] = (
        f"{_ALGORITHM} Credential={access_key_id}/{scope}, "
        f"SignedHeaders={names}, Signature={signature}"
    )
    return HttpRequest(url=request.url, method=request.method, headers=headers, body=request.body)


@lru_cache(maxsize=16)
def _place(url: str) -> tuple[str, str]:
    """What the header ``Host`` will say, with a port only if it is not the scheme's own; the path.

    Remembered, because a camera's requests all go to one address.
    """
    parts = urlsplit(url)
    name, port = parts.hostname or "", parts.port
    name = f"[{name}]" if ":" in name else name
    is_usual = port is None or port == _DEFAULT_PORTS.get(parts.scheme)
    return name if is_usual else f"{name}:{port}", quote(parts.path or "/", safe="/~")


def _mac(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode(), "sha256")

"""The page that shows a session live: one file, which loads nothing from anywhere."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib import resources

__all__ = ["PAGE", "PAGE_POLICY"]

PAGE = resources.files("hybrid_detect.server").joinpath("live.html").read_text("utf-8")


def _hash_of(tag: str) -> str:
    (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", PAGE, re.DOTALL)
    digest = hashlib.sha256(content.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


PAGE_POLICY = "; ".join(
    (
        "default-src 'none'",
        f"script-src {_hash_of('script')}",
        f"style-src {_hash_of('style')}",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""The page's ``Content-Security-Policy``: its own script and style run, and nothing else; it talks
to this server alone."""

"""The smallest client of a detection server: one request, one answer, and no way out.

python examples/simple_backend_detection.py photo.jpg

It is the first step away from detection in the app; docs/how-to/migrate.md goes on from here.
"""

import os
import sys
from pathlib import Path

import httpx


class SimpleBackendDetection:
    """Sends a JPEG to the server and returns the faces that it finds, as dictionaries."""

    def __init__(self, endpoint: str, auth_token: str) -> None:
        self._url = f"{endpoint}/v1/detect"
        self._headers = {"Authorization": f"Bearer {auth_token}", "Accept": "application/json"}

    def process_image(self, jpeg: bytes) -> list[dict]:
        reply = httpx.post(self._url, content=jpeg, headers=self._headers, timeout=5.0)
        reply.raise_for_status()
        return reply.json()["faces"]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    client = SimpleBackendDetection(
        os.environ["HYBRID_DETECT_ENDPOINT"], os.environ["HYBRID_DETECT_AUTH_TOKEN"]
    )
    try:
        for face in client.process_image(Path(sys.argv[1]).read_bytes()):
            print(face["box"], face["score"])
    except (httpx.HTTPError, OSError) as error:
        sys.exit(f"simple_backend_detection: {error}")

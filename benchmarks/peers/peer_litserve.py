"""LitServe: a form with the picture, as many workers as there are cores."""

import json
import os
from typing import Any

import litserve
from looking import Looker
from starlette.requests import Request


class Faces(litserve.LitAPI):  # type: ignore[misc]
    """What LitServe asks of an API."""

    def setup(self, device: str) -> None:
        self.looker = Looker()

    def decode_request(self, request: Request) -> bytes:  # LitServe reads the annotation
        data: bytes = request["picture"].file.read()
        return data

    def predict(self, x: bytes) -> bytes:
        return self.looker.faces(x)

    def encode_response(self, output: bytes) -> Any:
        return json.loads(output)


if __name__ == "__main__":
    server = litserve.LitServer(
        Faces(api_path="/detect"),
        accelerator="cpu",
        workers_per_device=int(os.environ["PEER_WORKERS"]),
        timeout=60,
    )
    server.run(
        host="127.0.0.1",
        port=int(os.environ["PEER_PORT"]),
        generate_client_file=False,
        log_level="warning",
    )

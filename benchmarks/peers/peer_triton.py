"""NVIDIA Triton, from PyTriton's wheel: its Python backend, as many instances as there are cores.

The picture comes as a tensor of bytes in the binary form of the KServe protocol.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
from looking import Looker
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig


def instance() -> Callable[..., Any]:
    """One of the model's instances, each of which PyTriton runs in a thread of its own."""
    held: list[Looker] = []

    def infer(requests: Any) -> Any:
        if not held:
            held.append(Looker())
        return [
            {"faces": np.array([held[0].faces(request.data["picture"][0])], np.bytes_)}
            for request in requests
        ]

    return infer


if __name__ == "__main__":
    port = int(os.environ["PEER_PORT"])
    config = TritonConfig(
        http_address="127.0.0.1",
        http_port=port,
        grpc_port=port + 1,
        metrics_port=port + 2,
        allow_grpc=False,
        allow_metrics=False,
        log_verbose=0,
    )
    triton = Triton(config=config)
    triton.bind(
        model_name="faces",
        infer_func=[instance() for _ in range(int(os.environ["PEER_WORKERS"]))],
        inputs=[Tensor(name="picture", dtype=bytes, shape=(1,))],
        outputs=[Tensor(name="faces", dtype=bytes, shape=(1,))],
        config=ModelConfig(batching=False),
    )
    triton.serve()

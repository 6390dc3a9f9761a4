"""Answers of the Open Inference Protocol for tests, and requests taken apart."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from hybrid_detect.backends.remote.protocol import HttpRequest, HttpResponse

from .protocol_contract import json_response

__all__ = ["LENGTH", "answer", "asked", "binary", "output"]

LENGTH = "Inference-Header-Content-Length"


def output(name: str, values: Any, *, shape: list[int] | None = None, kind: str = "FP32") -> Any:
    data = np.asarray(values).ravel().tolist()
    return {"name": name, "datatype": kind, "shape": shape or [len(data)], "data": data}


def answer(boxes: Any, scores: Any, **more: Any) -> HttpResponse:
    outputs = [output("boxes", boxes), output("scores", scores)]
    return json_response({"model_name": "m", "id": "7", "outputs": outputs, **more})


def binary(*outputs: tuple[str, str, list[int], bytes]) -> HttpResponse:
    head = json.dumps(
        {
            "outputs": [
                {"name": n, "datatype": k, "shape": s, "parameters": {"binary_data_size": len(raw)}}
                for n, k, s, raw in outputs
            ]
        }
    ).encode()
    return HttpResponse(
        status=200,
        headers={"content-type": "application/octet-stream", LENGTH.lower(): str(len(head))},
        body=head + b"".join(raw for *_, raw in outputs),
    )


def asked(request: HttpRequest) -> tuple[dict[str, Any], bytes]:
    length = int(request.headers.get(LENGTH, len(request.body)))
    return json.loads(request.body[:length]), request.body[length:]

#!/usr/bin/env bash
# Expected: PyTriton installed beside NumPy 2 either works or says that it cannot: pip refuses, or the import or the start fails.
# Really:   it installs, starts and reports its model as ready. The function then gets each tensor with its first element in every place
#           (1, 2, 3, 4 arrives as 1, 1, 1, 1), and the client is told that the function's output has the wrong shape. A tensor of bytes
#           fails before that, on a length made of one byte four times. The Python backend is built with a pybind11 that reads an
#           element's size where NumPy 1 keeps it, and finds 0 there. With NumPy 1.26 all is well.
# Version:  nvidia-pytriton==0.5.7 (Triton 2.45) with numpy==2.2.6, Linux x86-64, Debian's CPython 3.11.2; numpy 2.0.2 and 2.4.6 do the same.
# Source:   triton-inference-server/python_backend#384 (pybind11 2.12 for NumPy 2). PyTriton's wheels up to 0.7.0 bring builds from before it.
# Cares:    whoever installs nvidia-pytriton beside packages that need NumPy 2: later versions ask for numpy<2, so pip goes back without
#           a word to 0.5.7, the last that does not, and the failure looks like damaged requests. The cure is numpy<2.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
/usr/bin/python3 -m venv venv # a distribution's: Triton's own interpreter fails with the standard library of some other builds
venv/bin/pip install --quiet nvidia-pytriton==0.5.7 numpy==2.2.6
cat > show.py <<'PYTHON'
import json
import socket
import urllib.error
import urllib.request

import numpy as np
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
http, grpc, metrics = (each.getsockname()[1] for each in sockets)
for each in sockets:
    each.close()
received = []


def double(requests):
    received.extend(request.data["numbers"].tolist() for request in requests)
    return [{"doubled": 2 * request.data["numbers"]} for request in requests]


def ask(numbers):
    tensor = {"name": "numbers", "shape": [len(numbers)], "datatype": "FP32", "data": numbers}
    url = f"http://127.0.0.1:{http}/v2/models/double/infer"
    try:
        with urllib.request.urlopen(url, json.dumps({"inputs": [tensor]}).encode(), 30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


config = TritonConfig(http_address="127.0.0.1", http_port=http, grpc_port=grpc, metrics_port=metrics)
sent = [1.0, 2.0, 3.0, 4.0]
with Triton(config=config) as triton:
    triton.bind(
        model_name="double",
        infer_func=double,
        inputs=[Tensor(name="numbers", dtype=np.float32, shape=(-1,))],
        outputs=[Tensor(name="doubled", dtype=np.float32, shape=(-1,))],
        config=ModelConfig(batching=False),
    )
    triton.run()
    ready = urllib.request.urlopen(f"http://127.0.0.1:{http}/v2/models/double/ready").status
    status, answer = ask(sent)
with open("seen", "w") as seen:  # Triton writes its log to the standard output
    print(f"NumPy {np.__version__}, model ready: {ready}", file=seen)
    print(f"sent:     {sent}", file=seen)
    print(f"received: {received}", file=seen)
    print(f"answer:   {status} {answer}", file=seen)
assert ready == 200
assert received == [[1.0] * 4], "the tensor arrives as it was sent: this finding is out of date"
assert status != 200, "this finding is out of date"
PYTHON
PYTRITON_HOME=$PWD/home PATH=$PWD/venv/bin:$PATH venv/bin/python show.py > said 2>&1 || { cat said >&2; exit 1; }
cat seen

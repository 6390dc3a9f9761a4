"""Our tensors beside tritonclient, Triton's own client: requests by bytes, answers by numbers."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from hybrid_detect.backends.remote.protocol import DetectParams, HttpResponse
from hybrid_detect.backends.remote.providers.kserve import KServe
from hybrid_detect.backends.remote.providers.tensors import HEADER_LENGTH, unpacked
from hybrid_detect.testing.provider_servers import KServeServer

from .protocol_contract import PICTURE

triton = pytest.importorskip(
    "tritonclient.http", reason="the extra providers-test is not installed"
)


def jpeg() -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(3).integers(0, 255, (48, 64, 3), np.uint8)
    Image.fromarray(pixels).save(out, "jpeg")
    return out.getvalue()


def inputs(*, encoding: str, batched: bool, binary: bool, picture: bytes) -> Any:
    if encoding == "jpeg-bytes":
        array: Any = np.array([picture], np.object_)
    else:
        array = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))
    if batched:
        array = array[np.newaxis]
    kind = "BYTES" if encoding == "jpeg-bytes" else "UINT8"
    tensor = triton.InferInput("image", list(array.shape), kind)
    tensor.set_data_from_numpy(array, binary_data=binary)
    return tensor


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize(
    ("encoding", "binary"), [("jpeg-bytes", True), ("rgb-u8-hwc", True), ("rgb-u8-hwc", False)]
)
@pytest.mark.parametrize("landmarks", ["", "points"])
def test_our_request_is_the_sdk_s_by_bytes(
    encoding: str, binary: bool, batched: bool, landmarks: str
) -> None:
    """But for a JPEG in JSON, which tritonclient cannot send: it takes BYTES for text."""
    made = KServe(
        model="faces", encoding=encoding, batched=batched, binary=binary, landmarks=landmarks
    )
    ours = made.encode((replace(PICTURE, data=jpeg()),), DetectParams())
    tensor = inputs(encoding=encoding, batched=batched, binary=binary, picture=jpeg())
    names = ["boxes", "scores", *([landmarks] if landmarks else [])]
    body, length = triton.InferenceServerClient.generate_request_body(
        [tensor], outputs=[triton.InferRequestedOutput(n, binary_data=binary) for n in names]
    )
    if binary:
        assert ours.body == body
    else:  # pixels as text, whose blanks differ
        assert json.loads(ours.body) == json.loads(body)
    assert ours.headers.get(HEADER_LENGTH) == (None if length is None else str(length))


def test_a_batch_is_the_sdk_s_by_bytes() -> None:
    pictures = [replace(PICTURE, data=data) for data in (jpeg(), b"x" * 300, b"")]
    made = KServe(model="faces", batched=True, max_pictures=3)
    ours = made.encode(pictures, DetectParams())
    tensor = triton.InferInput("image", [3, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[p.data] for p in pictures], np.object_))
    body, _ = triton.InferenceServerClient.generate_request_body(
        [tensor], outputs=[triton.InferRequestedOutput(name) for name in ("boxes", "scores")]
    )
    assert ours.body == body


def test_it_takes_the_sdk_s_way_to_the_server() -> None:
    with KServeServer() as server:
        client = triton.InferenceServerClient(server.url.removeprefix("http://"))
        tensor = inputs(encoding="jpeg-bytes", batched=False, binary=True, picture=jpeg())
        wanted = [triton.InferRequestedOutput(name) for name in ("boxes", "scores")]
        result = client.infer("faces", [tensor], outputs=wanted)
        metadata = client.get_model_metadata("faces")
        client.close()
    theirs, asked = server.requests
    ours = KServe(model="faces").encode((replace(PICTURE, data=jpeg()),), DetectParams())
    assert (theirs.method, theirs.target, theirs.body) == ("POST", ours.url, ours.body)
    assert theirs.headers[HEADER_LENGTH.lower()] == ours.headers[HEADER_LENGTH]
    assert (asked.method, asked.target) == ("GET", KServe(model="faces").health().url)
    assert metadata["name"] == "faces"
    assert result.as_numpy("boxes").tolist() == [[16, 12, 32, 36]]


KINDS = {
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
    **{f"INT{bits}": np.dtype(f"i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": np.dtype(f"u{bits // 8}") for bits in (8, 16, 32, 64)},
    "BOOL": np.bool_,
}


@given(st.data(), st.sampled_from(sorted(KINDS)), st.integers(0, 6))
def test_answers_are_read_as_the_sdk_reads_them(data: Any, kind: str, count: int) -> None:
    values = data.draw(arrays(KINDS[kind], (count, 4)))
    raw = values.tobytes()
    head = (
        f'{{"model_name": "m", "outputs": [{{"name": "boxes", "datatype": "{kind}", "shape": '
        f'[{count}, 4], "parameters": {{"binary_data_size": {len(raw)}}}}}]}}'
    ).encode()
    theirs = triton.InferenceServerClient.parse_response_body(
        head + raw, header_length=len(head)
    ).as_numpy("boxes")
    told = HttpResponse(
        status=200, headers={HEADER_LENGTH.lower(): str(len(head))}, body=head + raw
    )
    ours = unpacked(told)["boxes"]
    with np.errstate(over="ignore"):
        expected = theirs.astype(np.float64).ravel()
    finite = np.isfinite(expected)
    assert np.array_equal(np.isfinite(ours), finite)
    assert np.array_equal(ours[finite], expected[finite])

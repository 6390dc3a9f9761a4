"""Our AWS requests, signatures and parser beside AWS's own SDK, and before moto's verification."""

from __future__ import annotations

import base64
import calendar
import io
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from hybrid_detect.backends.remote.aws_signing import signed
from hybrid_detect.backends.remote.protocol import DetectParams, HttpRequest, HttpResponse
from hybrid_detect.backends.remote.providers.aws import AwsRekognition
from hybrid_detect.compression.compressed_image import CompressedImage
from hybrid_detect.errors import BackendResponseError
from hybrid_detect.testing.provider_servers import AwsServer, ReceivedRequest

from .protocol_contract import PICTURE

pytest.importorskip("botocore", reason="the extra providers-test is not installed")
boto3 = pytest.importorskip("boto3", reason="the extra providers-test is not installed")

import botocore.auth  # noqa: E402
import botocore.awsrequest  # noqa: E402
import botocore.config  # noqa: E402
import botocore.credentials  # noqa: E402
import botocore.parsers  # noqa: E402
import botocore.session  # noqa: E402
import botocore.stub  # noqa: E402
import botocore.validate  # noqa: E402

KEYS = {"access_key_id": "AKIDEXAMPLE", "secret_access_key": "secret+/of==them"}

VISIBLE = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=40)


def jpeg(width: int = 120, height: int = 90) -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(3).integers(0, 255, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(out, "jpeg")
    return out.getvalue()


def picture(data: bytes) -> CompressedImage:
    return CompressedImage(
        data=data,
        width=120,
        height=90,
        original_width=120,
        original_height=90,
        quality=75,
        encodes=1,
    )


@pytest.fixture(scope="module")
def operation() -> Any:
    model = botocore.session.get_session().get_service_model("rekognition")
    return model.operation_model("DetectFaces")


def client(url: str, token: str | None = None) -> Any:
    return boto3.client(
        "rekognition",
        region_name="eu-west-1",
        endpoint_url=url,
        aws_access_key_id=KEYS["access_key_id"],
        aws_secret_access_key=KEYS["secret_access_key"],
        aws_session_token=token,
        config=botocore.config.Config(retries={"total_max_attempts": 1}, proxies={}),
    )


def moment_s(request: ReceivedRequest) -> float:
    moment = time.strptime(request.headers["x-amz-date"], "%Y%m%dT%H%M%SZ")
    return float(calendar.timegm(moment))


@pytest.mark.parametrize("token", [None, "session/token+=="])
def test_our_request_is_boto3s_byte_for_byte(token: str | None) -> None:
    with AwsServer(**KEYS, session_token=token) as server:
        theirs_of = client(server.url, token)
        found = theirs_of.detect_faces(Image={"Bytes": jpeg()}, Attributes=["DEFAULT"])
        theirs_of.close()
        (theirs,) = server.requests
        url = server.url + "/"
    ours = AwsRekognition(region="eu-west-1").encode((picture(jpeg()),), DetectParams())
    ours = signed(
        HttpRequest(url=url, headers=ours.headers, body=ours.body),
        **KEYS,
        session_token=token,
        region="eu-west-1",
        service="rekognition",
        now_s=moment_s(theirs),
    )
    assert ours.body == theirs.body
    assert (ours.method, "/") == (theirs.method, theirs.target)
    sent = {name.lower(): text for name, text in ours.headers.items()}
    assert {name: theirs.headers[name] for name in sent} == sent
    assert len(found["FaceDetails"]) == 1  # and our server's check of signatures accepts theirs


@settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150
)
@given(
    key=VISIBLE.filter(lambda text: "/" not in text),
    secret=VISIBLE,
    token=st.none() | VISIBLE,
    region=st.from_regex(r"[a-z]{2}-[a-z]{3,9}-[1-9]", fullmatch=True),
    body=st.binary(max_size=200),
    host=st.from_regex(r"[a-z][a-z0-9-]{0,20}\.example(:[1-9][0-9]{1,3})?", fullmatch=True),
    scheme=st.sampled_from(["http", "https"]),
    path=st.from_regex(r"/([A-Za-z0-9_.~-]{1,8}/?)?", fullmatch=True),
    headers=st.dictionaries(
        st.from_regex(r"X-[A-Z][a-z]{1,8}", fullmatch=True),
        st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20),
        max_size=3,
    ),
    now_s=st.integers(0, 4_000_000_000),
)
def test_our_signature_is_botocores(
    monkeypatch: pytest.MonkeyPatch,
    key: str,
    secret: str,
    token: str | None,
    region: str,
    body: bytes,
    host: str,
    scheme: str,
    path: str,
    headers: dict[str, str],
    now_s: int,
) -> None:
    if set(path.strip("/")) <= {"."} and path != "/":
        return  # which every client resolves before it signs
    moment = datetime.fromtimestamp(now_s, UTC)
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda: moment)
    url = f"{scheme}://{host}{path}"
    theirs = botocore.awsrequest.AWSRequest("POST", url, headers=dict(headers), data=body)
    keys = botocore.credentials.Credentials(key, secret, token)
    botocore.auth.SigV4Auth(keys, "rekognition", region).add_auth(theirs)
    ours = signed(
        HttpRequest(url=url, headers=headers, body=body),
        access_key_id=key,
        secret_access_key=secret,
        session_token=token,
        region=region,
        service="rekognition",
        now_s=now_s,
    )
    assert dict(ours.headers) == dict(theirs.headers.items())


def parsed(operation: Any, response: HttpResponse) -> dict[str, Any]:
    parser = botocore.parsers.create_parser("json")
    raw = {"status_code": response.status, "headers": response.headers, "body": response.body}
    found: dict[str, Any] = parser.parse(raw, operation.output_shape)
    return found


RATIOS = st.floats(-2, 3, allow_nan=False).map(lambda value: round(value, 6))


def with_some_left_out(**values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=values)


DETAILS = with_some_left_out(
    BoundingBox=with_some_left_out(
        Left=RATIOS, Top=RATIOS, Width=st.floats(0, 3), Height=st.floats(0, 3)
    ),
    Confidence=st.floats(0, 100),
    Landmarks=st.lists(
        with_some_left_out(
            Type=st.sampled_from(["eyeLeft", "eyeRight", "nose", "chinBottom"]), X=RATIOS, Y=RATIOS
        ),
        max_size=4,
    ),
    Quality=with_some_left_out(Brightness=st.floats(0, 100)),
    Unheard=st.integers(),
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(details=st.lists(DETAILS, max_size=4))
def test_our_parser_finds_what_the_sdk_finds(operation: Any, details: list[Any]) -> None:
    body = json.dumps({"FaceDetails": details}).encode()
    response = HttpResponse(status=200, headers={}, body=body)
    theirs = parsed(operation, response)["FaceDetails"]
    (reply,) = AwsRekognition(region="eu-west-1").decode(response, (PICTURE,))
    expected = []
    for face in theirs:
        box = face.get("BoundingBox", {})
        left, top, width, height = (box.get(n, 0.0) for n in ("Left", "Top", "Width", "Height"))
        sides = (
            min(max(left * 64, 0), 64),
            min(max(top * 48, 0), 48),
            min(max((left + width) * 64, 0), 64),
            min(max((top + height) * 48, 0), 48),
        )
        if (sides[2] - sides[0]) * (sides[3] - sides[1]) > 0:
            expected.append((sides, face.get("Confidence")))
    assert len(reply.faces) == len(expected)
    for face, (sides, confidence) in zip(reply.faces, expected, strict=True):
        assert face.box.xyxy == pytest.approx(sides)
        assert face.score == (None if confidence is None else pytest.approx(confidence / 100))


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    code=st.from_regex(r"[A-Z][A-Za-z]{0,30}(Exception|Error)", fullmatch=True),
    space=st.sampled_from(["", "com.amazonaws.rekognition#"]),
    address=st.sampled_from(["", ":http://internal.example/"]),
    status=st.sampled_from([400, 403, 500, 503]),
)
def test_our_error_codes_are_the_sdks(
    operation: Any, code: str, space: str, address: str, status: int
) -> None:
    body = json.dumps({"__type": f"{space}{code}{address}", "Message": "no"}).encode()
    response = HttpResponse(status=status, headers={"x-amzn-requestid": "r-1"}, body=body)
    theirs = parsed(operation, response)
    with pytest.raises(BackendResponseError) as caught:
        AwsRekognition(region="eu-west-1").decode(response, (PICTURE,))
    assert caught.value.code == theirs["Error"]["Code"] == code
    assert caught.value.request_id == theirs["ResponseMetadata"]["RequestId"]


def test_what_we_ask_and_what_our_server_answers_are_valid_in_awss_own_model(
    operation: Any,
) -> None:
    asked = json.loads(AwsRekognition(region="eu-west-1").encode((PICTURE,), DetectParams()).body)
    asked["Image"]["Bytes"] = base64.b64decode(asked["Image"]["Bytes"], validate=True)
    report = botocore.validate.ParamValidator().validate(asked, operation.input_shape)
    assert not report.has_errors(), report.generate_report()
    with AwsServer(**KEYS) as server:
        theirs = client(server.url)
        found = theirs.detect_faces(Image={"Bytes": jpeg()})
        with botocore.stub.Stubber(theirs) as stub:
            del found["ResponseMetadata"]
            stub.add_response("detect_faces", found, {"Image": {"Bytes": b"x"}})  # checks it
            theirs.detect_faces(Image={"Bytes": b"x"})
        theirs.close()


# ---- moto, which verifies signatures on its own


@pytest.fixture(scope="module")
def moto_url() -> Iterator[tuple[str, dict[str, str]]]:
    """moto's server, with one user who may do anything, and the keys of that user."""
    pytest.importorskip("moto.server", reason="the extra providers-test is not installed")
    from moto import settings as moto_settings
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.iam.models import iam_backends
    from moto.rekognition.responses import RekognitionResponse
    from moto.server import ThreadedMotoServer

    iam = iam_backends[DEFAULT_ACCOUNT_ID]["aws"]
    iam.create_user(region_name="us-east-1", user_name="camera")
    policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*"}]}
    policy["Statement"][0]["Resource"] = "*"  # type: ignore[index]
    iam.put_user_policy("camera", "all", json.dumps(policy))
    key = iam.create_access_key(user_name="camera")
    keys = {"access_key_id": key.access_key_id, "secret_access_key": key.secret_access_key}
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moto_settings, "INITIAL_NO_AUTH_ACTION_COUNT", 0.0)
        # moto has no DetectFaces; what matters here lies before it.
        found = json.dumps({"FaceDetails": []})
        patch.setattr(RekognitionResponse, "detect_faces", lambda _: found, raising=False)
        server.start()
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}/", keys
        server.stop()


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({}, 200, None),
        ({"secret_access_key": "another"}, 403, "SignatureDoesNotMatch"),
        ({"access_key_id": "AKIUNKNOWN"}, 403, "InvalidClientTokenId"),
        ({"body": b"tampered"}, 403, "SignatureDoesNotMatch"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_moto_accepts_our_signature_and_refuses_a_wrong_one(
    moto_url: tuple[str, dict[str, str]], change: dict[str, Any], status: int, code: str | None
) -> None:
    url, keys = moto_url
    protocol = AwsRekognition(region="eu-west-1")
    asked = protocol.encode((picture(jpeg()),), DetectParams())
    made = signed(
        HttpRequest(url=url, headers=asked.headers, body=asked.body),
        **(keys | {name: text for name, text in change.items() if name != "body"}),
        session_token=None,
        region="eu-west-1",
        service="rekognition",
        now_s=time.time(),
    )
    body = change.get("body", made.body)
    answer = httpx.post(url, headers=dict(made.headers), content=body, trust_env=False)
    assert answer.status_code == status
    response = HttpResponse(
        status=answer.status_code, headers=dict(answer.headers), body=answer.content
    )
    if code is None:
        assert len(protocol.decode(response, (PICTURE,))) == 1
    else:
        assert code in answer.text
        with pytest.raises(BackendResponseError) as caught:
            protocol.decode(response, (PICTURE,))
        assert caught.value.is_configuration

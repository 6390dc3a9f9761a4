"""The reference page of the wire format says what the code does, table by table."""

from __future__ import annotations

import ast
import json
import re
import struct
from datetime import UTC, datetime
from pathlib import Path

import pytest

import hybrid_detect.server
from hybrid_detect.backends.remote import close_codes
from hybrid_detect.backends.remote.remote_backend import MAX_REPLY_BYTES
from hybrid_detect.errors import ProtocolError
from hybrid_detect.exchange import batch, envelope, sealing, wire, wire_values
from hybrid_detect.exchange.envelope import Kind, RequestHeader
from hybrid_detect.exchange.keys import PrivateKey, Suite
from hybrid_detect.exchange.model_info import MODEL_INFO_HEADER, ModelInfo
from hybrid_detect.exchange.wire import DetectRequest, ErrorReply, ResultReply
from hybrid_detect.server.app import create_app
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.server.gate import PUBLIC_PATHS
from hybrid_detect.types import KEYPOINT_NAMES, BoundingBox, Face, Keypoint, QualityLevel

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "wire-format.md").read_text("utf-8")


def tables(heading: str) -> list[list[list[str]]]:
    """The tables below `heading`, as rows of cells without their code marks."""
    section = re.split(rf"^#+ {re.escape(heading)}$", PAGE, flags=re.MULTILINE)[1]
    section = re.split(r"^#+ ", section, flags=re.MULTILINE)[0]
    found = []
    for block in re.findall(r"(?:^\|.*\n)+", section, re.MULTILINE):
        lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in block.splitlines()]
        found.append([[cell.replace("`", "") for cell in line] for line in lines[2:]])
    return found


def column(heading: str, number: int = 0, *, table: int = 0) -> list[str]:
    return [row[number] for row in tables(heading)[table]]


def header_of(message: bytes) -> dict[str, object]:
    (length,) = struct.unpack_from(">I", message, 8)
    return json.loads(message[12 : 12 + length])  # type: ignore[no-any-return]


FACE = Face(BoundingBox(1, 2, 3, 4), 0.5, tuple(Keypoint(name, 1, 2) for name in KEYPOINT_NAMES))
REQUEST = wire.encode_request(
    DetectRequest(
        request_id=7,
        image=b"x",
        min_confidence=0.5,
        deadline_s=1.0,
        session_id="s",
        quality=QualityLevel.MAX,
        second_look=True,
        traceparent=f"00-{'ab' * 16}-{'cd' * 8}-01",
        tracestate="vendor=1",
    )
)
RESULT = wire.encode_reply(
    ResultReply(
        request_id=7,
        width=4,
        height=3,
        faces=(FACE,),
        model="m",
        receive_s=0.1,
        queue_s=0.2,
        detect_s=0.3,
        min_confidence=0.5,
        quality="high",
        min_face_px=12.5,
        number=9,
        at_s=1.8e9,
    )
)
ERROR = wire.encode_reply(
    ErrorReply(request_id=7, status=503, code="c", detail="d", retry_after_s=1.0)
)


@pytest.mark.parametrize(
    ("heading", "message"), [("Detect", REQUEST), ("Result", RESULT), ("Error", ERROR)]
)
def test_every_field_of_a_header_is_on_the_page(heading: str, message: bytes) -> None:
    assert sorted(column(heading)) == sorted(header_of(message))


def test_every_field_of_a_face_is_on_the_page() -> None:
    faces = header_of(RESULT)["faces"]
    assert isinstance(faces, list)
    assert column("Result", table=1) == list(faces[0])
    for name in KEYPOINT_NAMES:
        assert f"`{name}`" in PAGE


def test_required_fields_and_defaults_are_as_the_decoder_has_them() -> None:
    for heading, message in (("Detect", REQUEST), ("Result", RESULT), ("Error", ERROR)):
        for name, _, default, *_ in tables(heading)[0]:
            header = header_of(message)
            del header[name]
            text = json.dumps(header).encode()
            without = message[:8] + struct.pack(">I", len(text)) + text
            without += b"x" if heading == "Detect" else b""
            decode = wire.decode_request if heading == "Detect" else wire.decode_reply
            if default == "required":
                with pytest.raises(ProtocolError):
                    decode(without)
            else:
                value = getattr(decode(without), name)
                told = "false" if value is False else str(value or "none")
                assert told in {default, "none" if default == "empty" else default}


def test_what_a_server_tells_of_its_model_is_on_the_page() -> None:
    info = ModelInfo(
        name="m", quality="high", qualities=("high",), side_px=1, picture_bytes=1, recall=()
    )
    assert column("What the server tells of its model") == list(info.to_values())
    assert MODEL_INFO_HEADER in PAGE
    for header in (
        wire.IN_FLIGHT_HEADER,
        wire.RESUME_HEADER,
        wire.AWAITS_HEADER,
        wire.HAS_HEADER,
    ):
        assert header in PAGE
    for level in QualityLevel:
        assert f"`{level}`" in PAGE


def test_the_preamble_and_the_types_are_on_the_page() -> None:
    rows = tables("A message")
    assert [(int(offset), int(size)) for offset, size, _ in rows[0]] == [
        (0, 2),
        (2, 1),
        (3, 1),
        (4, 4),
        (8, 4),
    ]
    assert struct.calcsize(wire._PREAMBLE.format) == 12
    assert wire._PREAMBLE.format == ">2sBBII" == envelope._PREAMBLE.format
    numbers = {name: int(number) for number, name, *_ in rows[1]}
    assert numbers == {"detect": 1, "result": 2, "error": 3, "announcement": 4}
    announcement = wire.encode_announcement(7)
    for name, message in (
        ("detect", REQUEST),
        ("result", RESULT),
        ("error", ERROR),
        ("announcement", announcement),
    ):
        assert message[:2] == b"HD"
        assert (message[2], message[3]) == (1, numbers[name])
        assert struct.unpack_from(">I", message, 4) == (7,)
    assert len(announcement) == 12
    assert f"at most {wire.MAX_REQUEST_HEADER_BYTES} of a request" in PAGE
    assert f"{wire.MAX_REPLY_HEADER_BYTES} of a reply" in PAGE
    assert f"at most {wire.MAX_FACES}:" in PAGE
    assert f"at most {wire_values.MAX_TEXT_CHARS} characters" in PAGE
    assert f"at most {MAX_REPLY_BYTES // 2**20} MiB" in PAGE


def test_every_path_and_content_type_is_on_the_page() -> None:
    app = create_app(ServerConfig())
    served = {route.path.replace(":path", "") for route in app.routes}  # type: ignore[attr-defined]
    named = set(column("Paths", 1))
    assert named <= served
    assert {path for path in served if "session" not in path and "history" not in path} <= named
    for path in PUBLIC_PATHS:
        assert path in named
    assert {wire.DETECT_PATH, wire.STREAM_PATH, wire.HEALTH_PATH, envelope.KEYS_PATH} <= named
    assert column("Content types") == [
        wire.CONTENT_TYPE,
        envelope.SEALED_CONTENT_TYPE,
        batch.BATCH_CONTENT_TYPE,
        "application/json",
    ]
    assert wire.SUBPROTOCOL in PAGE
    assert wire.CREDENTIAL_ENDED in PAGE


def status_and_code(call: ast.Call) -> tuple[int, str] | None:
    """Status and code of a call that makes an error's reply, where they are written out."""
    name = call.func.id if isinstance(call.func, ast.Name) else ""
    if name in {"error_reply", "_refused"}:
        found: list[ast.expr] = call.args[1:3]
    elif name == "ErrorReply":
        found = [word.value for word in call.keywords if word.arg in {"status", "code"}]
    else:
        return None
    values = [node.value for node in found if isinstance(node, ast.Constant)]
    return (values[0], values[1]) if len(values) == 2 else None  # type: ignore[return-value]


def test_every_code_of_the_server_is_on_the_page() -> None:
    made = set()
    for path in Path(hybrid_detect.server.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and (pair := status_and_code(node)):
                made.add(pair)
    assert len(made) > 15
    rows = {(int(status), code) for status, code, _ in tables("Status and code")[0]}
    assert rows == made


def test_every_close_code_is_on_the_page() -> None:
    known = {str(code): str(status) for code, (status, _) in close_codes._STATUS.items()}
    known |= dict.fromkeys(map(str, close_codes._NO_STATUS), "none")
    assert {code: status for code, status, _ in tables("Close codes of the stream")[0]} == known


def test_the_sealed_messages_are_on_the_page() -> None:
    kinds, header, suites, key_fields = tables("A sealed message")
    assert [int(row[0]) for row in kinds] == list(Kind)
    encoded = RequestHeader(
        suite=1, key_id="0102030405060708", sealed_at_ms=9, nonce=bytes(16)
    ).encoded()
    offset = 12
    for at, size, _ in header:
        assert int(at) == offset
        offset += int(size)
    assert offset - 12 == len(encoded) == 33
    assert {name: int(number) for number, name, _ in suites} == {
        suite.value: suite.code for suite in Suite
    }
    key = PrivateKey.generate(Suite.X25519_CHACHA20, datetime(2099, 1, 1, tzinfo=UTC)).public
    assert [row[0] for row in key_fields] == list(key.to_json())
    assert f"{sealing.REPLY_NONCE_BYTES} bytes of nonce" in PAGE
    assert f"multiple of {sealing.REPLY_STEP_BYTES} bytes" in PAGE
    assert f"key of {sealing.REPLY_KEY_BYTES} bytes for the reply" in PAGE
    assert f"at most {envelope.MAX_KEYS_BYTES} bytes" in PAGE
    assert f"last {sealing.TAG_BYTES} bytes of the request" in PAGE

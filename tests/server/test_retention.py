import io
import json
import logging
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from starlette.requests import HTTPConnection
from websockets.sync.client import connect

from hybrid_detect.errors import ConfigurationError, StorageError
from hybrid_detect.exchange.key_files import write_key_file
from hybrid_detect.exchange.key_ring import KeyRing
from hybrid_detect.exchange.keys import PrivateKey, Suite
from hybrid_detect.exchange.sealer import Sealer
from hybrid_detect.exchange.wire import (
    CONTENT_TYPE,
    SUBPROTOCOL,
    DetectRequest,
    encode_request,
)
from hybrid_detect.server import retention, shared_state
from hybrid_detect.server.api_keys import ApiKeyFile
from hybrid_detect.server.app import create_app
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.server.gate import CALLER
from hybrid_detect.server.openapi import openapi
from hybrid_detect.storage.history import DetectionHistory

from .loopback import OneFace, jpeg, served_beside

FACE_VALUES = {"box": {"x_min": 1, "y_min": 2, "x_max": 30, "y_max": 40}, "score": 0.9}

TOKEN = "a-token-for-these-tests"
PICTURE = jpeg()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history.db"


Serve = Callable[..., AbstractContextManager[httpx.Client]]


@pytest.fixture
def serve(path: Path) -> Serve:
    @contextmanager
    def made(**options: Any) -> Iterator[httpx.Client]:
        config = ServerConfig(**{"auth_token": TOKEN, "history_path": path, **options})
        with served_beside(config) as server:
            url = f"http://127.0.0.1:{server.port}"
            with httpx.Client(base_url=url, headers=bearer(TOKEN), trust_env=False) as client:
                yield client

    return made


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def message(session: str | None) -> bytes:
    return encode_request(DetectRequest(request_id=1, image=PICTURE, session_id=session))


def detect(client: httpx.Client, session: str | None, **headers: str) -> None:
    reply = client.post(
        "/v1/detect", content=message(session), headers={"Content-Type": CONTENT_TYPE, **headers}
    )
    assert reply.status_code == 200


def exported(client: httpx.Client, session: str, **headers: str) -> list[dict[str, Any]]:
    reply = client.get(f"/v1/sessions/{session}/export", headers=headers)
    if reply.status_code == 404:
        return []
    assert reply.status_code == 200, reply.text
    with zipfile.ZipFile(io.BytesIO(reply.content)) as bundle:
        assert bundle.testzip() is None
        results: list[dict[str, Any]] = json.loads(bundle.read("results.json"))["results"]
        for each in results:
            if each["image"]:
                each["image"] = bundle.read(each["image"])
        return results


# -- what is kept ----------------------------------------------------------------------------


def test_by_default_nothing_is_kept(serve: Serve, path: Path) -> None:
    with serve(history_path=None) as client:
        detect(client, "ann")
        assert client.get("/v1/sessions/ann/export").status_code == 404
        assert client.delete("/v1/sessions/ann").status_code == 404
    assert list(path.parent.iterdir()) == []


def test_results_are_kept_and_pictures_are_not_unless_asked_for(serve: Serve, path: Path) -> None:
    with serve() as client:
        detect(client, "ann")
        (kept,) = exported(client, "ann")
    assert kept["result"]["faces"] == [
        {"box": {"x_min": 1, "y_min": 2, "x_max": 30, "y_max": 40}, "score": 0.9}
    ]
    assert kept["image"] is None
    assert PICTURE not in path.read_bytes()


def test_asking_for_an_export_s_head_is_no_export(serve: Serve, path: Path) -> None:
    with serve() as client:
        detect(client, "ann")
        exported(client, "ann")
        assert client.head("/v1/sessions/ann/export").status_code == 200
        assert client.head("/v1/sessions/bob/export").status_code == 404
    with DetectionHistory(path) as kept:
        assert [line.action for line in kept.audit()] == ["exported"]


def test_pictures_are_kept_if_asked_for(serve: Serve) -> None:
    with serve(history_images=True) as client:
        detect(client, "ann")
        (kept,) = exported(client, "ann")
    assert kept["image"] == PICTURE


def test_what_has_no_session_is_not_kept_nor_an_error(
    serve: Serve, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with serve(history_images=True) as client:
        detect(client, None)
        detect(client, "")
        assert client.post("/v1/detect", content=PICTURE).status_code == 200
    with DetectionHistory(path, sweeps=False) as kept, kept._file.reading() as db:
        assert db.execute("SELECT count(*) FROM records").fetchone() == (0,)
    assert "not being kept" not in caplog.text


def test_a_stream_s_results_are_kept_too(serve: Serve) -> None:
    with serve() as client:
        url = f"{client.base_url}/v1/stream".replace("http", "ws").replace("//v1", "/v1")
        with connect(
            url, subprotocols=[SUBPROTOCOL], additional_headers=bearer(TOKEN), proxy=None
        ) as stream:
            stream.send(message("ann"))
            stream.recv(5)
        assert len(exported(client, "ann")) == 1


def test_the_session_of_a_sealed_request_is_the_one_inside(serve: Serve, tmp_path: Path) -> None:
    private = PrivateKey.generate(Suite.X25519_CHACHA20, datetime.now(UTC) + timedelta(days=1))
    write_key_file(tmp_path / "keys", KeyRing((private,)))
    with serve(keys_path=tmp_path / "keys") as client:
        sealed = Sealer(private.public).seal(message("ann"))
        assert client.post("/v1/detect", content=sealed.data).status_code == 200
        assert len(exported(client, "ann")) == 1
    with serve(keys_path=tmp_path / "keys", require_encryption=True) as client:
        refused = client.get("/v1/sessions/ann/export")
        assert (refused.status_code, refused.json()["code"]) == (403, "encryption_required")
        assert client.delete("/v1/sessions/ann").json() == {"results": 1, "images": 0}


# -- for how long ----------------------------------------------------------------------------


def test_a_start_deletes_what_has_expired(serve: Serve, path: Path) -> None:
    long_ago = datetime(2020, 1, 1, tzinfo=UTC).timestamp()
    with DetectionHistory(path, clock=lambda: long_ago, sweeps=False) as kept:
        kept.add({}, session="ann", owner="token", image=b"CANARY" * 500)
    with serve() as client:
        assert exported(client, "ann") == []
        assert b"CANARY" not in b"".join(file.read_bytes() for file in path.parent.iterdir())


def test_the_limits_are_the_configuration_s(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    class Recording(DetectionHistory):
        def __init__(self, path: Path, **options: Any) -> None:
            seen.update(options)
            super().__init__(path, **options)

    monkeypatch.setattr(shared_state, "DetectionHistory", Recording)
    with serve(history_retention_s=60.0, history_max_bytes=1_000_000):
        assert seen == {"retention_s": 60.0, "max_bytes": 1_000_000}


# -- export and erasure ----------------------------------------------------------------------


def test_an_erasure_takes_everything_answered_before_it(serve: Serve, path: Path) -> None:
    with serve(history_images=True) as client:
        for _ in range(5):
            detect(client, "ann")
        detect(client, "bob")
        assert client.delete("/v1/sessions/ann").json() == {"results": 5, "images": 5}
        assert exported(client, "ann") == []
        assert client.delete("/v1/sessions/ann").json() == {"results": 0, "images": 0}
        assert len(exported(client, "bob")) == 1
    with DetectionHistory(path, sweeps=False) as kept:
        actions = [(line.action, line.who, line.results) for line in kept.audit()]
    assert actions == [("erased", "token", 5), ("erased", "token", 0), ("exported", "token", 1)]


@pytest.mark.parametrize(
    ("method", "address"), [("GET", "/v1/sessions/ann/export"), ("DELETE", "/v1/sessions/ann")]
)
@pytest.mark.parametrize("token", ["wrong", f"{TOKEN}x"])
def test_without_the_token_there_is_neither(
    serve: Serve, method: str, address: str, token: str
) -> None:
    with serve() as client:
        detect(client, "ann")
        assert client.request(method, address, headers=bearer(token)).status_code == 401
        assert len(exported(client, "ann")) == 1


def test_each_key_reaches_its_own_sessions_alone(serve: Serve, tmp_path: Path) -> None:
    keys = ApiKeyFile(tmp_path / "keys.json")
    one, two = bearer(keys.add("one")), bearer(keys.add("two"))
    with serve(api_keys=tmp_path / "keys.json") as client:
        detect(client, "ann", **one)
        for other in (two, bearer(TOKEN)):
            assert exported(client, "ann", **other) == []
            assert client.delete("/v1/sessions/ann", headers=other).json()["results"] == 0
        assert len(exported(client, "ann", **one)) == 1
        assert client.delete("/v1/sessions/ann", headers=one).json()["results"] == 1


@pytest.mark.parametrize(
    ("caller", "owner"),
    [
        ("key 1f", "key 1f"),
        ("subject ann", "subject ann"),
        ("token 10.0.0.1", "token"),
        ("token 10.0.0.2", "token"),
        ("peer 127.0.0.1", "token"),
    ],
)
def test_an_owner_is_who_the_credential_says_wherever_it_comes_from(
    caller: str, owner: str
) -> None:
    assert retention.owner_of(HTTPConnection({"type": "http", CALLER: caller})) == owner


def test_without_a_gate_in_front_nobody_owns_another_s_sessions() -> None:
    assert retention.owner_of(HTTPConnection({"type": "http"})) == "token"


@pytest.mark.parametrize("session", ["a/b", "a/export", "\u00e4 b", "a%2Fb", "..a", "'--"])
def test_any_session_can_be_named_in_the_path(serve: Serve, session: str) -> None:
    with serve() as client:
        detect(client, session)
        assert len(exported(client, quote(session, safe=""))) == 1
        erased = client.delete(f"/v1/sessions/{quote(session, safe='')}")
        assert erased.json()["results"] == 1


@pytest.mark.parametrize("session", ["", "x" * 1025])
def test_what_cannot_be_a_session_is_a_bad_request(serve: Serve, session: str) -> None:
    with serve() as client:
        for reply in (
            client.get(f"/v1/sessions/{session}/export"),
            client.delete(f"/v1/sessions/{session}"),
        ):
            assert reply.status_code == 400
            assert reply.json()["code"] == "bad_request"


def test_an_export_is_not_to_be_stored_on_the_way(serve: Serve) -> None:
    with serve() as client:
        detect(client, "ann")
        reply = client.get("/v1/sessions/ann/export")
    assert reply.headers["Content-Type"] == "application/zip"
    assert reply.headers["Cache-Control"] == "no-store"
    assert "attachment" in reply.headers["Content-Disposition"]


def test_the_description_tells_of_both_where_something_is_kept(path: Path) -> None:
    described = {
        name for name in openapi(ServerConfig(history_path=path))["paths"] if "sess" in name
    }
    app = create_app(ServerConfig(history_path=path), OneFace())
    served = {str(route.path).replace(":path", "") for route in app.routes}  # type: ignore[attr-defined]
    assert described == {name for name in served if "sess" in name}
    live = "/v1/sessions/{session}/live"
    assert described - {live} == {"/v1/sessions/{session}", "/v1/sessions/{session}/export"}
    without = openapi(ServerConfig())["paths"]
    assert [name for name in without if "sess" in name] == [live], "nothing is kept for it"


@pytest.mark.parametrize(
    "options",
    [
        {"history_retention_s": 0.0},
        {"history_retention_s": float("inf")},
        {"history_max_bytes": 1000},
        {"history_path": None, "history_images": True},
    ],
)
def test_an_unclear_configuration_is_refused(path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="history"):
        ServerConfig(**{"history_path": path, **options})


# -- faults ----------------------------------------------------------------------------------


def test_a_disk_that_fails_costs_no_answer_and_is_told_once(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*arguments: Any, **options: Any) -> int:
        msg = "the disk is full"
        raise StorageError(msg)

    with serve() as client:
        monkeypatch.setattr(DetectionHistory, "add", full)
        monkeypatch.setattr(DetectionHistory, "erase", full)
        for _ in range(3):
            detect(client, "ann-canary")
        failed = client.delete("/v1/sessions/ann-canary")
    assert (failed.status_code, failed.json()["code"]) == (503, "storage_failed")
    errors = [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR]
    assert errors == [
        "results are not being kept: the disk is full",
        "a session could not be exported or erased: the disk is full",
    ]
    assert "ann-canary" not in caplog.text


def test_a_disk_that_is_too_slow_costs_results_but_neither_answers_nor_memory(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    go_on = threading.Event()
    add = DetectionHistory.add

    def slow(self: DetectionHistory, *arguments: Any, **options: Any) -> int:
        assert go_on.wait(10)
        return add(self, *arguments, **options)

    monkeypatch.setattr(DetectionHistory, "add", slow)
    with serve() as client:
        for _ in range(retention.MAX_WAITING + 5):
            detect(client, "ann")
        go_on.set()
        assert len(exported(client, "ann")) == retention.MAX_WAITING
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR] == [
        "results are not being kept: the disk does not follow"
    ]


def test_a_bug_in_keeping_is_seen_in_the_log(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*arguments: Any, **options: Any) -> int:
        raise KeyError

    with serve() as client:
        monkeypatch.setattr(DetectionHistory, "add", broken)
        detect(client, "ann")
        assert exported(client, "ann") == []
    assert "failed with a bug" in caplog.text


@pytest.mark.anyio
async def test_a_server_does_not_start_with_a_file_that_is_no_history(path: Path) -> None:
    path.write_bytes(b"somebody's thesis" * 100)
    app = create_app(ServerConfig(auth_token=TOKEN, history_path=path), OneFace())
    with pytest.raises(StorageError):
        async with app.router.lifespan_context(app):
            pass
    assert path.read_bytes() == b"somebody's thesis" * 100

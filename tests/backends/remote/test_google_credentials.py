"""Google credentials by google-auth: in a thread, bounded, renewed, and without a word of them."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from typing import Any

import pytest

from hybrid_detect.backends.remote import google_credentials, renewal
from hybrid_detect.backends.remote.google_credentials import GoogleCredentials
from hybrid_detect.backends.remote.protocol import HttpRequest
from hybrid_detect.backends.remote.provider_access import credentials_for
from hybrid_detect.backends.remote.providers.google import GoogleVision
from hybrid_detect.errors import (
    BackendResponseError,
    BackendUnavailableError,
    MissingExtraError,
    Refusal,
)
from hybrid_detect.testing.provider_servers import (
    Answer,
    Failure,
    ProviderServer,
    ReceivedRequest,
)
from hybrid_detect.testing.provider_servers.base import json_answer

REQUEST = HttpRequest(url="https://vision.googleapis.com/v1/images:annotate", body=b"{}")
NOW_S = 1_795_000_000.0


async def headers(credentials: GoogleCredentials, request: HttpRequest = REQUEST) -> dict[str, str]:
    await credentials.prepare(now_s=NOW_S)
    return dict(credentials.apply(request, now_s=NOW_S).headers)


def test_without_google_auth_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(google_credentials, "_is_installed", lambda: False)
    monkeypatch.setitem(sys.modules, "google.auth", None)
    with pytest.raises(MissingExtraError, match=r"give api_key or auth_token.*\[google\]"):
        credentials_for(GoogleVision())


class TokenServer(ProviderServer):
    """An OAuth token endpoint, as far as google-auth asks one."""

    given = 0

    def answer(self, request: ReceivedRequest) -> Answer:
        self.given += 1
        return json_answer({"access_token": f"token-{self.given}", "expires_in": 3600})

    def error_answer(self, status: int, code: str, message: str) -> Answer:
        return json_answer({"error": code, "error_description": "canary"}, status)


@pytest.fixture
def auth() -> Any:
    return pytest.importorskip("google.auth", reason="the extra google is not installed")


def of_a_person(server: TokenServer) -> Any:
    from google.oauth2.credentials import Credentials

    return Credentials(
        None,
        refresh_token="canary-refresh",
        token_uri=f"{server.url}/token",
        client_id="client",
        client_secret="canary-secret",
        quota_project_id="my-project",
    )


@pytest.mark.anyio
async def test_a_persons_token_is_got_in_a_thread_and_charged_to_their_project(auth: Any) -> None:
    with TokenServer() as server:
        credentials = GoogleCredentials(of_a_person(server))
        first = await headers(credentials)
        assert first["Authorization"] == "Bearer token-1"
        assert first["X-Goog-User-Project"] == "my-project"
        assert await headers(credentials) == first
        named = HttpRequest(url="", headers={"X-Goog-User-Project": "another"})
        assert (await headers(credentials, named))["X-Goog-User-Project"] == "another"
        assert credentials.on_refused(BackendResponseError(refusal=Refusal.UNAUTHENTICATED))
        assert (await headers(credentials))["Authorization"] == "Bearer token-2"
    assert len(server.requests) == 2
    assert "token-" not in repr(credentials)


@pytest.mark.anyio
@pytest.mark.parametrize(
    "failure", [Failure(400, "invalid_grant"), Failure(500, body=b"canary"), Failure(hangs_up=True)]
)
async def test_a_token_that_cannot_be_had_is_told_without_the_servers_words(
    auth: Any, failure: Failure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)  # google-auth waits between its attempts
    with TokenServer() as server:
        server.fail_always(failure)
        with pytest.raises(BackendUnavailableError) as caught:
            await headers(GoogleCredentials(of_a_person(server)))
    assert "canary" not in f"{caught.value} {caught.value.__cause__}"


@pytest.mark.anyio
async def test_a_redirect_takes_no_token_to_another_host(auth: Any) -> None:
    with TokenServer() as elsewhere, TokenServer() as server:
        target = elsewhere.url.replace("127.0.0.1", "localhost")
        server.fail_always(Failure(302, headers={"Location": f"{target}/token"}))
        for method, body in (("GET", None), ("POST", b"assertion=canary")):
            headers = {"Authorization": "Bearer canary"}
            answer = google_credentials._send(f"{server.url}/token", method, body, headers)
            assert answer.status == 302
        with pytest.raises(BackendUnavailableError) as caught:
            await GoogleCredentials(of_a_person(server)).prepare(now_s=NOW_S)
    assert not elsewhere.requests
    assert "canary" not in str(caught.value)


@pytest.mark.anyio
async def test_a_service_account_signs_its_token_and_asks_no_server(auth: Any) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa
    from google.oauth2 import service_account

    key = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    account = service_account.Credentials.from_service_account_info(
        {
            "client_email": "camera@my-project.iam.gserviceaccount.com",
            "token_uri": "http://127.0.0.1:1/token",
            "private_key": key.decode(),
        }
    )
    authorization = (await headers(GoogleCredentials(account)))["Authorization"]
    from google.auth import jwt

    claims = jwt.decode(authorization.removeprefix("Bearer "), verify=False)
    assert claims["scope"] == google_credentials.SCOPE


@pytest.mark.anyio
async def test_the_default_look_up_runs_in_a_thread(
    auth: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []

    def default(**_: Any) -> Any:
        threads.append(threading.current_thread().name)
        raise auth.exceptions.DefaultCredentialsError("canary")

    monkeypatch.setattr(auth, "default", default)
    with pytest.raises(BackendUnavailableError, match="GOOGLE_APPLICATION_CREDENTIALS") as caught:
        await headers(GoogleCredentials())
    assert "canary" not in str(caught.value)
    assert threads != [threading.main_thread().name]


@pytest.mark.anyio
async def test_a_look_up_that_never_ends_is_given_up(
    auth: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()
    monkeypatch.setattr(auth, "default", lambda **_: release.wait(60))
    monkeypatch.setattr(renewal, "FETCH_S", 0.05)
    try:
        with pytest.raises(BackendUnavailableError, match="TimeoutError"):
            await asyncio.wait_for(headers(GoogleCredentials()), 30)
    finally:
        release.set()


@pytest.mark.anyio
async def test_a_file_named_by_the_environment_is_found(
    auth: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with TokenServer() as server:
        path = tmp_path / "credentials.json"
        path.write_text(
            json.dumps(
                {
                    "type": "authorized_user",
                    "client_id": "client",
                    "client_secret": "canary",
                    "refresh_token": "canary",
                }
            )
        )
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
        monkeypatch.setattr(
            "google.oauth2.credentials._GOOGLE_OAUTH2_TOKEN_ENDPOINT", f"{server.url}/token"
        )
        assert (await headers(GoogleCredentials()))["Authorization"] == "Bearer token-1"

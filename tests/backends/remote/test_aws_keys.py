"""AWS keys from the environment and from profile files, and what is said when there are none."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_detect.backends.remote import aws_credentials
from hybrid_detect.backends.remote.aws_credentials import AwsCredentials
from hybrid_detect.backends.remote.aws_keys import AwsKeys, keys_found
from hybrid_detect.backends.remote.protocol import HttpRequest
from hybrid_detect.errors import (
    BackendResponseError,
    BackendUnavailableError,
    ConfigurationError,
    Refusal,
)

from ...waiting import until

REQUEST = HttpRequest(url="https://rekognition.eu-west-1.amazonaws.com/", body=b"{}")
NOW_S = 1_800_000_000.0

CREDENTIALS = """
[default]
aws_access_key_id = AKIDEFAULT
aws_secret_access_key = canary/secret+of==default

[work]
aws_access_key_id=AKIWORK
aws_secret_access_key=canary-secret-of-work
aws_session_token=canary-token-of-work
"""

CONFIG = """
[default]
region = eu-west-1

[profile plain]
aws_access_key_id = AKIPLAIN
aws_secret_access_key = canary-secret-of-plain

[profile role]
role_arn = arn:aws:iam::123456789012:role/canary
source_profile = work

[profile half]
aws_access_key_id = AKIHALF
"""


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "credentials").write_text(CREDENTIALS)
    (tmp_path / "config").write_text(CONFIG)
    return {
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"),
        "AWS_CONFIG_FILE": str(tmp_path / "config"),
    }


def test_the_environment_comes_first(environ: dict[str, str]) -> None:
    environ |= {
        "AWS_ACCESS_KEY_ID": "AKIENV",
        "AWS_SECRET_ACCESS_KEY": "s",
        "AWS_SESSION_TOKEN": "t",
        "AWS_CREDENTIAL_EXPIRATION": "2027-01-15T08:00:00Z",
    }
    keys = keys_found(environ=environ)
    assert (keys.access_key_id, keys.session_token) == ("AKIENV", "t")
    assert keys.ends_at_s == NOW_S
    assert keys_found("work", environ=environ).access_key_id == "AKIWORK"


@pytest.mark.parametrize(
    ("profile", "variable", "key", "token"),
    [
        (None, "", "AKIDEFAULT", None),
        (None, "work", "AKIWORK", "canary-token-of-work"),
        ("work", "plain", "AKIWORK", "canary-token-of-work"),
        ("plain", "", "AKIPLAIN", None),
    ],
)
def test_profiles_are_found_in_both_files(
    environ: dict[str, str], profile: str | None, variable: str, key: str, token: str | None
) -> None:
    keys = keys_found(profile, environ=environ | {"AWS_PROFILE": variable})
    assert (keys.access_key_id, keys.session_token) == (key, token)
    assert "canary" not in repr(keys)


@pytest.mark.parametrize("mark", ["", "\N{ZERO WIDTH NO-BREAK SPACE}"])
@pytest.mark.parametrize(
    ("section", "profile"),
    [
        ('profile "at work"', "at work"),
        ("profile  work", "work"),
        ("profile\twork", "work"),
        ("profile default", None),
        ("default", None),
    ],
)
def test_the_config_files_sections_are_read_as_the_aws_cli_writes_them(
    tmp_path: Path, section: str, profile: str | None, mark: str
) -> None:
    text = f"{mark}[{section}]\naws_access_key_id = AKI\naws_secret_access_key = s\n"
    (tmp_path / "config").write_text(text, encoding="utf-8")
    environ = {"AWS_SHARED_CREDENTIALS_FILE": "/none", "AWS_CONFIG_FILE": f"{tmp_path}/config"}
    assert keys_found(profile, environ=environ).access_key_id == "AKI"
    with pytest.raises(BackendUnavailableError, match="no profile"):
        keys_found("another", environ=environ)


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        ("role", "by role_arn"),
        ("half", "of profile 'half': secret_access_key"),
        ("gone", "no profile 'gone' with keys"),
    ],
)
def test_keys_that_are_not_there_are_told_without_a_word_of_the_files(
    environ: dict[str, str], profile: str, message: str
) -> None:
    with pytest.raises(BackendUnavailableError, match=message) as caught:
        keys_found(profile, environ=environ)
    assert "canary" not in str(caught.value)


def test_without_files_the_places_are_named(tmp_path: Path) -> None:
    environ = {"AWS_SHARED_CREDENTIALS_FILE": f"{tmp_path}/none", "AWS_CONFIG_FILE": "/nowhere"}
    with pytest.raises(BackendUnavailableError, match="/none and /nowhere"):
        keys_found(environ=environ)


@pytest.mark.parametrize(
    "content",
    [b"canary-key\n", b"[default\ncanary", b"\xff\xfecanary", b"[default]\n[default]\ncanary=1"],
)
def test_a_damaged_file_is_told_without_its_words(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "credentials").write_bytes(content)
    environ = {"AWS_SHARED_CREDENTIALS_FILE": f"{tmp_path}/credentials"}
    with pytest.raises(BackendUnavailableError) as caught:
        keys_found(environ=environ)
    assert "canary" not in f"{caught.value} {caught.value.__cause__}"
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    "wrong",
    [
        {"access_key_id": ""},
        {"secret_access_key": "a b"},
        {"session_token": "canary\n"},
        {"secret_access_key": b"canary"},
        {"access_key_id": "é"},
    ],
)
def test_what_cannot_be_a_key_is_refused_at_construction(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        AwsKeys(**{"access_key_id": "A", "secret_access_key": "s"} | wrong)
    assert "canary" not in str(caught.value)


@given(st.text(max_size=60))
def test_no_text_of_a_file_does_harm(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("aws") / "credentials"
    path.write_text(text, encoding="utf-8")
    environ = {"AWS_SHARED_CREDENTIALS_FILE": str(path), "AWS_CONFIG_FILE": "/nowhere"}
    with pytest.raises(BackendUnavailableError):
        keys_found(environ=environ)


# ---- credentials


async def authorization(credentials: AwsCredentials, now_s: float = NOW_S) -> str:
    await credentials.prepare(now_s=now_s)
    return credentials.apply(REQUEST, now_s=now_s).headers["Authorization"]


@pytest.mark.anyio
async def test_files_are_read_in_a_thread_and_again_when_the_session_has_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads: list[str] = []
    given = iter(["AKIONE", "AKITWO"])

    def found(profile: str | None) -> AwsKeys:
        assert profile == "work"
        threads.append(threading.current_thread().name)
        return AwsKeys(access_key_id=next(given), secret_access_key="s", session_token="t")

    monkeypatch.setattr(aws_credentials, "keys_found", found)
    credentials = AwsCredentials(region="eu-west-1", profile="work")
    assert "AKIONE" in await authorization(credentials)
    assert "AKIONE" in await authorization(credentials)
    ended = BackendResponseError(refusal=Refusal.UNAUTHENTICATED)
    assert credentials.on_refused(ended)
    assert "AKITWO" in await authorization(credentials)
    assert not credentials.on_refused(BackendResponseError(refusal=Refusal.FORBIDDEN))
    assert threading.main_thread().name not in threads


@pytest.mark.anyio
async def test_keys_are_asked_for_before_they_end() -> None:
    asked: list[float] = []

    def give() -> AwsKeys:
        asked.append(0)
        return AwsKeys(access_key_id="A", secret_access_key="s", ends_at_s=NOW_S + 900)

    credentials = AwsCredentials(give, region="eu-west-1")
    for late_s in (0, 500, 860):
        await authorization(credentials, NOW_S + late_s)
    assert len(asked) == 1
    await authorization(credentials, NOW_S + 880)
    await until(lambda: len(asked) == 2)


@pytest.mark.anyio
async def test_a_clock_is_learned_only_where_the_server_tells_its_own() -> None:
    keys = AwsKeys(access_key_id="A", secret_access_key="s")
    credentials = AwsCredentials(keys, region="eu-west-1")
    await authorization(credentials)
    assert not credentials.on_refused(BackendResponseError(refusal=Refusal.CLOCK))
    later = BackendResponseError(refusal=Refusal.CLOCK, server_time_s=NOW_S + 3600)
    assert credentials.on_refused(later)
    signed = credentials.apply(REQUEST, now_s=NOW_S)
    assert signed.headers["X-Amz-Date"] == "20270115T090000Z"


@pytest.mark.anyio
@pytest.mark.parametrize("given", ["canary", 7, RuntimeError("canary"), None])
async def test_a_function_that_gives_no_keys_is_a_typed_error(given: Any) -> None:
    def give() -> Any:
        if isinstance(given, Exception):
            raise given
        return given

    with pytest.raises(BackendUnavailableError) as caught:
        await authorization(AwsCredentials(give, region="eu-west-1"))
    assert "canary" not in str(caught.value)


@pytest.mark.anyio
async def test_keys_that_are_refused_are_not_sent_again_but_looked_for_the_next_time() -> None:
    given = iter(("AKIOLD", "AKINEW"))
    credentials = AwsCredentials(
        lambda: AwsKeys(access_key_id=next(given), secret_access_key="s"), region="eu-west-1"
    )
    await credentials.prepare(now_s=NOW_S)
    assert not credentials.on_refused(BackendResponseError(refusal=Refusal.FORBIDDEN))
    await credentials.prepare(now_s=NOW_S)
    assert "AKINEW" in credentials.apply(REQUEST, now_s=NOW_S).headers["Authorization"]

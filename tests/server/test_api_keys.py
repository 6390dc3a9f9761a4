import contextlib
import hmac
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hybrid_detect.cli import main
from hybrid_detect.errors import ConfigurationError
from hybrid_detect.server import api_keys
from hybrid_detect.server.api_keys import ApiKeyFile


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


@pytest.fixture
def keys(path: Path) -> ApiKeyFile:
    return ApiKeyFile(path)


def changed(key: str, place: int) -> str:
    return key[:place] + ("B" if key[place] == "A" else "A") + key[place + 1 :]


def test_a_key_is_found_and_no_other(keys: ApiKeyFile) -> None:
    ann, bob = keys.add("Ann's phone"), keys.add("Bob")
    assert ann != bob
    for key, name in ((ann, "Ann's phone"), (bob, "Bob")):
        found = keys.find(key)
        assert found is not None
        assert found.name == name
    others = ["", "hdk_", ann[:-1], ann + "A", ann.upper(), f" {ann}", ann + "\n", changed(ann, 30)]
    # The id of one with the secret of the other, and an id that nobody has.
    others += [ann[:17] + bob[17:], "hdk_" + "0" * 12 + ann[16:]]
    for other in others:
        assert keys.find(other) is None, other


def test_the_file_holds_no_key_and_is_its_owner_s(keys: ApiKeyFile, path: Path) -> None:
    key = keys.add("Ann")
    assert len(key[17:]) > 40, "the secret behind the id"
    assert key[17:] not in path.read_text()
    assert path.stat().st_mode & 0o077 == 0
    assert list(path.parent.iterdir()) == [path]
    assert key[17:] not in repr(keys.read())
    assert "sha256" not in repr(keys.read())


def test_equal_keys_would_not_be_seen_to_be_equal(
    keys: ApiKeyFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secrets.token_urlsafe", lambda _: "A" * 43)
    keys.add("Ann")
    keys.add("Bob")
    ann, bob = keys.read()
    assert ann.sha256 != bob.sha256


def test_secrets_are_compared_in_constant_time_and_the_unknown_id_as_well(
    keys: ApiKeyFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = keys.add("Ann")
    lengths = []

    def compare(a: bytes, b: bytes) -> bool:
        lengths.append((len(a), len(b)))
        return a == b

    monkeypatch.setattr(hmac, "compare_digest", compare)
    for text in (key, changed(key, 20), changed(key, len(key) - 1), "hdk_" + "0" * 12 + key[16:]):
        keys.find(text)
    assert lengths == [(32, 32)] * 4


def test_a_running_server_notices_a_change(keys: ApiKeyFile, path: Path) -> None:
    administration = ApiKeyFile(path)
    ann = administration.add("Ann")
    assert keys.find(ann)
    bob = administration.add("Bob")
    assert keys.find(bob)
    administration.revoke(ann[4:16])
    assert keys.find(ann) is None
    assert keys.find(bob)


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"version": 1}', '{"keys": []}'])
def test_a_file_that_cannot_be_read_lets_nobody_in(
    keys: ApiKeyFile, path: Path, content: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    key = keys.add("Ann")
    good = path.read_text()
    assert keys.find(key)
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    for _ in range(3):
        assert keys.find(key) is None
    assert caplog.text.count("no API key is accepted") == 1
    path.write_text(good)
    assert keys.find(key)


def test_the_file_is_read_only_when_it_changed(
    keys: ApiKeyFile, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = keys.add("Ann")
    assert keys.find(key)
    monkeypatch.setattr(Path, "open", lambda *_, **__: pytest.fail("read again"))
    assert keys.find(key)


def entry(**changes: Any) -> dict[str, Any]:
    whole = {"id": "0" * 12, "name": "n", "created": "c", "salt": "00" * 16, "sha256": "00" * 32}
    return {**whole, **changes}


@pytest.mark.parametrize(
    "change",
    [
        {"id": "../../etc"},
        {"id": 7},
        {"name": None},
        {"salt": ""},
        {"salt": "zz"},
        {"salt": 5},
        {"sha256": "00"},
        {"sha256": None},
    ],
    ids=repr,
)
def test_a_broken_entry_is_a_clear_error(
    keys: ApiKeyFile, path: Path, change: dict[str, Any]
) -> None:
    path.write_text(json.dumps({"version": 1, "keys": [entry()]}))
    assert len(keys.read()) == 1
    path.write_text(json.dumps({"version": 1, "keys": [entry(**change)]}))
    with pytest.raises(ConfigurationError, match="no file of API keys"):
        keys.read()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.binary(max_size=200)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["version", "keys", "id", "salt"]), inner, max_size=4)
        ),
    ).map(lambda value: json.dumps(value).encode())
)
def test_whatever_is_in_the_file_is_keys_or_a_clear_error(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with contextlib.suppress(ConfigurationError):
        assert ApiKeyFile(path).read() == ()


def test_commands_at_the_same_time_lose_nothing(keys: ApiKeyFile, path: Path) -> None:
    threads = [threading.Thread(target=ApiKeyFile(path).add, args=("one",)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(keys.read()) == 8
    assert list(path.parent.iterdir()) == [path]


def test_a_killed_command_blocks_no_revocation(keys: ApiKeyFile, path: Path) -> None:
    key = keys.add("Ann")
    code = (
        "import os, sys; from pathlib import Path\n"
        "from hybrid_detect.server.api_keys import ApiKeyFile\n"
        "from hybrid_detect.storage import private_files\n"
        "private_files.os.fsync = lambda _: os.kill(os.getpid(), 9)\n"
        "ApiKeyFile(Path(sys.argv[1])).add('Bob')\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], timeout=30)
    assert done.returncode == -signal.SIGKILL
    assert len(list(path.parent.iterdir())) == 3, "a lock and an unfinished file"
    keys.revoke(key[4:16])
    assert keys.read() == ()
    assert list(path.parent.iterdir()) == [path]


def test_a_start_removes_what_a_killed_command_left(path: Path) -> None:
    (path.parent / ".hybrid-detect-0123456789abcdef.part").write_text("half")
    ApiKeyFile(path)
    assert list(path.parent.iterdir()) == []


@pytest.mark.skipif(
    os.name != "posix" or os.geteuid() != 0, reason="only root can give files to other users"
)
def test_administration_by_root_leaves_the_file_to_the_server(keys: ApiKeyFile, path: Path) -> None:
    os.chown(path.parent, 1234, 4321)  # the server's own folder
    keys.add("Ann")
    assert (path.stat().st_uid, path.stat().st_mode & 0o777) == (1234, 0o600)
    os.chown(path, 1234, 99)
    path.chmod(0o640)
    key = keys.add("Bob")
    keys.revoke(key[4:16])
    found = path.stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (1234, 99, 0o640)


def test_more_keys_than_can_be_read_again_are_refused(
    keys: ApiKeyFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = keys.add("Ann")
    monkeypatch.setattr(api_keys, "MAX_FILE_BYTES", 400)
    with pytest.raises(ConfigurationError, match="full, at 2 keys"):
        keys.add("Bob")
    assert keys.find(key)


def test_a_failed_change_leaves_the_file_as_it_was(keys: ApiKeyFile, path: Path) -> None:
    keys.add("Ann")
    before = path.read_bytes()
    with pytest.raises(ConfigurationError, match="no key of that id"):
        keys.revoke("nobody")
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("name", ["", "a\nb", "\x1b[2J", "x" * 201])
def test_a_name_that_would_spoil_the_list_is_refused(keys: ApiKeyFile, name: str) -> None:
    with pytest.raises(ConfigurationError, match="name"):
        keys.add(name)


def test_a_folder_that_is_not_there_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot write"):
        ApiKeyFile(tmp_path / "nowhere" / "keys.json").add("Ann")


def test_the_command_line(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--file", str(path)]
    assert main(["api-keys", "list", *where]) == 1
    assert "cannot read the API keys" in capsys.readouterr().err

    assert main(["api-keys", "add", "Ann's phone", *where]) == 0
    key = capsys.readouterr().out.strip()
    assert ApiKeyFile(path).find(key)

    assert main(["api-keys", "list", *where]) == 0
    listed = capsys.readouterr().out
    assert key[4:16] in listed
    assert "Ann's phone" in listed
    assert key[17:] not in listed

    assert main(["api-keys", "revoke", key[4:16], *where]) == 0
    assert ApiKeyFile(path).find(key) is None
    assert main(["api-keys", "revoke", key[4:16], *where]) == 1

"""Keys: their text, their files, who may read them, and when they end."""

from __future__ import annotations

import contextlib
import copy
import json
import math
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_detect.cli import main
from hybrid_detect.config import ServiceConfig
from hybrid_detect.errors import ConfigurationError, EncryptionError, UnknownKeyError
from hybrid_detect.exchange import key_files, keys
from hybrid_detect.exchange.key_files import (
    KnownKeys,
    read_key_file,
    read_public_key,
    write_key_file,
)
from hybrid_detect.exchange.key_ring import GRACE, KeyRing
from hybrid_detect.exchange.keys import PrivateKey, PublicKey, Suite
from hybrid_detect.exchange.trust import TrustedKey

from ..small_disk import SmallDisk
from .suites import each_suite, needs_post_quantum

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
END = NOW + timedelta(days=30)
ENDPOINT = "https://faces.example.com"

posix = pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX's")
root = pytest.mark.skipif(
    os.name != "posix" or os.geteuid() != 0, reason="only root can give files to other users"
)


def key(suite: Suite = Suite.X25519_CHACHA20, *, end: datetime = END) -> PrivateKey:
    return PrivateKey.generate(suite, end)


def secret_of(private: PrivateKey) -> str:
    return private.to_json()["private_key"]


# ---- values


@each_suite
def test_a_key_survives_its_text_and_its_json(suite: Suite) -> None:
    public = key(suite).public
    assert PublicKey.from_text(public.text) == public
    assert PublicKey.from_text(f"  {public.text}\n") == public
    assert PublicKey.from_json(json.loads(json.dumps(public.to_json()))) == public
    assert " " not in public.text


@each_suite
def test_a_private_key_survives_its_json(suite: Suite) -> None:
    private = key(suite)
    again = PrivateKey.from_json(private.to_json())
    assert again.public == private.public
    assert secret_of(again) == secret_of(private)


def test_an_id_is_the_keys_and_the_suites() -> None:
    raw = bytes(range(32))
    assert PublicKey(Suite.X25519_CHACHA20, raw, END).id == "b42c8b935494ed0a"
    assert (
        PublicKey(Suite.X25519_CHACHA20, raw, NOW).id
        == PublicKey(Suite.X25519_CHACHA20, raw, END).id
    )
    assert (
        PublicKey(Suite.X25519_AES_GCM, raw, END).id
        != PublicKey(Suite.X25519_CHACHA20, raw, END).id
    )


@pytest.mark.parametrize(
    "change",
    [
        {"suite": "rot13"},
        {"suite": None},
        {"public_key": "###"},
        {"public_key": "AAAA"},
        {"public_key": 5},
        {"public_key": "A"},
        {"not_after": "soon"},
        {"not_after": 5},
        {"not_after": "0001-01-01T00:00:00+14:00"},
        {"id": "0123456789abcdef"},
        {"suite": "mlkem768-x25519"},
    ],
    ids=str,
)
def test_a_published_key_with_something_wrong_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="expected"):
        PublicKey.from_json({**key().public.to_json(), **change})


@needs_post_quantum
def test_a_lattice_key_out_of_range_is_refused() -> None:
    with pytest.raises(ConfigurationError):
        PublicKey(Suite.MLKEM768_X25519, b"\xff" * 1216, END)


def test_an_end_without_a_time_zone_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="time zone"):
        key(end=datetime(2027, 1, 1))


@given(st.text(max_size=200) | st.text("hd1:x259-chacwe0TZ_", max_size=80))
def test_any_text_is_a_key_or_a_typed_error(text: str) -> None:
    with contextlib.suppress(ConfigurationError):
        PublicKey.from_text(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["version", "keys", "id", "suite", "not_after", "private_key", "public_key"]
            ),
            inner | st.sampled_from([1, "x25519-chacha20", "2027-01-01T00:00:00Z", "A" * 43]),
        )
    ),
    max_leaves=12,
)


@given(JSON)
def test_any_json_is_keys_or_a_typed_error(value: Any) -> None:
    for read in (
        PublicKey.from_json,
        PrivateKey.from_json,
        lambda value: KeyRing.from_text(json.dumps(value)),
    ):
        with contextlib.suppress(ConfigurationError):
            read(value)


def test_a_mistaken_private_key_is_not_repeated_in_the_error() -> None:
    private = key()
    secret = secret_of(private)
    for text in (secret, json.dumps(private.to_json()), f"hd1:x25519-chacha20:{secret}:x"):
        for read in (PublicKey.from_text, KeyRing.from_text, read_public_key):
            with pytest.raises(ConfigurationError) as caught:
                read(text)
            assert secret not in str(caught.value)
            assert secret not in repr(caught.value)
    with pytest.raises(ConfigurationError) as caught:
        PrivateKey.from_json({**private.to_json(), "id": "0" * 16})
    assert secret not in str(caught.value)


@each_suite
def test_a_private_key_is_shown_by_its_id_and_never_pickled(suite: Suite) -> None:
    private = key(suite)
    assert repr(private) == f"PrivateKey(id={private.public.id!r}, suite={suite.value!r})"
    assert str(private) == repr(private)
    for leak in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError, match="write_key_file"):
            leak(private)


@needs_post_quantum
def test_a_suite_that_is_not_to_be_had_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = key(Suite.MLKEM768_X25519).public.raw
    monkeypatch.setattr(keys, "_mlkem_is_there", lambda: False)
    for make in (
        lambda: PrivateKey.generate(Suite.MLKEM768_X25519, END),
        lambda: PrivateKey(Suite.MLKEM768_X25519, bytes(96), END),
        lambda: PublicKey(Suite.MLKEM768_X25519, raw, END),
    ):
        with pytest.raises(ConfigurationError, match="pip install -U cryptography"):
            make()


# ---- rings


def test_keys_are_published_to_their_end_and_accepted_a_grace_longer() -> None:
    first, second = key(), key(end=NOW - timedelta(hours=1))
    ring = KeyRing((first, second))
    assert ring.active == first.public
    assert ring.published(NOW) == (first.public,)
    assert set(ring.accepted(NOW)) == {first.public.id, second.public.id}
    assert set(ring.accepted(NOW + GRACE)) == {first.public.id}
    assert ring.published(END + timedelta(seconds=1)) == ()


def test_rotation_keeps_what_may_still_open_something() -> None:
    dead, old, new = key(end=NOW - GRACE - timedelta(1)), key(), key(Suite.X25519_AES_GCM)
    ring = KeyRing((old, dead)).rotated(new, now=NOW)
    assert ring.keys == (new, old)
    assert ring.rotated(dead, now=NOW, revoke=True).keys == (dead,)


def test_a_ring_without_a_key_is_refused() -> None:
    with pytest.raises(ConfigurationError):
        KeyRing(())


# ---- files


@each_suite
def test_a_ring_survives_its_file(suite: Suite, tmp_path: Path) -> None:
    ring = KeyRing((key(suite), key()))
    path = tmp_path / "folder" / "keys.json"
    write_key_file(path, ring)
    assert [k.to_json() for k in read_key_file(path).keys] == [k.to_json() for k in ring.keys]
    assert [file.name for file in path.parent.iterdir()] == ["keys.json"]


@posix
def test_a_key_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.touch(mode=0o644)
    write_key_file(path, KeyRing((key(),)))
    assert path.stat().st_mode & 0o777 == 0o600
    for mode in (0o604, 0o620, 0o610, 0o601, 0o660):
        path.chmod(mode)
        with pytest.raises(ConfigurationError, match="chmod 600"):
            read_key_file(path)
    path.chmod(0o400)
    read_key_file(path)


@root
@pytest.mark.parametrize("mode", [0o440, 0o640])
def test_a_group_may_read_a_key_file_that_root_owns(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "keys.json"
    write_key_file(path, KeyRing((key(),)))
    path.chmod(mode)
    os.chown(path, 0, 4321)  # as Kubernetes mounts a Secret
    link = tmp_path / "link.json"
    link.symlink_to(path)
    read_key_file(link)
    write_key_file(path, KeyRing((key(),)))
    found = path.stat()
    assert (found.st_mode & 0o777, found.st_uid, found.st_gid) == (mode, 0, 4321)
    os.chown(path, 1234, 4321)
    with pytest.raises(ConfigurationError, match="have root own it"):
        read_key_file(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff\xfe", b'{"version": 2, "keys": []}', b"[" * 100_000, b"x" * 300_000],
    ids=lambda content: repr(content[:20]),
)
def test_a_file_that_is_no_key_file_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ConfigurationError, match=r"keys\.json"):
        read_key_file(path)


def test_files_that_cannot_be_read_or_written_say_why(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        read_key_file(tmp_path / "none")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="cannot be written"):
        write_key_file(tmp_path / "file" / "keys.json", KeyRing((key(),)))


def test_a_pinned_key_is_a_text_or_a_file(tmp_path: Path) -> None:
    public = key().public
    path = tmp_path / "server.pub"
    path.write_text(public.text + "\n")
    assert read_public_key(public.text) == read_public_key(str(path)) == public
    for wrong in ("", "nothing/there", "\0", str(tmp_path)):
        with pytest.raises(ConfigurationError):
            read_public_key(wrong)


# ---- trust


ROTATE = """
import sys
from hybrid_detect.cli import main
for _ in range(5):
    main(["keys", "rotate", sys.argv[1]])
"""


def test_no_key_of_rotations_at_the_same_time_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    assert main(["keys", "generate", str(path)]) == 0
    commands = [sys.executable, "-c", ROTATE, str(path)]
    workers = [subprocess.Popen(commands, stdout=subprocess.DEVNULL) for _ in range(3)]
    assert [worker.wait(60) for worker in workers] == [0, 0, 0]
    assert len(read_key_file(path).keys) == 16


REMEMBER = """
import sys
from pathlib import Path
from hybrid_detect.exchange.key_files import KnownKeys
from hybrid_detect.exchange.keys import PublicKey
from hybrid_detect.exchange.trust import TrustedKey
path, worker, public = Path(sys.argv[1]), sys.argv[2], PublicKey.from_text(sys.argv[3])
for number in range(20):
    server = f"https://server-{worker}-{number}"
    TrustedKey(endpoint=server, known=KnownKeys(path)).learn([public.to_json()])
"""


def test_three_processes_that_meet_60_servers_forget_none(tmp_path: Path) -> None:
    path, public = tmp_path / "known.json", key().public
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", REMEMBER, str(path), str(worker), public.text],
            stderr=subprocess.DEVNULL,
        )
        for worker in range(3)
    ]
    assert [worker.wait(60) for worker in workers] == [0, 0, 0]
    assert len(json.loads(path.read_text())) == 60
    assert list(tmp_path.iterdir()) == [path]


def test_the_first_of_two_processes_that_meet_a_server_is_believed(tmp_path: Path) -> None:
    first, second, third = (
        TrustedKey(endpoint=ENDPOINT, known=known(tmp_path), clock=NOW.timestamp) for _ in range(3)
    )
    real, false = key().public, key().public
    # Both have looked, and neither has found a key, before one of them learns.
    third._remembered = second._remembered = lambda: None  # type: ignore[method-assign]
    first.learn([real.to_json()])
    second.learn([false.to_json(), real.to_json()])
    assert second.sealer is not None
    assert second.sealer.public_key == real
    with pytest.raises(UnknownKeyError):
        third.learn([false.to_json()])
    assert known(tmp_path).get(ENDPOINT) == real


def test_more_keys_than_can_be_read_again_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    servers = known(tmp_path)
    for number in range(3):
        servers.put(f"https://{number}", key().public)
    monkeypatch.setattr(key_files, "MAX_FILE_BYTES", servers.path.stat().st_size)
    with pytest.raises(ConfigurationError, match="full, at 4 keys"):
        servers.put("https://3", key().public)
    assert servers.get("https://2") is not None


def test_a_full_disk_forgets_no_known_key(small_disk: SmallDisk) -> None:
    servers = KnownKeys(small_disk.path / "known.json")
    servers.put(ENDPOINT, key().public)
    small_disk.fill()
    with pytest.raises(ConfigurationError, match="No space left"):
        servers.put("https://other", key().public)
    assert servers.get(ENDPOINT) is not None


def known(folder: Path) -> KnownKeys:
    return KnownKeys(folder / "known.json")


def test_the_first_key_is_believed_and_remembered(tmp_path: Path) -> None:
    public = key().public
    trusted = TrustedKey(endpoint=ENDPOINT, known=known(tmp_path))
    assert trusted.sealer is None
    trusted.learn(["a key of tomorrow", public.to_json(), key().public.to_json()])
    assert trusted.sealer is not None
    assert trusted.sealer.public_key == public
    again = TrustedKey(endpoint=ENDPOINT, known=known(tmp_path))
    assert again.sealer is not None
    assert again.sealer.public_key == public
    assert TrustedKey(endpoint="https://other", known=known(tmp_path)).sealer is None


def test_a_changed_key_is_not_believed_and_says_what_to_do(tmp_path: Path) -> None:
    public = key().public
    trusted = TrustedKey(endpoint=ENDPOINT, known=known(tmp_path))
    trusted.learn([public.to_json()])
    before = known(tmp_path).path.read_text()
    for published in ([key().public.to_json()], []):
        with pytest.raises(UnknownKeyError, match="another server") as caught:
            trusted.learn(published)
        assert caught.value.is_configuration
        assert "known.json" in str(caught.value)
        assert caught.value.key_id == public.id
    assert trusted.sealer is not None
    assert trusted.sealer.public_key == public
    assert known(tmp_path).path.read_text() == before


def test_two_backends_of_one_server_believe_in_the_same_key(tmp_path: Path) -> None:
    first, second = (TrustedKey(endpoint=ENDPOINT, known=known(tmp_path)) for _ in range(2))
    public = key().public
    first.learn([public.to_json()])
    with pytest.raises(UnknownKeyError):
        second.learn([key().public.to_json()])
    assert second.sealer is not None
    assert second.sealer.public_key == public


def test_known_keys_damaged_meanwhile_are_an_error_not_a_first_meeting(tmp_path: Path) -> None:
    trusted = TrustedKey(endpoint=ENDPOINT, known=known(tmp_path))
    known(tmp_path).path.write_text("{")
    with pytest.raises(EncryptionError, match="known keys"):
        trusted.learn([key().public.to_json()])
    assert trusted.sealer is None


def test_an_ended_key_is_not_used_for_good(tmp_path: Path) -> None:
    public = key().public
    trusted = TrustedKey(public, clock=lambda: END.timestamp() + 1)
    with pytest.raises(UnknownKeyError, match="has ended") as caught:
        trusted.learn([public.to_json()])
    assert caught.value.is_configuration


def test_without_a_home_folder_the_file_has_to_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> Path:
        raise RuntimeError

    monkeypatch.setattr(Path, "home", nowhere)
    with pytest.raises(ConfigurationError, match="known_keys_path"):
        TrustedKey.from_config(ServiceConfig(endpoint=ENDPOINT, trust_on_first_use=True))


def test_a_pinned_key_is_never_given_up_for_a_published_one() -> None:
    trusted = TrustedKey(key().public)
    with pytest.raises(UnknownKeyError, match="pin the new key"):
        trusted.learn([key().public.to_json()])


def test_a_server_without_a_usable_key_is_not_trusted(tmp_path: Path) -> None:
    trusted = TrustedKey(endpoint=ENDPOINT, known=known(tmp_path))
    for published in ([], [{}], [None, 5]):
        with pytest.raises(EncryptionError, match="no key that can be used"):
            trusted.learn(published)
    assert trusted.sealer is None


def test_a_key_that_cannot_be_remembered_is_not_trusted(tmp_path: Path) -> None:
    trusted = TrustedKey(endpoint=ENDPOINT, known=KnownKeys(tmp_path / "folder" / "known.json"))
    (tmp_path / "folder").touch()  # a file, since then
    with pytest.raises(EncryptionError, match="cannot be"):
        trusted.learn([key().public.to_json()])
    assert trusted.sealer is None


@pytest.mark.parametrize("content", ["{", "[]", '{"a": 5}', '{"https://faces.example.com": "hd1"}'])
def test_damaged_known_keys_are_not_taken_for_none(tmp_path: Path, content: str) -> None:
    known(tmp_path).path.write_text(content)
    with pytest.raises(ConfigurationError):
        TrustedKey(endpoint=ENDPOINT, known=known(tmp_path))


def test_a_successor_is_remembered(tmp_path: Path) -> None:
    public, successor = key().public, key().public
    trusted = TrustedKey(endpoint=ENDPOINT, known=known(tmp_path))
    trusted.learn([public.to_json()])
    trusted._succeed(successor)
    assert known(tmp_path).get(ENDPOINT) == successor


def test_a_key_or_a_place_to_remember_one_is_needed() -> None:
    with pytest.raises(ConfigurationError):
        TrustedKey()


# ---- the command


@each_suite
def test_generate_show_and_rotate(
    suite: Suite, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "keys.json")
    assert main(["keys", "generate", path, "--suite", suite.value, "--days", "10"]) == 0
    first = PublicKey.from_text(capsys.readouterr().out)
    assert first.suite is suite
    assert first.not_after is not None
    assert timedelta(days=9) < first.not_after - datetime.now(UTC) <= timedelta(days=10)

    assert main(["keys", "show", path, "--public"]) == 0
    assert PublicKey.from_text(capsys.readouterr().out) == first

    assert main(["keys", "rotate", path]) == 0
    second = PublicKey.from_text(capsys.readouterr().out)
    assert second.suite is suite
    assert [k.public for k in read_key_file(Path(path)).keys] == [second, first]

    assert main(["keys", "show", path]) == 0
    shown = capsys.readouterr().out
    assert shown.index(second.id) < shown.index("active") < shown.index(first.id)
    assert "accepted" in shown
    for private in read_key_file(Path(path)).keys:
        assert secret_of(private) not in shown

    assert main(["keys", "rotate", path, "--revoke"]) == 0
    assert len(read_key_file(Path(path)).keys) == 1


def test_the_state_of_every_key_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    now = datetime.now(UTC)
    ends = [now + timedelta(5), now - timedelta(hours=2), now - timedelta(9)]
    path = tmp_path / "keys.json"
    write_key_file(path, KeyRing(tuple(key(end=end) for end in ends)))
    assert main(["keys", "show", str(path)]) == 0
    states = [line.split()[3] for line in capsys.readouterr().out.splitlines()[1:]]
    assert states == ["active", "ending", "ended"]


def test_a_file_that_is_there_is_not_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "keys.json"
    path.write_text("precious")
    assert main(["keys", "generate", str(path)]) == 1
    assert path.read_text() == "precious"
    assert "rotate" in capsys.readouterr().err


@pytest.mark.parametrize("days", ["0", "-1", "100000", "x"])
def test_a_validity_out_of_range_is_a_wrong_command_line(days: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["keys", "generate", str(tmp_path / "keys.json"), "--days", days])
    assert caught.value.code == 2


def test_an_unknown_suite_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "generate", str(tmp_path / "keys.json"), "--suite", "rot13"]) == 1
    assert "x25519-chacha20" in capsys.readouterr().err


def test_an_ended_replacement_is_equal_to_nothing_else() -> None:
    public = key().public
    assert replace(public, not_after=NOW) != public
    assert replace(public, not_after=NOW).id == public.id


def test_a_key_lives_to_the_very_second_that_it_ends_in() -> None:
    """For who seals, who publishes and who opens; the server opens a grace longer."""
    public, ends_s = key().public, END.timestamp()
    assert public.not_after.tzinfo is UTC
    public.require_alive(ends_s)
    with pytest.raises(UnknownKeyError) as caught:
        public.require_alive(math.nextafter(ends_s, math.inf))
    assert caught.value.key_id == public.id
    ring, instant = KeyRing((key(),)), timedelta(microseconds=1)
    assert ring.published(END)
    assert not ring.published(END + instant)
    assert ring.accepted(END + GRACE)
    assert not ring.accepted(END + GRACE + instant)

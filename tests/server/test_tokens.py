"""JSON Web Tokens, made here by an issuer of our own."""

import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from hybrid_detect.errors import ConfigurationError, MissingExtraError
from hybrid_detect.server import jwks, tokens
from hybrid_detect.server.tokens import JwtConfig, TokenVerifier

from ..backends.remote.hostile_network import Names, black_hole
from ..clock import FakeClock

jwt = pytest.importorskip("jwt")
from cryptography.hazmat.primitives import serialization  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa  # noqa: E402

pytestmark = pytest.mark.anyio

ISSUER, AUDIENCE = "https://id.example.com", "faces"

KEYS: dict[str, Any] = {
    "rsa": rsa.generate_private_key(public_exponent=65537, key_size=2048),
    "ec": ec.generate_private_key(ec.SECP256R1()),
    "ed": ed25519.Ed25519PrivateKey.generate(),
    "stranger": ec.generate_private_key(ec.SECP256R1()),
    "weak": rsa.generate_private_key(public_exponent=65537, key_size=1024),  # noqa: S505 - to be refused
}
ALGORITHM = {"rsa": "RS256", "ec": "ES256", "ed": "EdDSA", "stranger": "ES256", "weak": "RS256"}


def public_entry(name: str, **more: Any) -> dict[str, Any]:
    algorithm = jwt.get_algorithm_by_name(ALGORITHM[name])
    entry: dict[str, Any] = algorithm.to_jwk(KEYS[name].public_key(), as_dict=True)
    return {**entry, "kid": name, "use": "sig", "alg": ALGORITHM[name], **more}


def key_set(*names: str) -> dict[str, Any]:
    return {"keys": [public_entry(name) for name in names]}


def claims(**changes: Any) -> dict[str, Any]:
    whole = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ann", "exp": time.time() + 60, **changes}
    return {name: value for name, value in whole.items() if value is not None}


def token(key: str = "ec", *, kid: str | None = "", header: Any = None, **changes: Any) -> str:
    headers = {**({} if kid is None else {"kid": kid or key}), **(header or {})}
    return jwt.encode(claims(**changes), KEYS[key], algorithm=ALGORITHM[key], headers=headers)


def forged(header: dict[str, Any], payload: dict[str, Any], secret: bytes = b"") -> str:
    """A token by hand, signed with HMAC-SHA256 under `secret`, if there is one."""
    parts = [
        base64.urlsafe_b64encode(json.dumps(p).encode()).rstrip(b"=") for p in (header, payload)
    ]
    signature = hmac.digest(secret, b".".join(parts), hashlib.sha256) if secret else b""
    return b".".join([*parts, base64.urlsafe_b64encode(signature).rstrip(b"=")]).decode()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps(key_set("rsa", "ec", "ed")))
    return path


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def verifier(path: Path, clock: FakeClock) -> TokenVerifier:
    config = JwtConfig(issuer=ISSUER, audience=AUDIENCE, jwks=str(path))
    return TokenVerifier(config, clock=clock)


@pytest.mark.parametrize("key", ["rsa", "ec", "ed"])
async def test_a_good_token_tells_its_subject(verifier: TokenVerifier, key: str) -> None:
    assert await verifier.subject(token(key)) == "ann"
    assert await verifier.subject(token(key, aud=["another", AUDIENCE])) == "ann"


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": time.time() - 60},
        {"exp": None},
        {"exp": "soon"},
        {"nbf": time.time() + 3600},
        {"iss": "https://evil.example.com"},
        {"iss": None},
        {"aud": "another"},
        {"aud": None},
        {"aud": [AUDIENCE[:-1]]},
        {"sub": None},
        {"sub": ""},
        {"sub": "x" * 300},
        {"padding": "x" * tokens.MAX_TOKEN_CHARS},
        {"kid": "stranger"},
        {"kid": None},
        {"header": {"crit": ["exp"]}},
    ],
    ids=lambda changes: " ".join(
        f"{name}={type(value).__name__}" for name, value in changes.items()
    ),
)
async def test_a_token_with_one_thing_wrong_is_refused(
    verifier: TokenVerifier, changes: dict[str, Any]
) -> None:
    assert await verifier.subject(token(**changes)) is None


async def test_clocks_may_differ_a_little(verifier: TokenVerifier) -> None:
    assert await verifier.subject(token(exp=time.time() - 20)) == "ann"
    assert await verifier.subject(token(nbf=time.time() + 20)) == "ann"


async def test_a_signature_by_another_key_is_refused(verifier: TokenVerifier) -> None:
    assert await verifier.subject(token("stranger", kid="ec")) is None


async def test_a_changed_token_is_refused(verifier: TokenVerifier) -> None:
    head, payload, signature = token().split(".")
    other = token(sub="bob").split(".")[1]
    for broken in (
        f"{head}.{other}.{signature}",
        f"{head}.{payload}.",
        f"{head}.{payload}",
        f"{head}.{payload}.{signature}.",
        f"{head}.{payload}.{signature[:-4]}AAAA",
        f" {head}.{payload}.",
        "..",
        "a.b.c",
        "." * 9000,
    ):
        assert await verifier.subject(broken) is None, broken


@pytest.mark.parametrize("alg", ["none", "None", "NONE", "", "HS256", "HS512", "ES256K", "RS1"])
async def test_no_signature_and_shared_secrets_are_refused(
    verifier: TokenVerifier, alg: str
) -> None:
    """HS256 with the public key as the secret is the classic confusion."""
    pem = (
        KEYS["rsa"]
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    for secret in (b"", pem, json.dumps(public_entry("rsa")).encode()):
        header = {"alg": alg, "typ": "JWT", "kid": "rsa"}
        assert await verifier.subject(forged(header, claims(), secret)) is None


async def test_a_key_serves_its_own_algorithm_only(verifier: TokenVerifier) -> None:
    other = jwt.encode(claims(), KEYS["rsa"], algorithm="PS256", headers={"kid": "rsa"})
    assert await verifier.subject(other) is None


@pytest.mark.filterwarnings("ignore:The RSA key:jwt.warnings.InsecureKeyLengthWarning")
@pytest.mark.parametrize(
    ("entry", "key"),
    [
        ({"kty": "oct", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0", "kid": "ec"}, "ec"),
        (public_entry("ec", use="enc"), "ec"),
        (public_entry("weak"), "weak"),
    ],
    ids=["a shared secret", "a key to encrypt with", "1024 bits"],
)
async def test_keys_that_are_not_for_this_are_not_used(
    path: Path, verifier: TokenVerifier, entry: dict[str, Any], key: str
) -> None:
    path.write_text(json.dumps({"keys": [entry, 7, {}, {"kty": "AKP"}]}))
    assert await verifier.subject(token(key)) is None
    secret = b"secret-secret-secret-secret"
    header = {"alg": "HS256", "kid": "ec"}
    assert await verifier.subject(forged(header, claims(), secret)) is None


async def test_a_token_without_a_key_id_fits_the_only_key(
    path: Path, verifier: TokenVerifier
) -> None:
    shared = {"kty": "oct", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0", "kid": "shared"}
    path.write_text(json.dumps({"keys": [shared, public_entry("ec")]}))
    assert await verifier.subject(token(kid=None)) == "ann"


async def test_a_rotated_key_is_found_soon_but_not_fetched_for_every_made_up_name(
    path: Path, verifier: TokenVerifier, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = []
    read = jwks.KeySet._read
    monkeypatch.setattr(jwks.KeySet, "_read", lambda self: reads.append(1) or read(self))
    assert await verifier.subject(token("ec")) == "ann"
    path.write_text(json.dumps(key_set("stranger")))
    for number in range(50):
        assert await verifier.subject(token("stranger", kid=f"made up {number}")) is None
    assert len(reads) == 1
    clock.now_s += jwks.RETRY_S
    assert await verifier.subject(token("stranger")) == "ann"
    assert await verifier.subject(token("ec")) is None
    assert len(reads) == 2


async def test_a_key_that_was_taken_back_ends(
    path: Path, verifier: TokenVerifier, clock: FakeClock
) -> None:
    assert await verifier.subject(token("ec")) == "ann"
    path.write_text(json.dumps(key_set("rsa")))
    clock.now_s += jwks.MAX_AGE_S
    await verifier.subject(token("ec"))  # the one that starts the fetch is not made to wait
    refreshing = verifier._keys._refreshing
    assert refreshing is not None
    await refreshing
    assert await verifier.subject(token("ec")) is None


@pytest.mark.parametrize("content", ["", "{", "[]", "7", '{"keys": 1}', "\x00"])
async def test_an_issuer_that_fails_is_believed_for_a_while(
    path: Path, verifier: TokenVerifier, clock: FakeClock, content: str
) -> None:
    assert await verifier.subject(token()) == "ann"
    path.write_text(content)
    for passed_s, outcome in ((jwks.MAX_AGE_S, "ann"), (jwks.STALE_LIMIT_S, None)):
        clock.now_s += passed_s
        await verifier.subject(token())
        refreshing = verifier._keys._refreshing
        assert refreshing is not None
        await refreshing
        assert await verifier.subject(token()) == outcome


# -- over http -------------------------------------------------------------------------------


class Issuer(ThreadingHTTPServer):
    """Serves `body` at any path, after a redirect if `location` is set."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.body = json.dumps(key_set("ec")).encode()
        self.status = 200
        self.location = ""
        self.hits = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/jwks"


class Handler(BaseHTTPRequestHandler):
    server: Issuer

    def do_GET(self) -> None:
        self.server.hits += 1
        self.send_response(self.server.status)
        if self.server.location:
            self.send_header("Location", self.server.location)
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with Issuer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def verifier_of(url: str, clock: FakeClock) -> TokenVerifier:
    return TokenVerifier(JwtConfig(issuer=ISSUER, audience=AUDIENCE, jwks=url), clock=clock)


async def test_keys_come_over_http_once(
    issuer: Issuer, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # not for this machine's own address
    verifier = verifier_of(issuer.url, clock)
    for _ in range(5):
        assert await verifier.subject(token()) == "ann"
    assert issuer.hits == 1


async def test_a_token_that_can_never_be_valid_causes_no_fetch(
    issuer: Issuer, clock: FakeClock
) -> None:
    verifier = verifier_of(issuer.url, clock)
    assert await verifier.subject(forged({"alg": "none", "kid": "x"}, claims())) is None
    assert await verifier.subject("garbage") is None
    assert issuer.hits == 0


@pytest.mark.parametrize(
    "change",
    [
        {"status": 302, "location": "/elsewhere"},
        {"status": 500},
        {"status": 404},
        {"body": b" " * (jwks.MAX_SET_BYTES + 1)},
    ],
    ids=lambda change: str(change)[:40],
)
async def test_an_issuer_s_failure_is_a_refusal(
    issuer: Issuer, clock: FakeClock, change: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    for name, value in change.items():
        setattr(issuer, name, value)
    assert await verifier_of(issuer.url, clock).subject(token()) is None
    assert issuer.hits == 1, "a redirect is not followed"
    assert "cannot be had" in caplog.text


async def test_a_dead_first_address_of_the_issuer_leaves_time_for_the_next(
    issuer: Issuer, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks, "ADDRESS_LIMIT_S", 0.2)
    Names(monkeypatch).set("issuer.localhost", "127.0.0.2", "127.0.0.1")
    port = issuer.server_address[1]
    with black_hole("127.0.0.2", port):
        verifier = verifier_of(f"http://issuer.localhost:{port}/jwks", clock)
        assert await verifier.subject(token()) == "ann"


async def test_an_issuer_that_is_not_there_is_a_refusal(issuer: Issuer, clock: FakeClock) -> None:
    issuer.server_close()
    assert await verifier_of(issuer.url, clock).subject(token()) is None


@pytest.mark.parametrize(
    "source", ["http://id.example.com/jwks", "ftp://x/y", "https://user:pw@x/", "/no/such/file"]
)
async def test_keys_from_just_anywhere_are_refused(source: str) -> None:
    with pytest.raises(ConfigurationError):
        verifier_of(source, FakeClock())


async def test_without_pyjwt_one_is_told_what_to_install(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "jwt", None)
    with pytest.raises(MissingExtraError, match=r"hybrid-detect\[jwt\]"):
        verifier_of(str(path), FakeClock())


@pytest.mark.parametrize("name", ["issuer", "audience", "jwks"])
async def test_nothing_may_be_empty(name: str) -> None:
    whole = {"issuer": "a", "audience": "b", "jwks": "c"}
    with pytest.raises(ConfigurationError, match=name):
        JwtConfig(**{**whole, name: ""})

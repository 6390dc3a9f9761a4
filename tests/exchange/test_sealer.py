"""Sealing: only the key's owner opens, only the whole and only once, and others' HPKE agrees."""

from __future__ import annotations

import contextlib
import hashlib
import struct
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import mlkem
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_detect.errors import (
    BackendError,
    EncryptionError,
    UnknownKeyError,
)
from hybrid_detect.exchange import envelope, sealing
from hybrid_detect.exchange.keys import PrivateKey, PublicKey, Suite
from hybrid_detect.exchange.sealer import Sealer
from hybrid_detect.exchange.sealing import (
    OpenedRequest,
    SealedRequest,
    open_reply,
    open_request,
    seal_reply,
    seal_request,
)
from hybrid_detect.exchange.wire import (
    CONTENT_TYPE,
    ErrorReply,
    ResultReply,
    decode_reply,
    encode_reply,
    peek_request_id,
    with_request_id,
)
from hybrid_detect.types import KEYPOINT_NAMES, BoundingBox, Face, Keypoint

from ..fuzzing import examples
from .suites import AVAILABLE, each_suite, needs_post_quantum

VECTORS = Path(__file__).parents[1] / "vectors"
NOW_S = 1_800_000_000.125
END = datetime(2099, 1, 1, tzinfo=UTC)
MESSAGE = b"HD a picture, a session"
KEYS = {suite: PrivateKey.generate(suite, END) for suite in AVAILABLE}
OTHERS = {suite: PrivateKey.generate(suite, END) for suite in AVAILABLE}
FACE = Face(BoundingBox(8, 8, 24, 24), 0.75)
RESULT = ResultReply(request_id=0, width=64, height=48, faces=(FACE,), model="m")


def ring(*keys: PrivateKey) -> Mapping[str, PrivateKey]:
    return {key.public.id: key for key in keys}


def sealed(suite: Suite = Suite.X25519_CHACHA20, message: bytes = MESSAGE) -> SealedRequest:
    return seal_request(message, KEYS[suite].public, now_s=NOW_S)


def opened(request: SealedRequest, suite: Suite = Suite.X25519_CHACHA20) -> OpenedRequest:
    return open_request(request.data, ring(KEYS[suite]))


# ---- there and back


@each_suite
@pytest.mark.parametrize("size", [0, 1, 80 * 1024])
def test_a_request_and_its_reply_arrive(suite: Suite, size: int) -> None:
    message = bytes(size)
    request = sealed(suite, message)
    received = opened(request, suite)
    assert received.message == message
    assert received.sealed_at_ms == 1_800_000_000_125
    assert received.key_id == request.key_id == KEYS[suite].public.id
    reply = open_reply(seal_reply(b"faces", received), request)
    assert reply.message == b"faces"
    assert reply.successor is None


@each_suite
def test_the_envelope_costs_what_the_documentation_says(suite: Suite) -> None:
    overhead = len(sealed(suite).data) - len(MESSAGE)
    assert overhead == (1213 if suite is Suite.MLKEM768_X25519 else 125)


def test_nothing_of_the_message_is_in_the_envelope_and_no_two_are_alike() -> None:
    first, second = sealed(message=b"marker" * 50), sealed(message=b"marker" * 50)
    assert b"marker" not in first.data
    # Header apart from the nonce, and nothing else, is the same.
    assert first.data[:29] == second.data[:29]
    for start in range(29, len(first.data) - 8, 8):
        assert first.data[start : start + 8] != second.data[start : start + 8]


def test_the_key_for_the_reply_is_not_in_the_clear() -> None:
    # Who has it can make replies that open.
    request = sealed()
    assert len(request.reply_key) == 32
    assert request.reply_key not in request.data
    assert sealed().reply_key != request.reply_key


def test_a_channel_numbers_sealed_messages_as_it_does_plain_ones() -> None:
    request = sealed()
    numbered = with_request_id(request.data, 0xDEADBEEF)
    assert peek_request_id(numbered) == 0xDEADBEEF
    received = open_request(numbered, ring(KEYS[Suite.X25519_CHACHA20]))
    reply = seal_reply(b"faces", received, number=peek_request_id(numbered))
    assert peek_request_id(reply) == 0xDEADBEEF
    assert open_reply(reply, request).message == b"faces"


def test_replies_of_few_faces_and_of_none_are_equally_long() -> None:
    request = opened(sealed())
    points = tuple(Keypoint(name, 1010.11, 1020.22) for name in KEYPOINT_NAMES)
    face = Face(BoundingBox(1001.25, 1002.25, 1203.55, 1204.75), 0.9123, points)
    lengths = {
        len(seal_reply(encode_reply(replace(RESULT, faces=(face,) * count)), request))
        for count in range(8)
    }
    assert len(lengths) == 1
    many = seal_reply(encode_reply(replace(RESULT, faces=(face,) * 200)), request)
    assert len(many) - len(seal_reply(b"", request)) > 0


def test_the_label_of_what_is_inside_is_the_wire_formats() -> None:
    assert CONTENT_TYPE.encode() == sealing.CONTENT_TYPE


# ---- attacks


@each_suite
def test_tampered(suite: Suite) -> None:
    """One changed bit anywhere, but in the number that belongs to the link, and it stays shut."""
    request = sealed(suite)
    for position in range(len(request.data)):
        altered = bytearray(request.data)
        altered[position] ^= 0x10
        if 4 <= position < 8:
            assert open_request(bytes(altered), ring(KEYS[suite])).message == MESSAGE
            continue
        with pytest.raises(EncryptionError):
            open_request(bytes(altered), ring(KEYS[suite], OTHERS[suite]))


def test_tampered_replies() -> None:
    request = sealed()
    reply = seal_reply(b"faces", opened(request))
    for position in range(len(reply)):
        altered = bytearray(reply)
        altered[position] ^= 0x10
        if 4 <= position < 8:
            assert open_reply(bytes(altered), request).message == b"faces"
            continue
        with pytest.raises(EncryptionError):
            open_reply(bytes(altered), request)


@each_suite
def test_truncated_and_lengthened(suite: Suite) -> None:
    request = sealed(suite)
    reply = seal_reply(b"faces", opened(request, suite))
    for size in range(len(request.data)):
        with pytest.raises(EncryptionError):
            open_request(request.data[:size], ring(KEYS[suite]))
    for size in range(0, len(reply), 13):
        with pytest.raises(EncryptionError):
            open_reply(reply[:size], request)
    with pytest.raises(EncryptionError):
        open_request(request.data + b"\0", ring(KEYS[suite]))
    with pytest.raises(EncryptionError):
        open_reply(reply + b"\0", request)


def test_another_time_or_nonce_for_the_same_ciphertext() -> None:
    """What would make an old request look fresh."""
    request = sealed()
    header, body = envelope.unpack_request(request.data)
    for forged in (
        replace(header, sealed_at_ms=header.sealed_at_ms + 60_000),
        replace(header, nonce=bytes(16)),
    ):
        with pytest.raises(EncryptionError, match="does not open"):
            open_request(
                envelope.pack_request(forged, bytes(body)), ring(KEYS[Suite.X25519_CHACHA20])
            )


@each_suite
def test_a_wrong_key(suite: Suite) -> None:
    request = sealed(suite)
    with pytest.raises(UnknownKeyError) as caught:
        open_request(request.data, ring(OTHERS[suite]))
    assert caught.value.key_id == KEYS[suite].public.id
    assert caught.value.is_configuration
    # Even a server that looks for it under the right name has to have it.
    with pytest.raises(EncryptionError, match="does not open"):
        open_request(request.data, {KEYS[suite].public.id: OTHERS[suite]})


@pytest.mark.parametrize("code", [0, 2, 3, 4, 255])
def test_a_downgraded_suite(code: int) -> None:
    request = sealed(Suite.X25519_CHACHA20)
    header, body = envelope.unpack_request(request.data)
    forged = envelope.pack_request(replace(header, suite=code), bytes(body))
    with pytest.raises(EncryptionError, match=f"got suite {code}"):
        open_request(forged, ring(*KEYS.values()))


def test_the_reply_of_another_request() -> None:
    mine, other = sealed(), sealed()
    with pytest.raises(EncryptionError, match="does not open"):
        open_reply(seal_reply(b"faces", opened(other)), mine)


def test_a_reply_sealed_to_the_right_key_for_another_request() -> None:
    """The key alone does not make it the answer: header and tag of the request are bound."""
    mine, other = sealed(), sealed()
    grafted = replace(opened(other), reply_key=mine.reply_key)
    with pytest.raises(EncryptionError, match="does not open"):
        open_reply(seal_reply(b"faces", grafted), mine)


def test_a_reply_made_by_who_saw_the_request_but_could_not_open_it() -> None:
    request = sealed()
    header = envelope.unpack_request(request.data)[0]
    guess = OpenedRequest(
        message=b"",
        key_id=header.key_id,
        nonce=header.nonce,
        sealed_at_ms=header.sealed_at_ms,
        suite=Suite.X25519_CHACHA20,
        reply_key=bytes(32),
        binding=header.encoded() + request.data[-16:],
    )
    with pytest.raises(EncryptionError, match="does not open"):
        open_reply(seal_reply(b"forged faces", guess), request)


def test_a_request_is_no_reply_and_a_reply_no_request() -> None:
    request = sealed()
    with pytest.raises(EncryptionError, match="expected a sealed reply, got a sealed request"):
        open_reply(request.data, request)
    reply = seal_reply(b"faces", opened(request))
    with pytest.raises(EncryptionError, match="expected a sealed request, got a sealed reply"):
        open_request(reply, ring(KEYS[Suite.X25519_CHACHA20]))


def test_an_answer_in_the_clear_is_not_the_servers() -> None:
    sealer = Sealer(KEYS[Suite.X25519_CHACHA20].public, clock=lambda: NOW_S)
    request = sealer.seal(MESSAGE)
    with pytest.raises(EncryptionError, match="in the clear"):
        sealer.open_answer(encode_reply(RESULT), request)
    refusal = ErrorReply(request_id=0, status=409, code="replayed")
    assert sealer.open_answer(encode_reply(refusal), request) == encode_reply(refusal)


@pytest.mark.parametrize("suite", [Suite.X25519_CHACHA20, Suite.X25519_AES_GCM])
def test_a_key_that_shares_nothing_is_not_sealed_to(suite: Suite) -> None:
    """All zeros: a point of small order, for which anybody could read."""
    with pytest.raises(EncryptionError, match="nothing can be sealed"):
        seal_request(MESSAGE, PublicKey(suite, bytes(32), END), now_s=NOW_S)


@each_suite
def test_two_replies_to_one_request_have_nothing_in_common(suite: Suite) -> None:
    """Should another machine be played the same request, no keystream is used twice."""
    received = opened(sealed(suite), suite)
    first, second = (seal_reply(b"faces", received) for _ in range(2))
    assert first[12:24] != second[12:24]
    assert sum(a == b for a, b in zip(first[24:], second[24:], strict=True)) < 100


def test_a_request_too_short_to_hold_a_reply_key_is_refused() -> None:
    key = KEYS[Suite.X25519_CHACHA20]
    header = envelope.unpack_request(sealed().data)[0]
    info = sealing._info(b"request", header.encoded())
    body = key.suite.hpke.encrypt(b"short", key.public.handle, info)
    with pytest.raises(EncryptionError, match="key for the reply"):
        open_request(envelope.pack_request(header, body), ring(key))


@pytest.mark.parametrize("plain", [b"", b"\0\0\0\0\0", struct.pack(">HI", 0, 9), b"\xff" * 50])
def test_a_sealed_reply_with_nothing_right_in_it_is_refused(plain: bytes) -> None:
    request = sealed()
    with pytest.raises(EncryptionError, match="expected a"):
        open_reply(reply_by_hand(request, plain), request)


def test_an_ended_key_is_not_sealed_to() -> None:
    key = replace(KEYS[Suite.X25519_CHACHA20].public, not_after=datetime(2020, 1, 1, tzinfo=UTC))
    with pytest.raises(EncryptionError, match="ended on 2020-01-01"):
        Sealer(key).seal(MESSAGE)


# ---- whatever comes, only typed errors

VALID = [sealed(suite) for suite in AVAILABLE]
REPLIES = [seal_reply(b"faces", opened(r, s)) for r, s in zip(VALID, AVAILABLE, strict=True)]


@st.composite
def damaged(draw: st.DrawFn, originals: list[bytes]) -> bytes:
    """A valid message with bytes overwritten, cut out, put in and swapped."""
    data = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        count = draw(st.integers(0, 40))
        if draw(st.booleans()):
            data[at : at + count] = draw(st.binary(max_size=40))
        else:
            data = data[at:] + data[:at]
    return bytes(data)


def anything(originals: list[bytes]) -> st.SearchStrategy[bytes]:
    headed = st.builds(
        lambda kind, number, length, rest: (
            struct.pack(">2sBBII", b"HS", 1, kind, number, length) + rest
        ),
        st.integers(0, 5),
        st.integers(0, 2**32 - 1),
        st.sampled_from([0, 33, 34, 2**32 - 1]),
        st.binary(max_size=300),
    )
    return st.binary(max_size=200) | headed | damaged(originals)


@settings(max_examples=examples(400), deadline=None)
@given(anything([request.data for request in VALID]))
def test_whatever_a_client_sends_it_opens_or_is_a_typed_error(data: bytes) -> None:
    with contextlib.suppress(EncryptionError):
        assert open_request(data, ring(*KEYS.values())).message == MESSAGE


@settings(max_examples=examples(400), deadline=None)
@given(st.integers(0, len(VALID) - 1), anything(REPLIES))
def test_whatever_a_server_sends_it_opens_or_is_a_typed_error(index: int, data: bytes) -> None:
    with contextlib.suppress(EncryptionError):
        assert open_reply(data, VALID[index]).message == b"faces"


@settings(max_examples=examples(200), deadline=None)
@given(anything(REPLIES) | st.sampled_from([encode_reply(RESULT)]))
def test_whatever_a_channel_brings_it_is_read_or_is_a_backend_error(data: bytes) -> None:
    sealer = Sealer(KEYS[Suite.X25519_CHACHA20].public, clock=lambda: NOW_S)
    request = sealer.seal(MESSAGE)
    with contextlib.suppress(BackendError):
        assert isinstance(decode_reply(sealer.open_answer(data, request)), ErrorReply)


@settings(max_examples=examples(200), deadline=None)
@given(anything([envelope.encode_keys([KEYS[Suite.X25519_CHACHA20].public.to_json()], number=1)]))
def test_whatever_keys_are_published_they_are_a_list_or_a_typed_error(data: bytes) -> None:
    with contextlib.suppress(EncryptionError):
        assert isinstance(envelope.decode_keys(data), list)


# ---- frozen vectors of our own, made once by this code


def vector(name: str, suite: Suite) -> bytes:
    return bytes.fromhex((VECTORS / f"sealed_{name}.{suite.value}.v1.hex").read_text())


def counted(start: int, suite: Suite) -> bytes:
    size = 96 if suite is Suite.MLKEM768_X25519 else 32
    return bytes(range(start + suite.code, start + suite.code + size))


@pytest.mark.parametrize(
    ("suite", "key_id"),
    [
        (Suite.X25519_CHACHA20, "a75f97035fdbaef9"),
        (Suite.X25519_AES_GCM, "dcf53b699f0236b3"),
        pytest.param(Suite.MLKEM768_X25519, "3907519c857e349c", marks=needs_post_quantum),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_messages_sealed_by_the_first_version_still_open(suite: Suite, key_id: str) -> None:
    server = PrivateKey(suite, counted(0, suite), END)
    assert server.public.id == key_id
    request = open_request(vector("request", suite), ring(server))
    assert request.message == b"HD message " + suite.value.encode()
    assert request.nonce == bytes(range(16))
    assert request.sealed_at_ms == 1_800_000_000_125
    mine = SealedRequest(
        data=b"",
        key_id=key_id,
        suite=suite,
        reply_key=b"reply key of thirty-two bytes!!!",
        binding=request.binding,
    )
    assert mine.reply_key == request.reply_key
    reply = vector("reply", suite)
    assert peek_request_id(reply) == 7
    assert open_reply(reply, mine).message == b"HD reply " + suite.value.encode()


# ---- other implementations of HPKE, with the envelope spelt out once more


def lengthened(*parts: bytes) -> bytes:
    return b"".join(struct.pack(">I", len(part)) + part for part in parts)


def info_of(kind: bytes, about: bytes) -> bytes:
    label = b"hybrid-detect sealed " + kind
    return lengthened(label, b"\1", b"detect", b"application/vnd.hybrid-detect.v1", about)


def cipher_of(suite: Suite, reply_key: bytes) -> Any:
    return (AESGCM if suite is Suite.X25519_AES_GCM else ChaCha20Poly1305)(reply_key)


def reply_by_hand(request: SealedRequest, plain: bytes) -> bytes:
    about = info_of(b"reply", request.data[12:45] + request.data[-16:])
    sealed_reply = cipher_of(request.suite, request.reply_key).encrypt(b"r" * 12, plain, about)
    return struct.pack(">2sBBII", b"HS", 1, 2, 0, 0) + b"r" * 12 + sealed_reply


def other_suite(suite: Suite) -> object:
    pyhpke = pytest.importorskip("pyhpke")
    aead = {
        Suite.X25519_CHACHA20: pyhpke.AEADId.CHACHA20_POLY1305,
        Suite.X25519_AES_GCM: pyhpke.AEADId.AES256_GCM,
    }[suite]
    return pyhpke.CipherSuite.new(
        pyhpke.KEMId.DHKEM_X25519_HKDF_SHA256, pyhpke.KDFId.HKDF_SHA256, aead
    )


classic = pytest.mark.parametrize("suite", [Suite.X25519_CHACHA20, Suite.X25519_AES_GCM])


@classic
def test_another_implementation_opens_our_request_and_we_its_reply(suite: Suite) -> None:
    other = other_suite(suite)
    request = sealed(suite)
    header, enc, body = request.data[12:45], request.data[45:77], request.data[77:]
    secret = other.kem.deserialize_private_key(KEYS[suite]._x25519.private_bytes_raw())
    context = other.create_recipient_context(enc, secret, info_of(b"request", header))
    plain = context.open(body)
    assert plain[32:] == MESSAGE
    assert plain[:32] == request.reply_key
    reply = reply_by_hand(request, struct.pack(">HI", 0, 5) + b"faces".ljust(100, b"\0"))
    assert open_reply(reply, request).message == b"faces"


@classic
def test_we_open_another_implementations_request_and_it_our_reply(suite: Suite) -> None:
    other = other_suite(suite)
    header = struct.pack(
        ">B8sQ16s", suite.code, bytes.fromhex(KEYS[suite].public.id), 1_800_000_000_000, b"n" * 16
    )
    key = other.kem.deserialize_public_key(KEYS[suite].public.raw)
    enc, context = other.create_sender_context(key, info_of(b"request", header))
    reply_key = bytes(range(32))
    body = context.seal(reply_key + MESSAGE)
    data = struct.pack(">2sBBII", b"HS", 1, 1, 0, len(header)) + header + enc + body
    received = open_request(data, ring(KEYS[suite]))
    assert received.message == MESSAGE

    reply = seal_reply(b"faces", received)[12:]
    about = info_of(b"reply", header + body[-16:])
    plain = cipher_of(suite, reply_key).decrypt(reply[:12], reply[12:], about)
    successor, length = struct.unpack_from(">HI", plain)
    assert (successor, plain[6 : 6 + length]) == (0, b"faces")


@needs_post_quantum
def test_the_post_quantum_suite_is_the_one_of_the_draft() -> None:
    """Opened by hand: X-Wing's combiner (draft-connolly-cfrg-xwing-kem), RFC 9180's schedule."""
    pytest.importorskip("pyhpke")
    from pyhpke.consts import KDFId
    from pyhpke.kdf import KDF

    suite = Suite.MLKEM768_X25519
    seed, scalar = bytes(range(64)), bytes(range(64, 96))
    server = PrivateKey(suite, seed + scalar, END)
    request = seal_request(MESSAGE, server.public, now_s=NOW_S)
    header, enc, body = request.data[12:45], request.data[45:1165], request.data[1165:]

    lattice = mlkem.MLKEM768PrivateKey.from_seed_bytes(seed).decapsulate(enc[:1088])
    curve_key = X25519PrivateKey.from_private_bytes(scalar)
    curve = curve_key.exchange(X25519PublicKey.from_public_bytes(enc[1088:]))
    public = curve_key.public_key().public_bytes_raw()
    shared = hashlib.sha3_256(lattice + curve + enc[1088:] + public + b"\\.//^\\").digest()

    kdf = KDF(KDFId.HKDF_SHA256, b"HPKE" + struct.pack(">HHH", 0x647A, 1, 3))
    context = b"\0" + b"".join(
        kdf.labeled_extract(b"", label, value)
        for label, value in ((b"psk_id_hash", b""), (b"info_hash", info_of(b"request", header)))
    )
    secret = kdf.labeled_extract(shared, b"secret", b"")
    key = kdf.labeled_expand(secret, b"key", context, 32)
    nonce = kdf.labeled_expand(secret, b"base_nonce", context, 12)
    assert ChaCha20Poly1305(key).decrypt(nonce, body, b"")[32:] == MESSAGE


def test_a_successor_that_cannot_be_understood_changes_nothing() -> None:
    request = sealed()
    for text in (b"hd9:something:of:tomorrow", b"\xff\xfe"):
        plain = struct.pack(">HI", len(text), 5) + text + b"faces"
        reply = open_reply(reply_by_hand(request, plain), request)
        assert (reply.message, reply.successor) == (b"faces", None)


def test_neither_keys_nor_pictures_are_in_a_repr() -> None:
    suite = AVAILABLE[-1]
    key = KEYS[suite]
    request = sealed(suite, b"secret picture")
    received = opened(request, suite)
    reply = open_reply(seal_reply(b"secret faces", received), request)
    secrets = [
        b"secret",
        request.reply_key[:8],
        key.to_json()["private_key"].encode()[:12],
        key.public.raw[:8],
    ]
    sealer = Sealer(key.public)
    for value in (key, key.public, request, received, reply, sealer):
        text = repr(value)
        assert len(text) < 250
        for secret in secrets:
            assert repr(secret)[2:-1] not in text
    assert key.public.id in repr(key)
    assert key.public.id in repr(sealer)

"""Signed documents: what is signed, what is refused."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.bundle.canonical import canonical_bytes
from edge_runtime.bundle.envelope import (
    MAX_ENVELOPE_BYTES,
    key_id,
    open_envelope,
    private_pem,
    public_pem,
    read_private_key,
    read_public_key,
    seal,
    trust,
)
from edge_runtime.errors import BundleError, ConfigError

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
TYPE = "application/vnd.example+json"
PAYLOAD = b'{"a":1}'
TRUSTED = trust([KEY.public_key()])


def opened(data: bytes, payload_type: str = TYPE) -> bytes:
    return open_envelope(data, payload_type, TRUSTED, name="doc.json")


def changed(**changes: Any) -> bytes:
    return canonical_bytes({**json.loads(seal(PAYLOAD, TYPE, [KEY])), **changes})


def test_a_signed_document_gives_back_its_payload() -> None:
    assert opened(seal(PAYLOAD, TYPE, [KEY])) == PAYLOAD
    assert opened(seal(PAYLOAD, TYPE, [OTHER, KEY])) == PAYLOAD


def test_what_is_signed_is_the_encoding_of_the_dsse_specification() -> None:
    """The example of the specification: type `http://example.com/HelloWorld`."""
    data = json.loads(seal(b"hello world", "http://example.com/HelloWorld", [KEY]))
    message = b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    assert base64.b64decode(data["payload"]) == b"hello world"
    KEY.public_key().verify(base64.b64decode(data["signatures"][0]["sig"]), message)


def test_a_key_is_named_by_the_hash_of_its_bytes() -> None:
    raw = KEY.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    assert key_id(KEY.public_key()) == hashlib.sha256(raw).hexdigest()


def test_a_signature_for_another_type_is_worth_nothing() -> None:
    data = seal(PAYLOAD, "application/vnd.other+json", [KEY])
    with pytest.raises(BundleError, match=r"doc\.json: is a 'application/vnd\.other\+json'"):
        opened(data)
    with pytest.raises(BundleError, match="does not match"):
        opened(canonical_bytes({**json.loads(data), "payloadType": TYPE}))


def test_an_unknown_signer_is_named() -> None:
    with pytest.raises(BundleError, match=f"signed by {key_id(OTHER.public_key())[:12]}"):
        opened(seal(PAYLOAD, TYPE, [OTHER]))


def test_a_foreign_signature_under_a_trusted_name_is_refused() -> None:
    forged = json.loads(seal(PAYLOAD, TYPE, [OTHER]))["signatures"][0]["sig"]
    signature = {"keyid": key_id(KEY.public_key()), "sig": forged}
    with pytest.raises(BundleError, match="does not match"):
        opened(changed(signatures=[signature]))


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_no_changed_byte_gives_another_payload(place: int, flip: int) -> None:
    data = bytearray(seal(PAYLOAD, TYPE, [KEY]))
    data[place % len(data)] ^= flip
    try:
        payload = opened(bytes(data))
    except BundleError:
        payload = PAYLOAD  # refused: as good
    assert payload == PAYLOAD


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        changed(signatures=[]),
        changed(signatures=[{"keyid": "0" * 64, "sig": ""}] * 9),
        changed(payload="e30"),
        changed(payload="*"),
        changed(payload=7),
        changed(extra=1),
        changed(signatures=[{"keyid": "short", "sig": ""}]),
        seal(PAYLOAD, TYPE, [KEY])[:-1] + b',"payload":"e30="}',
        b" " * (MAX_ENVELOPE_BYTES + 1),
    ],
)
def test_damaged_documents_are_refused(data: bytes) -> None:
    with pytest.raises(BundleError, match=r"^doc\.json: is "):
        opened(data)


def test_keys_survive_their_files() -> None:
    again = read_private_key(private_pem(KEY), name="key")
    assert again.private_bytes_raw() == KEY.private_bytes_raw()
    public = read_public_key(public_pem(KEY.public_key()), name="key.pub")
    assert key_id(public) == key_id(KEY.public_key())


def test_other_keys_are_refused() -> None:
    other = X25519PrivateKey.generate()
    pem = other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = other.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for data in (pem, b"", public_pem(KEY.public_key())):
        with pytest.raises(ConfigError, match=r"^key: "):
            read_private_key(data, name="key")
    for data in (public, b"", private_pem(KEY)):
        with pytest.raises(ConfigError, match=r"^key: "):
            read_public_key(data, name="key")

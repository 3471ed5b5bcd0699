"""Signed documents: a DSSE-style envelope over canonical JSON, Ed25519.

Rules
- What is signed is the pre-authentication encoding of the payload's type and bytes (DSSE 1.0.2),
  so a signature for one type of document is worth nothing for another.
- The payload is canonical JSON (RFC 8785); its sha256 names the document.
- A key's id is the sha256 of its 32 public bytes. An envelope's `keyid` chooses which trusted key
  to try; it is never by itself a reason to trust.
- `open_envelope` gives the payload of a valid signature and nothing else: parse what it returns,
  never the envelope.

This says who signed a document. Whether it still holds (dates, revocation) is asked elsewhere.

Example::

    data = seal(canonical_bytes(document), "application/vnd.example+json", [key])
    payload = open_envelope(data, "application/vnd.example+json", trusted, name="doc.json")
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edge_runtime.bundle.canonical import canonical_bytes, parse_strict
from edge_runtime.bundle.manifest import Sha256
from edge_runtime.errors import BundleError, ConfigError

MAX_ENVELOPE_BYTES = 1024 * 1024
MAX_SIGNATURES = 8

TrustedKeys = Mapping[str, Ed25519PublicKey]


class _Signature(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    keyid: Sha256
    sig: Annotated[str, Field(max_length=128)]


class _Envelope(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    payload_type: str = Field(alias="payloadType", max_length=128)
    payload: str
    signatures: tuple[_Signature, ...] = Field(min_length=1, max_length=MAX_SIGNATURES)


def seal(payload: bytes, payload_type: str, keys: Sequence[Ed25519PrivateKey]) -> bytes:
    """The canonical envelope of `payload`, signed by each key in this order."""
    message = _pre_authentication(payload, payload_type)
    signatures = [
        {"keyid": key_id(key.public_key()), "sig": _encode(key.sign(message))} for key in keys
    ]
    return canonical_bytes(
        {"payloadType": payload_type, "payload": _encode(payload), "signatures": signatures}
    )


def open_envelope(data: bytes, payload_type: str, trusted: TrustedKeys, *, name: str) -> bytes:
    """The payload, once one signature by a trusted key is valid.

    `name` stands for the document in errors. Raises `BundleError` when the envelope is damaged
    or of another type, when no trusted key signed it, or when such a signature is wrong.
    """
    payload, signatures = _parsed(data, payload_type, name)
    message = _pre_authentication(payload, payload_type)
    for keyid, signature in signatures:
        if keyid in trusted:
            try:
                trusted[keyid].verify(signature, message)
            except InvalidSignature as error:
                reason = f"the signature of key {keyid[:12]} does not match: it was altered"
                raise BundleError(name, reason) from error
            return payload
    signers = ", ".join(keyid[:12] for keyid, _ in signatures)
    raise BundleError(name, f"is signed by {signers}, no key that is trusted here")


def kept_payload(data: bytes, payload_type: str, *, name: str) -> bytes:
    """The payload of an envelope that was opened before it was kept: no signature is looked at.

    Only for bytes whose digest is remembered from then. Raises `BundleError` when it is damaged.
    """
    return _parsed(data, payload_type, name)[0]


def _parsed(data: bytes, payload_type: str, name: str) -> tuple[bytes, list[tuple[str, bytes]]]:
    """Payload and signatures by key id, nothing of it verified."""
    if len(data) > MAX_ENVELOPE_BYTES:
        raise BundleError(name, f"is larger than {MAX_ENVELOPE_BYTES} bytes")
    try:
        parse_strict(data)  # refuses what pydantic's reader lets pass: keys named twice
        envelope = _Envelope.model_validate_json(data, strict=True)
        payload = _decode(envelope.payload)
        signatures = [(item.keyid, _decode(item.sig)) for item in envelope.signatures]
    except ValidationError as error:
        raise BundleError(name, f"is no signed document: {error.errors()[0]['msg']}") from error
    except ValueError as error:
        raise BundleError(name, f"is no signed document: {error}") from error
    if envelope.payload_type != payload_type:
        raise BundleError(name, f"is a {envelope.payload_type!r:.140}, not a {payload_type}")
    return payload, signatures


def key_id(key: Ed25519PublicKey) -> str:
    """The sha256, in hex, of the key's 32 bytes."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()


def trust(keys: Iterable[Ed25519PublicKey]) -> dict[str, Ed25519PublicKey]:
    """Keys by their ids, as `open_envelope` takes them."""
    return {key_id(key): key for key in keys}


def read_private_key(data: bytes, *, name: str) -> Ed25519PrivateKey:
    """The key of an unencrypted PKCS #8 PEM file. Raises `ConfigError`."""
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{name}: no unencrypted private key in PEM form: {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{name}: is not an Ed25519 key; make one with `edge-export keygen`")
    return key


def read_public_key(data: bytes, *, name: str) -> Ed25519PublicKey:
    """The key of a PEM file. Raises `ConfigError`."""
    try:
        key = serialization.load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{name}: no public key in PEM form: {error}") from error
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError(f"{name}: is not an Ed25519 key")
    return key


def public_key_of_hex(text: str, *, name: str) -> Ed25519PublicKey:
    """The key of its 32 bytes in hex, as TUF metadata lists it. Raises `BundleError`."""
    try:
        return Ed25519PublicKey.from_public_bytes(bytes.fromhex(text))
    except ValueError as error:
        raise BundleError(name, f"is not an Ed25519 key: {error}") from error


def private_pem(key: Ed25519PrivateKey) -> bytes:
    """PKCS #8 PEM, not encrypted: the file's permissions are all that guards it."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def public_pem(key: Ed25519PublicKey) -> bytes:
    """SubjectPublicKeyInfo PEM."""
    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _pre_authentication(payload: bytes, payload_type: str) -> bytes:
    kind = payload_type.encode("utf-8")
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _decode(text: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"holds bad base64: {error}") from error
    if _encode(data) != text:
        raise ValueError("holds base64 in another form than the standard one")
    return data

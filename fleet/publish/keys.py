"""Signing keys in files: made, read, and found by what they may sign.

Rules
- A key is one PKCS #8 PEM file of mode 0600, encrypted where a passphrase was given. A file that
  others may read is refused.
- A file's name is for people. What a key may sign is said by the metadata that lists its id, and
  nowhere else: `KeyRing` finds keys by id.
- A key's id is that of `bundle.envelope.key_id`, so that one key has one name in TUF metadata and
  in envelopes.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from securesystemslib.signer import CryptoSigner, SSlibKey

from edge_runtime.bundle.envelope import key_id
from edge_runtime.errors import ConfigError

MAX_KEY_BYTES = 16 * 1024
MAX_KEYS = 256


def public_key(key: Ed25519PublicKey) -> SSlibKey:
    """The key as TUF metadata lists it."""
    return SSlibKey.from_crypto(key, keyid=key_id(key))


@dataclass(frozen=True)
class KeyRing:
    """Private keys by id. `paths` says where each came from, for messages."""

    keys: Mapping[str, Ed25519PrivateKey]
    paths: Mapping[str, Path] = field(default_factory=dict)

    @classmethod
    def load(cls, directories: Iterable[Path], passphrase: bytes | None = None) -> KeyRing:
        """All keys in `*.pem` of these folders and of the folders in them.

        Raises `ConfigError` for a folder that is not there, a file others may read, a wrong
        passphrase or no key at all.
        """
        keys: dict[str, Ed25519PrivateKey] = {}
        paths: dict[str, Path] = {}
        for directory in directories:
            if not directory.is_dir():
                raise ConfigError(
                    f"{directory}: is no folder; make keys with `edge-fleet keys init`"
                )
            for path in sorted([*directory.glob("*.pem"), *directory.glob("*/*.pem")]):
                key = read_key(path, passphrase)
                keys[key_id(key.public_key())] = key
                paths[key_id(key.public_key())] = path
        if not keys or len(keys) > MAX_KEYS:
            where = ", ".join(str(item) for item in directories)
            raise ConfigError(f"{where}: holds {len(keys)} keys (*.pem); 1 to {MAX_KEYS} are used")
        return cls(keys, paths)

    def signers(self, ids: Iterable[str]) -> list[CryptoSigner]:
        """Signers for those of `ids` whose key is here, in that order."""
        here = [self.keys[item] for item in ids if item in self.keys]
        return [CryptoSigner(key, public_key(key.public_key())) for key in here]

    def with_keys(self, keys: Iterable[Ed25519PrivateKey]) -> KeyRing:
        """A ring with these keys as well."""
        more = {key_id(key.public_key()): key for key in keys}
        return KeyRing({**self.keys, **more}, self.paths)


def read_key(path: Path, passphrase: bytes | None) -> Ed25519PrivateKey:
    """The key of one file. Raises `ConfigError` that says what to do."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    with os.fdopen(fd, "rb") as file:
        mode = os.fstat(fd).st_mode
        if not stat.S_ISREG(mode) or mode & 0o077:
            raise ConfigError(f"{path}: others may read this key; run `chmod 600 {path}`")
        data = file.read(MAX_KEY_BYTES)
    try:
        encrypted = b"ENCRYPTED PRIVATE KEY" in data
        if encrypted and passphrase is None:
            raise ConfigError(f"{path}: is encrypted; give --passphrase-file")
        key = serialization.load_pem_private_key(data, passphrase if encrypted else None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{path}: no private key, or another passphrase: {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{path}: is not an Ed25519 key; make one with `edge-fleet keys init`")
    return key


def write_key(path: Path, key: Ed25519PrivateKey, passphrase: bytes | None) -> None:
    """Write a new key file, mode 0600, durable on return. Never replaces one.

    Raises `ConfigError` when the file is there already or cannot be written.
    """
    protection: serialization.KeySerializationEncryption = (
        serialization.NoEncryption()
        if passphrase is None
        else serialization.BestAvailableEncryption(passphrase)
    )
    data = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection
    )
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(fd)
        parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(parent)
        finally:
            os.close(parent)
    except FileExistsError as error:
        raise ConfigError(f"{path}: is there already; keys are never overwritten") from error
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error

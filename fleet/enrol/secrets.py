"""Secrets that are worked out instead of stored, and their form in mosquitto's password file.

Rules
- One root secret of 32 random bytes (mode 0600) makes every broker password and every ticket, by
  HMAC over what it is for. A lost reply is answered again with the same words, and no table holds
  a password that could be read.
- What mosquitto reads is a salted PBKDF2-SHA512 hash, `$7$<iterations>$<salt>$<hash>`. Our
  passwords have 256 bits, so the iterations guard nothing; few of them keep a broker quick when
  ten thousand boxes come back at once.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from edge_runtime.errors import ConfigError

ITERATIONS: Final = 101
"""mosquitto's own default."""
_SALT_BYTES: Final = 12
"""What mosquitto 2.0 writes and reads; 2.1 reads it as well."""
_ROOT_BYTES: Final = 32


@dataclass(frozen=True)
class RootSecret:
    """The secret behind all others."""

    value: bytes = field(repr=False)

    @classmethod
    def load(cls, path: Path) -> RootSecret:
        """Read it, or make it when there is none. Raises `ConfigError`."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            try:
                made = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            except FileExistsError:
                return cls._read(path)
            with os.fdopen(made, "wb") as file:
                file.write(secrets.token_bytes(_ROOT_BYTES))
                file.flush()
                os.fsync(file.fileno())
            return cls._read(path)
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}; name a folder we may write") from error

    @classmethod
    def _read(cls, path: Path) -> RootSecret:
        if path.stat().st_mode & 0o077:
            raise ConfigError(f"{path}: others may read it; run `chmod 600 {path}`")
        value = path.read_bytes()
        if len(value) != _ROOT_BYTES:
            raise ConfigError(f"{path}: must hold {_ROOT_BYTES} bytes; restore it from a copy")
        return cls(value)

    def derive(self, purpose: str, *about: str) -> str:
        """256 bits for one purpose and one subject, as 43 characters fit for URLs."""
        message = "\0".join((purpose, *about)).encode()
        digest = hmac.new(self.value, message, hashlib.sha256).digest()
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def mosquitto_hash(password: str, salt: bytes | None = None) -> str:
    """The password as mosquitto's password file holds it. Costs some 0.1 ms."""
    salt = secrets.token_bytes(_SALT_BYTES) if salt is None else salt
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, ITERATIONS)
    parts = (base64.b64encode(part).decode() for part in (salt, digest))
    return f"$7${ITERATIONS}${'$'.join(parts)}"


def mosquitto_verify(password: str, stored: str) -> bool:
    """Whether `stored`, as mosquitto would, accepts `password`."""
    try:
        _, kind, iterations, salt, digest = stored.split("$")
        expected = base64.b64decode(digest, validate=True)
        made = hashlib.pbkdf2_hmac(
            "sha512", password.encode(), base64.b64decode(salt, validate=True), int(iterations)
        )
    except ValueError:
        return False
    return kind == "7" and hmac.compare_digest(made, expected)


def sha256_of(secret: str) -> str:
    """How claims and tickets are stored: they are random, there is nothing to guess."""
    return hashlib.sha256(secret.encode()).hexdigest()

"""Who this box is: its own key and what it was granted, in one file that is old or new.

Rules
- The key is made on the box and never leaves it. The folder is its owner's only.
- Key and grant lie in one file, so that a rotation cannot leave one without the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID
from pydantic import Field

from edge_runtime.agent.link import Session, Will
from edge_runtime.agent.protocol import Document, Grant
from edge_runtime.agent.transport import MqttTransport
from edge_runtime.bundle.envelope import (
    TrustedKeys,
    private_pem,
    read_private_key,
    read_public_key,
    trust,
)
from edge_runtime.bundle.files import Files, exists, make_dirs, write_atomically
from edge_runtime.errors import BundleError, ConfigError, TransportError

NAME = "credential.json"
_PRIVATE_DIR = 0o700


class Credential(Document):
    """The file. `ticket` is that of an enrolment that waits; `grant` None until then."""

    max_bytes: ClassVar[int] = 1024 * 1024

    schema_: Literal["edge-runtime/credential/1"] = Field(
        "edge-runtime/credential/1", alias="schema"
    )
    url: str = Field(max_length=512)
    key_pem: str = Field(max_length=4096)
    ticket: str | None = None
    grant: Grant | None = None

    def key(self) -> Ed25519PrivateKey:
        """The box's own key. Raises `ConfigError`."""
        return read_private_key(self.key_pem.encode(), name=NAME)

    def want_keys(self) -> TrustedKeys:
        """Who may sign `want` and `do`, as granted. Raises `ConfigError`."""
        pems = () if self.grant is None else self.grant.want_keys_pem
        return trust(read_public_key(pem.encode(), name="want key") for pem in pems)


def new_credential(url: str) -> Credential:
    """A fresh key for a control host."""
    return Credential(url=url, key_pem=private_pem(Ed25519PrivateKey.generate()).decode())


def signing_request(key: Ed25519PrivateKey, name: str) -> str:
    """A certificate signing request for the box's key, as PEM."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, None)
    return request.public_bytes(serialization.Encoding.PEM).decode()


def rotation_due(grant: Grant, now_s: float) -> bool:
    """Whether less than a quarter of the certificate's life is left; never for passwords."""
    if grant.certificate_pem is None:
        return False
    held = x509.load_pem_x509_certificate(grant.certificate_pem.encode())
    begin, end = held.not_valid_before_utc.timestamp(), held.not_valid_after_utc.timestamp()
    return now_s > end - (end - begin) / 4


class CredentialStore:
    """The folder that holds it. Blocks on the disk."""

    def __init__(self, directory: Path, files: Files) -> None:
        self.directory = directory
        self._files = files

    def load(self) -> Credential | None:
        """The credential, or None where there is none. Raises `ConfigError` when damaged."""
        path = self.directory / NAME
        if not exists(self._files, path):
            return None
        try:
            return Credential.from_bytes(self._files.read(path, Credential.max_bytes + 1))
        except BundleError as error:
            raise ConfigError(f"{path}: {error}; enrol this box again") from error

    def save(self, credential: Credential) -> None:
        """Keep it; durable on return."""
        make_dirs(self._files, self.directory)
        if self.directory.is_dir():  # a disk in memory has no permissions
            self.directory.chmod(_PRIVATE_DIR)
        write_atomically(self._files, self.directory / NAME, credential.to_bytes())

    def tls_files(self, credential: Credential) -> tuple[Path | None, Path | None, Path | None]:
        """CA, certificate and key as the files that TLS libraries read; None where not granted."""
        grant = credential.grant
        if grant is None:
            return None, None, None
        ca = self._write("ca.pem", grant.ca_pem)
        certificate = self._write("certificate.pem", grant.certificate_pem)
        key = self._write("key.pem", credential.key_pem) if certificate is not None else None
        return ca, certificate, key

    def _write(self, name: str, text: str | None) -> Path | None:
        if text is None:
            return None
        path = self.directory / name
        draft = path.with_name(name + ".tmp")
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(text)
        draft.replace(path)
        return path


@dataclass(frozen=True, slots=True)
class CredentialTransport:
    """A `Transport` with the credential as it is at each connect, so that a rotation counts."""

    credentials: CredentialStore
    keepalive_s: int

    @contextlib.asynccontextmanager
    async def connect(self, will: Will) -> AsyncIterator[Session]:
        """See `Transport`."""
        transport = await asyncio.to_thread(self._transport)
        async with transport.connect(will) as session:
            yield session

    def _transport(self) -> MqttTransport:
        credential = self.credentials.load()
        if credential is None or credential.grant is None:
            raise TransportError("this box is not enrolled any more")
        grant = credential.grant
        ca, certificate, key = self.credentials.tls_files(credential)
        return MqttTransport(
            grant.principal,
            grant.broker,
            keepalive_s=self.keepalive_s,
            ca=ca,
            certificate=certificate,
            key=key,
        )

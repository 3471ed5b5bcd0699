"""A certificate authority for boxes, and for a broker and control host of one's own.

Rules
- The authority's key is ECDSA P-256, which every TLS stack takes; a box's own key is Ed25519.
- A box's certificate says one thing: its principal, as the common name, for client use only. A
  broker with `use_identity_as_username` then knows it by that name. Common names end at 64
  characters, and so do the names of boxes with certificates.
- A certificate signing request is believed for its key, and only when it proves to have it. What
  else it asks for is ignored.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edge_runtime.errors import ConfigError, UsageError
from fleet.enrol.broker import write_atomically

CA_DAYS: Final = 3650
_EARLIER: Final = timedelta(hours=1)
"""Certificates hold from a little before now: the clocks of broker and authority differ."""
MAX_NAME_CHARS: Final = 64
_PEM = serialization.Encoding.PEM


@dataclass(frozen=True)
class Issued:
    """A certificate, its serial number in hex, and the end of its life."""

    pem: str
    serial: str
    expires_s: float


class CertificateAuthority:
    """Signs certificates with one key. See `open_authority`."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        self._key = key
        self._certificate = certificate

    @property
    def pem(self) -> str:
        """The certificate that others trust."""
        return self._certificate.public_bytes(_PEM).decode()

    def for_box(
        self, csr_pem: str, key: Ed25519PublicKey, principal: str, *, now_s: float, days: int
    ) -> Issued:
        """A client certificate for `key`. Raises `UsageError` for a request that is not its own."""
        check_request(csr_pem, key)
        if len(principal) > MAX_NAME_CHARS:
            raise UsageError(
                f"{principal}: certificates name at most {MAX_NAME_CHARS} characters",
                code="name_too_long",
            )
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
        return self._issue(_name(principal), key, [usage], now_s=now_s, days=days)

    def for_server(self, hosts: Iterable[str], *, now_s: float, days: int) -> tuple[Issued, str]:
        """A server certificate for names and addresses, and its new private key as PEM."""
        hosts = list(hosts)
        key = ec.generate_private_key(ec.SECP256R1())
        extensions = [
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]),
            x509.SubjectAlternativeName([_host(host) for host in hosts]),
        ]
        name = _name(hosts[0][:MAX_NAME_CHARS])
        issued = self._issue(name, key.public_key(), extensions, now_s=now_s, days=days)
        return issued, _private_pem(key)

    def revocations(self, serials: Iterable[str], *, now_s: float, days: int = 365) -> str:
        """The list of certificates that hold no more, as PEM."""
        now = _time(now_s)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._certificate.subject)
            .last_update(now - _EARLIER)
            .next_update(now + timedelta(days=days))
        )
        for serial in serials:
            entry = x509.RevokedCertificateBuilder().serial_number(int(serial, 16))
            builder = builder.add_revoked_certificate(entry.revocation_date(now).build())
        return builder.sign(self._key, hashes.SHA256()).public_bytes(_PEM).decode()

    def _issue(
        self,
        name: x509.Name,
        key: Ed25519PublicKey | ec.EllipticCurvePublicKey,
        extensions: Iterable[x509.ExtensionType],
        *,
        now_s: float,
        days: int,
    ) -> Issued:
        now = _time(now_s)
        expires = min(now + timedelta(days=days), self._certificate.not_valid_after_utc)
        authority = self._certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._certificate.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _EARLIER)
            .not_valid_after(expires)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(authority.value),
                critical=False,
            )
        )
        for extension in extensions:
            builder = builder.add_extension(extension, critical=False)
        made = builder.sign(self._key, hashes.SHA256())
        return Issued(
            made.public_bytes(_PEM).decode(), f"{made.serial_number:x}", expires.timestamp()
        )


def open_authority(folder: Path, *, now_s: float) -> CertificateAuthority:
    """The authority in `folder` (`ca.pem`, `ca-key.pem`), made when there is none.

    Raises `ConfigError`.
    """
    key_path, certificate_path = folder / "ca-key.pem", folder / "ca.pem"
    try:
        if not key_path.exists():
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            key, certificate = _new_authority(now_s)
            write_atomically(certificate_path, certificate.public_bytes(_PEM).decode(), 0o644)
            # The key comes last: without it the next start makes both anew.
            write_atomically(key_path, _private_pem(key))
        if key_path.stat().st_mode & 0o077:
            raise ConfigError(f"{key_path}: others may read it; run `chmod 600 {key_path}`")
        loaded = serialization.load_pem_private_key(key_path.read_bytes(), password=None)
        certificate = x509.load_pem_x509_certificate(certificate_path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{folder}: no certificate authority: {error}") from error
    if not isinstance(loaded, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"{key_path}: is not an elliptic curve key")
    return CertificateAuthority(loaded, certificate)


def check_request(csr_pem: str, key: Ed25519PublicKey) -> None:
    """Raises `UsageError` unless the request is for `key` and was signed with it."""
    try:
        request = x509.load_pem_x509_csr(csr_pem.encode())
        key.verify(request.signature, request.tbs_certrequest_bytes)
        own = request.public_key()
    except (ValueError, UnsupportedAlgorithm, InvalidSignature) as error:
        raise UsageError(
            f"the certificate signing request does not prove that it has its key: {error}",
            param="csr_pem",
            code="invalid_csr",
        ) from error
    if own != key:
        raise UsageError(
            "the certificate signing request is for another key",
            param="csr_pem",
            code="invalid_csr",
        )


def _new_authority(now_s: float) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key, now = ec.generate_private_key(ec.SECP256R1()), _time(now_s)
    name = _name(f"edge-fleet {os.urandom(4).hex()}")
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _EARLIER)
        .not_valid_after(now + timedelta(days=CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=True,
                key_cert_sign=True,
                crl_sign=True,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return key, builder.sign(key, hashes.SHA256())


def _private_pem(key: ec.EllipticCurvePrivateKey) -> str:
    plain = serialization.NoEncryption()
    return key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, plain).decode()


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _host(host: str) -> x509.GeneralName:
    with contextlib.suppress(ValueError):
        return x509.IPAddress(ipaddress.ip_address(host))
    return x509.DNSName(host)


def _time(now_s: float) -> datetime:
    return datetime.fromtimestamp(now_s, UTC).replace(microsecond=0)

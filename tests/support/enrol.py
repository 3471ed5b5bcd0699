"""Boxes that ask to be let in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID

from edge_runtime.agent.protocol import EnrolRequest, RotateRequest
from edge_runtime.bundle.envelope import public_pem
from fleet.db.database import Database
from fleet.enrol import claims
from fleet.enrol.broker import MemoryCredentials
from fleet.enrol.secrets import RootSecret
from fleet.enrol.service import EnrolmentService, Offer
from tests.support.fleet import HARDWARE, NOW_S, VERSIONS

ORDERS_KEY = Ed25519PrivateKey.from_private_bytes(b"o" * 32)
OFFER = Offer(
    host="broker.example",
    port=8883,
    tls=True,
    api="https://fleet.example",
    want_keys_pem=(public_pem(ORDERS_KEY.public_key()).decode(),),
)


def csr(key: Ed25519PrivateKey, name: str = "whatever") -> str:
    """A certificate signing request."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    )
    return builder.sign(key, None).public_bytes(serialization.Encoding.PEM).decode()


@dataclass
class AskingBox:
    """A box with a key of its own."""

    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)

    def request(self, claim: str, **changes: Any) -> bytes:
        """The body of `POST /v1/enrol`."""
        values: dict[str, Any] = {
            "claim": claim,
            "box": "box-1",
            "public_key_pem": public_pem(self.key.public_key()).decode(),
            "csr_pem": csr(self.key),
            "hardware": HARDWARE,
            "versions": VERSIONS,
        }
        return EnrolRequest(**{**values, **changes}).sealed([self.key])

    def rotation(self, new: Ed25519PrivateKey, principal: str, **changes: Any) -> bytes:
        """The body of `POST /v1/rotate`."""
        values: dict[str, Any] = {
            "principal": principal,
            "issued_s": int(NOW_S),
            "public_key_pem": public_pem(new.public_key()).decode(),
            "csr_pem": csr(new),
        }
        return RotateRequest(**{**values, **changes}).sealed([self.key])


def enrolment_service(database: Database, **changes: Any) -> EnrolmentService:
    """A service with everything in memory but the database."""
    values: dict[str, Any] = {
        "database": database,
        "secret": RootSecret(b"r" * 32),
        "offer": lambda: OFFER,
        "broker": MemoryCredentials(),
        "now": lambda: NOW_S,
    }
    return EnrolmentService(**{**values, **changes})


async def new_claim(database: Database, **changes: Any) -> str:
    """The secret of a claim that lets a box of `acme` in at once."""
    values: dict[str, Any] = {
        "tenant": "acme",
        "box": None,
        "labels": {"site": "oslo"},
        "approve": True,
        "lives_s": 3600.0,
        "by": "ops",
        "now_s": NOW_S,
    }
    make: Callable[..., Any] = claims.create
    made = await database.write(lambda connection: make(connection, **{**values, **changes}))
    return str(made[1])

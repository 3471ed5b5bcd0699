"""How simulated boxes join a fleet: each with a claim and a key of its own, as real ones do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from sqlalchemy import Connection

from edge_runtime.agent.protocol import EnrolAnswer, EnrolRequest, Grant, split_principal
from edge_runtime.bundle.envelope import TrustedKeys, public_pem, read_public_key, trust
from edge_runtime.errors import UsageError
from fleet.enrol.claims import create
from fleet.simulator.world import BoxSpec

AT_ONCE: Final = 64
_CLAIM_LIVES_S: Final = 86_400.0

Ask = Callable[[bytes], Awaitable[EnrolAnswer]]
"""Hands a signed request to the control host: its service, or its API."""


async def join(specs: Sequence[BoxSpec], claims: Sequence[str], ask: Ask) -> dict[str, Grant]:
    """Enrol boxes, a claim each, `AT_ONCE` at a time; grants by principal.

    Raises what `ask` raises, and `UsageError` for a box that is not let in.
    """
    room = asyncio.Semaphore(AT_ONCE)

    async def one(spec: BoxSpec, secret: str) -> Grant:
        async with room:
            answer = await ask(_request(spec, secret))
        if answer.grant is None:
            raise UsageError(f"{spec.principal} was not let in: {answer.state} {answer.reason}")
        return answer.grant

    grants = await asyncio.gather(*map(one, specs, claims))
    return {grant.principal: grant for grant in grants}


def keys_of(grant: Grant) -> TrustedKeys:
    """Whose wants a box with this grant believes."""
    return trust(read_public_key(pem.encode(), name="want_keys_pem") for pem in grant.want_keys_pem)


def make_claims(connection: Connection, specs: Sequence[BoxSpec], *, now_s: float) -> list[str]:
    """A claim for each box, which lets it in without asking anybody; their secrets."""
    found = []
    for spec in specs:
        tenant, box = split_principal(spec.principal)
        _, secret = create(
            connection, tenant=tenant, box=box, labels={}, approve=True, lives_s=_CLAIM_LIVES_S,
            by="simulator", now_s=now_s,
        )  # fmt: skip
        found.append(secret)
    return found


def _request(spec: BoxSpec, claim: str) -> bytes:
    key = Ed25519PrivateKey.generate()
    _, box = split_principal(spec.principal)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, box)])
    signed = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, None)
    request = EnrolRequest(
        claim=claim,
        box=box,
        public_key_pem=public_pem(key.public_key()).decode(),
        csr_pem=signed.public_bytes(Encoding.PEM).decode(),
        hardware=spec.hardware,
        versions=spec.versions,
        labels=dict(spec.labels),
    )
    return request.sealed([key])

"""Letting boxes in, giving them new credentials, and putting them out.

Rules
- Nothing is believed of a request before its own key's signature and its claim hold.
- What is granted is committed first, then the broker's files are brought in step, then the box
  is answered: an answer it acts on is always true.
- The same signed request gets the same answer, for a day after it was granted; so a lost reply
  costs nothing, and a copy of it found later is worth nothing.
- A claim made for one named box may replace that box's credentials (a new disk, say). No other
  claim can take the name of a box that is there.
"""

from __future__ import annotations

import functools
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from sqlalchemy import Connection

from edge_runtime.agent.protocol import (
    BrokerAccess,
    EnrolAnswer,
    EnrolRequest,
    Grant,
    MqttVersion,
    RotateRequest,
    principal_of,
    unchecked_payload,
)
from edge_runtime.bundle.envelope import TrustedKeys, key_id, read_public_key
from edge_runtime.errors import BundleError, CapacityError, ConfigError, UsageError
from fleet.db.database import Database
from fleet.enrol import claims, credentials, requests
from fleet.enrol.broker import Credentials
from fleet.enrol.ca import CertificateAuthority, check_request
from fleet.enrol.claims import Claim
from fleet.enrol.credentials import NewCredential
from fleet.enrol.policy import Answer, Policy, by_claim
from fleet.enrol.requests import Enrolment
from fleet.enrol.secrets import RootSecret, mosquitto_hash
from fleet.enrol.shared import Shared
from fleet.registry import boxes
from fleet.registry.audit import SYSTEM, Actor, note

ANSWER_AGAIN_S: Final = 86_400.0
ROTATE_SKEW_S: Final = 86_400.0
_POLL_AFTER_S: Final = 10.0


@dataclass(frozen=True)
class Offer:
    """What every box is told alike; see `Grant`."""

    host: str
    port: int
    tls: bool
    api: str
    want_keys_pem: tuple[str, ...]
    sources: tuple[str, ...] = ()
    metadata: str | None = None
    ca_pem: str | None = None
    tuf_root: str | None = None
    mqtt: MqttVersion = "5"


@dataclass(frozen=True)
class EnrolRules:
    """`mode`: what a box shows to the broker."""

    mode: Literal["password", "certificate"] = "password"
    certificate_days: int = 365
    max_pending: int = 10_000


@dataclass
class EnrolmentService:
    """The service; `authority` is needed for certificates only."""

    database: Database
    secret: RootSecret
    offer: Callable[[], Offer]
    broker: Credentials
    authority: CertificateAuthority | None = None
    rules: EnrolRules = field(default_factory=EnrolRules)
    policy: Policy = by_claim
    now: Callable[[], float] = time.time
    _behind: bool = field(default=True, init=False)
    _in_step: Shared = field(init=False)

    def __post_init__(self) -> None:
        self._in_step = Shared(self._bring_in_step)
        if self.rules.mode == "certificate" and self.authority is None:
            raise ConfigError("enrol.mode: certificates need a certificate authority")

    async def enrol(self, body: bytes) -> EnrolAnswer:
        """Answer a box's first request.

        Raises `BundleError` for a request that is none, `UsageError` (403, 409) for a claim that
        does not hold, `CapacityError` when too many wait for a decision already.
        """
        request = EnrolRequest.self_signed(body)
        key = read_public_key(request.public_key_pem.encode(), name="public_key_pem")
        check_request(request.csr_pem, key)
        enrolment, ticket, granted_now = await self.database.write(
            functools.partial(self._take, request=request, key=key)
        )
        self._behind = self._behind or granted_now
        return await self._answer(enrolment, ticket)

    async def poll(self, ticket: str) -> EnrolAnswer:
        """Answer a box that waits. Raises `UsageError` for an unknown ticket."""
        enrolment = await self.database.read(lambda c: requests.of_ticket(c, ticket))
        if enrolment is None:
            raise UsageError("there is no such ticket", code="not_found", status=404)
        return await self._answer(enrolment, ticket)

    async def decide(
        self, enrolment_id: str, *, approve: bool, reason: str, actor: Actor
    ) -> Enrolment:
        """What an operator says of a request. Raises `UsageError`."""

        def work(connection: Connection) -> Enrolment:
            found = requests.get(connection, enrolment_id)
            if approve:
                return self._let_in(connection, found, actor)
            return self._refuse(connection, found, reason or "refused by an operator", actor)

        done = await self.database.write(work)
        if approve:
            await self.sync()
        return done

    async def rotate(self, body: bytes) -> EnrolAnswer:
        """A new credential for a box that signs with its present key.

        Raises `BundleError` for a request that no present key of the box signed.
        """
        name = RotateRequest.__name__
        claimed = RotateRequest.parse(unchecked_payload(body, RotateRequest.max_bytes, name))
        ticket = self.secret.derive("rotation", claimed.principal, claimed.public_key_pem)
        issued = await self.database.write(
            lambda connection: self._rotate(connection, body, claimed.principal)
        )
        await self.sync()
        grant = self._grant(claimed.principal, issued)
        return EnrolAnswer(state="granted", ticket=ticket, grant=grant)

    async def revoke(self, principal: str, *, actor: Actor, reason: str = "") -> None:
        """Put a box out: its credentials end, and the broker forgets it. Raises `UsageError`."""

        def work(connection: Connection) -> None:
            boxes.set_status(connection, principal, "revoked")
            credentials.end_all(connection, principal, now_s=self.now())
            self._note(connection, actor, "box.revoke", principal, {"reason": reason})

        await self.database.write(work)
        await self.sync()

    async def sync(self) -> None:
        """Bring what the broker knows in step with the database. Raises `ConfigError`.

        Reads every credential, so boxes that join in a moment share one: a fleet of thousands
        would not get in otherwise.
        """
        try:
            await self._in_step.run()
        except BaseException:
            self._behind = True  # what failed is done with the next answer
            raise
        self._behind = False

    async def _bring_in_step(self) -> None:
        now_s = self.now()
        passwords, ended = await self.database.read(
            lambda c: (credentials.passwords(c), credentials.ended_serials(c, now_s=now_s))
        )
        revocations = None
        if self.authority is not None:
            revocations = self.authority.revocations(ended, now_s=now_s)
        await self.broker.update(passwords, revocations)

    # Inside one transaction.

    def _take(
        self, connection: Connection, *, request: EnrolRequest, key: Ed25519PublicKey
    ) -> tuple[Enrolment, str, bool]:
        now_s, mine = self.now(), key_id(key)
        claim = claims.use(connection, request.claim, mine, now_s=now_s)
        ticket = self.secret.derive("ticket", claim.id, mine)
        before = requests.of_claim(connection, claim.id, mine)
        if before is not None:
            return before, ticket, False
        if requests.pending(connection) >= self.rules.max_pending:
            raise CapacityError("too many boxes wait to be let in", retry_after_s=300.0)
        principal = self._principal(connection, request, claim)
        enrolment = requests.add(
            connection,
            request,
            claim,
            principal=principal,
            key_id=mine,
            ticket=ticket,
            now_s=now_s,
        )
        answer = self.policy(request, claim, principal)
        if answer is Answer.APPROVE:
            enrolment = self._let_in(connection, enrolment, SYSTEM)
        elif answer is Answer.REFUSE:
            reason = "this control host does not let such boxes in"
            enrolment = self._refuse(connection, enrolment, reason, SYSTEM)
        return enrolment, ticket, enrolment.state == "granted"

    def _principal(self, connection: Connection, request: EnrolRequest, claim: Claim) -> str:
        name = claim.box or request.box or f"box-{secrets.token_hex(4)}"
        principal = principal_of(claim.tenant, name)
        if claim.box is None and boxes.exists(connection, principal):
            raise UsageError(
                f"there is a box {principal} already; take another name, or ask for a claim that "
                "was made for this box",
                param="box",
                code="taken",
                status=409,
            )
        return principal

    def _let_in(self, connection: Connection, enrolment: Enrolment, actor: Actor) -> Enrolment:
        now_s, request = self.now(), enrolment.asked()
        key = read_public_key(request.public_key_pem.encode(), name="public_key_pem")
        claim = claims.get(connection, enrolment.claim)
        done = requests.decided(connection, enrolment, "granted", "", actor.name, now_s=now_s)
        if claim.box is not None and boxes.exists(connection, enrolment.principal):
            credentials.end_all(connection, enrolment.principal, now_s=now_s)
            boxes.set_status(connection, enrolment.principal, "active")
            boxes.set_labels(connection, enrolment.principal, claim.labels)
        else:
            boxes.add(connection, enrolment.principal, claim.labels, now_s=now_s)
        new = self._new_credential(enrolment.principal, request.csr_pem, key)
        credentials.issue(connection, enrolment.principal, new, state="active", now_s=now_s)
        self._note(connection, actor, "box.enrol", enrolment.principal, {"key": enrolment.key_id})
        return done

    def _refuse(
        self, connection: Connection, enrolment: Enrolment, reason: str, actor: Actor
    ) -> Enrolment:
        self._note(connection, actor, "box.refuse", enrolment.principal, {"reason": reason})
        return requests.decided(
            connection, enrolment, "refused", reason, actor.name, now_s=self.now()
        )

    def _rotate(self, connection: Connection, body: bytes, principal: str) -> NewCredential:
        now_s = self.now()
        request = RotateRequest.opened(body, credentials.keys_of(connection, principal))
        if _signed_by(body, credentials.keys_of(connection, principal, ("next",))):
            credentials.promote(connection, principal, now_s=now_s)  # the new key was used
        key = read_public_key(request.public_key_pem.encode(), name="public_key_pem")
        check_request(request.csr_pem, key)
        before = credentials.find(connection, principal, key)
        if before is not None:
            return before  # asked again: the reply was lost
        if abs(now_s - request.issued_s) > ROTATE_SKEW_S:
            raise BundleError("RotateRequest", "was made too long ago; make a new one")
        new = self._new_credential(principal, request.csr_pem, key)
        credentials.issue(connection, principal, new, state="next", now_s=now_s)
        actor = Actor(principal, "box")
        self._note(connection, actor, "box.rotate", principal, {"key": key_id(key)})
        return new

    def _new_credential(self, principal: str, csr_pem: str, key: Ed25519PublicKey) -> NewCredential:
        if self.rules.mode == "password":
            return NewCredential(key, mosquitto_hash(self._password(principal, key)))
        assert self.authority is not None
        issued = self.authority.for_box(
            csr_pem, key, principal, now_s=self.now(), days=self.rules.certificate_days
        )
        return NewCredential(key, None, issued.pem, issued.serial, issued.expires_s)

    def _note(
        self,
        connection: Connection,
        actor: Actor,
        action: str,
        principal: str,
        detail: dict[str, str],
    ) -> None:
        note(connection, actor, action, f"box/{principal}", now_s=self.now(), detail=detail)

    # Answers.

    async def _answer(self, enrolment: Enrolment, ticket: str) -> EnrolAnswer:
        if enrolment.state == "pending":
            return EnrolAnswer(state="pending", ticket=ticket, poll_after_s=_POLL_AFTER_S)
        if enrolment.state == "refused":
            return EnrolAnswer(state="refused", ticket=ticket, reason=enrolment.reason)
        if self.now() - (enrolment.decided_s or 0.0) > ANSWER_AGAIN_S:
            raise UsageError(
                "this was answered too long ago; ask for a new claim", code="claim_used", status=403
            )
        if self._behind:
            await self.sync()
        request = enrolment.asked()
        key = read_public_key(request.public_key_pem.encode(), name="public_key_pem")
        issued = await self.database.read(lambda c: credentials.find(c, enrolment.principal, key))
        if issued is None:
            return EnrolAnswer(state="refused", ticket=ticket, reason="this credential was ended")
        return EnrolAnswer(
            state="granted", ticket=ticket, grant=self._grant(enrolment.principal, issued)
        )

    def _grant(self, principal: str, issued: NewCredential) -> Grant:
        offer = self.offer()
        password = self._password(principal, issued.key) if issued.password_hash else None
        return Grant(
            principal=principal,
            broker=BrokerAccess(
                host=offer.host, port=offer.port, tls=offer.tls, password=password, mqtt=offer.mqtt
            ),
            api=offer.api,
            sources=offer.sources,
            metadata=offer.metadata,
            ca_pem=offer.ca_pem,
            certificate_pem=issued.certificate_pem,
            want_keys_pem=offer.want_keys_pem,
            tuf_root=offer.tuf_root,
        )

    def _password(self, principal: str, key: Ed25519PublicKey) -> str:
        return self.secret.derive("broker", principal, key_id(key))


def _signed_by(body: bytes, keys: TrustedKeys) -> bool:
    try:
        RotateRequest.opened(body, keys)
    except BundleError:
        return False
    return True

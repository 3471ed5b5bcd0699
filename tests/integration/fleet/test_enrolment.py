"""Enrolment: who gets in, with what, and how they are put out again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID

from edge_runtime.agent.protocol import EnrolAnswer, EnrolRequest
from edge_runtime.bundle.envelope import public_pem
from edge_runtime.errors import BundleError, CapacityError, ConfigError, UsageError
from fleet.db.database import Database
from fleet.enrol import claims, credentials, requests
from fleet.enrol.broker import MemoryCredentials
from fleet.enrol.ca import open_authority
from fleet.enrol.policy import ByExpression
from fleet.enrol.secrets import mosquitto_verify
from fleet.enrol.service import ANSWER_AGAIN_S, EnrolmentService, EnrolRules
from fleet.registry import audit, boxes
from fleet.registry.audit import Actor
from tests.support.enrol import AskingBox, csr, enrolment_service, new_claim
from tests.support.fleet import HARDWARE, LIMITS, NOW_S

OPS = Actor("ops", "operator", "r-1")


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now_s = NOW_S

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with Database.opened(f"sqlite:///{tmp_path}/fleet.db") as opened:
        yield opened


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def service(database: Database, clock: Clock) -> EnrolmentService:
    return enrolment_service(database, now=clock)


def known(service: EnrolmentService) -> dict[str, str]:
    assert isinstance(service.broker, MemoryCredentials)
    return service.broker.passwords


def password(answer: EnrolAnswer) -> str:
    assert answer.grant is not None
    assert answer.grant.broker.password is not None
    return answer.grant.broker.password


def everything_in(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.iterdir())


async def test_many_changes_in_a_moment_are_told_to_the_broker_together(
    service: EnrolmentService,
) -> None:
    assert isinstance(service.broker, MemoryCredentials)
    await asyncio.gather(*(service.sync() for _ in range(50)))
    assert service.broker.updates <= 2


async def test_a_claim_becomes_a_password_that_the_broker_knows(
    service: EnrolmentService, database: Database
) -> None:
    answer = await service.enrol(AskingBox().request(await new_claim(database)))
    assert answer.state == "granted"
    assert answer.grant is not None
    assert answer.grant.principal == "acme~box-1"
    assert mosquitto_verify(password(answer), known(service)["acme~box-1"])
    box = await database.read(lambda c: boxes.get(c, "acme~box-1", now_s=NOW_S, limits=LIMITS))
    assert (box.status, box.labels) == ("active", {"site": "oslo"})
    log = await database.read(audit.entries)
    assert [(entry.action, entry.object) for entry in log] == [("box.enrol", "box/acme~box-1")]


async def test_nothing_secret_lies_in_the_database(
    service: EnrolmentService, database: Database, tmp_path: Path
) -> None:
    claim = await new_claim(database)
    answer = await service.enrol(AskingBox().request(claim))
    stored = everything_in(tmp_path)
    assert b"acme~box-1" in stored
    for secret in (claim, password(answer), answer.ticket):
        assert secret.encode() not in stored


async def test_a_lost_reply_is_given_again(
    service: EnrolmentService, database: Database, clock: Clock
) -> None:
    box, claim = AskingBox(), await new_claim(database)
    first = await service.enrol(box.request(claim))
    clock.now_s += 7200  # the claim itself has expired by now
    assert await service.enrol(box.request(claim)) == first
    assert await service.poll(first.ticket) == first
    clock.now_s += ANSWER_AGAIN_S
    with pytest.raises(UsageError, match="too long ago") as caught:
        await service.enrol(box.request(claim))
    assert caught.value.status == 403


@pytest.mark.parametrize(
    ("spoil", "status"),
    [("unknown", 403), ("expired", 403), ("revoked", 403), ("foreign", 409)],
)
async def test_a_claim_that_does_not_hold_is_refused(
    service: EnrolmentService, database: Database, clock: Clock, spoil: str, status: int
) -> None:
    claim = await new_claim(database)
    if spoil == "unknown":
        claim = "efc_" + "x" * 40
    elif spoil == "expired":
        clock.now_s += 3600
    elif spoil == "revoked":
        listed = await database.read(claims.listed)
        await database.write(lambda c: claims.revoke(c, listed[0].id, now_s=NOW_S))
    else:
        await service.enrol(AskingBox().request(claim))
    with pytest.raises(UsageError, match="claim") as caught:
        await service.enrol(AskingBox().request(claim, box="box-2"))
    assert caught.value.status == status
    assert "acme~box-2" not in known(service)


async def test_a_taken_name_stays_with_its_box(
    service: EnrolmentService, database: Database
) -> None:
    first = await service.enrol(AskingBox().request(await new_claim(database)))
    with pytest.raises(UsageError, match="already") as caught:
        await service.enrol(AskingBox().request(await new_claim(database)))
    assert caught.value.status == 409
    assert mosquitto_verify(password(first), known(service)["acme~box-1"])


async def test_a_claim_for_one_box_replaces_what_it_had(
    service: EnrolmentService, database: Database
) -> None:
    first = await service.enrol(AskingBox().request(await new_claim(database)))
    claim = await new_claim(database, box="box-1", labels={"site": "bergen"})
    second = await service.enrol(AskingBox().request(claim, box="other-name"))
    assert second.grant is not None
    assert second.grant.principal == "acme~box-1"
    assert not mosquitto_verify(password(first), known(service)["acme~box-1"])
    assert mosquitto_verify(password(second), known(service)["acme~box-1"])
    assert (await service.poll(first.ticket)).state == "refused"


async def test_an_operator_decides_where_the_claim_does_not(
    service: EnrolmentService, database: Database
) -> None:
    box, claim = AskingBox(), await new_claim(database, approve=False)
    waiting = await service.enrol(box.request(claim))
    assert waiting.state == "pending"
    assert known(service) == {}
    (asked,) = await database.read(lambda c: requests.listed(c, state="pending"))
    assert asked.asked().hardware == HARDWARE
    await service.decide(asked.id, approve=True, reason="", actor=OPS)
    granted = await service.poll(waiting.ticket)
    assert granted.state == "granted"
    assert mosquitto_verify(password(granted), known(service)["acme~box-1"])
    with pytest.raises(UsageError, match="decided already"):
        await service.decide(asked.id, approve=False, reason="", actor=OPS)


async def test_a_refusal_is_final_and_says_why(
    service: EnrolmentService, database: Database
) -> None:
    box, claim = AskingBox(), await new_claim(database, approve=False)
    waiting = await service.enrol(box.request(claim))
    (asked,) = await database.read(lambda c: requests.listed(c, state="pending"))
    await service.decide(asked.id, approve=False, reason="not ours", actor=OPS)
    answer = await service.enrol(box.request(claim))
    assert (answer.state, answer.reason, answer.ticket) == ("refused", "not ours", waiting.ticket)
    assert known(service) == {}


async def test_an_expression_lets_in_what_it_describes(database: Database) -> None:
    policy = ByExpression("labels.site == 'oslo' && cores >= 4")
    service = enrolment_service(database, policy=policy)
    mine = await new_claim(database, approve=False)
    other = await new_claim(database, approve=False, labels={"site": "bergen"})
    good = await service.enrol(AskingBox().request(mine))
    # What a box says of itself does not overrule the claim.
    boasting = AskingBox().request(other, box="box-2", labels={"site": "oslo"})
    assert (good.state, (await service.enrol(boasting)).state) == ("granted", "pending")
    with pytest.raises(UsageError, match="undeclared"):
        ByExpression("health == 'online'")


async def test_too_many_who_wait_are_turned_away(database: Database) -> None:
    service = enrolment_service(database, rules=EnrolRules(max_pending=1))
    await service.enrol(AskingBox().request(await new_claim(database, approve=False)))
    with pytest.raises(CapacityError, match="too many"):
        await service.enrol(
            AskingBox().request(await new_claim(database, approve=False), box="box-2")
        )


async def test_a_request_signed_by_another_key_is_none(
    service: EnrolmentService, database: Database
) -> None:
    claim = await new_claim(database)
    honest, thief = AskingBox(), AskingBox()
    stolen = EnrolRequest(
        claim=claim,
        public_key_pem=public_pem(honest.key.public_key()).decode(),
        csr_pem=csr(honest.key),
        hardware=HARDWARE,
        versions={"daemon": "1"},
    ).sealed([thief.key])
    with pytest.raises(BundleError, match="no key that is trusted"):
        await service.enrol(stolen)
    with pytest.raises(UsageError, match=r"another key|prove"):
        await service.enrol(honest.request(claim, csr_pem=csr(thief.key)))
    with pytest.raises(BundleError):
        await service.enrol(b"{}" * 40_000)
    assert (await service.enrol(honest.request(claim))).state == "granted"


async def test_a_rotation_brings_a_new_password_and_ends_the_old_key(
    service: EnrolmentService, database: Database
) -> None:
    old, new = AskingBox(), AskingBox()
    granted = await service.enrol(old.request(await new_claim(database)))
    asked = old.rotation(new.key, "acme~box-1")
    rotated = await service.rotate(asked)
    assert await service.rotate(asked) == rotated
    assert mosquitto_verify(password(rotated), known(service)["acme~box-1"])
    assert not mosquitto_verify(password(granted), known(service)["acme~box-1"])
    # The box connects with it; from then on the old key signs nothing.
    assert await database.write(lambda c: credentials.promote(c, "acme~box-1", now_s=NOW_S))
    with pytest.raises(BundleError, match="no key that is trusted"):
        await service.rotate(old.rotation(AskingBox().key, "acme~box-1"))
    again = await service.rotate(new.rotation(AskingBox().key, "acme~box-1"))
    assert again.state == "granted"


async def test_a_new_key_that_signs_ends_the_old_one(
    service: EnrolmentService, database: Database
) -> None:
    first, second, third = AskingBox(), AskingBox(), AskingBox()
    await service.enrol(first.request(await new_claim(database)))
    await service.rotate(first.rotation(second.key, "acme~box-1"))
    await service.rotate(second.rotation(third.key, "acme~box-1"))
    with pytest.raises(BundleError, match="no key that is trusted"):
        await service.rotate(first.rotation(AskingBox().key, "acme~box-1"))
    states = await database.read(lambda c: credentials.listed(c, "acme~box-1"))
    assert sorted(one.state for one in states) == ["active", "next", "retired"]


async def test_only_the_box_itself_rotates(service: EnrolmentService, database: Database) -> None:
    await service.enrol(AskingBox().request(await new_claim(database)))
    other = AskingBox()
    await service.enrol(other.request(await new_claim(database), box="box-2"))
    with pytest.raises(BundleError, match="no key that is trusted"):
        await service.rotate(other.rotation(AskingBox().key, "acme~box-1"))
    with pytest.raises(BundleError, match="no key that is trusted"):
        await service.rotate(other.rotation(AskingBox().key, "acme~nobody"))


async def test_an_old_rotation_is_refused(service: EnrolmentService, database: Database) -> None:
    box = AskingBox()
    await service.enrol(box.request(await new_claim(database)))
    late = box.rotation(AskingBox().key, "acme~box-1", issued_s=int(NOW_S) - 100_000)
    with pytest.raises(BundleError, match="too long ago"):
        await service.rotate(late)


async def test_a_key_of_one_box_is_not_taken_for_another(
    service: EnrolmentService, database: Database
) -> None:
    box = AskingBox()
    await service.enrol(box.request(await new_claim(database)))
    with pytest.raises(UsageError, match="belongs to a box already"):
        await service.enrol(box.request(await new_claim(database), box="box-2"))


async def test_a_revoked_box_has_nothing_left(
    service: EnrolmentService, database: Database
) -> None:
    box, claim = AskingBox(), await new_claim(database)
    answer = await service.enrol(box.request(claim))
    await service.revoke("acme~box-1", actor=OPS, reason="stolen")
    assert known(service) == {}
    assert (await service.poll(answer.ticket)).state == "refused"
    with pytest.raises(BundleError, match="no key that is trusted"):
        await service.rotate(box.rotation(AskingBox().key, "acme~box-1"))
    log = await database.read(audit.entries)
    assert (log[0].action, log[0].actor, log[0].detail) == (
        "box.revoke",
        "ops",
        {"reason": "stolen"},
    )


async def test_certificates_name_the_box_and_nothing_else(
    database: Database, tmp_path: Path
) -> None:
    authority = open_authority(tmp_path / "ca", now_s=NOW_S)
    rules = EnrolRules(mode="certificate", certificate_days=30)
    service = enrolment_service(database, authority=authority, rules=rules)
    box = AskingBox()
    asked = box.request(await new_claim(database), csr_pem=csr(box.key, "admin"))
    answer = await service.enrol(asked)
    assert answer.grant is not None
    assert answer.grant.certificate_pem is not None
    assert answer.grant.broker.password is None
    made = x509.load_pem_x509_certificate(answer.grant.certificate_pem.encode())
    root = x509.load_pem_x509_certificate(authority.pem.encode())
    made.verify_directly_issued_by(root)
    (name,) = made.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert name.value == "acme~box-1"
    assert made.public_key() == box.key.public_key()
    await service.revoke("acme~box-1", actor=OPS)
    assert isinstance(service.broker, MemoryCredentials)
    assert service.broker.revocations is not None
    crl = x509.load_pem_x509_crl(service.broker.revocations.encode())
    assert crl.is_signature_valid(root.public_key())
    assert crl.get_revoked_certificate_by_serial_number(made.serial_number) is not None
    assert known(service) == {}


def test_an_authority_is_kept_and_its_key_is_private(tmp_path: Path) -> None:
    first = open_authority(tmp_path / "ca", now_s=NOW_S)
    assert open_authority(tmp_path / "ca", now_s=NOW_S).pem == first.pem
    key = tmp_path / "ca" / "ca-key.pem"
    assert key.stat().st_mode & 0o777 == 0o600
    key.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        open_authority(tmp_path / "ca", now_s=NOW_S)


async def test_a_broker_that_could_not_be_told_is_told_with_the_next_answer(
    database: Database,
) -> None:
    class Stubborn(MemoryCredentials):
        failures = 1

        async def update(self, passwords: Any, revocations: str | None = None) -> None:
            if self.failures:
                self.failures -= 1
                raise ConfigError("disk full")
            await super().update(passwords, revocations)

    service = enrolment_service(database, broker=Stubborn())
    asked = AskingBox(Ed25519PrivateKey.generate()).request(await new_claim(database))
    with pytest.raises(ConfigError, match="disk full"):
        await service.enrol(asked)
    answer = await service.enrol(asked)
    assert mosquitto_verify(password(answer), known(service)["acme~box-1"])

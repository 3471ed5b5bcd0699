"""A box joins a fleet: against the control host's own service, over every way it may be cut off."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge_runtime.agent.credential import CredentialStore, rotation_due
from edge_runtime.agent.enrol import Enrolment, Introduction, check_url, read_answer, rotate
from edge_runtime.agent.protocol import ENROL_PATH, ROTATE_PATH, Grant
from edge_runtime.bundle.envelope import public_pem
from edge_runtime.bundle.files import RealFiles
from edge_runtime.errors import BundleError, ConfigError, TransportError, UsageError
from fleet.db.database import Database
from fleet.enrol.ca import open_authority
from fleet.enrol.service import EnrolmentService, EnrolRules
from fleet.registry.audit import SYSTEM
from tests.support.enrol import enrolment_service, new_claim
from tests.support.fleet import HARDWARE, NOW_S, VERSIONS

URL = "https://fleet.example"


@dataclass
class ServiceApi:
    """The service as the box reaches it; loses the next answers when told to."""

    service: EnrolmentService
    lose: int = 0
    calls: list[str] = field(default_factory=list)

    async def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        self.calls.append(path)
        try:
            if path == ENROL_PATH:
                answer = await self.service.enrol(body)
            else:
                assert path == ROTATE_PATH
                answer = await self.service.rotate(body)
        except UsageError as error:
            return error.status, str(error).encode()
        except BundleError as error:
            return 400, str(error).encode()
        return self._given(answer.to_bytes())

    async def get(self, path: str) -> tuple[int, bytes]:
        self.calls.append(path)
        ticket = path.removeprefix(f"{ENROL_PATH}/")
        return self._given((await self.service.poll(ticket)).to_bytes())

    def _given(self, body: bytes) -> tuple[int, bytes]:
        if self.lose:
            self.lose -= 1
            raise TransportError("the answer was lost")
        return 200, body


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with Database.opened(f"sqlite:///{tmp_path}/fleet.sqlite") as opened:
        yield opened


def joining(api: ServiceApi, tmp_path: Path) -> Enrolment:
    async def no_wait(seconds: float) -> None:
        assert seconds > 0

    return Enrolment(
        api,
        CredentialStore(tmp_path / "credential", RealFiles()),
        Introduction(HARDWARE, VERSIONS, "box-1", {"line": "three"}),
        wait=no_wait,
    )


async def test_a_claim_becomes_a_credential_of_the_boxs_own(
    tmp_path: Path, database: Database
) -> None:
    api = ServiceApi(enrolment_service(database))
    enrolment = joining(api, tmp_path)
    grant = await enrolment.run(URL, await new_claim(database))
    held = enrolment.credentials.load()
    assert held is not None
    assert held.grant == grant
    assert grant.principal == "acme~box-1"
    assert len(held.want_keys()) == 1
    assert stat.S_IMODE((tmp_path / "credential").stat().st_mode) == 0o700
    with pytest.raises(UsageError, match="enrolled as acme~box-1 already"):
        await enrolment.run(URL, "another-claim-of-enough-chars")


async def test_a_lost_answer_costs_nothing(tmp_path: Path, database: Database) -> None:
    api = ServiceApi(enrolment_service(database), lose=1)
    claim = await new_claim(database)
    with pytest.raises(TransportError):
        await joining(api, tmp_path).run(URL, claim)
    grant = await joining(api, tmp_path).run(URL, claim)  # a new process, the same key
    assert grant.principal == "acme~box-1"


async def test_a_box_waits_for_its_approval(tmp_path: Path, database: Database) -> None:
    service = enrolment_service(database)
    api = ServiceApi(service)
    told: list[str] = []
    enrolment = joining(api, tmp_path)
    enrolment.told = told.append

    async def approve(seconds: float) -> None:
        from fleet.enrol import requests

        if len(told) == 3:  # waiting, the answer lost, waiting again
            waiting = await database.read(lambda c: requests.listed(c, state="pending"))
            await service.decide(waiting[0].id, approve=True, reason="", actor=SYSTEM)
        if len(told) == 1:
            api.lose = 1

    enrolment.wait = approve
    grant = await enrolment.run(URL, await new_claim(database, approve=False))
    assert grant.principal == "acme~box-1"
    assert any("lost" in text for text in told)


async def test_a_used_claim_and_a_bad_one_are_refused(tmp_path: Path, database: Database) -> None:
    api = ServiceApi(enrolment_service(database))
    claim = await new_claim(database)
    await joining(api, tmp_path / "one").run(URL, claim)
    for secret in (claim, "unknown-claim-of-enough-chars"):
        with pytest.raises(UsageError, match="refused"):
            await joining(api, tmp_path / "two").run(URL, secret)
    with pytest.raises(UsageError, match="claim"):
        await joining(api, tmp_path / "three").run(URL, "short")


async def test_a_new_key_gets_a_new_credential(tmp_path: Path, database: Database) -> None:
    authority = open_authority(tmp_path / "ca", now_s=NOW_S)
    service = enrolment_service(database, authority=authority, rules=EnrolRules(mode="certificate"))
    api = ServiceApi(service)
    enrolment = joining(api, tmp_path)
    await enrolment.run(URL, await new_claim(database))
    before = enrolment.credentials.load()
    await rotate(api, enrolment.credentials, int(NOW_S))
    after = enrolment.credentials.load()
    assert before is not None
    assert after is not None
    assert after.key_pem != before.key_pem
    assert after.grant is not None
    assert after.grant.principal == "acme~box-1"
    _, certificate, key = enrolment.credentials.tls_files(after)
    assert certificate is not None
    assert key is not None
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    days = 86_400.0
    assert not rotation_due(after.grant, NOW_S + 200 * days)
    assert rotation_due(after.grant, NOW_S + 300 * days)


def test_passwords_do_not_end() -> None:
    pem = public_pem(Ed25519PrivateKey.generate().public_key()).decode()
    grant = Grant.model_validate(
        {
            "principal": "acme~box-1",
            "broker": {"host": "b", "port": 1, "password": "p" * 16},
            "api": URL,
            "want_keys_pem": (pem,),
        }
    )
    assert not rotation_due(grant, 9e12)


@pytest.mark.parametrize(
    "url", ["http://fleet.example", "ftp://x", "https://", "fleet.example", "https://x/?q=1"]
)
def test_claims_are_sent_over_https_only(url: str) -> None:
    with pytest.raises(ConfigError):
        check_url(url)


def test_loopback_needs_no_tls() -> None:
    assert check_url("http://127.0.0.1:8080/") == "http://127.0.0.1:8080"
    assert check_url("https://fleet.example/base/") == "https://fleet.example/base"


def test_answers_that_are_none() -> None:
    with pytest.raises(TransportError):
        read_answer(200, b"<html>")
    with pytest.raises(TransportError):
        read_answer(503, b"later")
    with pytest.raises(UsageError, match="403"):
        read_answer(403, b'{"error":{"message":"no"}}\x00\x1b[2J')

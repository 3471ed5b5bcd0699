"""The parts of a control host, made from its settings.

Rules
- Everything that can be wrong with settings, keys and files is found here, before anything runs.
- The command line and the server make the same parts, so what one does the other finds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tuf.api.metadata import Root

from edge_runtime.bundle.envelope import public_pem
from edge_runtime.bundle.targets import ORDERS_ROLE
from edge_runtime.errors import ConfigError
from fleet.db.database import Database
from fleet.enrol.broker import (
    Credentials,
    MosquittoFiles,
    Reload,
    no_reload,
    reload_by_command,
    reload_by_signal,
)
from fleet.enrol.ca import CertificateAuthority, open_authority
from fleet.enrol.policy import ByExpression, Policy, by_claim
from fleet.enrol.secrets import RootSecret, mosquitto_hash
from fleet.enrol.service import EnrolmentService, EnrolRules, Offer
from fleet.ingest.rows import Keep
from fleet.ingest.service import IngestRules
from fleet.publish.keys import KeyRing
from fleet.publish.repository import Repository
from fleet.registry.facts import Limits
from fleet.settings import FleetSettings
from fleet.transport import MqttConnector

_DAY_S = 86_400.0


class UntoldBroker:
    """For a broker whose users somebody else keeps: certificates, or a database of its own."""

    async def update(self, passwords: object, revocations: object = None) -> None:
        """Nothing to do."""
        del passwords, revocations


def limits_of(settings: FleetSettings) -> Limits:
    """When a box is missed."""
    return Limits(settings.boxes.silent_after_s, settings.boxes.unreachable_after_s)


def root_secret(settings: FleetSettings) -> RootSecret:
    """The secret behind passwords and tickets, made at the first start. Raises `ConfigError`."""
    return RootSecret.load(settings.state.dir / "root-secret")


def control_password(settings: FleetSettings, secret: RootSecret) -> str:
    """What the control host shows to the broker. Raises `ConfigError`."""
    if settings.broker.secret_file is not None:
        return first_line(settings.broker.secret_file)
    return secret.derive("control", settings.broker.user)


def first_line(path: Path) -> str:
    """The secret in a file. Raises `ConfigError` when there is none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    if not lines or not lines[0]:
        raise ConfigError(f"{path}: its first line is empty; put the secret there")
    return lines[0]


def broker_credentials(settings: FleetSettings, secret: RootSecret) -> Credentials:
    """Where the broker learns who may connect."""
    broker = settings.broker
    if broker.passwords_file is None or broker.acl_file is None:
        return UntoldBroker()
    return MosquittoFiles(
        broker.passwords_file,
        broker.acl_file,
        broker.user,
        mosquitto_hash(control_password(settings, secret)),
        _reload(settings),
        broker.crl_file,
    )


def _reload(settings: FleetSettings) -> Reload:
    if settings.broker.reload_command:
        return reload_by_command(settings.broker.reload_command)
    if settings.broker.pid_file is not None:
        return reload_by_signal(settings.broker.pid_file)
    return no_reload


def connector(settings: FleetSettings, secret: RootSecret) -> MqttConnector:
    """The way to the broker."""
    broker = settings.broker
    return MqttConnector(
        broker.host,
        broker.port,
        broker.user,
        control_password(settings, secret),
        tls=broker.tls,
        ca=broker.ca,
        queue_messages=broker.max_queued_messages,
        version=broker.mqtt,
    )


def authority(settings: FleetSettings, *, now_s: float) -> CertificateAuthority | None:
    """The certificate authority; None where boxes show passwords. Raises `ConfigError`."""
    if settings.enrol.mode == "password":
        return None
    return open_authority(settings.state.dir / "ca", now_s=now_s)


def repository(settings: FleetSettings) -> Repository:
    """What is published. Raises `ConfigError` when there is none yet."""
    found = Repository(settings.publish.repository)
    if not found.exists():
        raise ConfigError(
            f"{settings.publish.repository}: nothing is published there yet; make keys and the "
            "first metadata with `edge-fleet keys init`"
        )
    return found


def orders_keys(settings: FleetSettings, published: Repository) -> list[Ed25519PrivateKey]:
    """The keys that sign what is wanted of boxes. Raises `ConfigError` when there is none."""
    delegations = published.targets().signed.delegations
    roles = {} if delegations is None else delegations.roles or {}
    if ORDERS_ROLE not in roles:
        raise ConfigError("no key may sign orders; delegate the role with `edge-fleet keys`")
    ring = KeyRing.load(settings.publish.keys)
    found = [ring.keys[one] for one in roles[ORDERS_ROLE].keyids if one in ring.keys]
    if not found:
        raise ConfigError("publish.keys: none of these keys may sign orders; add the orders key")
    return found


def enrolment(
    settings: FleetSettings,
    database: Database,
    *,
    offer: Callable[[], Offer],
    now: Callable[[], float] = time.time,
) -> EnrolmentService:
    """The service that lets boxes in. Raises `ConfigError`, `ExpressionError`."""
    secret, rules = root_secret(settings), settings.enrol
    policy: Policy = ByExpression(rules.approve) if rules.approve else by_claim
    return EnrolmentService(
        database,
        secret,
        offer,
        broker_credentials(settings, secret),
        authority(settings, now_s=now()),
        EnrolRules(rules.mode, rules.certificate_days, rules.max_pending),
        policy,
        now,
    )


def offer_of(
    settings: FleetSettings, published: Repository, keys: Sequence[Ed25519PrivateKey]
) -> Offer:
    """What every box is told alike, as of now. Reads the newest root."""
    broker, root = settings.broker, published.newest(Root.type)
    text = (published.metadata_path / f"{root}.root.json").read_text(encoding="utf-8")
    api = settings.api.public_url
    ca = None if broker.ca is None else broker.ca.read_text(encoding="utf-8")
    return Offer(
        host=broker.public_host,
        port=broker.public_port,
        tls=broker.public_tls,
        api=api,
        want_keys_pem=tuple(public_pem(key.public_key()).decode() for key in keys),
        sources=tuple(settings.publish.sources) or (api,),
        metadata=settings.publish.metadata_url or f"{api}/v1/tuf",
        ca_pem=ca,
        tuf_root=text,
        mqtt=broker.mqtt,
    )


def ingest_rules(settings: FleetSettings) -> IngestRules:
    """How telemetry is taken in."""
    ingest = settings.ingest
    return IngestRules(
        ingest.commit_messages,
        ingest.commit_wait_ms / 1000,
        Keep(ingest.raw_days * _DAY_S, ingest.box_days * _DAY_S, ingest.fleet_days * _DAY_S),
        passwords=settings.enrol.mode == "password",
    )

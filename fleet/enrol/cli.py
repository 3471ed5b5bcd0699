"""The commands `edge-fleet claims`, `enrolments`, `boxes revoke` and `broker`."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from sqlalchemy import Connection

from fleet.console import (
    Config,
    Json,
    actor,
    ago,
    date,
    in_database,
    labels_of,
    settings_of,
    show,
    with_database,
)
from fleet.enrol import claims, requests
from fleet.registry.audit import note

if TYPE_CHECKING:
    from fleet.db.database import Database
    from fleet.enrol.service import EnrolmentService, Offer
    from fleet.settings import FleetSettings

T = TypeVar("T")

claims_app = typer.Typer(help="One-time claims for new boxes.", no_args_is_help=True)
enrolments_app = typer.Typer(help="Boxes that ask to be let in.", no_args_is_help=True)
broker_app = typer.Typer(help="The MQTT broker's files.", no_args_is_help=True)

EnrolmentId = Annotated[str, typer.Argument(help="The request's id.")]


def register(app: typer.Typer, boxes_app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.add_typer(claims_app, name="claims")
    app.add_typer(enrolments_app, name="enrolments")
    app.add_typer(broker_app, name="broker")
    boxes_app.command("revoke")(revoke_box)


@claims_app.command("create")
def create_claim(
    tenant: Annotated[str, typer.Argument(help="Whose box it will be.")],
    *,
    box: Annotated[
        str | None, typer.Option(help="For this box only; it may replace what that box had.")
    ] = None,
    label: Annotated[list[str] | None, typer.Option(help="NAME=VALUE, may be repeated.")] = None,
    approve: Annotated[bool, typer.Option(help="Let it in without asking anybody.")] = False,
    hours: Annotated[float | None, typer.Option(min=0.01, help="How long it may be used.")] = None,
    config: Config = None,
) -> None:
    """Make a claim and print it, this once."""
    lives_s = settings_of(config).enrol.claim_lives_s if hours is None else hours * 3600

    def work(connection: Connection) -> str:
        made, secret = claims.create(
            connection, tenant=tenant, box=box, labels=labels_of(label or []), approve=approve,
            lives_s=lives_s, by=actor().name, now_s=time.time(),
        )  # fmt: skip
        detail = {"tenant": tenant, "box": box, "approve": approve}
        thing = f"claim/{made.id}"
        note(connection, actor(), "claim.create", thing, now_s=time.time(), detail=detail)
        return secret

    typer.echo(in_database(config, work, write=True))


@claims_app.command("list")
def list_claims(config: Config = None, *, as_json: Json = False) -> None:
    """Claims, the newest first, without their secrets."""
    show(
        in_database(config, lambda c: claims.listed(c, limit=1000)),
        ("id", "tenant", "box", "expires", "used", "revoked", "by"),
        lambda one: [
            one.id, one.tenant, one.box or "", date(one.expires_s), date(one.used_s),  # type: ignore[attr-defined]
            date(one.revoked_s), one.created_by,  # type: ignore[attr-defined]
        ],
        as_json=as_json,
    )  # fmt: skip


@claims_app.command("revoke")
def revoke_claim(
    claim_id: Annotated[str, typer.Argument(help="The claim's id.")], config: Config = None
) -> None:
    """End a claim. A box that was let in by it stays."""

    def work(connection: Connection) -> None:
        claims.revoke(connection, claim_id, now_s=time.time())
        note(connection, actor(), "claim.revoke", f"claim/{claim_id}", now_s=time.time())

    in_database(config, work, write=True)


@enrolments_app.command("list")
def list_enrolments(
    *,
    every: Annotated[bool, typer.Option("--all", help="Also those that were decided.")] = False,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Boxes that wait to be let in."""
    state = None if every else "pending"
    show(
        in_database(config, lambda c: requests.listed(c, state=state, limit=1000)),  # type: ignore[arg-type]
        ("id", "box", "state", "asked", "by"),
        lambda one: [
            one.id, one.principal, one.state, ago(one.created_s), one.decided_by or ""  # type: ignore[attr-defined]
        ],
        as_json=as_json,
    )  # fmt: skip


@enrolments_app.command("approve")
def approve_enrolment(enrolment_id: EnrolmentId, config: Config = None) -> None:
    """Let a box in."""
    _with_service(
        config, lambda one: one.decide(enrolment_id, approve=True, reason="", actor=actor())
    )


@enrolments_app.command("refuse")
def refuse_enrolment(enrolment_id: EnrolmentId, *, reason: str = "", config: Config = None) -> None:
    """Do not let a box in; final."""
    _with_service(
        config, lambda one: one.decide(enrolment_id, approve=False, reason=reason, actor=actor())
    )


def revoke_box(
    principal: Annotated[str, typer.Argument(help="The box, as <tenant>~<name>.")],
    *,
    reason: str = "",
    config: Config = None,
) -> None:
    """Put a box out: it cannot connect any more."""
    _with_service(config, lambda one: one.revoke(principal, actor=actor(), reason=reason))


@broker_app.command("config")
def broker_config(
    *,
    certificate: Annotated[
        Path | None, typer.Option(help="The broker's certificate: boxes get a listener with TLS.")
    ] = None,
    key: Annotated[Path | None, typer.Option(help="Its private key.")] = None,
    config: Config = None,
) -> None:
    """Print a `mosquitto.conf` that fits the settings."""
    from fleet.enrol.mosquitto import BrokerPlaces, Tls, mosquitto_conf

    settings = settings_of(config)
    broker = settings.broker
    if (certificate is None) != (key is None):
        typer.echo("error: --certificate and --key go together", err=True)
        raise typer.Exit(1)
    if broker.passwords_file is None or broker.acl_file is None:
        typer.echo("error: set broker.passwords_file and broker.acl_file first", err=True)
        raise typer.Exit(1)
    state = Path("/var/lib/mosquitto")
    pid = broker.pid_file or Path("/run/mosquitto/mosquitto.pid")
    places = BrokerPlaces(
        broker.host, broker.port, broker.passwords_file.absolute(), broker.acl_file.absolute(),
        state, pid.absolute(),
    )  # fmt: skip
    if certificate is not None and key is not None:
        tls = Tls(
            settings.state.dir.absolute() / "ca" / "ca.pem", certificate.absolute(), key.absolute(),
            settings.enrol.mode == "certificate",
            None if broker.crl_file is None else broker.crl_file.absolute(), broker.public_port,
        )  # fmt: skip
        places = replace(places, tls=tls)
    typer.echo(mosquitto_conf(places), nl=False)


@broker_app.command("sync")
def broker_sync(config: Config = None) -> None:
    """Write the broker's files from the database, and make it read them."""
    _with_service(config, lambda one: one.sync())


def _with_service(config: Path | None, work: Callable[[EnrolmentService], Awaitable[T]]) -> T:
    from fleet import wiring

    def offer() -> Offer:
        raise AssertionError("nothing is granted on the command line")

    async def run(settings: FleetSettings, database: Database) -> T:
        return await work(wiring.enrolment(settings, database, offer=offer))

    return with_database(config, run)

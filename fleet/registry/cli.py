"""The commands `edge-fleet boxes`, `groups`, `tokens` and `audit`."""

from __future__ import annotations

import itertools
import time
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from sqlalchemy import Connection

from edge_runtime.errors import UsageError
from fleet.console import Config, Json, actor, ago, date, in_database, labels_of, settings_of, show
from fleet.registry import audit, boxes, groups, tokens
from fleet.registry.boxes import Box
from fleet.registry.selection import compile_target, select_boxes
from fleet.registry.tokens import Role

boxes_app = typer.Typer(help="Look at boxes, label them, put them out.", no_args_is_help=True)
groups_app = typer.Typer(help="Names for expressions over boxes.", no_args_is_help=True)
tokens_app = typer.Typer(help="Tokens for the REST API.", no_args_is_help=True)

Principal = Annotated[str, typer.Argument(help="The box, as <tenant>~<name>.")]
GroupName = Annotated[str, typer.Argument(help="The group's name.")]


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.add_typer(boxes_app, name="boxes")
    app.add_typer(groups_app, name="groups")
    app.add_typer(tokens_app, name="tokens")
    app.command("audit")(list_audit)


@boxes_app.command("list")
def list_boxes(
    *,
    where: Annotated[str, typer.Option(help="Expression over a box's facts.")] = "true",
    limit: Annotated[int, typer.Option(min=1, max=100_000)] = 1000,
    revoked: Annotated[bool, typer.Option(help="Those that were put out.")] = False,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Boxes by name."""
    limits = _limits(config)

    def work(connection: Connection) -> list[Box]:
        found = select_boxes(
            connection, compile_target(where), now_s=time.time(), limits=limits,
            status="revoked" if revoked else "active",
        )  # fmt: skip
        page = [box for box, _ in itertools.islice(found, limit)]
        return boxes.with_items(connection, page)

    def cells(box: Any) -> list[str]:
        items = ", ".join(f"{one.name} {one.version or ''} {one.state}" for one in box.items)
        labels = ", ".join(f"{name}={value}" for name, value in sorted(box.labels.items()))
        return [box.principal, box.health.value, ago(box.last_contact_s), labels, items]

    columns = ("box", "health", "last heard", "labels", "has")
    show(in_database(config, work), columns, cells, as_json=as_json)


@boxes_app.command("show")
def show_box(principal: Principal, config: Config = None) -> None:
    """Everything that is known of a box, as JSON."""
    limits = _limits(config)
    found = in_database(config, lambda c: boxes.get(c, principal, now_s=time.time(), limits=limits))
    typer.echo(found.model_dump_json(indent=2))


@boxes_app.command("label")
def label_box(
    principal: Principal,
    labels: Annotated[list[str], typer.Argument(help="NAME=VALUE; an empty value takes it off.")],
    config: Config = None,
) -> None:
    """Set or take off labels of a box; others stay."""
    limits, given = _limits(config), labels_of(labels)

    def work(connection: Connection) -> dict[str, str]:
        box = boxes.get(connection, principal, now_s=time.time(), limits=limits)
        own = {k: v for k, v in box.labels.items() if box.own_labels.get(k) != v}
        wanted = {name: value for name, value in {**own, **given}.items() if value}
        boxes.set_labels(connection, principal, _checked(wanted))
        thing = f"box/{principal}"
        audit.note(connection, actor(), "box.labels", thing, now_s=time.time(), detail=wanted)
        return wanted

    done = in_database(config, work, write=True)
    typer.echo(", ".join(f"{name}={value}" for name, value in sorted(done.items())) or "no labels")


@groups_app.command("list")
def list_groups(config: Config = None, *, as_json: Json = False) -> None:
    """All groups."""
    show(
        in_database(config, groups.listed), ("group", "expression", "description"),
        lambda one: [one.name, one.expression, one.description],  # type: ignore[attr-defined]
        as_json=as_json,
    )  # fmt: skip


@groups_app.command("put")
def put_group(
    name: GroupName,
    expression: Annotated[str, typer.Argument(help="Over a box's facts.")],
    *,
    description: str = "",
    config: Config = None,
) -> None:
    """Make a group or change it."""

    def work(connection: Connection) -> None:
        groups.put(connection, name, expression, description, now_s=time.time())
        detail = {"expression": expression}
        thing = f"group/{name}"
        audit.note(connection, actor(), "group.put", thing, now_s=time.time(), detail=detail)

    in_database(config, work, write=True)


@groups_app.command("delete")
def delete_group(name: GroupName, config: Config = None) -> None:
    """Forget a group; rollouts that began keep their boxes."""

    def work(connection: Connection) -> None:
        groups.remove(connection, name)
        audit.note(connection, actor(), "group.delete", f"group/{name}", now_s=time.time())

    in_database(config, work, write=True)


@tokens_app.command("create")
def create_token(
    name: Annotated[str, typer.Argument(help="For whom it is.")],
    *,
    role: Annotated[Role, typer.Option(help="What it may do.")] = Role.VIEWER,
    days: Annotated[float | None, typer.Option(min=0.01, help="How long it holds.")] = None,
    config: Config = None,
) -> None:
    """Make a token and print it, this once."""

    def work(connection: Connection) -> str:
        lives_s = None if days is None else days * 86_400
        made, secret = tokens.create(connection, name, role, now_s=time.time(), lives_s=lives_s)
        detail = {"name": name, "role": role.value}
        thing = f"token/{made.id}"
        audit.note(connection, actor(), "token.create", thing, now_s=time.time(), detail=detail)
        return secret

    typer.echo(in_database(config, work, write=True))


@tokens_app.command("list")
def list_tokens(config: Config = None, *, as_json: Json = False) -> None:
    """All tokens, without their secrets."""
    show(
        in_database(config, tokens.listed),
        ("id", "name", "role", "made", "expires", "revoked", "used"),
        lambda one: [
            one.id, one.name, one.role.value, date(one.created_s), date(one.expires_s),  # type: ignore[attr-defined]
            date(one.revoked_s), ago(one.used_s),  # type: ignore[attr-defined]
        ],
        as_json=as_json,
    )  # fmt: skip


@tokens_app.command("revoke")
def revoke_token(
    token_id: Annotated[str, typer.Argument(help="The token's id.")], config: Config = None
) -> None:
    """End a token now."""

    def work(connection: Connection) -> None:
        tokens.revoke(connection, token_id, now_s=time.time())
        audit.note(connection, actor(), "token.revoke", f"token/{token_id}", now_s=time.time())

    in_database(config, work, write=True)


def list_audit(
    *,
    limit: Annotated[int, typer.Option(min=1, max=10_000)] = 100,
    about: Annotated[str | None, typer.Option(help="One object, as box/acme~box-1.")] = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Who changed what, the newest first."""
    show(
        in_database(config, lambda c: audit.entries(c, thing=about, limit=limit)),
        ("at", "who", "what", "object", "detail"),
        lambda one: [
            date(one.at_s), one.actor, one.action, one.object, str(one.detail or "")  # type: ignore[attr-defined]
        ],
        as_json=as_json,
    )  # fmt: skip


def _limits(config: Config) -> Any:
    from fleet.wiring import limits_of

    return limits_of(settings_of(config))


def _checked(labels: dict[str, str]) -> dict[str, str]:
    from fleet.api.boxes import LabelsBody

    try:
        return LabelsBody(labels=labels).labels
    except ValidationError as error:
        raise UsageError(f"labels: {error.errors()[0]['msg']}", param="labels") from error

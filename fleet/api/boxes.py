"""Handlers: boxes, labels, groups."""

from __future__ import annotations

import functools
import re
from typing import Literal

from pydantic import Field
from sqlalchemy import Connection

from edge_runtime.agent.protocol import Health
from edge_runtime.errors import UsageError
from fleet.api.routes import Call, Done, Model, Page, PageQuery
from fleet.enrol import credentials
from fleet.enrol.credentials import Credential
from fleet.registry import boxes, groups, summary
from fleet.registry.audit import note
from fleet.registry.boxes import Box, BoxPage, Labels, Status
from fleet.registry.groups import Group
from fleet.registry.selection import compile_target, select_boxes

_GROUP = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


class BoxQuery(PageQuery):
    """Which boxes."""

    where: str = Field("true", max_length=1024, description="Expression over a box's facts.")
    group: str | None = Field(None, max_length=64, description="Boxes of this group only.")
    tenant: str | None = Field(None, max_length=64, description="Boxes of this tenant only.")
    health: Health | None = Field(None, description="Boxes of this health only.")
    status: Status = Field("active", description="`active` or `revoked`.")


class LabelsBody(Model):
    """The operator's labels; those not named are taken off."""

    labels: Labels


class RevokeBody(Model):
    """Why a box is put out."""

    reason: str = Field("", max_length=300)


class OrderBody(Model):
    """An order for a box that is connected; nothing happens when it is not."""

    order: Literal["report", "log", "rotate"]


class OrderSent(Model):
    """The order's id, as answers to it carry it."""

    id: str


class GroupBody(Model):
    """A group: an expression over boxes."""

    expression: str = Field(min_length=1, max_length=1024)
    description: str = Field("", max_length=500)


class BoxCredentials(Page[Credential]):
    """What a box had and has."""


async def list_boxes(call: Call) -> Page[Box]:
    """A page of boxes, by principal."""
    query: BoxQuery = call.query
    return await call.services.database.read(functools.partial(_page, call=call, query=query))


def _page(connection: Connection, *, call: Call, query: BoxQuery) -> Page[Box]:
    compile_target(query.where)  # alone first: positions of errors are those the caller sees
    text = query.where
    if query.group is not None:
        groups.get(connection, query.group)  # a name that is not there is told, not empty
        text = f"({text}) && {_quoted(query.group)} in groups"
    found = select_boxes(
        connection,
        compile_target(text),
        now_s=call.now_s,
        limits=call.services.limits,
        after=query.after or "",
        tenant=query.tenant,
        status=query.status,
    )
    limit = min(query.limit, call.services.settings.api.page_items)
    page: list[Box] = []
    more = False
    for box, _ in found:
        if query.health is not None and box.health is not query.health:
            continue
        if len(page) == limit:
            more = True
            break
        page.append(box)
    after = page[-1].principal if more else None
    return Page[Box](items=boxes.with_items(connection, page), next=after)


def _quoted(name: str) -> str:
    assert _GROUP.fullmatch(name), "groups are filed under such names only"
    return f"'{name}'"


async def get_box(call: Call) -> BoxPage:
    """One box with everything it reported."""
    now_s, limits = call.now_s, call.services.limits
    return await call.services.database.read(
        lambda c: boxes.get(c, call.path["principal"], now_s=now_s, limits=limits)
    )


async def list_credentials(call: Call) -> BoxCredentials:
    """What a box had and has to show; no secrets."""
    principal = call.path["principal"]
    found = await call.services.database.read(lambda c: credentials.listed(c, principal))
    if not found:
        raise boxes.unknown(principal)
    return BoxCredentials(items=found, next=None)


async def set_labels(call: Call) -> BoxPage:
    """Replace the operator's labels of a box."""
    principal, body = call.path["principal"], call.body

    def work(connection: Connection) -> BoxPage:
        boxes.set_labels(connection, principal, body.labels)
        note(
            connection, call.actor, "box.labels", f"box/{principal}",
            now_s=call.now_s, detail=body.labels,
        )  # fmt: skip
        return boxes.get(connection, principal, now_s=call.now_s, limits=call.services.limits)

    return await call.services.database.write(work)


async def revoke_box(call: Call) -> Done:
    """Put a box out: it cannot connect any more."""
    principal = call.path["principal"]
    await call.services.enrolment.revoke(principal, actor=call.actor, reason=call.body.reason)
    await call.services.orders.forget(principal)
    return Done()


async def order_box(call: Call) -> OrderSent:
    """Send a short-lived order."""
    principal, order = call.path["principal"], call.body.order

    def work(connection: Connection) -> None:
        if not boxes.exists(connection, principal):
            raise boxes.unknown(principal)
        note(
            connection, call.actor, "box.order", f"box/{principal}",
            now_s=call.now_s, detail={"order": order},
        )  # fmt: skip

    await call.services.database.write(work)
    return OrderSent(id=await call.services.orders.order(principal, order))


async def get_summary(call: Call) -> summary.Summary:
    """How many boxes are in which state."""
    now_s, limits = call.now_s, call.services.limits
    return await call.services.database.read(
        lambda c: summary.summarise(c, now_s=now_s, limits=limits)
    )


async def list_groups(call: Call) -> Page[Group]:
    """All groups."""
    return Page[Group](items=await call.services.database.read(groups.listed), next=None)


async def put_group(call: Call) -> Group:
    """Make a group or change it."""
    name, body = call.path["name"], call.body
    if not _GROUP.fullmatch(name):
        raise UsageError("a group's name is 1-64 of a-z, 0-9, '.', '_' or '-'", param="name")

    def work(connection: Connection) -> Group:
        made = groups.put(connection, name, body.expression, body.description, now_s=call.now_s)
        note(
            connection, call.actor, "group.put", f"group/{name}",
            now_s=call.now_s, detail={"expression": body.expression},
        )  # fmt: skip
        return made

    return await call.services.database.write(work)


async def delete_group(call: Call) -> Done:
    """Forget a group; rollouts that began keep their boxes."""
    name = call.path["name"]

    def work(connection: Connection) -> None:
        groups.remove(connection, name)
        note(connection, call.actor, "group.delete", f"group/{name}", now_s=call.now_s)

    await call.services.database.write(work)
    return Done()

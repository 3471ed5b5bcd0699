"""Groups: a name for an expression over boxes. Nobody joins or leaves; a box fits or does not."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict
from sqlalchemy import Connection, delete, insert, select, update

from edge_runtime.errors import UsageError
from fleet.db.tables import groups
from fleet.expr import Expression, compile_expression
from fleet.registry.facts import GROUP_NAMES

MAX_GROUPS = 500


class Group(BaseModel):
    """A group."""

    model_config = ConfigDict(frozen=True, from_attributes=True)

    name: str
    expression: str
    description: str = ""
    created_s: float


def put(
    connection: Connection, name: str, expression: str, description: str, *, now_s: float
) -> Group:
    """Make a group or change it. Raises `ExpressionError` for an expression that cannot hold."""
    compile_expression(expression, GROUP_NAMES)
    values = {"expression": expression, "description": description}
    changed = connection.execute(update(groups).where(groups.c.name == name).values(**values))
    if changed.rowcount == 0:
        if len(listed(connection)) >= MAX_GROUPS:
            raise UsageError(
                f"there are {MAX_GROUPS} groups already; delete some", code="too_many", status=409
            )
        connection.execute(insert(groups).values(name=name, created_s=now_s, **values))
    return get(connection, name)


def get(connection: Connection, name: str) -> Group:
    """Raises `UsageError` when there is none."""
    row = connection.execute(select(groups).where(groups.c.name == name)).one_or_none()
    if row is None:
        raise UsageError(f"there is no group {name!r}", code="not_found", status=404)
    return Group.model_validate(row)


def listed(connection: Connection) -> list[Group]:
    """All groups by name."""
    rows = connection.execute(select(groups).order_by(groups.c.name))
    return [Group.model_validate(row) for row in rows]


def remove(connection: Connection, name: str) -> None:
    """Raises `UsageError` when there is none. Rollouts keep the boxes they began with."""
    if connection.execute(delete(groups).where(groups.c.name == name)).rowcount != 1:
        raise UsageError(f"there is no group {name!r}", code="not_found", status=404)


def compiled(connection: Connection) -> Mapping[str, Expression]:
    """Every group's expression by its name."""
    return {
        group.name: compile_expression(group.expression, GROUP_NAMES)
        for group in listed(connection)
    }

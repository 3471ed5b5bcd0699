"""Which boxes an expression means."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Connection

from fleet.expr import Expression, compile_expression
from fleet.registry import boxes, groups
from fleet.registry.boxes import Box, Status
from fleet.registry.facts import BOX_NAMES, Known, Limits, values_of


def compile_target(text: str) -> Expression:
    """An expression over boxes. Raises `ExpressionError`."""
    return compile_expression(text, BOX_NAMES)


def select_boxes(
    connection: Connection,
    target: Expression,
    *,
    now_s: float,
    limits: Limits,
    after: str = "",
    tenant: str | None = None,
    status: Status | None = "active",
) -> Iterator[tuple[Box, Known]]:
    """The boxes for which `target` holds, in the order of principals.

    About 60 microseconds a box looked at; groups are worked out only where `target` asks.
    """
    known_groups = groups.compiled(connection) if "groups" in target.names else {}
    found = boxes.scan(
        connection, now_s=now_s, limits=limits, after=after, tenant=tenant, status=status
    )
    for box, known in found:
        values = values_of(known)
        if known_groups:
            values["groups"] = [
                name for name, expression in known_groups.items() if expression.holds(values)
            ]
        if target.holds(values):
            yield box, known

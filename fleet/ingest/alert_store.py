"""Rules and alerts in the database, and one look at all rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict
from sqlalchemy import Connection, delete, func, insert, select, update

from edge_runtime.errors import UsageError
from fleet.db.tables_telemetry import alert_rules, alerts
from fleet.db.upsert import upsert
from fleet.ingest.alerts import RuleState, Step, compile_rule, look, values_of
from fleet.ingest.figures import all_figures
from fleet.ingest.queries import fleet_sums
from fleet.ingest.rows import HOUR_S
from fleet.registry.facts import Limits
from fleet.registry.summary import summarise

Severity = Literal["info", "warning", "critical"]
Told = Literal["waiting", "told", "given_up", "nobody"]
_FIRST_WAIT_S: Final = 10.0
_LONGEST_WAIT_S: Final = 3600.0


class Rule(BaseModel):
    """A rule; `holding_since_s` is set while it holds."""

    model_config = ConfigDict(frozen=True, from_attributes=True)

    name: str
    expression: str
    for_s: int
    severity: Severity
    description: str
    holding_since_s: float | None = None
    alert: int | None = None


class Alert(BaseModel):
    """An alert; `values` are those of the names its rule mentions, when it was raised."""

    model_config = ConfigDict(frozen=True, from_attributes=True)

    id: int
    rule: str
    severity: Severity
    raised_s: float
    cleared_s: float | None
    values: dict[str, Any]
    tries: int
    told: Told
    last_error: str


def put_rule(connection: Connection, rule: Rule, *, max_rules: int) -> None:
    """Make or change a rule; it begins anew. Raises `ExpressionError`, `UsageError`."""
    compile_rule(rule.expression)
    known = {one.name for one in rules(connection)}
    if rule.name not in known and len(known) >= max_rules:
        raise UsageError(
            f"there are {max_rules} rules already; delete some", code="too_many", status=409
        )
    upsert(connection, alert_rules, [rule.model_dump()])


def remove_rule(connection: Connection, name: str, *, now_s: float) -> None:
    """Forget a rule; what it raised is cleared. Raises `UsageError` when there is none."""
    found = {one.name: one for one in rules(connection)}.get(name)
    if found is None:
        raise UsageError(f"there is no rule {name!r}", code="not_found", status=404)
    if found.alert is not None:
        _clear(connection, found, now_s)
    connection.execute(delete(alert_rules).where(alert_rules.c.name == name))


def rules(connection: Connection) -> list[Rule]:
    """All rules by name."""
    query = select(alert_rules).order_by(alert_rules.c.name)
    return [Rule.model_validate(row) for row in connection.execute(query)]


def listed(
    connection: Connection, *, before: int | None = None, open_only: bool = False, limit: int = 100
) -> list[Alert]:
    """Alerts, the newest first; `before` is the id to go on from."""
    query = select(alerts).order_by(alerts.c.id.desc()).limit(limit)
    if before is not None:
        query = query.where(alerts.c.id < before)
    if open_only:
        query = query.where(alerts.c.cleared_s.is_(None))
    return [Alert.model_validate(row) for row in connection.execute(query)]


def count_open(connection: Connection) -> int:
    """How many alerts are out."""
    query = select(func.count()).select_from(alerts).where(alerts.c.cleared_s.is_(None))
    return int(connection.execute(query).scalar_one())


def current_values(connection: Connection, *, now_s: float, limits: Limits) -> dict[str, Any]:
    """What rules are held against now."""
    since_s = (now_s // HOUR_S - 1) * HOUR_S  # this hour and the one before
    figures = all_figures(fleet_sums(connection, since_s=since_s))
    return values_of(summarise(connection, now_s=now_s, limits=limits), figures)


def look_at_all(
    connection: Connection, *, now_s: float, limits: Limits, tell: bool
) -> dict[str, Step]:
    """Look at every rule once and store what follows; the steps that changed something.

    `tell`: there is a webhook to tell.
    """
    values = current_values(connection, now_s=now_s, limits=limits)
    steps: dict[str, Step] = {}
    for rule in rules(connection):
        state = RuleState(rule.holding_since_s, rule.alert is not None)
        expression = compile_rule(rule.expression)
        step = look(expression, state, values, for_s=rule.for_s, now_s=now_s)
        if step is Step.NOTHING:
            continue
        steps[rule.name] = step
        if step is Step.HOLD:
            _set(connection, rule, holding_since_s=now_s)
        elif step is Step.FORGET:
            _set(connection, rule, holding_since_s=None)
        elif step is Step.CLEAR:
            _clear(connection, rule, now_s)
            _set(connection, rule, holding_since_s=None, alert=None)
        else:
            mentioned = {name: values[name] for name in expression.names if name in values}
            raised = _raise(connection, rule, mentioned, now_s=now_s, tell=tell)
            since_s = rule.holding_since_s if rule.holding_since_s is not None else now_s
            _set(connection, rule, holding_since_s=since_s, alert=raised)
    return steps


def waiting(connection: Connection, *, now_s: float, limit: int = 100) -> list[Alert]:
    """Alerts the webhook has to hear of now, the oldest first."""
    query = (
        select(alerts)
        .where(alerts.c.told == "waiting", alerts.c.next_try_s <= now_s)
        .order_by(alerts.c.id)
        .limit(limit)
    )
    return [Alert.model_validate(row) for row in connection.execute(query)]


def delivered(connection: Connection, alert: Alert) -> None:
    """The webhook took it. What changed since it was read stays to be told."""
    same = alerts.c.cleared_s.is_not_distinct_from(alert.cleared_s)
    connection.execute(
        update(alerts).where(alerts.c.id == alert.id, same).values(told="told", last_error="")
    )


def not_delivered(
    connection: Connection, alert: Alert, error: str, *, now_s: float, max_tries: int
) -> None:
    """The webhook did not take it: later again, or never."""
    tries = alert.tries + 1
    wait_s = min(_FIRST_WAIT_S * 2 ** (tries - 1), _LONGEST_WAIT_S)
    told = "given_up" if tries >= max_tries else "waiting"
    connection.execute(
        update(alerts)
        .where(alerts.c.id == alert.id)
        .values(tries=tries, told=told, last_error=error[:500], next_try_s=now_s + wait_s)
    )


def _raise(
    connection: Connection, rule: Rule, values: Mapping[str, Any], *, now_s: float, tell: bool
) -> int:
    row = {
        "rule": rule.name,
        "severity": rule.severity,
        "raised_s": now_s,
        "cleared_s": None,
        "values": dict(values),
        "tries": 0,
        "next_try_s": now_s,
        "told": "waiting" if tell else "nobody",
        "last_error": "",
    }
    made = connection.execute(insert(alerts).values(row).returning(alerts.c.id))
    return int(made.scalar_one())


def _clear(connection: Connection, rule: Rule, now_s: float) -> None:
    """Clear the alert; whoever heard of it, or was to, hears of the end too."""
    connection.execute(update(alerts).where(alerts.c.id == rule.alert).values(cleared_s=now_s))
    connection.execute(
        update(alerts)
        .where(alerts.c.id == rule.alert, alerts.c.told.in_(("told", "given_up", "waiting")))
        .values(told="waiting", tries=0, next_try_s=now_s)
    )


def _set(connection: Connection, rule: Rule, **values: Any) -> None:
    connection.execute(update(alert_rules).where(alert_rules.c.name == rule.name).values(**values))

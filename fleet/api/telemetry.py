"""Handlers: telemetry by the hour, logs that were asked for, alerts, and `/metrics`."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field
from sqlalchemy import Connection

from edge_runtime.agent.protocol import split_principal
from edge_runtime.bundle.manifest import Sha256
from edge_runtime.errors import UsageError
from fleet.api.metrics import CONTENT_TYPE, exposition
from fleet.api.routes import Call, Done, Model, Page, PageQuery, Raw, int_cursor
from fleet.ingest import alert_store, queries
from fleet.ingest.alert_store import Alert, Rule, Severity
from fleet.ingest.figures import all_figures
from fleet.ingest.queries import Hour, Point
from fleet.ingest.rows import HOUR_S
from fleet.registry.audit import note
from fleet.registry.summary import summarise

_MAX_HOURS = 24 * 366
_RULE = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
Hours = Annotated[float, Field(gt=0, le=_MAX_HOURS, description="How far back, in hours.")]


class HoursQuery(Model):
    """Which hours."""

    hours: Hours = 24.0
    model_digest: Sha256 | None = Field(
        None, description="One artefact only; without it all, and what is no artefact's."
    )


class SeriesQuery(Model):
    """Which counter."""

    hours: Hours = 24.0
    metric: str = Field(pattern=r"^[a-z][a-z0-9_]{0,95}$")
    by: str = Field("model_digest", pattern=r"^[a-z][a-z0-9_]{0,31}$", description="A label.")


class TotalsQuery(Model):
    """How far back."""

    hours: Hours = 24.0


class Totals(Model):
    """Everything boxes said in that time, as one; rates are of the sums, not means of rates."""

    since_s: float
    rows: int
    figures: dict[str, float]


class AlertQuery(PageQuery):
    """Which alerts."""

    open: bool = Field(default=False, description="Only those that are not cleared.")


class RuleBody(Model):
    """When an alert is raised: an expression over `ALERT_NAMES` that held for `for_s`."""

    expression: str = Field(min_length=1, max_length=1024)
    for_s: int = Field(0, ge=0, le=30 * 86_400)
    severity: Severity = "warning"
    description: str = Field("", max_length=500)


class LogAnswer(Model):
    """The lines that have come; `complete` once all have."""

    lines: list[str]
    complete: bool


async def fleet_hours(call: Call) -> Page[Hour]:
    """Figures of the whole fleet by the hour."""
    query: HoursQuery = call.query
    since_s = call.now_s - query.hours * HOUR_S
    found = await call.services.database.read(
        lambda c: queries.fleet_by_hour(c, since_s=since_s, digest=query.model_digest)
    )
    return Page[Hour](items=found, next=None)


async def fleet_totals(call: Call) -> Totals:
    """Figures of the whole fleet over a stretch of time."""
    since_s = call.now_s - call.query.hours * HOUR_S
    sums = await call.services.database.read(lambda c: queries.fleet_sums(c, since_s=since_s))
    return Totals(since_s=since_s, rows=sums.rows, figures=dict(all_figures(sums)))


async def box_hours(call: Call) -> Page[Hour]:
    """Figures of a box by the hour."""
    query: HoursQuery = call.query
    since_s, principal = call.now_s - query.hours * HOUR_S, call.path["principal"]
    found = await call.services.database.read(
        lambda c: queries.box_by_hour(c, principal, since_s=since_s, digest=query.model_digest)
    )
    return Page[Hour](items=found, next=None)


async def fleet_series(call: Call) -> Page[Point]:
    """A counter of the whole fleet by the hour and by one label."""
    query: SeriesQuery = call.query
    since_s = call.now_s - query.hours * HOUR_S
    found = await call.services.database.read(
        lambda c: queries.counter_by_label(c, query.metric, query.by, since_s=since_s)
    )
    return Page[Point](items=found, next=None)


async def read_log(call: Call) -> LogAnswer:
    """The log that an order asked for, as far as it has come."""
    split_principal(call.path["principal"])
    lines, complete = call.services.orders.logs.read(call.path["order"], call.path["principal"])
    return LogAnswer(lines=lines, complete=complete)


async def list_alerts(call: Call) -> Page[Alert]:
    """Alerts, the newest first."""
    query: AlertQuery = call.query
    before = int_cursor(query.after)
    found = await call.services.database.read(
        lambda c: alert_store.listed(c, before=before, open_only=query.open, limit=query.limit)
    )
    more = str(found[-1].id) if len(found) == query.limit else None
    return Page[Alert](items=found, next=more)


async def list_alert_rules(call: Call) -> Page[Rule]:
    """All rules."""
    return Page[Rule](items=await call.services.database.read(alert_store.rules), next=None)


async def put_alert_rule(call: Call) -> Rule:
    """Make a rule or change it; it begins anew."""
    name, body = call.path["name"], call.body
    if not _RULE.fullmatch(name):
        raise UsageError("a rule's name is 1-64 of a-z, 0-9, '.', '_' or '-'", param="name")
    rule = Rule(name=name, **body.model_dump())

    def work(connection: Connection) -> None:
        max_rules = call.services.settings.alerts.max_rules
        alert_store.put_rule(connection, rule, max_rules=max_rules)
        note(
            connection, call.actor, "alert.put", f"alert/{name}",
            now_s=call.now_s, detail=body.model_dump(mode="json"),
        )  # fmt: skip

    await call.services.database.write(work)
    return rule


async def delete_alert_rule(call: Call) -> Done:
    """Forget a rule; what it raised is cleared."""
    name = call.path["name"]

    def work(connection: Connection) -> None:
        alert_store.remove_rule(connection, name, now_s=call.now_s)
        note(connection, call.actor, "alert.delete", f"alert/{name}", now_s=call.now_s)

    await call.services.database.write(work)
    return Done()


async def get_metrics(call: Call) -> Raw:
    """The control host's own metrics, for Prometheus."""
    services = call.services

    def work(connection: Connection) -> bytes:
        summary = summarise(connection, now_s=call.now_s, limits=services.limits)
        return exposition(summary, alert_store.count_open(connection), services.ingest)

    return Raw(await services.database.read(work), CONTENT_TYPE)

"""Reading cost back: by a label over a time, in steps for a plot, and budgets as they stand."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import ColumnElement, Connection, Label, case, func, literal, select

from edge_runtime.agent.protocol import COST_SUMS, OTHER
from fleet.db.tables import boxes
from fleet.db.tables_telemetry import box_budgets, cost_hours
from fleet.ingest.costs import ALL_WORK, IDLE
from fleet.ingest.rows import HOUR_S

MAX_LABELS: Final = 200
HOURLY_UP_TO_S: Final = 8 * 24 * HOUR_S
DAY_S: Final = 24 * HOUR_S
NEARLY_FULL: Final = 0.8
IDLE_LABEL: Final = "(idle)"
_NANO, _MICRO = 1e9, 1e6
_BY_TIER: Final = ("from_cache", "from_frontier")
_SUMS: Final = (*COST_SUMS, *_BY_TIER)


class By(enum.StrEnum):
    """What cost is broken down by."""

    TOTAL = "total"
    ENDPOINT = "endpoint"
    OWNER = "owner"
    TIER = "tier"
    BUDGET = "budget"


class Cost(BaseModel):
    """What one label cost. Money in `currency`; what cannot be divided is null.

    `money` is everything: `frontier`, `energy` and `hardware`. Shares are of answered requests.
    """

    model_config = ConfigDict(frozen=True)

    label: str
    currency: str
    requests: int
    answered: int
    tasks: int
    resolved: int
    tokens_in: int
    tokens_cached: int
    tokens_out: int
    money: float
    frontier: float
    energy: float
    hardware: float
    saved: float = Field(description="What making the answers had cost that came from a cache.")
    joules: float
    money_per_resolved: float | None
    joules_per_resolved: float | None
    money_per_request: float | None
    tokens_per_request: float | None
    cache_share: float | None
    escalation_share: float | None


class CostStep(Cost):
    """The same for one step of time."""

    at_s: int


class Costs(BaseModel):
    """`items` of the whole time, dearest first; `steps` of `step_s` each, oldest first.

    Beyond 200 labels the cheapest are one, `(other)`. Energy of idle boxes is `(idle)`.
    """

    model_config = ConfigDict(frozen=True)

    since_s: float
    step_s: int
    items: list[Cost]
    steps: list[CostStep]


class Budget(BaseModel):
    """One budget over all boxes that have it, in the window of now (UTC).

    `boxes` told of this window, `late` only of one before; `nearly` used 80 % and `full` all.
    """

    model_config = ConfigDict(frozen=True)

    scope: str
    period: str
    currency: str
    boxes: int = 0
    late: int = 0
    nearly: int = 0
    full: int = 0
    limit: float = 0.0
    spent: float = 0.0
    reserved: float = 0.0
    fullest: str | None = None
    fullest_share: float = 0.0


def costs(connection: Connection, by: By, *, since_s: float, until_s: float) -> Costs:
    """Cost from the hour that holds `since_s` on. A pass over the hours, in the database."""
    step_s = HOUR_S if until_s - since_s <= HOURLY_UP_TO_S else DAY_S
    table = cost_hours.c
    start = table.hour_s - table.hour_s % step_s
    label = _label(by)
    first_s = int(since_s // HOUR_S) * HOUR_S
    query = (
        select(start.label("at_s"), label, table.currency, *_sums())
        .where(table.hour_s >= first_s)
        .where(table.scope != ALL_WORK if by is By.BUDGET else table.scope == ALL_WORK)
        .group_by("at_s", "label", table.currency)
    )
    whole: dict[tuple[str, str], dict[str, int]] = {}
    steps: dict[tuple[int, str, str], dict[str, int]] = {}
    rows = [row._asdict() for row in connection.execute(query)]
    kept = _kept_labels(rows)
    for row in rows:
        name, currency = str(row["label"]), str(row["currency"])
        if (name, currency) not in kept:
            name = OTHER
        _add(whole.setdefault((name, currency), {}), row)
        _add(steps.setdefault((int(row["at_s"]), name, currency), {}), row)
    items = [Cost(**_figures(*key, sums)) for key, sums in whole.items()]
    items.sort(key=lambda one: (-one.money, -one.joules, one.label))
    return Costs(
        since_s=since_s,
        step_s=step_s,
        items=items,
        steps=[
            CostStep(at_s=at_s, **_figures(name, currency, steps[at_s, name, currency]))
            for at_s, name, currency in sorted(steps)
        ],
    )


def budgets(connection: Connection, *, now_s: float) -> list[Budget]:
    """Budgets as boxes told them last, the fullest first. Reads a small document a box."""
    current = window_names(now_s)
    query = (
        select(box_budgets.c.principal, box_budgets.c.currency, box_budgets.c.budgets)
        .join(boxes, boxes.c.principal == box_budgets.c.principal)
        .where(boxes.c.status == "active")
        .order_by(box_budgets.c.principal)
    )
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    for principal, currency, told in connection.execute(query):
        for one in told:
            key = (str(one["scope"]), str(one["period"]), str(currency))
            place = found.setdefault(key, dict.fromkeys(_BUDGET_SUMS, 0))
            _add_budget(place, principal, one, one["window"] == current[one["period"]])
    items = [
        Budget(scope=scope, period=period, currency=currency, **values)
        for (scope, period, currency), values in found.items()
    ]
    items.sort(key=lambda one: (-one.fullest_share, one.scope, one.period))
    return items[:MAX_LABELS]


def window_names(now_s: float) -> dict[str, str]:
    """What boxes call the day and the month of now."""
    now = datetime.fromtimestamp(now_s, UTC)
    return {"day": now.strftime("%Y-%m-%d"), "month": now.strftime("%Y-%m")}


_BUDGET_SUMS: Final = ("boxes", "late", "nearly", "full", "limit", "spent", "reserved")


def _add_budget(place: dict[str, Any], principal: str, told: dict[str, Any], is_now: bool) -> None:
    if not is_now:
        place["late"] += 1
        return
    used, limit = told["spent_nano"] + told["held_nano"], told["limit_nano"]
    share = used / limit if limit else 1.0
    place["boxes"] += 1
    place["nearly"] += share >= NEARLY_FULL
    place["full"] += share >= 1.0
    place["limit"] += limit / _NANO
    place["spent"] += told["spent_nano"] / _NANO
    place["reserved"] += told["held_nano"] / _NANO
    if share > place.get("fullest_share", -1.0):
        place["fullest"], place["fullest_share"] = principal, share


def _label(by: By) -> Label[str]:
    table = cost_hours.c
    column: ColumnElement[str] = literal("")
    if by is By.BUDGET:
        column = table.scope
    elif by is By.TIER:
        column = table.tier
    elif by is not By.TOTAL:
        column = case((table.tier == IDLE, IDLE_LABEL), else_=table[by.value])
    return column.label("label")


def _sums() -> Iterable[ColumnElement[Any]]:
    table = cost_hours.c
    for name in COST_SUMS:
        yield func.sum(table[name]).label(name)
    for name, tier in zip(_BY_TIER, ("cache", "frontier"), strict=True):
        yield func.sum(case((table.tier == tier, table.answered), else_=0)).label(name)


def _kept_labels(rows: list[dict[str, Any]]) -> set[tuple[str, str]]:
    spent: dict[tuple[str, str], int] = {}
    for row in rows:
        key = (str(row["label"]), str(row["currency"]))
        money = row["frontier_nano"] + row["energy_nano"] + row["hardware_nano"]
        spent[key] = spent.get(key, 0) + int(money)
    return set(sorted(spent, key=lambda key: (-spent[key], key))[:MAX_LABELS])


def _add(into: dict[str, int], row: dict[str, Any]) -> None:
    for name in _SUMS:
        into[name] = into.get(name, 0) + int(row[name])  # PostgreSQL sums to decimals


def _figures(label: str, currency: str, sums: dict[str, int]) -> dict[str, Any]:
    parts = {name: sums[f"{name}_nano"] / _NANO for name in ("frontier", "energy", "hardware")}
    money = (sums["frontier_nano"] + sums["energy_nano"] + sums["hardware_nano"]) / _NANO
    joules = sums["energy_uj"] / _MICRO
    tokens = sums["tokens_in"] + sums["tokens_out"]
    counts = ("requests", "answered", "tasks", "resolved", "tokens_in", "tokens_cached",
              "tokens_out")  # fmt: skip
    return {
        "label": label,
        "currency": currency,
        **{name: sums[name] for name in counts},
        "money": money,
        **parts,
        "saved": sums["saved_nano"] / _NANO,
        "joules": joules,
        "money_per_resolved": _ratio(money, sums["resolved"]),
        "joules_per_resolved": _ratio(joules, sums["resolved"]),
        "money_per_request": _ratio(money, sums["requests"]),
        "tokens_per_request": _ratio(tokens, sums["requests"]),
        "cache_share": _ratio(sums["from_cache"], sums["answered"]),
        "escalation_share": _ratio(sums["from_frontier"], sums["answered"]),
    }


def _ratio(top: float, bottom: int) -> float | None:
    return top / bottom if bottom > 0 else None

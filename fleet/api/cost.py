"""Handlers: what the fleet cost, and how full its budgets are."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from fleet.api.routes import Call, Model, Page
from fleet.ingest import cost_queries
from fleet.ingest.cost_queries import Budget, By, Costs
from fleet.ingest.rows import HOUR_S

_MAX_HOURS: Final = 24 * 400


class CostQuery(Model):
    """Which time, and by what."""

    hours: Annotated[float, Field(gt=0, le=_MAX_HOURS, description="How far back, in hours.")] = 24
    by: By = Field(
        By.ENDPOINT, description="`budget`: what falls under each budget, on boxes that have it."
    )


async def fleet_cost(call: Call) -> Costs:
    """What the fleet cost, by endpoint, owner, tier or budget."""
    query: CostQuery = call.query
    since_s = call.now_s - query.hours * HOUR_S
    return await call.services.database.read(
        lambda c: cost_queries.costs(c, query.by, since_s=since_s, until_s=call.now_s)
    )


async def fleet_budgets(call: Call) -> Page[Budget]:
    """Budgets over all boxes, in the day and month of now."""
    found = await call.services.database.read(lambda c: cost_queries.budgets(c, now_s=call.now_s))
    return Page[Budget](items=found, next=None)

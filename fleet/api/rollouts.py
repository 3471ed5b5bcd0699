"""Handlers: rollouts, and what is published.

Who ordered what of a rollout is part of its own history, written with the order; the audit log
names it as well.
"""

from __future__ import annotations

import asyncio

from pydantic import Field
from sqlalchemy import Connection

from edge_runtime.agent.protocol import ItemKind
from edge_runtime.errors import UsageError
from fleet.api.routes import Call, Model, Page, int_cursor
from fleet.registry.audit import note
from fleet.rollout.plan import MAX_PLAN_BYTES
from fleet.rollout.planner import Forecast
from fleet.rollout.service import BoxView, RolloutPage, RolloutSummary, VerdictView
from fleet.rollout.states import Action
from fleet.rollout.verdicts import Explanation, Turn


class PlanBody(Model):
    """A plan, as the TOML text that people write."""

    plan: str = Field(min_length=1, max_length=MAX_PLAN_BYTES)


class ReasonBody(Model):
    """Why; it stands in the rollout's history."""

    reason: str = Field("", max_length=300)


class ExplainQuery(Model):
    """Which verdict; none: the newest of each guard."""

    verdict: int | None = None


class PublishedQuery(Model):
    """What to list."""

    kind: ItemKind = ItemKind.BUNDLE
    name: str = Field(max_length=128)


class ForecastAnswer(Model):
    """What a plan would come to now."""

    forecast: Forecast


class Explanations(Model):
    """Verdicts with the evidence that tells why."""

    items: list[Explanation]


class Turns(Model):
    """What other guards would have said, and when."""

    items: list[Turn]


class PublishedItem(Model):
    """One published artefact."""

    kind: ItemKind
    name: str
    digest: str
    release: int
    release_floor: int
    size_bytes: int


async def list_rollouts(call: Call) -> Page[RolloutSummary]:
    """All rollouts, the newest first."""
    return Page[RolloutSummary](items=await call.services.rollouts.summaries(), next=None)


async def file_rollout(call: Call) -> RolloutPage:
    """Check a plan and store it as a draft."""
    page = await call.services.rollouts.file(call.body.plan, call.actor.name)
    await _note(call, "rollout.file", page.id, "")
    return page


async def forecast_rollout(call: Call) -> ForecastAnswer:
    """What a plan would cost, and what its guards could see; stores nothing."""
    return ForecastAnswer(forecast=await call.services.rollouts.forecast(call.body.plan))


async def get_rollout(call: Call) -> RolloutPage:
    """One rollout with its waves, its history and the newest verdicts."""
    return await call.services.rollouts.page(call.path["id"])


async def order_rollout(call: Call) -> RolloutPage:
    """Approve, pause, resume, halt, roll back, retry or cancel."""
    rollout, name = call.path["id"], call.path["action"]
    try:
        action = Action(name)
    except ValueError as error:
        raise UsageError(
            f"there is no action {name[:40]!r}; there are {', '.join(Action)}",
            code="not_found",
            status=404,
        ) from error
    reason: str = call.body.reason
    page = await call.services.rollouts.order(rollout, action, call.actor.name, reason)
    await _note(call, f"rollout.{action}", rollout, reason)
    return page


async def list_rollout_boxes(call: Call) -> Page[BoxView]:
    """Who takes part, in the order of their offers."""
    after = int_cursor(call.query.after)
    found = await call.services.rollouts.boxes(
        call.path["id"], after=-1 if after is None else after, limit=call.query.limit
    )
    more = str(found[-1].place) if len(found) == call.query.limit else None
    return Page[BoxView](items=found, next=more)


async def list_verdicts(call: Call) -> Page[VerdictView]:
    """All verdicts, in order."""
    found = await call.services.rollouts.verdicts(call.path["id"])
    return Page[VerdictView](items=found, next=None)


async def explain_rollout(call: Call) -> Explanations:
    """Why the guards say what they say, checked against the stored evidence."""
    found = await call.services.rollouts.explain(call.path["id"], call.query.verdict)
    return Explanations(items=found)


async def replay_rollout(call: Call) -> Turns:
    """What the guards of another plan would have said; changes nothing."""
    turns = await call.services.rollouts.replay(call.path["id"], call.body.plan)
    return Turns(items=list(turns))


async def list_published(call: Call) -> Page[PublishedItem]:
    """What is published under a name, the newest release first."""
    query: PublishedQuery = call.query
    known = await asyncio.to_thread(call.services.catalogue.bases, query.kind, query.name)
    items = [
        PublishedItem(
            kind=query.kind,
            name=query.name,
            digest=base.digest,
            release=base.release,
            release_floor=base.release_floor,
            size_bytes=base.bytes_full,
        )
        for base in known.values()
    ]
    items.sort(key=lambda one: -one.release)
    return Page[PublishedItem](items=items, next=None)


async def _note(call: Call, action: str, rollout: str, reason: str) -> None:
    def work(connection: Connection) -> None:
        note(
            connection, call.actor, action, f"rollout/{rollout}",
            now_s=call.now_s, detail={"reason": reason},
        )  # fmt: skip

    await call.services.database.write(work)

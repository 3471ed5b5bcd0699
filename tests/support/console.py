"""A control host with something to look at: boxes, telemetry, one bad rollout and one under way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from edge_runtime.agent.protocol import BoxState, Failure, FailureCode, FailureKind, Sample
from fleet.ingest.cost_queries import window_names
from fleet.ingest.decode import Heard, decode
from fleet.ingest.rows import HOUR_S, store
from fleet.registry import boxes, reports
from fleet.rollout.catalogue import StaticCatalogue
from fleet.rollout.engine import RolloutEngine
from fleet.rollout.pairs import Window
from fleet.rollout.service import RolloutService
from fleet.rollout.signals import Figures
from fleet.rollout.states import Phase
from tests.support.fleet import NOW_S, have, item
from tests.support.fleet_api import Api
from tests.support.rollouts import ARTEFACT, DIES, GOOD, NEW, REVERTS, World, plan_of
from tests.support.telemetry import batch, budget, cost, cost_line, row

COUNT = 40
HOURS = 20
MARKUP = "<b>berlin</b>"
QUALITY = {"quality": {"escalation_rate": {"tolerance": 0.05, "from_wave": 3}}}
WAVES = {"shares": [0.25, 0.6, 1.0]}


def name_of(number: int) -> str:
    return f"t~b{number}"


async def a_busy_fleet(api: Api) -> World:
    """Seed it; the answer is the world whose rollouts the API shows."""
    world = World(COUNT, now_s=NOW_S - 200_000.0)
    world.fleet.figures = _figures
    await _rollout(world, "r-1", "assistant 2, first try", REVERTS, Phase.ROLLED_BACK)
    for box, asked in world.items().items():  # what they went back to is what they now have
        facts = replace(world.fleet.facts[box], base_generation=asked.generation)
        world.fleet.facts[box] = facts
    world.lives = {name_of(16): REVERTS, name_of(13): DIES}
    await _rollout(world, "r-2", "assistant 2, second try", GOOD, Phase.BAKING, wave=1)
    api.services.now = lambda: world.now_s
    api.services.rollouts = RolloutService(
        world.store, StaticCatalogue({}, {}), world.engine, api.services.now, {"principal": str}
    )
    await api.services.database.write(lambda c: _seed_boxes(c, world.now_s))
    messages = [decode(one) for one in _telemetry(world.now_s)]
    heard = [one for one in messages if isinstance(one, Heard)]
    await api.services.database.write(lambda c: store(c, heard, now_s=world.now_s))
    return world


async def _rollout(
    world: World, number: str, name: str, life: list[Any], phase: Phase, wave: int = 0
) -> None:
    world.life = list(life)
    world.engine = RolloutEngine(
        world.store, world.transport, lambda: world.now_s, make_id=lambda: number
    )
    plan = plan_of(guards=QUALITY, waves=WAVES).model_copy(update={"name": name})
    await world.engine.file(plan, ARTEFACT, "ada")
    for _ in range(80):
        await world.step()
        state = world.store.tables["rollouts"][number].state
        if state.phase is phase and state.wave >= wave:
            return
    raise AssertionError(f"still {state}")


def _figures(box: str, _window: Window) -> Figures:
    return {"requests": 1000.0, "escalations": 90.0 + int(box.removeprefix("t~b")) % 7}


def _seed_boxes(connection: Any, now_s: float) -> None:
    for number in range(COUNT):
        box = name_of(number)
        site = MARKUP if number == 0 else ("oslo", "bergen")[number % 2]
        boxes.add(connection, box, {"site": site}, now_s=now_s - 30 * 86_400)
        heard_s = now_s - (100_000 if number == 39 else 4000 if number % 13 == 5 else number)
        said = have(box, generation=2, items=(_item(number),), clock_s=int(heard_s) - 2)
        reports.apply_have(connection, box, said, now_s=heard_s)


def _item(number: int) -> Any:
    if number == 3:
        failure = Failure(
            kind=FailureKind.REVERTED, code=FailureCode.CRASHES, reason="3 crashes in probation"
        )
        return item(BoxState.REVERTED, generation=2, rollout="r-1", failure=failure)
    if number < 20:
        return item(generation=2, rollout="r-2", active=NEW, version="2.0.0")
    if number < 26:
        state = (BoxState.FETCHING, BoxState.PROBATION)[number % 2]
        amount = {"bytes_done": 3 << 20, "bytes_total": 5 << 20}
        return item(state, generation=2, rollout="r-2", **amount)
    return item()


def _telemetry(now_s: float) -> list[Any]:
    found = []
    for number in range(4):
        for hour in range(HOURS):
            at_s = now_s - (HOURS - hour - 1) * HOUR_S
            amount = 40.0 + 10 * abs(hour - 10) + 3 * number
            one = row(
                hour + 1,
                counts=_counts(amount),
                clock_s=int(at_s),
                cost=_cost(int(amount), number, now_s),
            )
            found.append(batch(name_of(number), one, clock_s=int(at_s), received_s=at_s))
    return found


def _cost(amount: int, number: int, now_s: float) -> Any:
    """Two owners: one shop whose intents stay here, one desk that talks to a frontier."""

    def line(endpoint: str, owner: str, tier: str, of: int, **sums: int) -> Any:
        values = {"requests": of, "answered": of, "tasks": of, "resolved": of * 9 // 10}
        return cost_line(endpoint, owner, tier, **values, **sums)

    lines = (
        line("intent", "shop", "local", amount, tokens_in=12 * amount, tokens_out=3 * amount,
             energy_nano=90_000 * amount, energy_uj=1_100_000 * amount),
        line("intent", "shop", "cache", amount // 4, tokens_in=0, tokens_out=0, energy_nano=0,
             energy_uj=0, saved_nano=25_000 * amount),
        line("talk", "desk", "local", amount // 3, tokens_in=60 * amount, tokens_out=20 * amount,
             energy_nano=220_000 * amount, energy_uj=2_900_000 * amount),
        line("talk", "desk", "frontier", amount // 8, tokens_in=50 * amount,
             tokens_out=18 * amount, frontier_nano=650_000 * amount, energy_nano=0, energy_uj=0),
        line("summary", "desk", "frontier", amount // (4 + number), tokens_in=70 * amount,
             tokens_out=9 * amount, frontier_nano=400_000 * amount, energy_nano=0, energy_uj=0),
        cost_line("", "default", "idle", requests=0, answered=0, tasks=0, resolved=0, tokens_in=0,
                  tokens_out=0, energy_nano=4_000_000, energy_uj=60_000_000),
    )  # fmt: skip
    now = window_names(now_s)
    spent = (4, 9, 10, 2)[number]
    return cost(
        *lines,
        budgets=[
            budget("box", spent, 10, window=now["day"]),
            budget("tenant:desk", 3 * spent, 90, period="month", window=now["month"]),
        ],
    )


def _counts(amount: float) -> tuple[Sample, ...]:
    def sample(metric: str, value: float, **labels: str) -> Sample:
        return Sample(metric=f"edge_{metric}_total", labels=labels, value=value)

    intent, talk = {"endpoint": "intent"}, {"endpoint": "talk"}
    return (
        sample("decisions", amount, tier="local", reason="confident", **intent),
        sample("decisions", amount / 4, tier="cache", reason="cached", **intent),
        sample("decisions", amount / 8, tier="frontier", reason="low-confidence", **talk),
        sample("escalations", amount / 8, reason="low-confidence", **talk),
        sample("cache_lookups", amount / 4, cache="exact", result="hit"),
        sample("cache_lookups", amount, cache="exact", result="miss"),
        sample("cost", amount * 0.0004, tier="frontier"),
        sample("saved", amount * 0.0002),
        sample("joules", amount * 2.5, source="rapl"),
        sample("task_outcomes", amount / 2, outcome="resolved"),
        sample("output_tokens", amount * 6, model="assistant"),
        sample("engine_busy_seconds", amount / 10, model="assistant"),
    )

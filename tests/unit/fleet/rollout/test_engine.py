"""The engine on its twins: whole rollouts, and the same ones with the power cut at every point."""

from __future__ import annotations

from itertools import pairwise

import pytest

from edge_runtime.agent.protocol import BoxState, ItemKind
from edge_runtime.errors import TransportError, UsageError
from edge_runtime.stats.verdict import Verdict
from fleet.rollout.pairs import Window
from fleet.rollout.progress import Report
from fleet.rollout.states import Action, Phase
from fleet.rollout.store import ConflictError
from fleet.rollout.verdicts import explain, replay
from tests.support.rollouts import (
    DIES,
    FULL_DISK,
    NEW,
    OLD,
    REVERTS,
    CutAt,
    World,
    plan_of,
)

STOP = {"guards": {"on_fail": "stop"}}


async def test_a_good_change_reaches_everybody_wave_by_wave() -> None:
    world = World()
    await world.file(plan_of())
    await world.until_quiet()
    assert world.history == [
        Phase.APPROVED, Phase.RUNNING, Phase.BAKING, Phase.RUNNING, Phase.BAKING, Phase.COMPLETED,
    ]  # fmt: skip
    assert set(world.statuses().values()) == {"confirmed"}
    assert len(world.transport.sent) == 8
    item = world.items()["t~b0"]
    assert (item.kind, item.name, item.digest) == (ItemKind.BUNDLE, "assistant", NEW)
    assert (item.rollout, item.bytes_full) == ("r-1", 1000)


async def test_a_draft_waits_for_approval() -> None:
    world = World()
    await world.file(plan_of(approval={"required": True}))
    await world.step()
    assert world.phase is Phase.DRAFT
    assert await world.order(Action.APPROVE) is Phase.APPROVED
    assert await world.until(Phase.COMPLETED) is Phase.COMPLETED


async def test_a_bad_change_halts_and_everybody_goes_back() -> None:
    world = World(count=16, life=REVERTS)
    await world.file(plan_of(waves={"least_boxes": 5}))
    await world.until(Phase.ROLLED_BACK)
    await world.until_quiet()
    assert world.history[-3:] == [Phase.HALTED, Phase.ROLLING_BACK, Phase.ROLLED_BACK]
    statuses = list(world.statuses().values())
    assert statuses.count("returned") == 5
    assert statuses.count("waiting") == 11  # the second wave was never asked
    assert {item.digest for item in world.items().values()} == {OLD}
    halted = next(
        entry for entry in world.store.tables["history"]["r-1"] if entry.after is Phase.HALTED
    )
    assert halted.gate is Verdict.FAIL
    assert "guard broken" in halted.reason
    assert halted.records


async def test_a_verdict_is_reached_again_and_another_rule_can_be_tried() -> None:
    world = World(count=16, life=REVERTS)
    await world.file(plan_of(waves={"least_boxes": 5}, **STOP))
    await world.until(Phase.HALTED)
    rollout = world.store.tables["rollouts"]["r-1"]
    records, rows = world.store.tables["records"]["r-1"], world.store.tables["evidence"]["r-1"]
    failed = records[-1]
    assert failed.verdict is Verdict.FAIL
    assert failed.rule["limit"] == 0.02
    told = explain(rollout.plan.guards, rollout.strata, failed, rows)
    assert told.reached_again
    assert {row.data["event"] for row in told.rows} >= {"crashed", "reverted"}
    assert not explain(rollout.plan.guards, rollout.strata, failed, rows[1:]).reached_again
    lax = plan_of(guards={"safety": {"broken": {"limit": 0.45}}}).guards
    assert [turn.verdict for turn in replay(lax, rollout.strata, rows)] == [Verdict.PASS]
    turns = replay(rollout.plan.guards, rollout.strata, rows)
    assert [turn.verdict for turn in turns] == [Verdict.PASS, Verdict.FAIL]
    assert turns[-1].exposed == 5


async def test_boxes_that_fall_silent_after_they_began_halt_it() -> None:
    world = World(count=16, life=DIES)
    await world.file(plan_of(waves={"least_boxes": 5}, **STOP))
    assert await world.until(Phase.HALTED) is Phase.HALTED
    assert "unreachable" in world.statuses().values()


async def test_silence_while_the_control_host_was_away_is_not_the_boxes() -> None:
    world = World(count=16, life=DIES, step_s=100)
    await world.file(plan_of(waves={"least_boxes": 5}, **STOP))
    for _ in range(4):
        await world.step()
    world.now_s += 86_400
    world.start()  # a day later, a fresh process
    for _ in range(20):
        await world.step()
        assert world.phase is Phase.RUNNING
    assert await world.until(Phase.HALTED) is Phase.HALTED


async def test_too_few_confirmed_boxes_hold_until_a_person_says_so() -> None:
    world = World(life=FULL_DISK)
    await world.file(plan_of())
    await world.until(Phase.HOLDING)
    for _ in range(5):
        await world.step()
    assert world.phase is Phase.HOLDING
    assert set(world.statuses().values()) == {"failed", "waiting"}
    assert await world.order(Action.RESUME) is Phase.RUNNING


async def test_retry_asks_those_that_gave_up_again_with_a_new_generation() -> None:
    world = World(life=FULL_DISK)
    await world.file(plan_of())
    await world.until(Phase.HOLDING)
    first = {box: item.generation for box, item in world.items().items()}
    world.life = [Report(0, BoxState.CONFIRMED)]
    await world.order(Action.RETRY)
    assert await world.until(Phase.COMPLETED) is Phase.COMPLETED
    assert all(world.items()[box].generation > old for box, old in first.items())


async def test_pause_offers_nobody_and_resume_goes_on() -> None:
    world = World()
    await world.file(plan_of(waves={"shares": [1.0]}, pace={"bytes_per_s": 1024}))
    world.step_s = 0.5
    for _ in range(3):
        await world.step()
    asked = len(world.transport.sent)
    assert 0 < asked < 8
    await world.order(Action.PAUSE)
    for _ in range(30):
        await world.step()
    assert len(world.transport.sent) == asked
    await world.order(Action.RESUME)
    world.step_s = 400
    assert await world.until(Phase.COMPLETED) is Phase.COMPLETED


async def test_a_rollback_after_completion_takes_the_last_first() -> None:
    world = World()
    await world.file(plan_of())
    await world.until(Phase.COMPLETED)
    offered = [box for box, _ in world.transport.sent]
    await world.order(Action.ROLLBACK)
    await world.until(Phase.ROLLED_BACK)
    places = {box: one.place for (_, box), one in world.store.tables["boxes"].items()}
    back = [places[box] for box, _ in world.transport.sent[len(offered) :]]
    assert sorted(back, reverse=True)[:1] == [7]
    assert set(world.statuses().values()) == {"returned"}


async def test_a_cancel_calls_back_those_under_way_and_leaves_the_confirmed() -> None:
    world = World(lives={"t~b0": [], "t~b1": [], "t~b2": []})
    await world.file(plan_of(waves={"shares": [1.0], "settled_share": 1.0}))
    for _ in range(6):
        await world.step()
    await world.order(Action.CANCEL)
    await world.until_quiet()
    statuses = world.statuses()
    assert [statuses[f"t~b{n}"] for n in range(3)] == ["returned"] * 3
    assert list(statuses.values()).count("confirmed") == 5
    assert world.items()["t~b0"].digest == OLD
    assert world.items()["t~b5"].digest == NEW


async def test_those_held_back_get_it_later() -> None:
    world = World(count=20)
    await world.file(plan_of(waves={"shares": [1.0], "hold_back": 0.2, "hold_back_hours": 10}))
    await world.until(Phase.COMPLETED)
    assert list(world.statuses().values()).count("waiting") == 4
    world.now_s += 36_000
    await world.until_quiet()
    assert set(world.statuses().values()) == {"confirmed"}


async def test_a_box_that_another_rollout_took_is_left_alone() -> None:
    world = World(lives={"t~b3": []})
    await world.file(plan_of(waves={"shares": [1.0]}))
    await world.step()
    await world.step()
    world.fleet.report("t~b3", Report(9, BoxState.CONFIRMED), world.now_s)
    await world.step()
    assert world.statuses()["t~b3"] == "superseded"
    await world.until(Phase.COMPLETED)
    asked = len(world.transport.sent)
    await world.order(Action.ROLLBACK)
    await world.until(Phase.ROLLED_BACK)
    assert "t~b3" not in {box for box, _ in world.transport.sent[asked:]}


async def test_boxes_in_another_rollout_of_the_same_thing_do_not_take_part() -> None:
    world = World()
    await world.file(plan_of())
    await world.step()
    first = world.engine
    world.engine = type(first)(
        world.store, world.transport, lambda: world.now_s, make_id=lambda: "r-2"
    )
    await world.engine.file(plan_of(), world.store.tables["rollouts"]["r-1"].artefact, "ada")
    await world.step()
    state = world.store.tables["rollouts"]["r-2"].state
    assert state.phase is Phase.CANCELLED


def shifted(shift: float) -> object:
    """Escalation of 10 %, and more by `shift` on boxes that serve the change."""

    def figures(world: World) -> object:
        def of(box: str, window: Window) -> dict[str, float]:
            one = world.store.tables["boxes"].get(("r-1", box))
            serving = one is not None and one.serving_at_s is not None
            after = serving and window.start_s >= (one.serving_at_s or 0)
            rate = 0.10 + (shift if after else 0.0) + 0.001 * (int(box[3:]) % 3)
            return {"requests": 1000.0, "escalations": 1000.0 * rate}

        return of

    return figures


@pytest.mark.parametrize(("shift", "end"), [(0.0, Phase.COMPLETED), (0.06, Phase.ROLLED_BACK)])
async def test_a_quality_guard_compares_with_those_not_changed(shift: float, end: Phase) -> None:
    world = World(count=60)
    world.fleet.figures = shifted(shift)(world)  # type: ignore[operator]
    await world.file(
        plan_of(
            waves={"shares": [0.3, 1.0], "hold_back": 0.1, "hold_back_hours": 0},
            guards={"quality": {"escalation_rate": {"tolerance": 0.03}}},
        )
    )
    assert await world.until(end) is end
    if shift:
        assert Phase.HALTED in world.history
        assert list(world.statuses().values()).count("returned") == 17


async def test_no_telemetry_is_no_pass() -> None:
    world = World(count=60)
    await world.file(
        plan_of(waves={"shares": [0.3, 1.0]}, guards={"quality": {"escalation_rate": {}}})
    )
    await world.until(Phase.HOLDING)
    reason = world.store.tables["history"]["r-1"][-1].reason
    assert "no usable pair of boxes yet (18 not usable)" in reason


async def test_what_the_broker_did_not_take_is_published_again() -> None:
    world = World()
    broken = [True]
    take = world.transport.publish_want

    async def publish_want(box: str, document: bytes) -> None:
        if broken[0] and len(world.transport.sent) == 1:
            raise TransportError("the broker is away; it is tried again")
        await take(box, document)

    world.transport.publish_want = publish_want  # type: ignore[method-assign]
    await world.file(plan_of(waves={"shares": [1.0]}))
    await world.step()
    await world.step()
    assert len(world.transport.sent) == 1
    broken[0] = False
    await world.until(Phase.COMPLETED)
    assert len(world.transport.sent) == 8


async def test_of_two_engines_one_wins() -> None:
    world = World()
    await world.file(plan_of())
    state = world.store.tables["rollouts"]["r-1"].state
    with pytest.raises(ConflictError):
        await world.store.write(lambda tx: tx.put_state("r-1", state))


async def test_an_unknown_rollout_is_said_to_be_unknown() -> None:
    with pytest.raises(UsageError, match="there is no rollout 'r-1'"):
        await World().order(Action.PAUSE)


SCENES = {
    "good": (8, {}, plan_of()),
    "bad": (10, {"life": REVERTS}, plan_of(waves={"least_boxes": 5})),
}


async def play(scene: str, fault: CutAt) -> World:
    count, more, plan = SCENES[scene]
    world = World(count=count, fault=fault, **more)  # type: ignore[arg-type]
    await world.file(plan)
    await world.until_quiet()
    return world


@pytest.mark.parametrize("scene", SCENES)
async def test_a_power_cut_at_any_boundary_changes_nothing_in_the_end(scene: str) -> None:
    calm = await play(scene, CutAt())
    boundaries = calm.fault.seen  # type: ignore[attr-defined]
    assert boundaries > 50
    for number in range(boundaries):
        world = await play(scene, CutAt(number))
        assert world.cuts == 1
        assert world.history == calm.history, f"cut at boundary {number}"
        assert world.statuses() == calm.statuses(), f"cut at boundary {number}"
        published: dict[str, list[object]] = {}
        for box, want in world.transport.sent:
            published.setdefault(box, []).append(want)
            stored = {one.generation: one for _, one in world.store.tables["wants"][box]}
            assert stored[want.generation] == want
        for wants in published.values():
            # The same document may go out twice; an older one never after a newer.
            assert all(a.generation <= b.generation for a, b in pairwise(wants))  # type: ignore[attr-defined]

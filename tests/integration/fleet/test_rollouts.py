"""Rollouts on both databases: the same engine, reports through the registry, signed documents."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
import zstandard
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge_runtime.agent.protocol import (
    BoxState,
    Failure,
    FailureCode,
    FailureKind,
    Sample,
    TelemetryRow,
    Want,
)
from edge_runtime.bundle.envelope import trust
from edge_runtime.stats.verdict import Verdict
from fleet.db.database import Database
from fleet.db.tables_telemetry import telemetry_rows
from fleet.registry import boxes, reports
from fleet.rollout.catalogue import StaticCatalogue
from fleet.rollout.engine import RolloutEngine
from fleet.rollout.inventory import Artefact
from fleet.rollout.pairs import Window
from fleet.rollout.plan import RolloutPlan, check_plan
from fleet.rollout.progress import Base
from fleet.rollout.sql import Signing, SqlStore
from fleet.rollout.states import Action, Command, Phase
from fleet.rollout.store import ConflictError, Rollout
from fleet.rollout.verdicts import explain
from tests.support.fleet import DIGEST, LIMITS, NOW_S, have, item

NEW = "cd" * 32
COUNT = 12
KEY = Ed25519PrivateKey.generate()
ARTEFACT = Artefact(NEW, bytes_full=1000)
GOOD = ["fetching", "probation", "confirmed"]
BAD = ["fetching", "probation", "reverted"]


class Hub:
    """The broker and the boxes: documents are opened as a box would, reports go to the registry."""

    def __init__(self, database: Database) -> None:
        self.database, self.now_s = database, NOW_S
        self.wants: dict[str, Want] = {}
        self.life: list[str] = list(GOOD)
        self.steps: dict[tuple[str, int], int] = {}
        self.seq = 1
        catalogue = StaticCatalogue({DIGEST: Base(DIGEST, 1, 1, 900), NEW: Base(NEW, 2, 1, 1000)},
                                    {NEW: ARTEFACT})  # fmt: skip
        signing = Signing([KEY], ["https://blobs.example"])
        self.store = SqlStore(database, signing, catalogue, LIMITS)
        self.start()

    def start(self) -> None:
        self.engine = RolloutEngine(self.store, self, lambda: self.now_s, make_id=lambda: "r-1")

    async def publish_want(self, box: str, document: bytes) -> None:
        want = Want.opened(document, trust([KEY.public_key()]))
        assert want.principal == box
        assert box not in self.wants or want.generation >= self.wants[box].generation
        self.wants[box] = want

    async def step(self) -> None:
        self.now_s += 400
        self.seq += 1
        said = {box: self._said(box, want) for box, want in self.wants.items()}

        def work(connection: Any) -> None:
            for number in range(COUNT):
                box = f"acme~box-{number}"
                told = have(box, seq=self.seq, **said.get(box, {}))
                reports.apply_have(connection, box, told, now_s=self.now_s)

        await self.database.write(work)
        await self.engine.tick()

    def _said(self, box: str, want: Want) -> dict[str, Any]:
        asked = want.items[0]
        life = self.life if asked.digest == NEW else ["confirmed"]
        at = self.steps.get((box, asked.generation), 0)
        self.steps[box, asked.generation] = at + 1
        state = BoxState(life[min(at, len(life) - 1)])
        failure = None
        if state is BoxState.REVERTED:
            failure = Failure(kind=FailureKind.REVERTED, code=FailureCode.CRASHES)
        told = item(state, generation=asked.generation, rollout=asked.rollout, failure=failure)
        return {"items": (told,), "generation": want.generation}

    async def rollout(self) -> Rollout:
        return await self.store.read(lambda tx: tx.rollout("r-1"))

    async def until(self, phase: Phase) -> Rollout:
        for _ in range(60):
            await self.step()
            if (await self.rollout()).state.phase is phase:
                return await self.rollout()
        raise AssertionError(f"never {phase}: {await self.rollout()}")


@pytest.fixture
async def hub(database_url: str) -> AsyncIterator[Hub]:
    async with Database.opened(database_url) as database:

        def work(connection: Any) -> None:
            for number in range(COUNT):
                box = f"acme~box-{number}"
                boxes.add(connection, box, {"site": "berlin" if number < 10 else "oslo"},
                          now_s=NOW_S)  # fmt: skip
                reports.apply_have(connection, box, have(box), now_s=NOW_S)

        await database.write(work)
        yield Hub(database)


def plan_of(**parts: Any) -> RolloutPlan:
    base: dict[str, Any] = {
        "name": "test",
        "change": {"name": "assistant", "digest": NEW, "release": 2, "release_floor": 1},
        "target": {"boxes": 'labels.site == "berlin"'},
        "waves": {"shares": [0.5, 1.0], "least_boxes": 5, "hold_back": 0.0},
        "times": {"bake_hours": 0.2, "after_hours": 0.1, "telemetry_grace_min": 0},
        "approval": {"required": False},
    }
    return check_plan(base | parts, {"labels": dict})


async def test_a_good_change_reaches_its_boxes_over_a_restart(hub: Hub) -> None:
    await hub.engine.file(plan_of(), ARTEFACT, "ada")
    for _ in range(4):
        await hub.step()
    hub.start()
    rollout = await hub.until(Phase.COMPLETED)
    assert rollout.waves == 2
    assert rollout.strata == ("x86_64",)
    assert len(hub.wants) == 10
    asked = hub.wants["acme~box-3"]
    assert asked.sources == ("https://blobs.example",)
    assert (asked.items[0].digest, asked.items[0].release) == (NEW, 2)
    history = await hub.store.read(lambda tx: tx.history("r-1"))
    assert [entry.after for entry in history][-1] is Phase.COMPLETED
    await hub.step()
    assert await hub.store.read(lambda tx: tx.working()) == []


async def test_a_bad_change_goes_back_to_what_each_box_had(hub: Hub) -> None:
    hub.life = BAD
    await hub.engine.file(plan_of(), ARTEFACT, "ada")
    rollout = await hub.until(Phase.ROLLED_BACK)
    assert len(hub.wants) == 5
    assert {want.items[0].digest for want in hub.wants.values()} == {DIGEST}
    assert {want.items[0].bytes_full for want in hub.wants.values()} == {900}
    found = await hub.store.read(lambda tx: tx.boxes("r-1"))
    assert [box.status.value for box in found] == ["returned"] * 5 + ["waiting"] * 5
    records = await hub.store.read(lambda tx: tx.records("r-1"))
    rows = await hub.store.read(lambda tx: tx.evidence("r-1"))
    assert records[-1].verdict is Verdict.FAIL
    assert explain(rollout.plan.guards, rollout.strata, records[-1], rows).reached_again
    assert [row.seq for row in rows] == list(range(1, len(rows) + 1))


async def test_a_box_without_the_thing_before_goes_back_to_nothing(hub: Hub) -> None:
    change = {"name": "helper", "digest": NEW, "release": 2, "release_floor": 1}
    await hub.engine.file(plan_of(change=change), ARTEFACT, "ada")
    await hub.engine.tick()
    hub.now_s += 1
    await hub.engine.tick()
    assert len(hub.wants) == 5
    await hub.engine.order("r-1", Command(Action.ROLLBACK, "ada"))
    await hub.engine.tick()
    assert all(want.items == () for want in hub.wants.values())
    told = {box: want.generation for box, want in hub.wants.items()}

    def work(connection: Any) -> None:
        for box, generation in told.items():
            said = have(box, seq=99, generation=generation)
            reports.apply_have(connection, box, said, now_s=hub.now_s)

    await hub.database.write(work)
    await hub.engine.tick()
    await hub.engine.tick()
    assert (await hub.rollout()).state.phase is Phase.ROLLED_BACK


async def test_boxes_that_fall_silent_are_found(hub: Hub) -> None:
    await hub.engine.file(plan_of(guards={"on_fail": "stop"}), ARTEFACT, "ada")
    hub.life = ["fetching"]
    for _ in range(4):
        await hub.step()
    quiet = await hub.store.read(lambda tx: tx.quiet("r-1", hub.now_s + 1, 0.0, 100))
    assert len(quiet) == 5
    assert {heard for _, heard in quiet} == {hub.now_s}
    hub.now_s += 3600
    await hub.engine.tick()
    found = await hub.rollout()
    assert found.state.phase is Phase.HALTED
    counts = await hub.store.read(lambda tx: tx.counts("r-1", 0))
    assert (counts.lost, counts.open, counts.confirmed) == (5, 0, 0)


async def test_a_paused_rollout_resumes_and_one_version_wins(hub: Hub) -> None:
    await hub.engine.file(plan_of(), ARTEFACT, "ada")
    await hub.step()
    await hub.engine.order("r-1", Command(Action.PAUSE, "ada", "lunch"))
    found = await hub.rollout()
    assert found.state.paused_from is Phase.RUNNING
    with pytest.raises(ConflictError):
        await hub.store.write(lambda tx: tx.put_state("r-1", found.state))
    stale = replace(found.state, version=found.state.version + 1)
    await hub.store.write(lambda tx: tx.put_state("r-1", stale))
    assert (await hub.rollout()).state == stale
    await hub.engine.order("r-1", Command(Action.RESUME, "ada"))
    await hub.until(Phase.COMPLETED)


async def test_a_revoked_box_is_passed_over(hub: Hub) -> None:
    await hub.engine.file(plan_of(waves={"shares": [1.0]}), ARTEFACT, "ada")
    await hub.step()
    await hub.database.write(lambda c: boxes.set_status(c, "acme~box-4", "revoked"))
    await hub.until(Phase.COMPLETED)
    box = await hub.store.read(lambda tx: tx.box("r-1", "acme~box-4"))
    assert box is not None
    assert box.status.value == "superseded"


async def test_figures_are_read_from_the_telemetry_of_a_stretch(hub: Hub) -> None:
    def row(seq: int, questions: int) -> dict[str, Any]:
        counts = (
            Sample(metric="edge_decisions_total", labels={"tier": "local"}, value=questions),
            Sample(metric="edge_escalations_total", value=questions / 10),
        )
        told = TelemetryRow(seq=seq, uptime_ms=seq, length_ms=60_000, clock_s=0, counts=counts)
        packed = zstandard.ZstdCompressor().compress(told.model_dump_json().encode())
        return {
            "principal": "acme~box-1", "boot": "b", "stream": "main", "seq": seq,
            "at_s": NOW_S + 60 * seq, "received_s": NOW_S, "row": packed,
        }  # fmt: skip

    await hub.database.write(
        lambda c: c.execute(telemetry_rows.insert(), [row(seq, 100 * seq) for seq in range(1, 6)])
    )
    await hub.engine.file(plan_of(), ARTEFACT, "ada")
    rollout = await hub.rollout()
    window = Window(NOW_S + 60, NOW_S + 240)  # rows 2 to 4
    found = await hub.store.read(lambda tx: tx.figures(rollout, "acme~box-1", window))
    assert (found["requests"], found["escalations"]) == (900, 90)
    nobody = await hub.store.read(lambda tx: tx.figures(rollout, "acme~box-2", window))
    assert nobody == {}

"""A made-up fleet for engine tests: a clock, boxes that do as they are told, and power cuts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from edge_runtime.agent.protocol import BoxState, FailureCode, FailureKind, WantItem
from fleet.rollout.engine import RolloutEngine
from fleet.rollout.inventory import Artefact, BoxFacts
from fleet.rollout.memory import Fleet, MemoryStore, MemoryTransport
from fleet.rollout.plan import RolloutPlan, check_plan
from fleet.rollout.progress import Base, Report
from fleet.rollout.states import Action, Command, Phase

NEW, OLD = "b" * 64, "a" * 64
CHANGE = {"name": "assistant", "digest": NEW, "release": 2}
BASE = Base(OLD, release=1, release_floor=1, bytes_full=1000)
ARTEFACT = Artefact(NEW, bytes_full=1000)

GOOD = [Report(0, BoxState.FETCHING), Report(0, BoxState.PROBATION), Report(0, BoxState.CONFIRMED)]
REVERTS = [
    *GOOD[:2],
    Report(0, BoxState.REVERTED, FailureKind.REVERTED, FailureCode.CRASHES),
]
FULL_DISK = [Report(0, BoxState.FAILED, FailureKind.NO_CHANGE, FailureCode.NO_SPACE)]
DIES = [Report(0, BoxState.FETCHING)]


class PowerCutError(Exception):
    """The control host is gone, at a boundary."""


@dataclass
class CutAt:
    """Raises at the boundary of this number, once."""

    number: int | None = None
    seen: int = 0

    def __call__(self, _boundary: str) -> None:
        self.seen += 1
        if self.seen - 1 == self.number:
            raise PowerCutError


def plan_of(**parts: Any) -> RolloutPlan:
    base: dict[str, Any] = {
        "name": "test",
        "change": CHANGE,
        "waves": {"shares": [0.25, 1.0], "least_boxes": 2, "hold_back": 0.0},
        "times": {"bake_hours": 0.2, "after_hours": 0.1, "telemetry_grace_min": 0},
        "approval": {"required": False},
    }
    for name, part in parts.items():
        base[name] = {**base.get(name, {}), **part}
    return check_plan(base, {"principal": str})


@dataclass
class World:
    """Boxes `t~b0` to `t~b<n-1>`; `lives[box]` is the list of reports it gives to a new want."""

    count: int = 8
    life: list[Report] = field(default_factory=lambda: list(GOOD))
    lives: dict[str, list[Report]] = field(default_factory=dict)
    fault: Callable[[str], None] = field(default_factory=CutAt)
    step_s: float = 400.0
    now_s: float = 1_000_000.0

    def __post_init__(self) -> None:
        self.fleet = Fleet()
        for n in range(self.count):
            facts = BoxFacts(f"t~b{n}", True, arch="x86", active=OLD, base=BASE)
            self.fleet.facts[f"t~b{n}"] = facts
            self.fleet.heard_s[f"t~b{n}"] = self.now_s
        self.store = MemoryStore(self.fleet, self.fault)
        self.transport = MemoryTransport(self.fault)
        self.cuts = 0
        self.dead: set[str] = set()
        self._doing: dict[str, tuple[int, list[Report]]] = {}
        self.start()

    def start(self) -> None:
        """A new control host process on what the old one left."""
        self.engine = RolloutEngine(self.store, self.transport, lambda: self.now_s,
                                    make_id=lambda: "r-1")  # fmt: skip

    async def survive(self, work: Callable[[], Any]) -> Any:
        """Do it; after a power cut start again, and do it again."""
        try:
            return await work()
        except PowerCutError:
            self.cuts += 1
            self.start()
            return await work()

    async def file(self, plan: RolloutPlan) -> str:
        async def once() -> str:
            if "r-1" in self.store.tables["rollouts"]:
                return "r-1"
            return await self.engine.file(plan, ARTEFACT, "ada")

        return str(await self.survive(once))

    async def order(self, action: Action) -> Phase:
        return (await self.engine.order("r-1", Command(action, "ada", "because"))).phase

    @property
    def phase(self) -> Phase:
        found: Phase = self.store.tables["rollouts"]["r-1"].state.phase
        return found

    @property
    def history(self) -> list[Phase]:
        return [entry.after for entry in self.store.tables["history"].get("r-1", [])]

    def items(self) -> dict[str, WantItem]:
        """What each box was last asked for."""
        return {box: want.items[0] for box, want in self.transport.sent}

    def statuses(self) -> dict[str, str]:
        boxes = self.store.tables["boxes"]
        return {box: one.status.value for (_, box), one in sorted(boxes.items())}

    async def step(self) -> None:
        """Time passes, every box does one thing, the engine ticks."""
        self.now_s += self.step_s
        for box, item in self.items().items():
            if box in self.dead:
                continue
            if self._doing.get(box, (0, []))[0] != item.generation:
                life = self.lives.get(box, self.life) if item.digest == NEW else [GOOD[-1]]
                self._doing[box] = (item.generation, list(life))
            generation, left = self._doing[box]
            if left:
                said = left.pop(0)
                report = Report(generation, said.state, said.failure_kind, said.failure_code)
                self.fleet.report(box, report, self.now_s)
                if not left and said.state is BoxState.FETCHING:
                    self.dead.add(box)
        for box in set(self.fleet.facts) - self.dead:
            self.fleet.heard_s[box] = self.now_s
        await self.survive(self.engine.tick)

    async def until(self, *phases: Phase, steps: int = 80) -> Phase:
        for _ in range(steps):
            await self.step()
            if self.phase in phases:
                return self.phase
        raise AssertionError(f"still {self.phase} after {steps} steps: {self.history}")

    async def until_quiet(self, steps: int = 120) -> None:
        for _ in range(steps):
            await self.step()
            if not await self.store.read(lambda tx: tx.working()):
                return
        raise AssertionError(f"never came to rest: {self.phase}, {self.statuses()}")

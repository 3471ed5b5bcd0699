"""The decider against a modelled box, over random histories.

The model has a store (active, previous, staged), a process that may die between any two steps,
and a world in which everything may fail. Whatever happens: what serves is a bundle that was
wanted or was there before, generations rise, floors hold, and once the world is kind again every
history ends, with the box serving what its record says.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_runtime.agent.decide import (
    ActionKind,
    Broken,
    Done,
    Facts,
    GaveUp,
    HealthFacts,
    ItemRecord,
    Outcome,
    Policy,
    TryAgain,
    cancel,
    next_step,
    observe,
    resume,
    take,
    withdraw,
)
from edge_runtime.agent.protocol import (
    ENDS,
    SERVES_NEW,
    BoxState,
    DeferReason,
    FailureCode,
    FailureKind,
    ProbationRules,
    WantItem,
    Window,
)
from tests.support.wants import NEW, NEWER, OLD, want_item

POLICY = Policy(max_tries=4)
DIGESTS = (OLD, NEW, NEWER)


@dataclass
class Box:
    """A box in memory; `disk` is what survives a crash."""

    active: str = OLD
    previous: str | None = None
    staged: set[str] = field(default_factory=lambda: {OLD})
    record: ItemRecord | None = None
    disk: ItemRecord | None = None
    boot: int = 1
    uptime_s: float = 0.0
    now_s: int | None = 1_800_000_000
    metered: bool = False
    load: float = 0.0
    health: HealthFacts = field(default_factory=HealthFacts)
    wanted: set[str] = field(default_factory=lambda: {OLD})
    acts: list[tuple[ActionKind, Facts, WantItem]] = field(default_factory=list)

    def facts(self) -> Facts:
        digest = self.record.item.digest if self.record else OLD
        return Facts(
            boot=f"b-{self.boot}",
            uptime_s=self.uptime_s,
            now_s=self.now_s,
            active=self.active,
            previous=self.previous,
            staged=digest in self.staged,
            load=self.load,
            metered=self.metered,
            health=self.health,
        )

    def store(self, record: ItemRecord) -> None:
        assert self.disk is None or record.generation >= self.disk.generation
        self.record = self.disk = record

    def offer(self, item: WantItem) -> None:
        before = self.record
        taken = take(self.record, item, floor=2)
        self.store(taken.record)
        assert taken.record.generation == max(item.generation, before.generation if before else 0)
        self.wanted.add(item.digest)

    def step(self, outcome: Outcome | None, *, dies: str = "") -> bool:
        """One plan and its action; False when there was nothing to do."""
        if self.record is None:
            return False
        plan = next_step(self.record, self.facts(), POLICY)
        changed = plan.record != self.record
        self.store(plan.record)
        if plan.action is None:
            return changed
        facts, action = self.facts(), plan.action
        self.acts.append((action, facts, plan.record.item))
        if dies != "before" and isinstance(outcome, Done | Broken):
            self.act(action, plan.record.item)
        if dies:
            self.restart(clean=False)
            return True
        assert outcome is not None
        self.store(
            observe(
                plan.record,
                action,
                plan.record.generation,
                outcome,
                facts=self.facts(),
                policy=POLICY,
            )
        )
        return True

    def act(self, action: ActionKind, item: WantItem) -> None:
        if action is ActionKind.FETCH:
            self.staged.add(item.digest)
        elif action is ActionKind.ACTIVATE and self.active != item.digest:
            assert item.digest in self.staged
            self.active, self.previous = item.digest, self.active
        elif action is ActionKind.REVERT:
            assert self.previous is not None
            self.active, self.previous = self.previous, self.active

    def restart(self, *, clean: bool) -> None:
        self.boot += 1
        self.uptime_s = 0.0
        self.health = HealthFacts()
        self.record = self.disk
        if self.record is not None:
            self.store(resume(self.record, self.facts(), POLICY, clean=clean))


NIGHT = Window(start_min=120, length_min=60)
items = st.builds(
    want_item,
    st.integers(1, 9),
    st.sampled_from(DIGESTS),
    release=st.integers(1, 4),
    windows=st.sampled_from([(), (NIGHT,)]),
    deadline_s=st.sampled_from([None, 1_800_003_600, 1_799_999_999]),
    probation=st.just(ProbationRules(length_s=300, min_requests=10)),
)
outcomes = st.sampled_from(
    [
        Done(),
        Done(),
        GaveUp(FailureCode.REFUSED, "no"),
        TryAgain(DeferReason.NETWORK, FailureCode.TRANSFER, "later"),
        Broken("EIO"),
    ]
)
events = st.one_of(
    st.tuples(st.just("offer"), items),
    st.tuples(st.just("step"), outcomes),
    st.tuples(st.just("die"), st.sampled_from(["before", "after"])),
    st.tuples(st.just("restart"), st.booleans()),
    st.tuples(st.just("wait"), st.floats(1, 4000)),
    st.tuples(st.just("clock"), st.sampled_from([None, 1_800_000_000, 1_799_632_800])),
    st.tuples(st.just("metered"), st.booleans()),
    st.tuples(st.just("load"), st.sampled_from([0.0, 1.0])),
    st.tuples(
        st.just("health"),
        st.sampled_from([HealthFacts(requests=10, errors=5), HealthFacts(golden_ok=False)]),
    ),
    st.tuples(st.just("withdraw"), st.none()),
    st.tuples(st.just("cancel"), st.integers(1, 9)),
)


def live(box: Box, history: list[tuple[str, object]]) -> None:
    for kind, value in history:
        if kind == "offer":
            assert isinstance(value, WantItem)
            box.offer(value)
        elif kind == "step":
            box.step(value)  # type: ignore[arg-type]
        elif kind == "die":
            box.step(Done(), dies=str(value))
        elif kind == "restart":
            box.restart(clean=bool(value))
        elif kind == "wait":
            assert isinstance(value, float)
            box.uptime_s += value
        elif kind == "withdraw" and box.record:
            box.store(withdraw(box.record))
        elif kind == "cancel" and box.record:
            box.store(cancel(box.record, int(value)))  # type: ignore[call-overload]
        elif kind == "clock":
            box.now_s = value  # type: ignore[assignment]
        elif kind in ("metered", "load", "health"):
            setattr(box, kind, value)
        assert box.active in box.wanted


def calm_down(box: Box) -> None:
    """A kind world from here on: time passes, everything works."""
    box.metered, box.load, box.health = False, 0.0, HealthFacts()
    box.now_s = 1_799_632_800  # inside the window, before the later deadline
    for _ in range(200):
        if not box.step(Done()):
            if box.record is None or box.record.state in ENDS:
                return
            box.uptime_s += 100.0
    raise AssertionError(f"never ends: {box.record}")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(events, max_size=40))
def test_every_history_ends_with_the_box_serving_what_it_reports(
    history: list[tuple[str, object]],
) -> None:
    box = Box()
    live(box, history)
    calm_down(box)
    record = box.record
    if record is None:
        assert box.active == OLD
        return
    if record.state in SERVES_NEW:
        assert box.active == record.item.digest
    if record.state is BoxState.REVERTED:
        assert box.active != record.item.digest
    stuck = record.failure is not None and record.failure.kind is FailureKind.STUCK
    box.restart(clean=True)
    if not stuck:
        assert box.record == record or (record.state is BoxState.CONFIRMED)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(events, max_size=40))
def test_no_action_goes_through_a_closed_gate(history: list[tuple[str, object]]) -> None:
    box = Box()
    live(box, history)
    for action, facts, item in box.acts:
        assert item.release >= 2, "below the floor"
        late = item.deadline_s is not None and facts.now_s is not None
        if action is ActionKind.FETCH:
            assert not facts.metered
        if action in (ActionKind.VERIFY, ActionKind.FETCH, ActionKind.ACTIVATE) and late:
            assert facts.now_s is not None
            assert item.deadline_s is not None
            assert facts.now_s < item.deadline_s
        if action is ActionKind.ACTIVATE:
            assert facts.load <= POLICY.max_load
            if item.windows:
                assert facts.now_s is not None
                assert item.windows[0].wait_s(facts.now_s) == 0


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(events, max_size=30))
def test_planning_again_changes_nothing(history: list[tuple[str, object]]) -> None:
    box = Box()
    live(box, history)
    if box.record is None:
        return
    facts = box.facts()
    first = next_step(box.record, facts, POLICY)
    again = next_step(first.record, facts, POLICY)
    assert first.record.generation == box.record.generation
    if first.record.state is not BoxState.PROBATION:  # whose health is judged a step later
        assert (again.record, again.action) == (first.record, first.action)

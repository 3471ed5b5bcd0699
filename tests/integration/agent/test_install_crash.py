"""A whole install, cut off at every call: one good bundle serves, and the report converges.

The history runs the agent's own decisions, its record, the store's staging and activation over one
disk in memory. Every power cut that history allows is opened again: the store recovers, the
record is read, and the agent goes on until it ends. The last test takes one fsync away at a time
from what the agent writes itself: a power cut must show it.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from pathlib import Path
from types import FrameType

import pytest

from edge_runtime.agent.decide import (
    ActionKind,
    Done,
    Facts,
    HealthFacts,
    ItemRecord,
    Outcome,
    Policy,
    next_step,
    observe,
    resume,
    take,
)
from edge_runtime.agent.protocol import ENDS, BoxState, WantItem
from edge_runtime.agent.record import BoxRecord, RecordStore
from edge_runtime.bundle.activation import Committed
from edge_runtime.bundle.crash import CrashFiles
from edge_runtime.bundle.digests import bundle_digest
from edge_runtime.bundle.store import Store
from tests.support.bundles import FakeLoader, write_tiny_bundle
from tests.support.wants import PRINCIPAL, want_item

ROOT, AGENT = Path("/var/store"), Path("/var/store/agent")
SOURCES = {release: Path(f"/incoming/{release}") for release in (1, 2)}
POLICY = Policy()
KEY = "bundle/tiny"


@functools.cache
def digest_of(release: int) -> str:
    return bundle_digest(
        write_tiny_bundle(
            SOURCES[release], files=CrashFiles(), release=release, weights=b"w" * release
        )
    )


def item(generation: int, release: int) -> WantItem:
    rules = {"length_s": 60}
    return want_item(generation, digest_of(release), name="tiny", release=release, probation=rules)


class Life:
    """One run of a box on a disk: what the agent does, without its tasks and its broker."""

    def __init__(self, files: CrashFiles, boot: int, *, good: bool) -> None:
        self.files, self.boot, self.good = files, f"b-{boot}", good
        self.records = RecordStore(AGENT, files)
        self.uptime_s = 0.0
        self.told: list[tuple[int, BoxState]] = []

    def live(self, wanted: list[WantItem]) -> ItemRecord:
        """From a start to the end of everything that is wanted."""
        with Store.open(ROOT, files=self.files) as store:
            self.store = store
            self.box = self.records.load(PRINCIPAL)
            clean = not self.box.running
            self.save(self.box.model_copy(update={"running": True}))
            if KEY in self.box.items:
                self.keep(resume(self.box.items[KEY], self.facts(), POLICY, clean=clean))
            for one in wanted:
                self.keep(take(self.box.items.get(KEY), one).record)
                self.work()
            self.save(self.box.model_copy(update={"running": False}))
            return self.box.items[KEY]

    def save(self, box: BoxRecord) -> None:
        if box != self.box:
            self.records.save(box)
            self.box = box

    def keep(self, record: ItemRecord) -> None:
        self.save(self.box.with_item(record))
        self.told.append((record.generation, record.state))

    def facts(self) -> Facts:
        pointer = self.store.active().get("tiny")
        held = self.box.items.get(KEY)
        return Facts(
            boot=self.boot,
            uptime_s=self.uptime_s,
            active=None if pointer is None else pointer.bundle_digest,
            previous=None if pointer is None else pointer.previous,
            staged=held is not None and held.item.digest in self.store.digests(),
            health=HealthFacts(golden_ok=None if self.good else False),
        )

    def work(self) -> None:
        for _ in range(100):
            plan = next_step(self.box.items[KEY], self.facts(), POLICY)
            if plan.record != self.box.items[KEY]:
                self.keep(plan.record)
            if plan.action is not None:
                outcome = self.act(plan.action, plan.record.item)
                record = self.box.items[KEY]
                self.keep(
                    observe(
                        record,
                        plan.action,
                        record.generation,
                        outcome,
                        facts=self.facts(),
                        policy=POLICY,
                    )
                )
            elif plan.record.state in ENDS:
                return
            else:
                self.uptime_s += 30.0
        raise AssertionError(f"never ends: {self.box.items[KEY]}")

    def act(self, action: ActionKind, wanted: WantItem) -> Outcome:
        if action is ActionKind.FETCH:
            assert self.store.stage(SOURCES[wanted.release], link=True) == wanted.digest
        elif action is ActionKind.ACTIVATE:
            outcome = self.store.activate("tiny", wanted.digest, FakeLoader())
            assert isinstance(outcome, Committed), outcome
        elif action is ActionKind.REVERT:
            assert isinstance(self.store.revert("tiny", FakeLoader()), Committed)
        return Done()


class Killed(BaseException):
    """The process is gone; the machine goes on."""


class LosingFiles(CrashFiles):
    """Loses every fsync that came from one line of the agent's own code.

    From call `kill_after` on, every call kills the process.
    """

    def __init__(self, lose: str | None = None) -> None:
        super().__init__(on_call=self._kill)
        self.lose, self.places = lose, set[str]()
        self.kill_after: int | None = None

    def _kill(self, method: str, path: Path) -> None:
        if self.kill_after is not None and len(self.calls) >= self.kill_after:
            raise Killed

    def _lost(self, path: Path) -> bool:
        frame: FrameType | None = sys._getframe()
        agent = False
        lines = []
        while frame is not None:
            name = frame.f_code.co_filename
            if "edge_runtime/" in name:
                lines.append(f"{Path(name).name}:{frame.f_lineno}")
                agent = agent or "edge_runtime/agent/record" in name
            frame = frame.f_back
        place = f"{' '.join(lines)} {path}"
        if agent:
            self.places.add(place)
        return agent and place == self.lose

    def fsync_file(self, path: Path) -> None:
        if not self._lost(path):
            super().fsync_file(path)

    def fsync_dir(self, path: Path) -> None:
        if not self._lost(path):
            super().fsync_dir(path)


def first_life(
    *, good: bool, lose: str | None = None, kill_after: int | None = None
) -> LosingFiles:
    """A box that serves release 1 is told to serve release 2."""
    files = LosingFiles(lose)
    for release, path in SOURCES.items():
        write_tiny_bundle(path, files=files, release=release, weights=b"w" * release)
    Life(files, 1, good=True).live([item(1, 1)])
    files.sync()
    files.calls.clear()
    files.kill_after = kill_after
    with contextlib.suppress(Killed):
        Life(files, 2, good=good).live([item(2, 2)])
    files.kill_after = None
    return files


def served(files: CrashFiles) -> str:
    with Store.open(ROOT, files=files) as store:
        digest = store.active()["tiny"].bundle_digest
        store.verify(digest)
        return digest


@pytest.mark.parametrize("good", [True, False])
def test_after_any_power_cut_one_good_bundle_serves_and_the_report_converges(*, good: bool) -> None:
    files = first_life(good=good)
    final = digest_of(2) if good else digest_of(1)
    assert served(files) == final
    cuts = 0
    seen: set[str] = set()
    for crash in files.crashes(seeds=(0,)):
        seen.add(served(crash.files))
        again = Life(crash.files, 3, good=good)
        record = again.live([item(2, 2)])
        assert record.generation == 2
        assert record.state is (BoxState.CONFIRMED if good else BoxState.REVERTED)
        assert served(crash.files) == final
        generations = [generation for generation, _ in again.told]
        assert generations == sorted(generations)
        cuts += 1
    assert seen == {digest_of(1), digest_of(2)}
    assert cuts > 50


def test_a_generation_that_was_told_is_never_forgotten() -> None:
    files = first_life(good=True)
    stored = 0
    for crash in files.crashes(seeds=(0,)):
        box = RecordStore(AGENT, crash.files).load(PRINCIPAL)
        generation = box.items[KEY].generation
        assert generation >= stored, "a power cut took a durable generation back"
        if crash.outcome == "nothing":
            stored = generation
    assert stored == 2


def test_what_was_cut_off_again_and_again_still_ends() -> None:
    files = first_life(good=True)
    for crash in files.crashes(after=range(0, len(files.calls), 5), seeds=()):
        current, calls = crash.files, 0
        for boot in range(3, 7):
            life = Life(current, boot, good=True)
            life.live([item(2, 2)])
            middle = len(current.calls) // 2
            calls += middle
            current = next(iter(current.crashes(after=[middle], seeds=()))).files
        record = Life(current, 9, good=True).live([item(2, 2)])
        assert record.state in (BoxState.CONFIRMED, BoxState.FAILED, BoxState.REVERTED)
        assert served(current) in (digest_of(1), digest_of(2))


def cut_shows(place: str) -> bool:
    """Whether a power cut forgets what was stored, or finds it acted on before it was."""
    files = first_life(good=True, lose=place)
    stored = 1
    for crash in files.crashes(seeds=(0,)):
        held = RecordStore(AGENT, crash.files).load(PRINCIPAL).items.get(KEY)
        generation = 0 if held is None else held.generation
        if generation < stored or (served(crash.files) == digest_of(2) and generation < 2):
            return True
        if crash.outcome == "nothing":
            stored = generation
    return False


def kill_shows(place: str) -> bool:
    """Whether what a new process read after a kill is gone after a power cut."""
    for kill_after in range(1, len(first_life(good=True).calls)):
        files = first_life(good=True, lose=place, kill_after=kill_after)
        held = RecordStore(AGENT, files).load(PRINCIPAL).items.get(KEY)
        for cut in files.crashes(after=[len(files.calls)], seeds=()):
            if RecordStore(AGENT, cut.files).load(PRINCIPAL).items.get(KEY) != held:
                return True
    return False


def test_no_fsync_of_the_record_can_be_removed() -> None:
    # The folders above are made once, by code that has tests of its own.
    places = sorted(one for one in first_life(good=True).places if f" {AGENT}" in one)
    assert len(places) == 3
    assert [place for place in places if not cut_shows(place) and not kill_shows(place)] == []


def test_without_losses_no_cut_forgets_anything() -> None:
    assert not cut_shows("nowhere")

"""An install of a daemon release, cut off at any call: what runs is what is told at the end.

The command's own work is a switch of what is installed, at one instant; everything the agent
writes around it runs over a disk in memory. After each power cut that the history allows the box
starts what is installed, again and again, until the release has its end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from edge_runtime.agent.credential import CredentialStore, new_credential
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
from edge_runtime.agent.protocol import ENDS, BoxState, Grant, ItemKind, WantItem
from edge_runtime.agent.record import BoxRecord, RecordStore
from edge_runtime.agent.releases import KEY, PROGRAM, Ran, Releases, version_of
from edge_runtime.agent.settings import AgentSettings
from edge_runtime.agent.trial import Trial, guard_start, release_shelf
from edge_runtime.bundle.activation import Committed
from edge_runtime.bundle.crash import CrashFiles
from edge_runtime.errors import EngineError
from tests.support.releases import write_release
from tests.support.wants import PRINCIPAL, want_item

AGENT, SOURCE = Path("/var/agent"), Path("/incoming/release")
OLD, NEW = "1.0.0", "2.0.0"
POLICY = Policy()
OPTIONS = AgentSettings.model_validate({"update_command": ["install"], "update_max_starts": 2})


class EndedError(Exception):
    """The daemon was asked to end."""


class Machine:
    """What survives a power cut beside the disk: the software. Every switch is remembered."""

    def __init__(self, files: CrashFiles, installed: str, *, dead: str = "") -> None:
        self.files, self.installed, self.dead = files, installed, dead
        self.switches: list[tuple[int, str]] = []

    async def run(
        self, command: Sequence[str], variables: Mapping[str, str], timeout_s: float
    ) -> Ran:
        """The command: install what it was told to."""
        self.installed = variables["EDGE_UPDATE_VERSION"]
        self.switches.append((len(self.files.calls), self.installed))
        return Ran(0, "")

    def before(self, calls: int, first: str) -> str:
        """What was installed when so many calls had been made."""
        return [first, *(version for at, version in self.switches if at <= calls)][-1]


class Life:
    """One run of the daemon that is installed."""

    def __init__(self, machine: Machine, boot: int, *, good: bool) -> None:
        self.machine, self.good, self.boot = machine, good, f"b-{boot}"
        self.files, self.running = machine.files, machine.installed
        self.records, self.uptime_s = RecordStore(AGENT, self.files), 0.0
        releases = Releases(
            OPTIONS.update_command, self.files, self.running, end=self.end, run=machine.run
        )
        self.releases = releases

    def end(self) -> None:
        raise EndedError

    async def live(self, wanted: WantItem) -> ItemRecord:
        """Up to the end of what is wanted; `EndedError` when it ends for another release."""
        trial = Trial(AGENT, self.files, OPTIONS, self.running, self.machine.run)
        await guard_start(trial)
        if self.running == self.machine.dead:
            raise EngineError("it does not come up")
        self.shelf = release_shelf(AGENT, self.files, self.releases)
        self.box = self.records.load(PRINCIPAL)
        clean = not self.box.running
        self.save(self.box.model_copy(update={"running": True}))
        if KEY in self.box.items:
            self.keep(resume(self.box.items[KEY], self.facts(), POLICY, clean=clean))
        trial.came_up()
        self.keep(take(self.box.items.get(KEY), wanted).record)
        try:
            return await self.work()
        finally:
            self.save(self.box.model_copy(update={"running": False}))

    def save(self, box: BoxRecord) -> None:
        if box != self.box:
            self.records.save(box)
            self.box = box

    def keep(self, record: ItemRecord) -> None:
        self.save(self.box.with_item(record))

    def facts(self) -> Facts:
        holdings = self.shelf.holdings()
        pointer, mismatch = holdings.active.get(PROGRAM), ""
        if pointer is not None:
            mismatch = self.releases.mismatch(self.shelf.directory(pointer.bundle_digest))
        held = self.box.items.get(KEY)
        return Facts(
            boot=self.boot,
            uptime_s=self.uptime_s,
            active=None if pointer is None else pointer.bundle_digest,
            previous=None if pointer is None else pointer.previous,
            staged=held is not None and held.item.digest in holdings.staged,
            health=HealthFacts(engine_failures=0 if self.good else 9, mismatch=mismatch),
        )

    async def work(self) -> ItemRecord:
        for _ in range(100):
            plan = next_step(self.box.items[KEY], self.facts(), POLICY)
            if plan.record != self.box.items[KEY]:
                self.keep(plan.record)
            if plan.action is not None:
                outcome = await self.act(plan.action, plan.record.item)
                held = self.box.items[KEY]
                facts = self.facts()
                self.keep(
                    observe(held, plan.action, held.generation, outcome, facts=facts, policy=POLICY)
                )
            elif plan.record.state in ENDS:
                return plan.record
            else:
                self.uptime_s += 30.0
        raise AssertionError(f"never ends: {self.box.items[KEY]}")

    async def act(self, action: ActionKind, wanted: WantItem) -> Outcome:
        if action is ActionKind.FETCH:
            self.shelf.stage(SOURCE, wanted.digest)
        elif action is ActionKind.ACTIVATE:
            assert isinstance(await self.shelf.activate(PROGRAM, wanted.digest), Committed)
        elif action is ActionKind.REVERT:
            assert isinstance(await self.shelf.revert(PROGRAM), Committed)
        return Done()


async def lives(machine: Machine, wanted: WantItem, *, good: bool, boot: int = 1) -> ItemRecord:
    """Start what is installed until the release has its end."""
    for number in range(boot, boot + 12):
        try:
            return await Life(machine, number, good=good).live(wanted)
        except (EndedError, EngineError):
            continue
    raise AssertionError(f"the box starts again and again; {machine.installed} is installed")


def prepared() -> tuple[CrashFiles, WantItem]:
    """A disk with an enrolment and a release to fetch, and the want of it."""
    files = CrashFiles()
    digest = write_release(files, SOURCE, NEW)
    grant = Grant.model_validate(
        {
            "principal": PRINCIPAL,
            "broker": {"host": "127.0.0.1", "port": 1, "tls": False},
            "api": "http://127.0.0.1:1",
            "want_keys_pem": ("key",),
        }
    )
    credential = new_credential("http://127.0.0.1:1").model_copy(update={"grant": grant})
    CredentialStore(AGENT / "credential", files).save(credential)
    files.sync()
    files.calls.clear()
    rules = {"length_s": 60}
    fields = {"kind": ItemKind.DAEMON, "name": PROGRAM, "probation": rules}
    return files, want_item(1, digest, **fields)


def told_version(machine: Machine, record: ItemRecord) -> str:
    """The version of the release that the shelf's pointer names."""
    releases = Releases([], machine.files, machine.installed, end=None, run=machine.run)
    shelf = release_shelf(AGENT, machine.files, releases)
    pointer = shelf.holdings().active[PROGRAM]
    serves = pointer.bundle_digest == record.item.digest
    assert serves is (record.state is BoxState.CONFIRMED)
    return version_of(machine.files, shelf.directory(pointer.bundle_digest))


@pytest.mark.parametrize(
    ("good", "dead", "ends"),
    [
        (True, "", {BoxState.CONFIRMED}),
        (False, "", {BoxState.REVERTED}),
        (True, NEW, {BoxState.REVERTED}),
    ],
    ids=["good", "bad health", "does not come up"],
)
def test_after_any_power_cut_what_runs_is_what_is_told(
    good: bool,
    dead: str,
    ends: set[BoxState],
) -> None:
    files, wanted = prepared()
    machine = Machine(files, OLD, dead=dead)
    record = asyncio.run(lives(machine, wanted, good=good))
    assert record.state in ends
    assert told_version(machine, record) == machine.installed
    cuts, seen = 0, set()
    for crash in files.crashes(after=range(0, len(files.calls), 3), seeds=()):
        installed = machine.before(crash.calls_made, OLD)
        seen.add(installed)
        again = Machine(crash.files, installed, dead=dead)
        record = asyncio.run(lives(again, wanted, good=good, boot=50))
        assert record.state in ends | {BoxState.REVERTED}
        assert told_version(again, record) == again.installed
        assert again.installed == (NEW if record.state is BoxState.CONFIRMED else OLD)
        cuts += 1
    assert seen == {OLD, NEW}
    assert cuts > 20

"""Whatever call a crash comes after, the store opens with one good bundle a name.

One sequence of operations is recorded on `CrashFiles`: undisturbed; killed at each call, opened
again and resumed; and with one disk error at each call, after which the same process goes on.
Every power cut those histories allow is then opened and held against what had been
acknowledged. The last test removes one fsync of the code at a time: a power cut must show it,
or the fsync is not worth having.
"""

from __future__ import annotations

import errno
import functools
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from edge_runtime.bundle.activation import Committed
from edge_runtime.bundle.crash import Crash, CrashFiles
from edge_runtime.bundle.digests import bundle_digest
from edge_runtime.bundle.manifest import Manifest
from edge_runtime.bundle.pointers import RecoveryAction
from edge_runtime.bundle.store import Store
from edge_runtime.errors import EdgeError
from tests.support.bundles import FakeLoader, write_tiny_bundle

ROOT = Path("/var/store")
SOURCES = {release: Path(f"/media/{release}") for release in (1, 2, 3)}
Fsync = tuple[str, ...]  # lines of the package that led to an fsync, then the path


class Killed(BaseException):
    """The process is gone; nothing in it may answer this."""


class DisturbedFiles(CrashFiles):
    """Loses every fsync equal to `lose`; from call `kill_at` on kills; fails call `fail_at`."""

    def __init__(
        self, lose: Fsync | None = None, kill_at: int | None = None, fail_at: int | None = None
    ) -> None:
        super().__init__(on_call=self._disturb)
        self.lose, self.kill_at, self.fail_at = lose, kill_at, fail_at
        self.fsyncs: set[Fsync] = set()
        self.begun = 0

    def _disturb(self, method: str, path: Path) -> None:
        self.begun += 1
        if self.kill_at is not None and self.begun > self.kill_at:
            raise Killed
        if self.begun - 1 == self.fail_at:
            raise OSError(errno.EIO, "Input/output error", str(path))

    def _lost(self, path: Path) -> bool:
        lines = []
        frame: FrameType | None = sys._getframe()
        while frame is not None:
            if "edge_runtime/bundle/" in frame.f_code.co_filename:
                lines.append(f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}")
            frame = frame.f_back
        fsync = (*lines, re.sub("[0-9a-f]{64}", "<digest>", str(path)))
        self.fsyncs.add(fsync)
        return fsync == self.lose

    def fsync_file(self, path: Path) -> None:
        if not self._lost(path):
            super().fsync_file(path)

    def fsync_dir(self, path: Path) -> None:
        if not self._lost(path):
            super().fsync_dir(path)


@dataclass(frozen=True)
class Promise:
    """What was acknowledged: the active bundle, or perhaps `next_active`, and those staged."""

    active: str | None = None
    next_active: str | None = None
    staged: frozenset[str] = frozenset()


@dataclass
class History:
    """One run of the sequence; `promises` by the number of calls made when each was given."""

    files: DisturbedFiles
    promises: list[tuple[int, Promise]] = field(default_factory=lambda: [(0, Promise())])
    disturbed_after: int = 0  # promises given when it was disturbed

    def at(self, calls_made: int) -> Promise:
        return [promise for since, promise in self.promises if since <= calls_made][-1]

    @property
    def last(self) -> Promise:
        return self.promises[-1][1]

    def promise(self, promise: Promise) -> None:
        self.promises.append((len(self.files.calls), promise))


STEPS = ("stage 1", "activate 1", "stage 2", "activate 2", "revert", "stage 3", "collect")
DISTURBED_STEPS = ("stage 1", "activate 1", "stage 3", "collect")  # each code path once


@functools.cache
def digest_of(release: int) -> str:
    files = CrashFiles()
    return bundle_digest(write_source(files, release))


def write_source(files: CrashFiles, release: int) -> Manifest:
    weights = b"w" * (9 + release)
    return write_tiny_bundle(SOURCES[release], files=files, release=release, weights=weights)


def make_history(
    lose: Fsync | None = None, kill_at: int | None = None, fail_at: int | None = None
) -> History:
    files = DisturbedFiles(lose)
    for release in SOURCES:
        write_source(files, release)
    files.sync()
    files.fsyncs.clear()
    files.begun, files.kill_at, files.fail_at = 0, kill_at, fail_at
    history = History(files)
    steps = list(STEPS if kill_at is fail_at is None else DISTURBED_STEPS)
    while steps:
        try:
            with Store.open(ROOT, files=files) as store:
                reopened(history, store)
                while steps:
                    try:
                        take(history, store, steps[0])
                    except EdgeError:
                        assert files.fail_at is not None, "nothing fails but on purpose"
                        history.disturbed_after = len(history.promises)
                        continue  # the same process tries again
                    steps.pop(0)
        except (Killed, EdgeError):
            assert (files.kill_at, files.fail_at) != (None, None), "nothing fails but on purpose"
            history.disturbed_after = len(history.promises)
            files.kill_at = None
    return history


def reopened(history: History, store: Store) -> None:
    pointer = store.active().get("tiny")
    active = None if pointer is None else pointer.bundle_digest
    assert active in (history.last.active, history.last.next_active)
    history.promise(Promise(active, None, history.last.staged))


def take(history: History, store: Store, step: str) -> None:
    last, loader = history.last, FakeLoader()
    if step.startswith("stage"):
        digest = store.stage(SOURCES[int(step[-1])])
        assert digest == digest_of(int(step[-1]))
        history.promise(Promise(last.active, last.next_active, last.staged | {digest}))
    elif step == "collect":
        history.promise(Promise(last.active, None, last.staged - {digest_of(3)}))
        assert store.garbage_collect() in ((digest_of(3),), ())
    else:
        digest = digest_of(2 if step == "activate 2" else 1)
        history.promise(Promise(last.active, digest, last.staged))
        if step == "revert" and store.active()["tiny"].bundle_digest != digest:
            outcome = store.revert("tiny", loader)
        else:
            outcome = store.activate("tiny", digest, loader)
        assert isinstance(outcome, Committed)
        assert outcome.pointer.bundle_digest == digest
        history.promise(Promise(digest, None, last.staged))


def check(crash: Crash, promise: Promise) -> None:
    """Open the store after a crash and hold it against what was promised."""
    files = crash.files
    with Store.open(ROOT, files=files) as store:
        assert all(entry.action is RecoveryAction.KEPT for entry in store.recovered)
        pointer = store.active().get("tiny")
        active = None if pointer is None else pointer.bundle_digest
        assert active == promise.active or (active is not None and active == promise.next_active)
        assert promise.staged <= set(store.digests())
        for digest in store.digests():
            store.verify(digest)
        assert files.listdir(ROOT / "staging") == []
        assert files.listdir(ROOT / "active") == ["tiny.json"] * (active is not None)


def check_undisturbed(lose: Fsync | None = None) -> int:
    history = make_history(lose)
    number = 0
    for crash in history.files.crashes():
        check(crash, history.at(crash.calls_made))
        number += 1
    return number


def disturbed_histories(lose: Fsync | None = None) -> Iterator[History]:
    call = 0
    while (history := make_history(lose, kill_at=call)).disturbed_after:
        yield history
        yield make_history(lose, fail_at=call)
        call += 1


def check_disturbed(history: History) -> None:
    """Power cuts right after the first two promises that followed the disturbance."""
    after = [since for since, _ in history.promises[history.disturbed_after :][:2]]
    for crash in history.files.crashes(after=after, seeds=(0, 1)):
        check(crash, history.at(crash.calls_made))


def test_after_any_crash_each_name_has_one_good_bundle() -> None:
    assert check_undisturbed() > 100


def test_what_is_acknowledged_after_a_kill_or_a_disk_error_survives_a_power_cut() -> None:
    for history in disturbed_histories():
        assert history.last.active is not None
        check_disturbed(history)


def test_both_the_old_and_the_new_bundle_are_found_after_crashes() -> None:
    history = make_history()
    found = set()
    for crash in history.files.crashes():
        with Store.open(ROOT, files=crash.files) as store:
            found |= {pointer.bundle_digest for pointer in store.active().values()}
    assert len(found) == 2


def is_needed(fsync: Fsync) -> bool:
    try:
        check_undisturbed(fsync)
        for history in disturbed_histories(fsync):
            check_disturbed(history)
    except (AssertionError, EdgeError):
        return True
    return False


def test_no_fsync_can_be_removed() -> None:
    fsyncs = set(make_history().files.fsyncs)
    for history in disturbed_histories():
        fsyncs |= history.files.fsyncs
    assert {fsync[-1] for fsync in fsyncs} >= {"/", "/var/store", "/var/store/active/tiny.json.tmp"}
    assert [fsync for fsync in sorted(fsyncs) if not is_needed(fsync)] == []

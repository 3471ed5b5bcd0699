"""Alarms and the state they are kept in: at once, through restarts and crashes."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from pathlib import Path

import pytest

from edge_runtime.bundle.crash import CrashFiles
from edge_runtime.errors import ConfigError
from edge_runtime.router.watch.contract import (
    EventKind,
)
from edge_runtime.router.watch.settings import (
    DriftSettings,
)
from edge_runtime.router.watch.state import FileWatchStore, MemoryWatchStore, read_state
from tests.support.watch import (
    CERTIFICATE,
    TERMS,
    Box,
    decided,
    rows,
)


async def test_an_alarm_suspends_at_once_and_survives_a_restart() -> None:
    box = Box()
    async with box.watch.running():
        while box.watch.observe(decided(0.01)) is None:
            pass
        assert "drift" in (box.watch.suspended(CERTIFICATE) or "")
        # The keeper saves because of the alarm, not because a minute went by.
        await box.until(lambda: box.store.document is not None)
        for _ in range(2000):
            if read_state(box.store.document).certificates[0].state.alarm is not None:
                break
            await asyncio.sleep(0)
    again = Box(store=box.store)
    assert again.watch.suspended(CERTIFICATE) == box.watch.suspended(CERTIFICATE)
    assert rows(again) == rows(box)
    assert again.watch.alarms()[0].certificate == CERTIFICATE
    assert again.watch.suspended("e" * 64) is None
    again.watch.certified(dataclasses.replace(TERMS, certificate="e" * 64))
    assert again.watch.suspended("e" * 64) is None
    assert again.watch.clear(CERTIFICATE, "ada")
    assert again.watch.suspended(CERTIFICATE) is None
    assert not again.watch.clear(CERTIFICATE, "ada")
    assert [one.kind for one in again.watch.events()] == [EventKind.CLEARED]
    assert box.listener.events[0].kind is EventKind.ALARM
    assert box.listener.events[0].values["signal"] in {"escalation", "scores"}


class HeldStore(MemoryWatchStore):
    """A disk whose first save takes until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.busy = 0
        self.overlapped = False
        self.started, self.go = threading.Event(), threading.Event()

    def save(self, document: bytes) -> None:
        self.busy += 1
        self.overlapped = self.overlapped or self.busy > 1
        self.started.set()
        assert self.go.wait(20)
        self.busy -= 1
        super().save(document)


async def test_a_save_waits_for_one_that_was_cancelled_but_still_writes() -> None:
    store = HeldStore()
    box = Box(store=store)
    first = asyncio.create_task(box.watch.save())
    await asyncio.to_thread(store.started.wait, 20)
    first.cancel()
    store.started.clear()
    second = asyncio.create_task(box.watch.save())
    # Were it not to wait, it would enter within this while.
    assert not await asyncio.to_thread(store.started.wait, 0.05)
    store.go.set()
    await second
    assert (store.saves, store.overlapped) == (2, False)


async def test_an_alarm_that_only_tells_suspends_nothing() -> None:
    box = Box(drift=DriftSettings(tokens_mean=30.0, suspend=False))
    while box.watch.observe(decided(0.01)) is None:
        pass
    assert box.watch.suspended(CERTIFICATE) is None
    assert len(box.watch.alarms()) == 1


async def test_decisions_without_a_certificate_are_only_counted() -> None:
    box = Box()
    for _ in range(500):
        assert box.watch.observe(decided(None, certificate="")) is None
    assert rows(box) == (500, 500, 0, 0)


async def test_the_certificate_unused_longest_goes_first_but_never_an_alarm_before() -> None:
    box = Box(max_certificates=2)
    while box.watch.observe(decided(0.01)) is None:
        pass
    for name in "efg":
        box.watch.certified(dataclasses.replace(TERMS, certificate=name * 64))
    kept = [one.terms.certificate[0] for one in box.watch.state().certificates]
    assert kept == ["c", "g"]


def test_a_state_that_cannot_be_read_stops_the_start() -> None:
    with pytest.raises(ConfigError, match="move it away"):
        Box(store=MemoryWatchStore(b'{"schema": "edge-runtime/watch/9"}'))


def test_after_a_crash_there_is_the_old_state_or_the_new_one() -> None:
    files = CrashFiles()
    store = FileWatchStore(Path("/box/watch/state.json"), files)
    assert store.load() is None
    store.save(b"old")
    files.sync()
    store.save(b"new")
    found = {FileWatchStore(store.path, crash.files).load() for crash in files.crashes()}
    assert found == {b"old", b"new"}
    assert FileWatchStore(store.path, files).load() == b"new"

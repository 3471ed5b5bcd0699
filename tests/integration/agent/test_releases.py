"""Releases of the daemon: installed by a command, started, watched, and taken back by it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from edge_runtime.agent.credential import CredentialStore, new_credential
from edge_runtime.agent.protocol import (
    BoxState,
    FailureCode,
    FailureKind,
    Grant,
    ItemKind,
    ItemReport,
)
from edge_runtime.agent.record import RecordStore
from edge_runtime.agent.releases import KEY, Releases, run_command
from edge_runtime.agent.settings import AgentSettings
from edge_runtime.agent.trial import Trial, guard_start
from edge_runtime.bundle.files import RealFiles
from edge_runtime.bundle.pointer import Pointer
from edge_runtime.bundle.pointers import Pointers
from edge_runtime.errors import EngineError, UsageError
from tests.support.agents import SOON_S, Rig, rig
from tests.support.releases import Installer, write_release
from tests.support.wants import PRINCIPAL, want, want_item

S = BoxState
OLD, NEW = "1.0.0", "2.0.0"


@dataclass
class Box:
    """A box whose daemon is whatever the installer installed last."""

    rig: Rig
    installer: Installer
    command: list[str] = field(default_factory=list)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """One run of the daemon, up to its end."""
        self.ended = asyncio.Event()
        self.rig.releases = Releases(
            self.command,
            RealFiles(),
            self.installer.installed,
            end=self.ended.set,
            timeout_s=SOON_S,
        )
        async with self.rig.running():
            yield

    async def until_it_ends(self) -> None:
        """Wait until the agent asks the daemon to end."""
        async with asyncio.timeout(SOON_S):
            await self.ended.wait()

    def want(self, generation: int, version: str, **rules: float) -> str:
        """Want a release; its digest."""
        path = self.rig.root / f"release-{version}"
        digest = write_release(RealFiles(), path, version)
        self.rig.fetcher.available[digest] = path
        fields = {"kind": ItemKind.DAEMON, "name": "edge-runtime"}
        self.rig.tell(
            want(want_item(generation, digest, probation={"length_s": 0, **rules}, **fields))
        )
        return digest

    async def reported(self, generation: int, *states: BoxState) -> ItemReport:
        """Wait for a report of the release."""
        return await self.rig.reported(generation, *states, name="edge-runtime")


@contextlib.asynccontextmanager
async def box_of(tmp_path: Path) -> AsyncIterator[Box]:
    installer = Installer.at(tmp_path / "installer", OLD)
    async with rig(tmp_path) as one:
        yield Box(one, installer, installer.command)


async def test_a_release_is_installed_started_and_confirmed(tmp_path: Path) -> None:
    async with box_of(tmp_path) as box:
        async with box.running():
            digest = box.want(1, NEW)
            await box.until_it_ends()
        folder = tmp_path / "releases" / "kept" / digest
        assert box.installer.asked == [f"{NEW} from {OLD} at {folder}"]
        assert {one.name for one in folder.iterdir()} == {"d.whl", "release.json"}
        async with box.running():
            told = await box.reported(1, S.CONFIRMED)
        assert told.active == digest
        assert box.installer.installed == NEW


async def test_without_a_command_nothing_is_fetched(tmp_path: Path) -> None:
    async with box_of(tmp_path) as box:
        box.command = []
        async with box.running():
            box.want(1, NEW)
            told = await box.reported(1, S.FAILED)
        assert told.failure is not None
        assert told.failure.kind is FailureKind.NO_CHANGE
        assert told.failure.code is FailureCode.INCOMPATIBLE
        assert "agent.update_command" in told.failure.reason
        assert not any((tmp_path / "releases" / "kept").iterdir())


async def test_another_programs_release_is_refused(tmp_path: Path) -> None:
    async with box_of(tmp_path) as box, box.running():
        item = want_item(1, "a" * 64, kind=ItemKind.DAEMON, name="editor")
        box.rig.tell(want(item))
        told = await box.rig.reported(1, S.FAILED, name="editor")
        assert told.failure is not None
        assert "edge-runtime only" in told.failure.reason


async def test_a_command_that_fails_leaves_the_former_release(tmp_path: Path) -> None:
    async with box_of(tmp_path) as box:
        box.installer.say("refused", NEW)
        async with box.running():
            box.want(1, NEW)
            told = await box.reported(1, S.FAILED)
            assert not box.ended.is_set()
        assert told.failure is not None
        assert told.failure.kind is FailureKind.NO_CHANGE
        assert "ended with status 3: it will not do" in told.failure.reason
        assert box.installer.installed == OLD
        assert [one.split()[0] for one in box.installer.asked] == [NEW, OLD]
        found = json.loads((tmp_path / "releases" / "kept" / str(told.active)).read_bytes())
        assert (found["version"], told.previous) == (OLD, None)


async def test_bad_health_brings_the_former_release_back(tmp_path: Path) -> None:
    async with box_of(tmp_path) as box:
        async with box.running():
            digest = box.want(1, NEW, length_s=3600, min_requests=5, max_error_share=0.1)
            await box.until_it_ends()
        async with box.running():
            await box.reported(1, S.PROBATION)
            box.rig.metrics.count("edge_http_requests_total", "/v1", "500", "any", amount=9)
            box.rig.order("o-1", "report")
            await box.until_it_ends()
        assert box.installer.asked[-1] == f"{OLD} from {NEW} at nowhere"
        async with box.running():
            told = await box.reported(1, S.REVERTED)
        assert told.failure is not None
        assert told.failure.code is FailureCode.ERRORS
        assert (told.previous, box.installer.installed) == (digest, OLD)


async def test_an_install_of_something_else_is_taken_back(tmp_path: Path) -> None:
    async with box_of(tmp_path) as box:
        box.installer.say("instead", "1.9.9")
        async with box.running():
            box.want(1, NEW, length_s=3600)
            await box.until_it_ends()
        box.installer.say("instead", "")
        async with box.running():
            await box.until_it_ends()
        assert box.installer.installed == OLD
        async with box.running():
            told = await box.reported(1, S.REVERTED)
        assert told.failure is not None
        assert told.failure.reason == "the daemon that came up is 1.9.9, the release is 2.0.0"


def trial_of(box: Box) -> Trial:
    """The trial as the next start of the daemon, or the rescue command, sees it."""
    root = box.rig.root
    credentials = CredentialStore(root / "credential", RealFiles())
    grant = Grant.model_validate(
        {
            "principal": PRINCIPAL,
            "broker": {"host": "127.0.0.1", "port": 1, "tls": False},
            "api": "http://127.0.0.1:1",
            "want_keys_pem": ("key",),
        }
    )
    credentials.save(new_credential("http://127.0.0.1:1").model_copy(update={"grant": grant}))
    options = AgentSettings.model_validate({"update_command": box.command, "update_max_starts": 2})
    return Trial(root, RealFiles(), options, running=box.installer.installed)


async def test_a_release_that_never_comes_up_is_taken_back_by_its_starts(tmp_path: Path) -> None:
    async with box_of(tmp_path) as box:
        trial = trial_of(box)
        await guard_start(trial)
        assert trial.started() == 0, "nothing is on trial"
        async with box.running():
            box.want(1, NEW, length_s=3600)
            await box.until_it_ends()
        for _ in range(2):
            await guard_start(trial_of(box))
        assert box.installer.installed == NEW
        with pytest.raises(EngineError, match="2 starts of it ended before"):
            await guard_start(trial_of(box))
        assert box.installer.installed == OLD
        async with box.running():
            told = await box.reported(1, S.REVERTED)
        assert told.failure is not None
        assert (told.failure.kind, told.failure.code) == (
            FailureKind.REVERTED,
            FailureCode.CRASHES,
        )
        await guard_start(trial_of(box))
        assert len(box.installer.asked) == 2


async def test_starts_before_the_agent_ran_are_forgotten_once_it_does(tmp_path: Path) -> None:
    async with box_of(tmp_path) as box:
        async with box.running():
            box.want(1, NEW, length_s=3600)
            await box.until_it_ends()
        trial = trial_of(box)
        assert [trial.started(), trial.started()] == [1, 2]
        trial.came_up()
        assert trial.started() == 1


async def test_a_disk_that_cannot_be_read_keeps_no_daemon_from_starting(tmp_path: Path) -> None:
    async with box_of(tmp_path) as box:
        async with box.running():
            box.want(1, NEW, length_s=3600)
            await box.until_it_ends()
        trial = trial_of(box)
        counts = tmp_path / "releases" / "starts.json.tmp"
        counts.mkdir()  # stands for a disk that takes no file
        (counts / "full").touch()
        for _ in range(5):
            await guard_start(trial)
        assert box.installer.installed == NEW


async def test_the_rescue_works_also_when_the_pointer_never_moved(tmp_path: Path) -> None:
    async with box_of(tmp_path) as box:
        async with box.running():
            box.want(1, NEW, length_s=3600)
            await box.until_it_ends()
        pointers = Pointers(tmp_path / "releases" / "active", RealFiles())
        moved = pointers.read("edge-runtime")
        assert moved is not None
        assert moved.previous is not None
        pointers.write(Pointer(name="edge-runtime", bundle_digest=moved.previous))
        assert await trial_of(box).take_back("it did not come up")
        assert box.installer.asked[-1] == f"{OLD} from {NEW} at nowhere"
        record = RecordStore(tmp_path, RealFiles()).load(PRINCIPAL)
        assert record.items[KEY].state is S.REVERTING


async def test_a_former_release_that_cannot_be_installed_is_said_aloud(tmp_path: Path) -> None:
    async with box_of(tmp_path) as box:
        async with box.running():
            box.want(1, NEW, length_s=3600)
            await box.until_it_ends()
        box.installer.say("refused", OLD)
        with pytest.raises(EngineError, match="could not be installed"):
            await trial_of(box).take_back("it did not come up")
        box.installer.say("refused", "")
        assert await trial_of(box).take_back("again")
        assert box.installer.installed == OLD


async def test_the_command_gets_no_secrets_and_no_more_time_than_it_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FRONTIER_KEY", "secret")
    ran = await run_command(["env"], {"EDGE_UPDATE_VERSION": "3"}, SOON_S)
    assert ran.status == 0
    assert "EDGE_UPDATE_VERSION=3" in ran.output.splitlines()
    assert "secret" not in ran.output
    marker = tmp_path / "late"
    script = f"(sleep 60; touch {marker}) & echo begun; sleep 60"
    ran = await run_command(["sh", "-c", script], {}, 0.2)
    assert (ran.status, ran.why) == (None, "took too long: begun")
    loud = await run_command(["sh", "-c", "yes | head -c 300000; exit 5"], {}, SOON_S)
    assert (loud.status, len(loud.output.splitlines())) == (5, 40)
    with pytest.raises(UsageError, match=r"agent\.update_command"):
        await run_command([str(tmp_path / "nothing")], {}, SOON_S)

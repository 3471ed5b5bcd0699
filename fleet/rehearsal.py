"""A fleet on one machine: the control host in this process, simulated boxes, real daemons.

Rules
- The control host is the one `edge-fleet serve` runs, on a clock that may be faster; simulated
  boxes share that clock, real daemons live in real time.
- Every box enrols with a claim of its own. Simulated ones ask the service, real ones over HTTP.
- When one part ends unasked everything ends, and says why.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Connection

from edge_runtime.agent.protocol import Have
from edge_runtime.errors import EngineError
from fleet.api.server import listening
from fleet.demo_daemon import Daemon
from fleet.enrol import claims
from fleet.enrol.broker import Credentials
from fleet.link import Connector
from fleet.registry import boxes, tokens
from fleet.rollout.service import RolloutPage
from fleet.rollout.states import ENDED, Action
from fleet.serve import ControlHost, control_host
from fleet.settings import FleetSettings
from fleet.simulator.box import SimBox
from fleet.simulator.clock import FastClock
from fleet.simulator.faults import NO_FAULTS
from fleet.simulator.joining import join, keys_of, make_claims
from fleet.simulator.mqtt import Lines
from fleet.simulator.swarm import Swarm
from fleet.simulator.world import BoxSpec, World

LOOK_S: Final = 0.2
_CLAIM_LIVES_S: Final = 86_400.0


@dataclass(frozen=True)
class Cast:
    """Who takes part. `world` is all that simulated boxes know of bundles."""

    tenant: str
    specs: Sequence[BoxSpec]
    world: World
    daemons: Sequence[Daemon] = ()
    seed: int = 1
    connects_per_s: float = 10.0


@dataclass(frozen=True)
class Stage:
    """Where it takes place.

    `connector` and `credentials` None: those of the settings. `settings.api` must name its port,
    which boxes are told.
    """

    settings: FleetSettings
    clock: FastClock
    lines: Lines
    connector: Connector | None = None
    credentials: Credentials | None = None
    tick_s: float = 0.3


@dataclass
class Rehearsal:
    """A running fleet; see the module."""

    host: ControlHost
    swarm: Swarm
    clock: FastClock
    url: str
    daemons: Sequence[Daemon] = ()
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def beside(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` until the rehearsal ends; it must not end before."""
        self._tasks.append(asyncio.create_task(work))

    async def wait(self, length_s: float) -> None:
        """Sleep, unless a part ended: then say why. Raises `EdgeError`."""
        done, _ = await asyncio.wait(
            self._tasks, timeout=length_s, return_when=asyncio.FIRST_COMPLETED
        )
        for task in done:
            task.result()
            raise EngineError("a part of the rehearsal ended unasked")

    async def heard_from_all(self, limit_s: float) -> None:
        """Return when every box has reported. Raises `TimeoutError` and `EdgeError`."""
        wanted = len(self.swarm.boxes) + len(self.daemons)
        async with asyncio.timeout(limit_s):
            while len(await self.reported()) < wanted:
                await self.wait(LOOK_S)

    async def rollout(
        self, plan: str, by: str, look: Callable[[RolloutPage], None], limit_s: float
    ) -> RolloutPage:
        """File a plan, approve it, follow it to its end. Raises `TimeoutError`, `EdgeError`."""
        service = self.host.services.rollouts
        filed = await service.file(plan, by)
        await service.order(filed.id, Action.APPROVE, by, "it is a rehearsal")
        async with asyncio.timeout(limit_s):
            while True:
                page = await service.page(filed.id)
                look(page)
                if page.phase in ENDED:
                    return page
                await self.wait(LOOK_S)

    async def reported(self) -> dict[str, Have]:
        """What each box said last, by its principal; boxes that said nothing are left out."""
        services = self.host.services

        def read(connection: Connection) -> dict[str, Have]:
            found = boxes.scan(connection, now_s=self.clock.now_s(), limits=services.limits)
            return {box.principal: known.have for box, known in found if known.have is not None}

        return await services.database.read(read)

    async def versions(self, name: str) -> dict[str, str]:
        """The version of `name` that each box says it serves."""
        return {
            principal: next(
                (item.version or "unknown" for item in have.items if item.name == name), "nothing"
            )
            for principal, have in (await self.reported()).items()
        }

    async def viewer(self, by: str) -> str:
        """A token that may look at everything, and change nothing."""
        _, secret = await self.host.services.database.write(
            lambda c: tokens.create(
                c, by, tokens.Role.VIEWER, now_s=self.clock.now_s(), lives_s=None
            )
        )
        return secret

    async def claim_for(self, tenant: str, name: str) -> str:
        """The secret of a claim that lets one box in without asking anybody."""
        _, secret = await self.host.services.database.write(
            lambda c: claims.create(
                c, tenant=tenant, box=name, labels={}, approve=True, lives_s=_CLAIM_LIVES_S,
                by="rehearsal", now_s=self.clock.now_s(),
            )
        )  # fmt: skip
        return secret

    async def close(self) -> None:
        """End what runs, the newest first."""
        for task in reversed(self._tasks):
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@contextlib.asynccontextmanager
async def rehearsal(stage: Stage, cast: Cast) -> AsyncIterator[Rehearsal]:
    """Enrol and connect everybody; it runs while inside. Raises `EdgeError`."""
    clock = stage.clock
    async with contextlib.AsyncExitStack() as stack:
        host = await stack.enter_async_context(
            control_host(stage.settings, connector=stage.connector, now=clock.now_s)
        )
        host.tick_s = stage.tick_s
        if stage.credentials is not None:
            host.services.enrolment.broker = stage.credentials
        url = await stack.enter_async_context(listening(host.services))
        swarm = await _swarm(host, stage, cast)
        running = Rehearsal(host, swarm, clock, url, cast.daemons)
        stack.push_async_callback(running.close)
        running.beside(host.run())
        running.beside(swarm.run())
        for daemon in cast.daemons:
            claim = await running.claim_for(cast.tenant, daemon.name)
            child = await stack.enter_async_context(daemon.joined(url, claim))
            running.beside(_outlives(daemon, child))
        yield running


async def _swarm(host: ControlHost, stage: Stage, cast: Cast) -> Swarm:
    services, now_s = host.services, stage.clock.now_s()
    secrets = await services.database.write(lambda c: make_claims(c, cast.specs, now_s=now_s))
    grants = await join(cast.specs, secrets, services.enrolment.enrol)
    simulated = [
        SimBox(
            spec, cast.world, NO_FAULTS, keys_of(grants[spec.principal]), seed=cast.seed,
            now_s=stage.clock.now_s(),
        )
        for spec in cast.specs
    ]  # fmt: skip
    passwords = {name: grant.broker.password for name, grant in grants.items()}
    return Swarm(simulated, passwords, stage.lines, stage.clock, cast.connects_per_s, cast.seed)


async def _outlives(daemon: Daemon, child: asyncio.subprocess.Process) -> None:
    """Ends with an error as soon as the child does."""
    code = await child.wait()
    raise EngineError(f"the daemon {daemon.name} ended with {code}; see {daemon.log}")

"""`edge-fleet demo`: a whole fleet in one process, with simulated boxes and a rollout.

Rules
- Nothing is needed but this package: the broker is inside, everything listens on loopback, and
  all files lie in one folder.
- The control host is the one `edge-fleet serve` runs, with its clock made faster; the boxes decide
  as real ones do and only pretend to download and to serve.
- It ends by itself, within a bounded time, unless it was asked to stay.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from edge_runtime.errors import EngineError
from fleet.api.server import listening
from fleet.enrol.secrets import mosquitto_hash
from fleet.registry import tokens
from fleet.rollout.service import RolloutPage
from fleet.rollout.states import ENDED, Action, Phase
from fleet.serve import ControlHost, control_host
from fleet.settings import FleetSettings
from fleet.simulator.box import SimBox
from fleet.simulator.broker import EmbeddedBroker
from fleet.simulator.clock import FastClock
from fleet.simulator.faults import NO_FAULTS
from fleet.simulator.joining import join, keys_of, make_claims
from fleet.simulator.mqtt import Lines
from fleet.simulator.swarm import Swarm
from fleet.simulator.tiny import publish_two
from fleet.simulator.world import CPU_MODELS, NO_FLAWS, Bundle, Flaws, World, make_spec
from fleet.transport import MqttConnector

NAME: Final = "demo"
TENANT: Final = "demo"
CONTROL: Final = "control"
LIMIT_S: Final = 120.0
LOOK_S: Final = 0.2
TICK_S: Final = 0.3
CONNECTS_PER_S: Final = 10.0
REPORT_S: Final = 600.0

SHARES: Final = (0.2, 0.6, 1.0)
FLAWED_SHARES: Final = (0.6, 1.0)
"""One box that crashes proves nothing; three of three do."""

PLAN: Final = """
name = "demo 2.0.0"

[change]
name = "{name}"
digest = "{digest}"

[waves]
shares = {shares}
least_boxes = 1
hold_back = 0.0

[times]
bake_hours = 0.05

[probation]
length_s = 120
"""

Say = Callable[[str], None]


@dataclass(frozen=True)
class DemoOptions:
    """`speed`: simulated seconds in a real one. `flawed`: the new bundle crashes everywhere."""

    directory: Path
    boxes: int = 5
    speed: float = 120.0
    flawed: bool = False
    seed: int = 1


@dataclass
class Demo:
    """A running demo: the control host, its boxes, the two releases of the bundle."""

    host: ControlHost
    swarm: Swarm
    new: Bundle
    clock: FastClock
    url: str
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def rollout(self, say: Say) -> RolloutPage:
        """File the plan, approve it, tell how it goes until it ends. Raises `EdgeError`."""
        service = self.host.services.rollouts
        shares = FLAWED_SHARES if self.new.flaws != NO_FLAWS else SHARES
        plan = PLAN.format(name=NAME, digest=self.new.digest, shares=list(shares))
        filed = await service.file(plan, "demo")
        await service.order(filed.id, Action.APPROVE, "demo", "it is a demo")
        told = _Progress(say)
        async with asyncio.timeout(LIMIT_S):
            while True:
                page = await service.page(filed.id)
                told.look(page)
                if page.phase in ENDED:
                    return page
                await self.wait(LOOK_S)

    async def all_connected(self) -> None:
        """Return when every box is connected and has reported. Raises `EdgeError`."""
        async with asyncio.timeout(LIMIT_S):
            while self.host.ingest.stats.counts["reports"] < len(self.swarm.boxes):
                await self.wait(LOOK_S)

    async def wait(self, length_s: float) -> None:
        """Sleep, unless a part of the demo ended: then say why. Raises `EdgeError`."""
        done, _ = await asyncio.wait(
            self.tasks, timeout=length_s, return_when=asyncio.FIRST_COMPLETED
        )
        for task in done:
            task.result()
            raise EngineError("a part of the demo ended unasked")

    async def token(self) -> str:
        """A token that may look at everything, and change nothing."""
        _, secret = await self.host.services.database.write(
            lambda c: tokens.create(
                c, "demo", tokens.Role.VIEWER, now_s=self.clock.now_s(), lives_s=None
            )
        )
        return secret

    def serving(self) -> dict[str, str]:
        """The version each box serves, by its principal."""
        found = {}
        for box in self.swarm.boxes:
            active = next((item.active for item in box.reports()), None)
            bundle = box.world.bundles.get(active or "")
            found[box.spec.principal] = "nothing" if bundle is None else bundle.version
        return found


@contextlib.asynccontextmanager
async def opened(options: DemoOptions, say: Say) -> AsyncIterator[Demo]:
    """Publish, enrol, connect; the demo runs while inside. Raises `EdgeError`."""
    clock = FastClock(options.speed)
    crashes = Flaws(crashes_on=frozenset(CPU_MODELS), crash_after_s=40.0)
    flaws = crashes if options.flawed else NO_FLAWS
    old, new = await asyncio.to_thread(publish_two, options.directory, NAME, flaws)
    say(f"published {NAME} {old.version} and {new.version}, signed with keys made for this demo")
    world = World.of(old, new, seed=options.seed)
    password = "demo-control"  # noqa: S105 - loopback, and gone with the process
    async with contextlib.AsyncExitStack() as stack:
        broker = await stack.enter_async_context(
            EmbeddedBroker.opened(CONTROL, mosquitto_hash(password))
        )
        connector = MqttConnector("127.0.0.1", broker.port, CONTROL, password, version="3.1.1")
        settings = _settings(options.directory, broker.port)
        host = await stack.enter_async_context(
            control_host(settings, connector=connector, now=clock.now_s)
        )
        host.services.enrolment.broker = broker
        host.tick_s = TICK_S
        specs = [
            make_spec(TENANT, number, model=NAME, serves=old.digest, report_every_s=REPORT_S)
            for number in range(options.boxes)
        ]
        enrolment = host.services.enrolment
        claims = await host.services.database.write(
            lambda c: make_claims(c, specs, now_s=clock.now_s())
        )
        grants = await join(specs, claims, enrolment.enrol)
        say(f"enrolled {len(grants)} boxes, each with a claim and a key of its own")
        boxes = [
            SimBox(
                spec, world, NO_FAULTS, keys_of(grants[spec.principal]), seed=options.seed,
                now_s=clock.now_s(),
            )
            for spec in specs
        ]  # fmt: skip
        passwords = {name: grant.broker.password for name, grant in grants.items()}
        lines = Lines("127.0.0.1", broker.port, version="3.1.1")
        url = await stack.enter_async_context(listening(host.services))
        swarm = Swarm(boxes, passwords, lines, clock, CONNECTS_PER_S, options.seed)
        demo = Demo(host, swarm, new, clock, url)
        demo.tasks = [asyncio.create_task(host.run()), asyncio.create_task(demo.swarm.run())]
        try:
            await demo.all_connected()
            say(f"connected to the broker on port {broker.port}; time runs {clock.factor:g}-fold")
            yield demo
        finally:
            for task in reversed(demo.tasks):
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)


async def run_demo(
    options: DemoOptions, say: Say, *, stay: Callable[[str], None] | None = None
) -> Phase:
    """The whole demo; the phase the rollout ended in. `stay` hears that it goes on for ever."""
    async with opened(options, say) as demo:
        page = await demo.rollout(say)
        for principal, version in demo.serving().items():
            say(f"{principal} serves {version}")
        taken = demo.host.ingest.stats.counts
        say(f"{taken['rows']} rows of telemetry and {taken['reports']} reports were taken in")
        if stay is not None:
            stay(f"it goes on at {demo.url} with the token {await demo.token()}; Ctrl-C ends it")
            while True:
                await demo.wait(3600.0)
        return page.phase


class _Progress:
    """Tells what is new in a rollout since it was looked at last."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._entries = 0
        self._waves = ""

    def look(self, page: RolloutPage) -> None:
        """Look again."""
        for entry in page.history[self._entries :]:
            wave = f", wave {entry.wave} of {page.waves}" if page.waves else ""
            self._say(f"rollout {entry.after}{wave}: {entry.reason}")
        self._entries = len(page.history)
        waves = "; ".join(
            f"wave {one.wave}: {one.waiting} waiting, {one.open} at work, "
            f"{one.confirmed} confirmed, {one.lost} lost"
            for one in page.waves_by_status
            if one.open or one.confirmed or one.lost
        )
        if waves and waves != self._waves:
            self._say(waves)
        self._waves = waves


def _settings(directory: Path, port: int) -> FleetSettings:
    return FleetSettings.model_validate(
        {
            "state": {"dir": directory / "state"},
            "database": {"url": f"sqlite:///{directory / 'fleet.db'}"},
            "api": {"port": 0},
            "broker": {"port": port, "public_port": port, "user": CONTROL},
            "publish": {
                "repository": directory / "repository",
                "keys": [directory / "keys" / "online"],
            },
            "ingest": {"commit_wait_ms": 50},
        }
    )

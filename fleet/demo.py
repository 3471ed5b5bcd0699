"""`edge-fleet demo`: a whole fleet on this machine, and a rollout in waves.

Rules
- Nothing is needed but this package: the broker is inside, everything listens on loopback, and
  all files lie in one folder.
- The control host is the one `edge-fleet serve` runs, with its clock made faster. Simulated boxes
  decide as real ones do and only pretend to download and to serve; one box is real, a daemon in
  a process of its own, and is asked something all the time.
- It ends by itself, within a bounded time, unless it was asked to stay; the daemon ends with it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fleet.demo_daemon import Daemon
from fleet.demo_traffic import Traffic
from fleet.enrol.secrets import mosquitto_hash
from fleet.rehearsal import Cast, Rehearsal, Stage, rehearsal
from fleet.rollout.service import RolloutPage
from fleet.rollout.states import Phase
from fleet.settings import FleetSettings
from fleet.simulator.broker import EmbeddedBroker, free_port
from fleet.simulator.clock import FastClock
from fleet.simulator.mqtt import Lines
from fleet.simulator.tiny import GOLDEN_INPUT, publish_two
from fleet.simulator.world import NO_FLAWS, Bundle, Flaws, World, make_spec
from fleet.transport import MqttConnector

NAME: Final = "demo"
TENANT: Final = "demo"
DAEMON: Final = "daemon"
CONTROL: Final = "control"
LIMIT_S: Final = 180.0
REPORT_S: Final = 600.0
ASK_EVERY_S: Final = 0.2
PATIENCE_S: Final = 60.0
"""How long a real daemon may say nothing before it counts as silent, in real seconds."""

SHARES: Final = (0.2, 0.6, 1.0)
FLAWED_SHARES: Final = (0.6, 1.0)
"""One box that refuses proves nothing; three of three do."""

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
silent_after_min = {silent}

[probation]
length_s = 2
"""

Say = Callable[[str], None]


@dataclass(frozen=True)
class DemoOptions:
    """`boxes`: simulated ones. `speed`: simulated seconds in a real one. `daemon`: with a real one.

    `flawed`: the new bundle promises answers it does not give, so that every box refuses it.
    """

    directory: Path
    boxes: int = 5
    speed: float = 120.0
    flawed: bool = False
    daemon: bool = True
    seed: int = 1


@dataclass
class Demo:
    """A running demo: the fleet, the new release, the requests to the daemon if there is one."""

    fleet: Rehearsal
    new: Bundle
    traffic: Traffic | None = None

    async def rollout(self, say: Say) -> RolloutPage:
        """File the plan, approve it, tell how it goes until it ends. Raises `EdgeError`."""
        shares = FLAWED_SHARES if self.new.flaws != NO_FLAWS else SHARES
        silent_min = max(45.0, self.fleet.clock.factor * PATIENCE_S / 60)
        plan = PLAN.format(
            name=NAME, digest=self.new.digest, shares=list(shares), silent=silent_min
        )
        return await self.fleet.rollout(plan, "demo", _Progress(say).look, LIMIT_S)

    async def summary(self, say: Say) -> None:
        """What serves now, and what became of the daemon's requests."""
        for principal, version in (await self.fleet.versions(NAME)).items():
            say(f"{principal} serves {version}")
        taken = self.fleet.host.ingest.stats.counts
        say(f"{taken['rows']} rows of telemetry and {taken['reports']} reports were taken in")
        if self.traffic is not None:
            tally = self.traffic.tally
            by = ", ".join(f"{count} by {name}" for name, count in tally.answered_by.items())
            say(
                f"the daemon was asked {tally.requests} times meanwhile: {by or 'no answer'}; "
                f"{tally.failed} failed"
            )


@contextlib.asynccontextmanager
async def opened(options: DemoOptions, say: Say) -> AsyncIterator[Demo]:
    """Publish, enrol, connect; the demo runs while inside. Raises `EdgeError`."""
    clock, directory = FastClock(options.speed), options.directory
    flaws = Flaws(refused_share=1.0) if options.flawed else NO_FLAWS
    old, new = await asyncio.to_thread(publish_two, directory, NAME, flaws)
    say(f"published {NAME} {old.version} and {new.version}, signed with keys made for this demo")
    daemons = []
    if options.daemon:
        bundle = directory / "build-1"
        daemons.append(Daemon(DAEMON, directory / DAEMON, free_port(), (bundle,)))
        say("starting a real daemon; it installs the bundle and enrols")
    cast = Cast(
        TENANT,
        [
            make_spec(TENANT, number, model=NAME, serves=old.digest, report_every_s=REPORT_S)
            for number in range(options.boxes)
        ],
        World.of(old, new, seed=options.seed),
        daemons,
        options.seed,
    )
    password = "demo-control"  # noqa: S105 - loopback, and gone with the process
    async with contextlib.AsyncExitStack() as stack:
        broker = await stack.enter_async_context(
            EmbeddedBroker.opened(CONTROL, mosquitto_hash(password))
        )
        connector = MqttConnector("127.0.0.1", broker.port, CONTROL, password, version="3.1.1")
        lines = Lines("127.0.0.1", broker.port, version="3.1.1")
        settings = _settings(directory, broker.port)
        stage = Stage(settings, clock, lines, connector, broker)
        fleet = await stack.enter_async_context(rehearsal(stage, cast))
        await fleet.heard_from_all(LIMIT_S)
        say(
            f"enrolled {options.boxes + len(daemons)} boxes, each with a claim and a key of its own"
        )
        say(f"connected to the broker on port {broker.port}; time runs {clock.factor:g}-fold")
        demo = Demo(fleet, new)
        for daemon in daemons:
            body = {"model": NAME, "input": GOLDEN_INPUT}
            demo.traffic = Traffic(daemon.url, "/v1/embeddings", (body,), ASK_EVERY_S)
            fleet.beside(demo.traffic.run())
            say(f"the daemon answers at {daemon.url}; asked {1 / ASK_EVERY_S:g} times a second")
        yield demo


async def run_demo(
    options: DemoOptions, say: Say, *, stay: Callable[[str], None] | None = None
) -> Phase:
    """The whole demo; the phase the rollout ended in. `stay` hears that it goes on for ever."""
    async with opened(options, say) as demo:
        say(f"the console is at {demo.fleet.url} ; its token is {await demo.fleet.viewer('demo')}")
        page = await demo.rollout(say)
        await demo.summary(say)
        if stay is not None:
            stay("it goes on, for you to look at the console; Ctrl-C ends it")
            while True:
                await demo.fleet.wait(3600.0)
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


def _settings(directory: Path, broker_port: int) -> FleetSettings:
    api_port = free_port()
    return FleetSettings.model_validate(
        {
            "state": {"dir": directory / "state"},
            "database": {"url": f"sqlite:///{directory / 'fleet.db'}"},
            "api": {"port": api_port, "public_url": f"http://127.0.0.1:{api_port}"},
            "broker": {
                "port": broker_port, "public_port": broker_port, "user": CONTROL, "mqtt": "3.1.1",
            },
            "publish": {
                "repository": directory / "repository",
                "keys": [directory / "keys" / "online"],
            },
            "ingest": {"commit_wait_ms": 50},
        }
    )  # fmt: skip

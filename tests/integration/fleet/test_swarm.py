"""Simulated boxes at a real mosquitto: they connect, are heard, and come back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge_runtime.agent.protocol import (
    SHARDS,
    BoxState,
    Channel,
    Have,
    ItemKind,
    ProbationRules,
    Want,
    WantItem,
    topic,
)
from edge_runtime.bundle.envelope import trust
from fleet.enrol.secrets import mosquitto_hash
from fleet.link import Link
from fleet.simulator.box import SimBox
from fleet.simulator.clock import FastClock
from fleet.simulator.faults import NO_FAULTS, Fault
from fleet.simulator.mqtt import Lines
from fleet.simulator.swarm import Swarm
from fleet.simulator.world import World, make_spec, simulated_bundle
from fleet.transport import MqttConnector
from tests.support.mosquitto import CONTROL, CONTROL_PASSWORD, RunningBroker, running_mosquitto

KEY = Ed25519PrivateKey.generate()
OLD, NEW = simulated_bundle("assistant", 1), simulated_bundle("assistant", 2)
COUNT = 4
LIMIT_S = 60.0


@contextlib.asynccontextmanager
async def alive(broker: RunningBroker) -> AsyncIterator[tuple[Link, Swarm, FastClock]]:
    clock, world = FastClock(600.0), World.of(OLD, NEW)
    boxes = [
        SimBox(replace(make_spec("acme", number), serves=OLD.digest), world, NO_FAULTS,
               trust([KEY.public_key()]), seed=1, now_s=clock.now_s())
        for number in range(COUNT)
    ]  # fmt: skip
    passwords: dict[str, str | None] = {
        box.spec.principal: f"password-{number}" for number, box in enumerate(boxes)
    }
    await broker.files.update(
        {name: mosquitto_hash(word or "") for name, word in passwords.items()}
    )
    connector = MqttConnector("127.0.0.1", broker.port, CONTROL, CONTROL_PASSWORD)
    link = Link(connector, range(SHARDS), clock.now_s)
    swarm = Swarm(boxes, passwords, Lines("127.0.0.1", broker.port), clock)
    tasks = [asyncio.create_task(link.run()), asyncio.create_task(swarm.run())]
    try:
        yield link, swarm, clock
    finally:
        for task in reversed(tasks):
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def heard(link: Link, wanted: Any) -> None:
    """Take messages until `wanted` has held for one of every box."""
    boxes: set[str] = set()
    async with asyncio.timeout(LIMIT_S):
        while len(boxes) < COUNT:
            message = await link.inbox.get()
            principal, channel = message.topic.split("/")[3:5]
            if channel == Channel.HAVE and wanted(Have.from_bytes(message.payload)):
                boxes.add(principal)


async def test_wants_reach_boxes_and_their_reports_come_back() -> None:
    with running_mosquitto() as broker:
        async with alive(broker) as (link, swarm, clock):
            await heard(link, lambda have: have.reason == "connected")
            for box in swarm.boxes:
                principal = box.spec.principal
                item = WantItem(
                    kind=ItemKind.BUNDLE, name="assistant", generation=1, rollout="r-1",
                    digest=NEW.digest, release=2, release_floor=1, bytes_full=1000,
                    probation=ProbationRules(length_s=60),
                )  # fmt: skip
                want = Want(
                    principal=principal, generation=1, issued_s=int(clock.now_s()), items=(item,)
                )
                await link.publish(
                    topic(principal, Channel.WANT), want.sealed([KEY]), qos=1, retain=True
                )
            await heard(link, lambda have: have.items[0].state is BoxState.CONFIRMED)
            assert {box.reports()[0].active for box in swarm.boxes} == {NEW.digest}
            assert swarm.lines.foreign == 0


async def test_a_box_whose_power_goes_leaves_its_will_and_comes_back_under_a_new_boot() -> None:
    with running_mosquitto() as broker:
        async with alive(broker) as (link, swarm, _):
            await heard(link, lambda have: have.reason == "connected")
            boots = {box.spec.principal: box.boot for box in swarm.boxes}
            for box in swarm.boxes:
                box._suffer(Fault.POWER_CUT)
            await heard(link, lambda have: have.boot != boots[have.principal])
            assert swarm.counts["disconnects"] == COUNT
            assert {box.stored.connection for box in swarm.boxes} == {2}

"""The broker of `fleet_rollout`: mosquitto, or the demo's where mosquitto cannot be had."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.fleet_scale import Broker
from fleet.enrol.broker import Credentials
from fleet.enrol.secrets import RootSecret, mosquitto_hash
from fleet.simulator.broker import EmbeddedBroker
from fleet.simulator.mqtt import Lines
from fleet.transport import MqttConnector

CONTROL: Final = "control"
UNAVAILABLE: Final = 77
"""Exit status of `scripts/test-services` where a program cannot be had."""


@dataclass(frozen=True)
class BrokerOf:
    """How to reach it. `settings` are those of the control host's section `broker`."""

    name: str
    lines: Lines
    settings: dict[str, Any] = field(default_factory=dict)
    connector: MqttConnector | None = None
    credentials: Credentials | None = None


@contextlib.asynccontextmanager
async def broker(work: Path) -> AsyncIterator[BrokerOf]:
    """Run one while inside; its files lie in `work`."""
    password = RootSecret.load(work / "state" / "root-secret").derive("control", CONTROL)
    try:
        found = Broker(work, mosquitto_hash(password))
    except SystemExit as error:
        if error.code != UNAVAILABLE:
            raise
        async with _embedded(password) as other:
            yield other
        return
    places = found.places
    try:
        yield BrokerOf(
            "mosquitto",
            Lines("127.0.0.1", found.port),
            {
                "port": found.port, "public_port": found.port,
                "passwords_file": str(places.passwords), "acl_file": str(places.acl),
                "pid_file": str(places.pid),
            },
        )  # fmt: skip
    finally:
        found.kill()


@contextlib.asynccontextmanager
async def _embedded(password: str) -> AsyncIterator[BrokerOf]:
    async with EmbeddedBroker.opened(CONTROL, mosquitto_hash(password)) as inside:
        port = inside.port
        yield BrokerOf(
            "amqtt",
            Lines("127.0.0.1", port, version="3.1.1"),
            {"port": port, "public_port": port, "mqtt": "3.1.1"},
            MqttConnector("127.0.0.1", port, CONTROL, password, version="3.1.1"),
            inside,
        )

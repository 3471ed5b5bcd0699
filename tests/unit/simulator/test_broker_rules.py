"""Who may do what at the demo's broker: the same as at mosquitto."""

from __future__ import annotations

import pytest
from amqtt.contexts import Action

from edge_runtime.agent.protocol import Channel, topic
from fleet.enrol.secrets import mosquitto_hash
from fleet.simulator.broker import EmbeddedBroker

MINE, OTHER = "acme~box-1", "acme~box-2"


@pytest.fixture
def broker() -> EmbeddedBroker:
    return EmbeddedBroker("control", mosquitto_hash("control-password"))


async def test_only_those_it_was_told_of_are_let_in(broker: EmbeddedBroker) -> None:
    await broker.update({MINE: mosquitto_hash("right-password")})
    assert broker.lets_in(MINE, "right-password")
    assert broker.lets_in("control", "control-password")
    assert not broker.lets_in(MINE, "wrong-password")
    assert not broker.lets_in(OTHER, "right-password")
    await broker.update({})
    assert not broker.lets_in(MINE, "right-password")


@pytest.mark.parametrize("action", [Action.SUBSCRIBE, Action.RECEIVE])
def test_a_box_reads_its_own_topics_only(broker: EmbeddedBroker, action: Action) -> None:
    assert broker.allows(MINE, topic(MINE, Channel.WANT), action)
    assert not broker.allows(MINE, topic(OTHER, Channel.WANT), action)
    assert not broker.allows(MINE, topic(MINE, Channel.HAVE), action)
    assert not broker.allows(MINE, "fl/1/+/+/want", action)
    assert not broker.allows(MINE, "#", action)


def test_a_box_writes_its_own_topics_only(broker: EmbeddedBroker) -> None:
    assert broker.allows(MINE, topic(MINE, Channel.HAVE), Action.PUBLISH)
    assert broker.allows(MINE, topic(MINE, Channel.TELEMETRY, "serve"), Action.PUBLISH)
    assert not broker.allows(MINE, topic(OTHER, Channel.HAVE), Action.PUBLISH)
    assert not broker.allows(MINE, topic(MINE, Channel.WANT), Action.PUBLISH)


def test_the_control_host_reads_and_writes_the_fleet_and_nothing_else(
    broker: EmbeddedBroker,
) -> None:
    assert broker.allows("control", "fl/1/+/+/have", Action.SUBSCRIBE)
    assert broker.allows("control", topic(MINE, Channel.WANT), Action.PUBLISH)
    assert not broker.allows("control", "$SYS/#", Action.SUBSCRIBE)

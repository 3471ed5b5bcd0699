"""The link over a broker that speaks MQTT 3.1.1 only: the one inside `edge-fleet demo`."""

from __future__ import annotations

import asyncio

import pytest

from edge_runtime.agent.link import Session, Will
from edge_runtime.agent.protocol import BrokerAccess, Channel, box_filters, topic
from edge_runtime.agent.transport import MqttTransport
from edge_runtime.errors import TransportError
from fleet.enrol.secrets import mosquitto_hash
from fleet.simulator.broker import EmbeddedBroker
from fleet.transport import MqttConnector

BOX, OTHER, PASSWORD, SOON_S = "acme~box-1", "acme~box-2", "the-password-of-box-1", 20.0
WILL = Will(topic(BOX, Channel.LINK), b"{}")


def transport(broker: EmbeddedBroker) -> MqttTransport:
    access = BrokerAccess(
        host="127.0.0.1", port=broker.port, tls=False, password=PASSWORD, mqtt="3.1.1"
    )
    return MqttTransport(BOX, access)


async def heard(session: Session) -> tuple[str, bytes]:
    async with asyncio.timeout(SOON_S):
        async for message in session.messages():
            return message
    raise AssertionError("the session ended")


async def test_messages_go_both_ways() -> None:
    async with EmbeddedBroker.opened("control", mosquitto_hash("control-password")) as broker:
        await broker.update({BOX: mosquitto_hash(PASSWORD)})
        connector = MqttConnector(
            "127.0.0.1", broker.port, "control", "control-password", version="3.1.1"
        )
        async with connector.connect() as control, transport(broker).connect(WILL) as box:
            await control.subscribe([(topic(BOX, Channel.HAVE), 1)])
            await box.subscribe(box_filters(BOX))
            want = topic(BOX, Channel.WANT)
            await control.publish(want, b"wanted", qos=1, retain=True, expires_s=None)
            assert await heard(box) == (want, b"wanted")
            await box.publish(topic(BOX, Channel.HAVE), b"{}", qos=1, retain=False)
            async with asyncio.timeout(SOON_S):
                message = await anext(aiter(control.messages()))
            assert tuple(message) == (topic(BOX, Channel.HAVE), b"{}")


async def test_a_topic_of_another_box_is_refused_in_words() -> None:
    async with EmbeddedBroker.opened("control", mosquitto_hash("control-password")) as broker:
        await broker.update({BOX: mosquitto_hash(PASSWORD)})
        async with transport(broker).connect(WILL) as box:
            with pytest.raises(TransportError, match="does not let this box read"):
                await box.subscribe(((topic(OTHER, Channel.WANT), 1),))

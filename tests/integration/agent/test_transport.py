"""The link over a real broker: MQTT 5 as the box speaks it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

import aiomqtt
import pytest

from edge_runtime.agent.link import Link, LinkEvent, Message
from edge_runtime.agent.protocol import BrokerAccess, Channel, topic
from edge_runtime.agent.protocol import Link as LinkDocument
from edge_runtime.agent.transport import MqttTransport
from edge_runtime.errors import TransportError
from fleet.enrol.secrets import mosquitto_hash
from tests.support.mosquitto import CONTROL, CONTROL_PASSWORD, RunningBroker, running_mosquitto

BOX, SOON_S = "acme~box-1", 20.0
PASSWORD = "the-password-of-box-1"


@pytest.fixture(scope="module")
def broker() -> Iterator[RunningBroker]:
    with running_mosquitto() as running:
        yield running


@contextlib.asynccontextmanager
async def control(broker: RunningBroker) -> AsyncIterator[aiomqtt.Client]:
    async with aiomqtt.Client(
        "127.0.0.1",
        broker.port,
        username=CONTROL,
        password=CONTROL_PASSWORD,
        protocol=aiomqtt.ProtocolVersion.V5,
    ) as client:
        yield client


def transport(broker: RunningBroker, password: str = PASSWORD) -> MqttTransport:
    access = BrokerAccess(host="127.0.0.1", port=broker.port, tls=False, password=password)
    return MqttTransport(BOX, access)


@contextlib.asynccontextmanager
async def linked(broker: RunningBroker) -> AsyncIterator[Link]:
    await broker.files.update({BOX: mosquitto_hash(PASSWORD)})
    numbers = iter(range(1, 1000))

    async def next_connection() -> int:
        return next(numbers)

    link = Link(BOX, "b-1", transport(broker), next_connection, draw=lambda: 0.05)
    running = asyncio.ensure_future(link.run())
    try:
        yield link
    finally:
        await link.close()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def next_event(link: Link) -> Message | LinkEvent:
    async with asyncio.timeout(SOON_S):
        return await link.inbox.get()


async def until(link: Link, event: LinkEvent) -> None:
    while await next_event(link) is not event:
        pass


async def test_messages_go_both_ways_and_retained_wants_come_at_each_connect(
    broker: RunningBroker,
) -> None:
    async with control(broker) as client, linked(broker) as link:
        await client.publish(topic(BOX, Channel.WANT), b"wanted", qos=1, retain=True)
        await client.subscribe(topic(BOX, Channel.HAVE), qos=1)
        await until(link, LinkEvent.UP)
        assert await next_event(link) == Message(Channel.WANT, b"wanted")
        await link.publish(Channel.HAVE, b"{}")
        async with asyncio.timeout(SOON_S):
            message = await anext(aiter(client.messages))
        assert (message.topic.value, message.payload) == (topic(BOX, Channel.HAVE), b"{}")
        await client.publish(topic(BOX, Channel.DO), b"order", qos=1)
        assert await next_event(link) == Message(Channel.DO, b"order")


async def test_a_session_that_is_taken_over_is_made_again_with_a_higher_number(
    broker: RunningBroker,
) -> None:
    async with linked(broker) as link:
        await until(link, LinkEvent.UP)
        # The same client id from elsewhere: the broker ends our connection.
        async with aiomqtt.Client(
            "127.0.0.1", broker.port, username=BOX, password=PASSWORD, identifier=BOX,
            protocol=aiomqtt.ProtocolVersion.V5,
        ):  # fmt: skip
            await until(link, LinkEvent.DOWN)
        await until(link, LinkEvent.UP)
        assert link.connection > 1


async def test_link_says_up_and_down_and_is_retained(broker: RunningBroker) -> None:
    async with linked(broker) as link:
        await until(link, LinkEvent.UP)
        number = link.connection
    async with control(broker) as client:
        await client.subscribe(topic(BOX, Channel.LINK), qos=1)
        async with asyncio.timeout(SOON_S):
            message = await anext(aiter(client.messages))
    assert isinstance(message.payload, bytes)
    told = LinkDocument.from_bytes(message.payload)
    assert (told.up, told.connection, message.retain) == (False, number, True)


async def test_what_is_published_without_a_connection_is_the_callers(
    broker: RunningBroker,
) -> None:
    async with linked(broker) as link:
        with pytest.raises(TransportError, match="no connection"):
            await link.publish(Channel.HAVE, b"{}")


async def test_a_wrong_password_is_refused_in_words(broker: RunningBroker) -> None:
    from edge_runtime.agent.link import Will

    will = Will(topic(BOX, Channel.LINK), b"{}")
    with pytest.raises(TransportError, match=r"(?i)not auth|refused"):
        async with transport(broker, "some-other-password").connect(will):
            pytest.fail("it was let in")

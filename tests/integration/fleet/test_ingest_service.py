"""Link and ingest together, over the in-memory broker and over a real mosquitto."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge_runtime.agent.protocol import (
    SHARDS,
    Ack,
    Channel,
    Do,
    LogChunk,
    shard_filters,
    shard_of,
    topic,
)
from edge_runtime.bundle.envelope import trust
from edge_runtime.errors import CapacityError, TransportError, UsageError
from fleet.boxline import BoxLine
from fleet.db.database import Database
from fleet.enrol.secrets import mosquitto_hash
from fleet.ingest.queries import fleet_sums
from fleet.ingest.rows import Keep
from fleet.ingest.service import Ingest, IngestRules
from fleet.link import FIRST_WAIT_S, LONGEST_WAIT_S, Link, filters_of
from fleet.memory import MemoryBroker
from fleet.registry import boxes, wants
from fleet.transport import MqttConnector
from tests.support.fleet import LIMITS, NOW_S, have
from tests.support.mosquitto import CONTROL, CONTROL_PASSWORD, running_mosquitto
from tests.support.telemetry import batch, row

ONE = "acme~box-1"
RULES = IngestRules(100, 0.01, Keep(1e9, 1e9, 1e9))
KEY = Ed25519PrivateKey.from_private_bytes(b"o" * 32)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with Database.opened(f"sqlite:///{tmp_path}/fleet.db") as opened:
        await opened.write(lambda c: boxes.add(c, ONE, {}, now_s=NOW_S))
        yield opened


@asynccontextmanager
async def running(*tasks: Any) -> AsyncIterator[None]:
    started = [asyncio.create_task(task) for task in tasks]
    try:
        async with asyncio.timeout(60):
            yield
    finally:
        for task in started:
            task.cancel()
        await asyncio.gather(*started, return_exceptions=True)


def made(database: Database, broker: MemoryBroker, **options: Any) -> tuple[Link, Ingest]:
    async def no_wait(_seconds: float) -> None:
        await asyncio.sleep(0)

    link = Link(broker.connector(), range(SHARDS), lambda: NOW_S, **{"wait": no_wait, **options})
    return link, Ingest(database, link, RULES, lambda: NOW_S)


async def test_telemetry_is_acknowledged_once_it_is_stored(database: Database) -> None:
    broker = MemoryBroker()
    link, ingest = made(database, broker)
    async with running(link.run(), ingest.run()):
        message = batch(ONE, row(1), row(2))
        assert broker.say(ONE, message.topic, message.payload)
        (sent,) = await broker.wait_for(1)
    assert (sent.topic, sent.qos, sent.retain) == (topic(ONE, Channel.ACK), 0, False)
    assert Ack.from_bytes(sent.payload).mark("boot-a", "serve") == 2
    stored = await database.read(lambda c: fleet_sums(c, since_s=0))
    assert stored.total("edge_decisions_total") == 20


async def test_a_failed_commit_is_not_acknowledged(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = MemoryBroker()
    _, ingest = made(database, broker)
    message = batch(ONE, row(1))

    async def full(_work: object) -> None:
        raise CapacityError("disk full", retry_after_s=1.0)

    with monkeypatch.context() as patched:
        patched.setattr(database, "write", full)
        await ingest.take([message])
    assert (ingest.stats.counts["failed_commits"], broker.sent) == (1, [])
    stored = await ingest.take([message])
    assert stored.counts["rows"] == 1


async def test_bad_messages_do_not_stop_good_ones(database: Database) -> None:
    broker = MemoryBroker()
    _, ingest = made(database, broker)
    good, stranger = batch(ONE, row(1)), batch("acme~stranger", row(1))
    spoofed = type(good)(topic(ONE, Channel.HAVE), have("acme~box-2").to_bytes(), NOW_S)
    broken = type(good)(good.topic, good.payload[:-5], NOW_S)
    stored = await ingest.take([broken, spoofed, stranger, good])
    assert stored.counts["rows"] == 1
    assert ingest.stats.dropped() == {"unreadable": 1, "spoofed": 1, "unknown_box": 1}


async def test_a_lost_connection_is_made_again(database: Database) -> None:
    broker = MemoryBroker()
    link, ingest = made(database, broker)
    reached = asyncio.Event()

    async def told() -> None:
        if link.connections == 2:
            reached.set()

    link.on_connect.append(told)
    async with running(link.run(), ingest.run()):
        broker.cut()
        await reached.wait()
        message = batch(ONE, row(1))
        broker.say(ONE, message.topic, message.payload)
        await broker.wait_for(1)
    assert not link.connected
    with pytest.raises(TransportError, match="away"):
        await link.publish("x", b"", qos=0)


async def test_waits_between_tries_grow_to_a_minute_and_are_drawn_at_random(
    database: Database,
) -> None:
    broker, waits = MemoryBroker(), list[float]()
    broker.refuse = True
    enough = asyncio.Event()

    async def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 200:
            enough.set()
        await asyncio.sleep(0)

    link, _ = made(database, broker, wait=wait, rng=random.Random(3))
    async with running(link.run()):
        await enough.wait()
    assert waits[0] <= FIRST_WAIT_S
    assert max(waits) <= LONGEST_WAIT_S
    assert max(waits) > 0.9 * LONGEST_WAIT_S
    assert min(waits[20:]) < 0.1 * LONGEST_WAIT_S


def test_filters_cover_the_shards_and_nothing_retained_is_needed() -> None:
    assert [name for name, _ in filters_of(range(SHARDS))] == [
        "fl/1/+/+/have",
        "fl/1/+/+/link",
        "fl/1/+/+/t/+",
        "fl/1/+/+/log",
    ]
    assert tuple(name for name, _ in filters_of([5])) == shard_filters(5)


async def test_what_was_not_stored_by_boxes_is_said_again(database: Database) -> None:
    broker = MemoryBroker()
    link, _ = made(database, broker)
    line = BoxLine(link, database, [KEY], lambda: NOW_S)
    link.on_connect.append(line.say_again)
    await database.write(
        lambda c: wants.next_want(c, ONE, lambda _: b"want", rollout=None, now_s=NOW_S)
    )
    async with running(link.run()):
        await broker.wait_for(1)
        assert broker.retained == {topic(ONE, Channel.WANT): b"want"}
        await line.forget(ONE)
    assert broker.retained == {}


async def test_orders_are_signed_and_expire(database: Database) -> None:
    broker = MemoryBroker()
    link, _ = made(database, broker)
    line = BoxLine(link, database, [KEY], lambda: NOW_S)
    connected = asyncio.Event()

    async def told() -> None:
        connected.set()

    link.on_connect.append(told)
    async with running(link.run()):
        await connected.wait()
        order = await line.order(ONE, "log")
    (sent,) = broker.sent
    do = Do.opened(sent.payload, trust([KEY.public_key()]))
    assert (do.id, do.order, do.principal, sent.expires_s) == (order, "log", ONE, 120)
    line.logs.add("acme~box-2", LogChunk(order=order, part=0, last=True, lines=("forged",)))
    line.logs.add(ONE, LogChunk(order=order, part=1, last=True, lines=("two",)))
    assert line.logs.read(order, ONE) == (["two"], False)
    line.logs.add(ONE, LogChunk(order=order, part=0, last=False, lines=("one",)))
    assert line.logs.read(order, ONE) == (["one", "two"], True)
    with pytest.raises(UsageError, match="no such log"):
        line.logs.read(order, "acme~box-2")


def test_the_broker_twin_has_the_acl() -> None:
    broker = MemoryBroker()
    assert not broker.say("acme~box-2", topic(ONE, Channel.HAVE), b"")
    assert not broker.say(ONE, topic(ONE, Channel.WANT), b"")
    wrong_shard = topic(ONE, Channel.HAVE).replace(f"/{shard_of(ONE)}/", "/99/")
    assert not broker.say(ONE, wrong_shard, b"")
    assert broker.say(ONE, topic(ONE, Channel.HAVE), b"")


async def test_all_of_it_over_a_real_broker(database: Database) -> None:
    with running_mosquitto() as broker:
        await broker.files.update({ONE: mosquitto_hash("secret")})
        link = Link(
            MqttConnector("127.0.0.1", broker.port, CONTROL, CONTROL_PASSWORD),
            range(SHARDS),
            lambda: NOW_S,
        )
        ingest = Ingest(database, link, RULES, lambda: NOW_S)
        box = MqttConnector("127.0.0.1", broker.port, ONE, "secret")
        connected = asyncio.Event()

        async def told() -> None:
            connected.set()

        link.on_connect.append(told)
        async with running(link.run(), ingest.run()):
            await connected.wait()
            async with _patiently(box) as session:
                await session.subscribe([(topic(ONE, Channel.ACK), 0)])
                report = have(ONE).to_bytes()
                await session.publish(
                    topic(ONE, Channel.HAVE), report, qos=1, retain=False, expires_s=None
                )
                message = batch(ONE, row(1), row(2))
                await session.publish(
                    message.topic, message.payload, qos=1, retain=False, expires_s=60
                )
                async for name, payload in session.messages():
                    assert name == topic(ONE, Channel.ACK)
                    assert Ack.from_bytes(payload).mark("boot-a", "serve") == 2
                    break
    found = await database.read(lambda c: boxes.get(c, ONE, now_s=NOW_S, limits=LIMITS))
    assert found.reported is not None


@asynccontextmanager
async def _patiently(connector: MqttConnector) -> AsyncIterator[Any]:
    """The broker reads its users a moment after it was told to."""
    while True:
        try:
            async with connector.connect() as session:
                yield session
                return
        except TransportError:
            continue

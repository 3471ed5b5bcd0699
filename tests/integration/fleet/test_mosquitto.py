"""Our files against a real mosquitto: who gets in, and who may speak where."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiomqtt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge_runtime.agent.protocol import Channel, topic
from edge_runtime.bundle.envelope import private_pem
from fleet.db.database import Database
from fleet.enrol.ca import open_authority
from fleet.enrol.mosquitto import Tls
from fleet.enrol.secrets import mosquitto_hash, mosquitto_verify
from fleet.enrol.service import EnrolmentService, EnrolRules
from fleet.registry.audit import SYSTEM
from tests.support.enrol import AskingBox, csr, enrolment_service, new_claim
from tests.support.mosquitto import CONTROL, CONTROL_PASSWORD, RunningBroker, running_mosquitto
from tests.support.services import SCRIPT, UNAVAILABLE, free_port

MINE, OTHER = "acme~box-1", "acme~box-2"
PASSWORD = "box-password"
WAIT_S = 20.0


@pytest.fixture(scope="module")
def broker() -> Iterator[RunningBroker]:
    with running_mosquitto() as running:
        yield running


@contextlib.asynccontextmanager
async def connected(
    port: int, user: str, password: str | None, **options: Any
) -> AsyncIterator[aiomqtt.Client]:
    async with aiomqtt.Client(
        "127.0.0.1", port, username=user, password=password, identifier=user,
        protocol=aiomqtt.ProtocolVersion.V5, **{"timeout": WAIT_S, **options},
    ) as client:  # fmt: skip
        yield client


async def let_in(broker: RunningBroker, *users: str) -> None:
    await broker.files.update({user: mosquitto_hash(PASSWORD) for user in users})
    # The signal is handled when the broker next looks up; until then it refuses the new user.
    async with asyncio.timeout(WAIT_S):
        while True:
            with contextlib.suppress(aiomqtt.MqttError):
                async with connected(broker.port, users[-1], PASSWORD):
                    return


async def next_message(client: aiomqtt.Client) -> tuple[str, Any]:
    async with asyncio.timeout(WAIT_S):
        async for message in client.messages:
            return str(message.topic), message.payload
    raise AssertionError("the broker hung up")


def test_our_hashes_are_mosquittos(tmp_path: Path) -> None:
    file = tmp_path / "passwords"
    command = [sys.executable, SCRIPT, "passwd", file, "box", PASSWORD]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode == UNAVAILABLE:
        pytest.skip(f"TEST WITH MOSQUITTO NOT RUN: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    user, _, stored = file.read_text().strip().partition(":")
    assert user == "box"
    assert mosquitto_verify(PASSWORD, stored)
    assert not mosquitto_verify(PASSWORD + "x", stored)
    # Field by field the same form.
    ours = mosquitto_hash(PASSWORD).split("$")
    assert [len(part) for part in ours] == [len(part) for part in stored.split("$")]


async def test_users_come_and_go_with_the_file(broker: RunningBroker) -> None:
    await let_in(broker, MINE)
    with pytest.raises(aiomqtt.MqttError, match=r"(?i)not authori"):
        async with connected(broker.port, MINE, PASSWORD + "x"):
            pass
    with pytest.raises(aiomqtt.MqttError, match=r"(?i)not authori"):
        async with connected(broker.port, OTHER, PASSWORD):
            pass
    await let_in(broker, OTHER)  # and the first one is gone
    with pytest.raises(aiomqtt.MqttError, match=r"(?i)not authori"):
        async with connected(broker.port, MINE, PASSWORD):
            pass


async def test_a_box_speaks_under_its_own_name_only(broker: RunningBroker) -> None:
    await let_in(broker, MINE)
    async with (
        connected(broker.port, CONTROL, CONTROL_PASSWORD) as control,
        connected(broker.port, MINE, PASSWORD) as box,
    ):
        await control.subscribe("fl/1/#", qos=1)
        refused = [
            topic(OTHER, Channel.HAVE),
            topic(OTHER, Channel.TELEMETRY, "main"),
            topic(MINE, Channel.WANT),
            topic(MINE, Channel.DO),
            topic(MINE, Channel.ACK),
            topic(MINE, Channel.HAVE) + "/more",
            "fl/1/0/+/have".replace("+", OTHER),
            "elsewhere",
            "$SYS/broker/version",
        ]
        allowed = [
            topic(MINE, Channel.HAVE),
            topic(MINE, Channel.LINK),
            topic(MINE, Channel.TELEMETRY, "main"),
            topic(MINE, Channel.LOG),
        ]
        for name in (*refused, *allowed):
            with contextlib.suppress(aiomqtt.MqttError):  # version 5 says so, or just drops it
                await box.publish(name, b"x", qos=1)
        heard = [(await next_message(control))[0] for _ in allowed]
        assert heard == allowed


async def test_a_box_hears_its_own_topics_only(broker: RunningBroker) -> None:
    await let_in(broker, MINE)
    async with (
        connected(broker.port, CONTROL, CONTROL_PASSWORD) as control,
        connected(broker.port, MINE, PASSWORD) as box,
    ):
        wide = (
            "#",
            "fl/1/#",
            "fl/1/+/+/want",
            topic(OTHER, Channel.WANT),
            topic(MINE, Channel.HAVE),
        )
        for name in wide:
            with contextlib.suppress(aiomqtt.MqttError):
                await box.subscribe(name, qos=1)
        await box.subscribe(topic(MINE, Channel.DO), qos=1)
        await control.publish(topic(OTHER, Channel.WANT), b"secret", qos=1)
        await control.publish(topic(OTHER, Channel.DO), b"secret", qos=1)
        await control.publish(topic(MINE, Channel.DO), b"mine", qos=1)
        assert await next_message(box) == (topic(MINE, Channel.DO), b"mine")


async def test_an_oversized_message_is_not_passed_on(broker: RunningBroker) -> None:
    await let_in(broker, MINE)
    async with connected(broker.port, CONTROL, CONTROL_PASSWORD) as control:
        await control.subscribe("fl/1/+/+/have", qos=1)
        with contextlib.suppress(aiomqtt.MqttError):
            async with connected(broker.port, MINE, PASSWORD) as box:
                await box.publish(topic(MINE, Channel.HAVE), b"x" * 200_000, qos=1, timeout=1)
        async with connected(broker.port, MINE, PASSWORD) as box:
            await box.publish(topic(MINE, Channel.HAVE), b"small", qos=1)
        assert await next_message(control) == (topic(MINE, Channel.HAVE), b"small")


async def test_a_certificate_is_a_user_name(tmp_path: Path) -> None:
    authority = open_authority(tmp_path / "ca", now_s=_now())
    server, server_key = authority.for_server(["127.0.0.1"], now_s=_now(), days=2)
    key = Ed25519PrivateKey.generate()
    issued = authority.for_box(csr(key), key.public_key(), MINE, now_s=_now(), days=2)
    stranger = open_authority(tmp_path / "stranger", now_s=_now())
    foreign = stranger.for_box(csr(key), key.public_key(), MINE, now_s=_now(), days=2)
    files = {
        "ca.pem": authority.pem, "server.pem": server.pem, "server-key.pem": server_key,
        "box.pem": issued.pem, "foreign.pem": foreign.pem, "box-key.pem": private_pem(key).decode(),
    }  # fmt: skip
    _write(tmp_path, files)
    tls = Tls(
        tmp_path / "ca.pem", tmp_path / "server.pem", tmp_path / "server-key.pem",
        client_authority=True,
    )  # fmt: skip
    with running_mosquitto(tls) as broker:
        context = ssl.create_default_context(cafile=tmp_path / "ca.pem")
        context.load_cert_chain(tmp_path / "box.pem", tmp_path / "box-key.pem")
        async with connected(broker.port, "somebody-else", None, tls_context=context) as box:
            await box.subscribe(topic(MINE, Channel.WANT), qos=1)
        context = ssl.create_default_context(cafile=tmp_path / "ca.pem")
        context.load_cert_chain(tmp_path / "foreign.pem", tmp_path / "box-key.pem")
        with pytest.raises((aiomqtt.MqttError, ssl.SSLError, OSError)):
            async with connected(broker.port, MINE, None, tls_context=context, timeout=2) as box:
                await box.subscribe(topic(MINE, Channel.WANT), qos=1, timeout=1)


async def test_an_ended_certificate_is_refused_once_the_broker_was_told(tmp_path: Path) -> None:
    """Beside the plain listener, as `edge-fleet broker config` writes it."""
    async with Database.opened(f"sqlite:///{tmp_path}/fleet.db") as database:
        authority = open_authority(tmp_path / "ca", now_s=_now())
        server, server_key = authority.for_server(["127.0.0.1"], now_s=_now(), days=2)
        _write(tmp_path, {"server.pem": server.pem, "server-key.pem": server_key,
                          "crl.pem": authority.revocations([], now_s=_now())})  # fmt: skip
        port = free_port()
        tls = Tls(
            tmp_path / "ca" / "ca.pem", tmp_path / "server.pem", tmp_path / "server-key.pem",
            client_authority=True, revocations=tmp_path / "crl.pem", port=port,
        )  # fmt: skip
        with running_mosquitto(tls) as broker:
            service = enrolment_service(
                database, broker=broker.files, authority=authority, now=_now,
                rules=EnrolRules(mode="certificate", certificate_days=2),
            )  # fmt: skip
            contexts = {
                name: await _certified(service, tmp_path, name) for name in ("box-1", "box-2")
            }
            # The control host itself stays with its password, on the other listener.
            async with connected(broker.port, CONTROL, CONTROL_PASSWORD):
                pass
            for name, context in contexts.items():
                async with connected(port, f"acme~{name}", None, tls_context=context):
                    pass
            await service.revoke(MINE, actor=SYSTEM)
            async with asyncio.timeout(WAIT_S):  # the broker reads when it next looks up
                while await _gets_in(port, MINE, contexts["box-1"]):
                    pass
            assert await _gets_in(port, OTHER, contexts["box-2"])
            # A second start of the control host writes the same list again.
            await service.sync()
            assert not await _gets_in(port, MINE, contexts["box-1"])


async def _certified(service: EnrolmentService, folder: Path, name: str) -> ssl.SSLContext:
    """Enrol a box; how it connects."""
    box = AskingBox()
    secret = await new_claim(service.database, now_s=_now())
    answer = await service.enrol(box.request(secret, box=name))
    assert answer.grant is not None
    assert answer.grant.certificate_pem is not None
    _write(folder, {f"{name}.pem": answer.grant.certificate_pem,
                    f"{name}-key.pem": private_pem(box.key).decode()})  # fmt: skip
    context = ssl.create_default_context(cafile=folder / "ca" / "ca.pem")
    context.load_cert_chain(folder / f"{name}.pem", folder / f"{name}-key.pem")
    return context


async def _gets_in(port: int, principal: str, context: ssl.SSLContext) -> bool:
    try:
        async with connected(port, principal, None, tls_context=context, timeout=2) as box:
            await box.subscribe(topic(principal, Channel.WANT), qos=1, timeout=2)
    except (aiomqtt.MqttError, ssl.SSLError, OSError):
        return False
    return True


def _now() -> float:
    return time.time()


def _write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).write_text(text)

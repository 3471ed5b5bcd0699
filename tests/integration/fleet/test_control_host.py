"""The control host as one process: all its parts, over the in-memory broker."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge_runtime.agent.protocol import Ack, Channel, Do, EnrolAnswer, Link, topic
from edge_runtime.bundle.envelope import read_public_key, trust
from edge_runtime.errors import ConfigError
from fleet import wiring
from fleet.db.database import open_database
from fleet.enrol.broker import MosquittoFiles
from fleet.enrol.secrets import mosquitto_verify
from fleet.memory import MemoryBroker
from fleet.publish.repository import Repository
from fleet.registry import tokens
from fleet.registry.tokens import Role
from fleet.serve import serve
from fleet.settings import FleetSettings
from tests.support.control_host import initialise_in, settings_in
from tests.support.enrol import AskingBox
from tests.support.fleet import have
from tests.support.telemetry import batch, row

ONE = "acme~box-1"


def admin(settings: FleetSettings) -> dict[str, str]:
    database = open_database(settings.database.url)
    _, secret = database.write_now(
        lambda c: tokens.create(c, "admin", Role.ADMIN, now_s=time.time(), lives_s=None)
    )
    database.close()
    return {"authorization": f"Bearer {secret}"}


async def test_a_box_is_let_in_reports_and_is_put_out(tmp_path: Path) -> None:
    initialise_in(tmp_path)
    settings = settings_in(
        tmp_path,
        broker={"passwords_file": tmp_path / "passwords", "acl_file": tmp_path / "acl"},
    )
    broker, headers = MemoryBroker(), admin(settings)
    urls: asyncio.Queue[str] = asyncio.Queue()
    stop = asyncio.Event()
    running = asyncio.create_task(
        serve(
            settings,
            connector=broker.connector(),
            on_listening=urls.put_nowait,
            wait_for_stop=stop.wait,  # type: ignore[arg-type]
        )
    )
    try:
        async with asyncio.timeout(60), aiohttp.ClientSession() as session:
            url = await urls.get()
            await life_of_a_box(session, url, headers, broker, tmp_path)
    finally:
        stop.set()
        await running


async def life_of_a_box(
    session: aiohttp.ClientSession,
    url: str,
    headers: dict[str, str],
    broker: MemoryBroker,
    folder: Path,
) -> None:
    async def ask(method: str, path: str, **options: Any) -> Any:
        async with session.request(method, url + path, headers=headers, **options) as response:
            assert response.status < 300, await response.text()
            return await response.json()

    claim = await ask("POST", "/v1/claims", json={"tenant": "acme", "approve": True})
    asked = AskingBox().request(claim["secret"])
    answer = EnrolAnswer.model_validate(await ask("POST", "/v1/enrol", data=asked))
    grant = answer.grant
    assert grant is not None
    assert grant.tuf_root is not None
    assert '"_type"' in grant.tuf_root
    users = await asyncio.to_thread(users_in, folder / "passwords")
    assert set(users) == {"control", ONE}
    assert mosquitto_verify(grant.broker.password or "", users[ONE])

    for message in (
        (topic(ONE, Channel.LINK), Link(up=True, connection=1, boot="boot-a").to_bytes()),
        (topic(ONE, Channel.HAVE), have(ONE, clock_s=int(time.time())).to_bytes()),
    ):
        assert broker.say(ONE, *message)
    sent = batch(ONE, row(1))
    broker.say(ONE, sent.topic, sent.payload)
    (ack,) = await broker.wait_for(1)
    assert Ack.from_bytes(ack.payload).mark("boot-a", "serve") == 1
    box = await ask("GET", f"/v1/boxes/{ONE}")
    assert (box["health"], box["items"][0]["state"]) == ("online", "confirmed")

    await ask("POST", f"/v1/boxes/{ONE}/orders", json={"order": "report"})
    (_, order) = await broker.wait_for(2)
    keys = [read_public_key(pem.encode(), name="want key") for pem in grant.want_keys_pem]
    assert Do.opened(order.payload, trust(keys)).order == "report"

    async with session.get(f"{url}/v1/tuf/timestamp.json") as response:
        assert response.status == 200
    await ask("POST", f"/v1/boxes/{ONE}/revoke", json={})
    assert set(await asyncio.to_thread(users_in, folder / "passwords")) == {"control"}
    assert (await ask("GET", "/v1/summary"))["revoked"] == 1


def users_in(path: Path) -> dict[str, str]:
    return dict(line.split(":", 1) for line in path.read_text().splitlines())  # type: ignore[misc]


async def test_the_api_answers_while_the_broker_is_away(tmp_path: Path) -> None:
    initialise_in(tmp_path)
    settings = settings_in(tmp_path)
    broker, stop, urls = MemoryBroker(), asyncio.Event(), asyncio.Queue[str]()
    broker.refuse = True
    running = asyncio.create_task(
        serve(
            settings,
            connector=broker.connector(),
            on_listening=urls.put_nowait,
            wait_for_stop=stop.wait,  # type: ignore[arg-type]
        )
    )
    try:
        async with (
            asyncio.timeout(60),
            aiohttp.ClientSession() as session,
            session.get(f"{await urls.get()}/health") as response,
        ):
            assert response.status == 200
    finally:
        stop.set()
        await running


def test_without_keys_nothing_starts(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    with pytest.raises(ConfigError, match="edge-fleet keys init"):
        wiring.repository(settings)
    initialise_in(tmp_path)
    published = wiring.repository(settings)
    (tmp_path / "keys" / "online" / "orders.pem").unlink()
    with pytest.raises(ConfigError, match="orders key"):
        wiring.orders_keys(settings, published)


def test_the_password_of_the_control_host_can_be_given(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    secret = wiring.root_secret(settings)
    made = wiring.control_password(settings, secret)
    assert made == wiring.control_password(settings, wiring.root_secret(settings))
    (tmp_path / "secret").write_text("given\n")
    other = settings_in(tmp_path, broker={"secret_file": tmp_path / "secret"})
    assert wiring.control_password(other, secret) == "given"
    (tmp_path / "secret").write_text("\n")
    with pytest.raises(ConfigError, match="first line is empty"):
        wiring.control_password(other, secret)


def test_the_brokers_files_are_kept_only_where_they_are_named(tmp_path: Path) -> None:
    secret = wiring.root_secret(settings_in(tmp_path))
    assert isinstance(wiring.broker_credentials(settings_in(tmp_path), secret), wiring.UntoldBroker)
    named = settings_in(
        tmp_path, broker={"passwords_file": tmp_path / "p", "acl_file": tmp_path / "a"}
    )
    assert isinstance(wiring.broker_credentials(named, secret), MosquittoFiles)


def test_a_key_that_may_not_sign_orders_does_not(tmp_path: Path) -> None:
    initialise_in(tmp_path)
    keys = wiring.orders_keys(settings_in(tmp_path), Repository(tmp_path / "repository"))
    assert len(keys) == 1
    assert isinstance(keys[0], Ed25519PrivateKey)

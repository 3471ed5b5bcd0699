"""A daemon in a fleet: real models, real trust metadata and bytes over HTTP, a broker in memory."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge_runtime import __version__
from edge_runtime.agent.credential import CredentialStore, new_credential
from edge_runtime.agent.documents import LiveSettings
from edge_runtime.agent.memory import MemoryBroker
from edge_runtime.agent.open import open_agent
from edge_runtime.agent.protocol import (
    BoxState,
    Channel,
    FailureCode,
    Grant,
    Have,
    ItemKind,
    ItemReport,
    Want,
    WantItem,
    decode_batch,
    topic,
)
from edge_runtime.agent.run import Agent
from edge_runtime.bundle.envelope import public_pem
from edge_runtime.bundle.files import RealFiles
from edge_runtime.bundle.store import Store
from edge_runtime.config import Settings
from edge_runtime.host import Host, open_host
from edge_runtime.metrics import Metrics
from edge_runtime.router.open import open_routing
from fleet.blobs.api import blob_routes
from fleet.publish.initial import ORDERS_KEY, initialise
from fleet.publish.keys import read_key
from fleet.publish.publish import Publisher
from fleet.publish.repository import Repository
from tests.support.releases import Installer
from tests.support.served import build_encoder, change_manifest, install, make_settings

BOX, SOON_S = "acme~box-1", 60.0


@dataclass
class Fleet:
    """A repository that publishes versions 2 (good) and 3 (golden answer wrong) of a classifier."""

    root: Path
    repository: Repository
    publisher: Publisher
    settings: Settings
    orders: Ed25519PrivateKey
    first: str
    second: str
    third: str
    installer: Installer


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    root = tmp_path_factory.mktemp("fleet")
    installer = Installer.at(root / "installer", __version__)
    settings = Settings.model_validate(
        {
            **make_settings(root / "store", swap_grace_s=0.0).model_dump(),
            "agent": {
                "connect_spread_s": 0.0,
                "telemetry_interval_s": 1.0,
                "telemetry_send_s": 1.0,
                "labels": {"site": "lab"},
                "update_command": installer.command,
            },
        }
    )
    bundle = build_encoder(root, name="tiny", labels=("yes", "no"))
    change_manifest(bundle, version="1.0.0", release=1)
    install(settings, [bundle])
    with Store.open(settings.store.path) as store:
        first = store.active()["tiny"].bundle_digest
    now = datetime.now(UTC)
    repository = Repository(root / "repository")
    ring = initialise(repository, root / "keys", models=["tiny"], now=now)
    publisher = Publisher(repository, ring, now)
    change_manifest(bundle, version="2.0.0", release=2)
    second = publisher.bundle(bundle).digest
    golden = [{"input": "hello", "answer": "no"}, {"input": "hello", "answer": "yes"}]
    change_manifest(bundle, version="3.0.0", release=3, golden=golden)
    third = publisher.bundle(bundle).digest
    orders = read_key(root / "keys" / ORDERS_KEY, None)
    return Fleet(root, repository, publisher, settings, orders, first, second, third, installer)


@dataclass
class Running:
    fleet: Fleet
    host: Host
    agent: Agent
    broker: MemoryBroker
    url: str

    def want(self, generation: int, digest: str, release: int, **fields: Any) -> None:
        values: dict[str, Any] = {
            "kind": ItemKind.BUNDLE,
            "name": "tiny",
            "rollout": "r-1",
            "release_floor": 1,
            "bytes_full": 1000,
            "probation": {"length_s": 0},
        }
        item = WantItem(generation=generation, digest=digest, release=release, **(values | fields))
        want = Want(
            principal=BOX,
            generation=generation,
            issued_s=1_800_000_000,
            sources=(self.url,),
            items=(item,),
        )
        self.broker.publish(topic(BOX, Channel.WANT), want.sealed([self.fleet.orders]), retain=True)

    async def reported(self, generation: int, *states: BoxState) -> tuple[Have, ItemReport]:
        name = topic(BOX, Channel.HAVE)
        async with asyncio.timeout(SOON_S):
            while True:
                for sent in list(self.broker.sent):
                    if sent.topic == name:
                        have = Have.from_bytes(sent.payload)
                        for told in have.items:
                            if told.generation == generation and told.state in states:
                                return have, told
                self.broker.heard.clear()
                await self.broker.heard.wait()


@contextlib.asynccontextmanager
async def running(fleet: Fleet, live: LiveSettings | None = None) -> AsyncIterator[Running]:
    app = web.Application()
    app.add_routes(blob_routes(fleet.repository.root_path))
    async with TestServer(app) as server:
        url = str(server.make_url("")).rstrip("/")
        root = (fleet.repository.metadata_path / "1.root.json").read_text()
        grant = Grant.model_validate(
            {
                "principal": BOX,
                "broker": {"host": "127.0.0.1", "port": 1, "tls": False},
                "api": url,
                "sources": (url,),
                "metadata": f"{url}/v1/tuf",
                "want_keys_pem": (public_pem(fleet.orders.public_key()).decode(),),
                "tuf_root": root,
            }
        )
        directory = fleet.settings.agent.directory(fleet.settings.store.path)
        credentials = CredentialStore(directory / "credential", RealFiles())
        credentials.save(new_credential(url).model_copy(update={"grant": grant}))
        metrics, broker = Metrics(), MemoryBroker()
        async with (
            open_host(fleet.settings, metrics) as host,
            open_agent(
                fleet.settings, host, metrics, live=live, transport=broker.transport(BOX)
            ) as agent,
        ):
            assert agent is not None
            yield Running(fleet, host, agent, broker, url)


async def test_published_wanted_fetched_served_and_reported(fleet: Fleet) -> None:
    async with running(fleet) as box:
        box.want(1, fleet.second, 2)
        have, told = await box.reported(1, BoxState.CONFIRMED)
        assert box.host.info("tiny").version == "2.0.0"
        assert (told.active, told.previous) == (fleet.second, fleet.first)
        assert (told.version, told.release) == ("2.0.0", 2)
        assert told.model_digest == box.host.info("tiny").model_digest
        assert have.hardware.memory_bytes > 1 << 20
        assert have.versions.onnxruntime
        assert have.labels == {"site": "lab"}
        box.want(2, fleet.third, 3)
        _, told = await box.reported(2, BoxState.FAILED)
        assert told.failure is not None
        assert told.failure.code is FailureCode.REFUSED
        assert "golden input" in told.failure.reason
        assert box.host.info("tiny").version == "2.0.0"
        name = topic(BOX, Channel.TELEMETRY, "serve")
        async with asyncio.timeout(SOON_S):
            sent = await box.broker.wait_for(lambda one: one.topic == name)
        _, rows = decode_batch(sent.payload)
        assert {row.models["tiny"].version for row in rows} <= {"1.0.0", "2.0.0"}


async def test_what_nobody_published_is_not_trusted(fleet: Fleet) -> None:
    async with running(fleet) as box:
        box.want(10, "f" * 64, 9)
        _, told = await box.reported(10, BoxState.FAILED)
        assert told.failure is not None
        assert told.failure.code is FailureCode.UNTRUSTED
        box.want(11, fleet.third, 7)  # published, but not as release 7
        _, told = await box.reported(11, BoxState.FAILED)
        assert told.failure is not None
        assert told.failure.code is FailureCode.UNTRUSTED
        assert "release 3" in told.failure.reason


def names_in(folder: Path) -> list[str]:
    return sorted(one.name for one in folder.iterdir())


async def test_published_settings_count_at_once(fleet: Fleet) -> None:
    document = {"router": {"degraded_answers": False}, "engine": {"max_wait_s": 5.0}}
    published = fleet.publisher.settings("policy", fleet.publisher.sealed_settings(document))
    async with open_routing(fleet.settings, Metrics()) as routing, running(fleet, routing) as box:
        box.want(20, published.digest, 1, kind=ItemKind.SETTINGS, name="policy")
        _, told = await box.reported(20, BoxState.CONFIRMED)
        assert told.at_next_start == ("engine.max_wait_s",)
        assert not routing.router.settings.degraded_answers
    async with open_routing(fleet.settings, Metrics()) as routing, running(fleet, routing):
        assert not routing.router.settings.degraded_answers, "settled at the start"


async def test_a_published_release_is_installed_and_its_version_held_against_what_runs(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends: list[int] = []
    ended = asyncio.Event()

    def kill(pid: int, number: int) -> None:
        ends.append(number)
        ended.set()

    monkeypatch.setattr("edge_runtime.agent.build.os.kill", kill)
    wheel = fleet.root / "edge_runtime.whl"
    wheel.write_bytes(b"not really")
    published = fleet.publisher.release("edge-runtime", "9.9.9", [wheel])
    async with running(fleet) as box:
        fields = {"kind": ItemKind.DAEMON, "name": "edge-runtime"}
        box.want(30, published.digest, 1, **fields, probation={"length_s": 60})
        async with asyncio.timeout(SOON_S):
            await ended.wait()
    version, _, _, _, folder = fleet.installer.asked[-1].split()
    assert version == "9.9.9"
    assert names_in(Path(folder)) == [wheel.name, "release.json"]
    ended.clear()
    async with running(fleet):  # the same daemon again: nothing was really installed
        async with asyncio.timeout(SOON_S):
            await ended.wait()
    assert fleet.installer.installed == __version__
    async with running(fleet) as box:
        _, told = await box.reported(30, BoxState.REVERTED)
        assert told.failure is not None
        assert (
            told.failure.reason == f"the daemon that came up is {__version__}, the release is 9.9.9"
        )
        assert told.version == __version__
    assert ends == [signal.SIGTERM, signal.SIGTERM]


async def test_without_an_enrolment_there_is_no_agent(tmp_path: Path, fleet: Fleet) -> None:
    options = {**fleet.settings.model_dump(), "agent": {"path": str(tmp_path / "nobody")}}
    settings = Settings.model_validate(options)
    metrics = Metrics()
    async with open_host(settings, metrics) as host, open_agent(settings, host, metrics) as agent:
        assert agent is None
    folder = tmp_path / "nobody" / "credential"
    folder.mkdir(parents=True)
    (folder / "credential.json").write_text("{")
    async with open_host(settings, metrics) as host, open_agent(settings, host, metrics) as agent:
        assert agent is None


async def test_a_fleet_that_cannot_be_joined_keeps_nobody_from_being_served(fleet: Fleet) -> None:
    directory = fleet.settings.agent.directory(fleet.settings.store.path)
    credentials = CredentialStore(directory / "credential", RealFiles())
    held = credentials.load()
    assert held is not None
    assert held.grant is not None
    broken = held.grant.model_copy(update={"ca_pem": "no certificate", "tuf_root": None})
    credentials.save(held.model_copy(update={"grant": broken}))
    metrics = Metrics()
    try:
        async with (
            open_host(fleet.settings, metrics) as host,
            open_agent(fleet.settings, host, metrics) as agent,
        ):
            assert agent is None
            async with asyncio.timeout(SOON_S):
                await host.swapper.loaded.wait()
            assert host.ready
    finally:
        credentials.save(held)

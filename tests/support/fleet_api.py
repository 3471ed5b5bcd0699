"""The REST API with everything behind it but broker and network."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp.test_utils import TestClient, TestServer

from fleet.api.app import make_app
from fleet.api.services import Services
from fleet.boxline import LogBook
from fleet.db.database import Database
from fleet.registry import tokens
from fleet.registry.facts import BOX_NAMES
from fleet.registry.tokens import Role
from fleet.rollout.catalogue import StaticCatalogue
from fleet.rollout.engine import RolloutEngine
from fleet.rollout.inventory import Artefact
from fleet.rollout.progress import Base
from fleet.rollout.service import RolloutService
from fleet.rollout.sql import Signing, SqlStore
from fleet.settings import FleetSettings
from tests.support.enrol import enrolment_service
from tests.support.fleet import DIGEST, LIMITS, NOW_S


class MemoryOrders:
    """Remembers what boxes were told."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str]] = []
        self.forgotten: list[str] = []
        self.logs = LogBook()

    async def order(self, principal: str, order: str) -> str:
        self.sent.append((principal, order))
        return f"order-{len(self.sent)}"

    async def forget(self, principal: str) -> None:
        self.forgotten.append(principal)


@dataclass
class Api:
    """A client with a token of each role."""

    client: TestClient[Any, Any]
    services: Services
    orders: MemoryOrders
    secrets: dict[str, str] = field(default_factory=dict)

    async def ask(
        self, method: str, path: str, *, role: str | None = "admin", **options: Any
    ) -> tuple[int, Any]:
        """Status and JSON of an answer."""
        headers = dict(options.pop("headers", {}))
        if role is not None:
            headers["authorization"] = f"Bearer {self.secrets[role]}"
        async with self.client.request(method, path, headers=headers, **options) as response:
            if "json" in response.headers.get("content-type", ""):
                return response.status, await response.json()
            return response.status, await response.text()


@asynccontextmanager
async def fleet_api(tmp_path: Path, **changes: Any) -> AsyncIterator[Api]:
    """Serve on a free port of loopback, with a token of each role."""
    settings = FleetSettings(api={"page_items": 2, **changes})  # type: ignore[arg-type]
    async with Database.opened(f"sqlite:///{tmp_path}/fleet.db") as database:
        orders = MemoryOrders()
        catalogue = StaticCatalogue(
            {DIGEST: Base(DIGEST, release=2, release_floor=1, bytes_full=1000)},
            {DIGEST: Artefact(DIGEST, 1000)},
        )
        store = SqlStore(database, Signing((), ()), catalogue, LIMITS)
        engine = RolloutEngine(store, None, lambda: NOW_S)
        services = Services(
            settings,
            database,
            enrolment_service(database),
            orders,
            RolloutService(store, catalogue, engine, lambda: NOW_S, BOX_NAMES),
            catalogue,
            now=lambda: NOW_S,
        )
        secrets = {}
        for role in Role:
            _, secrets[role.value] = await database.write(
                lambda c, one=role: tokens.create(c, one.value, one, now_s=NOW_S, lives_s=60.0)  # type: ignore[misc]
            )
        async with TestClient(TestServer(make_app(services))) as client:
            yield Api(client, services, orders, secrets)

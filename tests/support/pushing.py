"""Two machines: one that publishes with its own keys, and a control host that has none of them."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fleet.api.server import listening
from fleet.publish.initial import initialise
from fleet.publish.keys import KeyRing
from fleet.publish.publish import Published, Publisher
from fleet.publish.repository import Repository
from fleet.publish.uploads import Uploads
from fleet.registry import tokens
from fleet.registry.tokens import Role
from tests.support.bundles import write_tiny_bundle
from tests.support.fleet_api import Api, fleet_api

NOW = datetime.now(UTC)
MAX_BLOB = 1 << 19


@dataclass
class TwoMachines:
    """`here` publishes; `host` is the control host's repository, `url` its API."""

    root: Path
    api: Api
    url: str
    here: Repository
    host: Repository
    ring: KeyRing = field(repr=False)

    @property
    def publisher(self) -> Publisher:
        """Signs with the publisher's key only: not visible before the control host signed."""
        return Publisher(self.here, self.ring, datetime.now(UTC))

    def bundle(self, release: int = 1, **changes: Any) -> Published:
        """Publish a bundle of that release, here."""
        folder = self.root / f"bundle-{release}"
        write_tiny_bundle(folder, release=release, weights=b"w" * (99 + release), **changes)
        return self.publisher.bundle(folder)

    def metadata(self, role: str = "model-tiny") -> bytes:
        """The newest of a role, here."""
        found = self.here.delegated(role)
        assert found is not None
        return found.to_bytes()

    async def put(self, digest: str, data: bytes | None = None, **options: Any) -> tuple[int, Any]:
        """Send a blob."""
        body = self.here.blobs.path(digest).read_bytes() if data is None else data
        place = f"/v1/publish/blobs/{digest}"
        return await self.api.ask("PUT", place, **{"role": "publisher", "data": body, **options})

    async def put_all(self) -> None:
        """Send every blob there is here."""
        for path in sorted((self.here.root_path / "blobs" / "sha256").iterdir()):
            status, answer = await self.put(path.name)
            assert status == 200, answer

    async def post(self) -> tuple[int, Any]:
        """Send the newest metadata of the model's role."""
        place = "/v1/publish/roles/model-tiny"
        return await self.api.ask("POST", place, role="publisher", data=self.metadata())


@asynccontextmanager
async def two_machines(root: Path) -> AsyncIterator[TwoMachines]:
    """Keys made at one place, then parted as `docs/howto/publish-a-bundle.md` says."""
    here, host = Repository(root / "here"), Repository(root / "host")
    keys = root / "keys"
    initialise(here, keys, now=NOW, models=["tiny"])
    shutil.copytree(root / "here" / "metadata", root / "host" / "metadata")
    (keys / "offline" / "root-1.pem").unlink()
    (keys / "offline" / "targets.pem").unlink()
    async with fleet_api(root, port=0, max_body_bytes=1 << 18) as api:
        publish = api.services.settings.publish.model_copy(
            update={"repository": host.root_path, "keys": [keys / "online"]}
        )
        api.services.settings = api.services.settings.model_copy(update={"publish": publish})
        api.services.uploads = Uploads(host, MAX_BLOB, min_free_bytes=0)
        api.services.now = lambda: datetime.now(UTC).timestamp()
        for role in api.secrets:  # they were made for the tests' own clock
            api.secrets[role] = await _token(api, role)
        async with listening(api.services) as url:
            yield TwoMachines(root, api, url, here, host, KeyRing.load([keys / "offline"]))


async def _token(api: Api, role: str) -> str:
    _, secret = await api.services.database.write(
        lambda c: tokens.create(
            c, f"{role}-now", Role(role), now_s=api.services.now(), lives_s=600.0
        )
    )
    return secret

"""Sending what was published here to a control host: files it lacks, then signed metadata.

Rules
- Only delegated roles are sent. Root and targets, signed by people, are carried over by them.
- What the control host has already is not sent again, so what was cut short is run again.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from tuf.api.metadata import Metadata, TargetFile, Targets

from edge_runtime.bundle.manifest import BLOCK_BYTES
from edge_runtime.bundle.pack import parse_manifest
from edge_runtime.bundle.targets import (
    MAX_DOCUMENT_BYTES,
    ORDERS_ROLE,
    parse_delta_set,
    parse_release,
)
from edge_runtime.errors import ConfigError, TransportError
from fleet.publish.repository import Repository

TIMEOUT_S = 600.0
_STALL_S = 60.0


@dataclass(frozen=True, slots=True)
class Pushed:
    """What was sent for one role; `targets` were new to the control host."""

    role: str
    version: int
    blobs: int
    bytes: int
    targets: int
    live: bool


async def push(
    repository: Repository,
    url: str,
    token: str,
    *,
    ca: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> list[Pushed]:
    """Send every delegated role whose newest version the control host lacks.

    Raises `ConfigError` for what is refused, `TransportError` when nobody answers.
    """
    context: ssl.SSLContext | bool = True
    if ca is not None:
        context = ssl.create_default_context(cafile=ca)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_STALL_S, sock_read=TIMEOUT_S)
    headers = {"authorization": f"Bearer {token}"}
    async with aiohttp.ClientSession(
        url.rstrip("/") + "/", timeout=timeout, headers=headers,
        connector=aiohttp.TCPConnector(ssl=context),
    ) as session:  # fmt: skip
        host = _Host(session, repository, say)
        try:
            return [await host.send(role) for role in await host.lacking()]
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise TransportError(f"{url}: {error}; is that the control host's address?") from error


@dataclass(frozen=True)
class _Host:
    session: aiohttp.ClientSession
    repository: Repository
    say: Callable[[str], None]

    async def lacking(self) -> list[str]:
        """Delegated roles whose newest version is not there."""
        delegations = self.repository.targets().signed.delegations
        roles = () if delegations is None else delegations.roles or {}
        found = []
        for role in sorted(set(roles) - {ORDERS_ROLE}):
            version = self.repository.newest(role)
            if version and not await self._there(f"v1/tuf/{version}.{role}.json"):
                found.append(role)
        return found

    async def send(self, role: str) -> Pushed:
        """Blobs first, then the metadata."""
        metadata = self.repository.delegated(role)
        assert metadata is not None, "it was listed because there is a version of it"
        count = size = 0
        for digest in _blobs(self.repository, metadata):
            if await self._there(f"v1/blob/sha256/{digest}"):
                continue
            sent = await self._send_blob(digest)
            self.say(f"{role}: {digest} ({sent} bytes)")
            count, size = count + 1, size + sent
        answer = await self._ask("POST", f"v1/publish/roles/{role}", data=metadata.to_bytes())
        return Pushed(
            role, int(answer["version"]), count, size, len(answer["targets"]), bool(answer["live"])
        )

    async def _there(self, path: str) -> bool:
        async with self.session.head(path) as response:
            return response.status == 200

    async def _send_blob(self, digest: str) -> int:
        path = self.repository.blobs.path(digest)
        size = self.repository.files.stat(path).size
        headers = {"content-length": str(size), "content-type": "application/octet-stream"}
        await self._ask(
            "PUT", f"v1/publish/blobs/{digest}", data=self._chunks(path), headers=headers
        )
        return size

    async def _chunks(self, path: Path) -> AsyncIterator[bytes]:
        for chunk in self.repository.files.read_blocks(path, BLOCK_BYTES):
            yield chunk

    async def _ask(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        async with self.session.request(method, path, **options) as response:
            if response.content_type != "application/json":
                raise TransportError(f"{path}: status {response.status}, and no control host's")
            answer: dict[str, Any] = await response.json()
            if response.status >= 400:
                told = answer.get("error", {})
                raise ConfigError(
                    f"the control host refused {path} ({response.status}, {told.get('code')}): "
                    f"{told.get('message')}"
                )
            return answer


def _blobs(repository: Repository, metadata: Metadata[Targets]) -> Iterator[str]:
    """Every blob that the role's targets need; a document comes after what it names."""
    seen: set[str] = set()
    for path, entry in sorted(metadata.signed.targets.items()):
        for digest in (*_named_in(repository, path, entry), entry.hashes["sha256"]):
            if digest not in seen:
                seen.add(digest)
                yield digest


def _named_in(repository: Repository, path: str, entry: TargetFile) -> list[str]:
    data = repository.blobs.read(entry.hashes["sha256"], MAX_DOCUMENT_BYTES)
    kind = path.partition("/")[0]
    if kind == "bundles":
        return [item.sha256 for item in parse_manifest(data).files]
    if kind == "releases":
        return [item.sha256 for item in parse_release(data).files]
    if kind == "deltas":
        return [item.delta.sha256 for item in parse_delta_set(data).files]
    return []

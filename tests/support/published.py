"""A fleet that publishes into memory: keys, repository, and metadata as a box would fetch it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tuf.api.metadata import Metadata

from edge_runtime.agent.protocol import ItemKind, WantItem
from edge_runtime.agent.trust import MemoryMetadata, Trust, TrustState
from edge_runtime.bundle.crash import CrashFiles
from edge_runtime.bundle.envelope import key_id, trust
from edge_runtime.bundle.files import Files, exists
from edge_runtime.bundle.targets import ORDERS_ROLE, RELEASES_ROLE, SETTINGS_ROLE, model_role
from fleet.publish.keys import KeyRing
from fleet.publish.publish import Publisher
from fleet.publish.refresh import refresh
from fleet.publish.repository import Repository
from fleet.publish.roles import RoleKeys, create
from tests.support.bundles import write_tiny_bundle

HOME = Path("/srv/fleet")
NAMES = ("root", "targets", "snapshot", "timestamp", "publisher", "orders")


class MemoryFleet:
    """A repository on `files` (in memory unless given) that may publish `tiny`.

    `keys` are private keys by role name; `ring` holds all of them.
    """

    def __init__(self, files: Files | None = None, now: datetime | None = None) -> None:
        self.now = datetime.now(UTC) if now is None else now
        self.files = CrashFiles() if files is None else files
        self.repository = Repository(HOME, files=self.files)
        self.keys = {name: Ed25519PrivateKey.generate() for name in NAMES}
        self.ring = ring_of(*self.keys.values())
        publisher = RoleKeys((self.keys["publisher"].public_key(),))
        create(
            self.repository,
            {name: RoleKeys((self.keys[name].public_key(),)) for name in NAMES[:4]},
            {
                SETTINGS_ROLE: publisher,
                RELEASES_ROLE: publisher,
                model_role("tiny"): publisher,
                ORDERS_ROLE: RoleKeys((self.keys["orders"].public_key(),)),
            },
            self.ring,
            self.now,
        )
        self.root = self.metadata()["1.root.json"]

    def later(self, **delta: float) -> datetime:
        """Move this fleet's clock, for example `days=-30`, and say what it shows."""
        self.now += timedelta(**delta)
        return self.now

    @property
    def publisher(self) -> Publisher:
        """A publisher with all keys."""
        return Publisher(self.repository, self.ring, self.now)

    def publish(self, release: int = 1, floor: int = 1, **changes: Any) -> str:
        """Publish a tiny bundle of that release and return its digest."""
        directory = Path(f"/build/{release}")
        if not exists(self.files, directory):
            weights = b"w" * (9 + release)
            write_tiny_bundle(
                directory, files=self.files, release=release, weights=weights, **changes
            )
        return self.publisher.bundle(directory, release_floor=floor).digest

    def refresh(self, *, force: bool = True) -> bool:
        """Sign snapshot and timestamp again."""
        with self.repository.locked():
            return refresh(self.repository, self.ring, self.now, force=force)

    def metadata(self) -> dict[str, bytes]:
        """All metadata files, as a web server would serve them."""
        folder = HOME / "metadata"
        names = self.files.listdir(folder)
        return {name: self.files.read(folder / name, 1 << 24) for name in names}

    def source(self) -> MemoryMetadata:
        """What boxes can fetch now."""
        return MemoryMetadata(self.metadata())


def ring_of(*keys: Ed25519PrivateKey) -> KeyRing:
    """A ring of these keys."""
    return KeyRing({key_id(key.public_key()): key for key in keys})


def box_of(fleet: MemoryFleet, *sources: MemoryMetadata, files: Files | None = None) -> Trust:
    """The trust of a box enrolled with the fleet's first root."""
    layer = CrashFiles() if files is None else files
    state = TrustState(Path("/var/trust"), layer, fleet.root)
    keys = trust([fleet.keys["orders"].public_key()])
    return Trust(state, sources or (fleet.source(),), keys, monotonic_s=lambda: 0.0)


def wanted(digest: str, release: int = 1, kind: ItemKind = ItemKind.BUNDLE, **changes: Any) -> Any:
    """A wanted item with what does not matter here filled in."""
    name = changes.pop("name", "tiny")
    return WantItem(
        kind=kind,
        name=name,
        generation=1,
        rollout="r1",
        digest=digest,
        release=release,
        release_floor=1,
        bytes_full=1,
        **changes,
    )


def altered(data: bytes, change: Callable[[Any], None]) -> bytes:
    """Metadata bytes after `change` of what is signed; the signatures stay as they were."""
    metadata: Metadata[Any] = Metadata.from_bytes(data)
    change(metadata.signed)
    return metadata.to_bytes()


def resigned(fleet: MemoryFleet, file: str, key: str, change: Callable[[Any], None]) -> bytes:
    """A metadata file with a change, signed by one key of the fleet."""
    metadata: Metadata[Any] = Metadata.from_bytes(fleet.metadata()[file])
    change(metadata.signed)
    metadata.signatures.clear()
    (signer,) = ring_of(fleet.keys[key]).signers([key_id(fleet.keys[key].public_key())])
    metadata.sign(signer)
    return metadata.to_bytes()

"""The first keys and metadata of a fleet.

Rules
- `offline/` holds the keys of people (root, targets, publisher), `online/` those the control host
  works with (snapshot, timestamp, orders). Orders are what is signed for one box at a time.
- A run that was cut short is run again: keys that are there are used, a root that is there ends it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tuf.api.metadata import Root, Snapshot, Targets, Timestamp

from edge_runtime.bundle.envelope import key_id
from edge_runtime.bundle.targets import ORDERS_ROLE, RELEASES_ROLE, SETTINGS_ROLE, model_role
from edge_runtime.errors import ConfigError
from fleet.publish.keys import KeyRing, read_key, write_key
from fleet.publish.repository import Repository
from fleet.publish.roles import RoleKeys, create

ORDERS_KEY = Path("online") / "orders.pem"


def initialise(
    repository: Repository,
    directory: Path,
    *,
    now: datetime,
    models: Sequence[str] = (),
    root_keys: int = 1,
    root_threshold: int = 1,
    targets_keys: int = 1,
    targets_threshold: int = 1,
    passphrase: bytes | None = None,
) -> KeyRing:
    """Make keys in `directory` and a repository that trusts them; returns all the keys.

    Raises `ConfigError` when the repository has a root already.
    """
    if repository.exists():
        raise ConfigError(
            f"{repository.root_path}: has a root already; see `edge-fleet keys rotate`"
        )
    offline, online = directory / "offline", directory / "online"
    roots = [_key(offline / f"root-{number}.pem", passphrase) for number in range(1, root_keys + 1)]
    names = ["targets"] if targets_keys == 1 else [f"targets-{n + 1}" for n in range(targets_keys)]
    targets = [_key(offline / f"{name}.pem", passphrase) for name in names]
    publisher = _key(offline / "publisher.pem", passphrase)
    snapshot = _key(online / "snapshot.pem", passphrase)
    timestamp = _key(online / "timestamp.pem", passphrase)
    orders = _key(directory / ORDERS_KEY, passphrase)
    top = {
        Root.type: RoleKeys(tuple(key.public_key() for key in roots), root_threshold),
        Targets.type: RoleKeys(tuple(key.public_key() for key in targets), targets_threshold),
        Snapshot.type: RoleKeys((snapshot.public_key(),)),
        Timestamp.type: RoleKeys((timestamp.public_key(),)),
    }
    by_publisher = [SETTINGS_ROLE, RELEASES_ROLE, *(model_role(name) for name in models)]
    delegated = {role: RoleKeys((publisher.public_key(),)) for role in by_publisher}
    delegated[ORDERS_ROLE] = RoleKeys((orders.public_key(),))
    keys = [*roots, *targets, publisher, snapshot, timestamp, orders]
    ring = KeyRing({key_id(key.public_key()): key for key in keys})
    create(repository, top, delegated, ring, now)
    return ring


def _key(path: Path, passphrase: bytes | None) -> Ed25519PrivateKey:
    if path.exists():
        return read_key(path, passphrase)
    key = Ed25519PrivateKey.generate()
    write_key(path, key, passphrase)
    return key

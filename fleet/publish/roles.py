"""Who may sign what: the first root, delegations, and new keys for old.

Rules
- Root and targets keys stay offline; snapshot, timestamp and orders keys live on the control host.
- A new key for an online role: what that role signs is signed by the old and the new key before
  the new root appears, so that boxes with either root agree with it at every moment.
- A new root is signed by enough keys of the root before and of itself: boxes follow that chain.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from tuf.api.metadata import DelegatedRole, Delegations, Metadata, Role, Root, Targets

from edge_runtime.bundle.envelope import key_id
from edge_runtime.bundle.targets import role_paths
from edge_runtime.errors import ConfigError
from fleet.publish.keys import KeyRing, public_key
from fleet.publish.refresh import refresh, roots_for
from fleet.publish.repository import TOP_ROLES, Repository


@dataclass(frozen=True, slots=True)
class RoleKeys:
    """Who may sign for one role, and how many of them must."""

    keys: tuple[Ed25519PublicKey, ...]
    threshold: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.threshold <= len(set(map(key_id, self.keys))):
            raise ConfigError(
                f"{self.threshold} signatures of {len(self.keys)} different keys cannot be given"
            )


def create(
    repository: Repository,
    top: Mapping[str, RoleKeys],
    delegated: Mapping[str, RoleKeys],
    ring: KeyRing,
    now: datetime,
) -> None:
    """Make the first metadata of a fleet; `top` names all four top-level roles.

    Raises `ConfigError` when there is a root already, or when `ring` lacks a key.
    """
    if set(top) != set(TOP_ROLES):
        raise ConfigError(f"keys are needed for exactly {', '.join(TOP_ROLES)}")
    with repository.locked():
        if repository.exists():
            raise ConfigError(f"{repository.root_path}: has a root already; see `keys rotate`")
        for name in repository.files.listdir(repository.metadata_path):
            repository.files.unlink(repository.metadata_path / name)  # a start that was cut short
        root = Metadata(Root(expires=now))
        for role, wanted in top.items():
            root.signed.roles[role] = Role([], wanted.threshold)
            for key in wanted.keys:
                root.signed.add_key(public_key(key), role)
        targets = Metadata(Targets(expires=now))
        for role, wanted in delegated.items():
            _delegate(targets.signed, role, wanted)
        repository.sign(root, Root.type, (root,), ring, now)
        repository.sign(targets, Targets.type, (root,), ring, now)
        repository.write(targets, Targets.type)
        refresh(repository, ring, now, root=root)
        repository.write(root, Root.type)  # last: a repository exists once it has a root


def delegate(
    repository: Repository, role: str, wanted: RoleKeys, ring: KeyRing, now: datetime
) -> bool:
    """Let these keys, and no others, publish as `role`. Whether boxes can see it already."""
    role_paths(role)
    with repository.locked():
        targets = repository.targets()
        _delegate(targets.signed, role, wanted)
        targets.signed.version += 1
        repository.sign(targets, Targets.type, (repository.root(),), ring, now)
        newest = repository.read(role, Targets)
        if newest is not None:  # what was published stays so, under the new keys
            newest.signed.version += 1
            repository.sign(newest, role, (targets,), ring, now)
        repository.write(targets, Targets.type)
        if newest is not None:
            repository.write(newest, role)
        return refresh(repository, ring, now)


def rotate(
    repository: Repository, role: str, wanted: RoleKeys, ring: KeyRing, now: datetime
) -> bool:
    """Replace the keys of a role. `ring` holds the new keys and those that vouch for them.

    That is the root keys (and, for an online role, its old key where it still exists) for a
    top-level role, the targets key for a delegated one. Whether boxes can see it already.
    """
    if role not in TOP_ROLES:
        return delegate(repository, role, wanted, ring, now)
    with repository.locked():
        old = repository.root()
        new = Metadata(deepcopy(old.signed))
        for keyid in list(new.signed.roles[role].keyids):
            new.signed.revoke_key(keyid, role)
        new.signed.roles[role].threshold = wanted.threshold
        for key in wanted.keys:
            new.signed.add_key(public_key(key), role)
        new.signed.version += 1
        repository.sign(new, Root.type, (old, new), ring, now)
        if role == Targets.type:
            _sign_for_both(repository, old, new, ring, now)
        live = role == Root.type or refresh(repository, ring, now, root=new, before=old)
        repository.write(new, Root.type)
        return live


def renew(repository: Repository, role: str, ring: KeyRing, now: datetime) -> bool:
    """The same metadata of an offline role, expiring later. Whether boxes can see it already."""
    with repository.locked():
        if role == Root.type:
            root = repository.root()
            old = Metadata(deepcopy(root.signed))
            root.signed.version += 1
            repository.sign(root, role, (old, root), ring, now)
            repository.write(root, role)
            return True
        delegator: Metadata[Root] | Metadata[Targets] = repository.root()
        metadata: Metadata[Targets] | None = repository.targets()
        if role != Targets.type:
            delegator, metadata = repository.targets(), repository.delegated(role)
        if metadata is None:
            raise ConfigError(f"{role} never published anything: there is nothing to renew")
        metadata.signed.version += 1
        repository.sign(metadata, role, (delegator,), ring, now)
        repository.write(metadata, role)
        return refresh(repository, ring, now)


def _sign_for_both(
    repository: Repository, old: Metadata[Root], new: Metadata[Root], ring: KeyRing, now: datetime
) -> None:
    targets = repository.targets()
    targets.signed.version += 1
    roots = roots_for(Targets.type, new, old, ring)
    repository.sign(targets, Targets.type, roots, ring, now)
    repository.write(targets, Targets.type)


def _delegate(targets: Targets, role: str, wanted: RoleKeys) -> None:
    if targets.delegations is None:
        targets.delegations = Delegations({}, {})
    roles = targets.delegations.roles
    assert roles is not None, "delegations are made by name here"
    if role in roles:
        for keyid in list(roles[role].keyids):
            targets.revoke_key(keyid, role)
    roles[role] = DelegatedRole(
        role, [], wanted.threshold, terminating=True, paths=list(role_paths(role))
    )
    for key in wanted.keys:
        targets.add_key(public_key(key), role)

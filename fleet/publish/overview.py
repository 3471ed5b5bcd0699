"""What a repository says of its roles, for people and for alerts about expiry."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from tuf.api.metadata import Role, Root, Snapshot, Targets, Timestamp

from fleet.publish.repository import TOP_ROLES, Repository


@dataclass(frozen=True, slots=True)
class RoleState:
    """One role. `version` and `expires` are None while it never signed anything."""

    role: str
    version: int | None
    expires: datetime | None
    threshold: int
    keyids: tuple[str, ...]


def overview(repository: Repository) -> tuple[RoleState, ...]:
    """All roles, top-level ones first. Raises `ConfigError` without a repository."""
    return tuple(_states(repository))


def _states(repository: Repository) -> Iterator[RoleState]:
    root = repository.root().signed
    targets = repository.targets().signed
    snapshot = repository.read(Snapshot.type, Snapshot)
    timestamp = repository.read(Timestamp.type, Timestamp)
    signed: dict[str, Root | Targets | Snapshot | Timestamp | None] = {
        Root.type: root,
        Targets.type: targets,
        Snapshot.type: None if snapshot is None else snapshot.signed,
        Timestamp.type: None if timestamp is None else timestamp.signed,
    }
    for name in TOP_ROLES:
        yield _state(name, root.roles[name], signed[name])
    delegations = targets.delegations
    for name, role in ({} if delegations is None else delegations.roles or {}).items():
        metadata = repository.read(name, Targets)
        yield _state(name, role, None if metadata is None else metadata.signed)


def _state(
    name: str, role: Role, signed: Root | Targets | Snapshot | Timestamp | None
) -> RoleState:
    return RoleState(
        name,
        None if signed is None else signed.version,
        None if signed is None else signed.expires,
        role.threshold,
        tuple(role.keyids),
    )

"""Snapshot and timestamp: what makes newly signed metadata visible, and keeps it fresh.

Rules
- The snapshot names the newest version on disk of every role that is signed as it must be; what
  was named once is never left out, or boxes would take it for an attack.
- The timestamp is written last. Both are signed again when half of their life is over.
"""

from __future__ import annotations

from datetime import datetime

from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Targets, Timestamp

from edge_runtime.errors import BundleError
from fleet.publish.keys import KeyRing
from fleet.publish.repository import Repository, is_signed


def refresh(
    repository: Repository,
    ring: KeyRing,
    now: datetime,
    *,
    root: Metadata[Root] | None = None,
    before: Metadata[Root] | None = None,
    force: bool = False,
) -> bool:
    """Sign snapshot and timestamp again where something changed or half their life is over.

    `root` is the root to satisfy when it is not on disk yet, `before` the one it replaces. Returns
    False, having changed nothing, when `ring` lacks the online keys: boxes see nothing new until
    the control host does this. The caller holds the lock.
    """
    new = repository.root() if root is None else root
    if not (_enough(new, Snapshot.type, ring) and _enough(new, Timestamp.type, ring)):
        return False
    _refresh_snapshot(repository, roots_for(Snapshot.type, new, before, ring), ring, now)
    roots = roots_for(Timestamp.type, new, before, ring)
    meta = repository.meta_file(Snapshot.type)
    timestamp = repository.read(Timestamp.type, Timestamp)
    if timestamp is None:
        timestamp = Metadata(Timestamp(expires=now, snapshot_meta=meta))
    elif (
        force
        or timestamp.signed.snapshot_meta != meta
        or _stale(timestamp, Timestamp.type, roots, repository, now)
    ):
        timestamp.signed.version += 1
        timestamp.signed.snapshot_meta = meta
    else:
        return True
    repository.sign(timestamp, Timestamp.type, roots, ring, now)
    repository.write(timestamp, Timestamp.type)
    return True


def roots_for(
    role: str, new: Metadata[Root], old: Metadata[Root] | None, ring: KeyRing
) -> tuple[Metadata[Root], ...]:
    """The roots a role's signatures must satisfy: the old one too, while its keys are at hand."""
    if old is not None and _enough(old, role, ring):
        return (old, new)
    return (new,)


def _enough(root: Metadata[Root], role: str, ring: KeyRing) -> bool:
    wanted = root.signed.roles[role]
    return len(ring.signers(wanted.keyids)) >= wanted.threshold


def _stale(
    metadata: Metadata[Snapshot] | Metadata[Timestamp],
    role: str,
    roots: tuple[Metadata[Root], ...],
    repository: Repository,
    now: datetime,
) -> bool:
    """Whether it must be signed again: other keys, or half of its life is over."""
    if metadata.signed.expires - now < repository.lifetimes.of(role) / 2:
        return True
    return any(not is_signed(metadata, root, role) for root in roots)


def _refresh_snapshot(
    repository: Repository, roots: tuple[Metadata[Root], ...], ring: KeyRing, now: datetime
) -> None:
    current = _current(repository, roots)
    snapshot = repository.read(Snapshot.type, Snapshot)
    if snapshot is None:
        snapshot = Metadata(Snapshot(expires=now, meta=current))
    else:
        meta = {**snapshot.signed.meta, **current}
        stale = _stale(snapshot, Snapshot.type, roots, repository, now)
        if meta == snapshot.signed.meta and not stale:
            return
        snapshot.signed.meta = meta
        snapshot.signed.version += 1
    repository.sign(snapshot, Snapshot.type, roots, ring, now)
    repository.write(snapshot, Snapshot.type)


def _current(repository: Repository, roots: tuple[Metadata[Root], ...]) -> dict[str, MetaFile]:
    """Files of all roles that are signed as they must be.

    Raises `BundleError` when the top-level targets are not: nothing may be built on those.
    """
    targets = repository.read(Targets.type, Targets)
    if targets is None or not is_signed(targets, roots[-1], Targets.type):
        raise BundleError("targets.json", "is missing or not signed as the root says: restore it")
    found = {"targets.json": repository.meta_file(Targets.type)}
    delegations = targets.signed.delegations
    for role in () if delegations is None else sorted(delegations.roles or {}):
        metadata = repository.read(role, Targets)
        if metadata is not None and is_signed(metadata, targets, role):
            found[f"{role}.json"] = repository.meta_file(role)
    return found

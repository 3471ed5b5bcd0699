"""Metadata that several people sign, one after another, each where their own key is.

Rules
- A draft lies in `drafts/` of the repository, which nobody serves. It is published by whoever adds
  the last signature that is needed, and never before.
- Whoever signs signs all of it: nothing of a draft changes after its first signature.
- A root is signed by enough keys of the root before and of itself, the targets by enough of the
  root's. A draft that was overtaken by another publication is worth nothing any more.

The draft file is passed on by people, with the repository or alone; it holds nothing secret.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from tuf.api.metadata import Metadata, Root, Targets
from tuf.api.serialization import DeserializationError

from edge_runtime.bundle.files import exists, make_dirs, write_atomically
from edge_runtime.errors import BundleError, ConfigError
from fleet.publish.keys import KeyRing, public_key
from fleet.publish.refresh import refresh
from fleet.publish.repository import MAX_METADATA_BYTES, Repository
from fleet.publish.roles import RoleKeys

DRAFTED = {Root.type: Root, Targets.type: Targets}
"""Roles that people sign together, and what their metadata is."""


@dataclass(frozen=True, slots=True)
class Draft:
    """How far a draft is. `missing` signatures are needed of `waiting` keys; 0: it is published.

    `changes` says in words what it changes; `live`: boxes can see it.
    """

    role: str
    version: int
    expires: datetime
    missing: int
    waiting: tuple[str, ...]
    changes: tuple[str, ...]
    live: bool


def draft_renewal(repository: Repository, role: str, ring: KeyRing, now: datetime) -> Draft:
    """Begin to sign the same metadata again, with a later expiry. Raises `ConfigError`."""
    with repository.locked():
        return _begin(repository, role, _newest(repository, role), ring, now)


def draft_root_keys(
    repository: Repository, wanted: RoleKeys, ring: KeyRing, now: datetime
) -> Draft:
    """Begin a root whose own keys are `wanted`. Raises `ConfigError`."""
    with repository.locked():
        root = Metadata(deepcopy(repository.root().signed))
        for keyid in list(root.signed.roles[Root.type].keyids):
            root.signed.revoke_key(keyid, Root.type)
        root.signed.roles[Root.type].threshold = wanted.threshold
        for key in wanted.keys:
            root.signed.add_key(public_key(key), Root.type)
        return _begin(repository, Root.type, root, ring, now)


def look_at_draft(repository: Repository, role: str) -> Draft:
    """How far the draft of a role is. Raises `ConfigError` when there is none."""
    return _status(repository, role, _read(repository, role), live=False)


def sign_draft(repository: Repository, role: str, ring: KeyRing, now: datetime) -> Draft:
    """Add the signatures of the keys at hand; with the last one it is published.

    Raises `ConfigError` when there is no draft, when it was overtaken or has expired, or when none
    of the keys is asked for.
    """
    with repository.locked():
        metadata = _read(repository, role)
        if metadata.signed.is_expired(now):
            raise ConfigError(f"{_path(repository, role)}: has expired; begin a new draft")
        return _sign(repository, role, metadata, ring, now)


def _begin(
    repository: Repository, role: str, metadata: Metadata[Any], ring: KeyRing, now: datetime
) -> Draft:
    path = _path(repository, role)
    if exists(repository.files, path):
        raise ConfigError(
            f"{path}: is a draft already; sign it with `edge-fleet keys sign {role}`, or remove it"
        )
    metadata.signed.version += 1
    metadata.signed.expires = (now + repository.lifetimes.of(role)).replace(microsecond=0)
    metadata.signatures.clear()
    return _sign(repository, role, metadata, ring, now)


def _sign(
    repository: Repository, role: str, metadata: Metadata[Any], ring: KeyRing, now: datetime
) -> Draft:
    signers = {
        signer.public_key.keyid: signer
        for delegator in _delegators(repository, role, metadata)
        for signer in ring.signers(delegator.signed.get_delegated_role(role).keyids)
    }
    if not signers:
        waiting = _status(repository, role, metadata, live=False).waiting
        raise ConfigError(
            f"none of the keys at hand is asked for; {role} waits for "
            + ", ".join(one[:16] for one in waiting)
        )
    for signer in signers.values():
        metadata.sign(signer, append=True)  # one key has one signature, however often it signs
    found = _status(repository, role, metadata, live=False)
    path = _path(repository, role)
    if found.missing:
        make_dirs(repository.files, path.parent)
        write_atomically(repository.files, path, metadata.to_bytes())
        return found
    repository.write(metadata, role)
    if exists(repository.files, path):
        repository.files.unlink(path)
    live = role == Root.type or refresh(repository, ring, now)
    return replace(found, live=live)


def _delegators(
    repository: Repository, role: str, metadata: Metadata[Any]
) -> tuple[Metadata[Root], ...]:
    """Whose keys must sign: a root's own and those of the root before."""
    root = repository.root()
    return (root, metadata) if role == Root.type else (root,)


def _status(repository: Repository, role: str, metadata: Metadata[Any], *, live: bool) -> Draft:
    results = [
        one.signed.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
        for one in _delegators(repository, role, metadata)
    ]
    short = [one for one in results if not one.verified]
    waiting = sorted({keyid for one in short for keyid in one.unsigned})
    return Draft(
        role,
        metadata.signed.version,
        metadata.signed.expires,
        max((one.missing for one in short), default=0),
        tuple(waiting),
        tuple(_changes(_newest(repository, role).signed, metadata.signed)),
        live,
    )


def _changes(old: Root | Targets, new: Root | Targets) -> list[str]:
    """What people should know before they sign. Empty: only the expiry moves."""
    if isinstance(old, Root) and isinstance(new, Root):
        found = []
        for role in sorted(new.roles):
            before, after = old.roles[role], new.roles[role]
            if before.threshold != after.threshold:
                found.append(f"{role}: {after.threshold} must sign instead of {before.threshold}")
            found += [
                f"{role}: key {one} comes" for one in after.keyids if one not in before.keyids
            ]
            found += [f"{role}: key {one} goes" for one in before.keyids if one not in after.keyids]
        return found
    if isinstance(old, Targets) and isinstance(new, Targets) and old.delegations == new.delegations:
        return []
    return ["its delegations are others"]


def _newest(repository: Repository, role: str) -> Metadata[Any]:
    if role not in DRAFTED:
        raise ConfigError(f"{role}: only {' and '.join(DRAFTED)} are signed by several people")
    return repository.root() if role == Root.type else repository.targets()


def _read(repository: Repository, role: str) -> Metadata[Any]:
    newest, path = _newest(repository, role), _path(repository, role)
    try:
        data = repository.files.read(path, MAX_METADATA_BYTES)
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: there is no draft; begin one with `edge-fleet keys renew {role} --draft`"
        ) from None
    try:
        metadata: Metadata[Any] = Metadata.from_bytes(data)
    except (DeserializationError, ValueError) as error:
        raise BundleError(str(path), f"is no TUF metadata: {error}") from error
    if metadata.signed.type != role or metadata.signed.version != newest.signed.version + 1:
        raise ConfigError(
            f"{path}: does not follow version {newest.signed.version} of {role}, which is the "
            "newest; remove it and begin a new draft"
        )
    return metadata


def _path(repository: Repository, role: str) -> Path:
    return repository.root_path / "drafts" / f"{role}.json"

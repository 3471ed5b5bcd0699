"""Taking in what was signed elsewhere: the newest metadata of a delegated role, checked whole.

Rules
- The keys that publish never come here. What is taken in carries enough signatures of the role's
  own keys, and the control host adds nothing but snapshot and timestamp.
- Everything a new target names is here already and is what the metadata says: bytes first, then
  the metadata, so that boxes never see a name without its bytes.
- A role's targets only grow, and releases of a name rise. Taking in the same again changes
  nothing, so a publication that was cut short is sent again.
- Nothing is written before all of it was checked. Every refusal has a code.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from pydantic import ValidationError
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, TargetFile, Targets
from tuf.api.serialization import DeserializationError

from edge_runtime.bundle.certificate import open_certificate
from edge_runtime.bundle.envelope import open_envelope
from edge_runtime.bundle.manifest import FileEntry
from edge_runtime.bundle.pack import parse_manifest
from edge_runtime.bundle.targets import (
    MAX_DOCUMENT_BYTES,
    ORDERS_ROLE,
    SETTINGS_TYPE,
    BundleFacts,
    TargetFacts,
    bundle_target,
    certificate_target,
    delta_target,
    parse_delta_set,
    parse_release,
    release_target,
    settings_target,
)
from edge_runtime.errors import BundleError, UsageError
from fleet.publish.keys import KeyRing
from fleet.publish.publish import facts_of, releases_of, role_keys
from fleet.publish.refresh import refresh
from fleet.publish.repository import Repository, is_signed

MAX_NEW_TARGETS = 64

_T = TypeVar("_T", bound=TargetFacts)


@dataclass(frozen=True, slots=True)
class Accepted:
    """What is here now. `targets` are the new ones; `live`: boxes can see them already."""

    role: str
    version: int
    targets: tuple[str, ...]
    live: bool


def accept(
    repository: Repository, role: str, data: bytes, ring: KeyRing, now: datetime
) -> Accepted:
    """Take in the metadata `data` of `role`. Blocks on the disk; holds the repository's lock.

    Raises `UsageError` and `BundleError` for what is refused, `CapacityError` while somebody else
    publishes.
    """
    metadata = _parsed(role, data)
    with repository.locked():
        targets = repository.targets()
        delegations = targets.signed.delegations
        roles = {} if delegations is None else delegations.roles or {}
        if role not in roles or role == ORDERS_ROLE:
            there = ", ".join(sorted(set(roles) - {ORDERS_ROLE})) or "none"
            raise UsageError(
                f"nobody may publish as {role[:80]!r}; delegated are: {there}",
                param="role",
                code="unknown_role",
                status=404,
            )
        if not is_signed(metadata, targets, role):
            keys = ", ".join(one[:16] for one in roles[role].keyids)
            raise _refused(
                f"{role} takes {roles[role].threshold} signatures of the keys {keys}; these do not "
                "do",
                "unsigned",
                403,
            )
        if metadata.signed.is_expired(now):
            raise _refused("its signature has expired; sign it again", "expired")
        before = repository.delegated(role)
        if before is not None and before.signed == metadata.signed:
            live = refresh(repository, ring, now)
            return Accepted(role, metadata.signed.version, (), live)
        new = _new_targets(role, before, metadata, repository)
        for path in new:
            if not roles[role].is_delegated_path(path):
                raise _refused(f"{path[:200]} is not {role}'s to publish", "foreign_target", 403)
        _check_all(repository, role, new, metadata)
        repository.write(metadata, role)
        live = refresh(repository, ring, now)
        return Accepted(role, metadata.signed.version, tuple(new), live)


def _parsed(role: str, data: bytes) -> Metadata[Targets]:
    try:
        metadata: Metadata[Targets] = Metadata.from_bytes(data)
    except (DeserializationError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{role[:80]}.json", f"is no TUF metadata: {error}"[:300]) from error
    if metadata.signed.type != Targets.type:
        raise BundleError(f"{role[:80]}.json", "is no targets metadata")
    if metadata.signed.delegations is not None:
        raise _refused("a delegated role may not delegate further", "delegates")
    return metadata


def _new_targets(
    role: str,
    before: Metadata[Targets] | None,
    metadata: Metadata[Targets],
    repository: Repository,
) -> list[str]:
    """Paths that are new, when the rest is as it was."""
    known = {} if before is None else before.signed.targets
    newest = repository.newest(role)
    if metadata.signed.version <= newest:
        raise _refused(
            f"version {newest} of {role} is here already, and this is {metadata.signed.version}; "
            "fetch it, and publish on top of it",
            "old_version",
            409,
        )
    for path, entry in known.items():
        if metadata.signed.targets.get(path) != entry:
            raise _refused(
                f"{path} is published and not the same in this; fetch version {newest}, and "
                "publish on top of it",
                "changes_published",
                409,
            )
    new = sorted(set(metadata.signed.targets) - set(known))
    if len(new) > MAX_NEW_TARGETS:
        raise _refused(
            f"{len(new)} new targets at once; send at most {MAX_NEW_TARGETS}", "too_many_targets"
        )
    return new


def _check_all(
    repository: Repository, role: str, new: Iterable[str], metadata: Metadata[Targets]
) -> None:
    entries = {path: metadata.signed.targets[path] for path in new}
    released: list[tuple[int, str]] = []
    for path, entry in entries.items():
        facts = _check_target(repository, role, path, entry)
        if facts is not None:
            if facts.release_floor > facts.release:
                raise _refused(f"{path} lies below its own release floor", "release")
            released.append((facts.release, path))
    taken: dict[str, int] = {}
    for release, path in sorted(released):
        folder = path.rpartition("/")[0]
        if folder not in taken:
            others = releases_of(repository, role, path).values()
            taken[folder] = max(others, default=0)
        if release <= taken[folder]:
            raise _refused(
                f"{path} is release {release}, and {taken[folder]} is published already", "release",
                409,
            )  # fmt: skip
        taken[folder] = release


def _check_target(
    repository: Repository, role: str, path: str, entry: TargetFile
) -> TargetFacts | None:
    """One target's document and its blobs. Raises `BundleError`, `UsageError`."""
    if set(entry.hashes) != {"sha256"} or not 0 < entry.length <= MAX_DOCUMENT_BYTES:
        raise BundleError(path[:200], f"needs a sha256 and at most {MAX_DOCUMENT_BYTES} bytes")
    digest = entry.hashes["sha256"]
    if not repository.blobs.has(digest):
        raise _missing(path, digest)
    data = repository.blobs.read(digest, MAX_DOCUMENT_BYTES)
    try:
        entry.verify_length_and_hashes(data)
    except (RepositoryError, ValueError) as error:
        raise BundleError(path[:200], str(error)) from error
    kind, _, rest = path.partition("/")
    name = rest.partition("/")[0]
    if kind == "bundles":
        return _bundle(repository, name, path, entry, data)
    if kind == "settings":
        _same(path, settings_target(name, digest))
        open_envelope(data, SETTINGS_TYPE, role_keys(repository, role), name=name)
        return _facts(TargetFacts, path, entry)
    if kind == "certificates":
        _same(path, certificate_target(name, digest))
        open_certificate(data, role_keys(repository, role), name=f"certificate of {name}")
        return None
    if kind == "releases":
        _same(path, release_target(name, digest))
        release = parse_release(data)
        if release.name != name:
            raise BundleError(path, f"holds a release of {release.name}")
        _present(repository, path, release.files)
        return _facts(TargetFacts, path, entry)
    made = parse_delta_set(data)
    _same(path, delta_target(made.name, made.result, made.base))
    _present(repository, path, [item.delta for item in made.files])
    return None


def _bundle(
    repository: Repository, name: str, path: str, entry: TargetFile, data: bytes
) -> BundleFacts:
    manifest = parse_manifest(data)
    _same(path, bundle_target(name, entry.hashes["sha256"]))
    facts = _facts(BundleFacts, path, entry)
    if manifest.name != name or facts != facts_of(manifest, facts.release_floor):
        raise BundleError(path, "its signed facts are not those of its manifest")
    _present(repository, path, manifest.files)
    return facts


def _facts(model: type[_T], path: str, entry: TargetFile) -> _T:
    try:
        return model.model_validate(entry.custom or {})
    except ValidationError as error:
        raise BundleError(path, f"its facts: {error.errors()[0]['msg']}") from error


def _present(repository: Repository, path: str, files: Iterable[FileEntry]) -> None:
    for item in files:
        place = repository.blobs.path(item.sha256)
        try:
            found = repository.files.stat(place).size
        except FileNotFoundError:
            raise _missing(path, item.sha256) from None
        if found != item.size:
            raise BundleError(path, f"{item.path} has {found} bytes here, {item.size} are named")


def _same(path: str, expected: str) -> None:
    if path != expected:
        raise BundleError(path[:200], f"should be called {expected}")


def _missing(path: str, digest: str) -> UsageError:
    return _refused(f"{path} needs blob {digest}, which is not here: send it first", "no_blob", 409)


def _refused(message: str, code: str, status: int = 400) -> UsageError:
    return UsageError(message, code=code, status=status)

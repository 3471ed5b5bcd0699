"""What is published, as rollouts need it: the signed numbers of a change, and how large it is.

The in-memory twin is `StaticCatalogue`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from tuf.api.metadata import TargetFile

from edge_runtime.agent.protocol import ItemKind
from edge_runtime.bundle.targets import (
    MAX_DOCUMENT_BYTES,
    RELEASES_ROLE,
    SETTINGS_ROLE,
    BundleFacts,
    TargetFacts,
    model_role,
    parse_release,
)
from edge_runtime.errors import BundleError, UsageError
from fleet.publish.publish import published_manifest, read_targets
from fleet.publish.repository import Repository
from fleet.rollout.inventory import Artefact
from fleet.rollout.plan import Change, PlanError, RolloutPlan
from fleet.rollout.progress import Base

_FOLDERS: Final = {
    ItemKind.BUNDLE: "bundles",
    ItemKind.SETTINGS: "settings",
    ItemKind.DAEMON: "releases",
}


MAX_NAMED: Final = 20
"""How many versions a message lists."""


class Catalogue(Protocol):
    """Published things by kind and name."""

    def bases(self, kind: ItemKind, name: str) -> Mapping[str, Base]:
        """All of a name by digest, with their signed releases."""

    def versions(self, kind: ItemKind, name: str) -> Mapping[str, str]:
        """What people call them, by digest: the version, for settings the release's number."""

    def artefact(self, kind: ItemKind, name: str, digest: str) -> Artefact:
        """One of them as planning sees it. Raises `UsageError` when it is not published."""


@dataclass(frozen=True)
class StaticCatalogue:
    """Known beforehand."""

    known: Mapping[str, Base] = field(default_factory=dict)
    artefacts: Mapping[str, Artefact] = field(default_factory=dict)
    named: Mapping[str, str] = field(default_factory=dict)

    def bases(self, kind: ItemKind, name: str) -> Mapping[str, Base]:
        """See `Catalogue`."""
        del kind, name
        return self.known

    def versions(self, kind: ItemKind, name: str) -> Mapping[str, str]:
        """See `Catalogue`."""
        del kind, name
        return self.named

    def artefact(self, kind: ItemKind, name: str, digest: str) -> Artefact:
        """See `Catalogue`."""
        if digest not in self.artefacts:
            raise _not_published(kind, name, digest)
        return self.artefacts[digest]


class RepositoryCatalogue:
    """Read from the signed metadata and the blob store; blocks on the disk."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    def bases(self, kind: ItemKind, name: str) -> Mapping[str, Base]:
        """See `Catalogue`."""
        found = {}
        for digest, target in self._published(kind, name).items():
            facts = TargetFacts.model_validate(target.custom or {"release": 1})
            size = (target.custom or {}).get("size_bytes", target.length)
            found[digest] = Base(digest, facts.release, facts.release_floor, int(size))
        return found

    def versions(self, kind: ItemKind, name: str) -> Mapping[str, str]:
        """See `Catalogue`. Reads a small document a release of a daemon."""
        found = {}
        for digest, target in self._published(kind, name).items():
            if kind is ItemKind.BUNDLE:
                found[digest] = BundleFacts.model_validate(target.custom).version
            elif kind is ItemKind.DAEMON:
                data = self._repository.blobs.read(digest, MAX_DOCUMENT_BYTES)
                found[digest] = parse_release(data).version
            else:
                found[digest] = str(TargetFacts.model_validate(target.custom).release)
        return found

    def artefact(self, kind: ItemKind, name: str, digest: str) -> Artefact:
        """See `Catalogue`."""
        base = self.bases(kind, name).get(digest)
        if base is None:
            raise _not_published(kind, name, digest)
        try:
            if kind is ItemKind.BUNDLE:
                manifest = published_manifest(self._repository, digest)
                return Artefact.of(digest, manifest, self._deltas(name, digest))
            if kind is ItemKind.DAEMON:
                data = self._repository.blobs.read(digest, MAX_DOCUMENT_BYTES)
                return Artefact(digest, sum(item.size for item in parse_release(data).files))
        except BundleError as error:
            raise UsageError(
                f"what is published of {name} cannot be read: {error}; publish it again",
                code="not_readable",
            ) from error
        return Artefact(digest, base.bytes_full)

    def _published(self, kind: ItemKind, name: str) -> dict[str, TargetFile]:
        """Targets of a name by digest."""
        folder = f"{_FOLDERS[kind]}/{name}/"
        return {
            path.removeprefix(folder).removesuffix(".json"): target
            for path, target in self._targets(kind, name).items()
            if path.startswith(folder)
        }

    def _targets(self, kind: ItemKind, name: str) -> Mapping[str, TargetFile]:
        role = {ItemKind.SETTINGS: SETTINGS_ROLE, ItemKind.DAEMON: RELEASES_ROLE}.get(
            kind, model_role(name)
        )
        return read_targets(self._repository, role)

    def _deltas(self, name: str, digest: str) -> dict[str, int]:
        start = f"deltas/{name}/{digest}/"
        return {
            path.removeprefix(start).removesuffix(".json"): int(
                (target.custom or {}).get("size_bytes", 0)
            )
            for path, target in self._targets(ItemKind.BUNDLE, name).items()
            if path.startswith(start)
        }


def resolved(plan: RolloutPlan, catalogue: Catalogue) -> tuple[RolloutPlan, Artefact]:
    """The plan with the signed numbers of its change, and the change as planning sees it.

    Raises `PlanError` when the plan says others, `UsageError` when nothing such is published.
    """
    change = _with_digest(plan.change, catalogue)
    artefact = catalogue.artefact(change.kind, change.name, change.digest)
    base = catalogue.bases(change.kind, change.name)[change.digest]
    if change.release not in (0, base.release):
        raise PlanError(
            f"change.release: {change.digest[:12]} is release {base.release}, not {change.release}",
            param="change.release",
            code="invalid_plan",
        )
    floor = max(change.release_floor, base.release_floor)
    if floor > base.release:
        raise PlanError(
            f"change.release_floor: {floor} lies above release {base.release}",
            param="change.release_floor",
            code="invalid_plan",
        )
    known = change.model_copy(update={"release": base.release, "release_floor": floor})
    return plan.model_copy(update={"change": known}), artefact


def _with_digest(change: Change, catalogue: Catalogue) -> Change:
    """The change with the digest of its version, where it names one."""
    if not change.version:
        return change
    versions = catalogue.versions(change.kind, change.name)
    found = sorted(digest for digest, version in versions.items() if version == change.version)
    if change.digest and change.digest in versions:
        if change.digest in found:
            return change
        raise PlanError(
            f"change.version: {change.digest[:12]} is {change.name}@{versions[change.digest]}, "
            f"not {change.version}",
            param="change.version",
            code="invalid_plan",
        )
    if not change.digest and len(found) == 1:
        return change.model_copy(update={"digest": found[0]})
    if change.digest:
        raise _not_published(change.kind, change.name, change.digest)
    bases = catalogue.bases(change.kind, change.name)
    if found:
        many = ", ".join(f"{one} (release {bases[one].release})" for one in found[:MAX_NAMED])
        raise PlanError(
            f"change.version: {change.name}@{change.version} was published {len(found)} times; "
            f"say which by change.digest: {many}",
            param="change.version",
            code="ambiguous_version",
        )
    newest = sorted(versions, key=lambda one: -bases[one].release)[:MAX_NAMED]
    there = ", ".join(f"{change.name}@{versions[one]}" for one in newest) or "nothing"
    raise PlanError(
        f"change.version: no {change.kind} {change.name}@{change.version} is published; there is "
        f"{there}",
        param="change.version",
        code="not_published",
        status=404,
    )


def _not_published(kind: ItemKind, name: str, digest: str) -> UsageError:
    return UsageError(
        f"no {kind} of {name} with digest {digest[:12]}... is published; publish it first",
        param="change.digest",
        code="not_published",
        status=404,
    )

"""Publishing: bytes into the blob store, digests into signed metadata.

Rules
- Everything is verified before it is signed, and every blob is durable before metadata names it.
- Publishing the same thing again changes nothing, so a publish that was cut short is run again.
- Releases of a name rise: another bundle needs a higher number. Going back to an older bundle is a
  rollout, not a publication.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from tuf.api.metadata import Metadata, TargetFile, Targets

from edge_runtime.bundle.canonical import canonical_bytes
from edge_runtime.bundle.certificate import open_certificate
from edge_runtime.bundle.digests import FileDigest, bundle_digest, digest_chunks, model_digest
from edge_runtime.bundle.envelope import TrustedKeys, open_envelope, public_key_of_hex, seal, trust
from edge_runtime.bundle.manifest import BLOCK_BYTES, FileEntry, Manifest
from edge_runtime.bundle.pack import load_manifest, parse_manifest, verify
from edge_runtime.bundle.targets import (
    MAX_DOCUMENT_BYTES,
    RELEASES_ROLE,
    SETTINGS_ROLE,
    SETTINGS_TYPE,
    BundleFacts,
    DeltaSet,
    Release,
    TargetFacts,
    bundle_target,
    certificate_target,
    delta_target,
    model_role,
    release_target,
    settings_target,
)
from edge_runtime.errors import BundleError, ConfigError
from fleet.publish.keys import KeyRing
from fleet.publish.refresh import refresh
from fleet.publish.repository import Repository


@dataclass(frozen=True, slots=True)
class Published:
    """One publication.

    `target` is its path in the metadata, `digest` what rollouts name it by, `new_bytes` what the
    blob store did not have. `live` is False while the control host has still to sign snapshot and
    timestamp (`edge-fleet timestamp`).
    """

    target: str
    digest: str
    new_bytes: int
    live: bool


@dataclass(frozen=True)
class Publisher:
    """Publishes into `repository` with the keys of `ring`; signatures are dated `now`.

    Every method returns what is durable, raises `BundleError` when the content is refused and
    `ConfigError` when no key at hand may publish it; then boxes see nothing of it.
    """

    repository: Repository
    ring: KeyRing
    now: datetime

    def bundle(self, directory: Path, *, release_floor: int = 1) -> Published:
        """Publish a bundle directory. Reads every byte of it once or twice.

        `release_floor`: from now on no box may go below that release of the name. Raises
        `BundleError` when the bundle is not whole or its release number is taken.
        """
        files, blobs = self.repository.files, self.repository.blobs
        manifest = load_manifest(directory, files)
        verify(directory, manifest, files)
        data = canonical_bytes(manifest.document())
        digest = bundle_digest(manifest)
        role = model_role(manifest.name)
        with self.repository.locked():
            target = bundle_target(manifest.name, digest)
            self._check_release(role, target, manifest.release, release_floor)
            new_bytes = sum(
                blobs.put_file(directory / entry.path, FileDigest.of_entry(entry))
                for entry in manifest.files
            )
            facts = facts_of(manifest, release_floor).model_dump(mode="json")
            return self._put(role, target, data, facts, new_bytes)

    def delta(self, name: str, base: str, result: str) -> tuple[Published, DeltaSet]:
        """Make and publish deltas that turn bundle `base` of a name into bundle `result`.

        Costs minutes for gigabytes. Raises `BundleError` when one of them is not published.
        """
        from fleet.delta.make import make_deltas  # noqa: PLC0415 - needs onnx, the rest does not

        role = model_role(name)
        with self.repository.locked():
            published = read_targets(self.repository, role)
            for digest in (base, result):
                if bundle_target(name, digest) not in published:
                    raise BundleError(digest, f"is no published bundle of {name}: publish it")
            made = make_deltas(
                self.repository.blobs,
                self.repository.files,
                published_manifest(self.repository, base),
                published_manifest(self.repository, result),
            )
            size = sum(item.delta.size for item in made.files)
            target = delta_target(name, result, base)
            done = self._put(role, target, made.canonical(), {"size_bytes": size}, size)
            return done, made

    def settings(self, name: str, envelope: bytes, *, release_floor: int = 1) -> Published:
        """Publish a signed settings document, as its envelope; its release is the next number.

        Raises `BundleError` when no key that boxes trust for settings signed it.
        """
        with self.repository.locked():
            trusted = role_keys(self.repository, SETTINGS_ROLE)
            open_envelope(envelope, SETTINGS_TYPE, trusted, name=name)
            target = settings_target(name, hashlib.sha256(envelope).hexdigest())
            facts = self._next_facts(SETTINGS_ROLE, target, release_floor)
            return self._put(SETTINGS_ROLE, target, envelope, facts, len(envelope))

    def sealed_settings(self, document: Mapping[str, Any]) -> bytes:
        """A settings document signed with the settings keys at hand. Raises `ConfigError`."""
        ids = role_keys(self.repository, SETTINGS_ROLE)
        keys = [self.ring.keys[keyid] for keyid in ids if keyid in self.ring.keys]
        if not keys:
            raise ConfigError("no settings key is at hand; give --keys the folder that holds it")
        try:
            return seal(canonical_bytes(document), SETTINGS_TYPE, keys)
        except ValueError as error:
            raise BundleError("settings", str(error)) from error

    def certificate(self, name: str, document: bytes) -> Published:
        """Publish a signed certificate for model `name`.

        Raises `BundleError` when no key that may publish the model signed it.
        """
        role = model_role(name)
        with self.repository.locked():
            trusted = role_keys(self.repository, role)
            open_certificate(document, trusted, name=f"certificate of {name}")
            target = certificate_target(name, hashlib.sha256(document).hexdigest())
            return self._put(role, target, document, None, len(document))

    def release(
        self, name: str, version: str, paths: Sequence[Path], *, release_floor: int = 1
    ) -> Published:
        """Publish files of one release of a program, under their own names."""
        files, blobs = self.repository.files, self.repository.blobs
        digests = [digest_chunks(files.read_blocks(path, BLOCK_BYTES)) for path in paths]
        try:
            entries = tuple(
                FileEntry(path=path.name, size=item.size, sha256=item.sha256, blocks=item.blocks)
                for path, item in zip(paths, digests, strict=True)
            )
            data = Release(name=name, version=version, files=entries).canonical()
        except ValidationError as error:
            raise BundleError(name, error.errors()[0]["msg"]) from error
        with self.repository.locked():
            new_bytes = sum(
                blobs.put_file(path, digest) for path, digest in zip(paths, digests, strict=True)
            )
            target = release_target(name, hashlib.sha256(data).hexdigest())
            facts = self._next_facts(RELEASES_ROLE, target, release_floor)
            return self._put(RELEASES_ROLE, target, data, facts, new_bytes)

    def _check_release(self, role: str, target: str, release: int, floor: int) -> None:
        """Refuse a release number that another target of the name has, or has passed."""
        others = releases_of(self.repository, role, target)
        if target not in others and any(other >= release for other in others.values()):
            raise BundleError(
                f"{target} (release {release})",
                f"release {max(others.values())} is published already: give it a higher number",
            )
        if floor > release:
            raise BundleError(target, f"release {release} is below its own floor {floor}")

    def _next_facts(self, role: str, target: str, floor: int) -> dict[str, Any]:
        """Facts of a target whose release is the next number, or the one it has already."""
        others = releases_of(self.repository, role, target)
        release = others.get(target, max(others.values(), default=0) + 1)
        if floor > release:
            raise BundleError(target, f"would be release {release}, below its own floor {floor}")
        return TargetFacts(release=release, release_floor=floor).model_dump(mode="json")

    def _put(
        self, role: str, target: str, data: bytes, custom: dict[str, Any] | None, new_bytes: int
    ) -> Published:
        """Keep the target's file, name it in the role's metadata, make it visible."""
        if len(data) > MAX_DOCUMENT_BYTES:
            raise BundleError(target, f"is larger than the {MAX_DOCUMENT_BYTES} bytes boxes take")
        digest = self.repository.blobs.put(data)
        entry = TargetFile.from_data(target, data, ["sha256"])
        if custom is not None:
            entry.unrecognized_fields["custom"] = custom
        metadata = self.repository.delegated(role)
        if metadata is None or metadata.signed.targets.get(target) != entry:
            if metadata is None:
                metadata = Metadata(Targets(expires=self.now))
            else:
                metadata.signed.version += 1
            metadata.signed.targets[target] = entry
            delegators = (self.repository.targets(),)
            self.repository.sign(metadata, role, delegators, self.ring, self.now)
            self.repository.write(metadata, role)
        live = refresh(self.repository, self.ring, self.now)
        return Published(target, digest, new_bytes, live)


def facts_of(manifest: Manifest, release_floor: int = 1) -> BundleFacts:
    """What the metadata says of a bundle beside its digest."""
    return BundleFacts(
        release=manifest.release,
        release_floor=release_floor,
        version=manifest.version,
        kind=str(manifest.kind),
        size_bytes=sum(entry.size for entry in manifest.files),
        variants={
            item.name: sum(manifest.entry(path).size for path in {item.graph, *item.files})
            for item in manifest.variants
        },
        model_digests={item.name: model_digest(manifest, item.name) for item in manifest.variants},
    )


def published_manifest(repository: Repository, digest: str) -> Manifest:
    """The manifest of a published bundle, out of the blob store. Raises `BundleError`."""
    return parse_manifest(repository.blobs.read(digest, MAX_DOCUMENT_BYTES))


def find_bundle(repository: Repository, name: str, text: str) -> str:
    """The digest of a published bundle, by it or by its release number. Raises `BundleError`."""
    folder = bundle_target(name, "0" * 64)
    releases = releases_of(repository, model_role(name), folder)
    for path, release in releases.items():
        digest = path.rpartition("/")[2].removesuffix(".json")
        if text in (digest, str(release)):
            return digest
    raise BundleError(f"{name} {text}", "is no published bundle: give a release number or a digest")


def read_targets(repository: Repository, role: str) -> Mapping[str, TargetFile]:
    """What a delegated role has signed, by target path."""
    metadata = repository.delegated(role)
    return {} if metadata is None else metadata.signed.targets


def role_keys(repository: Repository, role: str) -> TrustedKeys:
    """The public keys of a delegated role, as `bundle.envelope` takes them."""
    delegations = repository.targets().signed.delegations
    if delegations is None or role not in (delegations.roles or {}):
        raise ConfigError(f"nobody may sign as {role}; run `edge-fleet keys delegate`")
    assert delegations.roles is not None
    keys = [delegations.keys[keyid] for keyid in delegations.roles[role].keyids]
    return trust(public_key_of_hex(key.keyval["public"], name=key.keyid) for key in keys)


def releases_of(repository: Repository, role: str, target: str) -> dict[str, int]:
    """Release numbers of all targets in the folder of `target`, by path."""
    folder = target.rpartition("/")[0]
    return {
        path: TargetFacts.model_validate(entry.custom).release
        for path, entry in read_targets(repository, role).items()
        if path.rpartition("/")[0] == folder
    }

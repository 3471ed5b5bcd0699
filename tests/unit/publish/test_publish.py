"""What publishing writes, what it refuses, and what a crash leaves of it."""

from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge_runtime.bundle.certificate import PAYLOAD_TYPE
from edge_runtime.bundle.envelope import seal
from edge_runtime.bundle.files import RealFiles
from edge_runtime.bundle.targets import (
    SETTINGS_TYPE,
    bundle_target,
    model_role,
    parse_release,
    role_paths,
)
from edge_runtime.errors import BundleError, CapacityError, ConfigError
from fleet.publish.initial import initialise
from fleet.publish.keys import KeyRing, read_key, write_key
from fleet.publish.overview import overview
from fleet.publish.publish import Publisher, published_manifest, read_targets
from fleet.publish.repository import Repository
from fleet.publish.roles import RoleKeys, delegate, renew, rotate
from tests.support.bundles import write_tiny_bundle
from tests.support.published import HOME, MemoryFleet, altered, box_of, ring_of, wanted


@pytest.fixture
def fleet() -> MemoryFleet:
    return MemoryFleet()


def test_every_file_of_a_bundle_and_its_manifest_become_blobs(fleet: MemoryFleet) -> None:
    digest = fleet.publish()
    manifest = published_manifest(fleet.repository, digest)
    assert all(fleet.repository.blobs.has(entry.sha256) for entry in manifest.files)
    target = read_targets(fleet.repository, model_role("tiny"))[bundle_target("tiny", digest)]
    assert target.hashes == {"sha256": digest}
    assert target.custom["size_bytes"] == sum(entry.size for entry in manifest.files)
    assert target.custom["variants"] == {"int8": len(b"graph") + 10}


def test_publishing_again_changes_nothing(fleet: MemoryFleet) -> None:
    fleet.publish()
    fleet.publish(release=2)
    before = fleet.metadata()
    fleet.publish(release=1)
    fleet.publish(release=2)
    assert fleet.metadata() == before


def test_a_release_number_that_is_taken_or_passed_is_refused(fleet: MemoryFleet) -> None:
    fleet.publish(release=2)
    before = fleet.metadata()
    with pytest.raises(BundleError, match="release 2 is published already"):
        fleet.publish(release=1)
    with pytest.raises(BundleError, match="below its own floor"):
        fleet.publish(release=3, floor=4)
    assert fleet.metadata() == before


def test_a_damaged_bundle_is_refused_and_nothing_is_written(fleet: MemoryFleet) -> None:
    write_tiny_bundle(Path("/build"), files=fleet.files)
    fleet.files.append(Path("/build/tokenizer.json"), b" ")
    before = fleet.metadata()
    with pytest.raises(BundleError, match=r"tokenizer\.json: has 3 bytes"):
        fleet.publisher.bundle(Path("/build"))
    assert fleet.metadata() == before


def test_a_model_nobody_delegated_is_refused(fleet: MemoryFleet) -> None:
    with pytest.raises(ConfigError, match="edge-fleet keys delegate"):
        fleet.publish(name="other")


def test_without_the_key_the_message_names_the_key_that_is_missing(fleet: MemoryFleet) -> None:
    fleet.ring = ring_of(fleet.keys["snapshot"], fleet.keys["timestamp"])
    with pytest.raises(ConfigError, match=r"model-tiny needs 1 more of the keys [0-9a-f]{12}"):
        fleet.publish()


async def test_a_publisher_without_online_keys_is_seen_after_the_control_host_signed(
    fleet: MemoryFleet,
) -> None:
    fleet.ring = ring_of(fleet.keys["publisher"])
    digest = fleet.publish()
    with pytest.raises(BundleError, match="publish it"):
        await box_of(fleet).verify(wanted(digest), now_s=None)
    fleet.ring = ring_of(fleet.keys["snapshot"], fleet.keys["timestamp"])
    assert fleet.refresh(force=False)
    assert (await box_of(fleet).verify(wanted(digest), now_s=None)).digest == digest


def test_online_roles_are_signed_again_at_half_of_their_life_and_not_before(
    fleet: MemoryFleet,
) -> None:
    fleet.publish()
    before = fleet.metadata()
    fleet.later(days=3)
    fleet.refresh(force=False)
    assert fleet.metadata() == before
    fleet.later(days=1)
    fleet.refresh(force=False)
    changed = {name for name, data in fleet.metadata().items() if before.get(name) != data}
    assert changed == {"timestamp.json"}
    fleet.later(days=11)
    fleet.refresh(force=False)
    assert "3.snapshot.json" in fleet.metadata()


@pytest.mark.parametrize("file", ["1.targets.json", "1.model-tiny.json", "1.root.json"])
def test_nothing_is_signed_on_top_of_metadata_that_was_altered(
    fleet: MemoryFleet, file: str
) -> None:
    fleet.publish()
    path = HOME / "metadata" / file
    data = altered(fleet.metadata()[file], lambda signed: signed.unrecognized_fields.update(x=1))
    fleet.files.unlink(path)
    fleet.files.create(path)
    fleet.files.append(path, data)
    with pytest.raises(BundleError, match="not signed by the keys it must be"):
        fleet.publish(release=2)


def test_versions_on_disk_are_never_changed(fleet: MemoryFleet) -> None:
    before = fleet.metadata()
    fleet.publish()
    delegate(
        fleet.repository,
        model_role("other"),
        RoleKeys((fleet.keys["publisher"].public_key(),)),
        fleet.ring,
        fleet.now,
    )
    fleet.publish(release=2)
    after = fleet.metadata()
    changed = {name for name, data in before.items() if after[name] != data}
    assert changed == {"timestamp.json"}


def test_two_publishers_do_not_write_at_once(fleet: MemoryFleet) -> None:
    write_tiny_bundle(Path("/build"), files=fleet.files)
    with fleet.repository.locked(), pytest.raises(CapacityError, match="another process"):
        fleet.publisher.bundle(Path("/build"))


def test_a_repository_is_made_once(fleet: MemoryFleet) -> None:
    with pytest.raises(ConfigError, match="has a root already"):
        initialise(fleet.repository, Path("/nowhere"), now=fleet.now)


# Settings, certificates, releases


def test_settings_signed_by_somebody_else_are_refused(fleet: MemoryFleet) -> None:
    envelope = seal(b"{}", SETTINGS_TYPE, [Ed25519PrivateKey.generate()])
    with pytest.raises(BundleError, match="no key that is trusted here"):
        fleet.publisher.settings("default", envelope)


def test_a_certificate_signed_by_somebody_else_is_refused(fleet: MemoryFleet) -> None:
    document = seal(b"{}", PAYLOAD_TYPE, [Ed25519PrivateKey.generate()])
    with pytest.raises(BundleError, match="no key that is trusted here"):
        fleet.publisher.certificate("tiny", document)


def test_settings_get_rising_release_numbers(fleet: MemoryFleet) -> None:
    for value in ("0.1", "0.2", "0.1"):
        envelope = fleet.publisher.sealed_settings({"alpha": value})
        fleet.publisher.settings("default", envelope)
    targets = read_targets(fleet.repository, "settings")
    assert sorted(item.custom["release"] for item in targets.values()) == [1, 2]


def test_a_release_lists_its_files_as_blobs(fleet: MemoryFleet) -> None:
    fleet.files.mkdir(Path("/dist"))
    fleet.files.create(Path("/dist/edge.whl"))
    fleet.files.append(Path("/dist/edge.whl"), b"wheel")
    done = fleet.publisher.release("edge-runtime", "1.2", [Path("/dist/edge.whl")])
    release = parse_release(fleet.repository.blobs.read(done.digest, 4096))
    assert [entry.path for entry in release.files] == ["edge.whl"]
    assert fleet.repository.blobs.has(release.files[0].sha256)


# Roles and keys


def test_only_roles_of_a_fleet_can_be_delegated() -> None:
    with pytest.raises(BundleError, match="is no role of a fleet"):
        role_paths("model-*")
    assert role_paths("model-tiny") == (
        "bundles/tiny/*",
        "certificates/tiny/*",
        "deltas/tiny/*/*",
    )


def test_a_threshold_no_one_can_reach_is_refused() -> None:
    key = Ed25519PrivateKey.generate().public_key()
    with pytest.raises(ConfigError, match="cannot be given"):
        RoleKeys((key, key), threshold=2)


def test_a_root_with_a_threshold_needs_that_many_of_the_old_keys(fleet: MemoryFleet) -> None:
    keys = [Ed25519PrivateKey.generate() for _ in range(3)]
    ring = fleet.ring.with_keys(keys)
    wanted_keys = RoleKeys(tuple(key.public_key() for key in keys), threshold=2)
    rotate(fleet.repository, "root", wanted_keys, ring, fleet.now)
    for few in (ring_of(keys[0]), fleet.ring):
        with pytest.raises(ConfigError, match="root needs"):
            renew(fleet.repository, "root", few, fleet.now)
    renew(fleet.repository, "root", ring_of(keys[0], keys[2]), fleet.now)
    assert overview(fleet.repository)[0].version == 3


def test_renewing_moves_the_expiry(fleet: MemoryFleet) -> None:
    fleet.publish()
    fleet.later(days=100)
    for role in ("root", "targets", model_role("tiny")):
        renew(fleet.repository, role, fleet.ring, fleet.now)
    states = {state.role: state for state in overview(fleet.repository)}
    for role in ("root", "targets", model_role("tiny")):
        assert states[role].version == 2
        expires = states[role].expires
        assert expires is not None
        assert expires - fleet.now > timedelta(days=364)
    with pytest.raises(ConfigError, match="nothing to renew"):
        renew(fleet.repository, "orders", fleet.ring, fleet.now)


@pytest.mark.parametrize("passphrase", [None, b"correct horse"])
def test_key_files_are_for_their_owner_only(tmp_path: Path, passphrase: bytes | None) -> None:
    path = tmp_path / "keys" / "root.pem"
    key = Ed25519PrivateKey.generate()
    write_key(path, key, passphrase)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert (b"ENCRYPTED" in path.read_bytes()) == (passphrase is not None)
    assert read_key(path, passphrase).private_bytes_raw() == key.private_bytes_raw()
    with pytest.raises(ConfigError, match="never overwritten"):
        write_key(path, key, passphrase)
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        read_key(path, passphrase)


@pytest.mark.parametrize(("passphrase", "reason"), [(None, "is encrypted"), (b"x", "another pass")])
def test_an_encrypted_key_needs_its_passphrase(
    tmp_path: Path, passphrase: bytes | None, reason: str
) -> None:
    write_key(tmp_path / "a.pem", Ed25519PrivateKey.generate(), b"y")
    with pytest.raises(ConfigError, match=reason):
        KeyRing.load([tmp_path], passphrase)


def test_a_link_in_place_of_a_key_is_not_followed(tmp_path: Path) -> None:
    write_key(tmp_path / "a" / "key.pem", Ed25519PrivateKey.generate(), None)
    (tmp_path / "b.pem").symlink_to(tmp_path / "a" / "key.pem")
    with pytest.raises(ConfigError, match=r"b\.pem"):
        read_key(tmp_path / "b.pem", None)


def test_on_disk_from_keys_to_a_published_bundle(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    repository = Repository(tmp_path / "repo", files=RealFiles())
    initialise(repository, tmp_path / "keys", models=["tiny"], now=now)
    write_tiny_bundle(tmp_path / "bundle")
    ring = KeyRing.load([tmp_path / "keys"])
    done = Publisher(repository, ring, now).bundle(tmp_path / "bundle")
    assert done.live
    assert (tmp_path / "repo" / "blobs" / "sha256" / done.digest).is_file()
    assert {path.stat().st_mode & 0o077 for path in (tmp_path / "keys").glob("*/*.pem")} == {0}

"""Who may sign what a box believes: keys, thresholds, delegation, rotation."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tuf.api.metadata import Metadata, Root, Snapshot, TargetFile, Targets, Timestamp

from edge_runtime.agent.protocol import ItemKind
from edge_runtime.agent.trust import MemoryMetadata
from edge_runtime.bundle.crash import CrashFiles
from edge_runtime.bundle.envelope import key_id, seal
from edge_runtime.bundle.targets import SETTINGS_TYPE, bundle_target, model_role
from edge_runtime.errors import BundleError, TransportError
from fleet.publish.roles import RoleKeys, delegate, rotate
from tests.support.published import MemoryFleet, altered, box_of, resigned, ring_of, wanted


@pytest.mark.parametrize("key", ["timestamp", "snapshot", "targets", "publisher"])
async def test_metadata_signed_by_another_key_is_refused(fleet: MemoryFleet, key: str) -> None:
    digest = fleet.publish()
    files = fleet.metadata()
    name = {
        "timestamp": "timestamp.json",
        "snapshot": "2.snapshot.json",
        "targets": "1.targets.json",
        "publisher": f"1.{model_role('tiny')}.json",
    }[key]
    files[name] = resigned(fleet, name, "orders", lambda signed: None)
    _describe_again(fleet, files)
    with pytest.raises(BundleError, match="not signed by the keys"):
        await box_of(fleet, MemoryMetadata(files)).verify(wanted(digest), now_s=None)


def _describe_again(fleet: MemoryFleet, files: dict[str, bytes]) -> None:
    """Let a fully malicious online host vouch for whatever `files` holds now."""
    snapshot: Metadata[Snapshot] = Metadata.from_bytes(files["2.snapshot.json"])
    keep = snapshot.signatures.keys() != {key_id(fleet.keys["snapshot"].public_key())}
    for role, meta in snapshot.signed.meta.items():
        data = files[f"{meta.version}.{role}"]
        meta.length, meta.hashes = len(data), None
    if not keep:
        snapshot.signatures.clear()
        (signer,) = fleet.ring.signers([key_id(fleet.keys["snapshot"].public_key())])
        snapshot.sign(signer)
        files["2.snapshot.json"] = snapshot.to_bytes()
    timestamp: Metadata[Timestamp] = Metadata.from_bytes(files["timestamp.json"])
    if timestamp.signatures.keys() == {key_id(fleet.keys["timestamp"].public_key())}:
        timestamp.signed.snapshot_meta.length = len(files["2.snapshot.json"])
        timestamp.signed.snapshot_meta.hashes = None
        timestamp.signatures.clear()
        (signer,) = fleet.ring.signers([key_id(fleet.keys["timestamp"].public_key())])
        timestamp.sign(signer)
        files["timestamp.json"] = timestamp.to_bytes()


async def test_unsigned_metadata_is_refused(fleet: MemoryFleet) -> None:
    digest = fleet.publish()
    source = fleet.source()
    document = json.loads(source.files["timestamp.json"])
    document["signatures"] = []
    source.files["timestamp.json"] = json.dumps(document).encode()
    with pytest.raises(BundleError, match="not signed by the keys"):
        await box_of(fleet, source).verify(wanted(digest), now_s=None)


async def test_a_signature_repeated_does_not_reach_a_threshold(fleet: MemoryFleet) -> None:
    digest = fleet.publish()
    two = [Ed25519PrivateKey.generate() for _ in range(2)]
    ring = ring_of(*fleet.keys.values(), *two)
    keys = tuple(key.public_key() for key in two)
    rotate(fleet.repository, "timestamp", RoleKeys(keys, threshold=2), ring, fleet.now)
    source = fleet.source()
    assert await box_of(fleet, source).verify(wanted(digest), now_s=None)

    one: Metadata[Timestamp] = Metadata.from_bytes(source.files["timestamp.json"])
    document = one.to_dict()
    kept = [item for item in document["signatures"] if item["keyid"] == key_id(keys[0])]
    for signatures in (kept, kept * 2):
        document["signatures"] = signatures
        source.files["timestamp.json"] = json.dumps(document).encode()
        with pytest.raises(BundleError):
            await box_of(fleet, source).verify(wanted(digest), now_s=None)


async def test_metadata_changed_after_signing_is_refused(fleet: MemoryFleet) -> None:
    digest = fleet.publish()
    source = fleet.source()
    source.files["timestamp.json"] = altered(
        source.files["timestamp.json"],
        lambda signed: setattr(signed, "expires", signed.expires + timedelta(days=900)),
    )
    with pytest.raises(BundleError, match="not signed by the keys"):
        await box_of(fleet, source).verify(wanted(digest), now_s=None)


async def test_a_key_for_one_model_cannot_publish_another(fleet: MemoryFleet) -> None:
    """The publisher of `tiny` signs a target of `other`; no delegation leads there."""
    fleet.publish()
    role = model_role("tiny")

    def name_other(signed: Targets) -> None:
        signed.version += 1
        path = bundle_target("other", "0" * 64)
        signed.targets[path] = TargetFile(1, {"sha256": "0" * 64}, path, {"custom": {"release": 1}})

    metadata = resigned(fleet, f"1.{role}.json", "publisher", name_other)
    fleet.files.create(Path(f"/srv/fleet/metadata/2.{role}.json"))
    fleet.files.append(Path(f"/srv/fleet/metadata/2.{role}.json"), metadata)
    other = Ed25519PrivateKey.generate()
    wanted_keys = RoleKeys((other.public_key(),))
    delegate(fleet.repository, model_role("other"), wanted_keys, fleet.ring, fleet.now)
    for item in (wanted("0" * 64, name="other"), wanted("0" * 64, name="third")):
        with pytest.raises((BundleError, TransportError)):
            await box_of(fleet).verify(item, now_s=None)


async def test_a_signed_hash_that_is_not_the_wanted_digest_is_refused(fleet: MemoryFleet) -> None:
    fleet.publish()
    role = model_role("tiny")
    path = bundle_target("tiny", "1" * 64)

    def lie(signed: Targets) -> None:
        signed.version += 1
        signed.targets[path] = TargetFile(1, {"sha256": "2" * 64}, path, {"custom": {"release": 1}})

    name = Path(f"/srv/fleet/metadata/2.{role}.json")
    fleet.files.create(name)
    fleet.files.append(name, resigned(fleet, f"1.{role}.json", "publisher", lie))
    fleet.refresh()
    with pytest.raises(BundleError, match="not the wanted digest"):
        await box_of(fleet).verify(wanted("1" * 64), now_s=None)


@pytest.mark.parametrize("role", ["root", "targets", "snapshot", "timestamp", model_role("tiny")])
async def test_a_box_follows_a_new_key_of_any_role(fleet: MemoryFleet, role: str) -> None:
    digest = fleet.publish()
    source = fleet.source()
    box = box_of(fleet, source)
    await box.verify(wanted(digest), now_s=None)
    key = Ed25519PrivateKey.generate()
    fleet.ring = fleet.ring.with_keys([key])
    rotate(fleet.repository, role, RoleKeys((key.public_key(),)), fleet.ring, fleet.now)
    second = fleet.publish(release=2)
    source.files = fleet.metadata()
    assert (await box.verify(wanted(second, release=2), now_s=None)).digest == second
    assert (await box_of(fleet).verify(wanted(second, release=2), now_s=None)).digest == second


async def test_a_root_that_skips_a_version_or_is_signed_by_itself_only_is_refused(
    fleet: MemoryFleet,
) -> None:
    digest = fleet.publish()
    stranger = MemoryFleet()
    mine: Metadata[Root] = Metadata.from_bytes(stranger.root)
    mine.signed.version = 2
    mine.signatures.clear()
    (signer,) = stranger.ring.signers([key_id(stranger.keys["root"].public_key())])
    mine.sign(signer)
    source = fleet.source()
    source.files["2.root.json"] = mine.to_bytes()
    with pytest.raises(BundleError, match="not signed by the keys"):
        await box_of(fleet, source).verify(wanted(digest), now_s=None)


async def test_boxes_with_the_old_root_follow_while_an_online_key_is_replaced(
    fleet: MemoryFleet,
) -> None:
    """Whatever call the publisher dies at, the metadata a box finds is whole."""
    digest = fleet.publish()
    assert isinstance(fleet.files, CrashFiles)
    fleet.files.sync()
    key = Ed25519PrivateKey.generate()
    ring = fleet.ring.with_keys([key])
    rotate(fleet.repository, "timestamp", RoleKeys((key.public_key(),)), ring, fleet.now)
    seen = set()
    for crash in fleet.files.crashes(seeds=(0,)):
        fleet.files = crash.files
        box = box_of(fleet)
        await box.verify(wanted(digest), now_s=None)
        seen.add("2.root.json" in fleet.metadata())
    assert seen == {False, True}


async def test_orders_keys_come_by_delegation_and_settings_are_opened_with_theirs(
    fleet: MemoryFleet,
) -> None:
    key = Ed25519PrivateKey.generate()
    fleet.ring = fleet.ring.with_keys([key])
    source = fleet.source()
    box = box_of(fleet, source)
    assert set(box.want_keys()) == {key_id(fleet.keys["orders"].public_key())}
    rotate(fleet.repository, "orders", RoleKeys((key.public_key(),)), fleet.ring, fleet.now)
    envelope = fleet.publisher.sealed_settings({"alpha": "0.1"})
    digest = fleet.publisher.settings("default", envelope).digest
    source.files = fleet.metadata()
    item = wanted(digest, kind=ItemKind.SETTINGS, name="default")
    assert (await box.verify(item, now_s=None)).size == len(envelope)
    assert set(box.want_keys()) == {key_id(key.public_key())}
    assert json.loads(box.open_settings(envelope)) == {"alpha": "0.1"}
    forged = seal(b'{"alpha":"0.9"}', SETTINGS_TYPE, [fleet.keys["orders"]])
    with pytest.raises(BundleError, match="no key that is trusted here"):
        box.open_settings(forged)

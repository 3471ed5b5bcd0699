"""What a box believes: the cases every TUF client must pass, and those of this fleet."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tuf.api.metadata import Metadata, Root, Snapshot, TargetFile, Targets, Timestamp

from edge_runtime.agent.contract import MetadataExpiredError
from edge_runtime.agent.protocol import ItemKind
from edge_runtime.agent.trust import MemoryMetadata
from edge_runtime.bundle.crash import CrashFiles
from edge_runtime.bundle.envelope import key_id, seal
from edge_runtime.bundle.targets import SETTINGS_TYPE, bundle_target, model_role
from edge_runtime.errors import BundleError, TransportError
from fleet.publish.roles import RoleKeys, delegate, rotate
from tests.support.published import MemoryFleet, altered, box_of, ring_of, wanted


@pytest.fixture
def fleet() -> MemoryFleet:
    return MemoryFleet()


def resigned(fleet: MemoryFleet, file: str, key: str, change: Callable[[Any], None]) -> bytes:
    """A metadata file with a change, signed by one key of the fleet."""
    metadata: Metadata[Any] = Metadata.from_bytes(fleet.metadata()[file])
    change(metadata.signed)
    metadata.signatures.clear()
    (signer,) = ring_of(fleet.keys[key]).signers([key_id(fleet.keys[key].public_key())])
    metadata.sign(signer)
    return metadata.to_bytes()


async def test_a_published_bundle_is_trusted_with_its_release_and_floor(fleet: MemoryFleet) -> None:
    first = fleet.publish(release=1)
    second = fleet.publish(release=2, floor=2)
    box = box_of(fleet)
    trusted = await box.verify(wanted(second, release=2), now_s=None)
    assert (trusted.digest, trusted.release, trusted.release_floor) == (second, 2, 2)
    assert (await box.verify(wanted(first), now_s=None)).release_floor == 2


async def test_what_nobody_signed_is_refused(fleet: MemoryFleet) -> None:
    fleet.publish()
    with pytest.raises(BundleError, match="no key that this box trusts"):
        await box_of(fleet).verify(wanted("0" * 64), now_s=None)


async def test_a_want_with_another_release_is_refused(fleet: MemoryFleet) -> None:
    digest = fleet.publish(release=1)
    with pytest.raises(BundleError, match="signed as release 1, the want says 7"):
        await box_of(fleet).verify(wanted(digest, release=7), now_s=None)


# Time


@pytest.mark.parametrize("days", [8, 29, 366])
async def test_expired_metadata_is_refused_and_the_message_says_whose_turn_it_is(
    days: int,
) -> None:
    fleet = MemoryFleet()
    fleet.later(days=-days)  # signed so long ago
    fleet = MemoryFleet(now=fleet.now)
    digest = fleet.publish()
    with pytest.raises(MetadataExpiredError, match="What serves goes on"):
        await box_of(fleet).verify(wanted(digest), now_s=None)


async def test_metadata_that_expired_by_the_time_the_box_was_told_is_refused(
    fleet: MemoryFleet,
) -> None:
    digest = fleet.publish()
    box = box_of(fleet)
    now_s = int(fleet.now.timestamp())
    assert await box.verify(wanted(digest), now_s=now_s)
    with pytest.raises(MetadataExpiredError, match="timestamp metadata expired"):
        await box.verify(wanted(digest), now_s=now_s + 8 * 86_400)


async def test_off_the_network_what_was_accepted_decides(fleet: MemoryFleet) -> None:
    digest = fleet.publish()
    source = fleet.source()
    box = box_of(fleet, source)
    await box.refresh(now_s=None)
    await box.verify(wanted(digest), now_s=None)
    source.down = True
    assert (await box.verify(wanted(digest), now_s=None)).digest == digest
    with pytest.raises(TransportError, match="cannot be reached"):
        await box.verify(wanted("0" * 64), now_s=None)


# Rollback, replay, freeze


@pytest.mark.parametrize("kind", ["timestamp", "snapshot", "targets", "model"])
async def test_metadata_older_than_what_was_seen_is_refused(fleet: MemoryFleet, kind: str) -> None:
    fleet.publish(release=1)
    old = fleet.metadata()
    digest = fleet.publish(release=2)
    delegate(
        fleet.repository,
        "settings",
        RoleKeys((fleet.keys["orders"].public_key(),)),
        fleet.ring,
        fleet.now,
    )
    files = CrashFiles()
    source = fleet.source()
    box = box_of(fleet, source, files=files)
    await box.verify(wanted(digest, release=2), now_s=None)

    newest = {**fleet.metadata()}
    if kind == "timestamp":  # a replay of everything as it was
        newest = old
    elif kind == "snapshot":  # a new timestamp over an old snapshot
        older = Metadata[Timestamp].from_bytes(old["timestamp.json"]).signed.snapshot_meta
        newest["timestamp.json"] = resigned(
            fleet, "timestamp.json", "timestamp", lambda signed: _next(signed, snapshot_meta=older)
        )
    else:  # a new snapshot over old targets
        role = "targets.json" if kind == "targets" else f"{model_role('tiny')}.json"
        version = Metadata[Timestamp].from_bytes(newest["timestamp.json"]).signed.snapshot_meta
        name = f"{version.version}.snapshot.json"

        def older_role(signed: Snapshot) -> None:
            signed.version += 1
            signed.meta[role].version -= 1
            signed.meta[role].length = signed.meta[role].hashes = None

        snapshot = resigned(fleet, name, "snapshot", older_role)
        newest[f"{version.version + 1}.snapshot.json"] = snapshot
        newest["timestamp.json"] = resigned(
            fleet, "timestamp.json", "timestamp", lambda signed: _point_at(signed, snapshot)
        )
    source.files = newest
    again = box_of(fleet, source, files=files)  # also after a restart
    with pytest.raises(BundleError, match="older than what this box has seen"):
        await again.verify(wanted("0" * 64), now_s=None)


def _next(signed: Timestamp, **changes: Any) -> None:
    signed.version += 1
    for name, value in changes.items():
        setattr(signed, name, value)


def _point_at(signed: Timestamp, snapshot: bytes) -> None:
    signed.version += 1
    signed.snapshot_meta.version += 1
    signed.snapshot_meta.length = len(snapshot)
    signed.snapshot_meta.hashes = None


async def test_after_a_fast_forward_new_keys_bring_lower_versions_back(
    fleet: MemoryFleet,
) -> None:
    """A stolen timestamp key signed a huge version; new keys in the root undo that."""
    digest = fleet.publish()
    source = fleet.source()
    box = box_of(fleet, source)
    source.files["timestamp.json"] = resigned(
        fleet, "timestamp.json", "timestamp", lambda signed: setattr(signed, "version", 10_000)
    )
    await box.refresh(now_s=None)
    source.files = fleet.metadata()
    with pytest.raises(BundleError, match="older than what this box has seen"):
        await box.verify(wanted("0" * 64), now_s=None)

    key = Ed25519PrivateKey.generate()
    ring = ring_of(key, *(fleet.keys[name] for name in ("root", "snapshot")))
    rotate(fleet.repository, "timestamp", RoleKeys((key.public_key(),)), ring, fleet.now)
    source.files = fleet.metadata()
    assert (await box.verify(wanted(digest), now_s=None)).digest == digest


# Signatures


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


async def test_parts_of_two_states_are_not_mixed(fleet: MemoryFleet) -> None:
    fleet.publish(release=1)
    before = fleet.metadata()
    digest = fleet.publish(release=2)
    source = fleet.source()
    role = model_role("tiny")
    source.files[f"2.{role}.json"] = before[f"1.{role}.json"]
    with pytest.raises(BundleError, match="does not belong together"):
        await box_of(fleet, source).verify(wanted(digest, release=2), now_s=None)


# Hostile bytes


@pytest.mark.parametrize("file", ["timestamp.json", "2.root.json", "2.snapshot.json"])
async def test_data_without_end_is_cut_off(fleet: MemoryFleet, file: str) -> None:
    digest = fleet.publish()
    source = fleet.source()
    source.files[file] = b" " * 6_000_000
    with pytest.raises(BundleError, match="larger than the limits"):
        await box_of(fleet, source).verify(wanted(digest), now_s=None)


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff\xfe", b"[]", b"{}", b'{"signed": 1}', b"[" * 10_000, b'{"signed": {"_type": 4}}'],
)
async def test_malformed_metadata_is_refused(fleet: MemoryFleet, data: bytes) -> None:
    digest = fleet.publish()
    source = fleet.source()
    source.files["timestamp.json"] = data
    with pytest.raises(BundleError, match="metadata of"):
        await box_of(fleet, source).verify(wanted(digest), now_s=None)


@pytest.mark.parametrize(
    "name", ["../tiny", "tiny/../other", "..", "/etc", "tiny\\x", "%2e%2e", "Tiny", ""]
)
def test_no_name_leads_out_of_its_folder(name: str) -> None:
    with pytest.raises(BundleError):
        bundle_target(name, "0" * 64)
    with pytest.raises(BundleError):
        bundle_target("tiny", f"../{'0' * 61}")


# Delegations


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


# Rotation


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


# Keys for envelopes


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


# The file it is kept in


async def test_what_was_accepted_survives_any_crash(fleet: MemoryFleet) -> None:
    first = fleet.publish(release=1)
    files = CrashFiles()
    source = fleet.source()
    await box_of(fleet, source, files=files).verify(wanted(first), now_s=None)
    files.sync()
    second = fleet.publish(release=2)
    source.files = fleet.metadata()
    await box_of(fleet, source, files=files).verify(wanted(second, release=2), now_s=None)
    done = len(files.calls)
    source.down = True
    for crash in files.crashes():
        box = box_of(fleet, source, files=crash.files)
        assert (await box.verify(wanted(first), now_s=None)).digest == first
        if crash.calls_made == done:  # acknowledged: it may not be forgotten
            assert await box.verify(wanted(second, release=2), now_s=None)


async def test_a_damaged_file_costs_only_the_memory(fleet: MemoryFleet) -> None:
    digest = fleet.publish()
    files = CrashFiles()
    await box_of(fleet, files=files).verify(wanted(digest), now_s=None)
    files.truncate(Path("/var/trust/trust.json"), 100)
    assert (await box_of(fleet, files=files).verify(wanted(digest), now_s=None)).digest == digest


async def test_a_fresh_answer_asks_nobody(fleet: MemoryFleet) -> None:
    digest = fleet.publish()
    source = fleet.source()
    box = box_of(fleet, source)
    await box.verify(wanted(digest), now_s=None)
    asked = len(source.asked)
    await box.verify(wanted(digest), now_s=None)
    assert (asked > 0, len(source.asked)) == (True, asked)


async def test_another_source_is_asked_when_one_is_bad(fleet: MemoryFleet) -> None:
    digest = fleet.publish()
    bad = MemoryMetadata({"timestamp.json": b"{}"}, "bad")
    box = box_of(fleet, bad, fleet.source())
    assert (await box.verify(wanted(digest), now_s=None)).digest == digest
    assert bad.asked

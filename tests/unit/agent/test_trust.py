"""What a box believes: the cases every TUF client must pass, and those of this fleet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tuf.api.metadata import Metadata, Snapshot, Timestamp

from edge_runtime.agent.contract import MetadataExpiredError
from edge_runtime.agent.trust import MemoryMetadata
from edge_runtime.bundle.crash import CrashFiles
from edge_runtime.bundle.targets import bundle_target, model_role
from edge_runtime.errors import BundleError, TransportError
from fleet.publish.roles import RoleKeys, delegate, rotate
from tests.support.published import MemoryFleet, box_of, resigned, ring_of, wanted


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

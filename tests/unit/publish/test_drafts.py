"""Several people sign root and targets one after another; boxes follow once enough have."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import Metadata, Root, Snapshot

from edge_runtime.bundle.envelope import key_id
from edge_runtime.errors import ConfigError
from fleet.publish.drafts import draft_renewal, draft_root_keys, look_at_draft, sign_draft
from fleet.publish.keys import KeyRing
from fleet.publish.roles import RoleKeys, renew, rotate
from tests.support.published import MemoryFleet, box_of, ring_of, wanted


@pytest.fixture
def people() -> list[Ed25519PrivateKey]:
    return [Ed25519PrivateKey.generate() for _ in range(3)]


@pytest.fixture
def fleet(people: list[Ed25519PrivateKey]) -> MemoryFleet:
    """Two of three people sign root, two of three the targets."""
    made = MemoryFleet()
    keys = tuple(key.public_key() for key in people)
    everybody = made.ring.with_keys(people)
    for role in ("root", "targets"):
        rotate(made.repository, role, RoleKeys(keys, 2), everybody, made.now)
    return made


def signatures(metadata: Metadata[Any]) -> int:
    return len(metadata.signatures)


async def test_a_root_counts_once_enough_people_signed_it(
    fleet: MemoryFleet, people: list[Ed25519PrivateKey]
) -> None:
    digest = fleet.publish()
    repository, before = fleet.repository, fleet.repository.newest("root")
    first = draft_renewal(repository, "root", ring_of(people[0]), fleet.now)
    assert (first.version, first.missing, first.changes) == (before + 1, 1, ())
    assert set(first.waiting) == {key_id(key.public_key()) for key in people[1:]}
    assert repository.newest("root") == before  # nothing is published yet
    again = sign_draft(repository, "root", ring_of(people[0]), fleet.now)
    assert again.missing == 1  # whoever signs twice is one person
    with pytest.raises(ConfigError, match="none of the keys at hand"):
        sign_draft(repository, "root", ring_of(Ed25519PrivateKey.generate()), fleet.now)
    done = sign_draft(repository, "root", ring_of(people[2]), fleet.now)
    assert (done.missing, done.live) == (0, True)
    assert repository.newest("root") == before + 1
    assert signatures(repository.root()) == 2
    assert (await box_of(fleet).verify(wanted(digest), now_s=None)).digest == digest
    with pytest.raises(ConfigError, match="there is no draft"):
        look_at_draft(repository, "root")


async def test_other_people_take_the_root_over(
    fleet: MemoryFleet, people: list[Ed25519PrivateKey]
) -> None:
    digest = fleet.publish()
    repository, new = fleet.repository, [Ed25519PrivateKey.generate() for _ in range(2)]
    keys = RoleKeys(tuple(key.public_key() for key in (people[0], *new)), 2)
    begun = draft_root_keys(repository, keys, ring_of(new[0]), fleet.now)
    assert f"root: key {key_id(new[1].public_key())} comes" in begun.changes
    assert f"root: key {key_id(people[1].public_key())} goes" in begun.changes
    # Two new people are enough for the new root, and nobody for the old one.
    both = sign_draft(repository, "root", ring_of(new[1]), fleet.now)
    assert both.missing == 2
    draft: Metadata[Root] = Metadata.from_bytes(
        repository.files.read(repository.root_path / "drafts" / "root.json", 1 << 20)
    )
    with pytest.raises(UnsignedMetadataError):
        repository.root().signed.verify_delegate("root", draft.signed_bytes, draft.signatures)
    assert sign_draft(repository, "root", ring_of(people[1]), fleet.now).missing == 1
    assert sign_draft(repository, "root", ring_of(people[2]), fleet.now).missing == 0
    assert set(repository.root().signed.roles["root"].keyids) == {
        key_id(key.public_key()) for key in (people[0], *new)
    }
    assert (await box_of(fleet).verify(wanted(digest), now_s=None)).digest == digest


async def test_targets_signed_by_two_become_visible(
    fleet: MemoryFleet, people: list[Ed25519PrivateKey]
) -> None:
    digest = fleet.publish()
    repository, before = fleet.repository, fleet.repository.newest("targets")
    alone = KeyRing({**fleet.ring.keys, **ring_of(people[0]).keys})
    with pytest.raises(ConfigError, match="targets needs 1 more of the keys"):
        renew(repository, "targets", alone, fleet.now)
    assert draft_renewal(repository, "targets", alone, fleet.now).missing == 1
    assert fleet.refresh()  # what is refreshed meanwhile does not take the draft for published
    snapshot = repository.read("snapshot", Snapshot)
    assert snapshot is not None
    assert snapshot.signed.meta["targets.json"].version == before
    without_online = sign_draft(repository, "targets", ring_of(people[1]), fleet.now)
    assert (without_online.missing, without_online.live) == (0, False)
    assert fleet.refresh()
    assert (await box_of(fleet).verify(wanted(digest), now_s=None)).digest == digest


def test_a_draft_that_was_overtaken_or_is_old_is_worth_nothing(
    fleet: MemoryFleet, people: list[Ed25519PrivateKey]
) -> None:
    repository = fleet.repository
    draft_renewal(repository, "root", ring_of(people[0]), fleet.now)
    with pytest.raises(ConfigError, match="is a draft already"):
        draft_renewal(repository, "root", ring_of(people[1]), fleet.now)
    with pytest.raises(ConfigError, match="has expired"):
        sign_draft(repository, "root", ring_of(people[1]), fleet.now + timedelta(days=400))
    renew(repository, "root", ring_of(*people), fleet.now)
    with pytest.raises(ConfigError, match="does not follow version"):
        sign_draft(repository, "root", ring_of(people[1]), fleet.now)
    for role in ("snapshot", "model-tiny"):
        with pytest.raises(ConfigError, match="signed by several people"):
            look_at_draft(repository, role)

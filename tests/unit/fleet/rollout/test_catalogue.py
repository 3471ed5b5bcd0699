"""Plans take their signed numbers from what is published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edge_runtime.agent.protocol import ItemKind
from edge_runtime.bundle.files import write_atomically
from edge_runtime.errors import UsageError
from fleet.rollout.catalogue import RepositoryCatalogue, StaticCatalogue, resolved
from fleet.rollout.inventory import Artefact
from fleet.rollout.plan import PlanError, RolloutPlan, check_plan
from fleet.rollout.progress import Base
from tests.support.published import MemoryFleet


@pytest.fixture(scope="module")
def fleet() -> MemoryFleet:
    made = MemoryFleet()
    made.publish(1)
    made.publish(2, floor=2, version="2.0.0")
    return made


def plan_of(digest: str, **change: Any) -> RolloutPlan:
    return check_plan({"name": "x", "change": {"name": "tiny", "digest": digest, **change}}, {})


def test_release_floor_and_sizes_are_those_that_were_signed(fleet: MemoryFleet) -> None:
    digest = fleet.publish(2, floor=2)
    plan, artefact = resolved(plan_of(digest), RepositoryCatalogue(fleet.repository))
    assert (plan.change.release, plan.change.release_floor) == (2, 2)
    assert artefact.digest == digest
    assert artefact.bytes_full > 0
    assert [needs.name for needs in artefact.variants] == ["int8"]
    assert artefact.variants[0].onnxruntime_floor


def test_all_of_a_name_are_known_as_what_to_go_back_to(fleet: MemoryFleet) -> None:
    catalogue = RepositoryCatalogue(fleet.repository)
    known = catalogue.bases(ItemKind.BUNDLE, "tiny")
    assert sorted(base.release for base in known.values()) == [1, 2]
    assert all(base.bytes_full > 0 for base in known.values())
    assert catalogue.bases(ItemKind.SETTINGS, "policy") == {}


def test_settings_are_as_large_as_their_document(fleet: MemoryFleet) -> None:
    publisher = fleet.publisher
    published = publisher.settings("policy", publisher.sealed_settings({"alpha": 0.05}))
    change = {"kind": "settings", "name": "policy", "digest": published.digest}
    plan, artefact = resolved(
        check_plan({"name": "x", "change": change}, {}), RepositoryCatalogue(fleet.repository)
    )
    assert plan.change.release == 1
    assert artefact.variants == ()
    assert artefact.bytes_full > 50


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"release": 7}, PlanError, r"change\.release: .* is release 1, not 7"),
        ({"release": 1, "release_floor": 1, "digest": "f" * 64}, UsageError, "publish it first"),
        ({"release_floor": 3}, PlanError, r"change\.release_floor: 3 lies above release 1"),
    ],
)
def test_what_is_not_so_is_refused(
    fleet: MemoryFleet, change: dict[str, Any], error: type[Exception], message: str
) -> None:
    plan = plan_of(**{"digest": fleet.publish(1), **change})
    with pytest.raises(error, match=message):
        resolved(plan, RepositoryCatalogue(fleet.repository))


def by_name(kind: str, name: str, **change: Any) -> RolloutPlan:
    return check_plan({"name": "x", "change": {"kind": kind, "name": name, **change}}, {})


def test_a_change_may_be_named_by_its_version(fleet: MemoryFleet) -> None:
    publisher, catalogue = fleet.publisher, RepositoryCatalogue(fleet.repository)
    digest = fleet.publish(2, floor=2)
    version = catalogue.versions(ItemKind.BUNDLE, "tiny")[digest]
    for change in ({"name": f"tiny@{version}"}, {"name": "tiny", "version": version}):
        plan, artefact = resolved(by_name("bundle", **change), catalogue)
        assert (plan.change.digest, artefact.digest) == (digest, digest)
        assert (plan.change.name, plan.change.release) == ("tiny", 2)
        assert resolved(plan, catalogue)[0] == plan  # as it is stored
    settings = publisher.settings("limits", publisher.sealed_settings({"alpha": 0.01}))
    assert resolved(by_name("settings", "limits@1"), catalogue)[0].change.digest == settings.digest
    wheel = Path("/build/edge.whl")
    write_atomically(fleet.files, wheel, b"wheel")
    release = publisher.release("edge-runtime", "1.2", [wheel])
    plan, _ = resolved(by_name("daemon", "edge-runtime@1.2"), catalogue)
    assert plan.change.digest == release.digest


def test_a_version_that_says_too_little_lists_what_there_is(fleet: MemoryFleet) -> None:
    catalogue = RepositoryCatalogue(fleet.repository)
    digests = [fleet.publish(1), fleet.publish(2, floor=2)]
    versions = catalogue.versions(ItemKind.BUNDLE, "tiny")
    with pytest.raises(PlanError, match=r"no bundle tiny@9\.9 is published; there is tiny@") as no:
        resolved(by_name("bundle", "tiny@9.9"), catalogue)
    assert all(versions[digest] in str(no.value) for digest in digests)
    assert (no.value.code, no.value.status) == ("not_published", 404)
    with pytest.raises(PlanError, match="there is nothing"):
        resolved(by_name("settings", "unheard@1"), catalogue)
    twice = StaticCatalogue(
        {digest: Base(digest, release=number, release_floor=1, bytes_full=1)
         for number, digest in enumerate(digests, 1)},
        {digest: Artefact(digest, 1) for digest in digests},
        dict.fromkeys(digests, "2.0"),
    )  # fmt: skip
    with pytest.raises(PlanError, match="was published 2 times") as many:
        resolved(by_name("bundle", "tiny@2.0"), twice)
    assert all(f"{digest} (release" in str(many.value) for digest in digests)
    plan = by_name("bundle", "tiny@2.0", digest=digests[1])
    assert resolved(plan, twice)[0].change.release == 2
    with pytest.raises(PlanError, match=r"is tiny@2\.0, not 3\.0"):
        resolved(by_name("bundle", "tiny@3.0", digest=digests[1]), twice)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "tiny"}, "name a version"),
        ({"name": "tiny@"}, "name a version"),
        ({"name": "tiny@1", "version": "2"}, "name says version 1, version 2"),
        ({"name": "tiny@1", "digest": "abc"}, "digest"),
        ({"name": "tiny@a b"}, "version"),
    ],
)
def test_a_change_without_a_name_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        check_plan({"name": "x", "change": change}, {})

"""Plans take their signed numbers from what is published."""

from __future__ import annotations

from typing import Any

import pytest

from edge_runtime.agent.protocol import ItemKind
from edge_runtime.errors import UsageError
from fleet.rollout.catalogue import RepositoryCatalogue, resolved
from fleet.rollout.plan import PlanError, RolloutPlan, check_plan
from tests.support.published import MemoryFleet


@pytest.fixture(scope="module")
def fleet() -> MemoryFleet:
    made = MemoryFleet()
    made.publish(1)
    made.publish(2, floor=2)
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

"""The bundle of rehearsals: an engine loads it, and refuses the one that promises too much."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.bundle.activation import Committed, Refused
from edge_runtime.bundle.store import Store
from edge_runtime.host import bundle_loader
from fleet.simulator.tiny import write_tiny_bundle
from tests.support.served import make_settings


@pytest.mark.parametrize(("right", "outcome"), [(True, Committed), (False, Refused)])
def test_it_is_served_where_its_golden_answer_is_right(
    tmp_path: Path, right: bool, outcome: type
) -> None:
    settings = make_settings(tmp_path / "store")
    write_tiny_bundle(tmp_path / "bundle", "demo", 2, right_golden=right)
    with Store.open(settings.store.path) as store:
        digest = store.stage(tmp_path / "bundle")
        found = store.activate("demo", digest, bundle_loader(settings))
    assert isinstance(found, outcome), found
    if isinstance(found, Refused):
        assert "golden input" in found.reason


def test_the_same_name_and_release_give_the_same_bytes(tmp_path: Path) -> None:
    one, again, other = (
        write_tiny_bundle(tmp_path / str(number), "demo", release)
        for number, release in enumerate((1, 1, 2))
    )
    assert one == again
    assert one.files != other.files

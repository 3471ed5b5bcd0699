"""Settings of the fleet over those of the box."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.agent.overlay import merged, over_settings, parse_overlay, with_overlays
from edge_runtime.config import Settings
from edge_runtime.config_file import parse_settings
from edge_runtime.errors import BundleError
from tests.support.documents import keep

BASE = parse_settings({"engine": {"threads": 2, "max_wait_s": 9.0}})


def test_tables_are_merged_and_values_replaced() -> None:
    assert merged({"a": {"b": 1, "c": 2}, "d": [1]}, {"a": {"b": 3}, "d": [2]}) == {
        "a": {"b": 3, "c": 2},
        "d": [2],
    }


def test_a_document_changes_what_it_names_and_nothing_else() -> None:
    changed = over_settings(BASE, parse_settings, parse_overlay(b'{"engine":{"max_wait_s":5}}'))
    assert isinstance(changed, Settings)
    assert (changed.engine.max_wait_s, changed.engine.threads) == (5.0, 2)
    assert changed.server == BASE.server


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b'{"engine":5}',
        b'{"server":{"host":"0.0.0.0"}}',
        b'{"store":{"path":"/"}}',
        b'{"agent":{"enabled":false}}',
        b'{"log":{"level":"debug"}}',
        b'{"engine":{},"engine":{}}',
    ],
)
def test_what_is_the_boxs_own_and_what_is_no_table_is_refused(data: bytes) -> None:
    with pytest.raises(BundleError):
        parse_overlay(data)


def test_what_does_not_fit_is_refused_with_its_key() -> None:
    with pytest.raises(BundleError, match=r"engine\.thread"):
        over_settings(BASE, parse_settings, parse_overlay(b'{"engine":{"thread":3}}'))


def test_a_kept_document_that_fits_no_more_is_left_out(tmp_path: Path) -> None:
    keep(tmp_path, "a-bad", {"engine": {"threads": -5}})
    keep(tmp_path, "b-good", {"engine": {"threads": 4}})
    keep(tmp_path, "c-torn", {"engine": {"threads": 5}}).write_bytes(b'{"payload":')
    keep(tmp_path, "d-missing", {"engine": {"threads": 6}}).unlink()
    (tmp_path / "settings" / "active" / "e-torn.json").write_text("{")
    assert with_overlays(BASE, parse_settings, tmp_path).engine.threads == 4
    assert with_overlays(BASE, parse_settings, tmp_path / "nothing") == BASE


def test_documents_count_in_the_order_of_their_names(tmp_path: Path) -> None:
    keep(tmp_path, "b", {"engine": {"threads": 4}})
    keep(tmp_path, "a", {"engine": {"threads": 3, "max_wait_s": 7}})
    settings = with_overlays(BASE, parse_settings, tmp_path)
    assert (settings.engine.threads, settings.engine.max_wait_s) == (4, 7.0)

"""The pages about the ledger, the prices and the cache say what the code does."""

from __future__ import annotations

import re
import tomllib
from dataclasses import fields
from decimal import Decimal
from pathlib import Path

from edge_runtime.cache.contract import OVERHEAD_BYTES, CacheLimits
from edge_runtime.ledger.prices import parse_prices
from edge_runtime.ledger.queries import By
from edge_runtime.ledger.rollup import Retention
from edge_runtime.ledger.rows import ATTEMPT_FIELDS


def page(repository: Path, name: str) -> str:
    return (repository / "docs" / "reference" / f"{name}.md").read_text(encoding="utf-8")


def test_the_example_list_is_valid(repository: Path) -> None:
    found = re.search(r"```toml\n(.*?)```", page(repository, "prices"), re.DOTALL)
    assert found is not None
    prices = parse_prices(tomllib.loads(found[1], parse_float=Decimal))
    prices.require(["example-large", "example-small"])
    assert prices.of("example-small").cached_input_pico == 40_500


def test_every_column_is_described(repository: Path) -> None:
    text = page(repository, "ledger")
    assert [name for name in ATTEMPT_FIELDS if f"`{name}`" not in text] == []


def test_every_bound_is_described_with_its_default(repository: Path) -> None:
    text = page(repository, "ledger")
    for one in fields(Retention):
        assert f"| `{one.name}` | {one.default:,} |" in text
    cache = page(repository, "cache")
    limits = CacheLimits()
    assert f"| `max_bytes` | {limits.max_bytes >> 20} MiB |" in cache
    assert f"| `max_entry_bytes` | {limits.max_entry_bytes >> 20} MiB |" in cache
    assert f"{OVERHEAD_BYTES} bytes a row" in cache


def test_every_breakdown_is_described(repository: Path) -> None:
    text = page(repository, "ledger")
    assert [by for by in By if f"`{by}`" not in text] == []

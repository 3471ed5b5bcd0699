"""The price list: what is read, what is refused."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest

from edge_runtime.errors import ConfigError
from edge_runtime.ledger.prices import FrontierPrice, load_prices, parse_prices

LIST = """
schema = 1
version = "2026-11"
as_of = 2026-11-01
currency = "USD"

[local]
tariff_per_kwh = 0.30
hardware_price = 900
hardware_months = 36
operations_per_month = 2
idle_watts = 12.5
busy_watts = 45

[frontier.big]
input = 2.50
cached_input = "0.01875"
output = 10
"""


@pytest.fixture
def list_path(tmp_path: Path) -> Path:
    path = tmp_path / "prices.toml"
    path.write_text(LIST, encoding="utf-8")
    return path


def test_a_list_is_read_exactly(list_path: Path) -> None:
    prices = load_prices(list_path)
    assert prices.of("big") == FrontierPrice(2_500_000, 18_750, 10_000_000)
    assert (prices.version, prices.as_of, prices.currency) == ("2026-11", date(2026, 11, 1), "USD")
    local = prices.local
    assert local.tariff_nano_per_kwh == 300_000_000
    assert local.hardware_nano_per_month == 25 * 10**9
    assert local.hardware_pico_per_busy_s == round(900 / (36 * 730 * 3600) * 1e12)
    assert (local.idle_milliwatts, local.busy_milliwatts) == (12_500, 45_000)


def test_an_unknown_price_is_an_error_that_says_what_to_add(list_path: Path) -> None:
    prices = load_prices(list_path)
    prices.require(["big"])
    with pytest.raises(ConfigError, match=r"no price for frontier model 'small'.*it has: big"):
        prices.require(["big", "small"])


def test_an_override_wins_key_by_key(list_path: Path, tmp_path: Path) -> None:
    override = tmp_path / "mine.toml"
    override.write_text('version = "mine-1"\n[frontier.big]\noutput = 8\n', encoding="utf-8")
    prices = load_prices(list_path, override)
    assert prices.version == "mine-1"
    assert prices.of("big") == FrontierPrice(2_500_000, 18_750, 8_000_000)


def test_an_override_names_its_own_version(list_path: Path, tmp_path: Path) -> None:
    override = tmp_path / "mine.toml"
    override.write_text("[frontier.big]\noutput = 8\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="version of its own"):
        load_prices(list_path, override)


def base() -> dict[str, object]:
    return {
        "schema": 1,
        "version": "1",
        "as_of": date(2026, 1, 1),
        "currency": "USD",
        "frontier": {"big": {"input": 1, "cached_input": 1, "output": 1}},
    }


def test_another_currency_is_exchanged() -> None:
    data = base() | {"exchange": {"EUR": "1.08"}}
    data["frontier"] = {
        "big": {"input": 1, "cached_input": Decimal("0.1"), "output": 1, "currency": "EUR"}
    }
    assert parse_prices(data).of("big") == FrontierPrice(1_080_000, 108_000, 1_080_000)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "schema"),
        ({"as_of": "soon"}, "as_of"),
        ({"currency": "dollars"}, "currency"),
        ({"frontier": {"big": {"input": 1, "output": 1}}}, r"frontier\.big\.cached_input"),
        (
            {"frontier": {"big": {"input": -1, "cached_input": 0, "output": 1}}},
            r"frontier\.big\.input",
        ),
        (
            {"frontier": {"big": {"input": 1.5, "cached_input": 0, "output": 1}}},
            r"frontier\.big\.input",
        ),
        (
            {"frontier": {"big": {"input": "0.0000001", "cached_input": 0, "output": 1}}},
            "more than 6 decimals",
        ),
        (
            {"frontier": {"big": {"input": 1, "cached_input": 1, "output": 1, "currency": "EUR"}}},
            r"exchange\.EUR",
        ),
        ({"local": {"hardware_months": 0}}, r"local\.hardware_months"),
        ({"local": {"hardware_price": "1e15"}}, "too large"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_wrong_list_is_refused_by_key(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_prices(base() | change)


@pytest.mark.parametrize("content", [None, b"schema = ", b"\xff"])
def test_an_unreadable_file_is_named(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"prices\.toml"):
        load_prices(path)

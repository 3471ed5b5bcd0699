"""What things cost: one TOML file with a version and a date, and a local override.

Rules
- A model without a price is an error when the daemon starts, never free.
- Numbers are read as decimals, not as floats, and kept as integers: see `money`.
- A price in another currency needs an exchange rate in the file; amounts of different
  currencies are never added.
- The override wins key by key and must name a version of its own: rows say by which list they
  were priced.

Example::

    prices = load_prices(Path("prices.toml"))
    prices.require(["big-model"])
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from edge_runtime.errors import ConfigError
from edge_runtime.ledger.money import divide_half_even, nano_from_decimal

MAX_PER_MILLION = Decimal(1_000_000)
_CURRENCY = re.compile(r"^[A-Z]{3}$")


def _decimal(value: object) -> object:
    """Take `2.50` and `"2.50"` alike; a float has lost digits before it gets here."""
    if isinstance(value, bool | float):
        raise ValueError("must be a number, or text that holds one")  # noqa: TRY004  # pydantic's
    return value


Money = Annotated[Decimal, BeforeValidator(_decimal), Field(ge=0, allow_inf_nan=False)]
PerMillion = Annotated[Money, Field(le=MAX_PER_MILLION)]
Currency = Annotated[str, Field(pattern=_CURRENCY.pattern)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _FrontierTable(_Table):
    input: PerMillion
    cached_input: PerMillion
    output: PerMillion
    currency: Currency | None = None


class _LocalTable(_Table):
    tariff_per_kwh: Money = Decimal(0)
    hardware_price: Money = Decimal(0)
    hardware_months: Annotated[Money, Field(gt=0, le=600)] = Decimal(36)
    busy_share: Annotated[Money, Field(gt=0, le=1)] = Decimal(1)
    operations_per_month: Money = Decimal(0)
    idle_watts: Annotated[Money, Field(le=100_000)] = Decimal(0)
    busy_watts: Annotated[Money, Field(le=100_000)] | None = None


class _File(_Table):
    schema_: Literal[1] = Field(alias="schema")
    version: str = Field(min_length=1, max_length=100)
    as_of: date
    currency: Currency
    exchange: dict[Currency, Annotated[Money, Field(gt=0)]] = Field(default_factory=dict)
    local: _LocalTable = Field(default_factory=_LocalTable)
    frontier: dict[str, _FrontierTable] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FrontierPrice:
    """Pico-units of the list's currency for one token of each kind."""

    input_pico: int
    cached_input_pico: int
    output_pico: int


@dataclass(frozen=True, slots=True)
class LocalPrice:
    """What the box itself costs, in the list's currency.

    `tariff_nano_per_kwh` and the two monthly amounts are nano-units; `hardware_pico_per_busy_s`
    spreads the hardware's price over the seconds it is expected to be busy.
    """

    tariff_nano_per_kwh: int = 0
    hardware_nano_per_month: int = 0
    hardware_pico_per_busy_s: int = 0
    operations_nano_per_month: int = 0
    idle_milliwatts: int = 0
    busy_milliwatts: int | None = None


@dataclass(frozen=True, slots=True)
class Prices:
    """A price list that was checked."""

    version: str
    as_of: date
    currency: str
    frontier: Mapping[str, FrontierPrice]
    local: LocalPrice = LocalPrice()

    def of(self, model: str) -> FrontierPrice:
        """The price of a frontier model. Raises `ConfigError` for one that has none."""
        try:
            return self.frontier[model]
        except KeyError:
            known = ", ".join(sorted(self.frontier)) or "none"
            raise ConfigError(
                f"no price for frontier model {model!r} in list {self.version}; "
                f'add [frontier."{model}"] with input, cached_input and output '
                f"(it has: {known})"
            ) from None

    def require(self, models: Iterable[str]) -> None:
        """Check at start that every model has a price. Raises `ConfigError`."""
        for model in models:
            self.of(model)


def load_prices(
    path: Path, override: Path | None = None, table: Mapping[str, Any] | None = None
) -> Prices:
    """Read, merge and check. Raises `ConfigError` naming the file and every wrong key.

    `table` is one more list, which was read already and wins over both files.
    """
    data, origin = _read(path), str(path)
    extras = [] if override is None else [(str(override), _read(override))]
    if table:
        extras.append(("prices.table", dict(table)))
    for name, extra in extras:
        if "version" not in extra:
            raise ConfigError(f"{name}: must name a version of its own")
        data, origin = _merge(data, extra), f"{origin} with {name}"
    return parse_prices(data, origin)


def parse_prices(data: Mapping[str, Any], origin: str = "prices") -> Prices:
    """Check a list that was read already; its numbers may be integers, `Decimal`s or texts."""
    try:
        file = _File.model_validate(dict(data))
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}"
            for item in error.errors()
        )
        raise ConfigError(f"{origin}: {problems}") from error
    frontier = {name: _frontier_price(name, one, file, origin) for name, one in _items(file)}
    return Prices(file.version, file.as_of, file.currency, frontier, _local_price(file, origin))


def _items(file: _File) -> Iterable[tuple[str, _FrontierTable]]:
    return sorted(file.frontier.items())


def _frontier_price(name: str, one: _FrontierTable, file: _File, origin: str) -> FrontierPrice:
    rate: Decimal | None = None
    if one.currency not in (None, file.currency):
        rate = file.exchange.get(one.currency or "")
        if rate is None:
            raise ConfigError(
                f"{origin}: frontier.{name} is priced in {one.currency}, the list in "
                f"{file.currency}; add the rate as exchange.{one.currency}"
            )

    def pico(key: str) -> int:
        per_million: Decimal = getattr(one, key)
        numerator, denominator = per_million.as_integer_ratio()
        exact = numerator * 10**6
        if rate is not None:
            up, down = rate.as_integer_ratio()
            return divide_half_even(exact * up, denominator * down)
        if exact % denominator:
            raise ConfigError(f"{origin}: frontier.{name}.{key} has more than 6 decimals; round it")
        return exact // denominator

    return FrontierPrice(pico("input"), pico("cached_input"), pico("output"))


HOURS_PER_MONTH = 730


def _local_price(file: _File, origin: str) -> LocalPrice:
    one = file.local
    busy_s = one.hardware_months * HOURS_PER_MONTH * 3600 * one.busy_share
    up, down = (one.hardware_price / busy_s).as_integer_ratio()
    try:
        return LocalPrice(
            tariff_nano_per_kwh=nano_from_decimal(one.tariff_per_kwh),
            hardware_nano_per_month=nano_from_decimal(one.hardware_price / one.hardware_months),
            hardware_pico_per_busy_s=divide_half_even(up * 10**12, down),
            operations_nano_per_month=nano_from_decimal(one.operations_per_month),
            idle_milliwatts=int(one.idle_watts * 1000),
            busy_milliwatts=None if one.busy_watts is None else int(one.busy_watts * 1000),
        )
    except ValueError as error:
        raise ConfigError(f"{origin}: local: {error}") from error


def _merge(base: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in extra.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            merged[key] = _merge(old, value)
        else:
            merged[key] = value
    return merged


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"), parse_float=Decimal)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; give a readable price list") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error

"""What a frontier says of its own calls: one answer about one call, or a whole statement. Pure.

Rules
- A line names a call by any of its ids; ours (`X-Client-Request-Id`) and the frontier's both do.
- Money that is named counts as it stands; tokens without money are priced by the price list.
  A line with neither is an error, never zero.
- Numbers are read as decimals: no amount passes through a binary fraction.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from edge_runtime.ledger.cost import frontier_cost
from edge_runtime.ledger.money import nano_from_decimal
from edge_runtime.ledger.prices import FrontierPrice
from edge_runtime.ledger.rows import Correction, MoneySource, Tokens, tokens_from_usage

ID_FIELDS = (
    "client_request_id", "x_client_request_id", "call_id", "generation_id", "request_id", "id",
)  # fmt: skip
COST_FIELDS = ("total_cost", "cost", "cost_usd", "amount", "usage")
# Of several counts the one by the model's own tokenizer is what is charged.
IN_FIELDS = ("native_tokens_prompt", "prompt_tokens", "input_tokens", "tokens_prompt")
CACHED_FIELDS = (
    "native_tokens_cached", "cached_tokens", "input_cached_tokens", "cached_input_tokens",
)  # fmt: skip
OUT_FIELDS = (
    "native_tokens_completion", "completion_tokens", "output_tokens", "tokens_completion",
)  # fmt: skip


class StatementError(ValueError):
    """What a frontier said of a call cannot be read; the message names the line and the field."""


@dataclass(frozen=True, slots=True)
class StatementLine:
    """One call as the frontier tells it; `nano` or `tokens` is there."""

    ids: tuple[str, ...]
    nano: int | None
    tokens: Tokens | None

    def cost_nano(self, price: FrontierPrice | None) -> int | None:
        """What was charged; None for tokens without a price."""
        if self.nano is not None:
            return self.nano
        if price is None or self.tokens is None:
            return None
        return frontier_cost(self.tokens, price)


def line_of(entry: Mapping[str, Any]) -> StatementLine:
    """One call. Raises `StatementError` for one without money and tokens, or with odd numbers."""
    ids = tuple(dict.fromkeys(str(entry[name]) for name in ID_FIELDS if entry.get(name)))
    try:
        nano = _nano(entry)
        tokens = _tokens(entry)
    except ValueError as error:
        raise StatementError(f"{ids[0] if ids else 'a call'}: {error}") from error
    if nano is None and tokens is None:
        raise StatementError(
            f"{ids[0] if ids else 'a call'}: it tells neither money "
            f"({', '.join(COST_FIELDS)}) nor tokens ({', '.join(IN_FIELDS)})"
        )
    return StatementLine(ids, nano, tokens)


def told_of_call(body: bytes) -> StatementLine:
    """The answer of an address that tells what one call cost. Raises `StatementError`."""
    found = _json(body)
    if isinstance(found, Mapping) and isinstance(found.get("data"), Mapping):
        found = found["data"]
    if not isinstance(found, Mapping):
        raise StatementError("the answer about a call is no JSON object")
    return line_of(found)


def read_statement(text: str, *, renamed: Mapping[str, str] | None = None) -> list[StatementLine]:
    """All calls of a JSON or CSV statement; `renamed` maps its columns to the names known here.

    JSON is a list of objects, or an object that holds one. Raises `StatementError`.
    """
    names = renamed or {}
    lines = []
    for number, entry in enumerate(_entries(text), 1):
        named = {names.get(key, _plain(key)): value for key, value in entry.items()}
        try:
            line = line_of(named)
        except StatementError as error:
            raise StatementError(f"entry {number}: {error}") from error
        if not line.ids:
            raise StatementError(
                f"entry {number} names no call ({', '.join(ID_FIELDS)}); say which column is the "
                "id with --column"
            )
        lines.append(line)
    return lines


def correction_of(
    line: StatementLine, call_id: str, at_us: int, price: FrontierPrice | None
) -> Correction:
    """The line as a correction of a call. Raises `StatementError` for tokens without a price."""
    nano = line.cost_nano(price)
    if nano is None:
        raise StatementError(f"{call_id}: tokens without a price; name the price list")
    source = MoneySource.USAGE if line.nano is None else MoneySource.STATEMENT
    return Correction(
        call_id=call_id, at_us=at_us, frontier_nano=nano, money_source=source, tokens=line.tokens
    )


def _entries(text: str) -> Sequence[Mapping[str, Any]]:
    if not text.lstrip().startswith(("[", "{")):
        return list(csv.DictReader(io.StringIO(text)))
    found = _json(text.encode())
    if isinstance(found, Mapping):
        lists = [value for value in found.values() if isinstance(value, list)]
        if len(lists) != 1:
            raise StatementError("a statement in JSON holds one list of calls")
        (found,) = lists
    if not all(isinstance(one, Mapping) for one in found):
        raise StatementError("a statement's list holds one object a call")
    return list(found)


def _json(data: bytes) -> Any:
    try:
        return json.loads(data, parse_float=Decimal)
    except (ValueError, RecursionError) as error:
        raise StatementError(f"no JSON: {error}") from error


def _plain(name: object) -> str:
    """`X-Client-Request-Id` and `Prompt Tokens` as they are named here."""
    return str(name or "").strip().lower().replace("-", "_").replace(" ", "_")


def _nano(entry: Mapping[str, Any]) -> int | None:
    for name in COST_FIELDS:
        value = entry.get(name)
        if value is None or value == "" or isinstance(value, Mapping | bool):
            continue
        try:
            return nano_from_decimal(Decimal(str(value).strip().lstrip("$€£").replace(",", "")))
        except InvalidOperation as error:
            raise ValueError(f"{name} is {value!r}, not an amount of money") from error
    return None


def _tokens(entry: Mapping[str, Any]) -> Tokens | None:
    usage = entry.get("usage")
    if isinstance(usage, Mapping):
        return tokens_from_usage(usage)
    counts = [_count(entry, names) for names in (IN_FIELDS, CACHED_FIELDS, OUT_FIELDS)]
    tokens_in, cached, tokens_out = counts
    if tokens_in is None or tokens_out is None:
        return None
    return Tokens(tokens_in, cached or 0, tokens_out)


def _count(entry: Mapping[str, Any], names: Sequence[str]) -> int | None:
    for name in names:
        value = entry.get(name)
        if value is None or value == "":
            continue
        text = str(value).strip()
        if not text.isdecimal():
            raise ValueError(f"{name} is {value!r}, not a number of tokens")
        return int(text)
    return None

"""Rows and a clock for tests of the ledger."""

from __future__ import annotations

from edge_runtime.ledger.rows import (
    Attempt,
    MoneySource,
    Tier,
)

NOW = 1_795_348_800_000_000  # 2026-11-22 12:00 UTC


class Clock:
    def __init__(self) -> None:
        self.us = NOW

    def __call__(self) -> int:
        return self.us


def row(number: int, at_us: int = NOW, **changes: object) -> Attempt:
    values: dict[str, object] = {
        "at_us": at_us,
        "request_id": f"r{number}",
        "task_id": f"t{number}",
        "tier": Tier.FRONTIER,
        "model": "big",
        "tokens_in": 10 + number,
        "tokens_out": 5,
        "frontier_nano": 1000 + number,
        "money_source": MoneySource.USAGE,
        "answered": True,
    }
    return Attempt(**{**values, **changes})  # type: ignore[arg-type]

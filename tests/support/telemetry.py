"""Telemetry rows and messages."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from edge_runtime.agent.protocol import (
    BatchHeader,
    BudgetState,
    Channel,
    CostLine,
    CostReport,
    ModelAtWork,
    Sample,
    Sketch,
    TelemetryRow,
    encode_batch,
    topic,
)
from fleet.ingest.decode import Message
from tests.support.fleet import DIGEST, NOW_S

MODEL_DIGEST = "cd" * 32
BOUNDS = (0.1, 0.5, 1.0)


def row(
    seq: int = 1, *, decisions: float = 10, escalations: float = 1, **changes: Any
) -> TelemetryRow:
    """Five minutes of a box that answers questions."""
    values: dict[str, Any] = {
        "seq": seq,
        "uptime_ms": seq * 300_000,
        "length_ms": 300_000,
        "clock_s": int(NOW_S),
        "models": {
            "assistant": ModelAtWork(
                version="1.0.0", bundle_digest=DIGEST, model_digest=MODEL_DIGEST
            )
        },
        "counts": (
            Sample(
                metric="edge_decisions_total",
                labels={"endpoint": "intent", "tier": "local", "reason": "confident"},
                value=decisions,
            ),
            Sample(
                metric="edge_escalations_total",
                labels={"endpoint": "intent", "reason": "low-score"},
                value=escalations,
            ),
            Sample(metric="edge_output_tokens_total", labels={"model": "assistant"}, value=50),
        ),
        "gauges": (Sample(metric="edge_queue_depth", labels={"model": "assistant"}, value=seq),),
        "sketches": (
            Sketch(
                metric="edge_http_request_seconds",
                labels={"route": "/v1/classify"},
                bounds=BOUNDS,
                counts=(8, 1, 1, 0),
                total=2.5,
            ),
        ),
    }
    return TelemetryRow(**{**values, **changes})


def batch(principal: str, *rows: TelemetryRow, **changes: Any) -> Message:
    """A message with these rows."""
    values: dict[str, Any] = {
        "boot": "boot-a",
        "stream": "serve",
        "first_seq": rows[0].seq,
        "last_seq": rows[-1].seq,
        "rows": len(rows),
        "clock_s": int(NOW_S),
    }
    received_s = changes.pop("received_s", NOW_S)
    header = BatchHeader(**{**values, **changes})
    name = topic(principal, Channel.TELEMETRY, "serve")
    return Message(name, encode_batch(header, rows), received_s)


def cost(*lines: CostLine, budgets: Sequence[BudgetState] = (), currency: str = "EUR") -> Any:
    """What a box booked."""
    return CostReport(currency=currency, lines=lines, budgets=tuple(budgets))


def cost_line(
    endpoint: str = "intent", owner: str = "shop", tier: str = "local", **sums: int
) -> CostLine:
    """Ten requests that were answered, of which eight resolved their task."""
    values = {
        "requests": 10, "answered": 10, "tasks": 10, "resolved": 8, "tokens_in": 900,
        "tokens_out": 100, "energy_nano": 2_000_000, "energy_uj": 4_000_000,
    }  # fmt: skip
    named: dict[str, Any] = {"endpoint": endpoint, "owner": owner, "tier": tier}
    return CostLine(**named, **(values | sums))


def budget(scope: str, spent: int, limit: int = 1000, **changes: Any) -> BudgetState:
    """A day's budget, in whole units of money."""
    day = datetime.fromtimestamp(NOW_S, UTC).strftime("%Y-%m-%d")
    values = {"period": "day", "window": day, "held_nano": 0} | changes
    nano = 1_000_000_000
    return BudgetState(scope=scope, limit_nano=limit * nano, spent_nano=spent * nano, **values)

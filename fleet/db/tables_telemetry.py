"""Tables of telemetry: raw rows that age out, rollups that stay, watermarks, cost, alerts."""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
)

from fleet.db.base import RowId, document, metadata, principal, time_s

telemetry_marks = Table(
    "telemetry_marks",
    metadata,
    principal(key=True),
    Column("boot", String(64), primary_key=True),
    Column("stream", String(32), primary_key=True),
    Column("mark", BigInteger, nullable=False),  # all rows up to it are here or given up
    document("ahead"),  # [first, last] pairs above the mark that are here
    Column("given_up", BigInteger, nullable=False),
    time_s("updated_s"),
    Index(None, "updated_s"),
)

telemetry_rows = Table(
    "telemetry_rows",
    metadata,
    principal(key=True),
    Column("boot", String(64), primary_key=True),
    Column("stream", String(32), primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    time_s("at_s"),
    time_s("received_s"),
    Column("row", LargeBinary, nullable=False),  # canonical JSON, zstd
    Index(None, "principal", "at_s"),
    Index(None, "received_s"),
)

box_hours = Table(
    "box_hours",
    metadata,
    principal(key=True),
    Column("model_digest", String(64), primary_key=True),  # '' is the box itself
    Column("hour_s", BigInteger, primary_key=True, autoincrement=False),
    document("sums"),
    Index(None, "hour_s"),
)

# One row a shard, so that ingest workers, who own shards, never wait for each other.
fleet_hours = Table(
    "fleet_hours",
    metadata,
    Column("model_digest", String(64), primary_key=True),
    Column("hour_s", BigInteger, primary_key=True, autoincrement=False),
    Column("shard", Integer, primary_key=True, autoincrement=False),
    document("sums"),
    Index(None, "hour_s"),
)

COST_SUMS: Final = (
    "requests", "answered", "tasks", "resolved", "tokens_in", "tokens_cached", "tokens_out",
    "frontier_nano", "energy_nano", "hardware_nano", "saved_nano", "energy_uj",
)  # fmt: skip

# Sums of the whole fleet. Not by shard: rows are added to in place, last in a transaction and in
# the order of their key, so that workers wait for each other only as long as a commit takes.
cost_hours = Table(
    "cost_hours",
    metadata,
    Column("hour_s", BigInteger, primary_key=True, autoincrement=False),
    Column("currency", String(3), primary_key=True),
    # '': all work; else what falls under a budget of this scope, on boxes that have it
    Column("scope", String(128), primary_key=True),
    Column("endpoint", String(128), primary_key=True),
    Column("owner", String(128), primary_key=True),
    Column("tier", String(16), primary_key=True),
    *(Column(name, BigInteger, nullable=False) for name in COST_SUMS),
)

box_budgets = Table(
    "box_budgets",
    metadata,
    principal(key=True),
    time_s("at_s"),
    Column("currency", String(3), nullable=False),
    document("budgets"),
)

alert_rules = Table(
    "alert_rules",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("expression", Text, nullable=False),
    Column("for_s", Integer, nullable=False),
    Column("severity", String(16), nullable=False),
    Column("description", Text, nullable=False),
    # The state of the rule now: when it began to hold, and the alert it raised.
    time_s("holding_since_s", optional=True),
    Column("alert", BigInteger, nullable=True),
)

alerts = Table(
    "alerts",
    metadata,
    Column("id", RowId, primary_key=True, autoincrement=True),
    Column("rule", String(64), nullable=False),
    Column("severity", String(16), nullable=False),
    time_s("raised_s"),
    time_s("cleared_s", optional=True),
    document("values"),
    # What was said to the webhook: each of raised and cleared, delivered or given up.
    Column("tries", Integer, nullable=False),
    time_s("next_try_s"),
    Column("told", String(16), nullable=False),  # waiting, told, given_up, nobody
    Column("last_error", Text, nullable=False),
    Index(None, "told"),
    Index(None, "raised_s"),
    sqlite_autoincrement=True,
)

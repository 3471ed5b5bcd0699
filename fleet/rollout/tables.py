"""Tables of rollouts: each rollout, its history, its boxes, its evidence and its verdicts.

Rules
- `rollouts.version` rises by one with every stored decision; a writer names the one it read.
- History, evidence and verdicts are only ever added to.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    String,
    Table,
    Text,
)

from fleet.db.base import RowId, document, metadata, principal, time_s


def _rollout(*, key: bool = False) -> Column[str]:
    return Column(
        "rollout",
        String(64),
        ForeignKey("rollouts.id", ondelete="CASCADE"),
        primary_key=key,
        nullable=False,
    )


rollouts = Table(
    "rollouts",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("name", String(128), nullable=False),  # of what is rolled out
    Column("phase", String(16), nullable=False),
    Column("version", BigInteger, nullable=False),
    document("state"),
    document("plan"),
    document("artefact"),
    Column("filed_by", String(64), nullable=False),
    time_s("filed_at_s"),
    document("strata"),
    Column("waves", Integer, nullable=False),
    # Nothing to do for a tick while this equals `version`.
    Column("rested_version", BigInteger, nullable=False),
    Index(None, "kind", "name"),
    Index(None, "phase"),
)

rollout_history = Table(
    "rollout_history",
    metadata,
    Column("id", RowId, primary_key=True, autoincrement=True),
    _rollout(),
    Column("before", String(16), nullable=False),
    Column("after", String(16), nullable=False),
    Column("wave", Integer, nullable=False),
    time_s("at_s"),
    Column("actor", String(64), nullable=False),
    Column("reason", Text, nullable=False),
    Column("gate", String(16), nullable=True),
    document("records"),
    Index(None, "rollout"),
    sqlite_autoincrement=True,
)

rollout_boxes = Table(
    "rollout_boxes",
    metadata,
    _rollout(key=True),
    principal(key=True),
    Column("stratum", String(256), nullable=False),
    Column("wave", Integer, nullable=False),
    Column("place", Integer, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("partner", String(129), nullable=True),
    Column("base", JSON(none_as_null=True), nullable=True),
    Column("base_generation", BigInteger, nullable=False),
    Column("status", String(16), nullable=False),
    Column("aim", String(8), nullable=False),
    Column("generation", BigInteger, nullable=False),
    Column("published_generation", BigInteger, nullable=False),
    time_s("offered_at_s", optional=True),
    time_s("exposed_at_s", optional=True),
    time_s("serving_at_s", optional=True),
    time_s("confirmed_at_s", optional=True),
    document("events"),
    Column("unreachable", Boolean, nullable=False),
    Column("pair", String(8), nullable=False),
    # The last report that was used; '' for none.
    Column("seen_generation", BigInteger, nullable=False),
    Column("seen_state", String(16), nullable=False),
    Column("seen_failure", String(32), nullable=False),  # <kind>/<code>
    Index(None, "rollout", "status", "wave", "place"),
    Index(None, "rollout", "place"),
)

rollout_evidence = Table(
    "rollout_evidence",
    metadata,
    _rollout(key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("sort", String(16), nullable=False),
    Column("box", String(129), nullable=False),
    Column("wave", Integer, nullable=False),
    time_s("at_s"),
    document("data"),
)

rollout_verdicts = Table(
    "rollout_verdicts",
    metadata,
    Column("id", RowId, primary_key=True, autoincrement=True),
    _rollout(),
    Column("guard", String(64), nullable=False),
    Column("wave", Integer, nullable=False),
    time_s("at_s"),
    Column("verdict", String(16), nullable=False),
    Column("reason", Text, nullable=False),
    document("numbers"),
    document("rule"),
    Column("upto", BigInteger, nullable=False),
    Column("rows_sha256", String(64), nullable=False),
    Column("program", String(32), nullable=False),
    Index(None, "rollout"),
    sqlite_autoincrement=True,
)

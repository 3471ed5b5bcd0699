"""The table of what was wanted of each box.

Rules
- A generation is stored before it is published; `boxes.want` is the newest, `generations` all.
- Generations of a box come from `boxes.generation`, one counter for all rollouts.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, LargeBinary, String, Table

from fleet.db.base import metadata, principal, time_s

generations = Table(
    "generations",
    metadata,
    principal(key=True),
    Column("generation", BigInteger, primary_key=True, autoincrement=False),
    Column("rollout", String(64), nullable=True),
    Column("want", LargeBinary, nullable=False),  # the signed envelope
    time_s("created_s"),
    Index(None, "rollout"),
)

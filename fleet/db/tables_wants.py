"""Tables of what is published and what is wanted of each box.

Rules
- A generation is stored before it is published; `boxes.want` is the newest, `generations` all.
- Generations of a box come from `boxes.generation`, one counter for all rollouts.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, LargeBinary, String, Table, UniqueConstraint

from fleet.db.base import document, metadata, principal, time_s

published = Table(
    "published",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("kind", String(16), nullable=False),  # bundle, settings, daemon
    Column("name", String(128), nullable=False),
    Column("version", String(96), nullable=False),
    Column("release", BigInteger, nullable=False),
    Column("release_floor", BigInteger, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    document("facts"),  # what deciders need of a manifest: floors, features, memory, digests
    time_s("published_s"),
    Column("published_by", String(64), nullable=False),
    time_s("withdrawn_s", optional=True),
    UniqueConstraint("kind", "name", "release"),
    Index(None, "kind", "name"),
)

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

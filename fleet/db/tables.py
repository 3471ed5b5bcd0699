"""Tables of the registry: boxes, groups, claims, credentials, tokens, audit."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
    false,
    text,
)

from fleet.db.base import RowId, document, metadata, principal, time_s

boxes = Table(
    "boxes",
    metadata,
    Column("principal", String(129), primary_key=True),
    Column("tenant", String(64), nullable=False),
    Column("name", String(64), nullable=False),
    Column("shard", Integer, nullable=False),
    Column("status", String(16), nullable=False),  # active, revoked
    time_s("created_s"),
    # What operators said (wins) and what the box said of itself.
    document("labels"),
    document("own_labels"),
    # The last `have`, and the parts of it that are sorted or searched by.
    Column("have", Text, nullable=True),
    Column("boot", String(64), nullable=False, server_default=""),
    Column("have_seq", BigInteger, nullable=False, server_default=text("0")),
    Column("link_number", BigInteger, nullable=False, server_default=text("0")),
    Column("online", Boolean, nullable=False, server_default=false()),
    Column("seen_generation", BigInteger, nullable=False, server_default=text("0")),
    time_s("last_contact_s", optional=True),
    Column("clock_offset_s", BigInteger, nullable=True),
    # The newest generation that was made for the box, and the signed document that holds it.
    Column("generation", BigInteger, nullable=False, server_default=text("0")),
    Column("want", LargeBinary, nullable=True),
    Index(None, "tenant"),
    Index(None, "shard"),
    Index(None, "last_contact_s"),
)

box_items = Table(
    "box_items",
    metadata,
    principal(key=True),
    Column("kind", String(16), primary_key=True),
    Column("name", String(128), primary_key=True),
    Column("generation", BigInteger, nullable=False),
    Column("rollout", String(64), nullable=True),
    Column("state", String(16), nullable=False),
    Column("active", String(64), nullable=True),
    Column("version", String(96), nullable=True),
    Column("failure_kind", String(16), nullable=True),
    Column("failure_code", String(16), nullable=True),
    time_s("since_s"),
    Index(None, "rollout"),
    Index(None, "state"),
)

groups = Table(
    "groups",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("expression", Text, nullable=False),
    Column("description", Text, nullable=False),
    time_s("created_s"),
)

claims = Table(
    "claims",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("secret_sha256", String(64), nullable=False, unique=True),
    Column("tenant", String(64), nullable=False),
    Column("box", String(64), nullable=True),
    document("labels"),
    Column("approve", Boolean, nullable=False),  # let in without asking anybody
    time_s("created_s"),
    time_s("expires_s"),
    Column("created_by", String(64), nullable=False),
    Column("used_by_key", String(64), nullable=True),
    time_s("used_s", optional=True),
    time_s("revoked_s", optional=True),
)

enrolments = Table(
    "enrolments",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("ticket_sha256", String(64), nullable=False, unique=True),
    Column("claim", String(32), nullable=False),
    Column("principal", String(129), nullable=False),
    Column("key_id", String(64), nullable=False),
    Column("state", String(16), nullable=False),  # pending, granted, refused
    Column("reason", Text, nullable=False),
    Column("request", Text, nullable=False),  # the checked EnrolRequest, without the claim
    time_s("created_s"),
    time_s("decided_s", optional=True),
    Column("decided_by", String(64), nullable=True),
    Index(None, "state"),
    Index(None, "claim", "key_id", unique=True),
)

credentials = Table(
    "credentials",
    metadata,
    Column("id", String(32), primary_key=True),
    principal(),
    Column("key_id", String(64), nullable=False),
    Column("public_key_pem", Text, nullable=False),
    # `next` was issued by a rotation and not used yet; `active` and `next` may sign.
    Column("state", String(16), nullable=False),  # active, next, retired, revoked
    Column("password_hash", Text, nullable=True),
    Column("certificate_pem", Text, nullable=True),
    Column("serial", String(40), nullable=True),
    time_s("issued_s"),
    time_s("expires_s", optional=True),
    time_s("ended_s", optional=True),
    Index(None, "principal", "state"),
    Index(None, "key_id", unique=True),
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("name", String(64), nullable=False, unique=True),
    Column("role", String(16), nullable=False),
    Column("secret_sha256", String(64), nullable=False, unique=True),
    time_s("created_s"),
    time_s("expires_s", optional=True),
    time_s("revoked_s", optional=True),
    time_s("used_s", optional=True),
)

audit = Table(
    "audit",
    metadata,
    Column("id", RowId, primary_key=True, autoincrement=True),
    time_s("at_s"),
    Column("actor", String(64), nullable=False),
    Column("role", String(16), nullable=False),
    Column("action", String(64), nullable=False),
    Column("object", String(256), nullable=False),
    document("detail"),
    Column("request_id", String(64), nullable=False),
    Index(None, "object"),
    sqlite_autoincrement=True,  # an id is never used twice, even if rows were taken away
)

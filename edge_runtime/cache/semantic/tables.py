"""The tables of the semantic cache's file."""

from __future__ import annotations

from edge_runtime.cache.file import SHARED_SCHEMA, Layout

# AUTOINCREMENT: numbers of entries that are gone must not come back, an index may still hold them.
# `vector` is float16; `answer` is last, so that reading a vector does not read the answer.
_SCHEMA = """
CREATE TABLE entries (
    entry INTEGER PRIMARY KEY AUTOINCREMENT,
    partition BLOB NOT NULL,
    tenant TEXT NOT NULL,
    model_digest TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    kept_s INTEGER NOT NULL,
    expires_s INTEGER NOT NULL,
    used INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    right INTEGER NOT NULL DEFAULT 0,
    wrong INTEGER NOT NULL DEFAULT 0,
    least_score REAL NOT NULL DEFAULT 0,
    text TEXT NOT NULL,
    vector BLOB NOT NULL,
    answer BLOB NOT NULL
) STRICT;
CREATE INDEX entries_by_partition ON entries (partition, text);
CREATE TABLE partitions (
    partition BLOB PRIMARY KEY,
    entries INTEGER NOT NULL,
    sha256 TEXT NOT NULL DEFAULT ''
) STRICT, WITHOUT ROWID;
CREATE TABLE audits (
    model_digest TEXT NOT NULL,
    encoder TEXT NOT NULL,
    n INTEGER NOT NULL,
    wrong INTEGER NOT NULL,
    capitals TEXT NOT NULL,
    peak REAL NOT NULL,
    PRIMARY KEY (model_digest, encoder)
) STRICT, WITHOUT ROWID;
CREATE TRIGGER partitions_in AFTER INSERT ON entries BEGIN
    INSERT INTO partitions (partition, entries) VALUES (NEW.partition, 1)
        ON CONFLICT DO UPDATE SET entries = entries + 1;
END;
CREATE TRIGGER partitions_out AFTER DELETE ON entries BEGIN
    UPDATE partitions SET entries = entries - 1 WHERE partition = OLD.partition;
    DELETE FROM partitions WHERE partition = OLD.partition AND entries = 0;
END;
"""

SEMANTIC = Layout(application_id=0x45444753, version=3, schema=_SCHEMA + SHARED_SCHEMA)  # "EDGS"
EVERY_VECTOR = "SELECT entry, vector FROM entries WHERE partition = ? AND epoch = ?"
SOME_VECTORS = f"{EVERY_VECTOR} ORDER BY entry DESC LIMIT ?"
ENTRY = "SELECT epoch, kept_s, expires_s, least_score, text, vector FROM entries WHERE entry = ?"
INSERT = (
    "INSERT INTO entries (partition, tenant, model_digest, epoch, kept_s, expires_s, used, bytes, "
    "text, vector, answer) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)

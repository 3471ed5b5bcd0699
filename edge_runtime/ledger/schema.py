"""The ledger's tables, and how older files become newer ones.

Rules
- `attempts`, `corrections`, `outcomes` and `comparisons` are append-only: triggers refuse every
  update, and every deletion of a row that is not summed up in `rollups` yet.
- Each entry of `MIGRATIONS` takes the schema from its index to the next version, in one
  transaction. They are never edited once released.
- A file of a newer version than this program knows is refused, not guessed at.
"""

from __future__ import annotations

import sqlite3

from edge_runtime.errors import ConfigError

APPLICATION_ID = 0x45444745  # "EDGE"

_ATTEMPTS = """
CREATE TABLE attempts (
    id INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used twice: rollups count up to an id
    at_us INTEGER NOT NULL,
    request_id TEXT NOT NULL,
    task_id TEXT NOT NULL,
    tier TEXT NOT NULL,
    model TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    tenant TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    tag TEXT NOT NULL,
    purpose TEXT NOT NULL,
    model_digest TEXT NOT NULL,
    tokens_in INTEGER NOT NULL,
    tokens_cached INTEGER NOT NULL,
    tokens_out INTEGER NOT NULL,
    frontier_nano INTEGER NOT NULL,
    energy_nano INTEGER NOT NULL,
    hardware_nano INTEGER NOT NULL,
    saved_nano INTEGER NOT NULL,
    money_source TEXT NOT NULL,
    price_version TEXT NOT NULL,
    energy_uj INTEGER NOT NULL,
    energy_source TEXT NOT NULL,
    duration_us INTEGER NOT NULL,
    status TEXT NOT NULL,
    reason TEXT NOT NULL,
    answered INTEGER NOT NULL
) STRICT;
CREATE INDEX attempts_by_task ON attempts (tenant, task_id);
CREATE INDEX attempts_by_time ON attempts (at_us);
CREATE TABLE outcomes (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at_us INTEGER NOT NULL,
    tenant TEXT NOT NULL,
    task_id TEXT NOT NULL,
    resolved INTEGER NOT NULL,
    explicit INTEGER NOT NULL,
    source TEXT NOT NULL
) STRICT;
CREATE INDEX outcomes_by_task ON outcomes (tenant, task_id);
CREATE VIEW verdicts AS
    SELECT tenant, task_id, resolved FROM (
        SELECT tenant, task_id, resolved, row_number() OVER (
            PARTITION BY tenant, task_id ORDER BY explicit DESC, id DESC
        ) AS place FROM outcomes
    ) WHERE place = 1
"""

_ROLLUPS = """
CREATE TABLE rollups (
    period TEXT NOT NULL,      -- 'day' or 'month'
    start_day INTEGER NOT NULL,  -- days since 1970-01-01
    tenant TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    tag TEXT NOT NULL,
    tier TEXT NOT NULL,
    purpose TEXT NOT NULL,
    model TEXT NOT NULL,
    model_digest TEXT NOT NULL,
    money_source TEXT NOT NULL,
    energy_source TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    requests INTEGER NOT NULL,
    answered INTEGER NOT NULL,
    tasks INTEGER NOT NULL,
    resolved INTEGER NOT NULL,
    tokens_in INTEGER NOT NULL,
    tokens_cached INTEGER NOT NULL,
    tokens_out INTEGER NOT NULL,
    frontier_nano INTEGER NOT NULL,
    energy_nano INTEGER NOT NULL,
    hardware_nano INTEGER NOT NULL,
    saved_nano INTEGER NOT NULL,
    energy_uj INTEGER NOT NULL,
    duration_us INTEGER NOT NULL,
    answered_in INTEGER NOT NULL,
    answered_cached INTEGER NOT NULL,
    answered_out INTEGER NOT NULL,
    answered_frontier_nano INTEGER NOT NULL,
    PRIMARY KEY (period, start_day, tenant, endpoint, tag, tier, purpose, model, model_digest,
                 money_source, energy_source)
) STRICT, WITHOUT ROWID;
CREATE TABLE rollup_mark (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    rolled_to INTEGER NOT NULL   -- the last attempt's id whose sums are in `rollups`
) STRICT;
INSERT INTO rollup_mark VALUES (1, 0)
"""

_TRIGGERS = (
    """
CREATE TRIGGER attempts_no_update BEFORE UPDATE ON attempts
BEGIN SELECT RAISE(ABORT, 'attempts are append-only'); END""",
    """
CREATE TRIGGER attempts_no_delete BEFORE DELETE ON attempts
WHEN OLD.id > (SELECT rolled_to FROM rollup_mark)
BEGIN SELECT RAISE(ABORT, 'attempts are append-only until they are rolled up'); END""",
    """
CREATE TRIGGER outcomes_no_update BEFORE UPDATE ON outcomes
BEGIN SELECT RAISE(ABORT, 'outcomes are append-only'); END""",
    """
CREATE TRIGGER outcomes_no_delete BEFORE DELETE ON outcomes
WHEN EXISTS (
    SELECT 1 FROM attempts AS a WHERE a.tenant = OLD.tenant AND a.task_id = OLD.task_id
    AND a.id > (SELECT rolled_to FROM rollup_mark)
)
BEGIN SELECT RAISE(ABORT, 'outcomes are append-only while their task has attempts'); END""",
)

_BUDGETS = """
CREATE TABLE reservations (
    reservation_id TEXT PRIMARY KEY,
    scopes TEXT NOT NULL,        -- JSON list
    at_us INTEGER NOT NULL,
    expires_us INTEGER NOT NULL,
    worst_nano INTEGER NOT NULL,
    state TEXT NOT NULL,         -- 'held', 'settled' or 'expired'
    booked_nano INTEGER NOT NULL  -- 0 while held
) STRICT, WITHOUT ROWID;
CREATE INDEX reservations_by_expiry ON reservations (state, expires_us);
CREATE TABLE budget_windows (
    scope TEXT NOT NULL,
    name TEXT NOT NULL,
    spent_nano INTEGER NOT NULL,
    held_nano INTEGER NOT NULL CHECK (held_nano >= 0),
    PRIMARY KEY (scope, name)
) STRICT, WITHOUT ROWID
"""

# Version 2: what a replay at another threshold needs.
_COMPARISONS = """
ALTER TABLE attempts ADD COLUMN score_ppm INTEGER;
ALTER TABLE attempts ADD COLUMN task TEXT NOT NULL DEFAULT '';
CREATE TABLE comparisons (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at_us INTEGER NOT NULL,
    request_id TEXT NOT NULL,
    agreed INTEGER NOT NULL,
    source TEXT NOT NULL,
    share_ppm INTEGER NOT NULL,
    score_ppm INTEGER,
    task TEXT NOT NULL,
    tenant TEXT NOT NULL,
    model_digest TEXT NOT NULL,
    certificate TEXT NOT NULL,
    after_id INTEGER NOT NULL  -- the last attempt's id when this was written
) STRICT;
CREATE INDEX comparisons_by_time ON comparisons (at_us);
CREATE INDEX comparisons_by_attempt ON comparisons (after_id)
"""

_COMPARISON_TRIGGERS = (
    """
CREATE TRIGGER comparisons_no_update BEFORE UPDATE ON comparisons
BEGIN SELECT RAISE(ABORT, 'comparisons are append-only'); END""",
    """
CREATE TRIGGER comparisons_no_delete BEFORE DELETE ON comparisons
WHEN OLD.after_id > (SELECT rolled_to FROM rollup_mark)
BEGIN SELECT RAISE(ABORT, 'comparisons are append-only until their attempts are rolled up'); END""",
)


# Version 3: prompts that were shortened before they were paid for.
_TRIMMED = """
ALTER TABLE attempts ADD COLUMN tokens_trimmed INTEGER NOT NULL DEFAULT 0;
ALTER TABLE rollups ADD COLUMN tokens_trimmed INTEGER NOT NULL DEFAULT 0
"""


# Version 4: what a call really cost, learned after its row was written.
_CORRECTIONS = """
ALTER TABLE attempts ADD COLUMN call_id TEXT NOT NULL DEFAULT '';
ALTER TABLE attempts ADD COLUMN remote_id TEXT NOT NULL DEFAULT '';
CREATE INDEX attempts_open ON attempts (call_id)
    WHERE money_source IN ('worst_case', 'estimate') AND call_id <> '';
CREATE TABLE corrections (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    attempt_id INTEGER NOT NULL UNIQUE,
    at_us INTEGER NOT NULL,
    tokens_in INTEGER,               -- NULL: only the money is known
    tokens_cached INTEGER,
    tokens_out INTEGER,
    frontier_nano INTEGER NOT NULL,
    money_source TEXT NOT NULL
) STRICT
"""

_CORRECTED = ("tokens_in", "tokens_cached", "tokens_out", "frontier_nano", "money_source")
_AS_IT_WAS = (
    "id", "at_us", "request_id", "task_id", "tier", "model", "attempt", "tenant", "endpoint",
    "tag", "purpose", "model_digest", "energy_nano", "hardware_nano", "saved_nano",
    "price_version", "energy_uj", "energy_source", "duration_us", "status", "reason", "answered",
    "score_ppm", "task", "tokens_trimmed", "call_id", "remote_id",
)  # fmt: skip
_BOOKED = (
    "CREATE VIEW booked AS SELECT "  # noqa: S608  # constants
    + ", ".join(f"a.{name} AS {name}" for name in _AS_IT_WAS)
    + ", "
    + ", ".join(f"coalesce(c.{name}, a.{name}) AS {name}" for name in _CORRECTED)
    + " FROM attempts AS a LEFT JOIN corrections AS c ON c.attempt_id = a.id"
)

_CORRECTION_TRIGGERS = (
    """
CREATE TRIGGER corrections_no_update BEFORE UPDATE ON corrections
BEGIN SELECT RAISE(ABORT, 'corrections are append-only'); END""",
    """
CREATE TRIGGER corrections_no_delete BEFORE DELETE ON corrections
WHEN OLD.attempt_id > (SELECT rolled_to FROM rollup_mark)
BEGIN SELECT RAISE(ABORT, 'corrections are append-only until they are rolled up'); END""",
)


def _statements(script: str) -> tuple[str, ...]:
    return tuple(part for part in script.split(";\n") if part.strip())


MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (*_statements(_ATTEMPTS), *_statements(_ROLLUPS), *_TRIGGERS, *_statements(_BUDGETS)),
    (*_statements(_COMPARISONS), *_COMPARISON_TRIGGERS),
    _statements(_TRIMMED),
    (*_statements(_CORRECTIONS), _BOOKED, *_CORRECTION_TRIGGERS),
)
VERSION = len(MIGRATIONS)


def migrate(
    connection: sqlite3.Connection, migrations: tuple[tuple[str, ...], ...] = MIGRATIONS
) -> None:
    """Bring an open file (autocommit mode) to the newest schema.

    Raises `ConfigError` for a file that is not a ledger, or is of a newer version.
    """
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (objects,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if application_id != APPLICATION_ID and (application_id or objects):
        raise ConfigError("the file is an SQLite database but not a ledger; name another file")
    if version > len(migrations):
        raise ConfigError(
            f"the ledger has schema {version}, this program knows up to {len(migrations)}; "
            "install the newer release again, or name another file"
        )
    for number in range(version, len(migrations)):
        connection.execute("BEGIN IMMEDIATE")
        try:
            # Another process may have come first while this one waited for the lock.
            if connection.execute("PRAGMA user_version").fetchone()[0] == number:
                for statement in migrations[number]:
                    connection.execute(statement)
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {number + 1}")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")

"""All tables, and how an older database becomes a newer one.

Rules
- A new database is made whole, at the newest version. An older one goes through `MIGRATIONS`,
  one transaction each; a test holds that both ways lead to the same tables.
- An entry is never edited once released. One of a newer program is refused, not guessed at.
- A part with tables of its own adds its module to `_MODULES`.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Final

from sqlalchemy import BigInteger, Column, Connection, Table, inspect, select, text

from edge_runtime.errors import ConfigError
from fleet.db.base import metadata

_MODULES: Final = (
    "fleet.db.tables",
    "fleet.db.tables_telemetry",
    "fleet.db.tables_wants",
    "fleet.rollout.tables",
)

Migration = Sequence[str]
"""SQL statements that both SQLite and PostgreSQL take."""

_COST: Final = (
    """
    CREATE TABLE cost_hours (
        hour_s BIGINT NOT NULL, currency VARCHAR(3) NOT NULL, scope VARCHAR(128) NOT NULL,
        endpoint VARCHAR(128) NOT NULL, owner VARCHAR(128) NOT NULL, tier VARCHAR(16) NOT NULL,
        requests BIGINT NOT NULL, answered BIGINT NOT NULL, tasks BIGINT NOT NULL,
        resolved BIGINT NOT NULL, tokens_in BIGINT NOT NULL, tokens_cached BIGINT NOT NULL,
        tokens_out BIGINT NOT NULL, frontier_nano BIGINT NOT NULL, energy_nano BIGINT NOT NULL,
        hardware_nano BIGINT NOT NULL, saved_nano BIGINT NOT NULL, energy_uj BIGINT NOT NULL,
        CONSTRAINT pk_cost_hours PRIMARY KEY (hour_s, currency, scope, endpoint, owner, tier)
    )""",
    """
    CREATE TABLE box_budgets (
        principal VARCHAR(129) NOT NULL, at_s DOUBLE PRECISION NOT NULL,
        currency VARCHAR(3) NOT NULL, budgets JSON NOT NULL,
        CONSTRAINT pk_box_budgets PRIMARY KEY (principal),
        CONSTRAINT fk_box_budgets_principal_boxes FOREIGN KEY (principal)
            REFERENCES boxes (principal) ON DELETE CASCADE
    )""",
)

MIGRATIONS: Final[tuple[Migration, ...]] = (_COST,)
"""`MIGRATIONS[i]` leads from version i + 1 to version i + 2."""

_LOCK_ID: Final = 0x45464C54  # "EFLT": PostgreSQL's advisory lock of whoever migrates

schema_version = Table("schema_version", metadata, Column("version", BigInteger, primary_key=True))


def newest_version(migrations: Sequence[Migration] = MIGRATIONS) -> int:
    """The version this program works with."""
    return len(migrations) + 1


def migrate(connection: Connection, migrations: Sequence[Migration] = MIGRATIONS) -> int:
    """Bring the database of this write transaction to the newest version; gives that version.

    Raises `ConfigError` for a database of a newer program or of another one.
    """
    for module in _MODULES:
        importlib.import_module(module)
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:id)"), {"id": _LOCK_ID})
    found = _version(connection)
    newest = newest_version(migrations)
    if found is None:
        metadata.create_all(connection)
        connection.execute(schema_version.insert().values(version=newest))
    elif found > newest:
        raise ConfigError(
            f"the database has version {found}, this program knows {newest}; install a newer one"
        )
    else:
        for statements in migrations[found - 1 :]:
            for statement in statements:
                connection.execute(text(statement))
        connection.execute(schema_version.update().values(version=newest))
    return newest


def _version(connection: Connection) -> int | None:
    tables = inspect(connection).get_table_names()
    if schema_version.name not in tables:
        if tables:
            raise ConfigError(
                f"the database holds tables of something else ({sorted(tables)[0]}, ...); "
                "name an empty one"
            )
        return None
    version: int = connection.execute(select(schema_version.c.version)).scalar_one()
    return version

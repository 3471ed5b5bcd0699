"""What all tables share: one metadata, one naming of constraints, one column for each idea.

Rules
- Times are UTC epoch seconds in columns that end in `_s`.
- `principal` is `<tenant>~<box>`; digests are 64 hex digits.
- Documents that are only stored and shown are JSON; what is asked for is a column.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, BigInteger, Column, Double, Integer, MetaData, String
from sqlalchemy.schema import ForeignKey

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite counts only INTEGER primary keys up by itself.
RowId = BigInteger().with_variant(Integer(), "sqlite")


def time_s(name: str, *, optional: bool = False) -> Column[float]:
    """A time in UTC epoch seconds."""
    return Column(name, Double, nullable=optional)


def principal(*, key: bool = False) -> Column[str]:
    """The box a row belongs to; rows of a box that is deleted go with it."""
    return Column(
        "principal",
        String(129),
        ForeignKey("boxes.principal", ondelete="CASCADE"),
        primary_key=key,
        nullable=False,
    )


def document(name: str) -> Column[Any]:
    """A JSON document, never null."""
    return Column(name, JSON(none_as_null=True), nullable=False)

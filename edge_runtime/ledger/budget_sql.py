"""Budgets on disk: each function is one command of the ledger's writer.

`budget_windows` holds running totals; `audit` shows that they equal what the reservations say.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable

from edge_runtime.ledger.budget import (
    Change,
    Expiry,
    Limit,
    Refused,
    Reservation,
    Usage,
    Window,
    decide,
    expired_cost,
    settle,
    windows_of,
)
from edge_runtime.ledger.rows import US_PER_DAY

KEEP_SETTLED_US = 62 * US_PER_DAY  # past the end of the month they were made in
KEEP_WINDOWS_DAYS = 800
EXPIRE_AT_ONCE = 1000  # reservations in one transaction


def usage_of(connection: sqlite3.Connection, windows: Iterable[Window]) -> dict[Window, Usage]:
    """What windows have used; those that are unused are absent."""
    found = {}
    for window in windows:
        row = connection.execute(
            "SELECT spent_nano, held_nano FROM budget_windows WHERE scope = ? AND name = ?",
            (window.scope, window.name),
        ).fetchone()
        if row is not None:
            found[window] = Usage(row["spent_nano"], row["held_nano"])
    return found


def reserve(
    connection: sqlite3.Connection, request: Reservation, limits: Iterable[Limit]
) -> Reservation | Refused:
    """Hold the worst case, or say which limit forbids it.

    Raises `ValueError` when the id was used before.
    """
    known = connection.execute(
        "SELECT 1 FROM reservations WHERE reservation_id = ?", (request.reservation_id,)
    ).fetchone()
    if known is not None:
        raise ValueError(f"reservation {request.reservation_id} was made before")
    usage = usage_of(connection, windows_of(request.scopes, request.at_us))
    decision = decide(request, limits, usage)
    if isinstance(decision, Refused):
        return decision
    connection.execute(
        "INSERT INTO reservations VALUES (?, ?, ?, ?, ?, 'held', 0)",
        (
            request.reservation_id,
            json.dumps(request.scopes),
            request.at_us,
            request.expires_us,
            request.worst_nano,
        ),
    )
    _change(connection, decision)
    return request


def settle_reservation(
    connection: sqlite3.Connection, reservation_id: str, actual_nano: int
) -> Reservation:
    """Replace the worst case by the real cost.

    Raises `ValueError` for a reservation that is unknown (never made, or settled and forgotten)
    or settled already: one call is never paid twice.
    """
    row = connection.execute(
        "SELECT * FROM reservations WHERE reservation_id = ?", (reservation_id,)
    ).fetchone()
    if row is None:
        raise ValueError(f"reservation {reservation_id} is not known")
    if row["state"] == "settled":
        raise ValueError(f"reservation {reservation_id} is settled already")
    reservation = _reservation(row)
    booked = row["booked_nano"] if row["state"] == "expired" else None
    _change(connection, settle(reservation, actual_nano, expired_at_nano=booked))
    _book(connection, reservation_id, "settled", actual_nano)
    return reservation


def rebook(connection: sqlite3.Connection, reservation_id: str, actual_nano: int) -> None:
    """Replace what a settled reservation was booked at, in the windows it was made in.

    One that is forgotten lies in windows no limit looks at any more: nothing is done.
    """
    row = connection.execute(
        "SELECT * FROM reservations WHERE reservation_id = ? AND state = 'settled'",
        (reservation_id,),
    ).fetchone()
    if row is None:
        return
    booked = row["booked_nano"]
    _change(connection, settle(_reservation(row), actual_nano, expired_at_nano=booked))
    _book(connection, reservation_id, "settled", actual_nano)


def expire(connection: sqlite3.Connection, now_us: int, rule: Expiry) -> list[Reservation]:
    """Book reservations whose time is over, by the rule; at most a thousand a call."""
    rows = connection.execute(
        "SELECT * FROM reservations WHERE state = 'held' AND expires_us <= ? "
        "ORDER BY expires_us LIMIT ?",
        (now_us, EXPIRE_AT_ONCE),
    ).fetchall()
    expired = [_reservation(row) for row in rows]
    for reservation in expired:
        cost = expired_cost(reservation, rule)
        _change(connection, settle(reservation, cost))
        _book(connection, reservation.reservation_id, "expired", cost)
    return expired


def held(connection: sqlite3.Connection) -> list[Reservation]:
    """Reservations nobody has settled yet, oldest first."""
    rows = connection.execute("SELECT * FROM reservations WHERE state = 'held' ORDER BY at_us")
    return [_reservation(row) for row in rows]


def unsettled(connection: sqlite3.Connection, since_us: int, before_us: int) -> list[Reservation]:
    """Reservations made in a while that nobody settled, held or expired."""
    rows = connection.execute(
        "SELECT * FROM reservations WHERE state <> 'settled' AND at_us >= ? AND at_us < ?",
        (since_us, before_us),
    )
    return [_reservation(row) for row in rows]


def forget(connection: sqlite3.Connection, now_us: int) -> None:
    """Drop reservations and windows that no limit can look at any more."""
    connection.execute(
        "DELETE FROM reservations WHERE state <> 'held' AND at_us < ?", (now_us - KEEP_SETTLED_US,)
    )
    # Names are dates, so they sort; a month's name sorts before its days.
    connection.execute(
        "DELETE FROM budget_windows WHERE held_nano = 0 AND name < "
        "strftime('%Y-%m', ? / 1000000 - ? * 86400, 'unixepoch')",
        (now_us, KEEP_WINDOWS_DAYS),
    )


def audit(connection: sqlite3.Connection) -> list[Window]:
    """Windows whose held total is not the sum of their held reservations; empty when right."""
    expected: dict[Window, int] = {}
    for reservation in held(connection):
        for window in windows_of(reservation.scopes, reservation.at_us):
            expected[window] = expected.get(window, 0) + reservation.worst_nano
    rows = connection.execute("SELECT * FROM budget_windows").fetchall()
    found = {Window(row["scope"], row["name"]): row["held_nano"] for row in rows}
    return sorted(
        window for window in expected | found if expected.get(window, 0) != found.get(window, 0)
    )


def _change(connection: sqlite3.Connection, changes: Iterable[Change]) -> None:
    for change in changes:
        # The check on held_nano looks at a row before an upsert resolves: so first make it.
        connection.execute(
            "INSERT OR IGNORE INTO budget_windows VALUES (?, ?, 0, 0)",
            (change.window.scope, change.window.name),
        )
        connection.execute(
            "UPDATE budget_windows SET spent_nano = spent_nano + ?, held_nano = held_nano + ? "
            "WHERE scope = ? AND name = ?",
            (change.spent_nano, change.held_nano, change.window.scope, change.window.name),
        )


def _book(connection: sqlite3.Connection, reservation_id: str, state: str, nano: int) -> None:
    connection.execute(
        "UPDATE reservations SET state = ?, booked_nano = ? WHERE reservation_id = ?",
        (state, nano, reservation_id),
    )


def _reservation(row: sqlite3.Row) -> Reservation:
    return Reservation(
        row["reservation_id"],
        tuple(json.loads(row["scopes"])),
        row["at_us"],
        row["expires_us"],
        row["worst_nano"],
    )

"""Money budgets: the decisions. Pure; `budget_sql` and `memory` keep the state.

Rules
- Before a call its worst-case cost is reserved. What is held counts as spent, whoever holds it
  and whether that process still lives; so calls in flight can never pass a limit together.
- A reservation belongs to the day and the month (UTC) it was made in, also when it is settled
  later.
- Settling replaces the worst case by what the call really cost. A call that was never sent is
  settled at 0.
- A reservation nobody settles expires: under `CHARGE` its worst case stays spent (the frontier
  may have billed it), under `RELEASE` it is given back. A settlement that comes later still
  corrects either.
- A call that cost more than was reserved is recorded as it was; the next reservation sees it.
- A scope is what a limit is about: `box`, `tenant:NAME`, `endpoint:NAME`. Callers pass only
  scopes with configured names: each costs two small rows a day and a month.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from edge_runtime.ledger.rows import US_PER_DAY

BOX_SCOPE = "box"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Period(enum.StrEnum):
    """How long a limit lasts; calendar days and months, UTC."""

    DAY = "day"
    MONTH = "month"


class Expiry(enum.StrEnum):
    """What becomes of a reservation that nobody settled in time."""

    CHARGE = "charge"
    RELEASE = "release"


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `limit_nano` of one scope in each period."""

    scope: str
    period: Period
    limit_nano: int


@dataclass(frozen=True, slots=True, order=True)
class Window:
    """One scope in one period: `name` is `2026-11-22` or `2026-11`."""

    scope: str
    name: str


@dataclass(frozen=True, slots=True)
class Usage:
    """What a window has used: settled, and held by reservations."""

    spent_nano: int = 0
    held_nano: int = 0

    @property
    def total_nano(self) -> int:
        """What counts against a limit."""
        return self.spent_nano + self.held_nano


@dataclass(frozen=True, slots=True)
class Change:
    """What one decision adds to one window."""

    window: Window
    spent_nano: int
    held_nano: int


@dataclass(frozen=True, slots=True)
class Reservation:
    """Worst-case money put aside for one call."""

    reservation_id: str
    scopes: tuple[str, ...]
    at_us: int
    expires_us: int
    worst_nano: int


@dataclass(frozen=True, slots=True)
class Refused:
    """No money for the call: which limit stands in the way, what is left, when it opens again."""

    limit: Limit
    left_nano: int
    resets_at_us: int

    @property
    def reason(self) -> str:
        """For people and logs."""
        return f"{self.limit.period} budget of {self.limit.scope} is used up"


def window_of(scope: str, period: Period, at_us: int) -> Window:
    """The window of `scope` that holds the instant `at_us`."""
    at = EPOCH + timedelta(microseconds=at_us)
    return Window(scope, at.strftime("%Y-%m-%d" if period is Period.DAY else "%Y-%m"))


def resets_at_us(period: Period, at_us: int) -> int:
    """When the next window starts."""
    if period is Period.DAY:
        return (at_us // US_PER_DAY + 1) * US_PER_DAY
    at = EPOCH + timedelta(microseconds=at_us)
    first = at.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    following = (first + timedelta(days=32)).replace(day=1)
    return (following - EPOCH) // timedelta(microseconds=1)


def windows_of(scopes: Iterable[str], at_us: int) -> tuple[Window, ...]:
    """Both windows of every scope: usage is kept also where no limit is set yet."""
    return tuple(window_of(scope, period, at_us) for scope in scopes for period in Period)


def decide(
    request: Reservation, limits: Iterable[Limit], usage: Mapping[Window, Usage]
) -> Refused | tuple[Change, ...]:
    """Grant the reservation, as changes to make, or refuse it.

    `usage` holds the windows of the request's scopes; one that is absent is unused. Of several
    limits in the way the one that opens last is named. Raises `ValueError` for a negative cost
    or a reservation without a scope, which no limit would ever hold.
    """
    if request.worst_nano < 0:
        raise ValueError("the worst-case cost is negative")
    if not request.scopes or len(set(request.scopes)) != len(request.scopes):
        raise ValueError("a reservation needs scopes, each named once")
    in_the_way = []
    for limit in limits:
        if limit.scope not in request.scopes:
            continue
        used = usage.get(window_of(limit.scope, limit.period, request.at_us), Usage())
        left = limit.limit_nano - used.total_nano
        if request.worst_nano > left:
            opens = resets_at_us(limit.period, request.at_us)
            in_the_way.append(Refused(limit, max(left, 0), opens))
    if in_the_way:
        return max(in_the_way, key=lambda one: one.resets_at_us)
    windows = windows_of(request.scopes, request.at_us)
    return tuple(Change(window, 0, request.worst_nano) for window in windows)


def settle(
    reservation: Reservation, actual_nano: int, *, expired_at_nano: int | None = None
) -> tuple[Change, ...]:
    """Changes that replace the worst case by the real cost.

    `expired_at_nano` is what it was booked at before (by an expiry, or at its worst case until
    the bill came); None while it is held.
    """
    if actual_nano < 0:
        raise ValueError("a call cannot have cost less than nothing")
    held = 0 if expired_at_nano is not None else -reservation.worst_nano
    spent = actual_nano - (expired_at_nano or 0)
    return tuple(
        Change(window, spent, held) for window in windows_of(reservation.scopes, reservation.at_us)
    )


def expired_cost(reservation: Reservation, rule: Expiry) -> int:
    """What a reservation that expires is booked at."""
    return reservation.worst_nano if rule is Expiry.CHARGE else 0


def apply(usage: Usage, change: Change) -> Usage:
    """The usage of a window after one change of it."""
    return Usage(usage.spent_nano + change.spent_nano, usage.held_nano + change.held_nano)

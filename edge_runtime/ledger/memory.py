"""`MemoryLedger`: the in-memory twin of `Ledger`, for tests and dry runs.

Same decisions, same errors, futures that are done at once; nothing survives the process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TypeVar

from edge_runtime.ledger.budget import (
    BOX_SCOPE,
    Change,
    Refused,
    Reservation,
    Usage,
    Window,
    apply,
    decide,
    expired_cost,
    settle,
    windows_of,
)
from edge_runtime.ledger.ledger import BudgetRules
from edge_runtime.ledger.rows import OPEN_SOURCES, Attempt, Comparison, Correction, Outcome

T = TypeVar("T")


@dataclass
class MemoryLedger:
    """See `LedgerLike`; `attempts`, `outcomes` and `comparisons` can be looked at."""

    clock: Callable[[], int]
    rules: BudgetRules = field(default_factory=BudgetRules)
    attempts: list[Attempt] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    corrections: dict[str, Correction] = field(default_factory=dict)
    _usage: dict[Window, Usage] = field(default_factory=dict)
    _made: dict[str, Reservation] = field(default_factory=dict)
    _booked: dict[str, tuple[str, int]] = field(default_factory=dict)

    def append(self, attempt: Attempt) -> Future[int]:
        """See `LedgerLike.append`."""
        return _done(lambda: self._append(attempt))

    def outcome(self, outcome: Outcome) -> Future[int]:
        """See `LedgerLike.outcome`."""
        self.outcomes.append(outcome)
        return _done(lambda: len(self.outcomes))

    def compare(self, comparison: Comparison) -> Future[int]:
        """See `LedgerLike.compare`."""
        self.comparisons.append(comparison)
        return _done(lambda: len(self.comparisons))

    def reserve(
        self, reservation_id: str, *, worst_nano: int, scopes: Sequence[str] = (BOX_SCOPE,)
    ) -> Future[Reservation | Refused]:
        """See `LedgerLike.reserve`."""
        at_us = self.clock()
        request = Reservation(
            reservation_id, tuple(scopes), at_us, at_us + int(self.rules.hold_s * 1e6), worst_nano
        )
        return _done(lambda: self._reserve(request))

    def settle(self, reservation_id: str, attempt: Attempt) -> Future[int]:
        """See `LedgerLike.settle`."""

        def run() -> int:
            self._settle(reservation_id, attempt.frontier_nano)
            return self._append(attempt)

        return _done(run)

    def correct(self, correction: Correction) -> Future[int]:
        """See `LedgerLike.correct`."""
        return _done(lambda: self._correct(correction))

    @property
    def booked(self) -> list[Attempt]:
        """The attempts with their corrections."""
        return [
            one if (found := self.corrections.get(one.call_id)) is None else found.of(one)
            for one in self.attempts
        ]

    def release(self, reservation_id: str) -> Future[None]:
        """See `LedgerLike.release`."""
        return _done(lambda: self._settle(reservation_id, 0))

    def expire(self) -> Future[list[Reservation]]:
        """See `Ledger.expire`."""
        return _done(self._expire)

    def usage(self, windows: Sequence[Window]) -> Future[dict[Window, Usage]]:
        """See `LedgerLike.usage`."""
        return _done(lambda: {one: self._usage[one] for one in windows if one in self._usage})

    def _append(self, attempt: Attempt) -> int:
        self.attempts.append(attempt)
        return len(self.attempts)

    def _reserve(self, request: Reservation) -> Reservation | Refused:
        if request.reservation_id in self._made:
            raise ValueError(f"reservation {request.reservation_id} was made before")
        windows = windows_of(request.scopes, request.at_us)
        usage = {one: self._usage[one] for one in windows if one in self._usage}
        decision = decide(request, self.rules.limits, usage)
        if isinstance(decision, Refused):
            return decision
        self._made[request.reservation_id] = request
        self._change(decision)
        return request

    def _settle(self, reservation_id: str, actual_nano: int) -> None:
        reservation = self._made.get(reservation_id)
        if reservation is None:
            raise ValueError(f"reservation {reservation_id} is not known")
        state, booked = self._booked.get(reservation_id, ("held", 0))
        if state == "settled":
            raise ValueError(f"reservation {reservation_id} is settled already")
        expired_at = booked if state == "expired" else None
        self._change(settle(reservation, actual_nano, expired_at_nano=expired_at))
        self._booked[reservation_id] = ("settled", actual_nano)

    def _correct(self, correction: Correction) -> int:
        call_id = correction.call_id
        rows = [
            number
            for number, one in enumerate(self.attempts, 1)
            if one.call_id == call_id and one.money_source in OPEN_SOURCES
        ]
        if not rows or call_id in self.corrections:
            raise ValueError(f"no open attempt has the call id {call_id}")
        self.corrections[call_id] = correction
        if call_id in self._booked:
            _, booked = self._booked[call_id]
            nano = correction.frontier_nano
            self._change(settle(self._made[call_id], nano, expired_at_nano=booked))
            self._booked[call_id] = ("settled", nano)
        return rows[0]

    def _expire(self) -> list[Reservation]:
        now = self.clock()
        over = [
            one
            for one in self._made.values()
            if one.reservation_id not in self._booked and one.expires_us <= now
        ]
        for one in over:
            cost = expired_cost(one, self.rules.expiry)
            self._change(settle(one, cost))
            self._booked[one.reservation_id] = ("expired", cost)
        return over

    def _change(self, changes: Sequence[Change]) -> None:
        for change in changes:
            used = self._usage.get(change.window, Usage())
            self._usage[change.window] = apply(used, change)


def _done(run: Callable[[], T]) -> Future[T]:
    future: Future[T] = Future()
    try:
        future.set_result(run())
    except ValueError as error:
        future.set_exception(error)
    return future

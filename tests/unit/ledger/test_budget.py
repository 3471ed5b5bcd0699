"""Budgets: whatever happens in whatever order, no limit is passed."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from edge_runtime.ledger.budget import (
    EPOCH,
    Expiry,
    Limit,
    Period,
    Refused,
    Reservation,
    Usage,
    Window,
    apply,
    decide,
    resets_at_us,
    settle,
    window_of,
)
from edge_runtime.ledger.ledger import BudgetRules
from edge_runtime.ledger.memory import MemoryLedger
from edge_runtime.ledger.rows import US_PER_DAY, Attempt, MoneySource, Tier


def us(*parts: int) -> int:
    return int((datetime(*parts, tzinfo=UTC) - EPOCH).total_seconds() * 1e6)  # type: ignore[misc, arg-type]


NOON = us(2026, 11, 22, 12)
LIMITS = (Limit("box", Period.DAY, 100), Limit("box", Period.MONTH, 250))


def bill(nano: int, at_us: int = NOON) -> Attempt:
    return Attempt(
        at_us=at_us,
        request_id="r",
        task_id="t",
        tier=Tier.FRONTIER,
        model="big",
        frontier_nano=nano,
        money_source=MoneySource.USAGE,
    )


def test_windows_are_calendar_days_and_months() -> None:
    assert window_of("box", Period.DAY, NOON) == Window("box", "2026-11-22")
    assert window_of("box", Period.MONTH, NOON) == Window("box", "2026-11")
    assert resets_at_us(Period.DAY, NOON) == us(2026, 11, 23)
    assert resets_at_us(Period.MONTH, NOON) == us(2026, 12, 1)
    assert resets_at_us(Period.MONTH, us(2026, 12, 31, 23, 59)) == us(2027, 1, 1)


@given(st.integers(0, 40_000 * US_PER_DAY), st.sampled_from(Period))
def test_a_window_ends_when_the_next_one_starts(at_us: int, period: Period) -> None:
    end = resets_at_us(period, at_us)
    assert end > at_us
    assert window_of("box", period, end - 1) == window_of("box", period, at_us)
    assert window_of("box", period, end) != window_of("box", period, at_us)


def test_the_limit_that_opens_last_is_named() -> None:
    request = Reservation("r", ("box",), NOON, NOON, 60)
    usage = {
        window_of("box", Period.DAY, NOON): Usage(50, 0),
        window_of("box", Period.MONTH, NOON): Usage(100, 100),
    }
    refused = decide(request, LIMITS, usage)
    assert isinstance(refused, Refused)
    assert (refused.limit, refused.left_nano) == (LIMITS[1], 50)
    assert refused.resets_at_us == us(2026, 12, 1)
    assert refused.reason == "month budget of box is used up"


def test_a_limit_of_another_scope_does_not_matter() -> None:
    request = Reservation("r", ("box",), NOON, NOON, 60)
    changes = decide(request, (Limit("tenant:a", Period.DAY, 0),), {})
    assert not isinstance(changes, Refused)
    assert [apply(Usage(), change).total_nano for change in changes] == [60, 60]


@pytest.mark.parametrize(("scopes", "nano"), [((), 1), (("box", "box"), 1), (("box",), -1)])
def test_a_reservation_no_limit_could_hold_is_refused(scopes: tuple[str, ...], nano: int) -> None:
    with pytest.raises(ValueError, match=r"scopes|negative"):
        decide(Reservation("r", scopes, NOON, NOON, nano), (), {})


def test_a_settlement_belongs_to_the_day_of_its_reservation() -> None:
    now = [NOON]
    ledger = MemoryLedger(clock=lambda: now[0], rules=BudgetRules(LIMITS))
    ledger.reserve("late", worst_nano=90).result()
    now[0] = us(2026, 11, 23, 1)
    ledger.settle("late", bill(80, now[0])).result()
    today, yesterday = (window_of("box", Period.DAY, at) for at in (now[0], NOON))
    assert ledger.usage([today, yesterday]).result() == {yesterday: Usage(80, 0)}


def test_one_call_is_paid_once() -> None:
    ledger = MemoryLedger(clock=lambda: NOON)
    ledger.reserve("a", worst_nano=5).result()
    with pytest.raises(ValueError, match="made before"):
        ledger.reserve("a", worst_nano=5).result()
    ledger.settle("a", bill(4)).result()
    for again in (ledger.settle("a", bill(4)), ledger.release("a")):
        with pytest.raises(ValueError, match="settled already"):
            again.result()
    with pytest.raises(ValueError, match="not known"):
        ledger.release("b").result()
    with pytest.raises(ValueError, match="less than nothing"):
        settle(Reservation("r", ("box",), NOON, NOON, 1), -1)


@pytest.mark.parametrize(("rule_", "spent"), [(Expiry.CHARGE, 40), (Expiry.RELEASE, 0)])
def test_what_expires_is_booked_by_the_rule_and_corrected_later(rule_: Expiry, spent: int) -> None:
    now = [NOON]
    ledger = MemoryLedger(clock=lambda: now[0], rules=BudgetRules(LIMITS, 10.0, rule_))
    ledger.reserve("lost", worst_nano=40).result()
    window = window_of("box", Period.DAY, NOON)
    assert ledger.expire().result() == []
    now[0] += 10_000_000
    assert [one.reservation_id for one in ledger.expire().result()] == ["lost"]
    assert ledger.usage([window]).result() == {window: Usage(spent, 0)}
    ledger.settle("lost", bill(7)).result()
    assert ledger.usage([window]).result() == {window: Usage(7, 0)}


class Budgets(RuleBasedStateMachine):
    """Calls in any order that cost at most their worst case never pass a limit together."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOON
        rules = BudgetRules(LIMITS, 3600.0, Expiry.CHARGE)
        self.ledger = MemoryLedger(clock=lambda: self.now, rules=rules)
        self.open: dict[str, int] = {}
        self.made = 0

    @rule(worst=st.integers(0, 120))
    def reserve(self, worst: int) -> None:
        name = f"r{self.made}"
        self.made += 1
        if isinstance(self.ledger.reserve(name, worst_nano=worst).result(), Reservation):
            self.open[name] = worst

    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        if self.open:
            name = data.draw(st.sampled_from(sorted(self.open)))
            worst = self.open.pop(name)
            self.ledger.settle(name, bill(data.draw(st.integers(0, worst)))).result()

    @rule(hours=st.integers(1, 30))
    def wait(self, hours: int) -> None:
        self.now += hours * 3_600_000_000
        self.ledger.expire().result()

    @invariant()
    def no_limit_is_passed(self) -> None:
        for window, usage in self.ledger._usage.items():
            limit = LIMITS[0] if len(window.name) == 10 else LIMITS[1]
            assert usage.held_nano >= 0
            assert usage.total_nano <= limit.limit_nano


TestBudgets = Budgets.TestCase

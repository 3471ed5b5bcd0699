"""Joules of working and idling, and the books of one question."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from edge_runtime.errors import CapacityError, UsageError
from edge_runtime.ledger.energy.counters import Counter, Unavailable
from edge_runtime.ledger.memory import MemoryLedger
from edge_runtime.ledger.prices import LocalPrice
from edge_runtime.ledger.rows import Attempt, JouleSource, Status, Tokens
from edge_runtime.router.booking import Bill, money
from edge_runtime.router.contract import Payer, Reason
from edge_runtime.router.energy import EnergyMeter
from edge_runtime.router.schemas import AnswerForm, form_of
from edge_runtime.router.till import Till, Work
from edge_runtime.server.fake_host import fake_models

SECOND_US = 1_000_000
INFO = fake_models()[0]
PAYER = Payer(request_id="r", task_id="t", tenant="alice", endpoint="e", tag="x")


class Meterable:
    """A counter that is set by hand."""

    def __init__(self) -> None:
        self.reading: Mapping[str, Counter] | Unavailable = {"package": Counter(0)}

    def read(self) -> Mapping[str, Counter] | Unavailable:
        return self.reading


def test_assumed_watts_are_those_of_working_without_idling() -> None:
    meter = EnergyMeter(LocalPrice(idle_milliwatts=10_000, busy_milliwatts=40_000))
    assert meter.of(2 * SECOND_US).energy_uj == 60 * SECOND_US
    assert meter.of(1).source is JouleSource.ASSUMPTION
    idle = [meter.period(now * SECOND_US, 0) for now in (1, 3)]
    assert idle[0] is None
    assert idle[1] is not None
    assert (idle[1].energy_uj, idle[1].source) == (20 * SECOND_US, JouleSource.ASSUMPTION)


def test_nothing_known_is_none_and_never_a_guess() -> None:
    assert EnergyMeter(LocalPrice()).of(SECOND_US).source is JouleSource.NONE
    unwanted = EnergyMeter(LocalPrice(busy_milliwatts=1), assume=False)
    assert unwanted.of(SECOND_US).energy_uj == 0


def test_counters_teach_the_watts_of_working_and_idling_is_apart() -> None:
    reader = Meterable()
    meter = EnergyMeter(LocalPrice(idle_milliwatts=10_000), [reader])
    meter.period(0, 0)
    reader.reading = {"package": Counter(50 * SECOND_US)}  # 50 J in 2 s, of them 1 s busy
    idle = meter.period(2 * SECOND_US, SECOND_US)
    assert idle is not None
    assert (idle.energy_uj, idle.source) == (20 * SECOND_US, JouleSource.COUNTER)
    assert meter.of(SECOND_US).energy_uj == 30 * SECOND_US
    assert meter.of(SECOND_US).source is JouleSource.MODEL
    reader.reading = Unavailable("gone")
    gone = meter.period(4 * SECOND_US, SECOND_US)
    assert gone is not None
    assert gone.source is JouleSource.ASSUMPTION
    assert meter.of(SECOND_US).source is JouleSource.MODEL


def till_of(ledger: MemoryLedger | None) -> Till:
    local = LocalPrice(busy_milliwatts=36_000, tariff_nano_per_kwh=10**8)
    return Till(ledger, EnergyMeter(local), local, lambda: 1, "USD", "v1")


def test_exactly_the_given_answer_is_marked() -> None:
    ledger = MemoryLedger(lambda: 1)
    bill = Bill(till_of(ledger), PAYER)
    bill.local(INFO, Work(Tokens(3, 0, 1), SECOND_US, SECOND_US), rung=0, score=0.4, task="intent")
    bill.local(INFO, Work(Tokens(3, 0, 2), 0, 5), rung=1, status=Status.ERROR)
    bill.local(INFO, Work(Tokens(3, 0, 2), 0, 5), rung=1)
    bill.close(rung=1, reason=Reason.CONFIDENT)
    bill.close(rung=0, reason=Reason.CONFIDENT)
    kept = [(row.attempt, row.status, row.answered) for row in ledger.attempts]
    assert kept == [
        (0, Status.DISCARDED, False),
        (1, Status.ERROR, False),
        (2, Status.OK, True),
    ]
    assert ledger.attempts[0].score_ppm == 400_000
    assert bill.field()["cost"] == money(sum(row.cost_nano for row in ledger.attempts))
    assert bill.cost_nano == 1000  # 36 J at 0.10 a kilowatt hour
    assert [one["answered"] for one in bill.told] == [False, False, True]


def test_a_caller_who_left_got_no_answer() -> None:
    ledger = MemoryLedger(lambda: 1)
    bill = Bill(till_of(ledger), PAYER)
    bill.local(INFO, Work(Tokens(3), 0, 0))
    bill.cancel()
    bill.close(rung=0, reason="late")
    assert [(row.status, row.answered) for row in ledger.attempts] == [(Status.CANCELLED, False)]


def test_a_row_without_a_place_is_counted_and_refuses_only_where_asked() -> None:
    class Full(MemoryLedger):
        def append(self, attempt: Attempt) -> None:  # type: ignore[override]
            raise CapacityError("full", retry_after_s=1.0, status=503)

    lost: list[int] = []
    till = till_of(Full(lambda: 1))
    till.lost = lambda: lost.append(1)
    bill = Bill(till, PAYER)
    bill.local(INFO, Work(Tokens(1), 0, 0))
    bill.close(rung=0, reason="ok")
    assert len(lost) == 1
    till.wait_for_disk = True
    again = Bill(till, PAYER)
    again.local(INFO, Work(Tokens(1), 0, 0))
    with pytest.raises(CapacityError):
        again.close(rung=0, reason="ok")


async def test_the_answer_goes_out_before_its_row_unless_the_disk_is_waited_for() -> None:
    ledger = MemoryLedger(lambda: 1)
    bill = Bill(till_of(ledger), PAYER)
    bill.local(INFO, Work(Tokens(1), 0, 0))
    bill.close(rung=0, reason="ok")
    assert (len(bill.rows), ledger.attempts) == (1, [])
    await asyncio.sleep(0)
    assert ledger.attempts == bill.rows
    bill.till.wait_for_disk = True
    again = Bill(bill.till, PAYER)
    again.local(INFO, Work(Tokens(1), 0, 0))
    again.close(rung=0, reason="ok")
    assert len(ledger.attempts) == 2


def test_money_is_told_exactly() -> None:
    assert money(0) == "0.000000000"
    assert money(1_234_567_890_123) == "1234.567890123"


SCHEMA = {
    "type": "json_schema",
    "json_schema": {"schema": {"type": "object", "required": ["a"], "properties": {"a": {}}}},
}


def test_answers_are_held_against_the_form() -> None:
    form = AnswerForm(SCHEMA)
    assert form.problem('{"a": 1}') is None
    for text in ('{"b": 1}', "[]", "no json"):
        assert form.problem(text)
    anything = AnswerForm({"type": "json_object"})
    assert anything.problem("{}") is None
    assert anything.problem("[]")
    assert form_of({"type": "text"}) is None


def test_references_are_never_fetched_and_patterns_not_matched_here() -> None:
    outside = {"json_schema": {"schema": {"$ref": "http://127.0.0.1:9/x"}}, "type": "json_schema"}
    assert "followed" in (AnswerForm(outside).problem("{}") or "")
    slow = {"json_schema": {"schema": {"pattern": "(a+)+$"}}, "type": "json_schema"}
    assert not AnswerForm(slow).judged_here


@pytest.mark.parametrize(
    "form",
    [
        {"type": "xml"},
        {"type": "json_schema"},
        {"type": "json_schema", "json_schema": {"schema": {"type": "thing"}}},
        {"type": "json_schema", "json_schema": {"schema": {"title": "x" * 70_000}}},
    ],
)
def test_forms_that_are_none_are_the_callers_error(form: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="response_format"):
        AnswerForm(form)

"""The frontier stand-in: what it answers, how it fails, what it bills."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from benchmarks.frontier_answers import (
    FAULTS,
    REFUSAL,
    Behaviour,
    Meter,
    Oracle,
    fault_of,
    read_table,
    share,
    tokens_of,
)
from edge_runtime.ledger.prices import FrontierPrice
from edge_runtime.ledger.rows import Tokens

TABLE = {f"utterance {number}": f"label_{number % 10}" for number in range(2000)}
JSON_WANTED = {"type": "json_schema", "json_schema": {"name": "answer"}}


def asking(text: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "model": "m", **more}


def test_answers_are_right_wrong_refused_and_off_the_set_as_often_as_told() -> None:
    oracle = Oracle(TABLE)
    behaviour = Behaviour(seed=1, wrong=0.03, refuse=0.02, off_label=0.01)
    kinds: Counter[str] = Counter()
    for text, right in TABLE.items():
        answer = oracle.answer(asking(text), behaviour)
        kinds[answer.kind] += 1
        if answer.kind == "right":
            assert answer.text == right
        elif answer.kind == "wrong":
            assert answer.text != right
            assert answer.text in TABLE.values()
        elif answer.kind == "refused":
            assert answer.text == REFUSAL
        else:
            assert answer.text not in TABLE.values()
    assert kinds["wrong"] == pytest.approx(60, abs=25)
    assert kinds["refused"] == pytest.approx(40, abs=20)
    assert kinds["off_label"] == pytest.approx(20, abs=14)


def test_the_same_question_and_seed_get_the_same_answer() -> None:
    behaviour = Behaviour(wrong=0.5)
    first = [Oracle(TABLE).answer(asking(text), behaviour) for text in TABLE]
    assert first == [Oracle(TABLE).answer(asking(text), behaviour) for text in TABLE]
    other = behaviour.changed({"seed": 9})
    assert first != [Oracle(TABLE).answer(asking(text), other) for text in TABLE]


def test_the_answer_is_dressed_as_the_request_asks() -> None:
    oracle = Oracle({"hi": "greeting", "wake me": '{"intent": "alarm"}'}, unknown="none")
    right = Behaviour(wrong=0.0)
    assert oracle.answer(asking("hi"), right).text == "greeting"
    dressed = oracle.answer(asking("hi", response_format=JSON_WANTED), right).text
    assert json.loads(dressed) == {"label": "greeting"}
    whole = oracle.answer(asking("wake me", response_format=JSON_WANTED), right).text
    assert json.loads(whole) == {"intent": "alarm"}
    assert oracle.answer(asking("never heard"), right).text == "none"


def test_the_utterance_is_found_in_its_template() -> None:
    oracle = Oracle({"hi": "greeting"}, user_template="Text: {input}\nIntent?")
    assert oracle.answer(asking("Text: hi\nIntent?"), Behaviour(wrong=0)).text == "greeting"
    with pytest.raises(ValueError, match="must hold"):
        Oracle({}, user_template="no place")


def test_a_fault_may_pass_when_the_request_comes_again() -> None:
    behaviour = Behaviour(**dict.fromkeys(FAULTS, 0.1))
    faults = Counter(fault_of(asking(text), 0, behaviour) for text in TABLE)
    assert set(faults) == {*FAULTS, None}
    for name in FAULTS:
        assert faults[name] == pytest.approx(200, abs=60)
    again = [fault_of(asking("x"), nth, behaviour) for nth in range(40)]
    assert len(set(again)) > 3
    assert again == [fault_of(asking("x"), nth, behaviour) for nth in range(40)]
    assert fault_of(asking("x", stream=True), 0, behaviour) == again[0]


@pytest.mark.parametrize(
    "values", [{"wrong": 1.5}, {"stall": -0.1}, {"stall_s": -1.0}, {"no_such": 1}]
)
def test_a_behaviour_that_makes_no_sense_is_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"share|time|no such"):
        Behaviour().changed(values)


def test_shares_are_even() -> None:
    drawn = [share(0, "x", str(number)) for number in range(2000)]
    assert all(0 <= one < 1 for one in drawn)
    assert sum(drawn) / len(drawn) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("text", ["", "one", ' {"label":  "a b"} ', "héllo, wörld!\n"])
def test_tokens_add_up_to_the_text(text: str) -> None:
    assert "".join(tokens_of(text)) == (text if text.strip() else "")
    assert len(tokens_of(text)) <= len(text.encode())


def test_the_bill_adds_up_and_knows_prefixes_it_saw() -> None:
    meter = Meter(FrontierPrice(2_000_000, 500_000, 8_000_000))
    system = {"role": "system", "content": "Name the intent."}
    first = meter.prompt({"messages": [system, {"role": "user", "content": "a"}]})
    second = meter.prompt({"messages": [system, {"role": "user", "content": "b"}]})
    again = meter.prompt({"messages": [system, {"role": "user", "content": "b"}]})
    assert (first.tokens_cached, second.tokens_cached) == (0, 3 + 4)
    assert again.tokens_cached == again.tokens_in == second.tokens_in
    meter.book(Tokens(10, 4, 3), kind="right", status=200)
    meter.book(second, kind="wrong", status=200)
    report = meter.report(entries=True)
    assert report["nano"] == sum(one["nano"] for one in report["entries"])
    assert report["entries"][0]["nano"] == 6 * 2000 + 4 * 500 + 3 * 8000
    assert report["requests"] == 2
    assert "entries" not in meter.report(entries=False)


def test_a_table_is_read_from_lines() -> None:
    lines = ['{"text": "a", "intent": "x"}', "", '{"text": "b", "intent": {"slot": 1}}']
    assert read_table(lines) == {"a": "x", "b": '{"slot": 1}'}
    assert read_table(['{"q": "a", "a": "x"}'], text_field="q", answer_field="a") == {"a": "x"}
    with pytest.raises(ValueError, match="line 1 has no"):
        read_table(['{"text": "a"}'])

"""The expression language: what is refused and where, and what an answer is worth."""

from __future__ import annotations

import pytest

from fleet.expr import MAX_TEXT_CHARS, ExpressionError, UnknownValueError, compile_expression

NAMES: dict[str, type] = {
    "labels": dict,
    "ram_bytes": int,
    "canary.crash_rate": float,
    "tags": list,
    "site": str,
    "metered": bool,
}


@pytest.mark.parametrize(
    ("text", "values", "answer"),
    [
        ('labels.site == "berlin"', {"labels": {"site": "berlin"}}, True),
        ("ram_bytes > 4 && !metered", {"ram_bytes": 8, "metered": False}, True),
        ("canary.crash_rate > 0.5", {"canary.crash_rate": 0.25}, False),
        ("canary.crash_rate > 0.5", {"canary.crash_rate": 1}, True),
        ("'edge' in tags", {"tags": ["edge"]}, True),
        ("tags.exists(t, t.startsWith('e'))", {"tags": ["core", "edge"]}, True),
        ("site.matches('^b.*n$')", {"site": "berlin"}, True),
        ("has(labels.site) && labels.site == 'x'", {"labels": {}}, False),
        ("true", {}, True),
    ],
)
def test_the_answer_follows_the_values(text: str, values: dict[str, object], answer: bool) -> None:
    expression = compile_expression(text, NAMES)
    assert expression.evaluate(values) is answer
    assert expression.holds(values) is answer


@pytest.mark.parametrize(
    ("text", "line", "column", "words"),
    [
        ("rams_bytes > 4", 1, 1, "undeclared reference to 'rams_bytes'"),
        ("ram_bytes > 4 &&\n  nope", 2, 3, "undeclared reference to 'nope'"),
        ("canary.crash > 0.1", 1, 1, "undeclared reference to 'canary.crash'"),
        ("ram_bytes >", 1, 12, "Syntax error"),
        ("ram_bytes > 'four'", 1, 11, "no matching overload"),
        ("canary.crash_rate > 1", 1, 19, "write fractions with a point"),
        ("site", 1, 1, "gives string, not bool"),
        ("", 1, 1, "is empty"),
        ("1 == 1 " + "&& 1 == 1" * MAX_TEXT_CHARS, 1, 1, "is longer than"),
        ("(" * 300 + "metered" + ")" * 300, 1, 1, "recursion limit"),
        ("site == 'x'; DROP TABLE boxes", 1, 12, "token recognition error"),
        ("site.__class__ == 'x'", 1, 5, "cannot be the operand"),
        ("__import__('os') == 'x'", 1, 11, "undeclared reference to '__import__'"),
    ],
)
def test_what_cannot_be_answered_is_refused_with_its_place(
    text: str, line: int, column: int, words: str
) -> None:
    with pytest.raises(ExpressionError, match="expression, line") as caught:
        compile_expression(text, NAMES)
    assert words in caught.value.reason
    assert (caught.value.line, caught.value.column) == (line, column)


def test_a_refusal_lists_the_names_that_exist() -> None:
    with pytest.raises(ExpressionError, match=r"known here: canary\.crash_rate, labels"):
        compile_expression("boxes > 1", NAMES)


@pytest.mark.parametrize(
    "values",
    [{}, {"canary.crash_rate": None}, {"canary.crash_rate": float("nan")},
     {"canary.crash_rate": "high"}, {"canary.crash_rate": float("inf")}],
)  # fmt: skip
def test_a_missing_number_is_unknown_not_zero(values: dict[str, object]) -> None:
    expression = compile_expression("canary.crash_rate < 0.5", NAMES)
    with pytest.raises(UnknownValueError, match=r"canary\.crash_rate"):
        expression.evaluate(values)
    assert not expression.holds(values)


def test_an_unknown_half_does_not_hide_a_known_answer() -> None:
    either = compile_expression("metered || ram_bytes > 4", NAMES)
    assert either.evaluate({"metered": True}) is True
    assert either.evaluate({"ram_bytes": 8}) is True
    with pytest.raises(UnknownValueError):
        either.evaluate({"metered": False})


def test_a_label_the_box_lacks_is_unknown() -> None:
    expression = compile_expression("labels.site != 'berlin'", NAMES)
    with pytest.raises(UnknownValueError, match="site"):
        expression.evaluate({"labels": {}})


def test_evaluation_ends_where_nested_loops_would_not() -> None:
    digits = "[0,1,2,3,4,5,6,7,8,9]"
    text = "true"
    for name in "abcdefgh":
        text = f"{digits}.all({name}, {text})"
    with pytest.raises(UnknownValueError, match="budget"):
        compile_expression(text, {}).evaluate({})


def test_names_are_those_mentioned_outside_strings() -> None:
    expression = compile_expression("labels.site == 'ram_bytes' && metered", NAMES)
    assert expression.names == {"labels", "metered"}
    dotted = compile_expression("canary.crash_rate > 0.1", NAMES)
    assert dotted.names == {"canary.crash_rate"}


def test_a_number_can_be_asked_for() -> None:
    expression = compile_expression("double(ram_bytes) / 2.0", NAMES, returns=float)
    assert expression.evaluate({"ram_bytes": 3}) == 1.5
    with pytest.raises(ExpressionError, match="gives int, not float"):
        compile_expression("ram_bytes", NAMES, returns=float)


def test_a_type_no_expression_has_is_a_mistake_of_the_program() -> None:
    with pytest.raises(TypeError, match="weird"):
        compile_expression("weird", {"weird": complex})

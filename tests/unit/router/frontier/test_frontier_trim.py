"""Shorter prompts that mean the same."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.router.frontier.tokens import prompt_bytes
from edge_runtime.router.frontier.trim import TrimRules, squeeze, trim

SYSTEM = {"role": "system", "content": "Be  brief.   \n\n\n\nAlways."}
CODE = "```py\nif a:\n    b  =  1\n\n\n\n```"
LONG = "This paragraph is retrieved context. " * 10
EVERYTHING = TrimRules(keep_turns=1, whitespace=True, duplicate_context=True)


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str | None, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


CALL = assistant(None, tool_calls=[{"id": "t1", "type": "function", "function": {"name": "f"}}])
ANSWER = {"role": "tool", "tool_call_id": "t1", "content": '{"a":   1}'}


def body(*messages: dict[str, Any]) -> dict[str, Any]:
    return {"messages": list(messages), "temperature": 0}


def sent(rules: TrimRules, *messages: dict[str, Any]) -> list[Any]:
    return list(trim(body(*messages), rules).body["messages"])


def test_without_rules_nothing_changes() -> None:
    given_body = body(SYSTEM, user("a  b"))
    trimmed = trim(given_body, TrimRules())
    assert trimmed.body is given_body
    assert trimmed.saved_bytes == 0


def test_the_newest_turns_and_all_system_messages_stay() -> None:
    history = [
        SYSTEM,
        user("one"),
        assistant("1"),
        {"role": "system", "content": "Policy."},
        user("two"),
        user("and a half"),
        CALL,
        ANSWER,
        assistant("2"),
        user("three"),
    ]
    assert sent(TrimRules(keep_turns=1), *history) == [SYSTEM, history[3], history[9]]
    assert sent(TrimRules(keep_turns=2), *history) == [SYSTEM, *history[3:]]
    assert sent(TrimRules(keep_turns=3), *history) == history
    assert sent(TrimRules(keep_turns=99), *history) == history


def test_a_tools_answer_never_loses_its_call() -> None:
    history = [user("a"), CALL, ANSWER, assistant("b"), user("c"), CALL, ANSWER]
    for prefix in range(len(history)):
        for turns in (1, 2):
            kept = sent(TrimRules(keep_turns=turns, kept_prefix_messages=prefix), *history)
            for index, message in enumerate(kept):
                if message["role"] == "tool":
                    assert kept[index - 1].get("tool_calls")


@pytest.mark.parametrize(
    ("text", "shorter"),
    [
        ("a  b\t\tc", "a b c"),
        ("    indented  line", "    indented line"),
        ("line   \nnext", "line\nnext"),
        ("a\n\n\n\n\nb", "a\n\nb"),
        ("\n\na\n", "a"),
        (f"x  y\n{CODE}\nz  z", f"x y\n{CODE}\nz z"),
        ("```\nopen   fence", "```\nopen   fence"),
        ("", ""),
    ],
)
def test_blanks_without_meaning_go(text: str, shorter: str) -> None:
    assert squeeze(text) == shorter


@given(st.text(alphabet="ab \t\n`", max_size=80))
def test_squeezing_twice_changes_nothing_and_loses_no_letter(text: str) -> None:
    once = squeeze(text)
    assert squeeze(once) == once
    assert "".join(once.split()) == "".join(text.split())
    assert len(once) <= len(text)


def test_a_paragraph_that_stood_before_is_left_out() -> None:
    messages = [user(f"{LONG}\n\nWhat?"), assistant("That."), user(f"{LONG}\n\nAnd why?")]
    rules = TrimRules(duplicate_context=True, duplicate_min_chars=100)
    kept = sent(rules, *messages)
    assert kept[:2] == messages[:2]  # the earlier one stays: it may be cached
    assert kept[2]["content"] == "And why?"
    trimmed = trim(body(*messages), rules)
    assert trimmed.saved_bytes == len(LONG) + len("\n\n") * 2  # a newline is two bytes of JSON


def test_short_paragraphs_and_whole_messages_stay() -> None:
    rules = TrimRules(duplicate_context=True, duplicate_min_chars=100)
    messages = [user("Yes.\n\nNo."), assistant("ok"), user("Yes.\n\nNo.")]
    assert sent(rules, *messages) == messages
    repeated = [user(LONG), assistant("ok"), user(LONG)]
    assert sent(rules, *repeated) == repeated


def test_other_kinds_of_content_pass_untouched() -> None:
    parts = {"role": "user", "content": [{"type": "text", "text": "a   b"}]}
    messages = [parts, CALL, ANSWER]
    assert sent(TrimRules(whitespace=True, duplicate_context=True), *messages) == messages
    for odd in ({"messages": "text"}, {"messages": [3]}, {}):
        assert trim(odd, EVERYTHING).body is odd


def message() -> st.SearchStrategy[dict[str, Any]]:
    text = st.sampled_from([f"a  b   \n\n\n\n{LONG}\n\nc", LONG, "short", " x  y ", ""])
    roles = st.sampled_from(["system", "user", "assistant", "developer"])
    return st.builds(lambda role, content: {"role": role, "content": content}, roles, text)


@given(st.lists(message(), min_size=1, max_size=8), st.integers(0, 9), st.integers(0, 900))
def test_the_cached_prefix_is_never_touched(
    messages: list[dict[str, Any]], kept: int, chars: int
) -> None:
    rules = TrimRules(
        kept_prefix_messages=kept,
        kept_prefix_chars=chars,
        keep_turns=1,
        whitespace=True,
        duplicate_context=True,
        duplicate_min_chars=20,
    )
    before = json.dumps(messages)
    trimmed = trim(body(*messages), rules)
    after = list(trimmed.body["messages"])
    assert json.dumps(after[:kept]) == json.dumps(messages[:kept])
    text = "".join(str(one["content"]) for one in messages)[:chars]
    assert "".join(str(one["content"]) for one in after).startswith(text)
    assert json.dumps(messages) == before  # the caller's body is not changed
    assert trimmed.saved_bytes == prompt_bytes(body(*messages)) - prompt_bytes(trimmed.body) >= 0
    assert [one for one in after if one["role"] == "system"] or not [
        one for one in messages if one["role"] == "system"
    ]
    assert after

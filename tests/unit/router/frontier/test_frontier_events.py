"""Server-sent events, and the answer they add up to."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.router.frontier.events import EventError, Gathered, SseReader


def read(*pieces: bytes, limit: int = 1000) -> list[str]:
    reader = SseReader(limit)
    return [data for piece in pieces for data in reader.feed(piece)]


STREAM = (
    b': hello\r\nevent: x\r\ndata: {"a":\r\ndata: 1}\r\n\r\nid: 3\ndata:[DONE]\n\n\n\ndata: rest\n'
)


def test_only_whole_data_counts() -> None:
    assert read(STREAM) == ['{"a":\n1}', "[DONE]"]
    assert read(STREAM, b"\n") == ['{"a":\n1}', "[DONE]", "rest"]
    assert read(b"data\n\n", b"retry: 5\n\n") == []


@given(st.lists(st.integers(0, len(STREAM)), max_size=8))
def test_where_the_pieces_are_cut_does_not_matter(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    pieces = [STREAM[a:b] for a, b in itertools.pairwise(edges)]
    assert read(*pieces) == read(STREAM)


@pytest.mark.parametrize(
    "pieces", [[b"data: " + b"x" * 11], [b"data: 123456\n", b"data: 123456\n"], [b"y" * 11]]
)
def test_an_event_is_bounded(pieces: list[bytes]) -> None:
    with pytest.raises(EventError, match="larger than 10 bytes"):
        read(*pieces, limit=10)


def test_an_event_that_is_no_text_is_refused() -> None:
    with pytest.raises(EventError, match="UTF-8"):
        read(b"data: \xff\n\n")


def chunk(delta: dict[str, Any], finish: str | None = None, index: int = 0) -> dict[str, Any]:
    choice = {"index": index, "delta": delta, "finish_reason": finish}
    return {"id": "c1", "created": 5, "model": "m", "choices": [choice]}


def test_texts_tools_and_usage_add_up() -> None:
    gathered = Gathered()
    call = {"index": 0, "id": "t1", "type": "function", "function": {"name": "find"}}
    chunks = [
        chunk({"role": "assistant", "content": ""}),
        chunk({"content": "Hé"}),
        chunk({"content": "llo", "reasoning_content": "think"}),
        chunk({"tool_calls": [call]}),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"q":'}}]}),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": "1}"}}]}),
        chunk({}, "tool_calls"),
        {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 9}},
    ]
    told = [gathered.add(one) for one in chunks]
    assert told == [False, True, True, True, True, True, True, False]
    assert gathered.finished
    body = gathered.body()
    assert (body["id"], body["model"], body["object"]) == ("c1", "m", "chat.completion")
    assert body["usage"] == {"prompt_tokens": 3, "completion_tokens": 9}
    (choice,) = body["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"] == {
        "role": "assistant",
        "content": "Héllo",
        "reasoning_content": "think",
        "tool_calls": [
            {
                "id": "t1",
                "type": "function",
                "function": {"name": "find", "arguments": '{"q":1}'},
            }
        ],
    }
    assert gathered.text_bytes == len("Héllo".encode()) + 5 + 4 + 7
    assert gathered.events_with_text == 6
    json.dumps(body)


def test_several_choices_end_one_by_one() -> None:
    gathered = Gathered()
    gathered.add(chunk({"content": "b"}, index=1))
    gathered.add(chunk({"content": "a"}, "stop"))
    assert not gathered.finished
    gathered.add(chunk({}, "length", index=1))
    assert gathered.finished
    texts = [one["message"]["content"] for one in gathered.body()["choices"]]
    assert texts == ["a", "b"]


def test_log_probabilities_are_kept() -> None:
    gathered = Gathered()
    for token in ("x", "y"):
        one = chunk({"content": token})
        one["choices"][0]["logprobs"] = {"content": [{"token": token, "logprob": -0.1}]}
        gathered.add(one)
    found = gathered.body()["choices"][0]["logprobs"]["content"]
    assert [one["token"] for one in found] == ["x", "y"]


def test_nothing_is_not_finished() -> None:
    assert not Gathered().finished
    assert Gathered().body()["choices"] == []


@pytest.mark.parametrize(
    "choices",
    [
        {},
        [3],
        [{"index": -1}],
        [{"index": 128}],
        [{"index": True}],
        [{"index": 0, "delta": {"tool_calls": [5]}}],
        [{"index": 0, "delta": {"tool_calls": [{"index": 10**9}]}}],
    ],
)
def test_what_is_no_chunk_is_refused(choices: Any) -> None:
    with pytest.raises(EventError):
        Gathered().add({"choices": choices})

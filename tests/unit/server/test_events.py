"""Merging sequences, figures, log probabilities; and the in-memory host itself."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

import pytest

from edge_runtime.core import (
    FinishReason,
    GenerateRequest,
    SamplingParams,
    TokenEvent,
    TokenLogprob,
)
from edge_runtime.errors import CapacityError, EngineError
from edge_runtime.server.events import Figures, check, merge
from edge_runtime.server.fake_host import BOS, EOS, ByteCodec, FakeHost, answer_events
from edge_runtime.server.logprobs import CompletionLogprobs, chat_logprobs


async def stream(*texts: str, closed: list[str] | None = None) -> AsyncGenerator[TokenEvent, None]:
    try:
        for text in texts:
            await asyncio.sleep(0)
            yield TokenEvent(1, text)
    finally:
        if closed is not None:
            closed.append(texts[0])


async def endless(closed: list[str]) -> AsyncGenerator[TokenEvent, None]:
    try:
        while True:
            await asyncio.sleep(0)
            yield TokenEvent(1, "x")
    finally:
        closed.append("endless")


async def broken() -> AsyncGenerator[TokenEvent, None]:
    yield TokenEvent(1, "a")
    raise CapacityError("full", retry_after_s=1)


@pytest.mark.parametrize("count", [1, 3])
async def test_each_sequence_keeps_its_order(count: int) -> None:
    got: dict[int, str] = {}
    async for index, event in merge([stream("a", "b", "c") for _ in range(count)]):
        got[index] = got.get(index, "") + event.text
    assert got == dict.fromkeys(range(count), "abc")


@pytest.mark.parametrize("count", [1, 3])
async def test_closing_closes_every_stream(count: int) -> None:
    closed: list[str] = []
    async with contextlib.aclosing(merge([endless(closed) for _ in range(count)])) as events:
        async for _ in events:
            break
    assert closed == ["endless"] * count


async def test_one_error_ends_all_and_is_raised() -> None:
    closed: list[str] = []
    with pytest.raises(CapacityError):
        async for _ in merge([endless(closed), broken(), endless(closed)]):
            pass
    assert closed == ["endless"] * 2


def test_bad_ends_are_errors() -> None:
    check(TokenEvent(1, "x", finish_reason=FinishReason.STOP))
    with pytest.raises(EngineError, match="broke"):
        check(TokenEvent(None, "", finish_reason=FinishReason.ERROR, error="it broke"))
    with pytest.raises(CapacityError) as caught:
        check(TokenEvent(None, "", finish_reason=FinishReason.CANCELLED))
    assert caught.value.status == 503


def test_figures_count_prompts_once_and_answers_each() -> None:
    figures = Figures(arrival_s=10.0, prompt_lens=[5, 7], choices=2)
    first = TokenEvent(1, "a", cached_prompt_tokens=3, queue_s=0.5)
    for index in range(4):
        figures.note(index, first, 11.0)
        figures.note(index, TokenEvent(2, "b"), 12.0)
        figures.note(index, TokenEvent(None, "", finish_reason=FinishReason.LENGTH), 99.0)
    usage = figures.usage()
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (
        12,
        8,
        20,
    )
    assert usage["prompt_tokens_details"] == {"cached_tokens": 6}
    timings = figures.timings()
    assert timings["queue_ms"] == 500.0
    assert timings["prefill_ms"] == 500.0
    assert timings["decode_tokens_per_s"] == 7.0
    assert timings["total_ms"] == 2000.0


def test_figures_without_a_token_have_no_times() -> None:
    assert set(Figures(0.0, [1], 1).timings().values()) == {None}


def test_a_token_of_half_a_character_has_no_bytes() -> None:
    content = chat_logprobs(ByteCodec(), [TokenEvent(0xC3, "", logprob=float("-inf"))])["content"]
    assert content == [{"token": "\ufffd", "logprob": -9999.0, "bytes": None, "top_logprobs": []}]


def test_the_end_mark_is_no_part_of_the_answer() -> None:
    events = [
        TokenEvent(104, "h", logprob=-1.0, top_logprobs=(TokenLogprob(105, -2.0),)),
        TokenEvent(EOS, "held back", logprob=-0.1, finish_reason=FinishReason.STOP),
    ]
    content = chat_logprobs(ByteCodec(), events)["content"]
    assert isinstance(content, list)
    assert [entry["token"] for entry in content] == ["h"]
    running = CompletionLogprobs(ByteCodec())
    for event in events:
        running.add(event)
    assert running.take()["top_logprobs"] == [{"i": -2.0}]
    assert running.take()["tokens"] == []


def request(text: str, **params: object) -> GenerateRequest:
    options = {"max_tokens": 50, **params}
    return GenerateRequest(
        request_id="r",
        model="echo",
        prompt=(BOS, *text.encode()),
        params=SamplingParams(**options),  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("params", "text", "reason"),
    [
        ({}, "héllo", FinishReason.STOP),
        ({"stop": ("l",)}, "hé", FinishReason.STOP),
        ({"stop": ("lo", "él")}, "h", FinishReason.STOP),
        ({"stop": ("zz",)}, "héllo", FinishReason.STOP),
        ({"max_tokens": 2}, "h", FinishReason.LENGTH),
        ({"max_tokens": 12, "ignore_eos": True}, "héllohéllo", FinishReason.LENGTH),
    ],
)
def test_the_fake_answers_like_a_true_host(
    params: dict[str, object], text: str, reason: FinishReason
) -> None:
    events = answer_events(request("héllo", **params))
    assert "".join(event.text for event in events) == text
    assert [event.finish_reason for event in events[:-1]] == [None] * (len(events) - 1)
    assert events[-1].finish_reason is reason


async def test_the_fake_counts_cancels_but_not_ends() -> None:
    host = FakeHost()
    async for _ in host.generate(request("abc")):
        pass
    assert (host.started, host.active, host.cancelled) == (1, 0, 0)
    events = host.generate(request("abc"))
    await anext(events)
    assert host.active == 1
    await events.aclose()
    assert (host.started, host.active, host.cancelled) == (2, 0, 1)

"""Chat requests through a routed daemon: who answers, what is told, what the ledger keeps."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import orjson
import pytest

from edge_runtime.bundle.escalation import Escalation
from edge_runtime.errors import CapacityError
from edge_runtime.ledger.rows import Status, Tier
from edge_runtime.router.booking import money
from edge_runtime.router.frontier.memory import Scripted, completion, event, fails, says
from tests.support.routed import (
    Answered,
    Routed,
    certificate,
    hold_against_ledger,
    routed,
    short_is_sure,
)

URL = "/v1/chat/completions"
ECHO = "1" * 64
LOCAL_FIRST = {"endpoints": {"helper": {"models": ["echo"], "policy": "local-first"}}}


def asked(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "helper", "messages": [{"role": "user", "content": text}], **more}


def sure_below(threshold: float = 0.3) -> Any:
    """Answers of a few letters are kept: one of n tokens scores 1 / (1 + n / e)."""
    return certificate(ECHO, "echo", threshold, kind="generate", score=short_is_sure())


def always(text: str) -> Any:
    return lambda body: says(text, stream=bool(body.get("stream")))


def down(body: Any) -> Scripted:
    return fails(500, "broken")


async def stream_of(daemon: Routed, body: dict[str, Any], **headers: str) -> tuple[Any, list[Any]]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with daemon.client.post(URL, json={**body, "stream": True}, headers=named) as response:
        lines = (await response.read()).decode().split("\n\n")
        texts = [line.removeprefix("data: ") for line in lines if line]
        return response, [one if one == "[DONE]" else json.loads(one) for one in texts]


def text_of(events: Sequence[Any]) -> str:
    chunks = [one for one in events if one != "[DONE]" and one.get("choices")]
    return "".join(one["choices"][0]["delta"].get("content") or "" for one in chunks)


def content(answer: Answered) -> str:
    text: str = answer.body["choices"][0]["message"]["content"]
    return text


async def test_a_confident_answer_is_kept_and_told_as_the_ledger_has_it() -> None:
    promise = sure_below()
    async with routed(always("no"), promise, **LOCAL_FIRST) as daemon:
        answer = await daemon.post(URL, asked("hey"), x_edge_task_id="t-1")
    assert content(answer) == "hey"
    assert answer.edge["reason"] == "confident"
    assert answer.edge["certificate"] == promise.digest
    assert answer.edge["score"] > answer.edge["threshold"] == 0.3
    assert answer.body["choices"][0]["logprobs"] is None, "nobody asked for them"
    hold_against_ledger(answer.headers, answer.edge, daemon.rows)
    row = daemon.rows[0]
    assert (row.task_id, row.endpoint, row.task) == ("t-1", "helper", "echo")
    assert daemon.sent == []


async def test_an_unsure_answer_goes_to_the_frontier() -> None:
    async with routed(always("better"), sure_below(), **LOCAL_FIRST) as daemon:
        answer = await daemon.post(URL, asked("a long answer"))
    assert content(answer) == "better"
    assert answer.edge["reason"] == "low-confidence"
    hold_against_ledger(answer.headers, answer.edge, daemon.rows)
    by_tier = {row.tier: row for row in daemon.rows}
    assert by_tier[Tier.LOCAL].status is Status.DISCARDED
    assert [message["content"] for message in daemon.sent[0]["messages"]] == ["a long answer"]


async def test_a_stream_under_a_certificate_is_judged_first_and_told_both_times() -> None:
    async with routed(always("no"), sure_below(), **LOCAL_FIRST) as daemon:
        response, events = await stream_of(daemon, asked("hey"))
    assert text_of(events) == "hey"
    assert events[-1] == "[DONE]"
    edge = events[-2]["edge"]
    assert edge["timings"]["first_token_ms"] <= edge["timings"]["first_sent_ms"]
    hold_against_ledger(response.headers, edge, daemon.rows)


@pytest.mark.parametrize("include_usage", [False, True])
async def test_a_frontiers_stream_passes_through(include_usage: bool) -> None:
    options = {"stream_options": {"include_usage": True}} if include_usage else {}
    async with routed(always("some better words"), sure_below(), **LOCAL_FIRST) as daemon:
        response, events = await stream_of(daemon, asked("a long answer", **options))
    assert text_of(events) == "some better words"
    assert events[-1] == "[DONE]"
    last = events[-2]
    assert bool(last["choices"]) is not include_usage
    if include_usage:
        assert last["usage"]["completion_tokens"] == 5
    assert last["edge"]["timings"]["local_first_token_ms"] is not None
    hold_against_ledger(response.headers, last["edge"], daemon.rows)


async def test_a_cut_stream_ends_in_an_error_that_tells_its_cost() -> None:
    def cut(body: Any) -> Scripted:
        pieces = (event({"choices": [{"index": 0, "delta": {"content": "so"}}]}),)
        return Scripted(pieces=pieces)

    async with routed(cut, sure_below(), **LOCAL_FIRST) as daemon:
        response, events = await stream_of(daemon, asked("a long answer"))
    assert response.status == 200
    assert events[-1]["error"]["code"] == "frontier_failed"
    assert events[-1]["edge"]["answered_by"] is None
    assert not any(row.answered for row in daemon.rows)
    assert events[-1]["edge"]["cost"] == money(sum(row.cost_nano for row in daemon.rows))


async def test_without_a_certificate_everything_escalates_and_says_so() -> None:
    async with routed(always("far"), **LOCAL_FIRST) as daemon:
        answer = await daemon.post(URL, asked("hey"))
    assert (content(answer), answer.edge["reason"]) == ("far", "no-certificate")
    assert "no certificate" in answer.edge["detail"]
    assert [row.tier for row in daemon.rows] == [Tier.FRONTIER]
    hold_against_ledger(answer.headers, answer.edge, daemon.rows)


@pytest.mark.parametrize(
    "more",
    [
        {"temperature": 0.8},
        {"n": 2},
        {"stop": "x"},
        {"logit_bias": {"5": 1.0}},
        {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "hey"}]},
    ],
)
async def test_a_certificate_speaks_for_plain_greedy_questions_only(more: dict[str, Any]) -> None:
    async with routed(always("far"), sure_below(), **LOCAL_FIRST) as daemon:
        answer = await daemon.post(URL, {**asked("hey"), **more})
    assert answer.edge["reason"] == "no-certificate"
    assert "certificates cover" in answer.edge["detail"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_dead_frontier_gives_a_degraded_answer(stream: bool) -> None:
    async with routed(down, sure_below(), **LOCAL_FIRST) as daemon:
        if stream:
            response, events = await stream_of(daemon, asked("a long answer"))
            headers, edge = response.headers, events[-2]["edge"]
            assert text_of(events) == "a long answer"
        else:
            answer = await daemon.post(URL, asked("a long answer"))
            headers, edge = answer.headers, answer.edge
            assert content(answer) == "a long answer"
    assert (edge["reason"], edge["degraded"], edge["tier"]) == ("degraded", True, "local")
    assert edge["detail"]
    hold_against_ledger(headers, edge, daemon.rows)


async def test_a_dead_frontier_without_a_local_model_is_503_with_its_cost() -> None:
    async with routed(down) as daemon:
        answer = await daemon.post(URL, {**asked("hey"), "model": "big"})
    assert answer.status == 503
    assert "Retry-After" in answer.headers
    assert answer.headers["x-edge-reason"] == "frontier-only"
    assert "x-edge-answered-by" not in answer.headers
    assert answer.edge["answered_by"] is None
    assert answer.edge["attempts"][0]["tries"] == len(daemon.rows)


async def test_never_leave_never_leaves() -> None:
    async with routed(always("far"), sure_below(), **LOCAL_FIRST) as daemon:
        unsure = await daemon.post(URL, asked("a long answer"), x_edge_privacy="never-leave")
        tools = await daemon.post(
            URL, asked("hey", tools=[{"type": "function"}]), x_edge_privacy="never-leave"
        )
        alone = await daemon.post(
            URL, {**asked("hey"), "model": "big"}, x_edge_privacy="never-leave"
        )
        daemon.host.refusal = CapacityError("full", retry_after_s=1.0)
        full = await daemon.post(URL, asked("hey"), x_edge_privacy="never-leave")
    assert (content(unsure), unsure.edge["reason"]) == ("a long answer", "never-leave")
    assert (tools.status, tools.body["error"]["code"]) == (400, "field_not_served")
    assert (alone.status, alone.body["error"]["code"]) == (403, "must_not_leave")
    assert full.status == 429
    assert daemon.sent == []


async def test_overload_escalates_or_not_by_its_switch() -> None:
    async with routed(always("far"), sure_below(), **LOCAL_FIRST) as daemon:
        daemon.host.refusal = CapacityError("full", retry_after_s=1.0)
        sent = await daemon.post(URL, asked("hey"))
    assert (content(sent), sent.edge["reason"]) == ("far", "overload")
    hold_against_ledger(sent.headers, sent.edge, daemon.rows)
    switched = {**LOCAL_FIRST, "router": {"on_overload": False}}
    async with routed(always("far"), sure_below(), **switched) as daemon:
        daemon.host.refusal = CapacityError("full", retry_after_s=1.0)
        refused = await daemon.post(URL, asked("hey"))
    assert (refused.status, refused.headers["x-edge-reason"]) == (429, "overload")


async def test_a_local_fault_is_booked_and_escalates() -> None:
    async with routed(always("far"), sure_below(), **LOCAL_FIRST) as daemon:
        daemon.host.fail_after = 1
        answer = await daemon.post(URL, asked("hey"))
    assert answer.edge["reason"] == "local-fault"
    assert daemon.rows[-1].status is Status.ERROR
    hold_against_ledger(answer.headers, answer.edge, sorted(daemon.rows, key=lambda r: r.attempt))


async def test_a_prompt_too_long_for_the_box_escalates() -> None:
    async with routed(always("far"), sure_below(), **LOCAL_FIRST) as daemon:
        answer = await daemon.post(URL, asked("x" * 300))
    assert answer.edge["reason"] == "context-too-long"


async def test_what_no_local_model_serves_goes_out_as_it_came() -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    messages = [
        {"role": "user", "content": "hey"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
        {"role": "tool", "tool_call_id": "1", "content": "ok"},
    ]
    async with routed(always("far"), sure_below(), **LOCAL_FIRST) as daemon:
        body = {"model": "helper", "messages": messages, "tools": tools, "top_k": 3}
        answer = await daemon.post(URL, body)
        wrong = await daemon.post(URL, {**body, "colour": "red"})
    assert answer.edge["reason"] == "task-not-served"
    assert daemon.sent[0]["messages"] == messages
    assert daemon.sent[0]["tools"] == tools
    assert "top_k" not in daemon.sent[0], "a field of this daemon only"
    assert (wrong.status, wrong.body["error"]["code"]) == (400, "unknown_field")


async def test_an_answer_of_the_wrong_form_is_tried_again_and_then_escalates() -> None:
    form = {"type": "json_object"}
    table = {"helper": {"models": ["echo"], "schema_retries": 1, "policy": "local-only"}}
    async with routed(None, endpoints=table) as daemon:
        refused = await daemon.post(URL, asked("no json", response_format=form))
        good = await daemon.post(URL, asked('{"a": 1}', response_format=form))
    assert refused.status == 500
    assert [row.reason for row in daemon.rows[:2]] == ["schema-invalid"] * 2
    assert content(good) == '{"a": 1}'
    assert [(one.resolved, one.source) for one in daemon.ledger.outcomes] == [(True, "schema")]
    async with routed(always('{"b": 2}'), sure_below(0.01), **LOCAL_FIRST) as daemon:
        sent = await daemon.post(URL, asked("no json", response_format=form))
    assert (content(sent), sent.edge["reason"]) == ('{"b": 2}', "schema-invalid")
    hold_against_ledger(sent.headers, sent.edge, sorted(daemon.rows, key=lambda r: r.attempt))


async def test_a_frontier_answer_of_the_wrong_form_is_refused() -> None:
    form = {"type": "json_object"}
    async with routed(always("no json"), **LOCAL_FIRST) as daemon:
        answer = await daemon.post(URL, asked('{"a": 1}', response_format=form))
    assert answer.edge["reason"] == "degraded"
    assert answer.edge["detail"].startswith("refused")


async def test_a_frontier_may_be_named_and_sees_the_caps() -> None:
    async with routed(always("far")) as daemon:
        answer = await daemon.post(URL, {**asked("hey"), "model": "big", "max_tokens": 7})
    assert answer.edge["reason"] == "frontier-only"
    assert daemon.sent[0]["max_completion_tokens"] == 7
    hold_against_ledger(answer.headers, answer.edge, daemon.rows)


async def test_the_endpoint_caps_answers_here_and_there() -> None:
    table = {"helper": {"models": ["echo"], "policy": "local-only", "max_output_tokens": 3}}
    async with routed(None, endpoints=table) as daemon:
        cut = await daemon.post(URL, asked("abcdef"))
        more = await daemon.post(URL, asked("abcdef", max_tokens=4))
    assert content(cut) == "abc"
    assert more.body["error"]["code"] == "max_tokens_exceeded"


async def test_shadow_lets_the_local_model_try_beside() -> None:
    table = {"helper": {"models": ["echo"], "policy": "shadow"}}
    async with routed(always("far"), endpoints=table) as daemon:
        answer = await daemon.post(URL, asked("hey"))
        await daemon.router.finish_background(cancel=False)
    assert (content(answer), answer.edge["reason"]) == ("far", "shadow")
    hold_against_ledger(answer.headers, answer.edge, daemon.rows)
    beside = [row for row in daemon.ledger.attempts if row.purpose == "shadow"]
    assert [row.model for row in beside] == ["echo@1.0"]


async def test_the_bundles_prompt_goes_before_the_callers_messages() -> None:
    escalation = Escalation(prompt="Answer in JSON.", parser="json/1", max_output_tokens=9)
    async with routed(always('{"x": 1}'), **LOCAL_FIRST) as daemon:
        daemon.host._models["echo"] = replace(daemon.host.info("echo"), escalation=escalation)
        answer = await daemon.post(URL, asked("hey"))
    assert content(answer) == '{"x": 1}'
    assert daemon.sent[0]["messages"] == [
        {"role": "system", "content": "Answer in JSON."},
        {"role": "user", "content": "hey"},
    ]
    assert daemon.sent[0]["max_completion_tokens"] == 9


async def test_a_repeated_question_is_answered_from_the_cache_also_as_a_stream() -> None:
    async with routed(always("far"), sure_below(), cached=True, **LOCAL_FIRST) as daemon:
        first = await daemon.post(URL, asked("a long answer"))
        await daemon.router.finish_background(cancel=False)
        again = await daemon.post(URL, asked("a long answer"))
        response, events = await stream_of(daemon, asked("a long answer"))
        fresh = await daemon.post(URL, asked("a long answer"), cache_control="no-cache")
        nothing = await daemon.post(URL, asked("other"), cache_control="only-if-cached")
    assert first.headers["x-edge-cache"] == "miss"
    assert content(again) == "far"
    assert (again.edge["tier"], again.edge["reason"]) == ("cache", "cached")
    assert again.edge["saved"] == first.edge["cost"]
    assert again.body["id"] != first.body["id"]
    rows = [row for row in daemon.rows if row.request_id == again.headers["x-request-id"]]
    hold_against_ledger(again.headers, again.edge, rows)
    assert text_of(events) == "far"
    assert response.headers["x-edge-cache"] == "hit"
    assert fresh.headers["x-edge-cache"] == "miss"
    assert (nothing.status, nothing.body["error"]["code"]) == (504, "not_cached")


async def test_degraded_answers_are_not_kept() -> None:
    async with routed(down, sure_below(), cached=True, **LOCAL_FIRST) as daemon:
        for _ in range(2):
            answer = await daemon.post(URL, asked("a long answer"))
            await daemon.router.finish_background(cancel=False)
    assert answer.headers["x-edge-cache"] == "miss"


async def test_a_plain_model_answers_as_ever_and_is_booked() -> None:
    async with routed(always("far"), cached=True) as daemon:
        whole = await daemon.post(URL, {**asked("hey"), "model": "echo"})
        await daemon.router.finish_background(cancel=False)
        _, events = await stream_of(daemon, {**asked("hey"), "model": "echo"})
        strange = await daemon.post(URL, {**asked("hey"), "model": "echo", "tools": [1]})
        unknown = await daemon.post(URL, {**asked("hey"), "model": "nobody"})
    assert (whole.edge["reason"], whole.edge["tier"]) == ("requested-model", "local")
    assert events[-2]["edge"]["tier"] == "cache"
    assert text_of(events) == "hey"
    assert strange.body["error"]["code"] == "field_not_served"
    assert unknown.body["error"]["code"] == "model_not_found"


async def test_purges_take_what_is_named_and_outcomes_are_kept() -> None:
    async with routed(None, cached=True) as daemon:
        hello = {**asked("hey"), "model": "echo"}
        first = await daemon.post(URL, hello, x_edge_tag="news")
        await daemon.router.finish_background(cancel=False)
        kept = await daemon.post(URL, hello)
        gone = await daemon.post("/v1/cache/purge", {"key": first.headers["x-edge-cache-key"]})
        none = await daemon.post("/v1/cache/purge", {"tag": "news", "model": "echo"})
        after = await daemon.post(URL, hello)
        said = await daemon.post("/v1/tasks/t-9/outcome", {"resolved": False, "source": "user"})
        wrong = await daemon.post("/v1/tasks/t-9/outcome", {"resolved": "no"})
    assert kept.headers["x-edge-cache"] == "hit"
    assert (gone.body, none.body) == ({"purged": 1}, {"purged": 0})
    assert after.headers["x-edge-cache"] == "miss"
    assert said.body == {"task_id": "t-9", "resolved": False, "source": "user"}
    outcome = daemon.ledger.outcomes[-1]
    assert (outcome.task_id, outcome.resolved, outcome.explicit) == ("t-9", False, True)
    assert wrong.status == 400


async def test_an_unbilled_answer_still_costs_what_the_row_says() -> None:
    def unbilled(body: Any) -> Scripted:
        return Scripted(pieces=(orjson.dumps(completion("far", tokens=None)),))

    async with routed(unbilled, **LOCAL_FIRST) as daemon:
        answer = await daemon.post(URL, asked("hey"))
    assert daemon.rows[0].money_source == "estimate"
    hold_against_ledger(answer.headers, answer.edge, daemon.rows)

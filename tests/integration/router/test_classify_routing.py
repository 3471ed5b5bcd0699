"""Classification through a routed daemon: every input is decided on its own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from edge_runtime.ledger.rows import Status, Tier
from edge_runtime.router.frontier.memory import Scripted, fails, says
from tests.support.routed import certificate, hold_against_ledger, json_label, routed

URL = "/v1/classify"
LETTERS = "4" * 64
LOCAL_FIRST = {"endpoints": {"letters": {"models": ["letter-class"]}}}
# Consonants have a margin of 0.96, vowels of 0.90.
PROMISE = certificate(LETTERS, "letter-class", 0.93)


def asked(*texts: str, **more: Any) -> dict[str, Any]:
    return {"model": "letters", "input": list(texts) if len(texts) > 1 else texts[0], **more}


def by_input(body: Any) -> Scripted:
    text = body["messages"][-1]["content"]
    return says('{"label": "VOWEL"}' if text[0] in "aeiou" else '{"label": "none"}')


async def test_a_confident_label_is_kept() -> None:
    async with routed(json_label("vowel"), PROMISE, **LOCAL_FIRST) as daemon:
        answer = await daemon.post(URL, asked("tree"))
    assert answer.body["data"][0]["label"] == "consonant"
    assert answer.edge["reason"] == "confident"
    assert answer.edge["certificate"] == PROMISE.digest
    hold_against_ledger(answer.headers, answer.edge, daemon.rows)
    assert daemon.sent == []


async def test_an_unsure_label_is_asked_of_the_frontier_by_the_bundles_prompt() -> None:
    async with routed(json_label("other"), PROMISE, **LOCAL_FIRST) as daemon:
        answer = await daemon.post(URL, asked("apple"))
    entry = answer.body["data"][0]
    assert (entry["label"], entry["score"], entry["labels"]) == ("other", None, [])
    hold_against_ledger(answer.headers, answer.edge, daemon.rows)
    system, user = daemon.sent[0]["messages"]
    assert system["content"] == "Say which of these it is:\nconsonant\nvowel\nother"
    assert user["content"] == "apple"
    assert {row.tier: row.status for row in daemon.rows}[Tier.LOCAL] is Status.DISCARDED


async def test_inputs_of_one_request_are_decided_one_by_one() -> None:
    async with routed(by_input, PROMISE, **LOCAL_FIRST) as daemon:
        answer = await daemon.post(URL, asked("tree", "apple", "bird", "eel"))
    labels = [entry["label"] for entry in answer.body["data"]]
    assert labels == ["consonant", "vowel", "consonant", "vowel"]
    assert [entry["edge"]["tier"] for entry in answer.body["data"]] == [
        "local", "frontier", "local", "frontier",
    ]  # fmt: skip
    assert answer.headers["x-edge-tier"] == "mixed"
    request_id = answer.headers["x-request-id"]
    assert sorted({row.request_id for row in daemon.rows}) == [
        f"{request_id}#{at}" for at in range(4)
    ]
    assert {row.task_id for row in daemon.rows} == {request_id}
    for entry in answer.body["data"]:
        rows = [row for row in daemon.rows if row.request_id == f"{request_id}#{entry['index']}"]
        assert sum(row.answered for row in rows) == 1
        assert entry["edge"]["answered_by"] == next(row.model for row in rows if row.answered)


async def test_out_of_scope_is_only_what_the_bundle_maps() -> None:
    async with routed(json_label("none"), **LOCAL_FIRST) as daemon:
        answer = await daemon.post(URL, asked("tree"))
        entry = answer.body["data"][0]
        assert (entry["label"], entry["out_of_scope"]) == ("oos", True)
        info = daemon.host.info("letter-class")
        assert info.escalation is not None
        bare = info.escalation.model_copy(update={"out_of_scope": None})
        daemon.host._models["letter-class"] = replace(info, escalation=bare)
        refused = await daemon.post(URL, asked("tree"))
    assert refused.edge["reason"] == "degraded"


@pytest.mark.parametrize("said", ['{"label": "banana"}', "vowel", '{"tag": "vowel"}', "[1]"])
async def test_answers_outside_the_labels_are_refused_and_counted(said: str) -> None:
    async with routed(lambda body: says(said), PROMISE, **LOCAL_FIRST) as daemon:
        answer = await daemon.post(URL, asked("apple"))
        async with daemon.client.get("/metrics") as response:
            metrics = await response.text()
    assert answer.body["data"][0]["label"] == "vowel", "the box's own answer"
    assert answer.edge["reason"] == "degraded"
    assert answer.headers["x-edge-degraded"] == "true"
    assert 'edge_frontier_failures_total{why="refused"} 1.0' in metrics
    hold_against_ledger(answer.headers, answer.edge, sorted(daemon.rows, key=lambda r: r.attempt))


async def test_a_dead_frontier_refuses_where_degraded_answers_are_off() -> None:
    sections = {**LOCAL_FIRST, "router": {"degraded_answers": False}}
    async with routed(lambda body: fails(500), PROMISE, **sections) as daemon:
        answer = await daemon.post(URL, asked("apple"))
    assert answer.status == 503
    assert answer.headers["x-edge-reason"] == "low-confidence"
    assert sum(row.answered for row in daemon.rows) == 0


async def test_never_leave_never_leaves() -> None:
    async with routed(json_label("other"), PROMISE, **LOCAL_FIRST) as daemon:
        answer = await daemon.post(URL, asked("apple", "tree"), x_edge_privacy="never-leave")
    reasons = [entry["edge"]["reason"] for entry in answer.body["data"]]
    assert reasons == ["never-leave", "confident"]
    assert daemon.sent == []


async def test_a_bundle_without_escalation_cannot_escalate_and_says_so() -> None:
    async with routed(json_label("other"), **LOCAL_FIRST) as daemon:
        info = replace(daemon.host.info("letter-class"), escalation=None)
        daemon.host._models["letter-class"] = info
        answer = await daemon.post(URL, asked("apple"))
    assert answer.edge["reason"] == "degraded"
    assert "escalation" in answer.edge["detail"]


async def test_inputs_that_are_too_long_escalate_alone() -> None:
    async with routed(json_label("other"), PROMISE, **LOCAL_FIRST) as daemon:
        answer = await daemon.post(URL, asked("tree", "x" * 40))
    assert [entry["edge"]["reason"] for entry in answer.body["data"]] == [
        "confident", "context-too-long",
    ]  # fmt: skip


async def test_answers_are_kept_input_by_input() -> None:
    async with routed(by_input, PROMISE, cached=True, **LOCAL_FIRST) as daemon:
        await daemon.post(URL, asked("apple"))
        await daemon.router.finish_background(cancel=False)
        answer = await daemon.post(URL, asked("apple", "tree"))
        assert [entry["edge"]["tier"] for entry in answer.body["data"]] == ["cache", "local"]
        assert answer.body["data"][0]["label"] == "vowel"
        alone = await daemon.post(URL, asked("apple"))
    rows = [row for row in daemon.rows if row.request_id == alone.headers["x-request-id"]]
    hold_against_ledger(alone.headers, alone.edge, rows)


async def test_a_plain_classifier_is_one_row_whatever_its_inputs() -> None:
    async with routed(None) as daemon:
        answer = await daemon.post(URL, {"model": "letter-class", "input": ["a", "b", "c"]})
    hold_against_ledger(answer.headers, answer.edge, daemon.rows)
    assert (len(daemon.rows), daemon.rows[0].tokens_in) == (1, 9)
    assert "edge" not in answer.body["data"][0]


async def test_shadow_compares_beside_the_frontier() -> None:
    table = {"letters": {"models": ["letter-class"], "policy": "shadow"}}
    async with routed(json_label("other"), endpoints=table) as daemon:
        answer = await daemon.post(URL, asked("apple"))
        await daemon.router.finish_background(cancel=False)
    assert answer.edge["reason"] == "shadow"
    assert [row.purpose for row in daemon.ledger.attempts] == ["serve", "shadow"]


async def test_a_kept_answer_keeps_the_score_it_was_made_with() -> None:
    async with routed(by_input, PROMISE, cached=True, **LOCAL_FIRST) as daemon:
        for text in ("tree", "apple", "tree", "apple"):
            await daemon.post(URL, asked(text))
            await daemon.router.finish_background(cancel=False)
    rows = daemon.rows
    made = [row for row in rows if row.tier is Tier.LOCAL]
    again = [row for row in rows if row.tier is Tier.CACHE]
    assert [row.score_ppm for row in again] == [row.score_ppm for row in made]
    assert None not in {row.score_ppm for row in again}
    assert {(row.task, row.model_digest) for row in again} == {("letter-class", LETTERS)}


async def test_the_routers_own_time_is_told_once_a_request_without_the_frontiers() -> None:
    table = {**LOCAL_FIRST, "endpoints": {**LOCAL_FIRST["endpoints"], "helper": {"models": []}}}
    chat = {"model": "helper", "messages": [{"role": "user", "content": "hey"}]}
    async with routed(json_label("vowel"), PROMISE, cached=True, **table) as daemon:
        for text in ("tree", "apple", "tree"):
            await daemon.post(URL, asked(text))
            await daemon.router.finish_background(cancel=False)
        await daemon.post(URL, {"model": "letter-class", "input": ["a", "b"]})
        await daemon.post("/v1/chat/completions", chat)
        async with daemon.client.get("/metrics") as response:
            metrics = await response.text()
    assert 'edge_router_seconds_count{route="/v1/classify"} 4.0' in metrics
    assert 'edge_router_seconds_count{route="/v1/chat/completions"} 1.0' in metrics

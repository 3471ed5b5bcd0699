"""Trials of a second bundle through a routed daemon: paired, judged, halted, reverted."""

from __future__ import annotations

from typing import Any

import pytest

from edge_runtime.core import RequestClass
from edge_runtime.ledger.rows import Purpose
from edge_runtime.router.frontier.memory import Scripted, says
from edge_runtime.router.watch.contract import SliceRow
from tests.support.routed import Answered, Routed, certificate, json_label, routed, short_is_sure
from tests.support.trials import NEXT, Trying, TwoBundles

CLASSIFY, CHAT = "/v1/classify", "/v1/chat/completions"
LETTERS = {"endpoints": {"letters": {"models": ["letter-class"]}}}
HELPER = {"endpoints": {"helper": {"models": ["echo"]}}}
OLD = certificate("4" * 64, "letter-class", 0.5)
# of the new bundle, for the task of the one it may replace
NEW = certificate(NEXT["letter-class"][1], "letter-class", 0.5)
AB = (0.0, 0.0)  # takes part; the candidate serves


def chat_certificate(digest: str) -> Any:
    return certificate(digest, "echo", 0.3, kind="generate", score=short_is_sure())


async def label(daemon: Routed, text: str = "tree") -> Answered:
    return await daemon.post(CLASSIFY, {"model": "letters", "input": text})


async def say(daemon: Routed, text: str = "hey") -> Answered:
    message = {"role": "user", "content": text}
    return await daemon.post(CHAT, {"model": "helper", "messages": [message]})


def content(answer: Answered) -> str:
    text: str = answer.body["choices"][0]["message"]["content"]
    return text


def tasks(trying: Trying) -> SliceRow:
    return next(row for row in trying.watch.slices() if row.dimension == "task")


async def test_a_bad_candidate_in_the_shadow_is_halted_and_touches_no_request() -> None:
    trying = Trying(json_label("consonant"))
    host = TwoBundles(bad=True)
    sections: dict[str, Any] = {"watch": trying.watch, "host": host, **LETTERS}
    async with trying.watch.running(), routed(json_label("no"), OLD, NEW, **sections) as daemon:
        for at in range(60):
            answer = await label(daemon)
            assert answer.body["data"][0]["label"] == "consonant"
            assert answer.edge["answered_by"] == "letter-class@1.0"
            assert answer.edge["reason"] == "confident"
            await daemon.router.finish_background(cancel=False)
            await trying.until(lambda at=at: trying.watch.trials()[0].pairs == at + 1)  # type: ignore[misc]
            if trying.outcome != "continue":
                break
        state = trying.watch.trials()[0]
        assert (state.outcome, state.wins) == ("revert", 0)
        assert state.losses == state.pairs == trying.judged
        asked = len(host.asked_next())
        await label(daemon)
        await daemon.router.finish_background(cancel=False)
        assert len(host.asked_next()) == asked, "the trial is over"
        assert set(host.asked_next()) == {RequestClass.BATCH}
        assert daemon.sent == [], "no request was escalated for it"
        shadows = [row for row in daemon.ledger.attempts if row.purpose is Purpose.SHADOW]
        assert {row.model for row in shadows} == {"letter-next@1.0"}
        assert not any(row.answered for row in shadows)
    told = trying.watch.events()[-1]
    assert (told.kind, told.subject) == ("trial-revert", "letter-class")
    assert b'edge_watch_events_total{event="trial-revert"} 1.0' in trying.metrics.render()


async def test_a_bad_candidate_that_serves_is_taken_back_at_once_and_for_good() -> None:
    trying = Trying(json_label("consonant"), mode="ab", draws=AB)
    sections: dict[str, Any] = {"watch": trying.watch, "host": TwoBundles(bad=True), **LETTERS}
    async with trying.watch.running(), routed(json_label("no"), OLD, NEW, **sections) as daemon:
        first = await label(daemon)
        assert first.edge["answered_by"] == "letter-next@1.0", "it serves while the trial runs"
        assert first.edge["certificate"] == NEW.digest
        for at in range(1, 60):
            await daemon.router.finish_background(cancel=False)
            await trying.until(lambda at=at: trying.watch.trials()[0].pairs == at)  # type: ignore[misc]
            if trying.outcome != "continue":
                break
            await label(daemon)
        assert trying.outcome == "revert"
        assert (await label(daemon)).edge["answered_by"] == "letter-class@1.0"
    again = Trying(json_label("consonant"), mode="ab", draws=AB, store=trying.store)
    host = TwoBundles(bad=True)
    sections = {"watch": again.watch, "host": host, **LETTERS}
    async with routed(json_label("no"), OLD, NEW, **sections) as daemon:
        answer = await label(daemon)
    assert answer.edge["answered_by"] == "letter-class@1.0", "a restart does not forget it"
    assert host.asked_next() == []


@pytest.mark.parametrize("broken", [True, False])
async def test_what_a_candidate_cannot_answer_the_incumbent_answers(broken: bool) -> None:
    trying = Trying(json_label("consonant"), mode="ab", draws=AB)
    promises = (OLD, NEW) if broken else (OLD,)
    sections: dict[str, Any] = {"watch": trying.watch, "host": TwoBundles(broken=broken), **LETTERS}
    async with routed(json_label("no"), *promises, **sections) as daemon:
        answer = await label(daemon)
        await daemon.router.finish_background(cancel=False)
    assert answer.status == 200
    assert answer.edge["answered_by"] == "letter-class@1.0"
    assert answer.edge["reason"] == "confident"
    state = trying.watch.trials()[0]
    assert (state.pairs, state.losses) == (1, int(broken)), "a fault loses, agreement does not"
    assert daemon.sent == []


async def test_a_good_candidate_is_promoted_and_serves_from_then_on() -> None:
    """The incumbent is wrong about vowels; the candidate says what the frontier says."""

    def right(body: Any) -> Scripted:
        return says('{"label": "other"}')

    # the third draw is that of the audits
    trying = Trying(right, mode="ab", draws=(0.0, 0.9, 0.9))
    host = TwoBundles(bad=True)  # it answers `other` for a vowel
    sections: dict[str, Any] = {"watch": trying.watch, "host": host, **LETTERS}
    async with trying.watch.running(), routed(right, OLD, NEW, **sections) as daemon:
        for at in range(60):
            answer = await label(daemon, "apple")
            assert answer.edge["answered_by"] == "letter-class@1.0", "drawn to the old one"
            await daemon.router.finish_background(cancel=False)
            await trying.until(lambda at=at: trying.watch.trials()[0].pairs == at + 1)  # type: ignore[misc]
            if trying.outcome != "continue":
                break
        assert trying.outcome == "promote"
        pairs = trying.watch.trials()[0].pairs
        answer = await label(daemon, "apple")
        await daemon.router.finish_background(cancel=False)
    assert answer.edge["answered_by"] == "letter-next@1.0"
    assert answer.body["data"][0]["label"] == "other"
    assert trying.watch.trials()[0].pairs == pairs
    assert trying.watch.events()[-1].kind == "trial-promote"


async def test_an_escalated_request_is_judged_by_the_answer_it_got_and_no_second_call() -> None:
    trying = Trying(json_label("never asked"))
    sections: dict[str, Any] = {"watch": trying.watch, "host": TwoBundles(bad=True), **LETTERS}
    unsure = certificate("4" * 64, "letter-class", 0.999)
    async with trying.watch.running(), routed(json_label("vowel"), unsure, **sections) as daemon:
        answer = await label(daemon, "apple")
        await daemon.router.finish_background(cancel=False)
    assert answer.edge["reason"] == "low-confidence"
    state = trying.watch.trials()[0]
    assert (state.pairs, state.losses, trying.judged) == (1, 1, 0)


async def test_what_must_not_leave_or_no_certificate_judged_takes_no_part() -> None:
    trying = Trying(json_label("vowel"))
    host = TwoBundles(bad=True)
    sections: dict[str, Any] = {"watch": trying.watch, "host": host, **LETTERS}
    async with routed(json_label("vowel"), OLD, **sections) as daemon:
        body = {"model": "letters", "input": "tree"}
        await daemon.post(CLASSIFY, body, x_edge_privacy="never-leave")
        await daemon.post(CLASSIFY, {**body, "input": "x" * 40})
        await daemon.post(CLASSIFY, {**body, "model": "letter-class"})
        await daemon.router.finish_background(cancel=False)
    assert host.asked_next() == []
    assert sum(state.pairs for state in trying.watch.trials()) == 0


@pytest.mark.parametrize("mode", ["shadow", "ab"])
async def test_a_bad_generator_is_halted(mode: str) -> None:
    trying = Trying(lambda body: says("hey"), "echo", mode, AB)
    sections: dict[str, Any] = {"watch": trying.watch, "host": TwoBundles(bad=True), **HELPER}
    promises = (chat_certificate("1" * 64), chat_certificate(NEXT["echo"][1]))
    async with trying.watch.running(), routed(json_label("no"), *promises, **sections) as daemon:
        for at in range(60):
            answer = await say(daemon)
            assert content(answer) == ("hey" if mode == "shadow" else "???")
            await daemon.router.finish_background(cancel=False)
            await trying.until(lambda at=at: trying.watch.trials()[0].pairs == at + 1)  # type: ignore[misc]
            if trying.outcome != "continue":
                break
        assert trying.outcome == "revert"
        assert content(await say(daemon)) == "hey"
        assert daemon.sent == []


async def test_a_broken_generator_loses_without_a_judge() -> None:
    trying = Trying(lambda body: says("hey"), "echo")
    sections: dict[str, Any] = {"watch": trying.watch, "host": TwoBundles(broken=True), **HELPER}
    async with routed(json_label("no"), chat_certificate("1" * 64), **sections) as daemon:
        for _ in range(60):
            assert content(await say(daemon)) == "hey"
            await daemon.router.finish_background(cancel=False)
            if trying.outcome != "continue":
                break
    assert (trying.outcome, trying.judged) == ("revert", 0)


async def test_slices_count_what_escalates_without_a_local_try() -> None:
    trying = Trying(json_label("vowel"))
    sections: dict[str, Any] = {"watch": trying.watch, **LETTERS, "host": TwoBundles()}
    async with routed(json_label("vowel"), **sections) as daemon:
        await label(daemon)
        await label(daemon, "x" * 40)
    row = tasks(trying)
    assert (row.value, row.requests, row.escalated) == ("letter-class", 2, 2)


async def test_slices_count_chats_that_escalate_and_those_that_are_kept() -> None:
    trying = Trying(lambda body: says("far"), "echo")
    sections: dict[str, Any] = {"watch": trying.watch, **HELPER, "host": TwoBundles()}
    async with routed(lambda body: says("far"), chat_certificate("1" * 64), **sections) as daemon:
        await say(daemon)
        await say(daemon, "a longer text")
        both = [{"role": "system", "content": "x"}, {"role": "user", "content": "hey"}]
        await daemon.post(CHAT, {"model": "helper", "messages": both})
        await daemon.router.finish_background(cancel=False)
    row = tasks(trying)
    assert (row.value, row.requests, row.escalated) == ("echo", 3, 2)


async def test_a_request_of_two_scored_models_counts_once_and_tells_both_certificates() -> None:
    trying = Trying(json_label("vowel"), mode="ab", draws=AB)
    unsure = certificate(NEXT["letter-class"][1], "letter-class", 0.999)
    sections: dict[str, Any] = {"watch": trying.watch, **LETTERS, "host": TwoBundles()}
    async with routed(json_label("vowel"), OLD, unsure, **sections) as daemon:
        daemon.router.tell_watch()
        answer = await label(daemon)
    assert answer.edge["answered_by"] == "letter-class@1.0"
    row = tasks(trying)
    assert (row.requests, row.escalated) == (1, 0)
    state = trying.watch.state()
    seen = {one.terms.certificate: one.state for one in state.certificates}
    assert set(seen) == {OLD.digest, unsure.digest}
    assert trying.watch.trials()[0].pairs == 1, "both answered: nobody is asked again"

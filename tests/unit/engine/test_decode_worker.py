"""Whatever else happens in the worker, a request gets the answer it gets alone, and one end."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.core import FinishReason, GenerateRequest, RequestClass, SamplingParams
from edge_runtime.engine.text import Codec
from edge_runtime.errors import CapacityError, EngineError, UsageError
from edge_runtime.metrics import NullObserver
from edge_runtime.scheduler.slots import MIN_CHUNK
from tests.support.engine import EOS, Bench, alone, ask, greedy, letter_tokenizer, load_codec

MAX_LEN = 40
BASES = ((1,) * 30, tuple(range(26)), (3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9))


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Codec:
    return load_codec(letter_tokenizer(), tmp_path_factory.mktemp("codec"))


class RejectionCounter(NullObserver):
    """Remembers what was not admitted."""

    def __init__(self, counted: list[tuple[str, str]]) -> None:
        self.counted = counted

    def observe_rejected(self, model: str, reason: str) -> None:
        self.counted.append((model, reason))


@dataclass(frozen=True)
class Visit:
    """One request, when it comes (in steps), and how long after that it is cancelled."""

    at: int
    prompt: tuple[int, ...]
    params: SamplingParams
    cancel_after: int | None
    request_class: RequestClass

    def request(self, name: str, arrival_s: float) -> GenerateRequest:
        return ask(
            name,
            self.prompt,
            self.params,
            arrival_s=arrival_s,
            request_class=self.request_class,
        )


PROMPTS = st.builds(
    lambda base, keep, tail: (base[:keep] + tuple(tail)) or (0,),
    st.sampled_from(BASES),
    st.integers(0, 30),
    st.lists(st.integers(0, 30), max_size=6),
)
PARAMS = st.builds(
    SamplingParams,
    max_tokens=st.integers(1, 12),
    temperature=st.sampled_from([0.0, 0.0, 0.8, 1.5]),
    top_k=st.sampled_from([0, 5]),
    top_p=st.sampled_from([1.0, 0.8]),
    seed=st.integers(0, 5),
    stop=st.sampled_from([(), (), ("a", "bc"), ("e", "ab", "xyz")]),
    stop_token_ids=st.sampled_from([(), (), (4, 5)]),
    ignore_eos=st.booleans(),
    frequency_penalty=st.sampled_from([0.0, 0.7]),
    top_logprobs=st.sampled_from([None, 2]),
)
VISITS = st.lists(
    st.builds(
        Visit,
        at=st.integers(0, 25),
        prompt=PROMPTS,
        params=PARAMS,
        cancel_after=st.one_of(st.none(), st.none(), st.integers(0, 12)),
        request_class=st.sampled_from(list(RequestClass)),
    ),
    min_size=1,
    max_size=9,
)


def play(bench: Bench, visits: list[Visit], fail_at: frozenset[int] = frozenset()) -> set[str]:
    """Let the visits happen; the names of those that were let in."""
    admitted: set[str] = set()
    total = sum(len(v.prompt) + v.params.max_tokens for v in visits)
    for step in range(26 + total):
        for index, visit in enumerate(visits):
            name = str(index)
            if visit.at == step:
                try:
                    bench.worker.submit(visit.request(name, bench.clock()))
                    admitted.add(name)
                except CapacityError:
                    pass
            if visit.cancel_after is not None and visit.at + visit.cancel_after == step:
                bench.worker.cancel(name)
        if step in fail_at:
            bench.decoder.fail_next = "the machine failed"
        bench.turn()
        bench.decoder.fail_next = None
    assert not bench.worker.busy, "a request never ended"
    return admitted


@given(VISITS, st.integers(1, 3), st.integers(0, 4))
@settings(max_examples=60, deadline=None)
def test_company_changes_nothing(
    codec: Codec, visits: list[Visit], slots: int, max_waiting: int
) -> None:
    bench = Bench(codec, slots=slots, max_len=MAX_LEN, max_waiting=max_waiting)
    admitted = play(bench, visits)
    for index, visit in enumerate(visits):
        name = str(index)
        if name not in admitted:
            assert bench.of(name) == []
            continue
        tokens, text, reason = alone(codec, visit.request(name, 0.0), max_len=MAX_LEN)
        if bench.reason(name) is FinishReason.CANCELLED:
            assert visit.cancel_after is not None
            assert bench.tokens(name) == tokens[: len(bench.tokens(name))]
        else:
            assert (bench.tokens(name), bench.text(name), bench.reason(name)) == (
                tokens,
                text,
                reason,
            )


@given(VISITS, st.frozensets(st.integers(0, 40), max_size=4))
@settings(max_examples=40, deadline=None)
def test_a_failed_step_harms_only_those_in_it(
    codec: Codec, visits: list[Visit], fail_at: frozenset[int]
) -> None:
    bench = Bench(codec, slots=2, max_len=MAX_LEN)
    play(bench, visits, fail_at)
    errors = 0
    for index, visit in enumerate(visits):
        name = str(index)
        tokens, _, reason = alone(codec, visit.request(name, 0.0), max_len=MAX_LEN)
        errors += bench.reason(name) is FinishReason.ERROR
        assert bench.reason(name) in {reason, FinishReason.CANCELLED, FinishReason.ERROR}
        assert bench.tokens(name) == tokens[: len(bench.tokens(name))]
    assert errors <= len(fail_at) * bench.slots


def test_the_end_has_its_true_reason(codec: Codec) -> None:
    free = alone(codec, ask("x", [1, 2, 3], greedy(6, ignore_eos=True)))[0]
    assert len(free) == 6
    letters = codec.decode(free)

    def reason(**changes: object) -> tuple[int, str, FinishReason]:
        tokens, text, why = alone(codec, ask("x", [1, 2, 3], greedy(**changes)))  # type: ignore[arg-type]
        return len(tokens), text, why

    assert reason(max_tokens=6, ignore_eos=True) == (6, letters, FinishReason.LENGTH)
    stopped = reason(max_tokens=6, ignore_eos=True, stop=(letters[1:3],))
    assert stopped == (letters.index(letters[1:3]) + 2, letters[:1], FinishReason.STOP)
    by_id = reason(max_tokens=6, ignore_eos=True, stop_token_ids=(free[2],))
    assert by_id == (free.index(free[2]) + 1, letters[: free.index(free[2])], FinishReason.STOP)


def test_end_of_sequence_ends_unless_ignored(codec: Codec) -> None:
    always = {EOS: 100.0}
    tokens, text, why = alone(codec, ask("x", [1], greedy(5, logit_bias=always)))
    assert (tokens, text, why) == ([EOS], "", FinishReason.STOP)
    tokens, text, why = alone(codec, ask("x", [1], greedy(5, logit_bias=always, ignore_eos=True)))
    assert (tokens, text, why) == ([EOS] * 5, "", FinishReason.LENGTH)


def test_the_context_is_used_to_its_last_token(codec: Codec) -> None:
    request = ask("x", [1] * 10, greedy(1000, ignore_eos=True))
    tokens, _, why = alone(codec, request, max_len=32)
    assert (len(tokens), why) == (22, FinishReason.LENGTH)


def test_a_stop_string_held_back_at_the_end_is_still_found(codec: Codec) -> None:
    """The last allowed token completes the stop string: the answer stopped, it was not cut."""
    free = alone(codec, ask("x", [1, 2, 3], greedy(4, ignore_eos=True)))
    request = ask("x", [1, 2, 3], greedy(4, ignore_eos=True, stop=(free[1][-2:],)))
    _, text, why = alone(codec, request)
    assert (text, why) == (free[1][: free[1].index(free[1][-2:])], FinishReason.STOP)


def test_a_cancelled_slot_serves_the_next_plan(codec: Codec) -> None:
    bench = Bench(codec, slots=1)
    bench.submit("first", [1, 2, 3], max_tokens=50, ignore_eos=True)
    bench.submit("second", [4, 5, 6], max_tokens=1)
    bench.turn()
    bench.worker.cancel("first")
    bench.turn()
    assert bench.reason("first") is FinishReason.CANCELLED
    assert bench.decoder.plans[-1].rows[0].tokens == (4, 5, 6)
    assert len(bench.of("second")) == 1


def test_cancelling_what_waits_or_is_unknown(codec: Codec) -> None:
    bench = Bench(codec, slots=1)
    bench.submit("runs", [1], max_tokens=3, ignore_eos=True)
    bench.submit("waits", [2])
    bench.worker.cancel("waits")
    bench.worker.cancel("nobody")
    bench.drain()
    assert bench.reason("waits") is FinishReason.CANCELLED
    assert bench.tokens("waits") == []
    assert len(bench.tokens("runs")) == 3


def test_what_waits_past_its_deadline_ends_and_is_counted(codec: Codec) -> None:
    bench = Bench(codec, slots=1)
    counted: list[tuple[str, str]] = []
    bench.worker.observer = RejectionCounter(counted)
    bench.submit("runs", [1], max_tokens=20, ignore_eos=True)
    bench.turn()
    bench.worker.scheduler.cost.base_ms = bench.worker.scheduler.cost.slope_ms = 1e-3
    deadline_s = bench.clock() + 0.05
    bench.worker.submit(ask("waits", [2], arrival_s=bench.clock(), deadline_s=deadline_s))
    bench.drain()
    assert bench.reason("waits") is FinishReason.CANCELLED
    assert bench.tokens("waits") == []
    assert len(bench.tokens("runs")) == 20
    assert counted == [("fake", "deadline")]


def test_a_refused_request_is_counted_by_its_reason(codec: Codec) -> None:
    bench = Bench(codec, slots=1, max_waiting=1)
    counted: list[tuple[str, str]] = []
    bench.worker.observer = RejectionCounter(counted)
    bench.submit("first", [1])
    with pytest.raises(CapacityError):
        bench.submit("second", [2])
    assert counted == [("fake", "queue_full")]


def test_the_next_turn_of_a_chat_reuses_its_slot(codec: Codec) -> None:
    bench = Bench(codec, slots=2)
    chat = tuple(range(20))
    bench.submit("one", chat, max_tokens=4, ignore_eos=True)
    bench.drain()
    more = (*chat, *bench.tokens("one"), 7, 8)
    bench.submit("two", more, max_tokens=1)
    bench.drain()
    # The last sampled token was never computed.
    assert bench.of("two")[0].cached_prompt_tokens == 23
    assert bench.decoder.plans[-1].rows[0].tokens == (bench.tokens("one")[-1], 7, 8)
    assert bench.decoder.copies == []


def test_a_prefix_is_copied_from_a_slot_at_work(codec: Codec) -> None:
    bench = Bench(codec, slots=2)
    shared = tuple(range(20))
    bench.submit("one", (*shared, 1, 2), max_tokens=20, ignore_eos=True)
    bench.turn()
    bench.turn()
    bench.submit("two", (*shared, 2, 1), max_tokens=3, ignore_eos=True)
    bench.drain()
    assert bench.decoder.copies == [(0, 1, 20)]
    assert bench.of("two")[0].cached_prompt_tokens == 20
    request = ask("two", (*shared, 2, 1), greedy(3, ignore_eos=True))
    assert bench.tokens("two") == alone(codec, request)[0]


def test_a_whole_cached_prompt_still_computes_its_last_tokens(codec: Codec) -> None:
    bench = Bench(codec, slots=1)
    for name in ("one", "two"):
        bench.submit(name, range(20), max_tokens=2, ignore_eos=True)
        bench.drain()
    assert bench.of("two")[0].cached_prompt_tokens == 20 - MIN_CHUNK
    assert bench.tokens("one") == bench.tokens("two")


def test_seeds_decide_and_requests_without_one_get_one(codec: Codec) -> None:
    params = SamplingParams(max_tokens=8, temperature=1.5, ignore_eos=True)
    answers = [
        alone(codec, ask("x", [1], replace(params, seed=seed)))[1] for seed in (1, 1, 2, None)
    ]
    assert answers[0] == answers[1] != answers[2]
    assert len(answers[3]) > 0


def test_logits_that_are_not_numbers_end_the_step(codec: Codec) -> None:
    bench = Bench(codec)
    step = FakeStep(bench)
    bench.worker.decoder = step  # type: ignore[assignment]
    bench.submit("x", [1, 2])
    bench.drain()
    assert bench.reason("x") is FinishReason.ERROR
    assert "finite" in str(bench.of("x")[0].error)


class FakeStep:
    """A decoder whose logits are all NaN."""

    def __init__(self, bench: Bench) -> None:
        self._decoder = bench.decoder

    def step(self, plan: object) -> object:
        logits = self._decoder.step(plan)  # type: ignore[arg-type]
        logits[:] = float("nan")
        return logits


def test_a_worker_that_was_ended_takes_nothing(codec: Codec) -> None:
    bench = Bench(codec, slots=1)
    bench.submit("runs", [1])
    bench.submit("waits", [2])
    bench.turn()
    bench.worker.abort_all(EngineError("the engine failed"))
    assert bench.reason("runs") is FinishReason.ERROR
    assert bench.reason("waits") is FinishReason.ERROR
    with pytest.raises(EngineError, match="the engine failed"):
        bench.submit("late", [3])
    assert bench.worker.turn() is False


def test_what_can_never_run_is_refused_with_both_numbers(codec: Codec) -> None:
    bench = Bench(codec, max_len=16)
    with pytest.raises(UsageError, match=r"16 tokens and the context is 16"):
        bench.submit("x", range(16))
    with pytest.raises(UsageError, match="no tokens"):
        bench.submit("y", [])
    bench.submit("z", range(15))
    with pytest.raises(ValueError, match="queued already"):
        bench.submit("z", range(15))
    bench.drain()
    assert len(bench.tokens("z")) == 1

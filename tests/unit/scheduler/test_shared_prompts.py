"""Several answers to one prompt: it is computed once, and the answers stay what they were."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.engine.text import Codec
from edge_runtime.scheduler.slots import MIN_CHUNK
from tests.support.engine import Bench, ask, greedy, letter_tokenizer, load_codec

PROMPT = [(3 * at) % 26 for at in range(40)]


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Codec:
    return load_codec(letter_tokenizer(), tmp_path_factory.mktemp("codec"))


def prompt_tokens(bench: Bench) -> int:
    """Prompt tokens that steps have computed."""
    return sum(
        row.new_len
        for plan in bench.decoder.plans
        for row in plan.rows
        if row.cached_len < len(PROMPT)
    )


def ask_all(bench: Bench, count: int) -> None:
    for choice in range(count):
        params = greedy(temperature=1.0, seed=100 + choice, max_tokens=6, ignore_eos=True)
        bench.worker.submit(ask(f"r/{choice}", PROMPT, params, arrival_s=100.0))


@pytest.mark.parametrize("max_chunk", [16, 64])
def test_a_prompt_is_computed_once_for_all_its_answers(codec: Codec, max_chunk: int) -> None:
    bench = Bench(codec, slots=4, max_chunk=max_chunk)
    ask_all(bench, 4)
    bench.drain()
    assert prompt_tokens(bench) == len(PROMPT) + 3 * MIN_CHUNK
    told = [bench.of(f"r/{at}")[0].cached_prompt_tokens for at in range(4)]
    assert told == [0] + [len(PROMPT) - MIN_CHUNK] * 3


def test_the_answers_are_those_of_requests_on_their_own(codec: Codec) -> None:
    together = Bench(codec, slots=4)
    ask_all(together, 4)
    together.drain()
    for choice in range(4):
        alone = Bench(codec, slots=1)
        params = greedy(temperature=1.0, seed=100 + choice, max_tokens=6, ignore_eos=True)
        alone.worker.submit(ask("one", PROMPT, params, arrival_s=100.0))
        alone.drain()
        assert together.tokens(f"r/{choice}") == alone.tokens("one")


def test_who_waits_for_a_prefix_keeps_its_place(codec: Codec) -> None:
    bench = Bench(codec, slots=2, max_chunk=8)
    ask_all(bench, 2)
    bench.worker.submit(ask("other", [5, 4, 3, 2], greedy(2, ignore_eos=True), arrival_s=101.0))
    bench.turn()
    assert bench.worker.scheduler.running_count == 1
    bench.drain()
    assert bench.events[-1][0] == "other"


def test_a_first_that_goes_away_leaves_what_it_computed(codec: Codec) -> None:
    bench = Bench(codec, slots=2, max_chunk=16)
    ask_all(bench, 2)
    bench.turn()
    bench.worker.cancel("r/0")
    bench.drain()
    assert len(bench.tokens("r/1")) == 6
    assert prompt_tokens(bench) == len(PROMPT)


@given(
    cuts=st.lists(st.integers(0, 40), min_size=1, max_size=6),
    slots=st.integers(1, 4),
    chunk=st.integers(4, 40),
)
@settings(max_examples=40, deadline=None)
def test_nobody_waits_for_ever(codec: Codec, cuts: list[int], slots: int, chunk: int) -> None:
    bench = Bench(codec, slots=slots, max_chunk=chunk)
    for number, cut in enumerate(cuts):
        prompt = [*PROMPT[:cut], number % 26, *PROMPT[cut:]]
        bench.submit(f"r{number}", prompt, max_tokens=3, ignore_eos=True)
    bench.drain(most=500)
    assert all(len(bench.tokens(f"r{number}")) == 3 for number in range(len(cuts)))

"""The sampler against plain definitions of what its parameters mean."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.core import SamplingParams
from edge_runtime.engine import sampler
from edge_runtime.engine.sampler import Sampled, SamplerState, sample

Array = npt.NDArray[Any]


class Uniform:
    """A generator that draws what the test says."""

    def __init__(self, values: list[float]) -> None:
        self._values = iter(values)

    def random(self) -> float:
        return next(self._values)


def state(uniform: list[float] | None = None, prompt: tuple[int, ...] = (), **params: Any) -> Any:
    made = SamplerState.start(SamplingParams(max_tokens=1, **params), prompt, seed=3)
    if uniform is not None:
        made.rng = Uniform(uniform)  # type: ignore[assignment]
    return made


def reference(
    logits: Array, *, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, min_p: float = 0
) -> Array:
    """Probability of each token, by the book: softmax, cut by k, renormalise, cut by p."""
    scaled = logits.astype(np.float64) / temperature
    weights = np.exp(scaled - scaled.max())
    order = sorted(range(len(logits)), key=lambda token: (-logits[token], token))
    if top_k:
        weights[order[top_k:]] = 0
    weights /= weights.sum()
    kept, mass = [], 0.0
    for token in order:
        kept.append(token)
        mass += weights[token]
        if top_p < 1.0 and mass >= top_p:
            break
    floor = min_p * weights.max()
    out = np.zeros(len(logits))
    for token in kept:
        if weights[token] >= floor:
            out[token] = weights[token]
    return out / out.sum()


def measured(logits: Array, **params: Any) -> Array:
    """Probability of each token, from even steps through [0, 1)."""
    steps = 4000
    drawn = state([(at + 0.5) / steps for at in range(steps)], **params)
    counts = np.zeros(len(logits))
    for _ in range(steps):
        counts[sample(logits, drawn).token_id] += 1
    return counts / steps


LOGITS = np.array([1.0, 3.0, -2.0, 2.5, 0.0, 2.5], np.float32)


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"temperature": 0.5},
        {"temperature": 2.0},
        {"top_k": 2},
        {"top_k": 100},
        {"top_p": 0.7},
        {"top_p": 0.999},
        {"min_p": 0.3},
        {"top_k": 4, "top_p": 0.8},
        {"top_k": 5, "top_p": 0.9, "min_p": 0.1, "temperature": 1.3},
    ],
)
def test_probabilities_are_those_of_the_definition(params: dict[str, Any]) -> None:
    assert measured(LOGITS, **params) == pytest.approx(reference(LOGITS, **params), abs=1e-3)


@given(
    seed=st.integers(0, 100),
    size=st.sampled_from([3, 50, 1500]),
    temperature=st.floats(0.05, 2.0),
    top_k=st.sampled_from([0, 1, 3, 40, 1200]),
    top_p=st.sampled_from([0.01, 0.5, 0.95, 1.0]),
    min_p=st.sampled_from([0.0, 0.02, 1.0]),
    uniform=st.floats(0, 1, exclude_max=True),
)
@settings(max_examples=150, deadline=None)
def test_one_draw_is_that_of_the_definition(
    seed: int, size: int, temperature: float, top_k: int, top_p: float, min_p: float, uniform: float
) -> None:
    """Also where the vocabulary is larger than the head that is looked at first."""
    logits = np.random.default_rng(seed).standard_normal(size).astype(np.float32) * 2
    cuts = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    token = sample(logits, state([uniform], **cuts)).token_id
    expected = reference(logits, **cuts)
    assert expected[token] > 0 or _on_the_edge(logits, token, cuts)
    rest = [t for t in range(size) if expected[t] > 0]
    # Without a cut nothing is sorted: the draw goes by index.
    uncut = (top_k == 0 or top_k >= size) and top_p == 1 and min_p == 0
    ordered = rest if uncut else _descending(logits, rest)
    edges = np.cumsum(expected[ordered])
    place = ordered.index(token) if token in ordered else len(ordered)
    below = edges[place - 1] if place else 0.0
    assert below - 1e-5 <= uniform
    assert place == len(ordered) or uniform <= edges[place] + 1e-5


def _descending(logits: Array, tokens: list[int]) -> list[int]:
    return sorted(tokens, key=lambda token: (-logits[token], token))


def _on_the_edge(logits: Array, token: int, cuts: dict[str, Any]) -> bool:
    """The cut falls within rounding of this token."""
    near = {**cuts, "top_p": min(1.0, cuts["top_p"] + 1e-6), "min_p": cuts["min_p"] * (1 - 1e-6)}
    return bool(reference(logits, **near)[token] > 0)


def test_greedy_takes_the_first_of_equals() -> None:
    logits = np.array([0.0, 2.0, 2.0, 1.0], np.float32)
    assert sample(logits, state(temperature=0.0)).token_id == 1
    assert sample(logits, state(temperature=0.0, logit_bias={0: 1.0})).token_id == 1
    assert sample(logits, state([0.999], top_k=1)).token_id == 1


def test_ties_at_a_cut_go_by_index() -> None:
    logits = np.zeros(2000, np.float32)
    picked = {sample(logits, state([u], top_k=3)).token_id for u in (0.0, 0.4, 0.99)}
    assert picked == {0, 1, 2}
    asked = sample(logits, state(temperature=0.0, top_logprobs=2))
    assert [one.token_id for one in asked.top_logprobs] == [0, 1]


@pytest.mark.parametrize("temperature", [1e-12, 1e-4])
def test_next_to_no_temperature_is_greedy(temperature: float) -> None:
    for cuts in ({}, {"top_p": 0.5}, {"min_p": 0.5}):
        assert sample(LOGITS, state([0.99], temperature=temperature, **cuts)).token_id == 1


def test_penalties_by_the_formula() -> None:
    seen = state(temperature=0.0, presence_penalty=0.5, frequency_penalty=0.25, top_logprobs=0)
    seen.counts.update({1: 3, 3: 1})
    adjusted = sampler._adjust(LOGITS, seen)
    expected = LOGITS.copy()
    expected[1] -= 0.5 + 3 * 0.25
    expected[3] -= 0.5 + 0.25
    assert adjusted == pytest.approx(expected)
    assert LOGITS[1] == 3.0, "the logits given are not changed"


def test_repetition_penalty_also_counts_the_prompt() -> None:
    seen = state(prompt=(1, 2), temperature=0.0, repetition_penalty=2.0)
    seen.counts[4] = 1
    adjusted = sampler._adjust(LOGITS, seen)
    assert adjusted == pytest.approx([1.0, 1.5, -4.0, 2.5, 0.0, 2.5])


def test_chosen_tokens_are_counted() -> None:
    flat = np.zeros(4, np.float32)
    seen = state(temperature=0.0, frequency_penalty=1.0)
    assert [sample(flat, seen).token_id for _ in range(5)] == [0, 1, 2, 3, 0]


def test_logit_bias_forbids_and_forces() -> None:
    assert sample(LOGITS, state(temperature=0.0, logit_bias={1: -100.0})).token_id == 3
    assert sample(LOGITS, state([0.5], logit_bias={2: 100.0})).token_id == 2


def test_log_probabilities_are_the_models_own() -> None:
    asked = state(
        temperature=0.0, top_p=0.1, logit_bias={2: 100.0}, top_logprobs=6, presence_penalty=1.0
    )
    one = sample(LOGITS, asked)
    expected = np.log(reference(LOGITS))
    assert one.token_id == 2
    assert one.logprob == pytest.approx(expected[2], abs=1e-6)
    assert [top.token_id for top in one.top_logprobs] == [1, 3, 5, 0, 4, 2]
    assert [top.logprob for top in one.top_logprobs] == pytest.approx(
        [expected[t] for t in (1, 3, 5, 0, 4, 2)], abs=1e-6
    )
    assert sum(np.exp(top.logprob) for top in one.top_logprobs) == pytest.approx(1.0)


def test_log_probabilities_of_large_logits_are_finite() -> None:
    logits = np.array([1000.0, -1000.0, 999.0], np.float32)
    one = sample(logits, state(temperature=0.0, top_logprobs=3))
    assert one.logprob == pytest.approx(-np.log1p(np.exp(-1.0)), abs=1e-5)
    assert one.top_logprobs[2].logprob == pytest.approx(-2000.0, abs=1.0)


def test_nothing_is_told_unasked() -> None:
    assert sample(LOGITS, state(temperature=0.0)) == Sampled(1)
    assert sample(LOGITS, state(temperature=0.0, top_logprobs=0)).top_logprobs == ()


def test_a_seed_gives_the_same_numbers_whatever_the_default() -> None:
    flat = np.zeros(1000, np.float32)

    def answer(seed: int | None, fallback: int) -> list[int]:
        made = SamplerState.start(SamplingParams(max_tokens=1, seed=seed), (), fallback)
        return [sample(flat, made).token_id for _ in range(8)]

    assert answer(5, 1) == answer(5, 2)
    assert answer(5, 1) != answer(6, 1)
    assert answer(None, 1) == answer(None, 1) != answer(None, 2)
    assert answer(-1, 0) == answer(2**64 - 1, 0)


def test_real_draws_are_spread_as_they_should_be() -> None:
    """Chi-square over 3,000 draws of the real generator: 30.1 is passed once in 100,000 seeds."""
    made = state(temperature=1.0, seed=11)
    counts = np.zeros(len(LOGITS))
    for _ in range(3000):
        counts[sample(LOGITS, made).token_id] += 1
    expected = reference(LOGITS) * 3000
    assert float(((counts - expected) ** 2 / expected).sum()) < 30.1

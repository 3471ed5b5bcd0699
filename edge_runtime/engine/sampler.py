"""Chooses the next token of one sequence from its logits.

Order, as clients know it: logit bias and penalties change the logits; temperature scales them;
top-k, top-p and min-p cut the tail; one draw decides. Log probabilities are those of the model,
before any of that.

Each sequence draws from its own generator, one number a token, so that a seeded answer is the
same alone and in company.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from edge_runtime.core import FloatArray, SamplingParams, TokenLogprob

_MIN_TEMPERATURE = 1e-5  # below it only the largest logit has any weight
_HEAD = 1024  # candidates looked at first for top-p; the whole vocabulary only when they fall short


@dataclass(frozen=True, slots=True)
class Sampled:
    """A chosen token with what the request asked to know about it."""

    token_id: int
    logprob: float | None = None
    top_logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(slots=True)
class SamplerState:
    """What one sequence's choices depend on besides the logits.

    `counts` holds how often each token was generated (not prompted), for the penalties.
    """

    params: SamplingParams
    rng: np.random.Generator
    prompt_tokens: frozenset[int]
    counts: dict[int, int] = field(default_factory=dict)

    @classmethod
    def start(cls, params: SamplingParams, prompt: tuple[int, ...], seed: int) -> SamplerState:
        """`seed` is used when the request named none."""
        chosen = params.seed if params.seed is not None else seed
        rng = np.random.Generator(np.random.Philox(chosen & (2**64 - 1)))
        needed = params.repetition_penalty != 1.0
        return cls(params, rng, frozenset(prompt) if needed else frozenset())

    @property
    def is_plain_greedy(self) -> bool:
        """True when the choice is the argmax of the raw logits and nothing else is asked."""
        params = self.params
        return (
            params.temperature == 0.0
            and params.top_logprobs is None
            and not params.logit_bias
            and params.presence_penalty == 0.0
            and params.frequency_penalty == 0.0
            and params.repetition_penalty == 1.0
        )


def sample(logits: FloatArray, state: SamplerState) -> Sampled:
    """Choose a token from `logits` float32 [V], which is not changed. Costs O(V)."""
    params = state.params
    if state.is_plain_greedy:
        token = int(np.argmax(logits))
        return Sampled(token)
    adjusted = _adjust(logits, state)
    if params.temperature == 0.0:
        token = int(np.argmax(adjusted))
    else:
        token = _draw(adjusted, params, float(state.rng.random()))
    state.counts[token] = state.counts.get(token, 0) + 1
    if params.top_logprobs is None:
        return Sampled(token)
    return _with_logprobs(logits, token, params.top_logprobs)


def _adjust(logits: FloatArray, state: SamplerState) -> FloatArray:
    params = state.params
    adjusted = logits.copy()
    if params.repetition_penalty != 1.0:
        seen = np.fromiter(state.prompt_tokens | state.counts.keys(), np.int64)
        values = adjusted[seen]
        shrunk = np.where(
            values > 0, values / params.repetition_penalty, values * params.repetition_penalty
        )
        adjusted[seen] = shrunk
    for token, count in state.counts.items():
        adjusted[token] -= params.presence_penalty + params.frequency_penalty * count
    for token, bias in params.logit_bias.items():
        adjusted[token] += bias
    return adjusted


def _draw(logits: FloatArray, params: SamplingParams, uniform: float) -> int:
    """One draw after temperature, top-k, top-p and min-p; `uniform` lies in [0, 1)."""
    size = len(logits)
    temperature = max(params.temperature, _MIN_TEMPERATURE)
    limit = min(params.top_k, size) if params.top_k > 0 else size
    cuts_tail = params.top_p < 1.0 or params.min_p > 0.0
    if limit == size and not cuts_tail:
        weights = np.exp((logits.astype(np.float64) - logits.max()) / temperature)
        return _pick(np.arange(size), weights, uniform)
    # top-p counts shares of what top-k left, so with top-k the head is all of it.
    head = limit if limit < size else min(size, _HEAD)
    while True:
        order = _largest(logits, head)
        weights = np.exp((logits[order].astype(np.float64) - logits[order[0]]) / temperature)
        total = weights.sum()
        if head < limit:
            total = _whole_total(logits, order, temperature, weights)
        keep = _kept(weights, total, params) if cuts_tail else len(weights)
        if keep < len(weights) or head == limit:
            return _pick(order[:keep], weights[:keep], uniform)
        head = limit


def _whole_total(
    logits: FloatArray,
    order: npt.NDArray[np.intp],
    temperature: float,
    weights: npt.NDArray[np.float64],
) -> float:
    """Sum of all weights when only the head was sorted."""
    everything = np.exp((logits - logits[order[0]]) / np.float32(temperature)).sum(dtype=np.float64)
    return max(float(everything), float(weights.sum()))


def _largest(logits: FloatArray, count: int) -> npt.NDArray[np.intp]:
    """Indices of the `count` largest logits, largest first; ties by index."""
    size = len(logits)
    if count >= size:
        picked = np.arange(size)
    else:
        smallest = np.partition(logits, size - count)[size - count]
        above = np.flatnonzero(logits > smallest)
        ties = np.flatnonzero(logits == smallest)[: count - len(above)]
        picked = np.concatenate([above, ties])
    order: npt.NDArray[np.intp] = picked[np.lexsort((picked, -logits[picked]))]
    return order


def _kept(weights: npt.NDArray[np.float64], total: float, params: SamplingParams) -> int:
    """How many of the sorted `weights` survive top-p and min-p; at least one."""
    keep = len(weights)
    if params.top_p < 1.0:
        reached = np.cumsum(weights) >= params.top_p * total
        keep = int(np.argmax(reached)) + 1 if reached.any() else keep
    if params.min_p > 0.0:
        keep = min(keep, int(np.count_nonzero(weights >= params.min_p * weights[0])))
    return max(keep, 1)


def _pick(tokens: npt.NDArray[np.intp], weights: npt.NDArray[np.float64], uniform: float) -> int:
    """The token whose share of the cumulative weight holds `uniform`."""
    edges = np.cumsum(weights)
    place = int(np.searchsorted(edges, uniform * edges[-1], side="right"))
    return int(tokens[min(place, len(tokens) - 1)])


def _with_logprobs(logits: FloatArray, token: int, top: int) -> Sampled:
    peak = logits.max()
    log_total = float(np.log(np.exp(logits - peak).sum(dtype=np.float64))) + float(peak)
    best = _largest(logits, top) if top else ()
    return Sampled(
        token,
        float(logits[token]) - log_total,
        tuple(TokenLogprob(int(i), float(logits[i]) - log_total) for i in best),
    )

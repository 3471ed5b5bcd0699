"""In-memory twins of the engine's models: no graph, no weights, answers in microseconds.

They are strict where a real model is silent: a scheduler that loses track of what lies in a slot
gets an `AssertionError` here, and wrong text from a real model.

Example:
    decoder = FakeDecoder(slots=2, max_len=64)
    plan = StepPlan((StepRow(slot=0, tokens=(5, 6, 7), cached_len=0, wants_logits=True),))
    decoder.step(plan)  # [1, vocab_size]: a function of (5, 6, 7) alone
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from edge_runtime.core import FloatArray, StepPlan
from edge_runtime.errors import EngineError


@dataclass(slots=True)
class FakeDecoder:
    """A `DecoderModel` whose logits depend on the tokens cached in the slot and nothing else.

    `on_step` is called with the packed tokens of each step before it runs, to move a test's
    clock or to raise. `fail_next` makes the next step an `EngineError` with that message, after
    it spoiled the slots it would have written.
    """

    slots: int
    max_len: int
    max_chunk: int = 16
    vocab_size: int = 32
    on_step: Callable[[int], None] = lambda tokens: None
    fail_next: str | None = None
    plans: list[StepPlan] = field(default_factory=list)
    copies: list[tuple[int, int, int]] = field(default_factory=list)
    _cached: list[list[int]] = field(init=False)

    def __post_init__(self) -> None:
        self._cached = [[] for _ in range(self.slots)]

    def cached(self, slot: int) -> Sequence[int]:
        """The tokens whose KV the slot holds."""
        return tuple(self._cached[slot])

    def step(self, plan: StepPlan) -> FloatArray:
        """See `DecoderModel.step`."""
        self.on_step(plan.token_count)
        self.plans.append(plan)
        for row in plan.rows:
            cached = self._cached[row.slot]
            assert row.cached_len <= len(cached), (
                f"slot {row.slot} holds {len(cached)} tokens, the row builds on {row.cached_len}"
            )
            assert row.new_len <= self.max_chunk, f"{row.new_len} tokens in one row"
            assert row.cached_len + row.new_len <= self.max_len, "past the end of the slot"
            # As in the real buffers: what lay behind the reused tokens is overwritten.
            cached[row.cached_len :] = row.tokens
        if self.fail_next is not None:
            message, self.fail_next = self.fail_next, None
            for row in plan.rows:
                self._cached[row.slot][:] = [-1]
            raise EngineError(message)
        wanted = [row.slot for row in plan.rows if row.wants_logits]
        if not wanted:
            return np.empty((0, self.vocab_size), np.float32)
        return np.stack([fake_logits(self._cached[slot], self.vocab_size) for slot in wanted])

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """See `DecoderModel.copy_prefix`."""
        assert source != target, "a slot cannot be copied to itself"
        assert length <= len(self._cached[source]), "copies tokens that are not there"
        self.copies.append((source, target, length))
        self._cached[target] = self._cached[source][:length]


@dataclass(slots=True)
class FakeEncoder:
    """An `EncoderModel`: each row is the input's length, its sum, then noughts.

    `on_run` and `fail_next` are as in `FakeDecoder`; `batches` keeps the lengths of each run.
    """

    max_len: int = 64
    width: int = 4
    on_run: Callable[[int], None] = lambda tokens: None
    fail_next: str | None = None
    batches: list[list[int]] = field(default_factory=list)

    def run(self, batch: Sequence[Sequence[int]]) -> FloatArray:
        """See `EncoderModel.run`."""
        lengths = [len(tokens) for tokens in batch]
        assert all(1 <= length <= self.max_len for length in lengths), lengths
        self.on_run(sum(lengths))
        self.batches.append(lengths)
        if self.fail_next is not None:
            message, self.fail_next = self.fail_next, None
            raise EngineError(message)
        rows = np.zeros((len(batch), self.width), np.float32)
        rows[:, 0] = lengths
        rows[:, 1] = [sum(tokens) for tokens in batch]
        return rows


def fake_logits(tokens: Sequence[int], vocab_size: int) -> FloatArray:
    """Float32 [vocab_size], the same for the same tokens on every machine."""
    seed = zlib.crc32(np.asarray(tokens, np.int64).tobytes())
    values = np.random.Generator(np.random.Philox(seed)).standard_normal(vocab_size, np.float32)
    scaled: FloatArray = values * np.float32(2.0)
    return scaled

"""Continuous batching: which tokens of which sequences the next decoder step computes.

Rules
- Decoding rows come first: every running sequence with a sampled token is in every step.
- Prompt tokens fill what is left of the step's time: with others decoding, as many tokens as the
  learned cost says fit `inter_token_target_ms`, at least `min_chunk_tokens`; alone, full chunks.
- Prompts advance in order of urgency: interactive before batch, then by arrival; a waiting batch
  request gains on interactive ones with its age (`BATCH_AGE_S`), so nobody starves.
- A prompt is never divided so that one token is computed alone (`MIN_CHUNK`).
- A sequence joins when a slot is free, but not while another computes most of its prompt: it
  copies that then. So several answers to one prompt compute it once.
- It leaves in the step after its last token; cancelling frees the slot before the next plan.
- A request that can never fit is a `UsageError`; one that would wait too long a `CapacityError`
  with the time after which it is worth asking again.

Pure: no clock, no I/O, no randomness. `now_s` is handed in; one caller at a time.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field

from edge_runtime.core import GenerateRequest, StepPlan, StepRow
from edge_runtime.errors import CapacityError, UsageError
from edge_runtime.scheduler.cost import StepCost
from edge_runtime.scheduler.sequences import (
    DecodeLimits,
    Joined,
    Planned,
    RunningSequence,
    urgency,
)
from edge_runtime.scheduler.slots import MIN_CHUNK, SlotTable, worth_waiting


@dataclass(slots=True)
class DecodeScheduler:
    """The queue, the slots and the running sequences of one decoder."""

    limits: DecodeLimits
    cost: StepCost = field(default_factory=StepCost)
    _waiting: list[RunningSequence] = field(default_factory=list)
    _running: list[RunningSequence] = field(default_factory=list)
    _table: SlotTable = field(init=False)
    _mean_output: float = 64.0  # tokens an answer has had, for waiting times

    def __post_init__(self) -> None:
        self._table = SlotTable(self.limits.slots)

    @property
    def waiting_count(self) -> int:
        """Sequences without a slot."""
        return len(self._waiting)

    @property
    def running_count(self) -> int:
        """Sequences that hold a slot."""
        return len(self._running)

    def submit(self, request: GenerateRequest, now_s: float) -> RunningSequence:
        """Queue a request.

        Raises `UsageError` when it can never run, `CapacityError` when the queue is full, the
        wait would be too long, or its deadline cannot be met.
        """
        self._check_fits(request)
        sequence = RunningSequence(request, list(request.prompt))
        wait_s = self.expected_wait_s(sequence)
        if len(self._waiting) >= self.limits.max_waiting:
            raise CapacityError(
                f"{len(self._waiting)} sequences wait for a slot already; retry later",
                retry_after_s=max(1.0, self._slot_free_in_s(())),
                reason="queue_full",
            )
        if wait_s > self.limits.max_wait_s:
            raise CapacityError(
                f"a slot is expected in {wait_s:.0f} s and requests may wait "
                f"{self.limits.max_wait_s:.0f} s on this box; retry later",
                retry_after_s=wait_s - self.limits.max_wait_s + 1.0,
                reason="wait_too_long",
            )
        if request.deadline_s is not None and now_s + wait_s > request.deadline_s:
            raise CapacityError(
                f"a slot is expected in {wait_s:.1f} s, after the request's deadline; "
                "retry later or allow more time",
                retry_after_s=max(1.0, wait_s),
                reason="deadline",
            )
        self._waiting.append(sequence)
        return sequence

    def expected_wait_s(self, sequence: RunningSequence) -> float:
        """Seconds a sequence queued now is expected to wait for its slot, from learned costs."""
        mine = urgency(sequence)
        return self._slot_free_in_s([s for s in self._waiting if urgency(s) <= mine])

    def expired(self, now_s: float) -> list[RunningSequence]:
        """Waiting sequences whose deadline has passed; the caller ends them with `finish`."""
        return [
            sequence
            for sequence in self._waiting
            if sequence.request.deadline_s is not None and now_s > sequence.request.deadline_s
        ]

    def plan(self) -> Planned | None:
        """The next step, or None when there is nothing to compute."""
        joined = self._join()
        rows: list[StepRow] = []
        members: list[RunningSequence] = []
        for sequence in self._running:
            if sequence.decoding:
                rows.append(_row(sequence, 1))
                members.append(sequence)
        budget = self._prompt_budget(len(rows))
        for sequence in sorted((s for s in self._running if not s.decoding), key=urgency):
            count = _chunk(sequence.pending_len, min(self.limits.max_chunk_tokens, budget))
            if count == 0:
                continue
            rows.append(_row(sequence, count))
            members.append(sequence)
            budget -= count
        if not rows:
            return None
        return Planned(StepPlan(tuple(rows)), tuple(members), joined)

    def commit(self, planned: Planned, tokens: Sequence[int]) -> None:
        """The step ran: `tokens` are the sampled ones, in the order of `planned.sampled`."""
        sampled = planned.sampled
        if len(tokens) != len(sampled):
            raise ValueError(f"{len(sampled)} rows wanted logits, {len(tokens)} tokens given")
        for row, sequence in zip(planned.plan.rows, planned.sequences, strict=True):
            sequence.cached_len += row.new_len
            self._table.extend(row.slot, row.tokens)
        for sequence, token in zip(sampled, tokens, strict=True):
            sequence.tokens.append(token)

    def finish(self, sequence: RunningSequence) -> None:
        """Take a sequence out, whether it runs or waits; its slot is free for the next plan."""
        if sequence in self._running:
            self._running.remove(sequence)
            self._mean_output += 0.05 * (sequence.output_len - self._mean_output)
        elif sequence in self._waiting:
            self._waiting.remove(sequence)
        if sequence.slot is not None:
            self._table.release(sequence.slot)
            sequence.slot = None

    def abandon_step(self, planned: Planned) -> None:
        """The step failed: the KV of its slots cannot be trusted any more."""
        for row in planned.plan.rows:
            self._table.forget(row.slot)

    def check_integrity(self) -> None:
        """Assert the invariants; cheap enough for every idle moment and every test step."""
        slots = [sequence.slot for sequence in self._running]
        assert None not in slots, slots
        assert len(set(slots)) == len(slots), slots
        assert self._table.busy_count == len(self._running)
        for sequence in self._running:
            assert sequence.slot is not None
            resident = self._table.resident(sequence.slot)
            assert list(resident) == sequence.tokens[: sequence.cached_len]
            assert sequence.pending_len > 0
            assert len(sequence.tokens) <= self.limits.max_len + 1

    def _slot_free_in_s(self, ahead: Sequence[RunningSequence]) -> float:
        """Seconds until a slot is free that none of `ahead` takes.

        Answers are taken to go on for as long as they have on average, within their own limits.
        """
        steps = [self._steps_left(s) for s in self._running]
        steps += [0.0] * (self.limits.slots - len(self._running))
        heapq.heapify(steps)
        for sequence in ahead:
            heapq.heapreplace(steps, steps[0] + self._steps_left(sequence))
        if steps[0] == 0.0:
            return 0.0
        prompt_tokens = sum(s.pending_len for s in (*self._running, *ahead) if not s.decoding)
        step_ms = self.cost.step_ms(self.limits.slots)
        return (steps[0] * step_ms + prompt_tokens * self.cost.slope_ms) / 1000.0

    def _steps_left(self, sequence: RunningSequence) -> float:
        own_limit = min(
            sequence.request.params.max_tokens - sequence.output_len,
            self.limits.max_len - len(sequence.tokens),
        )
        return max(1.0, min(self._mean_output, float(own_limit)))

    def _check_fits(self, request: GenerateRequest) -> None:
        if not request.prompt:
            raise UsageError("the prompt has no tokens; send some text", param="prompt")
        if len(request.prompt) >= self.limits.max_len:
            raise UsageError(
                f"the prompt has {len(request.prompt)} tokens and the context is "
                f"{self.limits.max_len}; shorten it",
                param="prompt",
                code="context_length_exceeded",
            )

    def _join(self) -> tuple[Joined, ...]:
        joined = []
        self._waiting.sort(key=urgency)
        free = self.limits.slots - self._table.busy_count
        for sequence in tuple(self._waiting):
            if free == 0:
                break
            free -= 1  # also for one that waits for its prefix: nobody overtakes it to a slot
            choice = self._table.choose(sequence.request.prompt)
            assert choice is not None, "a slot is free"
            if self._prefix_is_coming(sequence, choice.cached_len):
                continue
            self._waiting.remove(sequence)
            self._table.take(choice)
            sequence.slot = choice.slot
            sequence.cached_len = sequence.reused_len = choice.cached_len
            self._running.append(sequence)
            joined.append(Joined(sequence, choice))
        return tuple(joined)

    def _prefix_is_coming(self, sequence: RunningSequence, cached_len: int) -> bool:
        """Whether a running sequence computes what this one can then copy, such as the first of
        several answers to one prompt. Only for one that is at least as urgent: it goes first.
        """
        mine = urgency(sequence)
        return any(
            # What it has computed itself since it joined counts for it, not for the copy of it.
            worth_waiting(
                sequence.tokens, min(cached_len, one.reused_len), one.tokens, one.cached_len
            )
            for one in self._running
            if not one.decoding and urgency(one) <= mine
        )

    def _prompt_budget(self, decode_rows: int) -> int:
        """Prompt tokens this step may compute beside `decode_rows` decoding ones."""
        if decode_rows == 0:
            return self.limits.max_chunk_tokens
        within = self.cost.tokens_within(self.limits.inter_token_target_ms) - decode_rows
        return min(max(within, self.limits.min_chunk_tokens), self.limits.max_chunk_tokens)


def _chunk(pending: int, budget: int) -> int:
    """Prompt tokens to compute now: never one alone, now or left for later, unless it is all."""
    if pending <= budget:
        return pending
    count = min(budget, pending - MIN_CHUNK)
    return count if count >= MIN_CHUNK else 0


def _row(sequence: RunningSequence, count: int) -> StepRow:
    assert sequence.slot is not None
    start = sequence.cached_len
    return StepRow(
        slot=sequence.slot,
        tokens=tuple(sequence.tokens[start : start + count]),
        cached_len=start,
        wants_logits=start + count == len(sequence.tokens),
    )

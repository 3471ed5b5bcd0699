"""The nouns of decoding: a sequence on its way, who joins a step, the step. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from edge_runtime.core import GenerateRequest, RequestClass, StepPlan
from edge_runtime.scheduler.slots import SlotChoice

BATCH_AGE_S = 10.0
"""A batch request is as urgent as an interactive one that arrived this much later."""


@dataclass(frozen=True, slots=True)
class DecodeLimits:
    """Bounds of one model's scheduler; units in the names."""

    slots: int
    max_len: int
    max_chunk_tokens: int
    min_chunk_tokens: int
    inter_token_target_ms: float
    max_waiting: int
    max_wait_s: float


@dataclass(slots=True, eq=False)
class RunningSequence:
    """One admitted request: its tokens so far and how many of them are cached in its slot."""

    request: GenerateRequest
    tokens: list[int]
    slot: int | None = None
    cached_len: int = 0
    reused_len: int = 0

    @property
    def prompt_len(self) -> int:
        """Tokens the caller sent."""
        return len(self.request.prompt)

    @property
    def output_len(self) -> int:
        """Tokens generated so far."""
        return len(self.tokens) - self.prompt_len

    @property
    def pending_len(self) -> int:
        """Tokens not yet cached: prompt still to compute, or the one token just sampled."""
        return len(self.tokens) - self.cached_len

    @property
    def decoding(self) -> bool:
        """True once the whole prompt was computed."""
        return self.output_len > 0


@dataclass(frozen=True, slots=True)
class Joined:
    """A sequence that got its slot for this step; `choice` says what must be copied first."""

    sequence: RunningSequence
    choice: SlotChoice


@dataclass(frozen=True, slots=True)
class Planned:
    """One step: its plan, the sequence behind each row, and who joined."""

    plan: StepPlan
    sequences: tuple[RunningSequence, ...]
    joined: tuple[Joined, ...]

    @property
    def sampled(self) -> list[RunningSequence]:
        """Sequences that get a token from this step, in the order of its logits."""
        rows = zip(self.plan.rows, self.sequences, strict=True)
        return [sequence for row, sequence in rows if row.wants_logits]


def urgency(sequence: RunningSequence) -> float:
    """Smaller is sooner: the arrival, later by a constant for batch requests."""
    request = sequence.request
    handicap = BATCH_AGE_S if request.request_class is RequestClass.BATCH else 0.0
    return request.arrival_s + handicap

"""Which KV slot a sequence gets, and what of its prompt lies there already.

A slot keeps the tokens whose KV it holds after its sequence ended, so that the next request with
the same beginning (a chat's next turn, a shared system prompt) does not compute it again. Busy
slots lend their prefix by copy.

Pure: tokens in, a choice out; the copy itself is the engine's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MIN_REUSE = 8
"""Shortest prefix worth reusing: below it the choice of the lowest slot is worth more."""

MIN_CHUNK = 2
"""Fewest prompt tokens a step computes: a lone token is summed in another order than the same
token among others, and an answer must not depend on how its prompt was divided."""


@dataclass(frozen=True, slots=True)
class SlotChoice:
    """`slot` with the first `cached_len` tokens in place, after a copy from `copy_from` if set."""

    slot: int
    cached_len: int
    copy_from: int | None = None


@dataclass(slots=True)
class _Slot:
    tokens: list[int]
    busy: bool = False
    last_used: int = 0


class SlotTable:
    """The tokens resident in each slot.

    Invariants: a busy slot is never chosen; `tokens` of a slot are exactly those whose KV the
    engine wrote there.
    """

    def __init__(self, count: int) -> None:
        self._slots = [_Slot([]) for _ in range(count)]
        self._clock = 0

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def busy_count(self) -> int:
        """Slots that a running sequence holds."""
        return sum(slot.busy for slot in self._slots)

    def has_free(self) -> bool:
        """True when a sequence could start."""
        return any(not slot.busy for slot in self._slots)

    def choose(self, prompt: Sequence[int]) -> SlotChoice | None:
        """The slot for `prompt`, or None when all are busy. Changes nothing.

        The last two prompt tokens are always computed (`MIN_CHUNK`), so a prompt gives the same
        answer whether or not its beginning was there already.
        """
        free = [index for index, slot in enumerate(self._slots) if not slot.busy]
        if not free:
            return None
        limit = max(0, len(prompt) - MIN_CHUNK)
        shared = [min(common_prefix(slot.tokens, prompt), limit) for slot in self._slots]
        best_free = max(free, key=lambda index: (shared[index], -index))
        best = max(range(len(self._slots)), key=lambda index: shared[index])
        if shared[best] < MIN_REUSE:
            return SlotChoice(self._cheapest(free), 0)
        if shared[best_free] >= shared[best]:
            return SlotChoice(best_free, shared[best_free])
        return SlotChoice(self._cheapest(free), shared[best], copy_from=best)

    def take(self, choice: SlotChoice) -> None:
        """Mark the chosen slot busy, holding the reused tokens only."""
        slot = self._slots[choice.slot]
        if slot.busy:
            raise ValueError(f"slot {choice.slot} is taken already")
        source = slot if choice.copy_from is None else self._slots[choice.copy_from]
        slot.tokens = list(source.tokens[: choice.cached_len])
        slot.busy = True

    def extend(self, index: int, tokens: Sequence[int]) -> None:
        """The engine wrote the KV of `tokens` behind the resident ones."""
        self._slots[index].tokens.extend(tokens)

    def release(self, index: int) -> None:
        """The sequence ended; its tokens stay for reuse."""
        self._clock += 1
        slot = self._slots[index]
        slot.busy = False
        slot.last_used = self._clock

    def forget(self, index: int) -> None:
        """The slot's KV can no longer be trusted (a failed step)."""
        self._slots[index].tokens = []

    def resident(self, index: int) -> Sequence[int]:
        """Tokens whose KV lies in the slot."""
        return self._slots[index].tokens

    def _cheapest(self, free: Sequence[int]) -> int:
        """An empty slot if there is one, else the longest unused; low slots keep runs small."""
        return min(free, key=lambda i: (bool(self._slots[i].tokens), self._slots[i].last_used, i))


def worth_waiting(
    prompt: Sequence[int], cached_len: int, coming: Sequence[int], computed_len: int
) -> bool:
    """Whether `prompt`, which could start with `cached_len` tokens in place, should rather wait.

    `coming` are the tokens another sequence is computing, `computed_len` of them so far. Worth it
    is at least half of what is left to compute, and not for a prefix too short to reuse.
    """
    shared = min(common_prefix(coming, prompt), len(prompt) - MIN_CHUNK)
    gained = shared - cached_len
    still_to_come = shared > computed_len
    return still_to_come and gained >= MIN_REUSE and 2 * gained >= len(prompt) - cached_len


def common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    """Number of equal leading tokens."""
    count = 0
    for a, b in zip(left, right, strict=False):
        if a != b:
            break
        count += 1
    return count

"""Which rows of a stream are here: a watermark, and what came ahead of it. Pure.

Rules
- A row is taken once. Messages may come twice, late, or in another order than they were sent.
- The watermark moves only over rows that are here, or that the box says it has no more: those
  below the oldest it holds, and gaps inside a batch.
- What came ahead is remembered as a few stretches. When there would be too many, the batch is not
  taken; the box sends it again once the gaps are filled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from edge_runtime.agent.protocol import BatchHeader

MAX_AHEAD: Final = 32

Stretch = tuple[int, int]
"""First and last number, both included."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Where a stream of a boot stands. `given_up` counts rows that will never come."""

    mark: int = 0
    ahead: tuple[Stretch, ...] = ()
    given_up: int = 0

    def has(self, seq: int) -> bool:
        """Whether this row was taken, or given up."""
        return seq <= self.mark or any(first <= seq <= last for first, last in self.ahead)


@dataclass(frozen=True, slots=True)
class Taken:
    """What becomes of a batch: the new mark, and which of its rows are new."""

    mark: Mark
    fresh: frozenset[int]


def take(mark: Mark, header: BatchHeader, seqs: tuple[int, ...]) -> Taken | None:
    """Take the rows `seqs` of a batch; None when it has to wait for what lies before it."""
    fresh = frozenset(seq for seq in seqs if not mark.has(seq))
    stretches = _joined([*mark.ahead, (header.first_seq, header.last_seq)])
    moved, given_up = mark.mark, mark.given_up
    # Gaps inside the batch: the box skipped them because it has them no more.
    inside = range(max(header.first_seq, mark.mark + 1), header.last_seq + 1)
    given_up += sum(1 for seq in inside if seq not in fresh and not mark.has(seq))
    oldest = header.oldest_seq or 0
    if oldest > moved + 1:
        missing = oldest - 1 - moved - _covered(stretches, moved + 1, oldest - 1)
        given_up, moved = given_up + missing, oldest - 1
    for first, last in stretches:
        if first <= moved + 1:
            moved = max(moved, last)
    left = tuple(one for one in stretches if one[1] > moved)
    if len(left) > MAX_AHEAD:
        return None
    return Taken(Mark(moved, left, given_up), fresh)


def _joined(stretches: list[Stretch]) -> list[Stretch]:
    """The same numbers as few stretches, in order."""
    found: list[Stretch] = []
    for first, last in sorted(stretches):
        if found and first <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(found[-1][1], last))
        else:
            found.append((first, last))
    return found


def _covered(stretches: list[Stretch], low: int, high: int) -> int:
    """How many numbers from `low` to `high` lie in the stretches."""
    return sum(max(0, min(last, high) - max(first, low) + 1) for first, last in stretches)

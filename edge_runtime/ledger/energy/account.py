"""From joules of the box to joules of a request. Pure.

Rules
- Idle energy is what the box would have drawn without work: `idle_milliwatts` over the whole
  wall time. It is kept apart and never charged to a request; the rest is the work's.
- A step's energy is shared among its sequences by the tokens each had in it. Shares are whole
  microjoules that add up to the step's exactly.
- Joules without a counter are watts times busy seconds and say so: `MODEL` when the watts were
  fitted on this box, `ASSUMPTION` when somebody wrote them into a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edge_runtime.ledger.money import divide_half_even
from edge_runtime.ledger.rows import JouleSource


@dataclass(frozen=True, slots=True)
class Energy:
    """Microjoules and where they come from."""

    energy_uj: int
    source: JouleSource


@dataclass(frozen=True, slots=True)
class Split:
    """A counter's microjoules: those of idleness and those of the work."""

    idle_uj: int
    work_uj: int


def split_idle(total_uj: int, wall_us: int, idle_milliwatts: int) -> Split:
    """Part a counter's energy over `wall_us`; idle never takes more than there was.

    Milliwatts times microseconds are nanojoules.
    """
    idle = min(total_uj, divide_half_even(idle_milliwatts * wall_us, 1000))
    return Split(idle, total_uj - idle)


def modelled(busy_us: int, milliwatts: int, source: JouleSource) -> Energy:
    """Watts times busy seconds. Raises `ValueError` when that would pose as a counter."""
    if source not in (JouleSource.MODEL, JouleSource.ASSUMPTION):
        raise ValueError("a modelled joule is labelled MODEL or ASSUMPTION")
    return Energy(divide_half_even(busy_us * milliwatts, 1000), source)


def worst_source(sources: Sequence[JouleSource]) -> JouleSource:
    """The label of a sum: it is only as good as its worst part."""
    order = list(JouleSource)
    return max(sources, key=order.index, default=JouleSource.NONE)


def share(energy_uj: int, tokens: Sequence[int]) -> list[int]:
    """Share a step's microjoules by tokens; the shares add up to `energy_uj` exactly.

    Largest remainders get what rounding down leaves, earlier ones first. Sequences without
    tokens get nothing, unless none has any: then all get the same.
    """
    if energy_uj < 0 or any(one < 0 for one in tokens):
        raise ValueError("energy and tokens must not be negative")
    if not tokens:
        return []
    weights = list(tokens) if sum(tokens) else [1] * len(tokens)
    total = sum(weights)
    shares = [energy_uj * one // total for one in weights]
    rest = [(-(energy_uj * one % total), index) for index, one in enumerate(weights)]
    for _, index in sorted(rest)[: energy_uj - sum(shares)]:
        shares[index] += 1
    return shares

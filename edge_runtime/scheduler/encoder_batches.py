"""Which waiting texts share one run of an encoder.

Rules
- Texts of similar length run together: attention costs rows x longest, so one long text among
  short ones makes every row pay for it.
- A batch never exceeds its budget of padded positions (rows x longest), nor its rows; a text
  longer than the budget runs alone.
- Every index appears exactly once. The caller puts outputs back into its own order.

Pure: lengths in, indices out.
"""

from __future__ import annotations

from collections.abc import Sequence

MAX_WASTE = 0.125
"""Padding a batch may have, as a share of its padded positions."""
SMALL_SPREAD = 4
"""Tokens between the shortest and the longest row that never split a batch: splitting tiny
batches costs more in calls than their padding does in attention."""


def plan_batches(lengths: Sequence[int], budget_tokens: int, max_rows: int) -> list[list[int]]:
    """Split the indices of `lengths` into batches, shortest texts first.

    Raises `ValueError` for a budget or row limit below 1 and for an empty text.
    """
    if budget_tokens < 1 or max_rows < 1:
        raise ValueError(f"limits must be positive: {budget_tokens} tokens, {max_rows} rows")
    if any(length < 1 for length in lengths):
        raise ValueError("a text without tokens has no place in a batch")
    batches: list[list[int]] = []
    current: list[int] = []
    tokens = 0
    for index in sorted(range(len(lengths)), key=lambda item: lengths[item]):
        longest = lengths[index]  # ascending order: the newest row is the longest
        padded = longest * (len(current) + 1)
        waste = padded - tokens - longest
        spread = longest - lengths[current[0]] if current else 0
        if current and (
            len(current) == max_rows
            or padded > budget_tokens
            or (spread > SMALL_SPREAD and waste > MAX_WASTE * padded)
        ):
            batches.append(current)
            current, tokens = [], 0
        current.append(index)
        tokens += longest
    if current:
        batches.append(current)
    return batches

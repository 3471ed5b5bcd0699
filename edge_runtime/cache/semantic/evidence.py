"""What audits say about one entry, and whether it may still be served. Pure.

Rules
- Every entry starts with the certificate's trust: a Beta(1, 99) belief about its share of wrong
  answers, whose mean is the 1 % that the threshold stands for.
- A wrong audit raises what the entry asks of a question: from then on its score must lie halfway
  between the score that was wrong and 1.
- An entry is dropped when the mean of the belief passes 2.5 %: at the second wrong audit, unless
  twenty right ones speak for it.
"""

from __future__ import annotations

from dataclasses import dataclass

PRIOR_WRONG = 1
PRIOR_RIGHT = 99
DROP_ABOVE = 0.025


@dataclass(frozen=True, slots=True)
class Evidence:
    """Audits of one entry, and the least score it is served from (0: the cache's own)."""

    right: int = 0
    wrong: int = 0
    least_score: float = 0.0


def after_audit(evidence: Evidence, score: float, *, correct: bool) -> Evidence | None:
    """The evidence with one audit more, of a hit with this score; None: drop the entry."""
    if correct:
        return Evidence(evidence.right + 1, evidence.wrong, evidence.least_score)
    wrong = evidence.wrong + 1
    total = PRIOR_RIGHT + evidence.right + PRIOR_WRONG + wrong
    if (PRIOR_WRONG + wrong) / total > DROP_ABOVE:
        return None
    return Evidence(evidence.right, wrong, max(evidence.least_score, (score + 1) / 2))


def is_audited(draw: float, share: float) -> bool:
    """Whether a would-be hit is checked by a fresh answer; `draw` is uniform in [0, 1)."""
    return draw < share

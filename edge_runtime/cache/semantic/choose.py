"""Which of the nearest entries answers, if any. Pure.

Rules
- In the order given, nearest first: the first entry that is fresh, passes the gates and reaches
  both the certified threshold and its own least score. Later ones are not looked at.
- What is reported as the best score is the highest of those looked at.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from edge_runtime.cache.semantic.gates import refusal
from edge_runtime.cache.semantic.score import Scorer


@dataclass(frozen=True, slots=True)
class Candidate:
    """A kept question: its cosine to the one asked, and the least score it is served from."""

    entry: int
    text: str
    cosine: float
    least_score: float
    age_s: int


@dataclass(frozen=True, slots=True)
class Choice:
    """The entry that answers, or None, and the best score seen."""

    chosen: Candidate | None
    score: float


def choose(text: str, candidates: Iterable[Candidate], scorer: Scorer, least: float) -> Choice:
    """Decide for one text; `least` is the threshold. Costs about 0.1 ms a candidate."""
    best = 0.0
    for candidate in candidates:
        if refusal(candidate.text, text) is not None:
            continue
        score = scorer.score(candidate.text, text, candidate.cosine)
        if score >= max(least, candidate.least_score):
            return Choice(candidate, score)
        best = max(best, score)
    return Choice(None, best)

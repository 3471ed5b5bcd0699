"""Do two answers to paraphrases say the same? What an audit compares. Pure.

Rules
- Labels and short answers are compared as texts, without case, spacing and final stops.
- Longer texts of a generating model hardly ever repeat themselves word for word. They agree when
  the gates find nothing against it and their embeddings are as near as `NEAR`.
- What cannot be read or compared does not agree: an audit must not praise by default.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edge_runtime.cache.answers import Answer
from edge_runtime.cache.semantic.contract import Vector
from edge_runtime.cache.semantic.gates import refusal

NEAR = 0.9


def text_of(answer: Answer) -> str | None:
    """The text of a chat's or completion's only choice; None where there is not exactly one."""
    choices = answer.body.get("choices")
    if not isinstance(choices, list | tuple) or len(choices) != 1:
        return None
    choice: Mapping[str, Any] = choices[0]
    message = choice.get("message")
    text = message.get("content") if isinstance(message, Mapping) else choice.get("text")
    return text if isinstance(text, str) else None


def same_words(first: str, second: str) -> bool:
    """Equal but for case, spacing and final stops."""
    one, other = (" ".join(text.split()).casefold().rstrip(".! ") for text in (first, second))
    return one == other


def agree(first: str, second: str, vectors: tuple[Vector, Vector] | None) -> bool:
    """True when both texts give the same answer; `vectors` are their unit embeddings, if any."""
    if same_words(first, second):
        return True
    if vectors is None or refusal(first, second) is not None:
        return False
    return float(vectors[0] @ vectors[1]) >= NEAR

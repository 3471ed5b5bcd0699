"""What the cache keeps: an answer, whole and in the pieces it streamed in. Pure.

Rules
- `body` is the response's JSON without what belongs to one delivery (`id`, `created`, `edge`).
- `pieces` are the stream's JSON events in order, without `[DONE]`, stripped alike. An answer that
  never was a stream has none, and streams as one piece made of its body by the server.
- A hit costs nothing; `saved_nano` is what making the answer had cost.
- `score` is that of the local answer, given or not, that was judged when this one was made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

VOLATILE = frozenset({"id", "created", "edge"})
Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class AnswerScore:
    """A confidence score in millionths: for which certified task, of which model's answer."""

    ppm: int
    task: str
    model_digest: str


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer. Tokens and money are those of making it."""

    body: Json
    pieces: Sequence[Json] = ()
    tokens_in: int = 0
    tokens_out: int = 0
    saved_nano: int = 0
    answered_by: str = ""
    tags: frozenset[str] = field(default_factory=frozenset)
    score: AnswerScore | None = None


def stripped(value: Json) -> dict[str, Any]:
    """`value` without the members that belong to one delivery."""
    return {name: one for name, one in value.items() if name not in VOLATILE}


def encode(answer: Answer) -> bytes:
    """The bytes that are kept. Raises `ValueError` for what is not JSON."""
    value = {
        "body": stripped(answer.body),
        "pieces": [stripped(piece) for piece in answer.pieces],
        "tokens": [answer.tokens_in, answer.tokens_out],
        "saved_nano": answer.saved_nano,
        "answered_by": answer.answered_by,
        "tags": sorted(answer.tags),
    }
    if answer.score is not None:
        value["score"] = [answer.score.ppm, answer.score.task, answer.score.model_digest]
    try:
        return orjson.dumps(value)
    except TypeError as error:  # orjson's own error is a TypeError
        raise ValueError(f"the answer is not JSON: {error}") from error


def decode(data: bytes) -> Answer:
    """The answer of `encode`. Raises `ValueError` for damaged bytes."""
    try:
        value = orjson.loads(data)
        tokens_in, tokens_out = value["tokens"]
        score = value.get("score")  # answers of before scores were kept have none
        return Answer(
            value["body"],
            tuple(value["pieces"]),
            tokens_in,
            tokens_out,
            value["saved_nano"],
            value["answered_by"],
            frozenset(value["tags"]),
            None if score is None else AnswerScore(*score),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"a kept answer is damaged: {error}") from error

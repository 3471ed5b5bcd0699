"""What callers of the semantic cache see. Pure.

Rules
- What must be equal is equal before anything is compared: `Asked.scope` holds the tenant, the
  model, every field of the request and every earlier message; only the last question's text may
  differ. Requests with tools have no `Asked` at all.
- A hit is a guess with a bounded error, never the same answer: callers say so (`x-edge-reason:
  similar`). With `audit` set, a fresh answer has to be made as well and its verdict reported,
  whichever of both is served.
- `keep` needs the ticket that the lookup gave; a purge in between voids it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edge_runtime.bundle.canonical import canonical_bytes
from edge_runtime.cache.answers import Answer
from edge_runtime.cache.contract import CacheSize
from edge_runtime.cache.key import Question
from edge_runtime.cache.policy import Use

SCHEMA = 1  # part of every scope: raise it when gates or scores change their meaning
Vector = npt.NDArray[np.float32]
Embed = Callable[[str], Awaitable[Vector | None]]
"""Embeds one text: a vector [width], or None when it is longer than the encoder's window."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A question that may be answered by similarity.

    `scope` 32 bytes: equal where everything but the text is equal.
    """

    tenant: str
    model_digest: str
    scope: bytes
    text: str


@dataclass(frozen=True, slots=True)
class SemanticTicket:
    """Allows one answer to be kept. `vector` None: the text cannot be embedded, nothing is kept.

    `best` is the nearest score found, for metrics; 0 when nothing passed the gates.
    """

    asked: Asked
    vector: Vector | None
    generation: int
    best: float = 0.0


@dataclass(frozen=True, slots=True)
class SemanticHit:
    """An answer to a question that means the same.

    `score` in [0, 1]; `question` is what was asked then. `audit`: make a fresh answer too, then
    `report_audit(hit, correct)`. `ticket` keeps that fresh answer.
    """

    answer: Answer
    age_s: int
    score: float
    question: str
    entry: int
    audit: bool
    ticket: SemanticTicket


@dataclass(frozen=True, slots=True)
class Audited:
    """Audits of one model so far: `wrong` of `n` hits differed from a fresh answer.

    `upper` bounds the share of false hits at 95 % (1 without audits).
    """

    n: int
    wrong: int
    upper: float


class SemanticCacheLike(Protocol):
    """What the router needs of it; `memory.MemorySemanticCache` is the twin for tests.

    All but `lookup` may take some 10 ms of disk: give them to a thread.
    """

    async def lookup(self, asked: Asked, use: Use) -> SemanticHit | SemanticTicket:
        """An answer that may be served, or a ticket to keep the fresh one with.

        Costs one embedding, and a search of a fraction of a millisecond.
        """
        ...

    def keep(self, ticket: SemanticTicket, answer: Answer, use: Use) -> bool:
        """Keep a fresh answer; False when the rules forbid it."""
        ...

    def report_audit(self, hit: SemanticHit, *, correct: bool) -> None:
        """What a fresh answer said of a hit's answer; a wrong one costs the entry its trust."""
        ...

    def audited(self, model_digest: str) -> Audited:
        """How often hits of this model were wrong, as far as audits show."""
        ...

    def purge(
        self,
        *,
        key: int | None = None,
        tag: str | None = None,
        tenant: str | None = None,
        model_digest: str | None = None,
    ) -> int:
        """Drop entries that match everything given (`key`: `SemanticHit.entry`); else all."""
        ...

    def new_epoch(self) -> int:
        """Make every entry invisible at once; the number of the new epoch."""
        ...

    def size(self) -> CacheSize:
        """What is held now."""
        ...


def asked_of(question: Question, *, locale: str = "", max_chars: int = 600) -> Asked | None:
    """The part of a request that may be matched by similarity; None when it has none.

    None for other kinds than chat and completion, for tools or their results anywhere, for a
    last message that is not the user's plain text, and for an empty or longer text.
    """
    fields = dict(question.fields)
    if fields.get("tools") or fields.get("functions") or fields.get("tool_choice"):
        return None
    if question.kind == "completion":
        text, fields["prompt"] = fields.get("prompt"), None
    elif question.kind == "chat":
        text, fields["messages"] = _last_of(fields.get("messages"))
    else:
        return None
    if not isinstance(text, str) or not text.strip() or len(text) > max_chars:
        return None
    parts = {
        "schema": SCHEMA,
        "kind": question.kind,
        "model_digest": question.model_digest,
        "tenant": question.tenant,
        "locale": locale,
        "fields": {name: one for name, one in fields.items() if one is not None},
    }
    scope = hashlib.sha256(canonical_bytes(parts)).digest()
    return Asked(question.tenant, question.model_digest, scope, text)


def _last_of(messages: object) -> tuple[object, object]:
    """The last user message's text, and everything before it."""
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        return None, None
    for message in messages:
        if not isinstance(message, Mapping) or _uses_tools(message):
            return None, None
    last = messages[-1]
    if last.get("role") != "user" or set(last) - {"role", "content"}:
        return None, None
    content = last.get("content")
    if isinstance(content, Sequence) and not isinstance(content, str):
        content = content[0] if len(content) == 1 else None
        is_text = isinstance(content, Mapping) and content.get("type") == "text"
        content = content.get("text") if is_text and isinstance(content, Mapping) else None
    return content, list(messages[:-1])


def _uses_tools(message: Mapping[str, Any]) -> bool:
    if message.get("role") in ("tool", "function"):
        return True
    return bool(message.get("tool_calls") or message.get("function_call"))

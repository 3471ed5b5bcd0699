"""What the parts of the semantic cache say to each other. Pure.

Rules
- What must be equal is equal before anything is compared: `Asked.scope` holds the tenant, the
  model, every field of the request and every earlier message; only the last question's text may
  differ. Requests with tools are never asked (`similar_question` gives None).
- A hit is a guess with a bounded error, never the same answer. With `audit` set, a fresh answer
  has to be made as well and its verdict reported, whichever of both is served.
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
from edge_runtime.cache.semantic.gates import signature
from edge_runtime.errors import ConfigError
from edge_runtime.router.contract import SimilarQuestion

SCHEMA = 2  # part of every scope: raise it when gates or scores change their meaning
Vector = npt.NDArray[np.float32]
Embed = Callable[[str], Awaitable[Vector | None]]
"""Embeds one text: a vector [width], or None when it is longer than the encoder's window."""


@dataclass(frozen=True, slots=True)
class SemanticLimits:
    """How much is kept, and from which share of wrong hits on a model gets none any more.

    `alpha` is the certified share; audits that contradict it at `level` suspend the model.
    """

    max_entries: int = 100_000
    max_bytes: int = 512 << 20
    max_entry_bytes: int = 256 << 10
    alpha: float = 0.01
    level: float = 0.01

    def __post_init__(self) -> None:
        if self.max_entries < 1 or not 4096 <= self.max_entry_bytes <= self.max_bytes:
            raise ConfigError("max_entry_bytes must be at least 4096 and at most max_bytes")


@dataclass(frozen=True, slots=True)
class Asked:
    """A question that may be answered by similarity.

    `scope` 32 bytes: equal where everything but the text is equal. `encoder` is the digest of the
    model whose vectors are compared.
    """

    tenant: str
    model_digest: str
    scope: bytes
    text: str
    encoder: str = ""

    @property
    def judged(self) -> tuple[str, str]:
        """What audits of its hits speak of: a model's answers, found by an encoder."""
        return self.model_digest, self.encoder

    @property
    def partition(self) -> bytes:
        """16 bytes: equal where the scope and what the text says exactly are equal."""
        exact = "\n".join(signature(self.text).exact)
        return hashlib.sha256(self.scope + exact.encode()).digest()[:16]


@dataclass(frozen=True, slots=True)
class SemanticTicket:
    """Allows one answer to be kept. `best` is the highest score found, 0 where none passed."""

    asked: Asked
    vector: Vector
    generation: int
    best: float = 0.0


@dataclass(frozen=True, slots=True)
class SemanticHit:
    """An answer to a question that means the same.

    `score` in [0, 1]; `question` is what was asked then. `audit`: make a fresh answer too, then
    `report_audit`. `ticket` keeps that fresh answer.
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

    `upper` bounds the share of false hits at 95 % (1 without audits). `suspended`: audits
    contradict the certificate, and there are no hits until the model's entries are purged.
    """

    n: int
    wrong: int
    upper: float
    suspended: bool


class SemanticStoreLike(Protocol):
    """Where questions and answers lie: `store.SemanticStore` on disk, `memory.MemoryStore`.

    `lookup` takes a fraction of a millisecond. The rest may take some 10 ms of disk: give it to a
    thread.
    """

    def lookup(self, asked: Asked, vector: Vector, *, audit: bool) -> SemanticHit | SemanticTicket:
        """An answer that may be served, or a ticket to keep the fresh one with."""
        ...

    def keep(self, ticket: SemanticTicket, answer: Answer, *, ttl_s: int) -> bool:
        """Keep a fresh answer; False when the rules forbid it."""
        ...

    def report_audit(self, hit: SemanticHit, *, correct: bool) -> None:
        """What a fresh answer said of a hit's answer."""
        ...

    def audited(self, model_digest: str, encoder: str = "") -> Audited:
        """How often hits of this model by this encoder were wrong, as far as audits show."""
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

    def close(self) -> None:
        """Write what is only in memory."""
        ...


def asked_of(question: SimilarQuestion, encoder: str) -> Asked:
    """The question with what must be equal as one digest; `encoder` is the encoder's own.

    Raises `ValueError` for gates that have no JSON form.
    """
    parts = {
        "schema": SCHEMA,
        "encoder": encoder,
        "tenant": question.tenant,
        "model_digest": question.model_digest,
        "gates": {name: one for name, one in question.gates.items() if one is not None},
    }
    scope = hashlib.sha256(canonical_bytes(parts)).digest()
    return Asked(question.tenant, question.model_digest, scope, question.text, encoder)


def similar_question(
    question: Question, *, locale: str = "", max_chars: int = 600
) -> SimilarQuestion | None:
    """The part of a request that may be matched by similarity; None when it has none.

    None for other kinds than chat and completion, for tools or their results anywhere, for a
    last message that is not the user's plain text, and for an empty or longer text.
    """
    fields = {name: one for name, one in question.fields.items() if one is not None}
    if fields.get("tools") or fields.get("functions") or fields.get("tool_choice"):
        return None
    if question.kind == "completion":
        text: object = fields.pop("prompt", None)
    elif question.kind == "chat":
        text, fields["messages"] = _last_of(fields.get("messages"))
    else:
        return None
    if not isinstance(text, str) or not text.strip() or len(text) > max_chars:
        return None
    gates = {"kind": question.kind, "locale": locale, "fields": fields}
    return SimilarQuestion(question.tenant, question.model_digest, text, gates)


def _last_of(messages: object) -> tuple[object, object]:
    """The last user message's text, and everything before it."""
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        return None, None
    if any(not isinstance(one, Mapping) or _uses_tools(one) for one in messages):
        return None, None
    last = messages[-1]
    if last.get("role") != "user" or set(last) - {"role", "content"}:
        return None, None
    content = last.get("content")
    if isinstance(content, Sequence) and not isinstance(content, str):
        part = content[0] if len(content) == 1 else None
        is_text = isinstance(part, Mapping) and part.get("type") == "text"
        content = part.get("text") if is_text and isinstance(part, Mapping) else None
    return content, list(messages[:-1])


def _uses_tools(message: Mapping[str, Any]) -> bool:
    if message.get("role") in ("tool", "function"):
        return True
    return bool(message.get("tool_calls") or message.get("function_call"))

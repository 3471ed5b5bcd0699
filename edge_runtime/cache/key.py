"""The key of a question: equal keys mean that the same answer is right. Pure.

Rules
- In the key: what answers (`model_digest`), for whom (`tenant`), and every field of the request
  that the caller passes. What could change an answer must be passed; what cannot (`user`,
  `stream`, ...) must be left out by `answer_fields`.
- Two spellings of one value are one key: members in any order, `0` and `0.0`, a field that is
  null and a field that is absent.
- Texts are compared as they are: no trimming, no Unicode normalisation.

The digest is over RFC 8785 JSON, so that it does not depend on who computes it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from edge_runtime.bundle.canonical import canonical_bytes

SCHEMA = 1  # part of every key: raise it when the meaning of a key or of an answer changes
DELIVERY = frozenset({"stream", "stream_options"})  # how the answer travels, not what it is


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked. `kind` is the route's (`chat`, `completion`, `embedding`, `classify`)."""

    kind: str
    model_digest: str
    tenant: str
    fields: Mapping[str, object]


def answer_fields(body: Mapping[str, object], inert: Collection[str] = ()) -> dict[str, object]:
    """The fields of a request's body that can change its answer.

    `inert` are the ones the route ignores. Fields that are null count as absent.
    """
    return {
        name: value
        for name, value in body.items()
        if value is not None and name not in DELIVERY and name not in inert
    }


def cache_key(question: Question) -> bytes:
    """32 bytes. Raises `ValueError` for values that have no JSON form (see `canonical_bytes`)."""
    if not question.model_digest or not question.tenant:
        raise ValueError("a key needs the model's digest and the tenant")
    parts = {
        "schema": SCHEMA,
        "kind": question.kind,
        "model_digest": question.model_digest,
        "tenant": question.tenant,
        "fields": {key: one for key, one in question.fields.items() if one is not None},
    }
    return hashlib.sha256(canonical_bytes(parts)).digest()

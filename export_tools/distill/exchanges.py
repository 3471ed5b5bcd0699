"""Captured exchanges as distilling sees them, and what a capture holds.

Rules
- Every record says that its frontier's terms allow training on it; one that does not stops the
  whole reading. Nothing is trained on because somebody forgot to look.
- A segment that is altered, of another key, or ends within a record stops the reading as well,
  and nothing was written by then. `take_cut` reads what a daemon that died left whole.
- Files are only read.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edge_runtime.bundle.canonical import canonical_bytes
from edge_runtime.bundle.capture_file import (
    ANSWER_LOGPROB,
    TRAINING_ALLOWED,
    key_of,
    read_segment,
    segments,
)
from edge_runtime.errors import BundleError, UsageError

MAX_EXCHANGES = 2_000_000
"""Some 2 GB of memory; more are distilled in several goes."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """One question as it was sent and its answer.

    `system` and `user` are the texts of a chat of at most one system and exactly one user message;
    `odd` says why it is none. `schema` is the canonical JSON of the `response_format`, or empty.
    `logprob` is of the whole answer, where the frontier told it.
    """

    at_us: int
    frontier: str
    model: str
    endpoint: str
    purpose: str
    reason: str
    system: str
    user: str
    schema: str
    odd: str | None
    finish_reason: str
    content: str | None
    refused: bool
    logprob: float | None


@dataclass(slots=True)
class Inventory:
    """What is inside: counts by each property, first and last time, refused and cut answers."""

    exchanges: int = 0
    endpoints: Counter[str] = field(default_factory=Counter)
    models: Counter[str] = field(default_factory=Counter)
    purposes: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    questions: Counter[tuple[str, str]] = field(default_factory=Counter)
    refused: int = 0
    cut: int = 0
    first_us: int = 0
    last_us: int = 0

    def add(self, one: Exchange) -> None:
        """Count one more."""
        self.first_us = min(self.first_us, one.at_us) if self.exchanges else one.at_us
        self.last_us = max(self.last_us, one.at_us)
        self.exchanges += 1
        self.endpoints[one.endpoint] += 1
        self.models[f"{one.frontier}: {one.model}"] += 1
        self.purposes[one.purpose] += 1
        self.reasons[one.reason] += 1
        if one.odd is None:
            self.questions[one.system, one.schema] += 1
        self.refused += one.refused
        self.cut += one.finish_reason == "length"

    def summary(self) -> dict[str, Any]:
        """The same as JSON values; questions by the beginning of their system message."""
        questions = [
            {"system": system[:200], "schema": schema[:200], "exchanges": count}
            for (system, schema), count in self.questions.most_common(20)
        ]
        return {
            "exchanges": self.exchanges,
            "from": _day(self.first_us) if self.exchanges else None,
            "to": _day(self.last_us) if self.exchanges else None,
            "endpoints": dict(self.endpoints.most_common()),
            "models": dict(self.models.most_common()),
            "purposes": dict(self.purposes.most_common()),
            "reasons": dict(self.reasons.most_common()),
            "questions": questions,
            "refused": self.refused,
            "cut": self.cut,
        }


def capture_files(paths: Sequence[Path]) -> list[Path]:
    """The segments that files and folders name, each once, oldest first in each folder.

    Raises `UsageError` for a path that is not there, or a folder without segments.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            inside = segments(path)
            if not inside:
                raise UsageError(f"{path}: holds no captured answers", param="capture")
            found |= dict.fromkeys(inside)
        elif path.is_file():
            found[path] = None
        else:
            raise UsageError(f"{path}: is not there; name capture files or folders")
    return list(found)


def read_exchanges(
    files: Sequence[Path], keys: Sequence[bytes], *, take_cut: bool = False
) -> Iterator[Exchange]:
    """The exchanges of all files, in order; each file has one of the keys.

    Raises `BundleError` or `UsageError`; see the rules.
    """
    count = 0
    for path in files:
        number = 0
        try:
            for record in read_segment(path, key_of(path, keys), whole=not take_cut):
                yield _exchange(record, f"{path.name}, record {number}")
                number += 1
                count += 1
                if count > MAX_EXCHANGES:
                    raise UsageError(f"more than {MAX_EXCHANGES} exchanges: name fewer files")
        except OSError as error:
            raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
        except BundleError as error:
            if "ends within" not in error.reason:
                raise
            raise BundleError(
                error.path, f"{error.reason}. A daemon that was killed leaves this; --take-cut "
                "uses what is whole"
            ) from error  # fmt: skip


def _exchange(record: Mapping[str, Any], where: str) -> Exchange:
    if record.get(TRAINING_ALLOWED) is not True:
        raise UsageError(
            f"{where}: does not say that its frontier's terms allow training on it, so nothing is "
            "made of this capture; leave the file out"
        )
    answer = record.get("answer")
    answer = answer if isinstance(answer, Mapping) else {}
    content = answer.get("content")
    finish_reason = str(record.get("finish_reason") or "")
    system, user, odd = _asked(record)
    try:
        return Exchange(
            at_us=int(record["at_us"]),
            frontier=sys.intern(str(record["frontier"])),
            model=sys.intern(str(record["model"])),
            endpoint=sys.intern(str(record["endpoint"])),
            purpose=sys.intern(str(record["purpose"])),
            reason=sys.intern(str(record["reason"])),
            system=sys.intern(system),
            user=user,
            schema=sys.intern(_schema(record.get("response_format"))),
            odd=odd,
            finish_reason=sys.intern(finish_reason),
            content=content if isinstance(content, str) else None,
            refused=bool(answer.get("refusal")) or finish_reason == "content_filter",
            logprob=_logprob(record.get(ANSWER_LOGPROB)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(where, f"is no captured exchange: {error!r}") from error


def _asked(record: Mapping[str, Any]) -> tuple[str, str, str | None]:
    """The system text, the user's text, and why the chat is not one question that stands alone."""
    messages = record.get("messages")
    if record.get("tools"):
        return "", "", "tools"
    if not isinstance(messages, list) or not all(isinstance(one, Mapping) for one in messages):
        return "", "", "conversation"
    roles = [one.get("role") for one in messages]
    texts = [one.get("content") for one in messages]
    if roles not in (["user"], ["system", "user"]):
        return "", "", "conversation"
    if not all(isinstance(text, str) and text.strip() for text in texts):
        return "", "", "no-text"
    return (texts[0] if len(texts) == 2 else ""), texts[-1], None


def _schema(response_format: object) -> str:
    return "" if response_format is None else canonical_bytes(response_format).decode()


def _logprob(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and value <= 0 else None


def _day(at_us: int) -> str:
    return datetime.fromtimestamp(at_us / 1e6, UTC).strftime("%Y-%m-%d")

"""Labelled traffic to calibrate on: read, halved, and mixed as it will arrive.

Rules
- One half calibrates, the other reports. Which one an example belongs to is decided by the hash
  of its text, so it never changes sides, and doubled texts lie on one side.
- Mixed traffic has a stated share of inputs out of scope. It is drawn in the order of hashes, no
  example twice: the same files give the same sample on every machine.
- An input out of scope has no right answer: whatever a classifier says to it is wrong.
"""

from __future__ import annotations

import enum
import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_runtime.bundle.canonical import canonical_bytes, parse_strict
from edge_runtime.errors import UsageError

OUT_OF_SCOPE = "oos"
MAX_FILE_BYTES = 512 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Example:
    """One input with its right answer: a label, or the canonical JSON of what a generating model
    should write. None when it is out of scope.
    """

    text: str
    label: str | None


class Half(enum.StrEnum):
    """What an example is for."""

    CALIBRATE = "calibrate"
    REPORT = "report"


def label_of(row: Mapping[str, Any]) -> object:
    """The label of a classifier's row: `{"text", "intent"}`."""
    return row.get("intent")


def answer_of(row: Mapping[str, Any]) -> object:
    """The answer of a generating model's row, as canonical JSON.

    Either `{"text", "answer"}` with any JSON value, or `{"text", "intent", "slots"}`, whose answer
    is the object of the last two.
    """
    if row.get("intent") == OUT_OF_SCOPE:
        return OUT_OF_SCOPE
    if "answer" not in row and not {"intent", "slots"} <= row.keys():
        return None
    answer = row.get("answer", {"intent": row.get("intent"), "slots": row.get("slots")})
    return canonical_bytes(answer).decode()


def read_examples(
    paths: Iterable[Path],
    *,
    out_of_scope: bool = False,
    right: Callable[[Mapping[str, Any]], object] = label_of,
) -> list[Example]:
    """The examples of JSON-lines files, one object with a `text` a line.

    `right` finds the answer of a row: text, or anything else when it has none. "oos" means out
    of scope; with `out_of_scope` all rows are, labelled or not. Raises `UsageError` naming file
    and line.
    """
    found = []
    for path in paths:
        try:
            if path.stat().st_size > MAX_FILE_BYTES:
                raise UsageError(f"{path}: is larger than {MAX_FILE_BYTES} bytes", param="data")
            lines = path.read_bytes().splitlines()
        except OSError as error:
            raise UsageError(f"{path}: cannot be read: {error.strerror}", param="data") from error
        for number, line in enumerate(lines, 1):
            if line.strip():
                where = f"{path}, line {number}"
                found.append(_example(line, None if out_of_scope else right, where=where))
    return found


def _example(
    line: bytes, right: Callable[[Mapping[str, Any]], object] | None, *, where: str
) -> Example:
    try:
        row: Any = parse_strict(line)
        text = row.get("text") if isinstance(row, dict) else None
        answer = right(row) if right is not None and text else OUT_OF_SCOPE
    except ValueError as error:
        raise UsageError(f"{where}: {error}", param="data") from error
    if not isinstance(text, str) or not text.strip() or not isinstance(answer, str):
        raise UsageError(
            f'{where}: needs {{"text": ..., "intent": ...}}; for generating models '
            '{"text": ..., "answer": ...}',
            param="data",
        )
    return Example(text, None if answer == OUT_OF_SCOPE else answer)


def half(examples: Sequence[Example], which: Half, *, salt: str) -> list[Example]:
    """The examples of one half, in their order."""
    wanted = which is Half.CALIBRATE
    return [item for item in examples if (_digest(item.text, salt)[0] % 2 == 0) == wanted]


def mixed(examples: Sequence[Example], oos_share: float | None, *, salt: str) -> list[Example]:
    """As many examples as give `oos_share` (in [0, 1)) out of scope; None takes all as they are.

    The share holds to within one example. Raises `UsageError` when it cannot be reached.
    """
    if oos_share is None:
        return list(examples)
    if not 0 <= oos_share < 1:
        raise UsageError(f"the share out of scope lies in [0, 1), not {oos_share}")
    inside = _shuffled([item for item in examples if item.label is not None], salt)
    outside = _shuffled([item for item in examples if item.label is None], salt)
    size = len(inside) / (1 - oos_share)
    if oos_share:
        size = min(size, len(outside) / oos_share)
    wanted = math.floor(size * oos_share + 0.5)
    kept = min(len(inside), math.floor(size - wanted + 0.5))
    if not kept or (oos_share and not wanted):
        raise UsageError(
            f"{len(inside)} inputs in scope and {len(outside)} out of scope cannot make traffic "
            f"with {oos_share:.0%} out of scope: add data",
            param="data",
        )
    return _shuffled(inside[:kept] + outside[:wanted], salt)


def data_digest(examples: Sequence[Example]) -> str:
    """The sha256, in hex, of the canonical JSON of the sorted `[text, label]` pairs."""
    pairs = sorted([item.text, item.label or OUT_OF_SCOPE] for item in examples)
    return hashlib.sha256(canonical_bytes(pairs)).hexdigest()


def _shuffled(examples: Sequence[Example], salt: str) -> list[Example]:
    # Another salt than the halves': sorting by the same hash would sort each half alike.
    return sorted(examples, key=lambda item: (_digest(item.text, f"{salt} order"), item.text))


def _digest(text: str, salt: str) -> bytes:
    return hashlib.sha256(f"{salt}\0{text}".encode()).digest()

"""The whole of `edge-export distill`, without a terminal.

Rules
- Captures are only read. Everything is decided in memory; the folder appears whole, or not at all.
- What is written is no longer encrypted: folders and files are their owner's only.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_runtime.bundle.capture_file import read_key
from edge_runtime.errors import UsageError
from export_tools.distill.curate import Curated, Limits, curate, row_of, split_rows
from export_tools.distill.exchanges import Exchange, Inventory, capture_files, read_exchanges
from export_tools.distill.kinds import StudentKind, Task
from export_tools.distill.question import (
    Question,
    question_of_capture,
    question_of_recipe,
)
from export_tools.distill.reading import Reader, Taken
from export_tools.distill.student import kind_of, student_recipe
from export_tools.plan import bundle_name
from export_tools.recipe import RECIPE_FILE, Recipe, read_recipe
from export_tools.train.data import Example, Split
from export_tools.train.recipe import SplitConfig
from export_tools.train.recipe import read_recipe as read_raw

SALT = "distil-1"
DEFAULT_LIMITS = Limits()
DATA_FOLDER = "data"
TRAIN_FILE, HELDOUT_FILE, OUTSIDE_FILE = "train.jsonl", "heldout.jsonl", "oos.jsonl"
REPORT_FILE = "report.json"
CHOSEN_BY_DOUBT = ("low-confidence", "no-certificate", "drift", "schema-invalid")
"""Reasons by which the router, not the traffic, chose what was asked."""


@dataclass(frozen=True, slots=True)
class DistillRequest:
    """What to distil. Without `out` only what is inside is told; each file has one of `keys`."""

    captures: tuple[Path, ...]
    keys: tuple[Path, ...]
    out: Path | None = None
    task: Task | None = None
    kind: StudentKind | None = None
    recipe: Path | None = None
    endpoints: frozenset[str] = frozenset()
    name: str | None = None
    limits: Limits = DEFAULT_LIMITS
    dev_percent: float = 5.0
    heldout_percent: float = 10.0
    take_cut: bool = False


@dataclass(slots=True)
class Distillation:
    """What came of it; `curated` and `split` are None where only what is inside was asked."""

    inventory: Inventory = field(default_factory=Inventory)
    files: int = 0
    name: str = ""
    question: Question | None = None
    kind: StudentKind | None = None
    curated: Curated | None = None
    split: Split | None = None
    notes: list[str] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """The report as JSON values."""
        report: dict[str, Any] = {"capture": self.inventory.summary() | {"files": self.files}}
        if self.curated is None or self.split is None or self.question is None:
            return report
        labels = Counter(one.example.intent for one in self.curated.rows)
        return report | {
            "name": self.name,
            "task": self.question.task,
            "kind": self.kind,
            "asked_again": self.curated.asked_again,
            "dropped": {why: count for why, count in self.curated.dropped.most_common() if count},
            "dropped_examples": {str(why): texts for why, texts in self.curated.shown.items()},
            "rows": {
                "train": len(self.split.train),
                "dev": len(self.split.dev),
                "heldout": len(self.split.heldout),
                "out_of_scope": len(self.curated.outside),
            },
            "labels": dict(sorted(labels.items())),
            "soft_labels": sum(one.example.confidence < 1 for one in self.curated.rows),
            "notes": self.notes,
        }


def distill(request: DistillRequest) -> Distillation:
    """Read, choose, compare, divide, and write the student's data and recipe.

    Raises `UsageError`, `ConfigError` or `BundleError`; then nothing was written. Costs one
    decryption of the captures, and memory for every exchange.
    """
    if request.out is not None and request.out.exists():
        raise UsageError(f"{request.out} exists; remove it or choose another", param="out")
    files = capture_files(request.captures)
    result = Distillation(files=len(files))
    exchanges = []
    keys = [read_key(path) for path in request.keys]
    for one in read_exchanges(files, keys, take_cut=request.take_cut):
        result.inventory.add(one)
        exchanges.append(one)
    if request.out is None:
        return result
    recipe = _recipe(request.recipe)
    question = result.question = _question(request, exchanges, recipe)
    result.kind = kind_of(question.task, request.kind)
    result.name = request.name or (recipe[0].name if recipe else bundle_name(request.out.name))
    split = SplitConfig(
        salt=SALT, dev_percent=request.dev_percent, heldout_percent=request.heldout_percent
    )
    result.curated = _curated(request, question, exchanges, split)
    result.split = split_rows(result.curated.rows, split)
    _check(result)
    result.notes = _notes(result)
    text = student_recipe(
        result.name,
        result.kind,
        question,
        split,
        teachers=sorted({one.teacher for one in result.curated.rows}),
        release=recipe[0].release + 1 if recipe else 1,
        predecessor=recipe[1] if recipe else None,
    )
    _write(request.out, result, text)
    return result


def _recipe(path: Path | None) -> tuple[Recipe, Mapping[str, Any]] | None:
    if path is None:
        return None
    file = path / RECIPE_FILE if path.is_dir() else path
    recipe = read_recipe(file)
    if recipe.escalation is None:
        raise UsageError(f"{file} has no [escalation]: it never asks a frontier", param="recipe")
    return recipe, read_raw(file)


def _question(
    request: DistillRequest,
    exchanges: Sequence[Exchange],
    recipe: tuple[Recipe, Mapping[str, Any]] | None,
) -> Question:
    here = [one for one in exchanges if not request.endpoints or one.endpoint in request.endpoints]
    if recipe is None or recipe[0].escalation is None:
        return question_of_capture(here, request.task)
    return question_of_recipe(recipe[0].escalation, here, request.task)


def _curated(
    request: DistillRequest,
    question: Question,
    exchanges: Sequence[Exchange],
    split: SplitConfig,
) -> Curated:
    reader = Reader(question, request.endpoints)
    curated, taken = Curated(), []
    for one in exchanges:
        found = reader.read(one)
        if isinstance(found, Taken):
            taken.append(found)
        else:
            curated.drop(found, 1, one.user)
    return curate(taken, question.task, request.limits, split, curated)


def _check(result: Distillation) -> None:
    assert result.split is not None
    assert result.curated is not None
    if not result.split.train or not result.split.dev:
        counts = result.curated.dropped.most_common()
        dropped = ", ".join(f"{count} {why}" for why, count in counts if count)
        raise UsageError(
            f"{len(result.curated.rows)} answers are left, too few to train on and to choose by "
            f"(dropped: {dropped or 'none'}): capture more, raise --dev, or loosen a limit"
        )


def _notes(result: Distillation) -> list[str]:
    """What somebody should know before he believes the student's figures."""
    assert result.split is not None
    assert result.curated is not None
    heldout = {example.text for example in result.split.heldout}
    rows = [one for one in result.curated.rows if one.example.text in heldout]
    doubted = sum(one.reason in CHOSEN_BY_DOUBT for one in rows)
    notes = ["labels are the frontier's: figures on held-out rows are agreement with it, not truth"]
    if doubted:
        notes.append(
            f"{doubted} of {len(rows)} held-out rows were asked because the local model was "
            "unsure: they are harder than the traffic, and a certificate from them is about them"
        )
    counts = Counter(example.intent for example in result.split.train)
    thin = sorted(label for label, count in counts.items() if count < 10)
    if thin:
        notes.append(f"{len(thin)} labels have fewer than 10 rows to train on: {thin[:5]}")
    return notes


def _write(out: Path, result: Distillation, recipe: str) -> None:
    assert result.split is not None
    assert result.curated is not None
    assert result.question is not None
    task, rows = result.question.task, [one.example for one in result.curated.rows]
    outside = [one.example for one in result.curated.outside]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=out.parent, prefix=".distill-"))
        try:
            data = folder / DATA_FOLDER / result.name
            for one in (data.parent, data):
                one.mkdir(mode=0o700)
            _private(data / TRAIN_FILE, _lines(rows, task))
            _private(folder / HELDOUT_FILE, _lines(result.split.heldout, task))
            if outside:
                _private(folder / OUTSIDE_FILE, _lines(outside, task))
            _private(folder / RECIPE_FILE, recipe)
            report = json.dumps(result.summary(), indent=2, ensure_ascii=False)
            _private(folder / REPORT_FILE, report + "\n")
            folder.rename(out)
        except OSError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    except OSError as error:
        raise UsageError(f"{out}: cannot be written: {error.strerror}", param="out") from error


def _lines(examples: Sequence[Example], task: Task) -> str:
    return "".join(json.dumps(row_of(one, task), ensure_ascii=False) + "\n" for one in examples)


def _private(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)

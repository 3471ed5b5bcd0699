"""One candidate, run as a box would run it: verdicts, coverage, size, memory, time.

Rules
- Each candidate runs in a process of its own, so that its memory is its own.
- Native operators are used where this machine and the variant have them, as the daemon does.
- Time is taken one request after another, with no company: what one caller waits for. Memory is
  what the process grew by until these requests were answered.
- A text that a model cannot take counts as wrong: it would escalate.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from datetime import datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime.bundle.manifest import Manifest, Variant
from edge_runtime.bundle.pack import load_manifest
from edge_runtime.core import FloatArray, Kind
from edge_runtime.errors import EdgeError, EngineError, UsageError
from export_tools.certify.classifier import EncoderBundle
from export_tools.certify.command import calibrate
from export_tools.certify.issue import Errors, Terms
from export_tools.certify.scorers import ClassifierScorer, GeneratorScorer, Scorer, open_scorer
from export_tools.certify.traffic import Example, answer_of, label_of

WARM_UP = 3
NEIGHBOUR_ROWS = 512


@dataclass(frozen=True, slots=True)
class Candidate:
    """One variant of a bundle."""

    directory: Path
    variant: str
    name: str
    kind: Kind
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Job:
    """What every candidate has to do. `timed` requests are timed; None threads: what there are."""

    data: tuple[Example, ...]
    oos: tuple[Example, ...]
    oos_share: float | None
    task: str
    terms: Terms
    now: datetime
    timed: int = 100
    threads: int | None = None


@dataclass(frozen=True, slots=True)
class Coverage:
    """Share kept of texts that did not calibrate; 0 when nothing could be certified, None when
    `why` says that it could not be asked.
    """

    share: float | None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Measured:
    """What a candidate did: which of the texts it got wrong, and what that took."""

    wrong: tuple[bool, ...]
    coverage: Coverage
    memory_bytes: int | None
    median_ms: float
    p95_ms: float
    tokens_per_s: float | None


def candidates_in(directories: Sequence[Path], variants: Sequence[str]) -> list[Candidate]:
    """Every variant of every bundle, or those named. Raises `BundleError` or `UsageError`."""
    found = []
    for directory in directories:
        manifest = load_manifest(directory)
        for variant in manifest.variants:
            if not variants or variant.name in variants:
                name = f"{manifest.name}@{manifest.version} {variant.name}"
                size = _size(manifest, variant)
                found.append(Candidate(directory, variant.name, name, manifest.kind, size))
    if len({one.name for one in found}) < len(found):
        found = [_by_path(one) for one in found]
    if len({(one.directory.resolve(), one.variant) for one in found}) < len(found):
        raise UsageError("a bundle is named twice")
    if len(found) < 1:
        raise UsageError(f"no bundle has a variant {', '.join(variants)}", param="variant")
    if len({one.kind for one in found}) > 1:
        raise UsageError("bundles of different kinds do different jobs: compare one kind at a time")
    return found


def right_of(kind: Kind) -> Callable[[Mapping[str, Any]], object]:
    """How the right answer is found in a row of data; see `read_examples`."""
    return answer_of if kind is Kind.GENERATE else label_of


def measured_apart(candidate: Candidate, job: Job) -> Measured:
    """`measure` in a fresh process. Raises `UsageError` for what it raises of ours, and
    `EngineError` when the process dies.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            found = pool.submit(_told, candidate, job).result()
        except BrokenProcessPool as error:
            raise EngineError(f"{candidate.name}: its process ended: {error}") from error
    if isinstance(found, str):
        raise UsageError(f"{candidate.name}: {found}")
    return found


def _told(candidate: Candidate, job: Job) -> Measured | str:
    """An error as its text: not every error of ours can be sent to another process."""
    try:
        return measure(candidate, job)
    except EdgeError as error:
        return str(error)


def measure(candidate: Candidate, job: Job) -> Measured:
    """Open, time, judge. Raises `BundleError` or `UsageError`; costs one run a text and more."""
    before = _memory("VmRSS")
    if candidate.kind is Kind.EMBED:
        bundle = EncoderBundle.open(
            candidate.directory, candidate.variant, threads=job.threads, native=True
        )
        texts = _some([one.text for one in job.data if bundle.fits(one.text)], candidate)
        times = _timed(lambda text: bundle.outputs([text]), texts, job)
        memory = _grown(before)
        vectors = dict(zip(texts, bundle.outputs(texts), strict=True))
        wrong = neighbour_errors(vectors, job.data)
        none = Coverage(None, "embeddings have no certificate")
        return _measured(wrong, none, memory, times)
    scorer = open_scorer(
        candidate.directory, candidate.variant, None, threads=job.threads, native=True
    )
    fitting = _some([one.text for one in job.data if scorer.fits(one.text)], candidate)
    times, rate = _requests(scorer, fitting, job)
    memory = _grown(before)
    coverage = _coverage(scorer, job)
    return _measured(_verdicts(scorer, job.data), coverage, memory, times, rate)


def _some(texts: list[str], candidate: Candidate) -> list[str]:
    if not texts:
        raise UsageError(f"{candidate.name} can take none of the texts", param="data")
    return texts


def neighbour_errors(vectors: Mapping[str, FloatArray], examples: Sequence[Example]) -> Errors:
    """Where the nearest other text has another label, bool [len(examples)].

    A retrieval by the model over the data themselves; texts without a vector are wrong.
    """
    known = [at for at, one in enumerate(examples) if one.text in vectors]
    wrong = np.ones(len(examples), bool)
    if len(known) < 2:
        return wrong
    rows = np.array([vectors[examples[at].text] for at in known], np.float32)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    for start in range(0, len(known), NEIGHBOUR_ROWS):
        part = rows[start : start + NEIGHBOUR_ROWS] @ rows.T
        here = np.arange(len(part))
        part[here, start + here] = -np.inf  # not itself
        for at, nearest in zip(known[start:], part.argmax(axis=1), strict=False):
            wrong[at] = examples[at].label != examples[known[nearest]].label
    return wrong


def _verdicts(scorer: Scorer, examples: Sequence[Example]) -> Errors:
    wrong = np.ones(len(examples), bool)
    fitting = [at for at, one in enumerate(examples) if scorer.fits(one.text)]
    wrong[fitting] = scorer.errors([examples[at] for at in fitting])
    return wrong


def _coverage(scorer: Scorer, job: Job) -> Coverage:
    fitting = [one for one in (*job.data, *job.oos) if scorer.fits(one.text)]
    try:
        found = calibrate(scorer, fitting, job.oos_share, job.terms, job.now, task=job.task)
    except UsageError as error:
        return Coverage(None, str(error))
    return Coverage(0.0 if found.report is None else found.report.coverage)


def _requests(scorer: Scorer, texts: Sequence[str], job: Job) -> tuple[list[float], float | None]:
    """Milliseconds of each request, and tokens a second for models that write."""
    if isinstance(scorer, ClassifierScorer):
        classifier = scorer.bundle
        return _timed(lambda text: classifier.outputs([text]), texts, job), None
    assert isinstance(scorer, GeneratorScorer)
    generator, tokens = scorer.bundle, 0

    def ask(text: str) -> None:
        nonlocal tokens
        tokens += len(generator.answers([text])[0].tokens)

    for text in texts[:WARM_UP]:
        ask(text)
    tokens = 0
    times = _timed(ask, texts, job, warm_up=0)
    return times, tokens / max(sum(times) / 1e3, 1e-9)


def _timed(
    run: Callable[[str], object], texts: Sequence[str], job: Job, *, warm_up: int = WARM_UP
) -> list[float]:
    for text in texts[:warm_up]:
        run(text)
    found = []
    for text in texts[: job.timed]:
        began = time.perf_counter()
        run(text)
        found.append(1e3 * (time.perf_counter() - began))
    return found


def _measured(
    wrong: Errors,
    coverage: Coverage,
    memory: int | None,
    times: Sequence[float],
    rate: float | None = None,
) -> Measured:
    median, late = np.quantile(times, [0.5, 0.95])
    verdicts = tuple(bool(one) for one in wrong)
    return Measured(verdicts, coverage, memory, float(median), float(late), rate)


def _size(manifest: Manifest, variant: Variant) -> int:
    """Bytes on the disk that serving this variant needs."""
    names = {*variant.files, manifest.tokenizer.file}
    if manifest.chat_template is not None:
        names.add(manifest.chat_template.file)
    return sum(entry.size for entry in manifest.files if entry.path in names)


def _by_path(one: Candidate) -> Candidate:
    name = f"{one.directory.name} {one.variant}"
    return Candidate(one.directory, one.variant, name, one.kind, one.size_bytes)


def _memory(field: str) -> int | None:
    """Bytes of this process by /proc/self/status; None where there is none."""
    try:
        text = Path("/proc/self/status").read_text("utf-8")
    except OSError:
        return None
    return 1024 * int(text.partition(f"{field}:")[2].split()[0])


def _grown(before: int | None) -> int | None:
    peak = _memory("VmHWM")
    return None if before is None or peak is None else max(0, peak - before)

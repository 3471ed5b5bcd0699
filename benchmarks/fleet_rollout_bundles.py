"""The four releases of `fleet_rollout`: as it is, as good, broken, and a little worse.

Rules
- Nothing is trained: all begin with the weights of one bundle. The second has the same weights
  and prompts under another model digest; the third promises an answer that it does not give; the
  fourth has noise on its INT8 weights, and its golden answers are those it gives.
- Every digest that decides for itself has a certificate of its own, made from utterances that
  training never saw. Score and threshold are the first one's; what it promises is measured anew.
- The noise is searched for: larger and smaller until the share that the worse one escalates of the
  traffic's utterances lies `WORSE_BY` above the good one's.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto
from pydantic import ValidationError

from edge_runtime.bundle.certificate import Certificate
from edge_runtime.bundle.digests import model_digest
from edge_runtime.bundle.manifest import Manifest
from edge_runtime.bundle.pack import load_manifest, pack
from edge_runtime.stats.scores import auroc
from export_tools.certify.command import FIT_SALT, SALT, calibrate
from export_tools.certify.generator import GeneratorBundle
from export_tools.certify.issue import DECILES, Terms, kept_by
from export_tools.certify.scorers import Scorer, open_scorer
from export_tools.certify.traffic import Example, Half, half

VARIANT: Final = "int8"
TASK: Final = "assistant"
TERMS: Final = Terms(alpha=0.05, delta=0.1, days=7)
WORSE_BY: Final = 0.04
CLOSE: Final = 0.012
FIRST_NOISE: Final = 4.0
TRIES: Final = 8
PROMISE: Final = 0.12
BETTER_TEMPLATE: Final = "{#- the second edition -#}"


@dataclass(frozen=True)
class Measured:
    """A model on utterances it never saw; shares of 0 to 1.

    `exact`: whole answers right. `escalates`: of the traffic's utterances, those scored below the
    certificate's threshold.
    """

    certificate: Certificate
    exact: float
    escalates: float


@dataclass(frozen=True)
class Release:
    """A bundle on disk. `measured` None: it decides nothing, as boxes refuse it."""

    directory: Path
    manifest: Manifest
    measured: Measured | None = None


@dataclass(frozen=True)
class Releases:
    """All of them, in the order of their numbers, and the noise of the last."""

    first: Release
    good: Release
    broken: Release
    worse: Release
    noise: float

    def __iter__(self) -> Iterator[Release]:
        return iter((self.first, self.good, self.broken, self.worse))


@dataclass(frozen=True)
class Utterances:
    """Labelled texts that training never saw; the traffic repeats `loop`, which calibrates nothing.

    `calibrate` is divided once more: one half of it fits the score.
    """

    calibrate: Sequence[Example]
    loop: Sequence[Example]

    @classmethod
    def of(cls, examples: Sequence[Example], loop: int) -> Utterances:
        """Divide as `edge-export certify` does."""
        judged = half(examples, Half.REPORT, salt=SALT)
        return cls(half(examples, Half.CALIBRATE, salt=SALT), judged[:loop])

    @property
    def proof(self) -> Sequence[Example]:
        """What certificates count errors among."""
        return half(self.calibrate, Half.CALIBRATE, salt=FIT_SALT)


class NothingProvedError(RuntimeError):
    """No threshold could be certified: such a model escalates everything."""


def measure_first(directory: Path, utterances: Utterances) -> Measured:
    """Find score and threshold. Costs one answer an utterance. Raises `NothingProvedError`."""
    scorer = open_scorer(directory, VARIANT, None)
    examples = [*utterances.calibrate, *utterances.loop]
    found = calibrate(scorer, examples, None, TERMS, datetime.now(UTC), task=TASK)
    if found.certificate is None:
        raise NothingProvedError(f"{directory.name}: nothing can be certified")
    return _measured(scorer, utterances, found.certificate)


def measure_like(directory: Path, utterances: Utterances, first: Certificate) -> Measured:
    """What another model promises at the score and threshold of the first one.

    Costs one answer an utterance that proves or is asked. Raises `NothingProvedError`.
    """
    scorer = open_scorer(directory, VARIANT, None)
    scorer.parameters = first.score.parameters
    scores, errors = scorer.scored(utterances.proof)
    kept = kept_by(first.threshold, scores, errors)
    document = first.model_dump(by_alias=True) | {
        "model_digest": scorer.model_digest,
        "alpha": PROMISE,
        "n": kept.kept,
        "k": kept.errors,
        "calibration_size": kept.samples,
        "coverage": kept.coverage,
        "auroc": auroc(scores, errors),
        "score_deciles": [float(one) for one in np.quantile(scores, DECILES)],
    }
    try:
        certificate = Certificate.model_validate(document)
    except ValidationError as error:
        raise NothingProvedError(f"{directory.name}: {error}") from error
    return _measured(scorer, utterances, certificate)


def escalated(directory: Path, utterances: Utterances, first: Certificate) -> float:
    """The share of the traffic's utterances below the threshold. Costs one answer each."""
    scorer = open_scorer(directory, VARIANT, None)
    scorer.parameters = first.score.parameters
    scores, _ = scorer.scored(utterances.loop)
    return float((scores < first.threshold).mean())


def _measured(scorer: Scorer, utterances: Utterances, certificate: Certificate) -> Measured:
    scores, _ = scorer.scored(utterances.loop)
    _, errors = scorer.scored([*utterances.proof, *utterances.loop])
    return Measured(
        certificate, 1 - float(errors.mean()), float((scores < certificate.threshold).mean())
    )


def make_releases(bundle: Path, utterances: Utterances, work: Path) -> Releases:
    """All four, below `work`. Costs one answer an utterance for each noise that is tried."""
    first = _copy(bundle, work / "v1", version="1", release=1)
    good = _copy(bundle, work / "v2", template=BETTER_TEMPLATE, version="2", release=2)
    measured = measure_first(first.directory, utterances)
    digest = model_digest(good.manifest, VARIANT)
    same = replace(
        measured, certificate=measured.certificate.model_copy(update={"model_digest": digest})
    )
    _same_prompts(first, good, utterances)
    promised = [golden.model_dump() for golden in first.manifest.golden]
    promised[-1] |= {"answer": promised[0]["answer"]}
    broken = _copy(bundle, work / "v3-golden", golden=promised, version="3-golden", release=3)
    worse, noise = _worse(bundle, utterances, measured, work)
    return Releases(replace(first, measured=measured), replace(good, measured=same), broken,
                    worse, noise)  # fmt: skip


def _same_prompts(one: Release, other: Release, utterances: Utterances) -> None:
    """The scores of the one are those of the other: same weights, same prompts."""
    weights = [
        [(entry.path, entry.sha256) for entry in release.manifest.files if "int8" in entry.path]
        for release in (one, other)
    ]
    models = [
        GeneratorBundle.open(release.directory, release.manifest, VARIANT, threads=1)
        for release in (one, other)
    ]
    texts = [example.text for example in utterances.calibrate]
    prompts = [[model.prompt(text) for text in texts] for model in models]
    if weights[0] != weights[1] or prompts[0] != prompts[1]:
        raise RuntimeError("the good release is not the first one in other clothes")


def _worse(
    bundle: Path, utterances: Utterances, good: Measured, work: Path
) -> tuple[Release, float]:
    """The release whose escalation is nearest to `WORSE_BY` above the good one's, and its noise.

    Raises `NothingProvedError` when it proves nothing, or no noise comes near.
    """
    low, high, noise = 0.0, float("inf"), FIRST_NOISE
    found: list[tuple[float, Release, float]] = []
    while len(found) < TRIES:
        release = _noisy(bundle, work / f"worse-{len(found)}", noise)
        shift = escalated(release.directory, utterances, good.certificate) - good.escalates
        found.append((abs(shift - WORSE_BY), release, noise))
        if abs(shift - WORSE_BY) <= CLOSE:
            break
        low, high = (noise, high) if shift < WORSE_BY else (low, noise)
        noise = noise * 2 if high == float("inf") else (low + high) / 2
    away, best, noise = min(found, key=lambda one: one[0])
    if away > WORSE_BY / 2:
        raise NothingProvedError("no noise makes it escalate about four points more")
    measured = measure_like(best.directory, utterances, good.certificate)
    return replace(best, measured=measured), noise


def _noisy(bundle: Path, directory: Path, noise: float) -> Release:
    """A copy with noise on its weights, whose golden answers are its own."""
    release = _copy(bundle, directory, golden=[], version="3-worse", release=4, noise=noise)
    model = GeneratorBundle.open(directory, release.manifest, VARIANT, threads=1)
    inputs = [golden.input for golden in load_manifest(bundle).golden]
    said = [model.text(answer) for answer in model.answers(inputs)]
    golden = [
        {"input": text, "answer": answer, "tolerance": 0.0}
        for text, answer in zip(inputs, said, strict=True)
    ]
    return Release(directory, _repack(directory, golden=golden))


def _copy(
    bundle: Path, directory: Path, *, template: str = "", noise: float = 0.0, **sections: Any
) -> Release:
    manifest = load_manifest(bundle)
    shutil.copytree(bundle, directory)
    if template:
        assert manifest.chat_template is not None
        path = directory / manifest.chat_template.file
        path.write_text(template + path.read_text("utf-8"), "utf-8")
    if noise:
        add_noise(directory, manifest, noise)
    return Release(directory, _repack(directory, **sections))


def _repack(directory: Path, **sections: Any) -> Manifest:
    document = load_manifest(directory).document()
    del document["files"]
    return pack(directory, {**document, **sections})


def add_noise(directory: Path, manifest: Manifest, noise: float, seed: int = 7) -> None:
    """Add Gaussian noise of `noise` INT8 steps to all INT8 weights, in place.

    Portable and native graph read the same file, so both get the same weights.
    """
    graph = directory / manifest.variant(VARIANT).graph
    model = onnx.load(str(graph), load_external_data=False)
    rng = np.random.default_rng(seed)
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.INT8 or not tensor.external_data:
            continue
        place = {entry.key: entry.value for entry in tensor.external_data}
        size = int(np.prod(tensor.dims))
        weights = np.memmap(
            graph.parent / place["location"], np.int8, "r+", int(place.get("offset", 0)), (size,)
        )
        moved = weights + rng.normal(0.0, noise, size)
        weights[:] = np.clip(np.rint(moved), -127, 127).astype(np.int8)
        weights.flush()

"""The four releases of `fleet_rollout`: as it is, as good, broken, and a little worse.

Rules
- Nothing is trained: all begin with the weights of one bundle. The second has the same weights
  and prompts under another model digest; the third promises an answer that it does not give; the
  fourth has noise on its INT8 weights, and its golden answers are those it gives.
- Every digest that decides for itself has a certificate of its own: alpha, delta and what it keeps
  are measured on utterances that training never saw. The worse one escalates more because less of
  it can be proved, not because something was set so.
- The noise is searched for: larger and smaller until the share that the worse one escalates on the
  utterances of the traffic lies `WORSE_BY` above the good one's.
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

from edge_runtime.bundle.certificate import Certificate
from edge_runtime.bundle.digests import model_digest
from edge_runtime.bundle.manifest import Manifest
from edge_runtime.bundle.pack import load_manifest, pack
from export_tools.certify.command import SALT, calibrate
from export_tools.certify.generator import GeneratorBundle
from export_tools.certify.issue import Terms
from export_tools.certify.scorers import open_scorer
from export_tools.certify.traffic import Example, Half, half

VARIANT: Final = "int8"
TASK: Final = "assistant"
TERMS: Final = Terms(alpha=0.05, delta=0.1, days=7)
WORSE_BY: Final = 0.04
CLOSE: Final = 0.012
FIRST_NOISE: Final = 4.0
TRIES: Final = 8
JUDGED: Final = 300
BETTER_TEMPLATE: Final = "{#- the second edition -#}"


@dataclass(frozen=True)
class Measured:
    """A model on utterances it never saw; shares of 0 to 1.

    `exact`: whole answers right. `escalates`: scored below the certificate's threshold, of those
    that did not calibrate; `loop_escalates`: the same of the utterances of the traffic.
    """

    certificate: Certificate
    exact: float
    escalates: float
    loop_escalates: float


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
    """Labelled texts that training never saw. `judged` never calibrate; the traffic is `loop`."""

    calibrate: Sequence[Example]
    judged: Sequence[Example]
    loop: Sequence[Example]

    @classmethod
    def of(cls, examples: Sequence[Example], loop: int) -> Utterances:
        """Divide as `edge-export certify` does; the traffic repeats `loop` of those judged."""
        judged = half(examples, Half.REPORT, salt=SALT)[: max(JUDGED, loop)]
        return cls(half(examples, Half.CALIBRATE, salt=SALT), judged, judged[:loop])


class NothingProvedError(RuntimeError):
    """No threshold could be certified: such a model escalates everything."""


def measure(directory: Path, utterances: Utterances) -> Measured:
    """Certify a bundle and say what it keeps. Costs one or two answers an utterance.

    Raises `NothingProvedError`.
    """
    scorer = open_scorer(directory, VARIANT, None)
    examples = [*utterances.calibrate, *utterances.judged]
    found = calibrate(scorer, examples, None, TERMS, datetime.now(UTC), task=TASK)
    if found.certificate is None or found.report is None:
        raise NothingProvedError(f"{directory.name}: nothing can be certified")
    scores, errors = scorer.scored(utterances.judged)
    escalates = [
        float((part < found.certificate.threshold).mean())
        for part in (scores, scores[: len(utterances.loop)])
    ]
    return Measured(found.certificate, 1 - float(errors.mean()), *escalates)


def make_releases(bundle: Path, utterances: Utterances, work: Path) -> Releases:
    """All four, below `work`. Costs one answer an utterance for each noise that is tried."""
    first = _copy(bundle, work / "v1", version="1", release=1)
    good = _copy(bundle, work / "v2", template=BETTER_TEMPLATE, version="2", release=2)
    measured = measure(first.directory, utterances)
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
    """The release whose escalation is nearest to `WORSE_BY` above the good one's."""
    low, high, noise = 0.0, float("inf"), FIRST_NOISE
    found: list[tuple[float, Release, float]] = []
    for number in range(TRIES):
        release = _noisy(bundle, work / f"worse-{number}", noise)
        try:
            measured = measure(release.directory, utterances)
            shift = measured.loop_escalates - good.loop_escalates
            found.append((abs(shift - WORSE_BY), replace(release, measured=measured), noise))
        except NothingProvedError:
            shift = 1.0
        if abs(shift - WORSE_BY) <= CLOSE:
            break
        low, high = (noise, high) if shift < WORSE_BY else (low, noise)
        noise = noise * 2 if high == float("inf") else (low + high) / 2
    if not found:
        raise NothingProvedError("no noise leaves a model that can be certified")
    _, best, noise = min(found, key=lambda one: one[0])
    return best, noise


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

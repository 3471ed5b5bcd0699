"""Bundles as certification sees them: something that answers, with a score and a verdict each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from edge_runtime.bundle.manifest import Manifest
from edge_runtime.bundle.pack import load_manifest, verify
from edge_runtime.core import FloatArray, Kind
from edge_runtime.errors import UsageError
from edge_runtime.stats.logistic import fit_logistic
from edge_runtime.stats.scores import (
    CLASSIFIER_SCORES,
    MARGIN,
    TOKEN_FEATURES,
    TOKEN_LOGISTIC,
    classifier_scores,
    token_features,
    token_score,
)
from export_tools.certify.classifier import EncoderBundle, classifier_errors
from export_tools.certify.generator import Answer, GeneratorBundle, is_right
from export_tools.certify.issue import Errors, Floats
from export_tools.certify.traffic import Example, answer_of, label_of


class Scorer(Protocol):
    """One variant of a bundle with one score."""

    score: str
    parameters: Mapping[str, float]
    learns: bool

    @property
    def manifest(self) -> Manifest:
        """What is certified."""

    @property
    def model_digest(self) -> str:
        """Of the variant."""

    def right(self, row: Mapping[str, Any]) -> object:
        """The right answer of a row of data; see `read_examples`."""

    def fits(self, text: str) -> bool:
        """Whether the model can take the text."""

    def learn(self, examples: Sequence[Example]) -> None:
        """Fit the score's parameters, if it `learns`. Raises `UsageError`."""

    def scored(self, examples: Sequence[Example]) -> tuple[Floats, Errors]:
        """Scores and errors [n] of examples that fit. No text is run twice."""

    def errors(self, examples: Sequence[Example]) -> Errors:
        """The errors alone, which need nothing learnt."""


@dataclass
class ClassifierScorer:
    """A score over the softmax row of a classifier."""

    bundle: EncoderBundle
    score: str
    parameters: Mapping[str, float] = field(default_factory=dict)
    learns: bool = False
    _known: dict[str, FloatArray] = field(default_factory=dict)

    @property
    def manifest(self) -> Manifest:
        """See `Scorer`."""
        return self.bundle.manifest

    @property
    def model_digest(self) -> str:
        """See `Scorer`."""
        return self.bundle.model_digest

    def right(self, row: Mapping[str, Any]) -> object:
        """See `Scorer`."""
        return label_of(row)

    def fits(self, text: str) -> bool:
        """See `Scorer`."""
        return self.bundle.fits(text)

    def learn(self, examples: Sequence[Example]) -> None:
        """See `Scorer`; there is nothing to fit."""

    def scored(self, examples: Sequence[Example]) -> tuple[Floats, Errors]:
        """See `Scorer`."""
        logits = self._logits(examples)
        return classifier_scores(self.score, logits), self._wrong(logits, examples)

    def errors(self, examples: Sequence[Example]) -> Errors:
        """See `Scorer`."""
        return self._wrong(self._logits(examples), examples)

    def _wrong(self, logits: FloatArray, examples: Sequence[Example]) -> Errors:
        return classifier_errors(self.bundle, logits, examples)

    def _logits(self, examples: Sequence[Example]) -> FloatArray:
        texts = [
            text
            for text in dict.fromkeys(item.text for item in examples)
            if text not in self._known
        ]
        if texts:
            self._known.update(zip(texts, self.bundle.outputs(texts), strict=True))
        width = self.bundle.session.width
        rows = [self._known[item.text] for item in examples]
        return np.array(rows, np.float32).reshape(len(rows), width)


@dataclass
class GeneratorScorer:
    """The learned score over the token probabilities of an answer."""

    bundle: GeneratorBundle
    score: str = TOKEN_LOGISTIC
    parameters: Mapping[str, float] = field(default_factory=dict)
    learns: bool = True
    _known: dict[str, Answer] = field(default_factory=dict)

    @property
    def manifest(self) -> Manifest:
        """See `Scorer`."""
        return self.bundle.manifest

    @property
    def model_digest(self) -> str:
        """See `Scorer`."""
        return self.bundle.model_digest

    def right(self, row: Mapping[str, Any]) -> object:
        """See `Scorer`."""
        return answer_of(row)

    def fits(self, text: str) -> bool:
        """See `Scorer`."""
        return self.bundle.fits(text)

    def learn(self, examples: Sequence[Example]) -> None:
        """See `Scorer`. The data must neither calibrate nor report."""
        logprobs, errors = self._answered(examples)
        features = [token_features(row) for row, wrong in zip(logprobs, errors, strict=True) if row]
        outcomes = [not wrong for row, wrong in zip(logprobs, errors, strict=True) if row]
        try:
            model = fit_logistic(np.array(features), outcomes, TOKEN_FEATURES)
        except ValueError as error:
            raise UsageError(f"cannot fit the score: {error}", param="data") from error
        self.parameters = model.parameters()

    def scored(self, examples: Sequence[Example]) -> tuple[Floats, Errors]:
        """See `Scorer`. An empty answer scores 0."""
        logprobs, errors = self._answered(examples)
        scores = [token_score(row, self.parameters) if row else 0.0 for row in logprobs]
        return np.array(scores), errors

    def errors(self, examples: Sequence[Example]) -> Errors:
        """See `Scorer`."""
        return self._answered(examples)[1]

    def _answered(self, examples: Sequence[Example]) -> tuple[list[list[float]], Errors]:
        texts = [
            text
            for text in dict.fromkeys(item.text for item in examples)
            if text not in self._known
        ]
        self._known.update(zip(texts, self.bundle.answers(texts), strict=True))
        answers = [self._known[item.text] for item in examples]
        errors = [
            not is_right(self.bundle.text(answer), answer, item.label)
            for answer, item in zip(answers, examples, strict=True)
        ]
        return [answer.logprobs for answer in answers], np.array(errors, bool)


def open_scorer(
    directory: Path,
    variant: str,
    score: str | None,
    *,
    threads: int | None = None,
    native: bool = False,
) -> Scorer:
    """Verify a bundle and open it with a score; None takes the kind's own (margin, or tokens).

    `native` takes the daemon's own operators where the variant and this machine have them.

    Raises `BundleError`, or `UsageError` for a kind, variant or score that is not there.
    """
    manifest = load_manifest(directory)
    allowed = {Kind.CLASSIFY: CLASSIFIER_SCORES, Kind.GENERATE: (TOKEN_LOGISTIC,)}
    if manifest.kind not in allowed:
        raise UsageError(f"{manifest.name} is of kind {manifest.kind}, which never escalates")
    known = allowed[manifest.kind]
    if score is not None and score not in known:
        raise UsageError(
            f"{score!r} is no score of {manifest.kind}; known: {', '.join(known)}", param="score"
        )
    if variant not in {item.name for item in manifest.variants}:
        names = ", ".join(item.name for item in manifest.variants)
        raise UsageError(f"no variant {variant!r}; {directory} has {names}", param="variant")
    verify(directory, manifest)
    if manifest.kind is Kind.GENERATE:
        return GeneratorScorer(
            GeneratorBundle.open(directory, manifest, variant, threads=threads, native=native)
        )
    return ClassifierScorer(
        EncoderBundle.open(directory, variant, threads=threads, native=native), score or MARGIN
    )

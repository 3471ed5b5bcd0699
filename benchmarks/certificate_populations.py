"""What the certificate simulation draws from: scores and errors of INT8 models on real data.

A population is a finite set of inputs with weights. Its risk at any threshold is known exactly,
so a broken promise is counted, not estimated.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge_runtime.stats.scores import auroc, classifier_scores
from export_tools.certify.classifier import EncoderBundle, classifier_errors
from export_tools.certify.traffic import Example, data_digest, half, read_examples
from export_tools.certify.traffic import Half as Split

Floats = npt.NDArray[np.float64]

SCORE = "margin"
OOS_SHARE = 0.18
HEAD_STEPS = 400
HEAD_PENALTY = 1e-4


@dataclass(frozen=True)
class Population:
    """Inputs [n]: score, whether the answer is wrong, and the chance of being drawn (sums to 1)."""

    name: str
    scores: Floats
    errors: npt.NDArray[np.bool_]
    weights: Floats

    def __post_init__(self) -> None:
        assert len(self.scores) == len(self.errors) == len(self.weights)
        assert abs(float(self.weights.sum()) - 1.0) < 1e-9

    @property
    def accuracy(self) -> float:
        return float(self.weights @ ~self.errors)

    def at(self, threshold: float) -> tuple[float, float]:
        """The exact coverage and error among the kept at a threshold."""
        kept = self.scores >= threshold
        coverage = float(self.weights[kept].sum())
        wrong = float(self.weights[kept & self.errors].sum())
        return coverage, wrong / coverage if coverage else 0.0

    def best_coverage(self, alpha: float) -> float:
        """What a perfectly informed choice of threshold keeps at error <= alpha."""
        order = np.argsort(-self.scores, kind="stable")
        weights = self.weights[order]
        coverage = np.cumsum(weights)
        error = np.cumsum(weights * self.errors[order]) / coverage
        fine = np.flatnonzero(error <= alpha)
        return float(coverage[fine[-1]]) if len(fine) else 0.0

    def describe(self) -> str:
        ranked = auroc(self.scores, self.errors)
        return (
            f"{self.name}: {len(self.scores)} inputs, answered right {self.accuracy:.1%}, "
            f"AUROC of the {SCORE} {ranked:.3f}"
        )


def clinc150(bundle: Path, data: Path, cache: Path) -> Population:
    """Mixed traffic: `validation` with 18 % drawn from the sets out of scope."""
    model = EncoderBundle.open(bundle, "int8", threads=1)
    folder = data / "clinc150"
    inside = read_examples([folder / "validation.jsonl"])
    outside = read_examples(
        [folder / "oos_calibration.jsonl", folder / "oos_validation.jsonl"], out_of_scope=True
    )
    examples = inside + outside
    logits = cached_outputs(model, examples, cache)
    weights = np.where(
        [item.label is None for item in examples],
        OOS_SHARE / len(outside),
        (1 - OOS_SHARE) / len(inside),
    )
    errors = classifier_errors(model, logits, examples)
    return Population(
        "CLINC150, 18 % out of scope", classifier_scores(SCORE, logits), errors, weights
    )


def banking77(bundle: Path, data: Path, cache: Path) -> Population:
    """One half of `train` fits a linear head on MiniLM's INT8 embeddings, the other is drawn."""
    model = EncoderBundle.open(bundle, "int8", threads=1)
    examples = read_examples([data / "banking77" / "train.jsonl"])
    outputs = cached_outputs(model, examples, cache)
    rows = {item.text: row for item, row in zip(examples, outputs, strict=True)}
    labels = sorted({item.label for item in examples if item.label})
    fit, drawn = (half(examples, which, salt="benchmark head") for which in Split)

    def table(part: Sequence[Example]) -> tuple[Floats, npt.NDArray[np.int64]]:
        places = np.array([labels.index(str(item.label)) for item in part])
        return np.array([rows[item.text] for item in part], np.float64), places

    weights, bias = fit_head(*table(fit), len(labels))
    features, places = table(drawn)
    logits = features @ weights + bias
    return Population(
        "BANKING77",
        classifier_scores(SCORE, logits),
        logits.argmax(axis=1) != places,
        np.full(len(drawn), 1 / len(drawn)),
    )


def fit_head(features: Floats, places: npt.NDArray[np.int64], labels: int) -> tuple[Floats, Floats]:
    """Multinomial logistic regression by Adam on the whole set: weights [width, labels], bias."""
    target = np.eye(labels)[places]
    design = np.column_stack([features, np.ones(len(features))])
    solution = np.zeros((design.shape[1], labels))
    first, second = np.zeros_like(solution), np.zeros_like(solution)
    for step in range(1, HEAD_STEPS + 1):
        logits = design @ solution
        fitted = np.exp(logits - logits.max(axis=1, keepdims=True))
        fitted /= fitted.sum(axis=1, keepdims=True)
        gradient = design.T @ (fitted - target) / len(design) + HEAD_PENALTY * solution
        first = 0.9 * first + 0.1 * gradient
        second = 0.99 * second + 0.01 * gradient**2
        scale = np.sqrt(second / (1 - 0.99**step)) + 1e-8
        solution = solution - 0.2 * first / (1 - 0.9**step) / scale
    return solution[:-1], solution[-1]


def cached_outputs(
    model: EncoderBundle, examples: Sequence[Example], cache: Path
) -> npt.NDArray[np.float32]:
    """Outputs of the model, kept in `cache` by model digest, data digest and order."""
    texts = [item.text for item in examples]
    order = hashlib.sha256("\0".join(texts).encode()).hexdigest()
    path = cache / f"{model.model_digest[:16]}-{data_digest(examples)[:16]}-{order[:16]}.npy"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        np.save(path, model.outputs(texts))
    found: npt.NDArray[np.float32] = np.load(path)
    return found

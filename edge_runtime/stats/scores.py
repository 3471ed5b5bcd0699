"""Confidence scores: how sure a model is of one answer, as a number in [0, 1].

Rules
- Higher means surer; only the order counts, no score is a probability of being right.
- The same function computes a score at export, on the box and in tests: a certificate names it
  by `name` and `version`, and any change that can move a value is a new version.
- A score without signal must not decide: `auroc` on the task's own data has to be above 0.5
  before a threshold on it is certified. Entropy is not offered: it ranks worse than the margin,
  and on some tasks worse than chance.

Scores of classifiers read the softmax row: `margin` (p1 - p2) and `top_probability` (p1).
Scores of generations read the probabilities of the chosen tokens: their quantiles and number,
weighed by a logistic regression whose weights lie in the certificate (Gupta et al., ICLR 2024,
arXiv 2404.10136; sums and means of log probabilities are biased by length, quantiles are not).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from edge_runtime.stats.logistic import Logistic

Floats = npt.NDArray[np.float64]

MARGIN = "margin"
TOP_PROBABILITY = "top-probability"
TOKEN_LOGISTIC = "token-logistic"  # noqa: S105 - the name of a score
VERSIONS = {MARGIN: 1, TOP_PROBABILITY: 1, TOKEN_LOGISTIC: 1}
CLASSIFIER_SCORES = (MARGIN, TOP_PROBABILITY)

TOKEN_QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75)
TOKEN_FEATURES = (*(f"q{round(100 * at)}" for at in TOKEN_QUANTILES), "log_length")


def softmax(logits: npt.ArrayLike) -> Floats:
    """Probabilities float64 [rows, labels] of logits of that shape; each row sums to 1."""
    values = np.asarray(logits, np.float64)
    shifted = np.exp(values - values.max(axis=1, keepdims=True))
    result: Floats = shifted / shifted.sum(axis=1, keepdims=True)
    return result


def margin(probabilities: npt.ArrayLike) -> Floats:
    """p1 - p2 of each row [rows, labels >= 2]: the distance to the second label."""
    rows = np.asarray(probabilities, np.float64)
    if rows.ndim != 2 or rows.shape[1] < 2:
        raise ValueError(f"a margin needs rows of at least two labels, not shape {rows.shape}")
    best = np.partition(rows, -2, axis=1)
    result: Floats = np.clip(best[:, -1] - best[:, -2], 0.0, 1.0)
    return result


def top_probability(probabilities: npt.ArrayLike) -> Floats:
    """p1 of each row [rows, labels]."""
    rows = np.asarray(probabilities, np.float64)
    if rows.ndim != 2 or not rows.shape[1]:
        raise ValueError(f"needs rows of labels, not shape {rows.shape}")
    result: Floats = np.clip(rows.max(axis=1), 0.0, 1.0)
    return result


def classifier_scores(name: str, logits: npt.ArrayLike) -> Floats:
    """Scores [rows] of logits [rows, labels] by the score's name. Raises `ValueError`."""
    probabilities = softmax(logits)
    if name == MARGIN:
        return margin(probabilities)
    if name == TOP_PROBABILITY:
        return top_probability(probabilities)
    raise ValueError(f"{name!r} is no classifier score; known are {', '.join(CLASSIFIER_SCORES)}")


def token_features(logprobs: Sequence[float]) -> Floats:
    """Features [6] of one answer, named by `TOKEN_FEATURES`.

    `logprobs`: natural logarithms of the probability of each token chosen, as the model gave it
    before temperature. Raises `ValueError` for an empty answer, NaN or values above 0.
    """
    values = np.asarray(logprobs, np.float64)
    if values.ndim != 1 or not len(values) or not bool(np.all(values <= 1e-6)):
        raise ValueError("needs the log probability (<= 0) of every token of the answer")
    quantiles = np.quantile(np.exp(np.minimum(values, 0.0)), TOKEN_QUANTILES)
    result: Floats = np.append(quantiles, math.log(len(values)))
    return result


def token_score(logprobs: Sequence[float], parameters: Mapping[str, float]) -> float:
    """The score of one answer, with the weights of its certificate. Raises `ValueError`."""
    model = Logistic.from_parameters(parameters, TOKEN_FEATURES)
    return float(model.probabilities(token_features(logprobs)[None, :])[0])


def auroc(scores: npt.ArrayLike, errors: npt.ArrayLike) -> float:
    """P(a right answer scores above a wrong one), ties counted half; 0.5 is chance.

    The Mann-Whitney statistic over `scores` [n], `errors` [n] of 0 or 1. Raises `ValueError`
    when all answers are right or all are wrong: then the order says nothing.
    """
    values = np.asarray(scores, np.float64)
    wrong = np.asarray(errors, bool)
    rights, wrongs = int((~wrong).sum()), int(wrong.sum())
    if values.shape != wrong.shape or values.ndim != 1 or not rights or not wrongs:
        raise ValueError("needs a score for each of some right and some wrong answers")
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return float((ranks[~wrong].sum() - rights * (rights + 1) / 2) / (rights * wrongs))

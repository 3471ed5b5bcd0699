"""Distances between a variant's outputs and a reference's. Pure."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
_LEAD = 0.1


def cosines(left: Array, right: Array) -> npt.NDArray[np.float64]:
    """Cosine of each row of two [n, d] arrays; not a number for rows of zeros."""
    a, b = left.astype(np.float64), right.astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        products: npt.NDArray[np.float64] = (a * b).sum(axis=1) / norms
    return products


def agreement(left: Array, right: Array) -> float:
    """Share of rows of two [n, d] arrays with the same largest entry."""
    return float((left.argmax(axis=1) == right.argmax(axis=1)).mean())


def mean_kl(reference: Array, candidate: Array) -> float:
    """Mean over rows of the divergence KL(reference, candidate) of softmaxed logits, nats."""
    p, q = _log_softmax(reference), _log_softmax(candidate)
    return float((np.exp(p) * (p - q)).sum(axis=1).mean())


def top1_where_decided(reference: Array, candidate: Array) -> float | None:
    """Share of rows with the same most probable token, where the reference leads by 0.1.

    None when no row has such a lead: a model without an opinion cannot change it.
    """
    two = np.sort(np.exp(_log_softmax(reference)), axis=1)[:, -2:]
    decided = two[:, 1] - two[:, 0] >= _LEAD
    if not decided.any():
        return None
    return agreement(reference[decided], candidate[decided])


def _log_softmax(logits: Array) -> npt.NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    result: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result

"""From scored samples to a certificate, or to the statement that nothing could be proved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from edge_runtime.bundle.certificate import (
    GOLD,
    Certificate,
    ScoreDefinition,
    write_time,
)
from edge_runtime.core import Kind
from edge_runtime.errors import UsageError
from edge_runtime.stats.learn_then_test import Walk, learn_then_test
from edge_runtime.stats.scores import VERSIONS, auroc

Floats = npt.NDArray[np.float64]
Errors = npt.NDArray[np.bool_]

DECILES = np.arange(1, 10) / 10


@dataclass(frozen=True, slots=True)
class Terms:
    """What is promised: error among kept <= alpha, with confidence 1 - delta, for `days`."""

    alpha: float
    delta: float
    days: int


@dataclass(frozen=True, slots=True)
class Subject:
    """What a certificate is about; see `Certificate` for the fields."""

    model_digest: str
    kind: Kind
    task: str
    score: str
    traffic: str
    data_sha256: str
    reference: str = GOLD
    prompt_sha256: str | None = None
    parameters: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Kept:
    """What a threshold does to samples: how many it keeps, and errors among those."""

    samples: int
    kept: int
    errors: int

    @property
    def coverage(self) -> float:
        """Share that is kept."""
        return self.kept / self.samples if self.samples else 0.0

    @property
    def error(self) -> float:
        """Share of wrong ones among the kept; 0 when nothing is kept."""
        return self.errors / self.kept if self.kept else 0.0


def issue(
    scores: Sequence[float] | Floats,
    errors: Sequence[bool] | Errors,
    subject: Subject,
    terms: Terms,
    now: datetime,
) -> tuple[Certificate | None, Walk]:
    """Calibrate on scores [n] in [0, 1] and errors [n], and state the result.

    None when no threshold passed: then everything has to escalate. Raises `UsageError` when the
    score does not rank right answers above wrong ones, or when no wrong answer shows whether.
    """
    try:
        area = auroc(scores, errors)
        walk = learn_then_test(scores, errors, alpha=terms.alpha, delta=terms.delta)
    except ValueError as error:
        raise UsageError(f"cannot calibrate on these data: {error}", param="data") from error
    if area <= 0.5:
        raise UsageError(
            f"score {subject.score!r} ranks this task no better than chance (AUROC {area:.3f}): "
            "choose another score",
            param="score",
        )
    found = walk.certified
    if found is None:
        return None, walk
    deciles = np.quantile(np.asarray(scores, np.float64), DECILES)
    try:
        certificate = Certificate(
            model_digest=subject.model_digest,
            kind=subject.kind,
            task=subject.task,
            score=ScoreDefinition(
                name=subject.score,
                version=VERSIONS[subject.score],
                parameters=dict(subject.parameters),
            ),
            alpha=terms.alpha,
            delta=terms.delta,
            threshold=found.threshold,
            n=found.n,
            k=found.k,
            calibration_size=walk.samples,
            coverage=found.coverage,
            auroc=area,
            score_deciles=tuple(float(value) for value in deciles),
            reference=subject.reference,
            traffic=subject.traffic,
            data_sha256=subject.data_sha256,
            prompt_sha256=subject.prompt_sha256,
            issued=write_time(now),
            expires=write_time(now + timedelta(days=terms.days)),
        )
    except ValidationError as error:
        raise UsageError(f"cannot certify: {error.errors()[0]['msg']}") from error
    return certificate, walk


def kept_by(threshold: float, scores: Floats, errors: Errors) -> Kept:
    """What `threshold` keeps of scores [n] with errors [n]."""
    inside = scores >= threshold
    return Kept(len(scores), int(inside.sum()), int(errors[inside].sum()))

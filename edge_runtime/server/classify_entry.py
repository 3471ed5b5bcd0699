"""The body of a classification, and what is answered for each input."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import Field

from edge_runtime.cache.policy import Use
from edge_runtime.core import FloatArray, ModelInfo
from edge_runtime.router.contract import (
    Reason,
)
from edge_runtime.server.context import RequestContext, Services
from edge_runtime.server.encoders import EncodeBody
from edge_runtime.stats.scores import softmax

DEFAULT_TOP_K = 5
LABEL_TOKENS = 64
NO_USE = Use(read=False, keep=False)
NEVER_KEPT = frozenset({Reason.DEGRADED, Reason.NEVER_LEAVE})


class ClassifyBody(EncodeBody):
    """The request. `top_k` past the number of labels gives all of them."""

    top_k: int | None = Field(None, ge=1, le=100_000)


def ranked(logits: FloatArray, info: ModelInfo, top_k: int | None) -> list[dict[str, Any]]:
    """What is answered for each row of logits [inputs, labels]."""
    scores = softmax(logits).astype(np.float32)
    count = min(top_k or DEFAULT_TOP_K, len(info.labels))
    # stable, so that equal scores keep the order of the labels
    order = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    entries = []
    for index, best in enumerate(order):
        labels = [{"label": info.labels[at], "score": float(scores[index, at])} for at in best]
        entries.append({**labels[0], "labels": labels})
    return entries


def since_ms(services: Services, context: RequestContext) -> float:
    """Milliseconds since the request came."""
    return round((services.clock() - context.arrival_s) * 1000, 2)

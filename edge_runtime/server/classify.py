"""POST /v1/classify."""

from __future__ import annotations

import numpy as np
from aiohttp import web
from pydantic import Field

from edge_runtime.core import FloatArray, Kind
from edge_runtime.server.body import read_body
from edge_runtime.server.encoders import EncodeBody, encode
from edge_runtime.server.replies import json_reply

DEFAULT_TOP_K = 5


class ClassifyBody(EncodeBody):
    """The request. `top_k` past the number of labels gives all of them."""

    top_k: int | None = Field(None, ge=1, le=100_000)


async def classify(request: web.Request) -> web.StreamResponse:
    """Label one text or many, best label first."""
    body = await read_body(request, ClassifyBody)
    encoded = await encode(request, body, Kind.CLASSIFY)
    labels = encoded.info.labels
    scores = softmax(encoded.rows)
    top_k = min(body.top_k or DEFAULT_TOP_K, len(labels))
    # stable, so that equal scores keep the order of the labels
    order = np.argsort(-scores, axis=1, kind="stable")[:, :top_k]
    data = []
    for index, best in enumerate(order):
        ranked = [{"label": labels[at], "score": float(scores[index, at])} for at in best]
        data.append({"index": index, **ranked[0], "labels": ranked})
    return json_reply(
        {"object": "list", "model": encoded.info.name, "data": data, "usage": encoded.usage()}
    )


def softmax(logits: FloatArray) -> FloatArray:
    """Probabilities float32 [inputs, labels] of logits of that shape; rows sum to 1."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True), dtype=np.float32)

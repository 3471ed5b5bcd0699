"""POST /v1/embeddings."""

from __future__ import annotations

import base64
from typing import Literal

import numpy as np
from aiohttp import web
from pydantic import Field

from edge_runtime.core import FloatArray, Kind
from edge_runtime.errors import UsageError
from edge_runtime.server.body import read_body
from edge_runtime.server.context import services_of
from edge_runtime.server.encoders import EncodeBody, encode
from edge_runtime.server.replies import json_reply


class EmbeddingBody(EncodeBody):
    """The request. `dimensions` must be the model's: vectors are not shortened here."""

    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(None, ge=1)


async def embeddings(request: web.Request) -> web.StreamResponse:
    """Embed one text or many."""
    body = await read_body(request, EmbeddingBody)
    info = services_of(request).model(body.model, Kind.EMBED)
    _check_dimensions(body, info.output_width)
    encoded = await encode(request, body, info)
    as_base64 = body.encoding_format == "base64"
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": _base64(row) if as_base64 else row,
        }
        for index, row in enumerate(encoded.rows)
    ]
    return json_reply(
        {
            "object": "list",
            "data": data,
            "model": encoded.info.name,
            "usage": encoded.usage(),
        }
    )


def _check_dimensions(body: EmbeddingBody, width: int | None) -> None:
    if body.dimensions is not None and body.dimensions != width:
        raise UsageError(
            f"dimensions is {body.dimensions}; {body.model} gives {width or 'no'} dimensions "
            "and does not shorten them: leave dimensions out",
            param="dimensions",
            code="field_not_served",
        )


def _base64(row: FloatArray) -> str:
    return base64.b64encode(np.ascontiguousarray(row, dtype="<f4").tobytes()).decode("ascii")

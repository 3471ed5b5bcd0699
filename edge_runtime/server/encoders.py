"""What embedding and classification share: inputs in, rows out."""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import web
from pydantic import Field

from edge_runtime.core import FloatArray, Kind, ModelInfo
from edge_runtime.errors import UsageError
from edge_runtime.server.body import Body
from edge_runtime.server.context import context_of, services_of
from edge_runtime.server.offload import offload
from edge_runtime.server.prompts import Inputs, OneInput, fit, split_inputs, to_tokens


class EncodeBody(Body):
    """Fields both encoder routes know."""

    model: str = Field(min_length=1, max_length=256)
    input: Inputs
    truncate: bool | None = None
    truncate_prompt_tokens: int | None = Field(None, ge=-1)

    def limit(self, info: ModelInfo) -> int | None:
        """Tokens to cut inputs to; None refuses what is too long. Raises `UsageError`."""
        wanted = self.truncate_prompt_tokens
        if wanted is None:
            return info.context_tokens if self.truncate else None
        if wanted == 0 or wanted > info.context_tokens:
            raise UsageError(
                f"truncate_prompt_tokens is {wanted}; {info.name} takes 1 to "
                f"{info.context_tokens} tokens, -1 cuts to the longest",
                param="truncate_prompt_tokens",
            )
        return info.context_tokens if wanted < 0 else wanted


@dataclass(frozen=True, slots=True)
class Encoded:
    """Outputs float32 [inputs, width] in input order, and the tokens they took."""

    info: ModelInfo
    rows: FloatArray
    token_count: int

    def usage(self) -> dict[str, int]:
        """OpenAI's `usage` of routes that only read."""
        return {"prompt_tokens": self.token_count, "total_tokens": self.token_count}


async def encode(request: web.Request, body: EncodeBody, kind: Kind) -> Encoded:
    """Tokenise, check lengths, run. Raises `UsageError` or `CapacityError`."""
    services, context = services_of(request), context_of(request)
    info = context.info = services.model(body.model, kind)
    limit = services.settings.server.max_inputs_per_request
    inputs = split_inputs(body.input, param="input", limit=limit)
    codec = services.host.codec(info.name)
    token_lists = await to_tokens(codec, inputs, info, "input")
    for at, tokens in enumerate(token_lists):
        if not tokens:
            raise UsageError(f"input {at} gives no tokens: send some text", param="input")
    cut_to = body.limit(info)
    if cut_to is None:
        _refuse_long(token_lists, info)
        batch = [tuple(tokens) for tokens in token_lists]
    else:
        pairs: list[tuple[OneInput, list[int]]] = list(zip(inputs, token_lists, strict=True))
        batch = await offload(
            lambda: [fit(codec, one, tokens, cut_to) for one, tokens in pairs],
            chars=sum(len(one) for one, tokens in pairs if len(tokens) > cut_to),
        )
    rows = await services.host.encode(
        info.name,
        batch,
        request_class=context.request_class,
        bundle_digest=info.bundle_digest,
    )
    return Encoded(info=info, rows=rows, token_count=sum(len(tokens) for tokens in batch))


def _refuse_long(token_lists: list[list[int]], info: ModelInfo) -> None:
    for at, tokens in enumerate(token_lists):
        if len(tokens) > info.context_tokens:
            raise UsageError(
                f"input {at} has {len(tokens)} tokens; {info.name} takes at most "
                f"{info.context_tokens}: shorten it or send truncate: true",
                param="input",
                code="context_length_exceeded",
            )

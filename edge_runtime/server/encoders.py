"""What embedding and classification share: inputs in, rows out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aiohttp import web
from pydantic import Field

from edge_runtime.core import FloatArray, ModelInfo, TextCodec
from edge_runtime.errors import UsageError
from edge_runtime.ledger.rows import Tokens
from edge_runtime.router.till import Work
from edge_runtime.server.body import Body
from edge_runtime.server.context import RequestContext, Services, context_of, services_of
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


async def encode(request: web.Request, body: EncodeBody, info: ModelInfo) -> Encoded:
    """Tokenise, check lengths, run, and book it. Raises `UsageError` or `CapacityError`."""
    services, context = services_of(request), context_of(request)
    context.info = info
    batch = await token_batch(services, info, body)
    told = context.simply(services.router, info, services.plan(body.model, context.wishes))
    try:
        rows = await services.host.encode(
            info.name,
            batch,
            request_class=context.request_class,
            bundle_digest=info.bundle_digest,
        )
        told.bill.local(info, work_of(services, context, info, batch))
        told.bill.close(rung=0, reason=told.reason)
        await told.bill.settled()
    finally:
        services.router.account(told, context.wishes.endpoint)
    return Encoded(info=info, rows=rows, token_count=sum(len(tokens) for tokens in batch))


async def token_batch(
    services: Services, info: ModelInfo, body: EncodeBody
) -> list[tuple[int, ...]]:
    """The tokens of every input, none too long. Raises `UsageError`."""
    limit = services.settings.server.max_inputs_per_request
    inputs = split_inputs(body.input, param="input", limit=limit)
    codec = services.host.codec(info.name)
    token_lists = await to_tokens(codec, inputs, info, "input")
    for at, tokens in enumerate(token_lists):
        refuse_empty(at, tokens)
    cut_to = body.limit(info)
    if cut_to is None:
        _refuse_long(token_lists, info)
        return [tuple(tokens) for tokens in token_lists]
    return await cut_batch(codec, inputs, token_lists, cut_to)


async def cut_batch(
    codec: TextCodec, inputs: Sequence[OneInput], lists: Sequence[Sequence[int]], cut_to: int
) -> list[tuple[int, ...]]:
    """The tokens of every input, cut to a length; see `prompts.fit`."""
    pairs = list(zip(inputs, lists, strict=True))
    return await offload(
        lambda: [fit(codec, one, tokens, cut_to) for one, tokens in pairs],
        chars=sum(len(one) for one, tokens in pairs if len(tokens) > cut_to),
    )


def refuse_empty(at: int, tokens: Sequence[int]) -> None:
    """Raise `UsageError` for an input without any token."""
    if not tokens:
        raise UsageError(f"input {at} gives no tokens: send some text", param="input")


def work_of(
    services: Services, context: RequestContext, info: ModelInfo, batch: Sequence[Sequence[int]]
) -> Work:
    """What the ledger keeps of an encoder's run. Its seconds are those its tokens take lately."""
    tokens = sum(len(one) for one in batch)
    duration_s = max(0.0, services.clock() - context.arrival_s)
    busy_s = min(services.metrics.encoder_seconds(info.name, tokens), duration_s)
    return Work(Tokens(tokens), round(busy_s * 1e6), round(duration_s * 1e6))


def _refuse_long(token_lists: list[list[int]], info: ModelInfo) -> None:
    for at, tokens in enumerate(token_lists):
        error = too_long(at, tokens, info)
        if error is not None:
            raise error


def too_long(at: int, tokens: Sequence[int], info: ModelInfo) -> UsageError | None:
    """The refusal of an input that does not fit the model; None for one that does."""
    if len(tokens) <= info.context_tokens:
        return None
    return UsageError(
        f"input {at} has {len(tokens)} tokens; {info.name} takes at most "
        f"{info.context_tokens}: shorten it or send truncate: true",
        param="input",
        code="context_length_exceeded",
    )

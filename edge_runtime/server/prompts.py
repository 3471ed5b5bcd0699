"""Inputs that may be text or tokens, one or many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from edge_runtime.core import ModelInfo, TextCodec
from edge_runtime.errors import UsageError
from edge_runtime.server.offload import offload
from edge_runtime.server.sampling import check_ids

Inputs = str | list[str] | list[int] | list[list[int]]
OneInput = str | list[int]


def split_inputs(inputs: Inputs, *, param: str, limit: int) -> list[OneInput]:
    """One entry an input. Raises `UsageError` when there is none, or more than `limit`."""
    if isinstance(inputs, str):
        return [inputs]
    if not inputs:
        raise UsageError(f"{param} must not be empty", param=param)
    if isinstance(inputs[0], int):
        return [inputs]
    if len(inputs) > limit:
        raise UsageError(
            f"{len(inputs)} inputs were sent; one request may hold {limit}", param=param
        )
    singles = list(cast("list[OneInput]", inputs))
    if any(isinstance(one, list) and not one for one in singles):
        raise UsageError(f"{param} holds an empty token list", param=param)
    return singles


async def to_tokens(
    codec: TextCodec, inputs: Sequence[OneInput], info: ModelInfo, param: str
) -> list[list[int]]:
    """Token ids of each input; text gets the model's special tokens, token lists are taken as
    they are. Raises `UsageError` for ids the model does not have.
    """

    def work() -> list[list[int]]:
        return [
            codec.encode(one, add_special_tokens=True)
            if isinstance(one, str)
            else list(check_ids(one, info, param))
            for one in inputs
        ]

    return await offload(work, chars=sum(len(one) for one in inputs))


def fit(codec: TextCodec, one: OneInput, tokens: Sequence[int], limit: int) -> tuple[int, ...]:
    """The first `limit` tokens of an input; text keeps the special tokens at both ends.

    `tokens` are the input's tokens with special ones. Costs a second tokenising of the text.
    """
    if len(tokens) <= limit:
        return tuple(tokens)
    if isinstance(one, str):
        bare = codec.encode(one, add_special_tokens=False)
        around = len(tokens) - len(bare)
        for lead in range(min(around, limit) + 1):
            tail = around - lead
            if list(tokens[lead : lead + len(bare)]) == list(bare) and limit >= around:
                end = tuple(tokens[len(tokens) - tail :]) if tail else ()
                return (*tokens[:lead], *bare[: limit - around], *end)
    return tuple(tokens[:limit])

"""POST /tokenize and /detokenize, in vLLM's shapes."""

from __future__ import annotations

from typing import Self

from aiohttp import web
from pydantic import Field, model_validator

from edge_runtime.errors import UsageError
from edge_runtime.server.body import Body, read_body
from edge_runtime.server.chat import MAX_MESSAGES, Message, chat_tokens, need_chat_template
from edge_runtime.server.context import context_of, services_of
from edge_runtime.server.logprobs import token_text
from edge_runtime.server.offload import offload
from edge_runtime.server.replies import json_reply
from edge_runtime.server.sampling import check_ids


class TokenizeBody(Body):
    """A prompt or messages, never both."""

    model: str = Field(min_length=1, max_length=256)
    prompt: str | None = None
    messages: list[Message] | None = Field(None, min_length=1, max_length=MAX_MESSAGES)
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise UsageError("send either prompt or messages", param="prompt", code="missing_field")
        return self


class DetokenizeBody(Body):
    """Token ids to turn into text."""

    model: str = Field(min_length=1, max_length=256)
    tokens: list[int] = Field(max_length=1 << 20)


async def tokenize(request: web.Request) -> web.StreamResponse:
    """Tokens of a prompt, or of a chat as the model would see it."""
    services, context = services_of(request), context_of(request)
    body = await read_body(request, TokenizeBody)
    info = context.info = services.find(body.model)
    codec = services.host.codec(info.name)
    if body.messages is not None:
        need_chat_template(info)
        tokens = list(await chat_tokens(codec, body.messages))
    else:
        text, special = body.prompt or "", body.add_special_tokens is not False
        tokens = await offload(
            lambda: codec.encode(text, add_special_tokens=special), chars=len(text)
        )
    strings = [token_text(codec, token) for token in tokens] if body.return_token_strs else None
    return json_reply(
        {
            "tokens": tokens,
            "count": len(tokens),
            "max_model_len": info.context_tokens,
            "token_strs": strings,
        }
    )


async def detokenize(request: web.Request) -> web.StreamResponse:
    """Text of token ids, special tokens included."""
    services, context = services_of(request), context_of(request)
    body = await read_body(request, DetokenizeBody)
    info = context.info = services.find(body.model)
    codec = services.host.codec(info.name)
    tokens = check_ids(body.tokens, info, "tokens")
    text = await offload(lambda: codec.decode(tokens, skip_special_tokens=False), chars=len(tokens))
    return json_reply({"prompt": text})

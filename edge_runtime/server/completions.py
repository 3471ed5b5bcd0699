"""POST /v1/completions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from aiohttp import web
from pydantic import Field, model_validator

from edge_runtime.core import Kind, ModelInfo, TextCodec, TokenEvent
from edge_runtime.errors import UsageError
from edge_runtime.server.body import read_body
from edge_runtime.server.context import context_of, new_id, services_of
from edge_runtime.server.generation import Job, Simply, finish_reason, respond, sequences
from edge_runtime.server.logprobs import CompletionLogprobs
from edge_runtime.server.prompts import Inputs, split_inputs, to_tokens
from edge_runtime.server.sampling import MAX_TOP_LOGPROBS, GenerateBody, sampling_params


class CompletionBody(GenerateBody):
    """The request."""

    prompt: Inputs
    logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    echo: bool | None = None

    @model_validator(mode="after")
    def _completion_consistent(self) -> Self:
        if self.echo and self.logprobs is not None:
            raise UsageError(
                "log probabilities of prompt tokens are not served: leave out echo or logprobs",
                param="logprobs",
                code="field_not_served",
            )
        return self

    @property
    def wanted_logprobs(self) -> int | None:
        """`SamplingParams.top_logprobs` of the request."""
        return self.logprobs


@dataclass(slots=True)
class CompletionShape:
    """Text completions and their chunks. `echoes`: what precedes each choice's text."""

    info: ModelInfo
    codec: TextCodec
    logprobs: bool
    echoes: Sequence[str]
    created_s: int
    id: str = field(default_factory=lambda: new_id("cmpl"))
    running: dict[int, CompletionLogprobs] = field(default_factory=dict)

    def head(self, *, chunk: bool) -> dict[str, Any]:
        """See `Shape`."""
        return {
            "id": self.id,
            "object": "text_completion",
            "created": self.created_s,
            "model": self.info.name,
        }

    def opening(self, index: int) -> dict[str, Any] | None:
        """The prompt, when it is to be echoed."""
        return self._choice(index, self.echoes[index], None) if self.echoes[index] else None

    def piece(self, index: int, event: TokenEvent) -> dict[str, Any] | None:
        """See `Shape`."""
        reason = finish_reason(event)
        if not event.text and reason is None and not self.logprobs:
            return None
        self._book(index, [event])
        return self._choice(index, event.text, reason)

    def choice(self, index: int, events: Sequence[TokenEvent]) -> dict[str, Any]:
        """See `Shape`."""
        self._book(index, events)
        text = self.echoes[index] + "".join(event.text for event in events)
        return self._choice(index, text, finish_reason(events[-1]))

    def _book(self, index: int, events: Sequence[TokenEvent]) -> None:
        if self.logprobs:
            running = self.running.setdefault(index, CompletionLogprobs(self.codec))
            for event in events:
                running.add(event)

    def _choice(self, index: int, text: str, reason: str | None) -> dict[str, Any]:
        running = self.running.get(index)
        logprobs = running.take() if running is not None else None
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}


async def completions(request: web.Request) -> web.StreamResponse:
    """Answer one text completion request, whole or as a stream."""
    services, context = services_of(request), context_of(request)
    body = await read_body(request, CompletionBody)
    info = context.info = services.model(body.model, Kind.GENERATE)
    limit = services.settings.server.max_sequences_per_request
    inputs = split_inputs(body.prompt, param="prompt", limit=limit)
    services.bound_sequences(len(inputs) * body.choices)
    codec = services.host.codec(info.name)
    prompts = [tuple(tokens) for tokens in await to_tokens(codec, inputs, info, "prompt")]
    if not all(prompts):
        raise UsageError("the prompt has no tokens: send at least one", param="prompt")
    texts = [
        (one if isinstance(one, str) else codec.decode(one)) if body.echo else "" for one in inputs
    ]
    shape = CompletionShape(
        info=info,
        codec=codec,
        logprobs=body.logprobs is not None,
        echoes=[text for text in texts for _ in range(body.choices)],
        created_s=services.now_s(),
    )
    planned = [(prompt, sampling_params(body, info, len(prompt))) for prompt in prompts]
    job = Job(
        info=info,
        requests=sequences(context, info, planned, body.choices),
        prompt_lens=[len(prompt) for prompt in prompts],
        choices=body.choices,
        shape=shape,
        stream=bool(body.stream),
        include_usage=body.include_usage,
    )
    told = context.simply(services.router, info)
    try:
        return await respond(request, job, Simply(told, info))
    finally:
        services.router.account(told, context.wishes.endpoint)

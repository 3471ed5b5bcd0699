"""Chat: its body, its answers' shapes, and what a local model is to generate for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from edge_runtime.core import ModelInfo, TextCodec, TokenEvent
from edge_runtime.errors import UsageError
from edge_runtime.server.body import Body
from edge_runtime.server.context import RequestContext, Services, new_id
from edge_runtime.server.generation import Job, finish_reason, sequences
from edge_runtime.server.logprobs import chat_logprobs
from edge_runtime.server.offload import offload
from edge_runtime.server.sampling import MAX_TOP_LOGPROBS, GenerateBody, sampling_params

MAX_MESSAGES = 1024


class TextPart(Body):
    """One part of a message; only text is served."""

    type: str
    text: str | None = None
    # what other part types carry: named here so that the refusal names the type, not the field
    image_url: Any = None
    input_audio: Any = None
    file: Any = None
    refusal: Any = None

    @model_validator(mode="after")
    def _text_only(self) -> Self:
        if self.type != "text" or self.text is None:
            raise UsageError(
                f"message parts of type {self.type!r} are not served here: send text",
                param="messages",
                code="field_not_served",
            )
        return self


class Message(Body):
    """One message. Fields of tool calls may be there as null, as clients send them."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = Field(None, max_length=64)
    refusal: None = None
    audio: None = None
    annotations: list[Any] | None = Field(None, max_length=0)
    function_call: None = None
    tool_calls: list[Any] | None = Field(None, max_length=0)
    tool_call_id: None = None
    reasoning_content: None = None

    def for_template(self) -> dict[str, object]:
        """The message as chat templates read it; parts are joined."""
        content = self.content
        text = content if isinstance(content, str) else "".join(p.text or "" for p in content)
        role = "system" if self.role == "developer" else self.role
        named = {} if self.name is None else {"name": self.name}
        return {"role": role, "content": text, **named}


class ChatBody(GenerateBody):
    """The request."""

    messages: list[Message] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)

    @model_validator(mode="after")
    def _chat_consistent(self) -> Self:
        both = (self.max_tokens, self.max_completion_tokens)
        if None not in both and both[0] != both[1]:
            raise UsageError(
                f"max_tokens is {both[0]} and max_completion_tokens is {both[1]}: send one",
                param="max_completion_tokens",
            )
        if self.top_logprobs and not self.logprobs:
            raise UsageError("top_logprobs needs logprobs: true", param="top_logprobs")
        return self

    @property
    def wanted_tokens(self) -> int | None:
        """The longest answer the caller asks for, under either name."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def wanted_logprobs(self) -> int | None:
        """`SamplingParams.top_logprobs` of the request."""
        return (self.top_logprobs or 0) if self.logprobs else None


@dataclass(slots=True)
class ChatShape:
    """Chat completions and their chunks."""

    info: ModelInfo
    codec: TextCodec
    logprobs: bool
    created_s: int
    id: str = field(default_factory=lambda: new_id("chatcmpl"))

    def head(self, *, chunk: bool) -> dict[str, Any]:
        """See `Shape`."""
        return {
            "id": self.id,
            "object": "chat.completion.chunk" if chunk else "chat.completion",
            "created": self.created_s,
            "model": self.info.name,
        }

    def opening(self, index: int) -> dict[str, Any] | None:
        """The role comes first, once a choice."""
        return self._delta(index, {"role": "assistant", "content": ""}, None, None)

    def piece(self, index: int, event: TokenEvent) -> dict[str, Any] | None:
        """See `Shape`."""
        reason = finish_reason(event)
        if not event.text and reason is None and not self.logprobs:
            return None
        delta = {"content": event.text} if event.text or reason is None else {}
        logprobs = chat_logprobs(self.codec, [event]) if self.logprobs else None
        return self._delta(index, delta, logprobs, reason)

    def choice(self, index: int, events: Sequence[TokenEvent]) -> dict[str, Any]:
        """See `Shape`."""
        text = "".join(event.text for event in events)
        return {
            "index": index,
            "message": {"role": "assistant", "content": text, "refusal": None},
            "logprobs": chat_logprobs(self.codec, events) if self.logprobs else None,
            "finish_reason": finish_reason(events[-1]),
        }

    @staticmethod
    def _delta(
        index: int, delta: dict[str, str], logprobs: object, reason: str | None
    ) -> dict[str, Any]:
        return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}


async def chat_tokens(codec: TextCodec, messages: Sequence[Message]) -> tuple[int, ...]:
    """Tokens of a chat with the generation prompt added. Raises `UsageError`."""
    plain = [message.for_template() for message in messages]
    chars = sum(len(str(message["content"])) for message in plain)
    tokens = await offload(lambda: codec.apply_chat_template(plain), chars=chars)
    if not tokens:
        raise UsageError("the messages give no tokens: send some text", param="messages")
    return tuple(tokens)


def need_chat_template(info: ModelInfo) -> None:
    """Raise `UsageError` for a model that takes plain prompts only."""
    if not info.has_chat_template:
        raise UsageError(
            f"{info.name} has no chat template: use /v1/completions",
            param="model",
            code="no_chat_template",
        )


async def chat_job(
    services: Services,
    context: RequestContext,
    info: ModelInfo,
    body: ChatBody,
    *,
    cap: int | None = None,
    scored: bool = False,
) -> Job:
    """What to generate for a chat. `scored` asks for log probabilities that nobody is shown.

    Raises `UsageError` when the model cannot serve it.
    """
    codec = services.host.codec(info.name)
    prompt = await chat_tokens(codec, body.messages)
    params = sampling_params(body, info, len(prompt), cap)
    if scored and params.top_logprobs is None:
        params = replace(params, top_logprobs=0)
    return Job(
        info=info,
        requests=sequences(context, info, [(prompt, params)], body.choices),
        prompt_lens=[len(prompt)],
        choices=body.choices,
        shape=ChatShape(info, codec, bool(body.logprobs), services.now_s()),
        stream=bool(body.stream),
        include_usage=body.include_usage,
    )

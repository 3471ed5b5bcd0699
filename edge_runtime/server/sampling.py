"""The fields that chat and text completions share, and how they become `SamplingParams`."""

from __future__ import annotations

import secrets
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from edge_runtime.core import ModelInfo, SamplingParams
from edge_runtime.errors import UsageError
from edge_runtime.server.body import Body

MAX_STOP_STRINGS = 16
MAX_STOP_CHARS = 1024
MAX_BIASED_TOKENS = 1024
MAX_CHOICES = 128
MAX_TOP_LOGPROBS = 20
_SEED_BITS = 63


def _stop_strings(value: list[str]) -> list[str]:
    if any(not text or len(text) > MAX_STOP_CHARS for text in value):
        raise ValueError(f"stop strings must have 1 to {MAX_STOP_CHARS} characters")
    return value


def _biases(value: dict[str, float]) -> dict[str, float]:
    for token, bias in value.items():
        if not (token.isascii() and token.isdecimal() and len(token) < 10):
            raise ValueError(f"{token!r} is not a token id: keys are ids as strings")
        if not -100 <= bias <= 100:
            raise ValueError(f"the bias of token {token} must be from -100 to 100")
    return value


StopString = Annotated[str, AfterValidator(lambda text: _stop_strings([text])[0])]
StopList = Annotated[list[str], Field(max_length=MAX_STOP_STRINGS), AfterValidator(_stop_strings)]
LogitBias = Annotated[
    dict[str, float], Field(max_length=MAX_BIASED_TOKENS), AfterValidator(_biases)
]


class StreamOptions(Body):
    """`include_usage` asks for a last chunk with usage; obfuscation is not done here."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class GenerateBody(Body):
    """Fields both generating routes know."""

    model: str = Field(min_length=1, max_length=256)
    n: int | None = Field(None, ge=1, le=MAX_CHOICES)
    best_of: int | None = Field(None, ge=1, le=MAX_CHOICES)
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1)
    min_p: float | None = Field(None, ge=0, le=1)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    repetition_penalty: float | None = Field(None, gt=0, le=10)
    seed: int | None = Field(None, ge=-(1 << 63), lt=1 << 63)
    stop: StopString | StopList | None = None
    stop_token_ids: list[int] | None = Field(None, max_length=MAX_STOP_STRINGS)
    ignore_eos: bool | None = None
    logit_bias: LogitBias | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.best_of is not None and self.best_of != self.choices:
            raise UsageError(
                f"best_of is not served: leave it out or make it equal to n ({self.choices})",
                param="best_of",
                code="field_not_served",
            )
        if self.stream_options is not None and not self.stream:
            raise UsageError("stream_options needs stream: true", param="stream_options")
        return self

    @property
    def choices(self) -> int:
        """How many answers to each prompt."""
        return self.n or 1

    @property
    def wanted_tokens(self) -> int | None:
        """The longest answer the caller asks for, if it says."""
        return self.max_tokens

    @property
    def wanted_logprobs(self) -> int | None:
        """`SamplingParams.top_logprobs` of the request."""
        return None

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a usage chunk."""
        return bool(self.stream_options and self.stream_options.include_usage)


def sampling_params(
    body: GenerateBody, info: ModelInfo, prompt_len: int, cap: int | None = None
) -> SamplingParams:
    """Parameters for a prompt of `prompt_len` tokens; the bundle's defaults fill the gaps.

    `cap` is the endpoint's longest answer, where it has one.

    Raises `UsageError` when the answer cannot fit, or a token id is not the model's.
    """
    defaults = info.default_params

    def pick(name: str, fallback: float) -> float:
        value = getattr(body, name)
        return float(defaults.get(name, fallback) if value is None else value)

    stop = body.stop or []
    return SamplingParams(
        max_tokens=answer_room(body, info, prompt_len, cap),
        temperature=pick("temperature", 1.0),
        top_p=pick("top_p", 1.0),
        top_k=max(0, int(pick("top_k", 0))),
        min_p=pick("min_p", 0.0),
        presence_penalty=pick("presence_penalty", 0.0),
        frequency_penalty=pick("frequency_penalty", 0.0),
        repetition_penalty=pick("repetition_penalty", 1.0),
        seed=None if body.seed is None else body.seed % (1 << _SEED_BITS),
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        stop_token_ids=check_ids(body.stop_token_ids or [], info, "stop_token_ids"),
        ignore_eos=bool(body.ignore_eos),
        logit_bias=_bias_by_id(body, info),
        top_logprobs=body.wanted_logprobs,
    )


def seed_of_choice(params: SamplingParams, choice: int) -> int:
    """The seed of the n-th answer to one prompt: the same request gives the same answers."""
    if params.seed is None:
        return secrets.randbits(_SEED_BITS)
    return (params.seed + choice) % (1 << _SEED_BITS)


def answer_room(
    body: GenerateBody, info: ModelInfo, prompt_len: int, limit: int | None = None
) -> int:
    """Output tokens the request gets. Raises `UsageError` when what it asks cannot be given."""
    wanted, context = body.wanted_tokens, info.context_tokens
    cap = min((one for one in (info.max_output_tokens, limit) if one is not None), default=None)
    if wanted is not None and cap is not None and wanted > cap:
        raise UsageError(
            f"{wanted} output tokens were asked for; {info.name} gives at most {cap}",
            param="max_tokens",
            code="max_tokens_exceeded",
        )
    total = prompt_len + (wanted or 1)
    if total > context:
        raise UsageError(
            f"the model's context length is {context} tokens, but the request needs {total} "
            f"({prompt_len} in the prompt, {wanted or 1} for the answer); shorten the prompt "
            "or lower max_tokens",
            param="messages" if "messages" in type(body).model_fields else "prompt",
            code="context_length_exceeded",
        )
    room = context - prompt_len
    return wanted if wanted is not None else min(room, cap or room)


def check_ids(ids: list[int], info: ModelInfo, param: str) -> tuple[int, ...]:
    """Token ids a caller sent, when the model has them all. Raises `UsageError`."""
    limit = info.vocab_size if info.vocab_size is not None else 1 << 31
    for token in ids:
        if not 0 <= token < limit:
            raise UsageError(
                f"token id {token} is not one of {info.name}: ids are 0 to {limit - 1}",
                param=param,
            )
    return tuple(ids)


def _bias_by_id(body: GenerateBody, info: ModelInfo) -> dict[int, float]:
    biases = {int(token): bias for token, bias in (body.logit_bias or {}).items()}
    check_ids(list(biases), info, "logit_bias")
    return biases

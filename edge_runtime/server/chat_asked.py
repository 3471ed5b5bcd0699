"""What a chat request asks for, also where only a frontier can serve it.

Rules
- The strict body is what local models serve. A request that may leave and asks for more (tools,
  pictures, ...) is read loosely and goes to a frontier as it came; every field must still be one
  of OpenAI's.
- Fields that only this daemon has (`LOCAL_FIELDS`) are never sent: token ids mean something else
  to another model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from pydantic import ConfigDict, Field

from edge_runtime.core import ModelInfo
from edge_runtime.errors import UsageError
from edge_runtime.router.plan import Plan
from edge_runtime.router.schemas import AnswerForm, form_of
from edge_runtime.server.body import INERT, NOT_SERVED, Body, read_fields, validate
from edge_runtime.server.chat import MAX_MESSAGES, ChatBody
from edge_runtime.server.sampling import MAX_CHOICES, StreamOptions

LOCAL_FIELDS = frozenset(
    {
        "best_of", "ignore_eos", "logit_bias", "min_p", "repetition_penalty", "stop_token_ids",
        "top_k",
    }
)  # fmt: skip
SENT_APART = frozenset({"model", "stream", "stream_options", "max_tokens", "max_completion_tokens"})
PASSED_THROUGH = frozenset(
    {
        "audio", "function_call", "functions", "modalities", "parallel_tool_calls", "prediction",
        "reasoning_effort", "response_format", "tool_choice", "tools", "verbosity",
        "web_search_options",
    }
)  # fmt: skip
DEFAULT_OUTPUT_TOKENS = 1024


class LooseChat(Body):
    """A chat body as a frontier may take it: only its frame is looked at."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True, allow_inf_nan=False)

    model: str = Field(min_length=1, max_length=256)
    messages: list[dict[str, Any]] = Field(min_length=1, max_length=MAX_MESSAGES)
    n: int | None = Field(None, ge=1, le=MAX_CHOICES)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    stream: bool | None = None
    stream_options: StreamOptions | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """One chat request. `body` None: no local model serves it, and `problem` says why."""

    data: Mapping[str, Any]
    body: ChatBody | None
    problem: UsageError | None
    form: AnswerForm | None
    stream: bool
    include_usage: bool
    wanted_tokens: int | None

    @property
    def choices(self) -> int:
        """How many answers."""
        n = self.data.get("n")
        return n if isinstance(n, int) else 1

    def fields(self) -> dict[str, Any]:
        """What of the request a frontier is sent, besides the model and the output limit."""
        return {
            name: value
            for name, value in self.data.items()
            if value is not None
            and name not in LOCAL_FIELDS
            and name not in SENT_APART
            and name not in INERT
            and (name in PASSED_THROUGH or name in ChatBody.model_fields)
        }

    def output_tokens(self, plan: Plan, info: ModelInfo | None) -> int:
        """The longest answer a frontier may give."""
        escalation = info.escalation if info is not None else None
        limits = [plan.max_output_tokens, self.wanted_tokens]
        if escalation is not None and self.wanted_tokens is None:
            limits.append(escalation.max_output_tokens)
        known = [one for one in limits if one is not None]
        if known:
            return min(known)
        return (info.max_output_tokens if info is not None else None) or DEFAULT_OUTPUT_TOKENS

    def uncovered(self) -> str:
        """Why no certificate can speak for the answer; empty when one can.

        Certificates are made from single user messages, answered greedily and in whole.
        """
        body = self.body
        if body is None:
            return "the request asks for more than the local model serves"
        if len(body.messages) != 1 or body.messages[0].role != "user":
            return "certificates cover a single user message, without system prompt or history"
        neutral = (
            body.choices == 1
            and not body.stop
            and not body.stop_token_ids
            and not body.ignore_eos
            and not body.logit_bias
            and not body.presence_penalty
            and not body.frequency_penalty
            and body.repetition_penalty in (None, 1)
        )
        return "" if neutral else "certificates cover one plain answer: leave out n, stop, biases"

    def greedy(self, info: ModelInfo) -> bool:
        """Whether a local model takes the likeliest token at each place."""
        assert self.body is not None
        wanted = self.body.temperature
        temperature = info.default_params.get("temperature", 1.0) if wanted is None else wanted
        return temperature == 0


def read_asked(request: web.Request, data: Mapping[str, Any], plan: Plan) -> Asked:
    """Read a chat request for a plan. Raises `UsageError` for what nobody can serve."""
    wanted = data.get("response_format")
    if wanted is not None and not isinstance(wanted, Mapping):
        raise UsageError("response_format must be an object", param="response_format")
    form = form_of(wanted)
    problem: UsageError | None = None
    body: ChatBody | None = None
    try:
        if form is not None and not form.judged_here:
            raise UsageError(
                "schemas with pattern or format are not judged on this box",
                param="response_format",
                code="field_not_served",
            )
        plain = {name: value for name, value in data.items() if name != "response_format"}
        body = read_fields(request, plain if form is not None else data, ChatBody)
    except UsageError as error:
        if not (plan.may_leave and _is_for_frontiers(error)):
            raise
        problem = error
    frame: ChatBody | LooseChat = body if body is not None else _loose(data)
    options = frame.stream_options
    return Asked(
        data,
        body,
        problem,
        form,
        bool(frame.stream),
        bool(options and options.include_usage),
        frame.max_completion_tokens or frame.max_tokens,
    )


def _is_for_frontiers(error: UsageError) -> bool:
    if error.code == "field_not_served":
        return error.param in PASSED_THROUGH or error.param == "messages"
    return (error.param or "").startswith("messages")


def _loose(data: Mapping[str, Any]) -> LooseChat:
    for name in data:
        known = name in ChatBody.model_fields or name in PASSED_THROUGH or name in INERT
        if not known and name not in NOT_SERVED:
            raise UsageError(f"unknown field {name!r}", param=name, code="unknown_field")
    return validate(data, LooseChat)

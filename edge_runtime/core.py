"""The shared nouns of a request's way through the daemon.

Lengths have one name and one meaning everywhere:

- `prompt_len`: tokens the caller sent.
- `cached_len`: tokens of a sequence whose KV lies in its slot already.
- `new_len`: tokens of a sequence that this step computes.

Nothing here does I/O, reads a clock or imports a model runtime.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from edge_runtime.bundle.escalation import Escalation

FloatArray = npt.NDArray[np.float32]


class Kind(enum.StrEnum):
    """What a bundle does."""

    GENERATE = "generate"
    EMBED = "embed"
    CLASSIFY = "classify"
    RERANK = "rerank"


class FinishReason(enum.StrEnum):
    """Why a sequence ended. `STOP` and `LENGTH` are what HTTP clients see for the first two."""

    STOP = "stop"  # end-of-sequence token or a stop string
    LENGTH = "length"  # max_tokens or the context is used up
    CANCELLED = "cancelled"  # the client went away
    ERROR = "error"  # the engine failed; the event carries the message


class RequestClass(enum.StrEnum):
    """How urgent a request is; `BATCH` yields to `INTERACTIVE` but never starves."""

    INTERACTIVE = "interactive"
    BATCH = "batch"


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is chosen.

    `temperature` 0 is greedy. `top_k` 0, `top_p` 1 and `min_p` 0 are off. `top_logprobs` None
    asks for no log probabilities, 0 for the chosen token's only. `seed` None draws one.
    `stop` strings end the answer and are not part of it.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    top_logprobs: int | None = None


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """One sequence to generate. `arrival_s` and `deadline_s` are on the scheduler's clock.

    `bundle_digest` is that of the model the prompt was tokenised for (`ModelInfo`): the sequence
    runs on that one even when the name was swapped meanwhile. Empty: on whichever serves.
    """

    request_id: str
    model: str
    prompt: tuple[int, ...]
    params: SamplingParams
    arrival_s: float = 0.0
    deadline_s: float | None = None
    request_class: RequestClass = RequestClass.INTERACTIVE
    bundle_digest: str = ""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Log probability (natural) of one token under the distribution before truncation."""

    token_id: int
    logprob: float


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """What one step gave one sequence.

    `text` is the part of the answer that became certain: it never ends inside a UTF-8
    character and never holds a prefix of a stop string that may still complete, so it can be
    empty. `token_id` is None only on an event that ends a sequence without a token (cancel,
    error). The last event of a sequence has a `finish_reason`.
    """

    token_id: int | None
    text: str
    logprob: float | None = None
    top_logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    error: str | None = None
    cached_prompt_tokens: int = 0  # prompt tokens whose KV was reused; set on the first event
    queue_s: float = 0.0  # seconds from arrival to the slot; set on the first event
    busy_s: float = 0.0  # the sequence's part of all its steps' seconds; set on the last event


@dataclass(frozen=True, slots=True)
class StepRow:
    """The tokens of one slot in one step.

    `tokens` are computed at positions `cached_len .. cached_len + len(tokens) - 1`.
    `wants_logits` asks for the logits after the last of them.
    """

    slot: int
    tokens: Sequence[int]
    cached_len: int
    wants_logits: bool

    @property
    def new_len(self) -> int:
        """Number of tokens this step computes for the slot."""
        return len(self.tokens)


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One run of the decoder graph: at most one row a slot, decode rows and chunks mixed."""

    rows: tuple[StepRow, ...]

    def __post_init__(self) -> None:
        slots = [row.slot for row in self.rows]
        if len(set(slots)) != len(slots):
            raise ValueError(f"a slot appears twice in one step: {slots}")
        if any(not row.tokens for row in self.rows):
            raise ValueError("a row without tokens has no place in a step")

    @property
    def token_count(self) -> int:
        """Packed tokens T of the step."""
        return sum(row.new_len for row in self.rows)


class DecoderModel(Protocol):
    """A decoder with KV slots. Owned and called by one thread only."""

    @property
    def slots(self) -> int:
        """Number of KV slots."""

    @property
    def max_len(self) -> int:
        """Longest sequence (prompt and answer) a slot holds, in tokens."""

    @property
    def max_chunk(self) -> int:
        """Most tokens one row may bring in one step."""

    @property
    def vocab_size(self) -> int:
        """Width of the logits."""

    def step(self, plan: StepPlan) -> FloatArray:
        """Run one step.

        Returns float32 [L, vocab_size], one row per plan row with `wants_logits`, in plan
        order. The array is reused by the next call: copy what must outlive it.
        """

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` tokens of KV from one slot to another."""


class EncoderModel(Protocol):
    """An encoder run over a batch of token lists without padding in its linear layers."""

    @property
    def max_len(self) -> int:
        """Longest input in tokens, special tokens included."""

    @property
    def width(self) -> int:
        """Length of one output row: embedding dimension or number of labels."""

    def run(self, batch: Sequence[Sequence[int]]) -> FloatArray:
        """Return float32 [len(batch), width]: embeddings, or logits for classifiers."""


class TextCodec(Protocol):
    """Text to tokens and back for one model."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Token ids of `text`; special tokens as the model was trained with when asked."""

    def decode(self, tokens: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Text of `tokens`."""

    def apply_chat_template(self, messages: Sequence[Mapping[str, object]]) -> list[int]:
        """Tokens of a whole chat with the generation prompt added.

        Raises `UsageError` when the model has no chat template or refuses the messages.
        """


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What the HTTP side must know of one active model."""

    name: str
    version: str
    kind: Kind
    variant: str
    bundle_digest: str
    model_digest: str
    context_tokens: int
    created_s: int
    labels: tuple[str, ...] = ()
    default_params: Mapping[str, float] = field(default_factory=dict)
    max_output_tokens: int | None = None
    has_chat_template: bool = False
    vocab_size: int | None = None  # ids a request may name are below this; None: not checked
    output_width: int | None = None  # embedding dimension; None for other kinds
    escalation: Escalation | None = None  # how its requests go to a frontier and come back

    @property
    def full_name(self) -> str:
        """`name@version`, as headers and logs name it."""
        return f"{self.name}@{self.version}"


OnSwap = Callable[[ModelInfo | None, ModelInfo], None]
"""Told on the event loop which model a name had and has now; must not raise or block."""


class ModelHost(Protocol):
    """The loaded models, as the HTTP side sees them. All methods are safe on the event loop."""

    @property
    def ready(self) -> bool:
        """True once every configured model can answer."""

    @property
    def not_ready_reason(self) -> str:
        """Why `ready` is false, for people."""

    def models(self) -> Sequence[ModelInfo]:
        """Every active model."""

    def info(self, model: str) -> ModelInfo:
        """The model of that name. Raises `UsageError` (404, model_not_found)."""

    def codec(self, model: str) -> TextCodec:
        """The tokenizer of that model. Raises like `info`."""

    def on_swap(self, listener: OnSwap) -> None:
        """Call `listener` whenever a name changed its model while the host runs."""

    def generate(self, request: GenerateRequest) -> AsyncGenerator[TokenEvent, None]:
        """Queue one sequence and yield its events.

        `aclose` on it, or cancelling the task in it, cancels the sequence within one step.
        Raises `CapacityError` when it is not admitted and `UsageError` when it can never fit.
        """

    async def encode(
        self,
        model: str,
        inputs: Sequence[Sequence[int]],
        *,
        request_class: RequestClass = RequestClass.INTERACTIVE,
        bundle_digest: str = "",
    ) -> FloatArray:
        """Outputs of an encoder, float32 [len(inputs), width], in input order.

        `bundle_digest` as in `GenerateRequest`.
        """

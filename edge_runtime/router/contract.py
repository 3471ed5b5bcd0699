"""What the router, the frontier client and the caches say to each other. Pure.

Rules
- A `FrontierCall` is whole before it is made: its worst case in tokens, who pays, and what makes
  an answer acceptable. The frontier side reserves the money, sends, settles, and writes one
  ledger row for each try; nobody else writes rows of tier `frontier`.
- `FrontierError` is the only way a frontier says no. Its `why` decides what the caller is
  told; whether the box answers itself instead is the router's business.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from edge_runtime.cache.answers import Answer
from edge_runtime.errors import TransportError
from edge_runtime.ledger.rows import Purpose, Tokens

Json = Mapping[str, Any]
Accept = Callable[[Json], str | None]
"""Looks at a whole answer: None takes it, a text says what is wrong with it."""


class Policy(enum.StrEnum):
    """Who may answer an endpoint's requests."""

    LOCAL_ONLY = "local-only"
    LOCAL_FIRST = "local-first"
    FRONTIER_ONLY = "frontier-only"
    SHADOW = "shadow"  # the frontier answers, the local model tries beside it


class Privacy(enum.StrEnum):
    """Whether a request's text may leave the box."""

    MAY_LEAVE = "may-leave"
    NEVER_LEAVE = "never-leave"


class Reason(enum.StrEnum):
    """Why this tier answered: `x-edge-reason`, the ledger's `reason`, and a metric label."""

    REQUESTED_MODEL = "requested-model"  # no policy applies: the named model answered
    LOCAL_ONLY = "local-only"
    CONFIDENT = "confident"  # the score reached the certified threshold
    CACHED = "cached"
    SIMILAR = "similar"  # semantic cache
    LOW_CONFIDENCE = "low-confidence"
    NO_CERTIFICATE = "no-certificate"
    DRIFT = "drift"  # an alarm suspends the certificate
    FRONTIER_ONLY = "frontier-only"
    SHADOW = "shadow"
    CONTEXT_TOO_LONG = "context-too-long"
    TASK_NOT_SERVED = "task-not-served"
    OVERLOAD = "overload"
    DEADLINE = "deadline"
    LOCAL_FAULT = "local-fault"
    SCHEMA_INVALID = "schema-invalid"
    NEVER_LEAVE = "never-leave"  # would have escalated, but the text must not leave
    DEGRADED = "degraded"  # would have escalated, but no frontier could answer
    NEVER_CERTIFIED = "never-certified"  # held back: an alarm holds what it cannot send


class FrontierWhy(enum.StrEnum):
    """Why no frontier answered."""

    BUDGET = "budget"  # our own money is used up
    OUT_OF_CREDIT = "out-of-credit"  # the frontier says 402, or a 400 about quota
    RATE_LIMITED = "rate-limited"
    BREAKER_OPEN = "breaker-open"
    TIMEOUT = "timeout"
    UNREACHABLE = "unreachable"
    REFUSED = "refused"  # it answered, and the answer was not acceptable
    BAD_REQUEST = "bad-request"  # the frontier says the request is wrong: nobody is asked again
    CUT = "cut"  # a stream ended early, after the commit point
    NONE_CONFIGURED = "none-configured"


class FrontierError(TransportError):
    """No frontier answered. `retry_after_s` is set where the frontier or the budget said when."""

    def __init__(
        self,
        why: FrontierWhy,
        message: str,
        *,
        retry_after_s: float | None = None,
        tries: int = 0,
        cost_nano: int = 0,
    ) -> None:
        super().__init__(message)
        self.why = why
        self.retry_after_s = retry_after_s
        self.tries = tries
        self.cost_nano = cost_nano


@dataclass(frozen=True, slots=True)
class Payer:
    """Whose request it is: copied into every ledger row, and the scopes of its budgets.

    `extra_scope` is one more budget to hold, such as that of audits.
    """

    request_id: str
    task_id: str
    tenant: str
    endpoint: str = ""
    tag: str = ""
    extra_scope: str = ""

    @property
    def scopes(self) -> tuple[str, ...]:
        """Budget scopes; those without a configured limit are dropped by whoever reserves."""
        named = (f"tenant:{self.tenant}",) if self.tenant else ()
        endpoint = (f"endpoint:{self.endpoint}",) if self.endpoint else ()
        return ("box", *named, *endpoint, *((self.extra_scope,) if self.extra_scope else ()))


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontierCall:
    """One chat to be answered by the first frontier of `order` that can.

    `body` is an OpenAI chat body without `model` and `stream`. `prompt_tokens` bounds the
    prompt's tokens from above, but for what a frontier's own template adds; `max_output_tokens`
    is for each of the body's `n` choices. `first_attempt` numbers the first ledger row.
    `deadline_s` is on the caller's monotonic clock. `saved_tokens` were trimmed before. `accept`
    needs the whole answer: a call that has one cannot be streamed.
    """

    body: Json
    payer: Payer
    order: tuple[str, ...]
    prompt_tokens: int
    max_output_tokens: int
    reason: str
    first_attempt: int = 0
    purpose: Purpose = Purpose.SERVE
    deadline_s: float | None = None
    saved_tokens: int = 0
    accept: Accept | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontierReply:
    """A whole answer, and what it cost with all tries before it."""

    frontier: str
    model: str
    body: Json
    tokens: Tokens
    cost_nano: int
    tries: int
    first_token_s: float
    total_s: float


@dataclass(frozen=True, slots=True)
class FrontierChunk:
    """One event of a streamed answer, as the frontier sent it; `last` carries the whole bill."""

    data: Json
    frontier: str
    reply: FrontierReply | None = field(default=None)


class FrontierLike(Protocol):
    """What the router needs of the frontiers; `memory.MemoryFrontiers` is the twin for tests."""

    def names(self) -> tuple[str, ...]:
        """Configured frontiers, cheapest first where no order is set."""
        ...

    def available(self, order: tuple[str, ...]) -> bool:
        """False when every one of `order` would be refused at once (breaker, credit)."""
        ...

    async def complete(self, call: FrontierCall) -> FrontierReply:
        """The answer, whole. Raises `FrontierError`."""
        ...

    def stream(self, call: FrontierCall) -> AsyncGenerator[FrontierChunk, None]:
        """The answer in chunks; the last has `reply`. Raises `FrontierError`.

        Another frontier is tried only before the first chunk was given out (the commit point).
        """
        ...


@dataclass(frozen=True, slots=True)
class SimilarQuestion:
    """A question for the semantic cache; `gates` must be equal for any two to match at all.

    `text` is what similarity is computed of; `gates` holds everything else that may change the
    answer (kind, model digest, system prompt, tools, sampling, locale).
    """

    tenant: str
    model_digest: str
    text: str
    gates: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class SimilarHit:
    """The answer kept for a question that means the same; `explore`: ask afresh and `learn`."""

    answer: Answer
    similarity: float
    age_s: int
    explore: bool = False


class SemanticCacheLike(Protocol):
    """What the router needs of the semantic cache. A hit is already certified and gated."""

    async def lookup(self, question: SimilarQuestion) -> SimilarHit | None:
        """The kept answer to serve, or to check against a fresh one when it says `explore`."""
        ...

    async def keep(self, question: SimilarQuestion, answer: Answer, *, ttl_s: int) -> None:
        """Keep a fresh answer; also tells whether an explored hit would have been right."""
        ...

    async def purge(
        self, *, tag: str | None = None, tenant: str | None = None, model_digest: str | None = None
    ) -> int:
        """Drop entries that match everything given; their number."""
        ...

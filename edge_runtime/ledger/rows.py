"""The ledger's nouns: an attempt, its correction, an outcome, a comparison of two answers.

Rules
- Numbers are integers of small units (nano-units of money, microjoules, microseconds), so that
  sums are exact in any order, also after old rows were rolled up.
- `tokens_in` counts the whole prompt; `tokens_cached` is the part of it that was reused.
- One attempt of a request at most is the one the caller got: `answered`.
- A row is never changed. What a call really cost, learned later, is a `Correction` beside it;
  whoever sums money reads the two as one (the view `booked`).
- A task is a tenant's: the same id under two tenants is two tasks.
- `score_ppm` is the confidence score of a local answer in millionths; a cached answer keeps the
  score it was made with. `task` is the certified task the score is about, not the caller's.
- A row with purpose `idle` is the box's idle energy over a while; it belongs to no request.

Nothing here does I/O or reads a clock.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

from edge_runtime.ledger.money import MAX_NANO

MAX_ID_CHARS = 200
PPM = 1_000_000
US_PER_DAY = 86_400_000_000


class Tier(enum.StrEnum):
    """Who made the answer."""

    CACHE = "cache"
    LOCAL = "local"
    FRONTIER = "frontier"


class Purpose(enum.StrEnum):
    """What an attempt was for. All of them cost; only `SERVE` answers callers."""

    SERVE = "serve"
    AUDIT = "audit"
    SHADOW = "shadow"
    IDLE = "idle"


class Status(enum.StrEnum):
    """How an attempt ended."""

    OK = "ok"
    ERROR = "error"
    CANCELLED = "cancelled"
    DISCARDED = "discarded"  # finished, but not kept: the answer came from elsewhere


class JouleSource(enum.StrEnum):
    """Where joules come from, best first."""

    COUNTER = "counter"  # a hardware counter: RAPL, NVML
    MODEL = "model"  # watts fitted to this box's load, times busy seconds
    ASSUMPTION = "assumption"  # watts somebody wrote into the settings, times busy seconds
    NONE = "none"  # not known; energy_uj is 0


class MoneySource(enum.StrEnum):
    """Where the frontier's part of the money comes from, best first."""

    USAGE = "usage"  # the frontier's own usage numbers
    STATEMENT = "statement"  # the frontier's own money, asked for afterwards or from its statement
    ESTIMATE = "estimate"  # tokens counted here, as when a stream broke off before its usage
    WORST_CASE = "worst_case"  # the reservation of a call whose end nobody saw
    NONE = "none"  # no frontier was called


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One try to answer one request; the ledger keeps one row of it.

    `attempt` counts from 0 within a request. `model` is `name@version` or the frontier's name;
    `model_digest` is empty for a frontier. `saved_nano` is what a cache hit would have cost.
    `score_ppm` is None and `task` empty where nothing was scored. `tokens_trimmed` were cut from
    the prompt before it was sent, by estimate; no other number holds them. `call_id` is ours for
    one call of a frontier, sent with it and that of its reservation; `remote_id` the frontier's.
    Raises `ValueError` when a number is negative or a text is too long.
    """

    at_us: int
    request_id: str
    task_id: str
    tier: Tier
    model: str
    attempt: int = 0
    tenant: str = "default"
    endpoint: str = ""
    tag: str = ""
    purpose: Purpose = Purpose.SERVE
    model_digest: str = ""
    tokens_in: int = 0
    tokens_cached: int = 0
    tokens_out: int = 0
    frontier_nano: int = 0
    energy_nano: int = 0
    hardware_nano: int = 0
    saved_nano: int = 0
    money_source: MoneySource = MoneySource.NONE
    price_version: str = ""
    energy_uj: int = 0
    energy_source: JouleSource = JouleSource.NONE
    duration_us: int = 0
    status: Status = Status.OK
    reason: str = ""
    answered: bool = False
    score_ppm: int | None = None
    task: str = ""
    tokens_trimmed: int = 0
    call_id: str = ""
    remote_id: str = ""

    def __post_init__(self) -> None:
        for name in _INTEGERS:
            value = getattr(self, name)
            if not 0 <= value <= MAX_NANO:
                raise ValueError(f"{name} is {value}; it must be 0 or more and fit 64 bits")
        for name in _TEXTS:
            if len(getattr(self, name)) > MAX_ID_CHARS:
                raise ValueError(f"{name} is longer than {MAX_ID_CHARS} characters; shorten it")
        _check_score(self.score_ppm)
        if self.tokens_cached > self.tokens_in:
            raise ValueError("tokens_cached exceeds tokens_in, of which it is a part")
        if self.energy_uj and self.energy_source is JouleSource.NONE:
            raise ValueError("energy_uj needs an energy_source: where do the joules come from?")
        if self.frontier_nano and self.money_source is MoneySource.NONE:
            raise ValueError("frontier_nano needs a money_source: who counted the tokens?")
        if self.answered and self.purpose is not Purpose.SERVE:
            raise ValueError(f"an attempt for {self.purpose} cannot have answered the caller")

    @property
    def day(self) -> int:
        """Days since 1970-01-01, UTC."""
        return self.at_us // US_PER_DAY

    @property
    def cost_nano(self) -> int:
        """All money this attempt cost."""
        return self.frontier_nano + self.energy_nano + self.hardware_nano


_INTEGERS = (
    "at_us", "attempt", "tokens_in", "tokens_cached", "tokens_out", "frontier_nano",
    "energy_nano", "hardware_nano", "saved_nano", "energy_uj", "duration_us", "tokens_trimmed",
)  # fmt: skip
_TEXTS = (
    "request_id", "task_id", "model", "tenant", "endpoint", "tag", "model_digest",
    "price_version", "reason", "task", "call_id", "remote_id",
)  # fmt: skip
ATTEMPT_FIELDS = tuple(one.name for one in fields(Attempt))


OPEN_SOURCES = (MoneySource.WORST_CASE, MoneySource.ESTIMATE)
"""What may be corrected: money that is not the frontier's own number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """What a call of a frontier really cost, learned after its row was written; once a row.

    `tokens` is None where only the money is known. A source of `NONE` says that nothing was
    charged.
    """

    call_id: str
    at_us: int
    frontier_nano: int
    money_source: MoneySource
    tokens: Tokens | None = None

    def __post_init__(self) -> None:
        for name in ("at_us", "frontier_nano"):
            if not 0 <= getattr(self, name) <= MAX_NANO:
                raise ValueError(f"{name} must be 0 or more and fit 64 bits")
        if not 0 < len(self.call_id) <= MAX_ID_CHARS:
            raise ValueError(f"call_id must have 1 to {MAX_ID_CHARS} characters")
        if self.money_source in OPEN_SOURCES:
            raise ValueError("a correction is the frontier's own number, not another guess")
        if self.frontier_nano and self.money_source is MoneySource.NONE:
            raise ValueError("frontier_nano needs a money_source: who counted the tokens?")

    def of(self, attempt: Attempt) -> Attempt:
        """The attempt as it counts from now on."""
        tokens = self.tokens or Tokens(attempt.tokens_in, attempt.tokens_cached, attempt.tokens_out)
        return replace(
            attempt,
            tokens_in=tokens.tokens_in,
            tokens_cached=tokens.tokens_cached,
            tokens_out=tokens.tokens_out,
            frontier_nano=self.frontier_nano,
            money_source=self.money_source,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a task: one event; a later one of the same weight replaces it.

    `explicit` ones (somebody said so) outweigh implied ones (the answer matched its schema, the
    caller went on). `source` names who or what said it.
    """

    at_us: int
    task_id: str
    resolved: bool
    tenant: str = "default"
    explicit: bool = True
    source: str = "caller"

    def __post_init__(self) -> None:
        if not 0 <= self.at_us <= MAX_NANO:
            raise ValueError(f"at_us is {self.at_us}; it must be 0 or more and fit 64 bits")
        for name in ("task_id", "tenant", "source"):
            if len(getattr(self, name)) > MAX_ID_CHARS:
                raise ValueError(f"{name} is longer than {MAX_ID_CHARS} characters; shorten it")


class ComparedBy(enum.StrEnum):
    """How two answers to one request came to be there."""

    AUDIT = "audit"  # a kept answer was drawn, and a frontier asked in the background
    ESCALATED = "escalated"  # the frontier answered the caller; the local answer lay there


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Whether a local answer agrees with a frontier's to the same request.

    `share_ppm` is the probability, in millionths, with which a request such as this one was
    drawn: a kept answer by the audit share, an escalated one always. `certificate` is the
    digest in force then, or empty.
    """

    at_us: int
    request_id: str
    agreed: bool
    source: ComparedBy
    share_ppm: int = PPM
    score_ppm: int | None = None
    task: str = ""
    tenant: str = "default"
    model_digest: str = ""
    certificate: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.at_us <= MAX_NANO:
            raise ValueError(f"at_us is {self.at_us}; it must be 0 or more and fit 64 bits")
        if not 0 < self.share_ppm <= PPM:
            raise ValueError(f"share_ppm is {self.share_ppm}; it lies in 1..{PPM}")
        _check_score(self.score_ppm)
        for name in ("request_id", "task", "tenant", "model_digest", "certificate"):
            if len(getattr(self, name)) > MAX_ID_CHARS:
                raise ValueError(f"{name} is longer than {MAX_ID_CHARS} characters; shorten it")


COMPARISON_FIELDS = tuple(one.name for one in fields(Comparison))


def ppm(share: float | None) -> int | None:
    """A number from 0 to 1 in whole millionths, rounded down; cut to the ends, None stays None."""
    return None if share is None else int(min(max(share, 0.0), 1.0) * PPM)


def _check_score(score_ppm: int | None) -> None:
    if score_ppm is not None and not 0 <= score_ppm <= PPM:
        raise ValueError(f"score_ppm is {score_ppm}; it lies in 0..{PPM}")


def verdict(outcomes: list[Outcome]) -> bool | None:
    """Whether the task is resolved by what was said of it, in order; None when nothing was."""
    said = [one for one in outcomes if one.explicit] or outcomes
    return said[-1].resolved if said else None


def idle_row(
    *,
    at_us: int,
    wall_us: int,
    energy_uj: int,
    energy_source: JouleSource,
    energy_nano: int,
) -> Attempt:
    """The box's idle energy over `wall_us`, as a row of its own."""
    return Attempt(
        at_us=at_us,
        request_id="",
        task_id="",
        tier=Tier.LOCAL,
        model="",
        purpose=Purpose.IDLE,
        energy_uj=energy_uj,
        energy_source=energy_source,
        energy_nano=energy_nano,
        duration_us=wall_us,
    )


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens of one call: the whole prompt, the reused part of it, and the answer."""

    tokens_in: int
    tokens_cached: int = 0
    tokens_out: int = 0

    def __post_init__(self) -> None:
        if min(self.tokens_in, self.tokens_cached, self.tokens_out) < 0:
            raise ValueError("a number of tokens is negative")
        if self.tokens_cached > self.tokens_in:
            raise ValueError("tokens_cached exceeds tokens_in, of which it is a part")


def tokens_from_usage(usage: Mapping[str, object]) -> Tokens:
    """Tokens of an OpenAI-shaped `usage` object.

    There `prompt_tokens` includes the cached ones, and `completion_tokens` those of reasoning.
    Raises `ValueError` when a number is missing or odd: a bill is never guessed to be zero.
    """
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, Mapping) else None
    return Tokens(
        _count(usage.get("prompt_tokens"), "prompt_tokens"),
        _count(0 if cached is None else cached, "cached_tokens"),
        _count(usage.get("completion_tokens"), "completion_tokens"),
    )


def _count(value: object, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"usage.{name} is {value!r}, not a number of tokens")
    return value

"""What a while would have cost with another threshold, without the cache, at other prices. Pure.

Rules
- Only what was decided by a score is decided again: `confident`, `low-confidence` and `shadow`.
  What was escalated or kept for another reason stays as it was.
- Money that was spent is exact. Where an answer that was kept would have gone to a frontier, its
  price there is an estimate from the tokens it had here, and is counted as one.
- Without the cache, an answer that came from it costs what its row says it saved, which is what
  making it had cost; at other prices, one that a frontier made costs its tokens.
- Other prices are those of frontiers. Energy and hardware stay as booked; so does a call whose
  tokens nobody saw.
- Audits, shadows and idle energy are part of both sums.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from edge_runtime.ledger.cost import frontier_cost
from edge_runtime.ledger.prices import FrontierPrice
from edge_runtime.ledger.rows import MoneySource, Purpose, Tier, Tokens

BY_SCORE = frozenset({"confident", "low-confidence", "shadow"})

PriceOf = Callable[[str], FrontierPrice]


@dataclass(frozen=True, slots=True)
class Scored:
    """Whose score it is: thresholds of different models or tasks do not compare."""

    model_digest: str
    task: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What a replay looks at of one attempt."""

    tenant: str
    request_id: str
    tier: Tier
    model: str
    model_digest: str
    task: str
    purpose: Purpose
    reason: str
    answered: bool
    score_ppm: int | None
    tokens: Tokens
    frontier_nano: int
    here_nano: int
    saved_nano: int
    money_source: MoneySource


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One request as it went. `by` is the tier of the answer, None without one.

    `served` is False where the while only has its audit. `scored`, `score_ppm` and `scored_model`
    are those of the local answer, where there was one. `made_here`: a local model made the
    answer, be it now or when it was cached. `booked_nano` is everything spent on it,
    `frontier_nano` the frontier's part for serving, `background_nano` what audits and shadows at
    a frontier cost; the last two at the prices asked for.
    """

    served: bool
    by: Tier | None
    reason: str
    scored: Scored | None
    score_ppm: int | None
    scored_model: str
    made_here: bool
    tokens: Tokens
    booked_nano: int
    here_nano: int
    frontier_nano: int
    background_nano: int
    saved_nano: int

    @property
    def movable(self) -> bool:
        """Whether another threshold could have decided otherwise."""
        return (
            self.score_ppm is not None
            and self.by in (Tier.LOCAL, Tier.FRONTIER)
            and self.reason in BY_SCORE
        )


@dataclass(frozen=True, slots=True)
class Scenario:
    """What to change. `threshold_ppm` applies to `scored` alone; None leaves decisions alone.

    `never` escalates all of `scored`: no threshold could be shown to hold.
    """

    scored: Scored | None = None
    threshold_ppm: int | None = None
    never: bool = False
    cache: bool = True


class End(enum.StrEnum):
    """Where an answer comes from in a replay."""

    CACHE = "cache"
    HERE = "here"
    FRONTIER = "frontier"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Replayed:
    """One request in the scenario; `estimated` where its cost was never billed."""

    end: End
    cost_nano: int
    estimated: bool = False
    served: bool = True


def fold(rows: Iterable[Row], price_of: PriceOf | None) -> Seen:
    """One request from its attempts, in their order. `price_of` prices frontiers anew."""
    by: Tier | None = None
    reason = model = made_by = ""
    served = False
    answer, scored, score = Tokens(0), None, None
    booked = here = frontier = background = saved = 0
    for row in rows:
        booked += row.frontier_nano + row.here_nano
        here += row.here_nano
        price = _priced(row, price_of)
        if row.purpose is Purpose.SERVE:
            served = True
            frontier += price
        else:
            background += price
        if row.tier is not Tier.FRONTIER and row.score_ppm is not None:
            scored, score = Scored(row.model_digest, row.task), row.score_ppm
            model = row.model
            if not answer.tokens_in:
                answer = row.tokens
        if row.answered:
            by, reason, saved, made_by = row.tier, row.reason, row.saved_nano, row.model
            if row.tier is not Tier.FRONTIER:
                answer = row.tokens
    return Seen(
        served=served,
        by=by,
        reason=reason,
        scored=scored,
        score_ppm=score,
        scored_model=model,
        made_here="@" in made_by,  # name@version; a frontier's name has no @
        tokens=answer,
        booked_nano=booked,
        here_nano=here,
        frontier_nano=frontier,
        background_nano=background,
        saved_nano=saved,
    )


def replay(
    seen: Seen,
    scenario: Scenario,
    *,
    price: FrontierPrice | None,
) -> Replayed:
    """One request in the scenario.

    `price` is that of the frontier that what was kept would go to; without it such an answer
    raises `LookupError`.
    """
    fixed = seen.here_nano + seen.background_nano
    if seen.by is Tier.CACHE:
        if scenario.cache:
            return Replayed(End.CACHE, fixed + seen.frontier_nano)
        return _uncached(seen, scenario, price)
    if seen.by is None:
        return Replayed(End.NONE, fixed + seen.frontier_nano, served=seen.served)
    if not (seen.movable and _concerns(seen, scenario)):
        end = End.FRONTIER if seen.by is Tier.FRONTIER else End.HERE
        return Replayed(end, fixed + seen.frontier_nano)
    if _keeps(seen, scenario):
        return Replayed(End.HERE, fixed)
    if seen.by is Tier.FRONTIER:
        return Replayed(End.FRONTIER, fixed + seen.frontier_nano)
    return Replayed(End.FRONTIER, fixed + _asked(seen, price), estimated=True)


@dataclass(slots=True)
class Sums:
    """A while as it was or as replayed; `cost_nano` includes the rest: idle energy and the like."""

    requests: int = 0
    ends: dict[End, int] = field(default_factory=lambda: dict.fromkeys(End, 0))
    cost_nano: int = 0
    estimated: int = 0

    def add(self, one: Replayed) -> None:
        """One more request, or the audit of an older one."""
        self.requests += one.served
        self.ends[one.end] += one.served
        self.cost_nano += one.cost_nano
        self.estimated += one.estimated

    @property
    def kept_share(self) -> float | None:
        """Answers from the box, its cache included, of all answers."""
        answers = self.requests - self.ends[End.NONE]
        return (self.ends[End.CACHE] + self.ends[End.HERE]) / answers if answers else None


def as_it_was(seen: Seen) -> Replayed:
    """What the ledger says, at the prices that were booked."""
    ends = {Tier.CACHE: End.CACHE, Tier.LOCAL: End.HERE, Tier.FRONTIER: End.FRONTIER}
    end = End.NONE if seen.by is None else ends[seen.by]
    return Replayed(end, seen.booked_nano, served=seen.served)


def _uncached(seen: Seen, scenario: Scenario, price: FrontierPrice | None) -> Replayed:
    made = seen.here_nano + seen.saved_nano
    if not seen.made_here:
        if price is not None:
            made = seen.here_nano + frontier_cost(seen.tokens, price)
        return Replayed(End.FRONTIER, made, estimated=True)
    if seen.score_ppm is None or not _concerns(seen, scenario) or _keeps(seen, scenario):
        return Replayed(End.HERE, made, estimated=True)
    return Replayed(End.FRONTIER, made + _asked(seen, price), estimated=True)


def _concerns(seen: Seen, scenario: Scenario) -> bool:
    changed = scenario.never or scenario.threshold_ppm is not None
    return changed and seen.scored == scenario.scored


def _keeps(seen: Seen, scenario: Scenario) -> bool:
    if scenario.never or scenario.threshold_ppm is None or seen.score_ppm is None:
        return False
    return seen.score_ppm >= scenario.threshold_ppm


def _asked(seen: Seen, price: FrontierPrice | None) -> int:
    if price is None:
        raise LookupError("what was kept would go to a frontier: its price is needed")
    return frontier_cost(seen.tokens, price)


def _priced(row: Row, price_of: PriceOf | None) -> int:
    unseen = row.money_source in (MoneySource.NONE, MoneySource.WORST_CASE)
    if price_of is None or row.tier is not Tier.FRONTIER or unseen:
        return row.frontier_nano
    return frontier_cost(row.tokens, price_of(row.model))

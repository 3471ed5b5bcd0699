"""Replays: what changes, what stays, and what may be said of the error."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.ledger.prices import FrontierPrice
from edge_runtime.ledger.replay import End, Replayed, Row, Scenario, Scored, Sums, as_it_was, fold
from edge_runtime.ledger.replay import replay as replay_one
from edge_runtime.ledger.replay_error import Known, Stratum, bound, choose, estimate, strata
from edge_runtime.ledger.rows import MoneySource, Purpose, Tier, Tokens, ppm

MINE = Scored("d1", "intent")
PRICE = FrontierPrice(1000, 500, 2000)  # a nano-unit for a fresh token, two for an answer's


def row(tier: Tier = Tier.LOCAL, **changes: Any) -> Row:
    here = tier is not Tier.FRONTIER
    fine: dict[str, Any] = {
        "tenant": "shop", "request_id": "r", "tier": tier, "model": "m@1" if here else "big",
        "model_digest": "d1" if here else "", "task": "intent" if here else "",
        "purpose": Purpose.SERVE, "reason": "confident" if here else "low-confidence",
        "answered": True, "score_ppm": 800_000 if here else None, "tokens": Tokens(100, 0, 10),
        "frontier_nano": 0 if here else 150, "here_nano": 7 if tier is Tier.LOCAL else 0,
        "saved_nano": 0, "money_source": MoneySource.NONE if here else MoneySource.USAGE,
    }  # fmt: skip
    return Row(**{**fine, **changes})


KEPT = (row(),)
ESCALATED = (row(answered=False, score_ppm=300_000), row(Tier.FRONTIER))


def replayed(
    rows: tuple[Row, ...], scenario: Scenario, price: FrontierPrice | None = PRICE
) -> Replayed:
    return replay_one(fold(rows, None), scenario, price=price)


@pytest.mark.parametrize("rows", [KEPT, ESCALATED])
def test_nothing_changed_is_as_it_was(rows: tuple[Row, ...]) -> None:
    assert replayed(rows, Scenario()) == as_it_was(fold(rows, None))


def test_another_threshold_moves_what_a_score_decided() -> None:
    strict, loose = Scenario(MINE, 900_000), Scenario(MINE, 300_000)
    assert replayed(KEPT, strict) == Replayed(End.FRONTIER, 7 + 100 + 20, estimated=True)
    assert replayed(KEPT, loose) == Replayed(End.HERE, 7)
    assert replayed(ESCALATED, loose) == Replayed(End.HERE, 7)
    assert replayed(ESCALATED, strict) == Replayed(End.FRONTIER, 7 + 150)
    assert replayed(KEPT, Scenario(MINE, never=True)).end is End.FRONTIER


@pytest.mark.parametrize(
    "rows",
    [
        (row(reason="degraded"),),
        (row(score_ppm=None),),
        (row(answered=False), row(Tier.FRONTIER, reason="schema-invalid")),
        (row(task="other"),),
    ],
)
def test_what_no_score_of_this_task_decided_stays(rows: tuple[Row, ...]) -> None:
    assert replayed(rows, Scenario(MINE, 999_999), price=None) == as_it_was(fold(rows, None))


def test_a_shadow_tells_what_local_first_would_have_kept() -> None:
    rows = (
        row(Tier.FRONTIER, reason="shadow"),
        row(answered=False, purpose=Purpose.SHADOW, reason="shadow"),
    )
    assert replayed(rows, Scenario(MINE, 800_000)) == Replayed(End.HERE, 7)
    assert replayed(rows, Scenario(MINE, 800_001)) == Replayed(End.FRONTIER, 157)


def test_a_price_that_is_needed_and_missing_is_said() -> None:
    with pytest.raises(LookupError):
        replayed(KEPT, Scenario(MINE, 900_000), price=None)


def test_without_the_cache_answers_are_made_again() -> None:
    here = (row(Tier.CACHE, reason="cached", saved_nano=40),)
    unscored = (row(Tier.CACHE, reason="cached", saved_nano=40, score_ppm=None),)
    there = (row(Tier.CACHE, reason="cached", model="big", score_ppm=None, saved_nano=40),)
    assert replayed(here, Scenario()) == Replayed(End.CACHE, 0)
    assert replayed(here, Scenario(cache=False)) == Replayed(End.HERE, 40, estimated=True)
    assert replayed(here, Scenario(MINE, 900_000, cache=False)).cost_nano == 40 + 120
    assert replayed(unscored, Scenario(MINE, 900_000, cache=False)).end is End.HERE
    assert replayed(there, Scenario(cache=False)) == Replayed(End.FRONTIER, 120, estimated=True)
    assert replayed(there, Scenario(cache=False), price=None).cost_nano == 40


def test_other_prices_hold_for_what_was_metered() -> None:
    def price_of(_: str) -> FrontierPrice:
        return FrontierPrice(3000, 3000, 3000)

    seen = fold(ESCALATED, price_of)
    assert seen.booked_nano == 157
    assert replay_one(seen, Scenario(), price=PRICE).cost_nano == 7 + 330
    unseen = fold((row(Tier.FRONTIER, money_source=MoneySource.WORST_CASE),), price_of)
    assert unseen.frontier_nano == 150


def test_audits_cost_and_are_no_requests() -> None:
    audit = row(Tier.FRONTIER, purpose=Purpose.AUDIT, answered=False)
    sums = Sums()
    sums.add(replayed((*KEPT, audit), Scenario(MINE, 700_000)))
    sums.add(replayed((audit,), Scenario()))
    assert (sums.requests, sums.cost_nano, sums.kept_share) == (1, 157 + 150, 1.0)
    assert Sums().kept_share is None


def scores(*values: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.sort(np.asarray(values, np.int64))


def facts(generator: np.random.Generator, size: int, wrong_below: float, share: float) -> Known:
    """Scores uniform; kept from 0.5; below `wrong_below` one in five is wrong, above none."""
    values = generator.integers(0, 10**6, size)
    wrong = (values < wrong_below * 1e6) & (generator.random(size) < 0.2)
    kept = values >= 500_000
    drawn = kept & (generator.random(size) < share)
    return Known(
        scores(*values[kept]), scores(*values[~kept]), scores(*values[drawn]),
        scores(*values[drawn & wrong]), scores(*values[~kept]), scores(*values[~kept & wrong]),
    )  # fmt: skip


def test_strata_count_what_is_kept_at_a_threshold() -> None:
    known = Known(
        scores(500, 600, 700), scores(100, 300, 400), scores(600, 700), scores(700),
        scores(100, 300), scores(100),
    )  # fmt: skip
    assert strata(known, None) == (Stratum(3, 2, 1),)
    assert strata(known, 600) == (Stratum(2, 2, 1),)
    assert strata(known, 300) == (Stratum(3, 2, 1), Stratum(2, 1, 0))


def test_what_nobody_compared_is_not_known() -> None:
    assert estimate(()) is None
    assert estimate((Stratum(10, 0, 0),)) is None
    assert estimate((Stratum(10, 5, 0), Stratum(1, 0, 0))) is None
    assert bound((Stratum(10, 5, 0), Stratum(1, 0, 0)), 0.1) == 1.0


def test_strata_weigh_by_their_requests() -> None:
    found = estimate((Stratum(900, 90, 9), Stratum(100, 100, 50)))
    assert found is not None
    assert found.error == pytest.approx(0.9 * 0.1 + 0.1 * 0.5)
    assert found.low < found.error < found.high
    one = estimate((Stratum(900, 20, 1),))
    assert one is not None
    # R: binom.test(1, 20)$conf.int
    assert (one.low, one.high) == pytest.approx((0.001265089, 0.2487328), rel=1e-5)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=15, deadline=None)
def test_an_alpha_that_was_chosen_holds(seed: int) -> None:
    known = facts(np.random.default_rng(seed), 3000, 0.4, 0.3)
    chosen = choose(known, 0.05, 0.01)
    assert chosen is not None
    assert chosen.bound <= 0.05
    # Below 0.4 a fifth is wrong: 5 % of all kept is reached at 0.2.
    assert 180_000 < chosen.threshold_ppm < 420_000
    assert chosen.coverage == pytest.approx(1 - chosen.threshold_ppm / 1e6, abs=0.04)


def test_too_few_audits_prove_nothing() -> None:
    assert choose(facts(np.random.default_rng(1), 3000, 0.0, 0.005), 0.02, 0.1) is None
    empty = scores()
    assert choose(Known(empty, empty, empty, empty, empty, empty), 0.05, 0.1) is None


def test_scores_are_kept_in_whole_millionths() -> None:
    assert [ppm(one) for one in (None, -1.0, 0.0, 0.1234567, 1.0, 2.0)] == [
        None, 0, 0, 123_456, 10**6, 10**6,
    ]  # fmt: skip

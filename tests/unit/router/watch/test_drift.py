"""Drift watches: what is expected, what alarms, what survives a restart."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from edge_runtime.router.watch.contract import Alarm, Method, Signal, Terms
from edge_runtime.router.watch.drift import (
    DriftWatch,
    audit_limit,
    escalation_limit,
    score_events,
    score_limits,
)
from edge_runtime.router.watch.settings import AuditSettings, DriftSettings

TERMS = Terms(
    certificate="c" * 64,
    task="intent",
    model_digest="d" * 64,
    alpha=0.05,
    delta=0.1,
    threshold=0.25,
    coverage=0.75,
    calibration_size=2000,
    score_deciles=tuple(round(0.1 * place, 1) for place in range(1, 10)),
    reference="gold",
)
# Two signals' tests look at one signal each.
QUIET_TOKENS = {"tokens_mean": 100.0, "tokens_slack_share": 10.0}


def watch(**changes: object) -> DriftWatch:
    settings = DriftSettings(**{**QUIET_TOKENS, **changes})  # type: ignore[arg-type]
    return DriftWatch(TERMS, settings, AuditSettings())


def feed(
    one: DriftWatch, scores: np.ndarray, tokens: int = 100, start: int = 0
) -> tuple[int, Alarm] | None:
    for place, score in enumerate(scores, start + 1):
        alarm = one.observe(score=float(score), tokens=tokens, at_us=place)
        if alarm is not None:
            return place, alarm
    return None


def test_limits_leave_room_for_what_the_calibration_cannot_know() -> None:
    assert 0.27 < escalation_limit(TERMS, 0.0) < 0.28
    assert escalation_limit(TERMS, 0.02) == pytest.approx(escalation_limit(TERMS, 0.0) + 0.02)
    small = dataclasses.replace(TERMS, calibration_size=200)
    assert escalation_limit(small, 0.0) > escalation_limit(TERMS, 0.0)
    assert score_limits(TERMS, 0.0)[0] == pytest.approx(0.1 + 0.0364, abs=1e-4)
    assert score_limits(TERMS, 0.0)[9] == pytest.approx(0.9 + 0.0364, abs=1e-4)


def test_a_score_on_a_decile_is_neither_below_nor_above_it() -> None:
    assert score_events((0.2, 0.5, 0.5, 0.9), 0.5) == (0, 0, 0, 1, 1, 0, 0, 0)


def test_the_frontiers_own_error_is_added_for_gold_certificates_only() -> None:
    assert audit_limit(TERMS, 0.03) == pytest.approx(0.08)
    assert audit_limit(dataclasses.replace(TERMS, reference="big"), 0.03) == 0.05


def test_traffic_like_the_calibration_is_quiet() -> None:
    assert feed(watch(), np.random.default_rng(1).random(2500)) is None


def test_more_low_scores_alarm_and_the_watch_rests() -> None:
    # Two scores only: ties with deciles on either side must not alarm by themselves.
    terms = dataclasses.replace(TERMS, score_deciles=(0.2, 0.2, *(0.9,) * 7))
    one = DriftWatch(terms, DriftSettings(**QUIET_TOKENS), AuditSettings())  # type: ignore[arg-type]
    generator = np.random.default_rng(2)
    assert feed(one, np.where(generator.random(900) < 0.25, 0.2, 0.9)) is None
    found = feed(one, np.where(generator.random(600) < 0.45, 0.2, 0.9), start=900)
    assert found is not None
    place, alarm = found
    assert 900 < place < 1200
    assert alarm.signal is Signal.ESCALATION
    assert alarm.suspends
    assert "below the threshold" in alarm.detail
    assert feed(one, generator.random(50) ** 4) is None
    assert one.alarm == alarm


def test_scores_that_move_within_what_is_kept_alarm_by_their_distribution() -> None:
    generator = np.random.default_rng(3)
    scores = generator.random(1500)
    scores = np.where(scores > 0.5, 0.97, scores)  # as many are kept, but surer than ever
    found = feed(watch(), scores)
    assert found is not None
    assert found[1].signal is Signal.SCORES
    assert "above" in found[1].detail


def test_only_the_e_process_alarms_where_the_fast_rule_is_off() -> None:
    generator = np.random.default_rng(4)
    found = feed(watch(cusum=False), generator.random(1000) ** 2)
    assert found is not None
    assert found[1].method is Method.E_PROCESS


def test_a_score_that_is_no_number_counts_as_the_lowest() -> None:
    found = feed(watch(), np.full(400, np.nan))
    assert found is not None
    assert "below 0.1" in found[1].detail


def test_settings_switch_alarms_off_or_let_them_only_tell() -> None:
    low = np.full(400, 0.01)
    assert feed(watch(enabled=False), low) is None
    found = feed(watch(suspend=False), low)
    assert found is not None
    assert not found[1].suspends


@pytest.mark.parametrize(
    ("tokens", "alarms"), [(100, False), (115, False), (200, True), (40, True)]
)
def test_tokens_are_held_against_the_mean_that_was_set(tokens: int, alarms: bool) -> None:
    one = watch(tokens_mean=100.0, tokens_slack_share=0.25)
    scores = np.random.default_rng(5).random(1200)
    found = feed(one, scores, tokens=tokens)
    assert (found is not None) == alarms
    if found is not None:
        assert found[1].signal is Signal.TOKENS
        assert f"lately {tokens} tokens" in found[1].detail


def test_tokens_are_held_against_the_mean_that_was_learnt() -> None:
    settings = DriftSettings(tokens_baseline_requests=200)
    one = DriftWatch(TERMS, settings, AuditSettings())
    generator = np.random.default_rng(6)

    def some(count: int, mean: float) -> Alarm | None:
        for tokens in generator.lognormal(np.log(mean), 0.5, count):
            alarm = one.observe(score=float(generator.random()), tokens=int(tokens), at_us=1)
            if alarm is not None:
                return alarm
        return None

    assert some(900, 60.0) is None
    alarm = some(900, 150.0)
    assert alarm is not None
    assert alarm.signal is Signal.TOKENS


def test_audits_that_disagree_too_often_alarm() -> None:
    one = watch()
    generator = np.random.default_rng(7)
    assert not any(
        one.audited(wrong=bool(value), at_us=1) for value in generator.random(300) < 0.06
    )
    found = [one.audited(wrong=bool(value), at_us=2) for value in generator.random(200) < 0.4]
    alarm = next(value for value in found if value is not None)
    assert alarm.signal is Signal.AUDIT
    assert "audited answers differ" in alarm.detail


def test_clearing_starts_again_from_nothing() -> None:
    one = watch()
    assert feed(one, np.full(300, 0.01)) is not None
    assert one.clear()
    assert one.alarm is None
    assert not one.clear()
    assert feed(one, np.random.default_rng(8).random(500)) is None
    assert feed(one, np.full(300, 0.01)) is not None


@pytest.mark.parametrize("at", [0, 150, 700, 1000])
def test_a_restored_watch_alarms_at_the_same_request(at: int) -> None:
    generator = np.random.default_rng(9)
    scores = np.concatenate([generator.random(800), generator.random(800) ** 2])
    settings = DriftSettings(tokens_baseline_requests=100)
    whole = DriftWatch(TERMS, settings, AuditSettings())
    first, second = (DriftWatch(TERMS, settings, AuditSettings()) for _ in range(2))
    expected = feed(whole, scores)
    feed(first, scores[:at])
    second.restore(first.state())
    if first.alarm is None:
        assert feed(second, scores[at:], start=at) == expected
    assert second.alarm == whole.alarm


def test_other_settings_start_the_watches_again_but_keep_the_alarm() -> None:
    one = watch()
    assert feed(one, np.full(300, 0.01)) is not None
    other = watch(slack_share=0.1)
    other.restore(one.state())
    assert other.alarm == one.alarm
    assert other.clear()
    assert feed(other, np.random.default_rng(10).random(100)) is None


def test_a_certificate_that_keeps_next_to_nothing_has_no_escalation_watch() -> None:
    rare = dataclasses.replace(TERMS, coverage=0.05, threshold=0.95)
    one = DriftWatch(rare, DriftSettings(**QUIET_TOKENS), AuditSettings())  # type: ignore[arg-type]
    assert one.state().escalation is None
    assert feed(one, np.random.default_rng(11).random(300)) is None

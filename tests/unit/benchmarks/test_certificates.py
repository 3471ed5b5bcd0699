"""The certificate simulation: exact risks, the two rules, and that the check can fail."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.certificate_populations import Population, fit_head
from benchmarks.certificates import kept_promise, markdown, naive_rule, simulate


def population(size: int = 4000) -> Population:
    generator = np.random.default_rng(2)
    scores = np.sort(generator.random(size))
    errors = generator.random(size) < 0.005 + 0.5 * (1 - scores) ** 3
    return Population("made up", scores, errors, np.full(size, 1 / size))


def test_risk_and_coverage_of_a_threshold_are_exact() -> None:
    made = Population(
        "four",
        np.array([0.9, 0.8, 0.5, 0.1]),
        np.array([False, True, False, True]),
        np.array([0.4, 0.1, 0.3, 0.2]),
    )
    assert made.at(0.5) == pytest.approx((0.8, 0.125))
    assert made.at(0.95) == (0.0, 0.0)
    assert made.best_coverage(0.125) == pytest.approx(0.8)
    assert made.best_coverage(0.1) == pytest.approx(0.4)
    assert made.accuracy == pytest.approx(0.7)


def test_the_naive_rule_takes_the_loosest_and_keeps_ties_together() -> None:
    scores = np.array([0.9, 0.8, 0.7, 0.7, 0.6])
    assert naive_rule(scores, np.array([0, 0, 0, 1, 1], bool), 0.25) == 0.7
    assert naive_rule(scores, np.array([0, 0, 0, 1, 1], bool), 0.2) == 0.8
    assert naive_rule(scores, np.ones(5, bool), 0.2) is None


def test_certificates_keep_the_promise_that_the_naive_rule_breaks() -> None:
    outcomes = simulate(population(), alphas=(0.05,), sizes=(500,), resamples=150)
    certified, naive = outcomes
    assert (certified.rule, naive.rule) == ("Learn-Then-Test", "naive")
    assert kept_promise(certified)
    assert certified.broken <= 0.1 + 3 * 0.0245
    assert naive.broken > 0.3
    assert not kept_promise(naive)
    assert 0.6 * certified.best_coverage < certified.coverage < naive.coverage


def test_the_promise_is_checked_within_what_chance_allows() -> None:
    (outcome, _) = simulate(population(500), alphas=(0.05,), sizes=(300,), resamples=3)
    assert kept_promise(replace(outcome, resamples=300, broken=0.12))
    assert not kept_promise(replace(outcome, resamples=300, broken=0.17))


def test_the_table_has_a_row_for_each_setting() -> None:
    outcomes = simulate(population(500), alphas=(0.05, 0.1), sizes=(200, 300), resamples=3)
    lines = markdown(outcomes).splitlines()
    assert len(lines) == 2 + 4
    assert len({line.count("|") for line in lines}) == 1
    assert lines[2].startswith("| made up | 10% | 200 |")


def test_the_head_learns_what_can_be_separated() -> None:
    generator = np.random.default_rng(4)
    centres = generator.normal(size=(5, 8))
    places = generator.integers(0, 5, 400)
    features = centres[places] + 0.1 * generator.normal(size=(400, 8))
    weights, bias = fit_head(features, places, 5)
    assert np.mean((features @ weights + bias).argmax(axis=1) == places) > 0.98

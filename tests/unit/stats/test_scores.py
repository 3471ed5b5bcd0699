"""Scores and how well they rank."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.stats.logistic import Logistic, fit_logistic
from edge_runtime.stats.scores import (
    TOKEN_FEATURES,
    auroc,
    classifier_scores,
    margin,
    softmax,
    token_features,
    token_score,
    top_probability,
)


def test_margin_and_top_probability_of_known_rows() -> None:
    rows = [[0.7, 0.2, 0.1], [0.1, 0.45, 0.45]]
    assert margin(rows) == pytest.approx([0.5, 0.0])
    assert top_probability(rows) == pytest.approx([0.7, 0.45])


@given(st.lists(st.lists(st.floats(-500, 500), min_size=4, max_size=4), min_size=1, max_size=8))
def test_scores_of_logits_lie_between_0_and_1_and_ignore_a_shift(rows: list[list[float]]) -> None:
    logits = np.array(rows)
    assert softmax(logits).sum(axis=1) == pytest.approx(np.ones(len(rows)))
    for name in ("margin", "top-probability"):
        scores = classifier_scores(name, logits)
        assert np.all((scores >= 0) & (scores <= 1))
        assert classifier_scores(name, logits + 7) == pytest.approx(scores, abs=1e-9)


def test_unknown_scores_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'entropy' is no classifier score"):
        classifier_scores("entropy", [[0.0, 1.0]])
    with pytest.raises(ValueError, match="two labels"):
        margin([[1.0]])


@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=30),
    st.lists(st.integers(0, 6), min_size=1, max_size=30),
)
def test_auroc_is_the_share_of_pairs_ranked_right(rights: list[int], wrongs: list[int]) -> None:
    scores, errors = rights + wrongs, [0] * len(rights) + [1] * len(wrongs)
    pairs = [(right > wrong) + (right == wrong) / 2 for right in rights for wrong in wrongs]
    assert auroc(scores, errors) == pytest.approx(float(np.mean(pairs)))


@pytest.mark.parametrize("errors", [[0, 0], [1, 1]])
def test_auroc_needs_both_kinds(errors: list[int]) -> None:
    with pytest.raises(ValueError, match="some right and some wrong"):
        auroc([0.1, 0.2], errors)


def test_token_features_are_quantiles_and_length() -> None:
    features = token_features([math.log(p) for p in (1, 0.5, 0.25)])
    values = dict(zip(TOKEN_FEATURES, features, strict=True))
    assert values["q0"] == pytest.approx(0.25)
    assert values["q50"] == pytest.approx(0.5)
    assert values["log_length"] == pytest.approx(math.log(3))


@pytest.mark.parametrize("logprobs", [[], [0.5], [math.nan]])
def test_what_is_no_answer_has_no_features(logprobs: list[float]) -> None:
    with pytest.raises(ValueError, match="log probability"):
        token_features(logprobs)


def test_a_fit_finds_known_weights() -> None:
    generator = np.random.default_rng(5)
    features = generator.normal([3, -1], [2, 0.5], (4000, 2))
    truth = 1 / (1 + np.exp(-(0.5 + 1.2 * (features[:, 0] - 3) / 2 - 0.7 * (features[:, 1] + 1))))
    model = fit_logistic(features, generator.random(4000) < truth, ("a", "b"), penalty=1e-3)
    found = model.probabilities(features)
    assert float(np.abs(found - truth).mean()) < 0.02
    assert model.bias == pytest.approx(0.5, abs=0.12)


def test_a_fit_ends_where_the_classes_separate_and_a_column_is_constant() -> None:
    features = [[float(at), 1.0] for at in range(20)]
    outcomes = [at >= 10 for at in range(20)]
    model = fit_logistic(features, outcomes, ("at", "one"))
    assert auroc(model.probabilities(features), np.logical_not(outcomes)) == 1.0
    assert np.all(np.isfinite(model.weights))


def test_parameters_carry_the_model_and_nothing_else_fits() -> None:
    generator = np.random.default_rng(6)
    answers = [np.log(generator.uniform(0.2, 1, generator.integers(2, 9))) for _ in range(200)]
    features = np.array([token_features(answer) for answer in answers])
    model = fit_logistic(features, features[:, 0] > 0.4, TOKEN_FEATURES)
    parameters = model.parameters()
    scores = [token_score(answer, parameters) for answer in answers]
    assert scores == pytest.approx(model.probabilities(features).tolist())
    assert auroc(scores, features[:, 0] <= 0.4) > 0.95
    with pytest.raises(ValueError, match=r"q0\.weight"):
        token_score(answers[0], {key: 1.0 for key in parameters if key != "q0.weight"})
    with pytest.raises(ValueError, match="above 0"):
        Logistic.from_parameters({**parameters, "q0.deviation": 0.0}, TOKEN_FEATURES)


@pytest.mark.parametrize("outcomes", [[0, 0, 0], [0, 1, 2], [0, 1]])
def test_a_fit_refuses_other_outcomes(outcomes: list[int]) -> None:
    with pytest.raises(ValueError, match="needs"):
        fit_logistic([[1.0], [2.0], [3.0]], outcomes, ("x",))

"""Scoring as the Snips benchmark does it, on cases small enough to count by hand."""

from __future__ import annotations

import pytest

from export_tools.train.snips_score import Parse, parse_answer, score_parses

TRUTH = [
    Parse("PlayMusic", (("artist", "Clem Burke"), ("service", "Lastfm"))),
    Parse("PlayMusic", (("artist", "Chae Yeon"),)),
    Parse("GetWeather", (("city", "Overton"),)),
]


def test_right_answers_score_one() -> None:
    score = score_parses(TRUTH, TRUTH)
    assert (score.intent_accuracy, score.intent_recall) == (1.0, 1.0)
    assert (score.mean_slot_f1, score.exact_match, score.unreadable) == (1.0, 1.0, 0.0)


def test_a_value_counts_only_when_its_text_is_exactly_the_same() -> None:
    answers = [
        Parse("PlayMusic", (("artist", "clem burke"), ("service", "Lastfm"))),
        *TRUTH[1:],
    ]
    score = score_parses(TRUTH, answers)
    artist = score.slots["PlayMusic", "artist"]
    assert (artist.precision, artist.recall, artist.f1, artist.support) == (0.5, 0.5, 0.5, 2)
    assert score.mean_slot_f1 == pytest.approx((0.5 + 1 + 1) / 3)
    assert score.exact_match == pytest.approx(2 / 3)


def test_a_wrong_intent_loses_its_slots_and_charges_the_predicted_intent() -> None:
    answers = [TRUTH[0], Parse("GetWeather", (("city", "Chae Yeon"),)), TRUTH[2]]
    score = score_parses(TRUTH, answers)
    assert score.intent_recall == pytest.approx((0.5 + 1.0) / 2)
    assert score.slots["PlayMusic", "artist"].recall == 0.5
    city = score.slots["GetWeather", "city"]
    assert (city.precision, city.recall) == (0.5, 1.0)


def test_repeated_values_are_counted_as_often_as_they_are_spoken() -> None:
    truth = [Parse("X", (("a", "v"), ("a", "v")))]
    once = score_parses(truth, [Parse("X", (("a", "v"),))])
    thrice = score_parses(truth, [Parse("X", (("a", "v"),) * 3)])
    assert once.slots["X", "a"].recall == 0.5
    assert thrice.slots["X", "a"].precision == pytest.approx(2 / 3)


def test_an_unreadable_answer_is_a_miss_everywhere() -> None:
    score = score_parses(TRUTH, [None, *TRUTH[1:]])
    assert score.unreadable == pytest.approx(1 / 3)
    assert score.slots["PlayMusic", "service"].f1 == 0.0
    assert score.intent_accuracy == pytest.approx(2 / 3)


def test_slots_in_another_order_are_found_but_are_no_exact_match() -> None:
    swapped = Parse("PlayMusic", TRUTH[0].slots[::-1])
    score = score_parses(TRUTH[:1], [swapped])
    assert (score.mean_slot_f1, score.exact_match) == (1.0, 0.0)


@pytest.mark.parametrize("answers", [[], [TRUTH[0]]])
def test_rows_must_match(answers: list[Parse]) -> None:
    with pytest.raises(ValueError, match="as many answers"):
        score_parses(TRUTH[: 2 * len(answers)], answers)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"intent": "X"}',
        '{"intent": "X", "slots": {}}',
        '{"intent": "X", "slots": [{"slot": "a"}]}',
        '{"intent": "X", "slots": [{"slot": "a", "text": 3}]}',
        '{"intent": "X", "slots": []} and more',
    ],
)
def test_anything_but_the_promised_object_is_unreadable(content: str) -> None:
    assert parse_answer(content) is None


def test_escapes_are_read_as_json_writes_them() -> None:
    content = r'{"intent": "X", "slots": [{"slot": "a", "text": "the \"B\\C\" é"}]}'
    assert parse_answer(content) == Parse("X", (("a", 'the "B\\C" é'),))


def test_the_summary_is_plain_json() -> None:
    summary = score_parses(TRUTH, TRUTH).summary()
    assert summary["slots"]["GetWeather.city"] == {
        "precision": 1.0,
        "recall": 1.0,
        "f1": 1.0,
        "support": 1,
    }
    assert summary["examples"] == 3

"""Slices, the guess of a language, and when two answers are the same."""

from __future__ import annotations

import pytest

from edge_runtime.router.watch.compare import same_answer
from edge_runtime.router.watch.contract import HowToCompare, Slice
from edge_runtime.router.watch.language import language_of
from edge_runtime.router.watch.slices import OTHER, Slices, interval, labels_of, length_bucket


def where(**changes: object) -> Slice:
    fine: dict[str, object] = {"task": "intent", "tenant": "shop", "prompt_tokens": 12}
    return Slice(**{**fine, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("what is the balance on my card", "en"),
        ("wie hoch ist mein Kontostand und was kostet das", "de"),
        ("quel est le solde de mon compte", "fr"),
        ("¿cuál es el saldo de mi cuenta?", "es"),
        ("quanto c'è sul mio conto, per favore", "it"),
        ("qual é o saldo da minha conta", "pt"),
        ("wat is het saldo van mijn rekening", "nl"),
        ("какой баланс на моей карте", "ru"),
        ("我的卡上还有多少钱", "zh"),
        ("カードの残高はいくらですか", "ja"),
        ("내 카드 잔액이 얼마예요", "ko"),
        ("ما هو رصيد بطاقتي", "ar"),
        ("OK 12345", "unknown"),
        ("", "unknown"),
    ],
)
def test_languages_are_guessed_from_script_and_stop_words(text: str, language: str) -> None:
    assert language_of(text) == language


def test_what_the_caller_said_wins_if_it_is_a_tag() -> None:
    assert language_of("what is the balance on my card", "de-CH") == "de"
    assert language_of("what is the balance on my card", "<script>") == "en"


@pytest.mark.parametrize(
    ("tokens", "bucket"),
    [(0, "1-16"), (16, "1-16"), (17, "17-64"), (4096, "1025-4096"), (9999, "4097+")],
)
def test_lengths_fall_into_buckets(tokens: int, bucket: str) -> None:
    assert length_bucket(tokens) == bucket


def test_a_report_has_rates_with_exact_intervals() -> None:
    slices = Slices(8)
    for place in range(40):
        slices.decided(labels_of(where()), escalated=place < 10)
    for place in range(20):
        slices.audited(labels_of(where()), wrong=place == 0)
    rows = {row.dimension: row for row in slices.rows()}
    assert set(rows) == {"task", "language", "length", "tenant"}
    row = rows["task"]
    assert (row.value, row.requests, row.escalation, row.audited, row.error) == (
        "intent",
        40,
        0.25,
        20,
        0.05,
    )
    assert row.escalation_interval == interval(10, 40)
    assert row.error_interval is not None
    # R: binom.test(1, 20)$conf.int
    assert row.error_interval == pytest.approx((0.001265089, 0.2487328), rel=1e-5)
    slices.decided(labels_of(where(task="", tenant="")), escalated=False)
    empty = next(row for row in slices.rows() if row.value == "(none)")
    assert empty.error is None
    assert empty.error_interval is None


def test_a_flood_of_values_is_counted_under_other() -> None:
    slices = Slices(3)
    for place in range(100):
        slices.decided(labels_of(where(tenant=f"t{place}")), escalated=False)
    tenants = [row for row in slices.rows() if row.dimension == "tenant"]
    assert len(tenants) == 4
    assert tenants[0].value == OTHER
    assert sum(row.requests for row in tenants) == 100


@pytest.mark.parametrize(
    ("one", "other", "how", "same"),
    [
        ("balance", " Balance\n", HowToCompare.LABEL, True),
        ("balance", "balances", HowToCompare.LABEL, False),
        ('{"a": 1, "b": [2]}', '{"b":[2.0],"a":1}', HowToCompare.JSON, True),
        ('{"a": 1}', '{"a": "1"}', HowToCompare.JSON, False),
        ('{"a": true}', '{"a": 1}', HowToCompare.JSON, False),
        ("no json", "no json", HowToCompare.JSON, False),
        ('{"a": NaN}', '{"a": NaN}', HowToCompare.JSON, False),
        ("[" * 100_000, "[" * 100_000, HowToCompare.JSON, False),
        ("It  is\nfine.", "it is fine", HowToCompare.TEXT, True),
        ("\uff21\uff22", "ab", HowToCompare.TEXT, True),
        ("it is fine", "it is not fine", HowToCompare.TEXT, False),
    ],
)
def test_answers_are_compared_by_what_they_are(
    one: str, other: str, how: HowToCompare, same: bool
) -> None:
    assert same_answer(one, other, how) is same

"""The pure parts of the semantic cache: what is asked, which entry answers, what audits say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.cache.answers import Answer
from edge_runtime.cache.key import Question
from edge_runtime.cache.semantic.agree import agree, same_words, text_of
from edge_runtime.cache.semantic.choose import Candidate, choose
from edge_runtime.cache.semantic.contract import asked_of, similar_question
from edge_runtime.cache.semantic.evidence import Evidence, after_audit, is_audited
from edge_runtime.cache.semantic.likeness import FEATURES, Rarity, features
from edge_runtime.cache.semantic.score import TERMS, decode, encode, shipped
from edge_runtime.cache.semantic.tally import Tally

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is my balance?"},
]


def chat(**fields: object) -> Question:
    return Question("chat", "m" * 64, "tenant", {"messages": MESSAGES, "temperature": 0} | fields)


def scope(question: Question, locale: str = "", encoder: str = "e") -> bytes:
    similar = similar_question(question, locale=locale)
    assert similar is not None
    return asked_of(similar, encoder).scope


def said(text: object) -> Question:
    return chat(messages=[{"role": "user", "content": text}])


class TestWhatIsAsked:
    def test_only_the_last_text_is_left_to_similarity(self) -> None:
        similar = similar_question(chat())
        assert similar is not None
        assert similar.text == "What is my balance?"
        other = chat(messages=[MESSAGES[0], {"role": "user", "content": "another text"}])
        assert scope(other) == scope(chat())

    @pytest.mark.parametrize(
        "other",
        [
            Question("chat", "x" * 64, "tenant", chat().fields),
            Question("chat", "m" * 64, "another", chat().fields),
            chat(temperature=0.5),
            chat(max_tokens=5),
            chat(response_format={"type": "json_object"}),
            chat(messages=[{"role": "system", "content": "Be long."}, MESSAGES[1]]),
            chat(messages=[*MESSAGES, {"role": "assistant", "content": "5"}, MESSAGES[1]]),
        ],
    )
    def test_everything_else_separates(self, other: Question) -> None:
        assert scope(other) != scope(chat())

    def test_locale_and_encoder_separate(self) -> None:
        assert scope(chat(), locale="de") != scope(chat())
        assert scope(chat(), encoder="other") != scope(chat())

    def test_a_field_that_is_null_counts_as_absent(self) -> None:
        assert scope(chat(stop=None)) == scope(chat())

    @pytest.mark.parametrize(
        "question",
        [
            chat(tools=[{"type": "function", "function": {"name": "f"}}]),
            chat(functions=[{"name": "f"}]),
            chat(tool_choice="auto"),
            chat(messages=[{"role": "tool", "content": "7"}, MESSAGES[1]]),
            chat(messages=[{"role": "assistant", "tool_calls": [{"id": "1"}]}, MESSAGES[1]]),
            chat(messages=[*MESSAGES, {"role": "assistant", "content": "5"}]),
            chat(messages=[]),
            chat(messages=["text"]),
            said(""),
            said("   "),
            said("x" * 601),
            said([{"type": "image_url", "image_url": {"url": "data:"}}]),
            said([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]),
            chat(messages=[{"role": "user", "content": "hello", "name": "ann"}]),
            Question("embedding", "m" * 64, "t", {"input": "text"}),
            Question("completion", "m" * 64, "t", {"prompt": ["a", "b"]}),
        ],
    )
    def test_what_may_not_match_by_similarity_is_not_asked(self, question: Question) -> None:
        assert similar_question(question) is None

    def test_one_text_part_and_prompts_are_texts(self) -> None:
        part = similar_question(said([{"type": "text", "text": "hello there"}]))
        prompt = similar_question(Question("completion", "m", "t", {"prompt": "hello there"}))
        assert part is not None
        assert prompt is not None
        assert part.text == prompt.text == "hello there"

    def test_the_partition_knows_what_a_text_says_exactly(self) -> None:
        one, same, other = (
            similar_question(said(text)) for text in ("pay $5", "pay five dollars please", "pay $6")
        )
        assert one is not None
        assert same is not None
        assert other is not None
        partitions = [asked_of(each, "e").partition for each in (one, same, other)]
        assert partitions[0] == partitions[1] != partitions[2]


class TestScore:
    def test_the_shipped_score_is_certified_and_readable(self) -> None:
        scorer = shipped()
        assert scorer.encoder == "minilm-l6"
        assert len(scorer.weights) == len(TERMS) > len(FEATURES)
        assert 0.5 < scorer.threshold < 1
        assert scorer.alpha <= 0.01

    def test_nearer_vectors_score_higher(self) -> None:
        scores = [shipped().score("what is my balance", "my balance", at) for at in (0.2, 0.6, 0.9)]
        assert scores == sorted(scores)
        assert 0 < scores[0] < scores[-1] < 1

    def test_a_name_that_is_replaced_costs_the_hit(self) -> None:
        scorer = shipped()
        same = scorer.score("is it cold in paris", "tell me if it is cold in paris", 0.9)
        other = scorer.score("is it cold in paris", "tell me if it is cold in london", 0.9)
        assert other < scorer.threshold <= same

    @given(st.text(max_size=60), st.text(max_size=60), st.floats(-1, 1))
    def test_order_makes_no_difference_and_nothing_breaks(
        self, first: str, second: str, cosine: float
    ) -> None:
        rarity = shipped().rarity
        assert features(first, second, cosine, rarity) == features(second, first, cosine, rarity)
        assert 0 <= shipped().score(first, second, cosine) <= 1

    def test_weights_of_other_features_are_refused(self) -> None:
        with pytest.raises(ValueError, match="fit it anew"):
            decode(b'{"scales": {"cosine": [0, 1, 0, 1]}, "weights": {}}')

    def test_it_is_written_as_it_was_read(self) -> None:
        again = decode(encode(shipped(), {"pairs": 1}))
        pair = ("how do i pay", "how can i pay", 0.9)
        assert again.score(*pair) == shipped().score(*pair)
        assert again.threshold == shipped().threshold

    @given(st.text(min_size=200, max_size=600), st.floats(-1, 0.5))
    def test_what_the_fit_never_saw_is_no_hit(self, text: str, cosine: float) -> None:
        score = shipped().score("what is my balance", text, cosine)
        assert score < shipped().threshold

    def test_rare_words_weigh_more_and_unknown_ones_most(self) -> None:
        texts = ["my card"] * 2 + [f"my card number{word}" for word in "abcd"] + ["my balance"]
        rarity = Rarity.of(texts, least=2)
        assert rarity.texts == 6
        weights = [rarity.weight(word) for word in ("my", "card", "balanc", "zebra")]
        assert weights == sorted(weights)
        assert weights[2] == weights[3]  # too rare to be counted


class TestChoice:
    def candidate(self, entry: int, text: str, cosine: float, least: float = 0.0) -> Candidate:
        return Candidate(entry, text, cosine, least, 0)

    def test_the_first_that_reaches_the_threshold_answers(self) -> None:
        scorer = shipped()
        near = [
            self.candidate(1, "what is not my balance", 0.99),  # refused by a gate
            self.candidate(2, "what is my balance now", 0.98),
            self.candidate(3, "what is my balance", 0.97),
        ]
        choice = choose("what is my balance?", near, scorer, scorer.threshold)
        assert choice.chosen == near[1]
        assert choice.score >= scorer.threshold

    def test_an_entry_that_asks_for_more_is_passed_over(self) -> None:
        scorer = shipped()
        near = [self.candidate(1, "what is my balance now", 0.95, least=0.9999)]
        choice = choose("what is my balance?", near, scorer, scorer.threshold)
        assert choice.chosen is None
        assert scorer.threshold <= choice.score < 0.9999

    def test_nothing_near_scores_nothing(self) -> None:
        choice = choose("what is my balance?", [], shipped(), 0.9)
        assert choice.chosen is None
        assert choice.score == 0.0


class TestEvidence:
    def test_right_audits_change_nothing_but_the_count(self) -> None:
        assert after_audit(Evidence(), 0.97, correct=True) == Evidence(right=1)

    def test_one_wrong_audit_asks_for_more_and_the_second_drops(self) -> None:
        once = after_audit(Evidence(), 0.97, correct=False)
        assert once is not None
        assert once.least_score == pytest.approx(0.985)
        assert after_audit(once, 0.99, correct=False) is None

    def test_twenty_right_audits_outweigh_a_second_wrong_one(self) -> None:
        trusted = Evidence(right=20, wrong=1, least_score=0.98)
        assert after_audit(trusted, 0.99, correct=False) is not None

    def test_the_share_of_draws_is_the_share_of_audits(self) -> None:
        draws = np.random.default_rng(3).random(20_000)
        share = np.mean([is_audited(draw, 0.02) for draw in draws])
        assert share == pytest.approx(0.02, abs=0.004)

    def test_audits_that_contradict_the_certificate_suspend(self) -> None:
        tally = Tally.new(0.01, 0.01)
        for at in range(300):
            tally.observe(wrong=at % 100 == 0)
        assert not tally.suspended
        assert tally.shown().n == 300
        for _ in range(12):
            tally.observe(wrong=True)
        assert tally.shown().suspended
        assert tally.shown().upper > 0.02


class TestAgreement:
    def test_labels_are_compared_as_texts(self) -> None:
        assert same_words("Card arrival.", "card  arrival")
        assert not same_words("card arrival", "card delivery")

    def test_longer_answers_need_near_vectors_and_equal_numbers(self) -> None:
        near = (np.array([1.0, 0.0], np.float32), np.array([0.95, 0.31], np.float32))
        assert agree("It takes two days.", "That takes 2 days.", near)
        assert not agree("It takes two days.", "It takes three days.", near)
        assert not agree("It takes long.", "That takes a while.", None)

    def test_only_single_choices_have_a_text(self) -> None:
        chat_answer = {"choices": [{"message": {"content": "yes"}}]}
        assert text_of(Answer(chat_answer)) == "yes"
        assert text_of(Answer({"choices": [{"text": "yes"}]})) == "yes"
        assert text_of(Answer({"choices": [{"text": "a"}, {"text": "b"}]})) is None
        assert text_of(Answer({"choices": [{"message": {"content": None}}]})) is None
        assert text_of(Answer({})) is None

"""Answers with token probabilities from a real decoder, and the score learned from them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.bundle.pack import load_manifest
from edge_runtime.core import StepPlan, StepRow
from edge_runtime.errors import UsageError
from edge_runtime.stats.logistic import Logistic
from edge_runtime.stats.scores import TOKEN_FEATURES, auroc, token_score
from export_tools.certify.generator import Answer, GeneratorBundle, is_right
from export_tools.certify.scorers import ClassifierScorer, GeneratorScorer, open_scorer
from export_tools.certify.traffic import Example, answer_of, read_examples
from tests.support.served import build_decoder, build_encoder

TEXTS = ["on", "turn the light in the hall off", "play", "what is the weather in spring like",
         "a b c d e f g h", "off", "more of it", "again and again", "no", "yes please"]  # fmt: skip


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> GeneratorBundle:
    directory = build_decoder(tmp_path_factory.mktemp("generator"))
    scorer = open_scorer(directory, "int8", None, threads=1)
    assert isinstance(scorer, GeneratorScorer)
    return scorer.bundle


def alone(bundle: GeneratorBundle, text: str) -> tuple[list[int], list[float], bool]:
    """The same answer the slow way: one prompt, one token a step, probabilities by definition."""
    prompt = bundle.prompt(text)
    tokens: list[int] = []
    logprobs: list[float] = []
    for place, token in enumerate(prompt):
        logits = bundle.session.step(StepPlan((StepRow(0, (token,), place, True),)))[0]
    while len(tokens) < bundle.max_new:
        values = np.asarray(logits, np.float64)
        best = int(values.argmax())
        if best in bundle.manifest.tokenizer.eos_token_ids:
            return tokens, logprobs, True
        tokens.append(best)
        logprobs.append(float(np.log(np.exp(values - values.max())[best]
                                     / np.exp(values - values.max()).sum())))  # fmt: skip
        row = StepRow(0, (best,), len(prompt) + len(tokens) - 1, True)
        logits = bundle.session.step(StepPlan((row,)))[0]
    return tokens, logprobs, False


def test_answers_in_company_are_those_alone(generator: GeneratorBundle) -> None:
    found = generator.answers(TEXTS)
    assert len(found) == len(TEXTS) > generator.session.slots
    for text, answer in zip(TEXTS, found, strict=True):
        tokens, logprobs, ended = alone(generator, text)
        assert answer.tokens == tokens
        assert answer.ended == ended
        assert answer.logprobs == pytest.approx(logprobs, abs=1e-3)
        assert max(answer.logprobs, default=0.0) <= 0


def test_a_prompt_without_room_for_its_answer_does_not_fit(generator: GeneratorBundle) -> None:
    assert generator.fits("on")
    assert not generator.fits("on and off " * 200)


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ('{"intent": "On", "slots": []}', True),
        ('{"slots":[],"intent":"On"}', True),  # the same value
        ('{"intent": "Off", "slots": []}', False),
        ('{"intent": "On", "slots": [{}]}', False),
        ('{"intent": "On", "slots": []} and more', False),
        ("", False),
    ],
)
def test_an_answer_is_right_when_its_json_is(text: str, right: bool) -> None:
    expected = answer_of({"text": "on", "intent": "On", "slots": []})
    assert isinstance(expected, str)
    assert is_right(text, Answer(ended=True), expected) is right
    assert not is_right(text, Answer(ended=False), expected)
    assert not is_right(text, Answer(ended=True), None)


def test_rows_of_generation_are_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows: list[dict[str, Any]] = [
        {"text": "a", "answer": {"b": 1, "a": 2}},
        {"text": "b", "intent": "On", "slots": []},
        {"text": "c", "intent": "oos"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    labels = [item.label for item in read_examples([path], right=answer_of)]
    assert labels == ['{"a":2,"b":1}', '{"intent":"On","slots":[]}', None]
    path.write_text('{"text": "a", "intent": "On"}\n')
    with pytest.raises(UsageError, match=r"rows\.jsonl, line 1: needs"):
        read_examples([path], right=answer_of)


@dataclass
class FakeBundle:
    """Writes `{"ok": true}`, wrongly where the text says so, and then less surely."""

    generator: np.random.Generator = field(default_factory=lambda: np.random.default_rng(3))

    def answers(self, texts: list[str]) -> list[Answer]:
        """Four tokens each."""
        found = []
        for text in texts:
            least = 0.3 if "bad" in text else 0.6
            found.append(
                Answer([1] * 4, np.log(self.generator.uniform(least, 1, 4)).tolist(), True)
            )
        return found

    def text(self, answer: Answer) -> str:
        """Always the same."""
        return '{"ok":true}'


def examples(count: int) -> list[Example]:
    return [
        Example(f"bad {at}" if at % 4 == 0 else f"good {at}", f'{{"ok":{str(at % 4 > 0).lower()}}}')
        for at in range(count)
    ]


def test_the_learned_score_ranks_and_lies_in_its_parameters() -> None:
    scorer = GeneratorScorer(FakeBundle())  # type: ignore[arg-type]
    scorer.learn(examples(200))
    scores, errors = scorer.scored(examples(400))
    assert errors.mean() == 0.25
    assert auroc(scores, errors) > 0.8
    model = Logistic.from_parameters(scorer.parameters, TOKEN_FEATURES)
    assert token_score([-0.1, -0.2], model.parameters()) == pytest.approx(
        token_score([-0.1, -0.2], scorer.parameters)
    )


def test_a_score_cannot_be_learned_from_failures_alone(generator: GeneratorBundle) -> None:
    scorer = GeneratorScorer(generator)
    with pytest.raises(UsageError, match="cannot fit the score"):
        scorer.learn([Example(text, "{}") for text in TEXTS])


def test_each_kind_has_its_scores(tmp_path: Path) -> None:
    classifier = build_encoder(tmp_path, name="classifier", labels=("a", "b"))
    embedder = build_encoder(tmp_path, name="embedder")
    scorer = open_scorer(classifier, "int8", None, threads=1)
    assert isinstance(scorer, ClassifierScorer)
    assert scorer.score == "margin"
    with pytest.raises(UsageError, match="'token-logistic' is no score of classify"):
        open_scorer(classifier, "int8", "token-logistic")
    with pytest.raises(UsageError, match="never escalates"):
        open_scorer(embedder, "int8", None)
    assert load_manifest(embedder).kind == "embed"

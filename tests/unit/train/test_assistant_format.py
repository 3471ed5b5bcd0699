"""The assistant's tokenizer: lossless, and a word is cut alike wherever it stands."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from export_tools.train.assistant_format import (
    AGAIN,
    ASSISTANT,
    END,
    SPACE,
    USER,
    answer_parts,
    build_tokenizer,
    space_twins,
)
from export_tools.train.assistant_rows import RowMaker
from export_tools.train.augment import take_apart
from export_tools.train.data import Example, Slot, read_examples

HARD = [
    "",
    " leading",
    "trailing ",
    "two  spaces\tand\n lines",
    'the "quoted" one',
    "back\\slash",
    "Cita Romántica — 楽園追放 🎵",
    "\x8d\xa0 soft\xadhyphen",
    '}]} "}, {"slot": ',
    "1981's AC/DC",
]


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    root = Path(__file__).resolve().parents[2]
    return read_examples(root / "data/snips/train.jsonl")


@pytest.fixture(scope="module")
def tokenizer(examples: list[Example]) -> Tokenizer:
    return build_tokenizer(examples, 600)


def test_every_text_comes_back(tokenizer: Tokenizer, examples: list[Example]) -> None:
    for text in [*HARD, *(example.text for example in examples)]:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert tokenizer.decode(ids, skip_special_tokens=False) == text


def test_a_word_is_cut_alike_with_and_without_a_space(
    tokenizer: Tokenizer, examples: list[Example]
) -> None:
    words = {word for example in examples for word in example.text.split() if word.isalpha()}
    for word in words:
        plain = tokenizer.encode(word, add_special_tokens=False).tokens
        spaced = tokenizer.encode(" " + word, add_special_tokens=False).tokens
        assert spaced == [SPACE + plain[0], *plain[1:]]


def test_twins_point_at_the_piece_without_the_space(tokenizer: Tokenizer) -> None:
    twins = space_twins(tokenizer)
    assert len(twins) == tokenizer.get_vocab_size()
    for number, (base, twin) in enumerate(twins):
        token = tokenizer.id_to_token(number)
        expected = token[1:] if twin else token
        assert tokenizer.id_to_token(base) == expected
    assert sum(twin for _, twin in twins) == 599


def test_an_answer_is_json_and_its_fixed_parts_are_single_tokens(tokenizer: Tokenizer) -> None:
    slots = [("artist", 'the "B" \\ é'), ("playlist", "x")]
    text = "".join(answer_parts("AddToPlaylist", slots))
    row = {"intent": "AddToPlaylist", "slots": [{"slot": s, "text": t} for s, t in slots]}
    assert text == json.dumps(row, ensure_ascii=False)
    tokens = tokenizer.encode(text, add_special_tokens=False).tokens
    assert tokens[:2] == ['{"intent": "AddToPlaylist", "slots": [', '{"slot": "artist", "text": "']
    assert tokens[-3:] == ['{"slot": "playlist", "text": "', "x", '"}]}']


def test_no_slots_is_an_empty_list() -> None:
    assert json.loads("".join(answer_parts("X", []))) == {"intent": "X", "slots": []}


@pytest.mark.parametrize("repeat", [True, False])
def test_training_rows_are_what_the_tokenizer_gives(
    tokenizer: Tokenizer, examples: list[Example], repeat: bool
) -> None:
    rows = _rows(tokenizer, examples, repeat)
    extra = [
        Example('play the "B" now', "PlayMusic", (Slot("track", 'the "B"'),)),
        Example("weather", "GetWeather", ()),
    ]
    for example in [*examples, *extra]:
        row = rows.make(take_apart(example))
        answer = "".join(
            answer_parts(example.intent, [(slot.slot, slot.text) for slot in example.slots])
        )
        again = f"{AGAIN}{example.text}" if repeat else ""
        whole = f"{USER}{example.text}{again}{ASSISTANT}{answer}{END}"
        assert row.ids == tokenizer.encode(whole, add_special_tokens=False).ids
        assert row.ids[: row.prompt_len] == rows.prompt(example.text)


def test_a_repeated_word_points_at_where_it_was_read(
    tokenizer: Tokenizer, examples: list[Example]
) -> None:
    rows = _rows(tokenizer, examples, repeat=True)
    pointed = 0
    for example in examples:
        row = rows.make(take_apart(example))
        for token, source in zip(row.ids[row.prompt_len :], row.sources, strict=True):
            if source >= 0:
                pointed += 1
                assert row.prompt_len - 1 - len(row.tags) <= source < row.prompt_len - 1
                spoken, written = (tokenizer.id_to_token(i) for i in (row.ids[source], token))
                assert spoken.lstrip(SPACE) == written.lstrip(SPACE)
    assert pointed > 1000


def test_a_word_cut_anew_is_cut_alike_in_reading_and_answer(
    tokenizer: Tokenizer, examples: list[Example]
) -> None:
    rows = _rows(tokenizer, examples, repeat=True)
    rng = random.Random(1)
    changed = 0
    for example in examples:
        plain, cut = rows.make(take_apart(example)), rows.make(take_apart(example), rng)
        text = tokenizer.decode(cut.ids, skip_special_tokens=False)
        assert text == tokenizer.decode(plain.ids, skip_special_tokens=False)
        changed += cut.ids != plain.ids
        assert sum(s >= 0 for s in cut.sources) >= sum(s >= 0 for s in plain.sources)
    assert changed > 100


def _rows(tokenizer: Tokenizer, examples: list[Example], repeat: bool) -> RowMaker:
    names = sorted({slot.slot for example in examples for slot in example.slots})
    return RowMaker(tokenizer, names, repeat)

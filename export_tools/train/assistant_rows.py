"""From an utterance in parts to token rows with the targets of every loss."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer

from export_tools.train.assistant_format import (
    AGAIN,
    ASSISTANT,
    END,
    LAST_SLOT,
    NEXT_SLOT,
    NO_SLOTS,
    USER,
    answer_parts,
    space_twins,
)
from export_tools.train.augment import Template

_RECUT = 0.3
"""Share of the words cut anew in an utterance that is."""


@dataclass(frozen=True, slots=True)
class Row:
    """One training sequence."""

    ids: list[int]
    """Prompt, answer, end."""
    prompt_len: int
    """Tokens before the first one of the answer."""
    tags: list[int]
    """One tag for each token of the last reading of the utterance, which ends the prompt but one:
    0 outside, 2k+1 first token of slot k's value, 2k+2 any later token of it."""
    sources: list[int]
    """For each token of the answer, where in `ids` the word piece it repeats stands, or -1."""


class RowMaker:
    """Tokenises parts exactly as the tokenizer does, with one addition: a word may be cut anew.

    Some words of some utterances get another cut, the same wherever the word stands in the readings
    and in the answer: copying must not lean on familiar cuts.
    """

    def __init__(self, tokenizer: Tokenizer, slots: Sequence[str], repeat: bool) -> None:
        self.tokenizer = tokenizer
        self.pieces = tokenizer.pre_tokenizer[0]
        self.vocabulary = tokenizer.get_vocab()
        self.tag = {slot: 2 * number + 1 for number, slot in enumerate(slots)}
        self.twin = {
            base: number for number, (base, twin) in enumerate(space_twins(tokenizer)) if twin
        }
        self.repeat = repeat
        self.cache: dict[str, list[int]] = {}
        self.fixed = {
            token: self._id(token)
            for token in (USER, AGAIN, ASSISTANT, END, NEXT_SLOT, LAST_SLOT, NO_SLOTS)
        }

    def _id(self, token: str) -> int:
        found = self.tokenizer.token_to_id(token)
        if found is None:
            raise ValueError(f"the tokenizer has no token {token!r}")
        return int(found)

    def _word(self, piece: str, cuts: dict[str, list[int]], rng: random.Random | None) -> list[int]:
        if piece not in cuts:
            word = piece.removeprefix(" ")
            if rng is not None and word.isalpha() and rng.random() < _RECUT:
                plain = self._recut(word, rng)
                spaced = [self.twin[plain[0]], *plain[1:]]
            else:
                plain, spaced = self._usual(word), self._usual(" " + word)
            # Both forms are settled at once: the value's first word loses its space in the answer.
            cuts[word], cuts[" " + word] = plain, spaced
        return cuts[piece]

    def _recut(self, word: str, rng: random.Random) -> list[int]:
        """The usual pieces of a word, each with an even chance of being cut in two again.

        (BPE dropout would do, but the library draws it from a source that cannot be seeded.)
        """
        ids: list[int] = []
        for number in self._usual(word):
            token = self.tokenizer.id_to_token(number)
            at = rng.randrange(1, len(token)) if len(token) > 1 and rng.random() < 0.5 else 0
            halves = [self.vocabulary.get(token[:at]), self.vocabulary.get(token[at:])]
            ids += [half for half in halves if half is not None] if None not in halves else [number]
        return ids

    def _usual(self, piece: str) -> list[int]:
        ids = self.cache.get(piece)
        if ids is None:
            ids = self.cache[piece] = self.tokenizer.encode(piece, add_special_tokens=False).ids
        return ids

    def _split(self, text: str) -> list[tuple[str, tuple[int, int]]]:
        found: list[tuple[str, tuple[int, int]]] = self.pieces.pre_tokenize_str(text)
        return found

    def make(self, template: Template, rng: random.Random | None = None) -> Row:
        """Build one row; with an `rng`, some words are cut anew."""
        cuts: dict[str, list[int]] = {}
        owner = [(0, 0)] * len(template.text)
        position = 0
        for number, part in enumerate(template.parts):
            tag = self.tag[part.slot] if part.slot else 0
            end = position + len(part.text)
            owner[position:end] = [(tag, number)] * len(part.text)
            position = end
        reading: list[int] = []
        tags: list[int] = []
        spans: dict[int, list[int]] = {}
        for piece, (_, end) in self._split(template.text):
            ids = self._word(piece, cuts, rng)
            tag, number = owner[end - 1]
            if tag:
                first = number not in spans
                places = range(len(reading), len(reading) + len(ids))
                spans.setdefault(number, []).extend(places)
                tags += [tag + (0 if first and i == 0 else 1) for i in range(len(ids))]
            else:
                tags += [0] * len(ids)
            reading += ids
        prompt = [self.fixed[USER], *reading]
        if self.repeat:
            prompt += [self.fixed[AGAIN], *reading]
        prompt.append(self.fixed[ASSISTANT])
        answer, origin = self._answer(template, cuts, rng, list(spans.values()))
        start = len(prompt) - 1 - len(reading)
        sources = [place + start if place >= 0 else -1 for place in origin]
        return Row(prompt + answer, len(prompt), tags, sources)

    def _answer(
        self,
        template: Template,
        cuts: dict[str, list[int]],
        rng: random.Random | None,
        spans: list[list[int]],
    ) -> tuple[list[int], list[int]]:
        """Tokens of the answer, and for each its place in the reading or -1."""
        ids: list[int] = []
        origin: list[int] = []
        for number, part in enumerate(answer_parts(template.intent, template.slots)):
            if number % 3 != 2 or part == NO_SLOTS:
                ids.append(self._id(part))
                origin.append(-1)
                continue
            value = [i for piece, _ in self._split(part) for i in self._word(piece, cuts, rng)]
            # An escaped value, or one that starts inside a word, is cut otherwise than it was read.
            slot = number // 3
            aligned = slot < len(spans) and len(spans[slot]) == len(value)
            ids += value
            origin += spans[slot] if aligned else [-1] * len(value)
        return [*ids, self.fixed[END]], [*origin, -1]

    def prompt(self, text: str) -> list[int]:
        """Prompt ids of an utterance as the chat template and the tokenizer give them."""
        again = f"{AGAIN}{text}" if self.repeat else ""
        ids: list[int] = self.tokenizer.encode(
            f"{USER}{text}{again}{ASSISTANT}", add_special_tokens=False
        ).ids
        return ids

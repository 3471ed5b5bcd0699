"""New training utterances out of labelled ones, with labels that stay exact.

An utterance is taken apart into literal text and slot values; changes are made to the parts and the
utterance is put together again, so spans never have to be searched for twice. Everything is drawn
from one `random.Random` that is handed in.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from export_tools.train.data import Example
from export_tools.train.recipe import AugmentConfig

TITLES = ("object_name", "movie_name", "entity_name", "album", "track")
"""Slots whose values are titles of works, any of which could be asked for by any of them."""
OPEN = frozenset(
    (
        *TITLES,
        "playlist",
        "artist",
        "restaurant_name",
        "location_name",
        "served_dish",
        "poi",
        "geographic_poi",
        "city",
    )
)
"""Slots that take words never seen before."""
SHARED = frozenset(("artist", "playlist", "city", "state", "country", "spatial_relation"))
"""Slots that mean the same in every intent."""

_ONSETS = (
    "b",
    "br",
    "c",
    "ch",
    "d",
    "dr",
    "f",
    "g",
    "gr",
    "h",
    "j",
    "k",
    "kr",
    "l",
    "m",
    "n",
    "p",
    "qu",
    "r",
    "s",
    "sh",
    "st",
    "t",
    "tr",
    "v",
    "w",
    "y",
    "z",
    "",
)
_VOWELS = ("a", "e", "i", "o", "u", "ai", "ea", "ou", "y", "é", "á", "ö")
_CODAS = ("", "", "n", "r", "l", "s", "t", "ck", "nd", "rt", "m", "ng", "x")


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of the utterance: a slot's value, or literal text where `slot` is None."""

    text: str
    slot: str | None = None


@dataclass(frozen=True, slots=True)
class Template:
    """An utterance in parts; joined, their texts are the utterance."""

    intent: str
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        """The utterance."""
        return "".join(part.text for part in self.parts)

    @property
    def slots(self) -> list[tuple[str, str]]:
        """(slot, value) in spoken order."""
        return [(part.slot, part.text) for part in self.parts if part.slot is not None]


def take_apart(example: Example) -> Template:
    """Cut an utterance at its values, in order; whole words are preferred to mere substrings.

    Raises ValueError if a value does not occur where the order allows it.
    """
    parts: list[Part] = []
    position = 0
    for slot in example.slots:
        whole = re.compile(rf"(?<!\w){re.escape(slot.text)}(?!\w)").search(example.text, position)
        start = whole.start() if whole else example.text.find(slot.text, position)
        if start < 0:
            raise ValueError(f"slot text {slot.text!r} is not in {example.text!r} in that order")
        if start > position:
            parts.append(Part(example.text[position:start]))
        parts.append(Part(slot.text, slot.slot))
        position = start + len(slot.text)
    if position < len(example.text):
        parts.append(Part(example.text[position:]))
    return Template(example.intent, tuple(parts))


class Augmenter:
    """Draws changed utterances; its pools hold the values of the training split only."""

    def __init__(self, templates: Sequence[Template], config: AugmentConfig) -> None:
        self.config = config
        pools: dict[tuple[str, str], set[str]] = defaultdict(set)
        for template in templates:
            for slot, value in template.slots:
                pools[self._pool(template.intent, slot)].add(value)
                if slot in TITLES:
                    pools["", "title"].add(value)
        openings: dict[tuple[str, str], set[str]] = defaultdict(set)
        for template in self._opened(templates):
            openings[template.intent, str(template.parts[1].slot)].add(template.parts[0].text)
        self.openings = {key: sorted(texts) for key, texts in openings.items()}
        self.pools = {key: sorted(values) for key, values in pools.items()}
        self.words = {
            key: sorted({word for value in values for word in value.split()})
            for key, values in self.pools.items()
        }

    @staticmethod
    def _opened(templates: Iterable[Template]) -> Iterable[Template]:
        """Those that say something before their first value."""
        return (t for t in templates if len(t.parts) > 1 and t.parts[0].slot is None)

    @staticmethod
    def _pool(intent: str, slot: str) -> tuple[str, str]:
        return ("" if slot in SHARED else intent, slot)

    def draw(self, template: Template, rng: random.Random) -> Template:
        """One changed copy; with all chances at zero, the template itself."""
        chance = self.config
        parts = list(template.parts)
        if rng.random() < chance.swap_value:
            parts = [self._swap(template.intent, part, rng) for part in parts]
        if rng.random() < chance.swap_opening and any(self._opened([template])):
            # The words before a value of one kind fit before any other of that kind and intent.
            known = self.openings[template.intent, str(template.parts[1].slot)]
            parts[0] = Part(rng.choice(known))
        if rng.random() < chance.quote_value:
            parts = _quote(parts, rng)
        if rng.random() < chance.change_edges:
            parts = _edges(parts, rng)
        if rng.random() < chance.change_case:
            parts = _recase(parts, rng)
        return Template(template.intent, tuple(part for part in parts if part.text))

    def _swap(self, intent: str, part: Part, rng: random.Random) -> Part:
        if part.slot is None or rng.random() < 0.4:
            return part
        key = self._pool(intent, part.slot)
        is_open = part.slot in OPEN
        if is_open and rng.random() < self.config.invent_value:
            return Part(self._invent(key, rng), part.slot)
        # In PlayMusic only knowing the work tells a track from an album, so they stay apart there.
        mixed = part.slot in TITLES and intent != "PlayMusic"
        if mixed and rng.random() < self.config.swap_other_slot:
            key = ("", "title")
        return Part(rng.choice(self.pools[key]), part.slot)

    def _invent(self, key: tuple[str, str], rng: random.Random) -> str:
        """A value nobody has heard of: words of like values shuffled, some made up."""
        count = rng.choice((1, 2, 2, 2, 3, 3, 4, 5))
        capital = rng.random() < 0.6
        words = []
        for _ in range(count):
            word = _gibberish(rng) if rng.random() < 0.25 else rng.choice(self.words[key])
            words.append(word[:1].upper() + word[1:] if capital else word)
        return " ".join(words)


def _gibberish(rng: random.Random) -> str:
    syllables = rng.choice((1, 2, 2, 3))
    return "".join(
        rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS) for _ in range(syllables)
    )


def _recase(parts: Sequence[Part], rng: random.Random) -> list[Part]:
    """Shout, whisper, or change the values' case only."""
    kind = rng.choice(("lower", "lower", "lower", "upper", "title", "values_lower"))
    changed = []
    for part in parts:
        text = part.text
        if kind == "lower" or (kind == "values_lower" and part.slot):
            text = text.lower()
        elif kind == "upper":
            text = text.upper()
        elif kind == "title" and part.slot:
            text = " ".join(word[:1].upper() + word[1:] for word in text.split(" "))
        changed.append(Part(text, part.slot))
    return changed


def _edges(parts: Sequence[Part], rng: random.Random) -> list[Part]:
    """Stray spaces, line ends and punctuation around the utterance, or a doubled space in it."""
    kind = rng.choice(("end", "end", "end", "start", "double", "bare"))
    if kind == "end":
        return [*parts, Part(rng.choice((" ", ".", "?", "!", "\n", " .", ". ", " please", "  ")))]
    if kind == "start":
        return [Part(rng.choice((" ", "  ", "please ", "Please ", "hey, "))), *parts]
    last = parts[-1]
    if kind == "bare" and last.slot is None:
        return [*parts[:-1], Part(last.text.rstrip(" .?!\n"))]
    literal = [i for i, part in enumerate(parts) if part.slot is None and " " in part.text]
    if kind == "double" and literal:
        chosen = rng.choice(literal)
        text = parts[chosen].text
        at = rng.choice([i for i, letter in enumerate(text) if letter == " "])
        return [*parts[:chosen], Part(text[:at] + " " + text[at:]), *parts[chosen + 1 :]]
    return list(parts)


def _quote(parts: Sequence[Part], rng: random.Random) -> list[Part]:
    """Quotes around one value (not part of it), or a quote or backslash inside it (part of it)."""
    values = [i for i, part in enumerate(parts) if part.slot in OPEN]
    if not values:
        return list(parts)
    chosen = rng.choice(values)
    value = parts[chosen]
    if rng.random() < 0.4:
        around = rng.choice(('"', '"', "'"))
        inner = [Part(around), value, Part(around)]
    else:
        words = value.text.split(" ")
        at = rng.randrange(len(words))
        words[at] = rng.choice(('"{}"', '"{}"', "{}\\{}", "\\{}", '{}"')).format(
            words[at], words[at]
        )
        inner = [Part(" ".join(words), value.slot)]
    return [*parts[:chosen], *inner, *parts[chosen + 1 :]]

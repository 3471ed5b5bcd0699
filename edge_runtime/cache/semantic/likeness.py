"""What two texts show of wanting the same answer, beside their embeddings. Pure.

Rules
- Symmetrical: which text came first makes no difference.
- A word is the more telling the rarer it is. How rare is counted once, on the questions that the
  score was fitted on; a word that never occurs there is as rare as can be.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

from edge_runtime.cache.semantic.gates import signature
from edge_runtime.cache.semantic.words import FUNCTION_WORDS, listed, tokens

FEATURES = (
    "cosine",
    "shared_content",
    "shared_trigrams",
    "least_unmatched",
    "most_unmatched",
    "replaced",
    "one_asks",
    "odd_poles",
    "length_gap",
    "shared_words",
    "least_missing",
    "most_missing",
    "shared_weight",
    "rarest_missing",
    "weight",
)
_ENDINGS = (
    listed("ations ation ings ing ied ies edly ed es s ly er e")  # longest first where nested
)


@dataclass(frozen=True)
class Rarity:
    """In how many of `texts` a stem occurs; those in fewer than `least` are not in `counts`."""

    texts: int
    least: int
    counts: Mapping[str, int]

    @cached_property
    def unknown(self) -> float:
        """The weight of a stem that is not in `counts`: the most there is."""
        return math.log(self.texts / self.least)

    @cached_property
    def weights(self) -> Mapping[str, float]:
        """How telling the other stems are: 0 for one in every text."""
        return {one: math.log(self.texts / (1 + times)) for one, times in self.counts.items()}

    @classmethod
    def of(cls, texts: Iterable[str], least: int) -> Rarity:
        """Counted on these texts, each once."""
        every = frozenset(texts)
        found = Counter(one for text in every for one in {stem(word) for word in tokens(text)})
        return cls(
            len(every), least, {one: times for one, times in found.items() if times >= least}
        )

    def weight(self, stem: str) -> float:
        """How telling a stem is."""
        return self.weights.get(stem, self.unknown)


def stem(word: str) -> str:
    """A word without its commonest English endings; crude, but the same for both texts."""
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            word = word[: -len(ending)]
            break
    if len(word) > 3 and word[-1] == word[-2]:
        word = word[:-1]
    return word[:-1] + "i" if len(word) > 3 and word.endswith("y") else word


@lru_cache(maxsize=4096)
def _parts(text: str) -> tuple[Counter[str], frozenset[str], frozenset[str], int]:
    """Stems of content words, trigrams of them, all words, and how many there are."""
    words = tokens(text)
    stems = [stem(word) for word in words if word not in FUNCTION_WORDS]
    joined = f" {' '.join(stems)} "
    trigrams = frozenset(joined[at : at + 3] for at in range(len(joined) - 2))
    return Counter(stems), trigrams, frozenset(words), len(words)


def features(first: str, second: str, cosine: float, rarity: Rarity) -> tuple[float, ...]:
    """The values of `FEATURES` for two texts. Costs some tens of microseconds."""
    one, one_trigrams, one_words, one_length = _parts(first)
    other, other_trigrams, other_words, other_length = _parts(second)
    lost, new = one - other, other - one
    missing, added = lost.total(), new.total()
    says, answers = signature(first), signature(second)
    weight = rarity.weight
    weights = sorted(
        math.fsum([times * weight(word) for word, times in some.items()]) for some in (lost, new)
    )
    shared = math.fsum([times * weight(word) for word, times in (one & other).items()])
    return (
        cosine,
        _jaccard(frozenset(one), frozenset(other)),
        _jaccard(one_trigrams, other_trigrams),
        min(missing, added, 3),
        min(max(missing, added), 5),
        float(bool(missing and added)),
        float(bool(says.asked) != bool(answers.asked)),
        min(len(says.poles ^ answers.poles), 3),
        abs(one_length - other_length) / max(one_length, other_length, 1),
        _jaccard(one_words, other_words),
        weights[0],
        weights[1],
        shared / (shared + sum(weights)) if shared else 0.0,
        max(map(weight, (*lost, *new)), default=0.0),
        shared,
    )


def _jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    return len(one & other) / max(1, len(one | other))

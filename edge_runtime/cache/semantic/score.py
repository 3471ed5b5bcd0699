"""How surely two texts want the same answer: one number in [0, 1]. Pure.

Rules
- A logistic regression over the cosine of the embeddings and over what the words themselves show.
  Its weights lie in `score.json`, with the encoder they were fitted for and the threshold that
  was certified; `python -m benchmarks.semantic_pairs fit` writes the file.
- Symmetrical: which text came first makes no difference.
- Only for pairs that passed the gates: without them no threshold on a cosine keeps false hits
  below 1 % (docs/benchmarks/semantic_cache.md).
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files

import orjson

from edge_runtime.cache.semantic.gates import signature
from edge_runtime.cache.semantic.words import FUNCTION_WORDS, listed, tokens
from edge_runtime.stats.logistic import Logistic

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
)
_ENDINGS = (
    listed("ations ation ings ing ied ies edly ed es s ly er e")  # longest first where nested
)


@dataclass(frozen=True, slots=True)
class Scorer:
    """A fitted score. `threshold` was certified at `alpha`, `delta` for pairs like those fitted."""

    model: Logistic
    encoder: str
    threshold: float
    alpha: float
    delta: float

    def score(self, first: str, second: str, cosine: float) -> float:
        """The score of two texts whose embeddings have this cosine."""
        row = features(first, second, cosine)
        total = self.model.bias
        columns = zip(row, self.model.weights, self.model.means, self.model.deviations, strict=True)
        total += sum(
            weight * (value - mean) / deviation for value, weight, mean, deviation in columns
        )
        return 1 / (1 + math.exp(-total)) if total > -700 else 0.0


@cache
def shipped() -> Scorer:
    """The score that comes with the package."""
    text = files("edge_runtime.cache.semantic").joinpath("score.json").read_bytes()
    return decode(text)


def decode(data: bytes) -> Scorer:
    """A scorer from the JSON of `score.json`. Raises `ValueError` when it fits another version."""
    value = orjson.loads(data)
    return Scorer(
        Logistic.from_parameters(value["parameters"], FEATURES),
        value["encoder"],
        float(value["threshold"]),
        float(value["alpha"]),
        float(value["delta"]),
    )


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


def features(first: str, second: str, cosine: float) -> tuple[float, ...]:
    """The values of `FEATURES` for two texts. Costs some tens of microseconds."""
    one, one_trigrams, one_words, one_length = _parts(first)
    other, other_trigrams, other_words, other_length = _parts(second)
    missing, added = (one - other).total(), (other - one).total()
    says, answers = signature(first), signature(second)
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
    )


def _jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    return len(one & other) / max(1, len(one | other))

"""What must agree in two texts before their likeness counts. Pure.

Rules
- Numbers with their units, codes (identifiers, times, versions, addresses), dates, currencies and
  the number of negations are equal, or the texts have different answers.
- A pole (`open` and `close`, `before` and `after`) that one text names and the other opposes keeps
  them apart, and so do different question words, and `from` and `to` the other way round.
- A gate never says that two texts mean the same. It only refuses; the score decides the rest.

Embeddings see little of this: "turn it on" and "turn it off" lie closer than most paraphrases.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from edge_runtime.cache.semantic.quantities import named, quantities
from edge_runtime.cache.semantic.words import (
    NEGATIONS,
    POLES,
    SWITCHED,
    SWITCHES,
    listed,
    tokens,
)

_ASKED = {
    "why": "reason",
    "reason": "reason",
    "reasons": "reason",
    "cause": "reason",
    "caused": "reason",
    "causing": "reason",
    "when": "time",
    "where": "place",
    "who": "person",
    "whom": "person",
    "whose": "person",
    "which": "choice",
}
_HOW = {
    "long": "time",
    "soon": "time",
    "much": "amount",
    "many": "amount",
    "often": "frequency",
    "old": "age",
    "far": "distance",
    "big": "size",
    "come": "reason",
}


_FACTS = frozenset(("reason", "amount", "time", "person", "age", "distance", "frequency"))
_REQUESTS = (
    ("help", "me"),
    ("can", "you"),
    ("could", "you"),
    ("will", "you"),
    ("would", "you"),
    ("want", "to"),
    ("need", "to"),
    ("like", "to"),
    ("please",),
)
_WANTING = (
    ("would", "like"),
    ("want", "my"),
    ("want", "a"),
    ("want", "the"),
    ("need", "my"),
    ("need", "a"),
    ("need", "the"),
)
_YES_OR_NO = frozenset(listed("is are am be do does did can could will would should may has have"))
_ACTIONS = frozenset(
    listed(
        "cancel freeze block unblock unfreeze pay transfer send order change set add remove book "
        "play start stop turn close open activate deactivate make schedule remind call reset "
        "report increase raise lower reduce move put switch delete update reserve rate dispute "
        "replace issue refund roll flip skip repeat speak sync connect disable enable"
    )
)
_GREETINGS = frozenset(listed("please hi hello hey ok okay just now kindly quickly and so"))
_SKIPPED = frozenset(listed("please help to me kindly just also quickly now be able go ahead and"))
_TELLING = frozenset(
    listed(
        "tell show give say explain know see find look check hear learn read list inform let "
        "get understand figure determine have name describe share provide i my the"
    )
)


@dataclass(frozen=True, slots=True)
class Signature:
    """What a text says outright. `exact` must be equal; the rest must not oppose each other."""

    exact: tuple[str, ...]
    poles: frozenset[str]
    asked: frozenset[str]
    action: bool
    telling: bool
    not_why: bool
    origins: tuple[str, ...]
    targets: tuple[str, ...]


@lru_cache(maxsize=4096)
def signature(text: str) -> Signature:
    """The signature of a text. Costs some tens of microseconds."""
    words = tokens(text)
    negations = sum(word in NEGATIONS for word in words)
    withouts = words.count("without")
    exact = [*quantities(words), *named(words), f"not {negations}", f"without {withouts}"]
    return Signature(
        tuple(sorted(exact)),
        _poles(words),
        _asked(words),
        *_form(words),
        _is_not_why(words),
        _after(words, "from"),
        _after(words, "to"),
    )


def refusal(first: str, second: str) -> str | None:
    """Why an answer to one text is none to the other; None when nothing speaks against it."""
    one, other = signature(first), signature(second)
    if one.exact != other.exact:
        return "numbers, codes, dates or negations differ"
    if any(_opposite(pole) in other.poles for pole in one.poles - other.poles):
        return "opposites"
    if one.asked and other.asked and one.asked != other.asked:
        return "different question words"
    if "amount" in one.asked & other.asked and "spent+" in one.poles ^ other.poles:
        return "one asks how much there is, the other how much is gone"
    if (one.action and _wants_fact(other)) or (other.action and _wants_fact(one)):
        return "one wants a fact, the other something done"
    if (one.not_why and "reason" in other.asked) or (other.not_why and "reason" in one.asked):
        return "one asks why"
    if set(one.origins) & set(other.targets) or set(one.targets) & set(other.origins):
        return "opposite directions"
    return None


def _opposite(pole: str) -> str:
    return pole[:-1] + ("-" if pole.endswith("+") else "+")


def _poles(words: Sequence[str]) -> frozenset[str]:
    found = {POLES[word] for word in words if word in POLES}
    for at, word in enumerate(words):
        near = words[max(0, at - 3) : at]
        if word in SWITCHES and (SWITCHED & set(near) or at == len(words) - 1):
            found.add(SWITCHES[word])
    return frozenset(found)


def _asked(words: Sequence[str]) -> frozenset[str]:
    found = {_ASKED[word] for word in words if word in _ASKED}
    for word, following in zip(words, [*words[1:], ""], strict=False):
        if word == "how":
            found.add(_HOW.get(following, "manner"))
        elif word == "possible" and words[:3] == ("how", "is", "it"):
            found = {"reason"}
        elif word in ("what", "which") and following in ("time", "date", "day"):
            found.add("time")
    return frozenset(found)


def _wants_fact(signature: Signature) -> bool:
    return signature.telling or bool(signature.asked & _FACTS)


def _is_not_why(words: Sequence[str]) -> bool:
    """True for what is no question of why and no complaint that could be one."""
    if "reason" in _asked(words):
        return False
    wishes = any(pair in _WANTING for pair in pairwise(words))
    asks = bool(words) and (words[0] in _YES_OR_NO or "what" in words or "which" in words)
    return asks or wishes or _form(words)[0]


def _form(words: Sequence[str]) -> tuple[bool, bool]:
    """Whether a text asks to do something, or to be told something; neither where it asks how."""
    if any(word in _ASKED or word == "how" for word in words):
        return False, False
    for at in range(len(words)):
        for opening in _REQUESTS:
            if tuple(words[at : at + len(opening)]) == opening:
                verb = next((one for one in words[at + len(opening) :] if one not in _SKIPPED), "")
                if verb:
                    return verb not in _TELLING, verb in ("tell", "know")
    first = next((one for one in words if one not in _GREETINGS), "")
    return first in _ACTIONS, tuple(words[:2]) in (("tell", "me"), ("let", "me"))


def _after(words: Sequence[str], preposition: str) -> tuple[str, ...]:
    """The content word behind each use of a preposition."""
    skipped = ("the", "my", "a", "an", "your", "our")
    found = []
    for at, word in enumerate(words):
        if word == preposition:
            rest = [one for one in words[at + 1 : at + 3] if one not in skipped]
            found += rest[:1]
    return tuple(found)

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

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from itertools import pairwise

from edge_runtime.cache.semantic.words import (
    CARDINALS,
    DATES,
    MULTIPLES,
    NEGATIONS,
    ORDINALS,
    POLES,
    SWITCHED,
    SWITCHES,
    UNITS,
    listed,
    tokens,
)

MAX_DIGITS = 20  # a longer number is compared as it is written
_NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?")
_ORDINAL = re.compile(r"(\d+)(?:st|nd|rd|th)")
_MEASURES = frozenset(
    listed("pound kg gram ounce mile km meter foot inch cm liter gallon celsius fahrenheit")
)
_QUANTIFIERS = frozenset(("all", "every", "only", "both", "half", "each", "everything"))
_CURRENCIES = frozenset(listed("usd eur gbp yen aud chf cad inr mxn"))
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
    exact = [*_quantities(words), *_named(words), f"not {negations}", f"without {withouts}"]
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


def _named(words: Sequence[str]) -> list[str]:
    """Dates, currencies, and tokens that are codes rather than words."""
    found = []
    for at, word in enumerate(words):
        beside = {*words[max(0, at - 1) : at], *words[at + 1 : at + 2]}
        if word in DATES:
            found.append(DATES[word])
        elif word == "may" and any(one[0].isdigit() or one in ORDINALS for one in beside):
            found.append("may")
        elif UNITS.get(word) in _CURRENCIES | _MEASURES:
            found.append(UNITS[word])
        elif word in _QUANTIFIERS or is_code(word):
            found.append(word)
    return sorted(set(found))


def is_code(word: str) -> bool:
    """True for what is neither a word nor a number: w2, 10:15, v1.2, a@b.c, A-17."""
    if _NUMBER.fullmatch(word) or _ORDINAL.fullmatch(word):
        return False
    return any(one.isdigit() for one in word) or any(one in "@/:_+#" for one in word[1:-1])


def _quantities(words: Sequence[str]) -> list[str]:
    """Every number with its unit, spelled alike however it was written."""
    found: list[str] = []
    at = 0
    while at < len(words):
        value, used = _number(words, at)
        if used == 0:
            at += 1
            continue
        before = UNITS.get(words[at - 1], "") if at else ""
        at += used
        after = UNITS.get(words[at], "") if at < len(words) else ""
        unit = after or (before if before in _CURRENCIES else "")
        found.append(f"{value} {unit}".strip())
    return found


def _number(words: Sequence[str], at: int) -> tuple[str, int]:
    """The number that begins at a place, and how many words it takes; 0 for none."""
    word = words[at]
    following = words[at + 1] if at + 1 < len(words) else ""
    if _NUMBER.fullmatch(word):
        written = word.replace(",", "")
        written = written.rstrip("0").rstrip(".") if "." in written else written
        if following in MULTIPLES and len(written) <= MAX_DIGITS:
            return _plain(Decimal(written) * MULTIPLES[following]), 2
        return written, 1
    if found := _ORDINAL.fullmatch(word):
        return found[1], 1
    if word in ORDINALS and not (word == "second" and following in ("", "s")):
        return str(ORDINALS[word]), 1
    if word == "one" and not (following in UNITS or following in MULTIPLES):
        return "", 0  # "a new one"
    value, used = _spelled(words, at)
    return str(value), used


def _plain(value: Decimal) -> str:
    whole = value.to_integral_value()
    return str(int(whole)) if value == whole else f"{value:f}".rstrip("0")


def _spelled(words: Sequence[str], at: int) -> tuple[int, int]:
    total, current, used = 0, 0, 0
    for word in words[at:]:
        if word in CARDINALS:
            if current % 100 and not (current % 10 == 0 and CARDINALS[word] < 10):
                break
            current += CARDINALS[word]
        elif word in MULTIPLES and used:
            current = max(current, 1) * MULTIPLES[word]
            if MULTIPLES[word] >= 1000:
                total, current = total + current, 0
        elif not (word == "and" and used and words[at + used - 1] in MULTIPLES):
            break
        used += 1
    while used and words[at + used - 1] == "and":
        used -= 1
    return total + current, used

"""Numbers with their units, dates, currencies and codes of a text. Pure; English.

What two texts must have in common before their likeness counts: spelled alike here however it
was written.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal

from edge_runtime.cache.semantic.words import (
    CARDINALS,
    DATES,
    MULTIPLES,
    ORDINALS,
    UNITS,
    listed,
)

MAX_DIGITS = 20  # a longer number is compared as it is written
_NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?")
_ORDINAL = re.compile(r"(\d+)(?:st|nd|rd|th)")
_MEASURES = frozenset(
    listed("pound kg gram ounce mile km meter foot inch cm liter gallon celsius fahrenheit")
)
_QUANTIFIERS = frozenset(("all", "every", "only", "both", "half", "each", "everything"))
_CURRENCIES = frozenset(listed("usd eur gbp yen aud chf cad inr mxn"))


def named(words: Sequence[str]) -> list[str]:
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


def quantities(words: Sequence[str]) -> list[str]:
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

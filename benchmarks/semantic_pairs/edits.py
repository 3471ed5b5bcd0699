"""The smallest changes that turn a question into one with another answer. Pure.

Each returns the changed text, or None where it does not apply. They are what an embedding sees
least: one word of a sentence, or only its order. Lower case goes in, lower case comes out.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable


def _list(text: str) -> list[str]:
    return text.split()


PHRASES = (
    ("turn on", "turn off"),
    ("turn up", "turn down"),
    ("turned on", "turned off"),
    ("switch on", "switch off"),
    ("volume up", "volume down"),
    ("speed up", "slow down"),
)
SWAPS = _list(
    """
    increase/decrease open/close before/after enable/disable activate/deactivate block/unblock
    freeze/unfreeze lock/unlock add/remove buy/sell send/receive start/stop raise/lower
    first/last more/less with/without cheapest/dearest highest/lowest today/tomorrow
    credit/debit savings/checking old/new maximum/minimum max/min morning/evening
    physical/virtual earliest/latest fastest/slowest incoming/outgoing allowed/forbidden
    best/worst higher/lower faster/slower deposit/withdraw accept/decline win/lose push/pull
    include/exclude import/export upload/download arrive/depart hot/cold yesterday/tomorrow
    increased/decreased activated/deactivated blocked/unblocked locked/unlocked opened/closed
    next/previous mother/father son/daughter husband/wife visa/mastercard apple/google
    weekday/weekend domestic/international front/rear always/never inside/outside dollars/euros
    usd/eur pounds/dollars gbp/usd miles/kilometers celsius/fahrenheit monday/thursday
    tuesday/friday wednesday/sunday january/june march/october april/september germany/france
    paris/london spain/italy chicago/boston denver/seattle texas/florida french/spanish
    german/italian japanese/chinese
    """
)
QUESTIONS = (
    ("how long", "how much"),
    ("how much", "how often"),
    ("how do i", "why do i"),
    ("how can i", "why can i"),
    ("how do you", "why do you"),
    ("how", "why"),
    ("when", "where"),
    ("where", "when"),
    ("why", "when"),
    ("who", "when"),
)
NEGATIONS = (
    ("i want", "i don't want"),
    ("i need", "i don't need"),
    ("i would like", "i would not like"),
    ("i have", "i haven't"),
    ("i did", "i didn't"),
    ("does my", "doesn't my"),
    ("is my", "isn't my"),
    ("is the", "is not the"),
    ("was", "wasn't"),
    ("will", "won't"),
    ("did", "didn't"),
    ("are", "are not"),
    ("is", "is not"),
    ("to", "not to"),
)
IMPERATIVES = _list(
    """
    tell show give play add book set make find put schedule remind call turn order pay transfer
    cancel change report freeze share start reset rate
    """
)
NUMBERS = _list(
    """
    one two three four five six seven eight nine ten eleven twelve fifteen twenty thirty forty
    fifty sixty seventy eighty ninety
    """
)
_TWO_WAYS = re.compile(r"\bfrom ((?:\w+ ){1,3}?)to ((?:\w+ ?){1,3})$")


def _replaced(text: str, old: str, new: str) -> str | None:
    changed, count = re.subn(rf"(?<![\w'-]){re.escape(old)}(?![\w'-])", new, text, count=1)
    return changed if count else None


def swap(text: str, rng: random.Random) -> str | None:
    """One word by its opposite, or by another of its kind."""
    pairs = [*PHRASES, *((pair.split("/")[0], pair.split("/")[1]) for pair in SWAPS)]
    both = pairs + [(second, first) for first, second in pairs]
    rng.shuffle(both)
    return next((one for old, new in both if (one := _replaced(text, old, new))), None)


def negate(text: str, rng: random.Random) -> str | None:
    """The same with a negation put in."""
    first = text.split(" ", 1)[0]
    if first in IMPERATIVES and rng.random() < 0.8:
        return f"don't {text}"
    return next((one for old, new in NEGATIONS if (one := _replaced(text, old, new))), None)


def renumber(text: str, rng: random.Random) -> str | None:
    """Another number: in digits with one digit changed, in words with another word."""
    places = [found.span() for found in re.finditer(r"\d", text)]
    if places:
        start, end = rng.choice(places)
        digit = rng.choice([one for one in "123456789" if one != text[start:end]])
        return text[:start] + digit + text[end:]
    found = [word for word in text.split() if word in NUMBERS[1:]]
    if not found:
        return None
    old = rng.choice(found)
    return _replaced(text, old, rng.choice([one for one in NUMBERS[1:] if one != old]))


def turn(text: str, rng: random.Random) -> str | None:
    """The other direction: from B to A."""
    del rng
    found = _TWO_WAYS.search(text.rstrip("?. "))
    if found is None or found[1].strip() == found[2].strip():
        return None
    return text[: found.start()] + f"from {found[2].strip()} to {found[1].strip()}"


def reask(text: str, rng: random.Random) -> str | None:
    """Another question word."""
    del rng
    return next((one for old, new in QUESTIONS if (one := _replaced(text, old, new))), None)


EDITS: dict[str, Callable[[str, random.Random], str | None]] = {
    "edit-number": renumber,
    "edit-direction": turn,
    "edit-swap": swap,
    "edit-negation": negate,
    "edit-question": reask,
}

"""When two labelled questions want the same answer: the rules that label the pairs. Pure.

Rules
- Written before the cache's gates, and never changed to suit them.
- Different intents want different answers. Equal intents do when their details are equal: for
  SNIPS the annotated slots; elsewhere numbers, the words of `FACETS`, and words that are rare
  within the intent (names, places, things).
- Different details make another answer only where they surely do: both name a number, date, place,
  bank or direction (`DECISIVE`) that the other does not; or annotated slots differ in more than
  `LOOSE` ones; or the intent is about a thing (`THINGS`) and the things share no word.
- An intent is closed when its label and the facets say what to answer (a help centre's page, a
  fact of the account). BANKING77 is closed throughout, CLINC150 where `CLOSED` says so.
- What the rules cannot tell is no pair at all.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

WORD = re.compile(r"[a-z0-9]+(?:'[a-z]+)?")
RARE_SHARE = 0.03  # a word in fewer of an intent's questions than this is a detail of its own


def _list(text: str) -> list[str]:
    return text.split()


CLOSED = frozenset(
    _list(
        """
    freeze_account routing pin_change account_blocked interest_rate min_payment bill_due
    bill_balance balance order_checks report_fraud replacement_card_duration expiration_date
    damaged_card improve_credit_score report_lost_card card_declined apr redeem_rewards
    credit_limit rewards_balance application_status credit_score new_card international_fees
    what_song next_song todo_list shopping_list current_location oil_change_when oil_change_how
    tire_pressure gas mpg last_maintenance gas_type tire_change jump_start date find_phone
    flip_coin roll_dice pto_request_status next_holiday insurance insurance_change payday taxes
    income rollover_401k pto_balance w2 direct_deposit pto_used who_made_you meaning_of_life
    who_do_you_work_for do_you_have_pets what_are_your_hobbies what_is_your_name
    where_are_you_from goodbye thank_you greeting tell_joke are_you_a_bot how_old_are_you
    what_can_i_ask_you sync_device reset_settings user_name lost_luggage carry_on
    """
    )
)
# Intents whose answer hangs on what was said before, or on nothing that the words say.
UNUSED = frozenset(("yes", "no", "maybe", "cancel", "repeat", "oos", "text", "change_user_name"))

GENERAL = frozenset(
    _list(
        """
    a an the this that these those it its i i'm i've i'd i'll me my mine you your you're we our
    us is are was were be been being am do does did done can could will would shall should may
    might must have has had having of in on at to for from by with about into as and or if so
    than then there here what what's whats which who who's whose how how's hows when where
    where's why please thanks thank hi hello hey ok okay just really actually also now
    currently right tell know want need like wanna would'd gonna help show give let get got
    find see say said explain question wondering wonder ask asking possible able going go make
    use using try trying some any much many more lot out up one all way thing something exactly
    still already yet again
    """
    )
)
FACETS = frozenset(
    _list(
        """
    savings saving checking credit debit visa mastercard amex discover chase citibank virtual
    america fargo wells citi barclays hsbc delta united southwest physical disposable apple
    google samsung atm cash cheque check online app first second third last next previous old
    new another additional extra spare today tomorrow yesterday tonight week month year day
    monday tuesday wednesday thursday friday saturday sunday january february march april june
    july august september october november december morning afternoon evening noon midnight
    weekend dollar dollars usd euro euros eur pound pounds gbp yen aud chf rupees pesos uk us
    usa eu europe france germany spain italy japan china india mexico canada australia russia
    russian england english french german spanish italian japanese chinese mom dad mother
    father wife husband friend friends child children kid kids daughter son boss not no don't
    can't cannot won't isn't doesn't didn't wasn't haven't hasn't couldn't never without unable
    before after abroad overseas international foreign minimum maximum max min limit high
    higher low lower highest lowest cheap cheapest best worst on off up down increase decrease
    raise reduce open close front rear left right federal state paper electric gas premium
    regular
    """
    )
)
DECISIVE = frozenset(
    _list(
        """
    savings checking visa mastercard amex discover chase america fargo citibank delta united
    virtual physical apple google monday tuesday wednesday thursday friday saturday sunday
    january february march april may june july august september october november december today
    tomorrow yesterday tonight morning afternoon evening uk france germany spain italy japan
    china india mexico canada french spanish german italian japanese chinese increase decrease
    first second third last next previous federal state mom dad mother father wife husband son
    daughter
    """
    )
)
THINGS = frozenset(
    _list(
        """
    translate definition spelling calories recipe timezone international_visa plug_type
    vaccines fun_fact cook_time food_last
    """
    )
)
LOOSE = frozenset(
    _list(
        """
    object_type rating_unit object_select music_item object_part_of_series_type movie_type
    object_location_type spatial_relation playlist_owner restaurant_type best_rating
    """
    )
)
NOW = frozenset({("now",), ("right", "now"), ("currently",)})
# What is asked for. Two questions that name different ones are no paraphrases for certain.
ASKED = (
    ("why", "reason", "cause"),
    ("when", "long", "soon", "date"),
    ("much", "cost", "costs", "fee", "fees", "charge", "charges", "price"),
    ("where",),
    ("who", "whom"),
    ("use", "using"),
)
NUMBERS = {
    word: str(value)
    for value, word in [
        *enumerate(
            [
                "zero",
                "one",
                "two",
                "three",
                "four",
                "five",
                "six",
                "seven",
                "eight",
                "nine",
                "ten",
                "eleven",
                "twelve",
                "thirteen",
                "fourteen",
                "fifteen",
                "sixteen",
                "seventeen",
                "eighteen",
                "nineteen",
                "twenty",
            ]
        ),
        *(
            (10 * at, word)
            for at, word in enumerate(
                ["thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety", "hundred"], 3
            )
        ),
        (1000, "thousand"),
        (1000000, "million"),
        (2, "twice"),
        (2, "double"),
        (12, "dozen"),
    ]
}
SYMBOLS = "$\u20ac\u00a3\u00a5%"


@dataclass(frozen=True, slots=True)
class Question:
    """One labelled question; `slots` only where the set annotates them."""

    text: str
    intent: str
    source: str
    slots: tuple[tuple[str, str], ...] | None = None


@dataclass(frozen=True, slots=True)
class Details:
    """What a question names: facets (numbers among them), and rare words."""

    facets: frozenset[str]
    rare: frozenset[str]


@lru_cache(maxsize=200_000)
def words(text: str) -> tuple[str, ...]:
    """Words in lower case, with typographic apostrophes made plain."""
    return tuple(
        WORD.findall(text.lower().replace("\u2019", "'").replace("w-2", "w2").replace("w2s", "w2"))
    )


def plain(text: str) -> str:
    """What is left of a question when case, punctuation and spacing are ignored."""
    return " ".join(words(text))


def vocabulary(questions: Iterable[Question]) -> dict[str, frozenset[str]]:
    """By intent, the words that are common in it."""
    seen: dict[str, Counter[str]] = {}
    count: Counter[str] = Counter()
    for question in questions:
        count[question.intent] += 1
        seen.setdefault(question.intent, Counter()).update(set(words(question.text)))
    return {
        intent: frozenset(
            word for word, times in counter.items() if times >= max(3, RARE_SHARE * count[intent])
        )
        for intent, counter in seen.items()
    }


@lru_cache(maxsize=200_000)
def details(question: Question, common: frozenset[str]) -> Details:
    """The details of a question, given its intent's common words."""
    found = {NUMBERS.get(word, word) if word != "one" else word for word in words(question.text)}
    facets = {word for word in found if word in FACETS or any(map(str.isdigit, word))}
    facets |= {symbol for symbol in SYMBOLS if symbol in question.text}
    return Details(frozenset(facets), frozenset(found - facets - GENERAL - common))


def _numbered(text: str) -> tuple[str, ...]:
    return tuple(NUMBERS.get(word, word) for word in words(text.replace("neighbour", "neighbor")))


def _same_slots(a: Question, b: Question) -> bool | None:
    assert a.slots is not None
    assert b.slots is not None
    if sorted(a.slots) == sorted(b.slots):
        return True
    first, second = (
        {_numbered(value) for name, value in one.slots or () if name not in LOOSE} for one in (a, b)
    )
    return None if first - NOW == second - NOW else False


def _asked(question: Question) -> frozenset[int]:
    found = set(words(question.text))
    return frozenset(at for at, some in enumerate(ASKED) if found & set(some))


def same_answer(a: Question, b: Question, common: dict[str, frozenset[str]]) -> bool | None:
    """True, False, or None where the rules cannot tell."""
    if a.source != b.source or a.intent in UNUSED or b.intent in UNUSED:
        return None
    if words(a.text) == words(b.text):
        return None
    if a.intent != b.intent:
        return False
    if a.slots is not None and b.slots is not None:
        return _same_slots(a, b)
    first, second = details(a, common[a.intent]), details(b, common[b.intent])
    if first == second:
        if _asked(a) and _asked(b) and _asked(a) != _asked(b):
            return None
        return True if a.source == "banking77" or a.intent in CLOSED or first.rare else None
    one, other = _decisive(first.facets), _decisive(second.facets)
    if one - other and other - one:
        return None if a.source == "banking77" else False
    if a.intent in THINGS and first.rare and second.rare and not first.rare & second.rare:
        return False
    return None


def _decisive(facets: frozenset[str]) -> frozenset[str]:
    return frozenset(one for one in facets if one in DECISIVE or any(map(str.isdigit, one)))

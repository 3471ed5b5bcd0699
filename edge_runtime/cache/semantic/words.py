"""Words that change an answer, and how a text is split into them. Pure; English.

The lists hold what is common to everyday questions, not the vocabulary of any one field. A word
missing here costs nothing but a chance: the score still sees that the texts differ.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

TOKEN = re.compile(
    r"[$\u20ac\u00a3\u00a5%]"
    r"|\d{1,3}(?:,\d{3})+(?:\.\d+)?"  # 1,000.50
    r"|\w[\w.@/:+#\-]*\w|\w",  # words, numbers, times, versions, addresses
)
_CONTRACTIONS = (
    (re.compile(r"\bcan't\b|\bcannot\b|\bcant\b"), "can not"),
    (re.compile(r"\bwon't\b|\bwont\b"), "will not"),
    (re.compile(r"(\w)n't\b"), r"\1 not"),
    (re.compile(r"\b(do|does|did|is|was|has|have|would|should|could)nt\b"), r"\1 not"),
    (re.compile(r"\b(what|who|how|where|when|why|it|that|there|here|let)'?s\b"), r"\1 is"),
    (re.compile(r"'m\b"), " am"),
    (re.compile(r"'re\b"), " are"),
    (re.compile(r"'ve\b"), " have"),
    (re.compile(r"'ll\b"), " will"),
    (re.compile(r"'d\b"), " would"),
    (re.compile(r"'s\b|s'(?=\s|$)|'"), ""),
    (re.compile(r"\bi am\b"), "i be"),
    (re.compile(r"\b([ap])\.\s?m\.?(?=\W|$)"), r"\1m"),
    (re.compile(r"(\d)\s?([ap])m\b"), r"\1 \2m"),
    (re.compile(r"\b(\w+)-(?=[a-z])"), r"\1 "),  # top-up, to-do
    (re.compile(r"\bw-?2s?\b"), "w2"),
)


def listed(text: str) -> tuple[str, ...]:
    """The words of a text."""
    return tuple(text.split())


def table(text: str) -> dict[str, str]:
    """`name: word word ...` a line, as name by word."""
    rows = (line.partition(":") for line in text.strip().splitlines())
    return {word: name.strip() for name, _, words in rows for word in words.split()}


@lru_cache(maxsize=4096)
def tokens(text: str) -> tuple[str, ...]:
    """Words, numbers and signs in lower case, contractions written out."""
    plain = unicodedata.normalize("NFKC", text).lower().replace("\u2019", "'")
    for pattern, written in _CONTRACTIONS:
        plain = pattern.sub(written, plain)
    return tuple(one.rstrip(".:/-") for one in TOKEN.findall(plain))


CARDINALS = {
    word: value
    for value, word in enumerate(
        listed(
            "zero one two three four five six seven eight nine ten eleven twelve thirteen "
            "fourteen fifteen sixteen seventeen eighteen nineteen twenty"
        )
    )
} | {
    word: 10 * value
    for value, word in enumerate(listed("thirty forty fifty sixty seventy eighty ninety"), 3)
}
MULTIPLES = {"hundred": 100, "thousand": 1000, "k": 1000, "million": 1_000_000}
ORDINALS = {
    word: value
    for value, word in enumerate(
        listed(
            "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth "
            "thirteenth fourteenth fifteenth"
        ),
        1,
    )
}
UNITS = table(
    """
    second: second seconds sec secs
    minute: minute minutes min mins
    hour: hour hours hr hrs
    day: day days
    week: week weeks
    month: month months
    year: year years yr yrs
    am: am a.m
    pm: pm p.m
    oclock: oclock
    percent: percent % pct
    usd: $ dollar dollars usd bucks buck
    eur: \u20ac euro euros eur
    gbp: \u00a3 gbp sterling
    yen: \u00a5 yen jpy
    pound: pound pounds lb lbs
    kg: kg kilo kilos kilogram kilograms
    gram: gram grams g
    ounce: ounce ounces oz
    mile: mile miles mi
    km: km kilometer kilometers kilometre kilometres
    meter: meter meters metre metres
    foot: feet foot ft
    inch: inch inches
    cm: cm centimeter centimeters
    liter: liter liters litre litres
    cup: cup cups
    gallon: gallon gallons
    teaspoon: teaspoon teaspoons tsp
    tablespoon: tablespoon tablespoons tbsp
    degree: degree degrees
    celsius: celsius centigrade
    fahrenheit: fahrenheit
    star: star stars
    aud: aud
    chf: chf
    cad: cad
    inr: inr rupee rupees
    mxn: peso pesos mxn
    """
)
DATES = table(
    """
    jan: january jan
    feb: february feb feburary
    mar: march mar
    apr: april
    jun: june jun
    jul: july jul
    aug: august aug
    sep: september sept sep
    oct: october oct
    nov: november nov
    dec: december dec
    mon: monday
    tue: tuesday
    wed: wednesday
    thu: thursday
    fri: friday
    sat: saturday
    sun: sunday
    today: today todays
    tonight: tonight
    tomorrow: tomorrow tomorrows
    yesterday: yesterday yesterdays
    morning: morning
    afternoon: afternoon
    evening: evening
    noon: noon midday
    midnight: midnight
    weekend: weekend
    weekday: weekday weekdays
    """
)
NEGATIONS = frozenset(
    listed("not no never without none neither nor nothing nobody unable cannot n't isnt")
)
# Poles of one axis: `axis+` and `axis-` are opposites. Words of one pole mean the same.
POLES = table(
    """
    amount+: increase increased increases increasing raise raised raising higher boost
    amount-: decrease decreased decreases decreasing lower lowered lowering reduce reduced
    speed+: faster quicker fastest quickest
    speed-: slower slow slowest
    open+: open opened opening
    open-: close closed closing shut terminate
    able+: enable enabled activate activated activating activation reactivate
    able-: disable disabled deactivate deactivated
    block+: block blocked freeze frozen froze lock locked
    block-: unblock unblocked unfreeze unfrozen unlock unlocked
    add+: add added adding include included
    add-: remove removed removing delete deleted exclude excluded erase
    trade+: buy bought purchase purchased
    trade-: sell sold selling
    send+: send sent sending
    send-: receive received receiving receives
    money+: deposit deposited
    money-: withdraw withdrew withdrawn withdrawal withdrawing withdrawals withdraws
    start+: start started begin
    start-: stop stopped end ended halt quit
    order+: after next following later upcoming
    order-: before previous last prior earlier past latest
    age+: new newest newer
    age-: old older oldest
    extreme+: maximum max most highest largest biggest best longest
    extreme-: minimum min least lowest smallest worst shortest cheapest
    more+: more another additional extra
    more-: less fewer
    accept+: accept accepted accepts approve approved allow allowed
    accept-: decline declined decline reject rejected deny denied refuse refused forbidden
    direction+: incoming inbound import upload arrive arrived arriving arrival arrives
    direction-: outgoing outbound export download depart departing departure departs
    inside+: domestic inside internal weekday
    inside-: international abroad overseas outside external foreign weekend
    side+: front left
    side-: rear back right-hand
    card+: credit
    card-: debit
    account+: savings saving
    account-: checking current-account
    body+: physical plastic
    body-: virtual digital
    win+: win won gain
    win-: lose lost loss
    parent+: mother mom mum
    parent-: father dad
    child+: daughter
    child-: son
    spouse+: wife
    spouse-: husband
    often+: always
    often-: never
    heat+: hot hotter warm
    heat-: cold colder chilly cool
    spent+: used spent taken
    spent-: left remaining remain
    with-: without
    dear+: expensive
    dear-: cheap cheaper
    """
)
SWITCHED = frozenset(listed("turn turned turning switch switched put power powered set volume it"))
SWITCHES = {"on": "power+", "off": "power-", "up": "level+", "down": "level-"}
FUNCTION_WORDS = frozenset(
    listed("""
    a an the this that these those it its i me my mine myself you your yours we our us they them
    their he she his her is are was were be been being am do does did doing done can could will
    would shall should may might must have has had having of in on at to for from by with about
    into as and or if so than then there here what which who whom whose how when where why please
    thanks thank hi hello hey ok okay just really actually also now currently right tell know want
    need like wanna gonna help show give let get getting got find see say explain question
    wondering wonder ask asking possible able go going make use using try trying some any much many
    lot out up all way ways thing something exactly still already yet again too very want wanting
    looking look check kindly quickly ai hey want'd im ive id would'nt whats
    """)
)

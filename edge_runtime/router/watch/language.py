"""A cheap guess of a text's language, for slices. Pure.

Rules
- A guess for counting, not for routing: it looks at scripts, then at stop words, and says
  `unknown` sooner than something wrong. Short texts of Latin script often are.
- What the caller said wins, if it has the form of a language tag.
"""

from __future__ import annotations

import re

UNKNOWN = "unknown"
LOOKED_AT_CHARS = 400

_TAG = re.compile(r"^([a-z]{2,3})(?:[-_][A-Za-z0-9]{1,8})*$")
_WORD = re.compile(r"[^\W\d_]+")

# First and last code point of a script that (nearly) is one language's, or names a family.
_SCRIPTS = (
    (0x0370, 0x03FF, "el"),
    (0x0400, 0x052F, "ru"),
    (0x0590, 0x05FF, "he"),
    (0x0600, 0x06FF, "ar"),
    (0x0900, 0x097F, "hi"),
    (0x0E00, 0x0E7F, "th"),
    (0x3040, 0x30FF, "ja"),
    (0x4E00, 0x9FFF, "zh"),
    (0xAC00, 0xD7AF, "ko"),
)

_STOP_WORDS = {
    "en": "the and is are you my to of what how can i me in for on it do please with this that",
    "de": "der die das und ist ich nicht ein eine zu wie was mein mir bitte mit auf für den im",
    "fr": "le la les et est je un une des que pour dans mon ma pas vous avec sur du quel au",
    "es": "el los las y es un una que por para en mi con cómo qué cuál del se al está",
    "it": "il lo gli e è un una che per di mio mia non con come sono della nel quanto",
    "pt": "o os as e é um uma que por para em meu minha não com como do da qual no",
    "nl": "de het een en is ik niet van mijn wat hoe voor met op te naar kan je dat",
}
_LANGUAGES_OF: dict[str, tuple[str, ...]] = {}
for _language, _words in _STOP_WORDS.items():
    for _one in _words.split():
        _LANGUAGES_OF[_one] = (*_LANGUAGES_OF.get(_one, ()), _language)


def language_of(text: str, said: str = "") -> str:
    """A two- or three-letter code, or `unknown`. `said` is the caller's tag, such as `de-CH`."""
    tag = _TAG.match(said.strip()) if said else None
    if tag is not None:
        return tag[1]
    looked_at = text[:LOOKED_AT_CHARS]
    return _by_script(looked_at) or _by_words(looked_at) or UNKNOWN


def _by_script(text: str) -> str | None:
    counts: dict[str, int] = {}
    letters = 0
    for sign in text:
        if not sign.isalpha():
            continue
        letters += 1
        code = ord(sign)
        for first, last, language in _SCRIPTS:
            if first <= code <= last:
                counts[language] = counts.get(language, 0) + 1
                break
    if "ja" in counts:  # Japanese mixes its own signs with Chinese ones
        counts["ja"] += counts.pop("zh", 0)
    best = max(counts, key=lambda one: counts[one], default=None)
    return best if best is not None and 2 * counts[best] > letters else None


def _by_words(text: str) -> str | None:
    counts: dict[str, float] = {}
    for word in _WORD.findall(text.lower()):
        shared = _LANGUAGES_OF.get(word, ())
        for language in shared:
            counts[language] = counts.get(language, 0.0) + 1 / len(shared)
    ranked = sorted(counts.items(), key=lambda one: -one[1])
    if not ranked:
        return None
    second = ranked[1][1] if len(ranked) > 1 else 0.0
    return ranked[0][0] if ranked[0][1] >= 1 and ranked[0][1] > second else None

"""Take what names people, accounts and keys out of texts. Pure.

Rules
- What is found becomes a word in angle brackets that says what stood there, such as `<email>`:
  a model trained on it learns that something stood there, not what.
- When in doubt it goes: a long run of digits is taken out also where it is no account.
- Names, addresses and what only context gives away are not found. Redaction lowers a risk; it
  does not make a text anonymous.

Order matters: keys first, since they may hold digits; cards and IBANs before plain digits.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

MAX_DEPTH = 64

_PRIVATE_KEY = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL
)
_JWT = re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*")
_KEY = re.compile(
    r"\b(?:sk|pk|rk|xox[abeoprs]|gh[oprsu]|glpat|hf|npm|pypi|AIza|ya29)[-_.]?[\w-]{16,}"
    r"|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"
    r"|\bgithub_pat_\w{20,}"
)
_BEARER = re.compile(r"\b(bearer|basic)\s+[\w.~+/-]{12,}=*", re.IGNORECASE)
_ASSIGNED = re.compile(
    r"(\b(?:api[_-]?key|secret|token|password|passwd|pwd)\b[\"']?\s*[:=]\s*)[\"']?[^\s\"',;}]{6,}",
    re.IGNORECASE,
)
_URL_LOGIN = re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^\s/@:]+:[^\s/@]+@", re.IGNORECASE)
_EMAIL = re.compile(r"[\w.!#$%&'*+/=?^`{|}~-]+@[\w-]+(?:\.[\w-]+)+")
_IBAN = re.compile(r"\b[A-Za-z]{2}\d{2}(?:[ -]?[A-Za-z0-9]){11,40}\b")
_IBAN_FORM = re.compile(r"[A-Z]{2}\d{2}[A-Z0-9]{11,30}")
_CARD = re.compile(r"(?<!\d)\d(?:[ -]?\d){12,40}(?!\d)")
_PHONE = re.compile(r"(?<![\w.])(?:\+|00)?\(?\d[\d ().\-/]{5,20}\d(?![\w])")
_DATE = re.compile(r"^\d{4}-\d{1,2}-\d{1,2}|^\d{1,2}[./-]\d{1,2}[./-]\d{2,4}\b")
_DIGITS = re.compile(r"\d{7,}")


def redact(text: str) -> str:
    """The text with everything found replaced. Costs one pass for each kind."""
    text = _PRIVATE_KEY.sub("<key>", text)
    text = _URL_LOGIN.sub(r"\1<login>@", text)
    text = _JWT.sub("<key>", text)
    text = _KEY.sub("<key>", text)
    text = _BEARER.sub(r"\1 <key>", text)
    text = _ASSIGNED.sub(r"\1<key>", text)
    text = _EMAIL.sub("<email>", text)
    text = _IBAN.sub(_replacing(is_iban, "<iban>"), text)
    text = _CARD.sub(_replacing(is_card, "<card>"), text)
    text = _PHONE.sub(lambda match: "<phone>" if is_phone(match[0]) else match[0], text)
    return _DIGITS.sub("<number>", text)


def redact_json(value: Any, depth: int = 0) -> Any:
    """The same for every text in a JSON value, keys of objects included.

    What lies deeper than `MAX_DEPTH` is replaced as a whole.
    """
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping | list | tuple):
        if depth >= MAX_DEPTH:
            return "<deep>"
        if isinstance(value, Mapping):
            return {redact(str(key)): redact_json(one, depth + 1) for key, one in value.items()}
        return [redact_json(one, depth + 1) for one in value]
    # A number as long as an account's is one.
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**6:
        return "<number>"
    return value


def is_card(text: str) -> bool:
    """Whether the digits are a card number by length and check digit (Luhn, ISO/IEC 7812-1)."""
    digits = [int(one) for one in text if one.isdigit()]
    if not 13 <= len(digits) <= 19 or len(set(digits)) == 1 or not text[-1].isdigit():
        return False
    doubled = (sum(divmod(2 * one, 10)) for one in digits[-2::-2])
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def is_iban(text: str) -> bool:
    """Whether it is an IBAN by its check digits (ISO 13616: remainder 1 modulo 97)."""
    clean = re.sub(r"[ -]", "", text).upper()
    if _IBAN_FORM.fullmatch(clean) is None or not text[-1].isalnum():
        return False
    moved = clean[4:] + clean[:4]
    return int("".join(str(int(one, 36)) for one in moved)) % 97 == 1


def is_phone(text: str) -> bool:
    """Whether there are as many digits as telephone numbers have, and it is no date."""
    digits = sum(one.isdigit() for one in text)
    return 7 <= digits <= 15 and _DATE.match(text.strip("( ")) is None


def _replacing(check: Callable[[str], bool], word: str) -> Callable[[re.Match[str]], str]:
    """Replaces the longest part of a match that passes the check.

    A pattern may take in what stands before or after: `2 times 4111 1111 1111 1111 12/26`.
    """

    def replaced(match: re.Match[str]) -> str:
        text = match[0]
        starts = [at for at in range(len(text)) if at == 0 or text[at - 1] in " -"]
        for size in range(len(text), 0, -1):
            for start in starts:
                part = text[start : start + size]
                if len(part) == size and check(part):
                    return f"{text[:start]}{word}{text[start + size :]}"
        return text

    return replaced

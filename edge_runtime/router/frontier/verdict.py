"""What a frontier's answer means: status and body in, a verdict out. Pure.

Rules
- Every way a try can end without an acceptable answer is one `Verdict`; nothing else decides
  what callers are told, whether the try is repeated, and what the breaker learns from it.
- A frontier that answers is alive, also when it says no: only timeouts, broken connections and
  5xx count as failures. A 429 is a pause. No credit is neither.
- Providers say "no credit" in several ways: 402; 429, 403 or 400 with a code about quota or
  billing.
"""

from __future__ import annotations

import enum
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from typing import Any

from edge_runtime.router.contract import FrontierWhy

MAX_MESSAGE_CHARS = 300

_CREDIT_CODES = frozenset(
    {
        "insufficient_quota", "insufficient_funds", "insufficient_balance", "billing_error",
        "billing_hard_limit_reached", "billing_not_active", "budget_exceeded", "credit_exhausted",
        "quota_exceeded", "payment_required", "out_of_credit",
    }
)  # fmt: skip
_CREDIT_PHRASES = (
    "exceeded your current quota", "insufficient quota", "insufficient balance",
    "credit balance is too low", "budget has been exceeded", "exceeded budget",
    "billing hard limit", "out of credit", "insufficient credits",
)  # fmt: skip


class Health(enum.StrEnum):
    """What the breaker learns from a try."""

    ALIVE = "alive"
    FAILURE = "failure"
    PAUSE = "pause"
    CREDIT = "credit"
    UNKNOWN = "unknown"  # the caller's doing, not the frontier's


class Repeat(enum.StrEnum):
    """Whether the same request may be sent once more."""

    SAME = "same"  # to this frontier, or another
    LATER = "later"  # to this frontier after a pause, or another at once
    NEXT = "next"  # to another only
    NEVER = "never"


class Billed(enum.StrEnum):
    """Whether the frontier will charge for a try that failed."""

    NO = "no"
    PERHAPS = "perhaps"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a try gave no acceptable answer, and what follows."""

    why: FrontierWhy
    message: str
    health: Health
    repeat: Repeat
    billed: Billed = Billed.NO
    retry_after_s: float | None = None


NOT_REACHED = Verdict(FrontierWhy.UNREACHABLE, "cannot be reached", Health.FAILURE, Repeat.SAME)
BROKE_OFF = Verdict(
    FrontierWhy.UNREACHABLE,
    "broke off before its answer was whole",
    Health.FAILURE,
    Repeat.SAME,
    Billed.PERHAPS,
)
NO_FIRST_TOKEN = Verdict(
    FrontierWhy.TIMEOUT, "sent no token in time", Health.FAILURE, Repeat.LATER, Billed.PERHAPS
)
TOO_SLOW = Verdict(
    FrontierWhy.TIMEOUT, "took too long", Health.FAILURE, Repeat.LATER, Billed.PERHAPS
)
PAST_DEADLINE = Verdict(
    FrontierWhy.TIMEOUT,
    "had not answered when the caller's time was over",
    Health.UNKNOWN,
    Repeat.NEVER,
    Billed.PERHAPS,
)
MALFORMED = Verdict(
    FrontierWhy.UNREACHABLE,
    "answered something that is no chat completion",
    Health.FAILURE,
    Repeat.NEXT,
    Billed.PERHAPS,
)
TOO_LARGE = Verdict(
    FrontierWhy.REFUSED,
    "answered more than is read here",
    Health.ALIVE,
    Repeat.NEXT,
    Billed.PERHAPS,
)
PAST_DEADLINE_AND_SLOW = replace(PAST_DEADLINE, health=Health.FAILURE)
BUSY = Verdict(
    FrontierWhy.RATE_LIMITED,
    "has as many of our calls as the settings allow",
    Health.UNKNOWN,
    Repeat.NEXT,
    retry_after_s=1.0,
)
CANCELLED = Verdict(
    FrontierWhy.CUT, "was told to stop", Health.UNKNOWN, Repeat.NEVER, Billed.PERHAPS
)


def refused(fault: str) -> Verdict:
    """The answer came, whole, and `fault` is why it is not taken."""
    message = f"gave an answer that is not taken: {_short(fault)}"
    return Verdict(FrontierWhy.REFUSED, message, Health.ALIVE, Repeat.NEXT, Billed.PERHAPS)


def no_money(reason: str, opens_in_s: float | None) -> Verdict:
    """A budget of ours forbids the call. A cheaper frontier may still fit."""
    return Verdict(
        FrontierWhy.BUDGET, reason, Health.UNKNOWN, Repeat.NEXT, retry_after_s=opens_in_s
    )


def of_status(status: int, body: bytes, retry_after_s: float | None = None) -> Verdict | None:
    """The verdict on an answer's status; None for a 200, whose body has to be looked at."""
    if status == 200:
        return None
    error = error_of(body)
    said = f"answered {status}: {_said(error, body)}"
    if status == 402 or (status in (400, 403, 429) and _is_credit(error)):
        return Verdict(
            FrontierWhy.OUT_OF_CREDIT,
            said,
            Health.CREDIT,
            Repeat.NEXT,
            retry_after_s=retry_after_s,
        )
    if status == 429:
        return Verdict(
            FrontierWhy.RATE_LIMITED,
            said,
            Health.PAUSE,
            Repeat.LATER,
            retry_after_s=retry_after_s,
        )
    if status in (408, 504, 524):
        return Verdict(
            FrontierWhy.TIMEOUT, said, Health.FAILURE, Repeat.SAME, retry_after_s=retry_after_s
        )
    if status in (409, 425) or status >= 500:
        # A 503 that says when to come back is overload, which one waits out.
        return Verdict(
            FrontierWhy.UNREACHABLE,
            said,
            Health.FAILURE if status >= 500 else Health.ALIVE,
            Repeat.SAME,
            retry_after_s=retry_after_s,
        )
    if status in (401, 403, 404, 405, 407) or 200 < status < 400:
        # Wrong key, address or model: the settings' fault, so another frontier may well answer.
        return Verdict(
            FrontierWhy.UNREACHABLE, f"{said}; check its settings", Health.FAILURE, Repeat.NEXT
        )
    return Verdict(FrontierWhy.BAD_REQUEST, said, Health.ALIVE, Repeat.NEVER)


def of_event(error: object) -> Verdict:
    """The verdict on an error that arrived inside a stream."""
    found = dict(error) if isinstance(error, Mapping) else {"message": str(error)}
    if _is_credit(found):
        said = f"stopped its stream: {_said(found, b'')}"
        return Verdict(FrontierWhy.OUT_OF_CREDIT, said, Health.CREDIT, Repeat.NEXT, Billed.PERHAPS)
    said = f"stopped its stream: {_said(found, b'')}"
    return Verdict(FrontierWhy.UNREACHABLE, said, Health.FAILURE, Repeat.SAME, Billed.PERHAPS)


def retry_after(headers: Mapping[str, str], now_s: float) -> float | None:
    """Seconds by `retry-after-ms` or `Retry-After`, also as a date; `now_s` since 1970.

    None where there is none, or it makes no sense. Header names in lower case.
    """
    for name, scale in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        text = headers.get(name, "").strip()
        try:
            seconds = float(text) * scale
        except ValueError:
            continue
        if math.isfinite(seconds) and seconds >= 0:
            return seconds
    try:
        at = parsedate_to_datetime(headers.get("retry-after", ""))
        return max(0.0, at.timestamp() - now_s)
    except (ValueError, OverflowError):
        return None


def error_of(body: bytes) -> dict[str, Any]:
    """The `error` object of a refusal, empty where there is none."""
    try:
        whole = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    found = whole.get("error", whole) if isinstance(whole, dict) else whole
    if isinstance(found, str):
        return {"message": found}
    return found if isinstance(found, dict) else {}


def _is_credit(error: Mapping[str, Any]) -> bool:
    named = {str(error.get(key, "")).lower() for key in ("code", "type")}
    message = str(error.get("message", "")).lower()
    return bool(named & _CREDIT_CODES) or any(phrase in message for phrase in _CREDIT_PHRASES)


def _said(error: Mapping[str, Any], body: bytes) -> str:
    message = error.get("message")
    return _short(str(message) if message else body[:1200].decode("utf-8", "replace")) or "nothing"


def _short(text: str) -> str:
    clean = " ".join(text.split())
    return clean if len(clean) <= MAX_MESSAGE_CHARS else clean[: MAX_MESSAGE_CHARS - 1] + "…"

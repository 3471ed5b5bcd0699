"""What a stand-in for a frontier answers, how it fails, and what it bills. Pure.

Rules
- What is answered depends on the request and the seed alone; which transient fault comes (stall,
  429, 5xx, cut) also on how often that request was seen, so that a repeat may fare better.
- Every token that was made is billed, also of streams that were cut. A refusal by status is not.
- Tokens are words and marks; a leading part of the prompt that an earlier request had counts as
  cached, in whole messages.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from edge_runtime.ledger.cost import frontier_cost
from edge_runtime.ledger.money import NANO
from edge_runtime.ledger.prices import FrontierPrice
from edge_runtime.ledger.rows import Tokens

_TOKEN = re.compile(r"\w+|[^\w\s]")
MESSAGE_OVERHEAD = 3  # tokens of a chat template around each message
REFUSAL = "I'm sorry, but I can't help with that."
KEPT_ENTRIES = 100_000

FAULTS = ("stall", "rate_limit", "out_of_credit", "server_error", "cut", "malformed")


@dataclass(frozen=True, slots=True)
class Behaviour:
    """Shares of requests (0 to 1) and times; all can be changed while the server runs.

    `wrong`, `refuse` and `off_label` are shares of answers; the rest are faults. `credit_nano`
    is how much may be billed before every request gets a 402; negative is without end.
    """

    seed: int = 0
    wrong: float = 0.03
    refuse: float = 0.0
    off_label: float = 0.0
    stall: float = 0.0
    rate_limit: float = 0.0
    out_of_credit: float = 0.0
    server_error: float = 0.0
    cut: float = 0.0
    malformed: float = 0.0
    stall_s: float = 30.0
    first_token_s: float = 0.0
    token_s: float = 0.0
    retry_after_s: float = 1.0
    credit_nano: int = -1

    def __post_init__(self) -> None:
        for name in ("wrong", "refuse", "off_label", *FAULTS):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share: give a number from 0 to 1")
        for name in ("stall_s", "first_token_s", "token_s", "retry_after_s"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is a time: give 0 or more seconds")

    def changed(self, values: Mapping[str, Any]) -> Behaviour:
        """The same with some values replaced. Raises `ValueError` for a name it has not."""
        known = {one.name for one in fields(self)}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"no such behaviour: {', '.join(unknown)}")
        return Behaviour(**{name: values.get(name, getattr(self, name)) for name in known})


@dataclass(frozen=True, slots=True)
class Answer:
    """The text to give, and which kind it is: `right`, `wrong`, `refused`, `off_label`."""

    text: str
    kind: str


class Oracle:
    """Knows the right answers; `table` maps an utterance to a label, or to a whole answer.

    `user_template` is how escalation writes the utterance into the user's message.
    """

    def __init__(
        self, table: Mapping[str, str], *, user_template: str = "{input}", unknown: str = "none"
    ) -> None:
        before, found, after = user_template.partition("{input}")
        if not found:
            raise ValueError("the user template must hold {input}")
        self._table = dict(table)
        self._answers = sorted(set(table.values()))
        self._before, self._after = before, after
        self._unknown = unknown

    def answer(self, body: Mapping[str, Any], behaviour: Behaviour) -> Answer:
        """What is answered to a chat body."""
        text = utterance(body, self._before, self._after)
        right = self._table.get(text, self._unknown)
        drawn = share(behaviour.seed, "answer", text)
        kind, said = "right", right
        if drawn < behaviour.refuse:
            return Answer(REFUSAL, "refused")
        if drawn < behaviour.refuse + behaviour.off_label:
            kind, said = "off_label", f"not_a_label_{int(drawn * 1e9) % 97}"
        elif drawn < behaviour.refuse + behaviour.off_label + behaviour.wrong:
            kind, said = "wrong", self._other(right, text, behaviour.seed)
        return Answer(_dressed(said, body), kind)

    def _other(self, right: str, text: str, seed: int) -> str:
        others = [one for one in self._answers if one != right] or [self._unknown]
        return others[int(share(seed, "other", text) * len(others))]


def utterance(body: Mapping[str, Any], before: str = "", after: str = "") -> str:
    """The text that the last user message asks about."""
    for message in reversed(body.get("messages", ())):
        if message.get("role") == "user":
            content = str(message.get("content"))
            return content.removeprefix(before).removesuffix(after)
    return ""


def fault_of(body: Mapping[str, Any], nth: int, behaviour: Behaviour) -> str | None:
    """Which of `FAULTS` this request meets the `nth` time it is seen (from 0)."""
    drawn = share(behaviour.seed, "fault", fingerprint(body), str(nth))
    for name in FAULTS:
        chance: float = getattr(behaviour, name)
        if drawn < chance:
            return name
        drawn -= chance
    return None


def fingerprint(body: Mapping[str, Any]) -> str:
    """The same for the same conversation, whoever asks and however it is delivered."""
    text = json.dumps(body.get("messages"), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def share(seed: int, *parts: str) -> float:
    """A number of [0, 1) drawn from the seed and the texts."""
    data = json.dumps([seed, *parts]).encode()
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big") / 2**64


def tokens_of(text: str) -> list[str]:
    """Words and marks; each keeps the blanks before it, so that joined they are the text."""
    found, start = [], 0
    for match in _TOKEN.finditer(text):
        found.append(text[start : match.end()])
        start = match.end()
    if found:
        found[-1] += text[start:]
    return found


@dataclass(slots=True)
class Meter:
    """The stand-in's own bill, to the nano-unit. `entries` are the newest requests."""

    price: FrontierPrice
    nano: int = 0
    requests: int = 0
    tokens_in: int = 0
    tokens_cached: int = 0
    tokens_out: int = 0
    entries: list[dict[str, Any]] = field(default_factory=list)
    _prefixes: set[str] = field(default_factory=set)

    def prompt(self, body: Mapping[str, Any]) -> Tokens:
        """Prompt tokens, and those of leading messages that were sent before."""
        counted = cached = 0
        digest = hashlib.sha256()
        known = True
        for message in body.get("messages", ()):
            text = json.dumps(message, sort_keys=True, ensure_ascii=False)
            counted += MESSAGE_OVERHEAD + len(tokens_of(str(message.get("content"))))
            digest.update(text.encode() + b"\n")
            known = known and digest.hexdigest() in self._prefixes
            if known:
                cached = counted
            elif len(self._prefixes) < KEPT_ENTRIES:
                self._prefixes.add(digest.hexdigest())
        return Tokens(counted, cached)

    def book(
        self, tokens: Tokens, *, kind: str, status: int, call: str = "", client_call: str = ""
    ) -> None:
        """Add one request to the bill; `call` is our id of it, `client_call` the client's."""
        nano = frontier_cost(tokens, self.price)
        self.nano += nano
        self.requests += 1
        self.tokens_in += tokens.tokens_in
        self.tokens_cached += tokens.tokens_cached
        self.tokens_out += tokens.tokens_out
        entry = {
            "id": call,
            "client_request_id": client_call,
            "total_cost": nano / NANO,  # a double keeps every nano of an amount of this size
            "in": tokens.tokens_in,
            "cached": tokens.tokens_cached,
            "out": tokens.tokens_out,
            "nano": nano,
            "kind": kind,
            "status": status,
        }
        self.entries.append(entry)
        del self.entries[:-KEPT_ENTRIES]

    def told(self, call: str) -> dict[str, Any] | None:
        """What one call cost, by either id; None while it is not on the bill."""
        for entry in reversed(self.entries):
            if call and call in (entry["id"], entry["client_request_id"]):
                return {
                    "id": entry["id"],
                    "total_cost": entry["total_cost"],
                    "native_tokens_prompt": entry["in"],
                    "native_tokens_cached": entry["cached"],
                    "native_tokens_completion": entry["out"],
                }
        return None

    def report(self, *, entries: bool) -> dict[str, Any]:
        """The bill as JSON."""
        found: dict[str, Any] = {
            "nano": self.nano,
            "requests": self.requests,
            "tokens_in": self.tokens_in,
            "tokens_cached": self.tokens_cached,
            "tokens_out": self.tokens_out,
        }
        return found | {"entries": self.entries} if entries else found


def read_table(
    lines: Sequence[str], *, text_field: str = "text", answer_field: str = "intent"
) -> dict[str, str]:
    """Utterances and answers of JSON lines. Raises `ValueError` naming the line that is wrong."""
    table: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        row = json.loads(line)
        if not isinstance(row, dict) or text_field not in row or answer_field not in row:
            raise ValueError(f"line {number} has no {text_field!r} and {answer_field!r}")
        answer = row[answer_field]
        table[str(row[text_field])] = answer if isinstance(answer, str) else json.dumps(answer)
    return table


def _dressed(said: str, body: Mapping[str, Any]) -> str:
    """A label as JSON where the request asks for JSON; a whole answer as it is."""
    wants = body.get("response_format")
    kind = wants.get("type") if isinstance(wants, Mapping) else None
    if kind not in ("json_schema", "json_object") or said.startswith(("{", "[")):
        return said
    return json.dumps({"label": said})

"""Tokens of a prompt nobody has counted yet: bounds and estimates. Pure.

Rules
- The bound is safe for every tokenizer that never makes more tokens than bytes, as all
  byte-level ones: a prompt's UTF-8 bytes plus what the frontier's chat template adds.
- An estimate is for a bill that never came. It uses the tokens a byte that this frontier's own
  bills showed so far, and never exceeds the bound.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from edge_runtime.ledger.rows import Tokens, tokens_from_usage

MESSAGE_TOKENS = 16  # the most a chat template puts around one message
FIRST_GUESS = 0.3  # tokens a byte of English text, rounded up
MAX_USAGE_TOKENS = 1_000_000_000  # a bill of more is taken for a mistake
_PROMPT_FIELDS = ("messages", "tools", "functions", "response_format", "tool_choice")


def prompt_bytes(body: Mapping[str, Any]) -> int:
    """UTF-8 bytes of everything in a chat body that becomes prompt tokens."""
    return sum(_size(body[name]) for name in _PROMPT_FIELDS if body.get(name) is not None)


def prompt_bound(body: Mapping[str, Any], template_tokens: int = 64) -> int:
    """The most tokens the prompt of a chat body can be; `template_tokens` the template adds."""
    messages = body.get("messages")
    count = len(messages) if isinstance(messages, list | tuple) else 1
    return prompt_bytes(body) + MESSAGE_TOKENS * count + template_tokens


def choices_of(body: Mapping[str, Any]) -> int:
    """Answers the body asks for: each may have the whole output limit."""
    n = body.get("n")
    return n if isinstance(n, int) and not isinstance(n, bool) and n > 0 else 1


@dataclass(frozen=True, slots=True)
class TokenRate:
    """Tokens a byte, as a frontier's bills show: a mean that forgets slowly."""

    tokens_per_byte: float = FIRST_GUESS
    bills: int = 0

    def learned(self, bytes_: int, tokens: int) -> TokenRate:
        """The rate after one more bill; odd ones are bounded."""
        if bytes_ <= 0:
            return self
        seen = min(1.0, max(0.01, tokens / bytes_))
        weight = max(0.05, 1 / (self.bills + 1))
        rate = self.tokens_per_byte + weight * (seen - self.tokens_per_byte)
        return TokenRate(rate, self.bills + 1)

    def tokens(self, bytes_: int) -> int:
        """Estimated tokens of so many bytes; at least 1 where there are any."""
        return 0 if bytes_ <= 0 else max(1, round(bytes_ * self.tokens_per_byte))


def usage_tokens(usage: object) -> Tokens | None:
    """Tokens of a frontier's `usage`; None where it sent none.

    Raises `ValueError` for one that makes no sense and so cannot be booked.
    """
    if not isinstance(usage, Mapping):
        return None
    tokens = tokens_from_usage(usage)
    if max(tokens.tokens_in, tokens.tokens_out) > MAX_USAGE_TOKENS:
        raise ValueError(f"usage tells of more than {MAX_USAGE_TOKENS} tokens")
    return tokens


def _size(value: Any) -> int:
    return len(value.encode()) if isinstance(value, str) else len(orjson.dumps(value))

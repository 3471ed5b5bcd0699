"""Make a prompt shorter before it is paid for. Pure; used on the escalation path only.

Rules
- A leading part that the operator named stays as it is, byte for byte: it is what the frontier
  has cached, and a cached token is cheaper than any cut.
- A system message is never dropped, nor is the newest turn; a tool's answer goes only together
  with the call it answers.
- Only plain texts are shortened: parts with images, tool calls and tool answers pass untouched.
- Never before a cache key is made, and never for the local model: both must see what came.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edge_runtime.router.frontier.tokens import prompt_bytes

Message = Mapping[str, Any]

_SYSTEM = ("system", "developer")
_FENCE = re.compile(r"(```.*?(?:```|\Z))", re.DOTALL)
_INNER_BLANKS = re.compile(r"(?<=\S)[ \t]{2,}(?=\S)")
_TRAILING_BLANKS = re.compile(r"[ \t]+(?=\n)")
_EMPTY_LINES = re.compile(r"\n{3,}")


@dataclass(frozen=True, slots=True)
class TrimRules:
    """See `settings.TrimSettings`."""

    kept_prefix_messages: int = 0
    kept_prefix_chars: int = 0
    keep_turns: int = 0
    whitespace: bool = False
    duplicate_context: bool = False
    duplicate_min_chars: int = 200


@dataclass(frozen=True, slots=True)
class Trimmed:
    """The body to send, and the bytes of prompt it has less."""

    body: Mapping[str, Any]
    saved_bytes: int


def trim(body: Mapping[str, Any], rules: TrimRules) -> Trimmed:
    """Shorten the messages of a chat body by the rules; the given body is left as it is."""
    messages = body.get("messages")
    if not isinstance(messages, list | tuple) or not all(
        isinstance(one, Mapping) for one in messages
    ):
        return Trimmed(body, 0)
    kept = _prefix_len(messages, rules)
    prefix, rest = list(messages[:kept]), list(messages[kept:])
    if rules.keep_turns:
        rest = _newest_turns(rest, rules.keep_turns)
    if rules.whitespace:
        rest = [_with_text(one, squeeze(text)) if (text := _text(one)) else one for one in rest]
    if rules.duplicate_context:
        rest = _without_duplicates(prefix, rest, rules.duplicate_min_chars)
    shorter = {**body, "messages": [*prefix, *rest]}
    saved = prompt_bytes(body) - prompt_bytes(shorter)
    return Trimmed(shorter, saved) if saved > 0 else Trimmed(body, 0)


def squeeze(text: str) -> str:
    """The text without blanks that carry no meaning; fenced code and indentation stay."""
    parts = _FENCE.split(text)
    return "".join(
        part if index % 2 else _squeeze_prose(part) for index, part in enumerate(parts)
    ).strip("\n")


def _squeeze_prose(text: str) -> str:
    text = _TRAILING_BLANKS.sub("", text)
    return _EMPTY_LINES.sub("\n\n", _INNER_BLANKS.sub(" ", text))


def _prefix_len(messages: Sequence[Message], rules: TrimRules) -> int:
    """How many leading messages are not touched."""
    kept, chars = 0, 0
    for message in messages:
        if kept >= rules.kept_prefix_messages and chars >= rules.kept_prefix_chars:
            break
        kept += 1
        content = message.get("content")
        chars += len(content) if isinstance(content, str) else len(str(content))
    return kept


def _newest_turns(messages: list[Message], turns: int) -> list[Message]:
    """System messages, and everything from the start of the last `turns` user turns on."""
    starts = [
        index
        for index, one in enumerate(messages)
        # Two user messages in a row are one turn.
        if one.get("role") == "user" and (index == 0 or messages[index - 1].get("role") != "user")
    ]
    if len(starts) <= turns:
        return messages
    first, cut = starts[0], starts[-turns]
    return [
        one
        for index, one in enumerate(messages)
        # What stands before the first turn may belong to a call in the kept prefix.
        if index < first or index >= cut or one.get("role") in _SYSTEM
    ]


def _without_duplicates(
    prefix: Sequence[Message], rest: Sequence[Message], min_chars: int
) -> list[Message]:
    """Drop paragraphs that stood before; what was earlier stays, so cached prefixes do."""
    seen: set[str] = set()
    for message in prefix:
        seen.update(_long_paragraphs(_text(message) or "", min_chars))
    found: list[Message] = []
    for message in rest:
        text = _text(message)
        if text is None:
            found.append(message)
            continue
        kept = []
        for paragraph in text.split("\n\n"):
            key = paragraph.strip()
            if len(key) < min_chars or key not in seen:
                kept.append(paragraph)
            if len(key) >= min_chars:
                seen.add(key)
        shorter = "\n\n".join(kept)
        # A message is never emptied: it would be another conversation.
        found.append(_with_text(message, shorter) if shorter.strip() else message)
    return found


def _long_paragraphs(text: str, min_chars: int) -> list[str]:
    return [part.strip() for part in text.split("\n\n") if len(part.strip()) >= min_chars]


def _text(message: Message) -> str | None:
    """The plain text of a message that may be shortened."""
    content = message.get("content")
    if not isinstance(content, str) or message.get("role") == "tool":
        return None
    return content


def _with_text(message: Message, text: str) -> Message:
    return {**message, "content": text} if text else message

"""Server-sent events of a streamed chat, and the whole answer they add up to. Pure.

Rules
- Only `data` fields matter; comments, ids and other fields are skipped, as in the WHATWG text.
- An event is bounded: one that grows past the bound is an error, not memory.
- A stream is complete when `[DONE]` came, or when it ended after every choice had a
  `finish_reason`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

DONE = "[DONE]"
MAX_CHOICES = 128
MAX_TOOL_CALLS = 1024


class EventError(ValueError):
    """What arrived is no event of a chat stream."""


@dataclass(slots=True)
class SseReader:
    """Bytes in, `data` of whole events out. `feed` raises `EventError` past the bound."""

    max_event_bytes: int
    _rest: bytes = b""
    _data: list[bytes] = field(default_factory=list)
    _size: int = 0

    def feed(self, piece: bytes) -> Iterator[str]:
        """The events that `piece` completes."""
        # A lone CR ends no line here: no server sends that, and a CRLF may be cut in two.
        *lines, self._rest = (self._rest + piece).split(b"\n")
        if len(self._rest) + self._size > self.max_event_bytes:
            raise EventError(f"an event is larger than {self.max_event_bytes} bytes")
        for line in lines:
            clean = line.removesuffix(b"\r")
            if not clean:
                yield from self._event()
            elif clean.startswith(b"data:"):
                value = clean[5:].removeprefix(b" ")
                self._size += len(value)
                if self._size > self.max_event_bytes:
                    raise EventError(f"an event is larger than {self.max_event_bytes} bytes")
                self._data.append(value)

    def _event(self) -> Iterator[str]:
        if self._data:
            try:
                text = b"\n".join(self._data).decode("utf-8")
            except UnicodeDecodeError as error:
                raise EventError("an event is not UTF-8") from error
            yield text
        self._data, self._size = [], 0


@dataclass(slots=True)
class _Choice:
    role: str = "assistant"
    texts: dict[str, list[str]] = field(default_factory=dict)
    tools: dict[int, dict[str, Any]] = field(default_factory=dict)
    logprobs: dict[str, list[Any]] = field(default_factory=dict)
    finish_reason: str | None = None

    def whole(self, index: int) -> dict[str, Any]:
        message: dict[str, Any] = {"role": self.role, "content": None}
        message |= {name: "".join(parts) for name, parts in self.texts.items()}
        if self.tools:
            message["tool_calls"] = [self.tools[key] for key in sorted(self.tools)]
        return {
            "index": index,
            "message": message,
            "logprobs": self.logprobs or None,
            "finish_reason": self.finish_reason,
        }


@dataclass(slots=True)
class Gathered:
    """Adds chunks up to the chat completion they would have been without streaming."""

    text_bytes: int = 0
    events_with_text: int = 0
    usage: Mapping[str, Any] | None = None
    _head: dict[str, Any] = field(default_factory=dict)
    _choices: dict[int, _Choice] = field(default_factory=dict)

    def add(self, chunk: Mapping[str, Any]) -> bool:
        """Take one chunk; True when it holds a part of the answer, not only a role.

        Raises `EventError` for what is no chunk.
        """
        usage = chunk.get("usage")
        if isinstance(usage, Mapping):
            self.usage = usage
        for name in ("id", "created", "model", "system_fingerprint", "service_tier"):
            if chunk.get(name) is not None:
                self._head.setdefault(name, chunk[name])
        choices = chunk.get("choices", [])
        if not isinstance(choices, list):
            raise EventError("choices is no list")
        told = False
        for one in choices:
            told |= self._add_choice(one)
        self.events_with_text += told
        return told

    @property
    def remote_id(self) -> str:
        """The frontier's own id of the answer; empty until a chunk told it."""
        return str(self._head.get("id") or "")

    @property
    def finished(self) -> bool:
        """True when every choice that began has ended."""
        return bool(self._choices) and all(one.finish_reason for one in self._choices.values())

    def body(self) -> dict[str, Any]:
        """The chat completion."""
        return {
            **self._head,
            "object": "chat.completion",
            "choices": [self._choices[key].whole(key) for key in sorted(self._choices)],
            "usage": None if self.usage is None else dict(self.usage),
        }

    def _add_choice(self, one: Any) -> bool:
        if not isinstance(one, Mapping):
            raise EventError("a choice is no object")
        index = _index(one.get("index", 0), MAX_CHOICES)
        choice = self._choices.setdefault(index, _Choice())
        delta = one.get("delta")
        told = self._add_delta(choice, delta) if isinstance(delta, Mapping) else False
        logprobs = one.get("logprobs")
        if isinstance(logprobs, Mapping):
            for name, values in logprobs.items():
                if isinstance(values, list):
                    choice.logprobs.setdefault(str(name), []).extend(values)
        reason = one.get("finish_reason")
        if reason:
            choice.finish_reason = str(reason)
        return told or bool(reason)

    def _add_delta(self, choice: _Choice, delta: Mapping[str, Any]) -> bool:
        told = False
        for name, value in delta.items():
            if name == "role":
                choice.role = str(value or choice.role)
            elif name == "tool_calls" and isinstance(value, list):
                for call in value:
                    told |= self._add_tool(choice, call)
            elif isinstance(value, str):
                choice.texts.setdefault(name, []).append(value)
                self.text_bytes += len(value.encode())
                told |= bool(value)
        return told

    def _add_tool(self, choice: _Choice, call: Any) -> bool:
        if not isinstance(call, Mapping):
            raise EventError("a tool call is no object")
        index = _index(call.get("index", 0), MAX_TOOL_CALLS)
        known = choice.tools.setdefault(
            index, {"id": "", "type": "function", "function": {"name": "", "arguments": ""}}
        )
        known["id"] = call.get("id") or known["id"]
        known["type"] = call.get("type") or known["type"]
        function = call.get("function")
        if isinstance(function, Mapping):
            for name in ("name", "arguments"):
                part = function.get(name)
                if isinstance(part, str):
                    known["function"][name] += part
                    self.text_bytes += len(part.encode())
        return True


def _index(value: Any, limit: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < limit:
        raise EventError(f"an index is {value!r}; it must be 0 to {limit - 1}")
    return value

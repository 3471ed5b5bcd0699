"""Log probabilities in OpenAI's two shapes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from edge_runtime.core import FinishReason, TextCodec, TokenEvent

FLOOR = -9999.0  # what OpenAI writes for "as good as impossible"; JSON has no infinity


def token_text(codec: TextCodec, token_id: int) -> str:
    """The token's own text. Bytes that are no whole character show as U+FFFD."""
    return codec.decode([token_id], skip_special_tokens=False)


def is_end_mark(codec: TextCodec, event: TokenEvent) -> bool:
    """True for an end-of-sequence token, which is no part of the answer.

    Its event may still carry text that was held back before.
    """
    return (
        event.token_id is not None
        and event.finish_reason is FinishReason.STOP
        and codec.decode([event.token_id], skip_special_tokens=True) == ""
    )


def _number(logprob: float | None) -> float:
    return FLOOR if logprob is None else max(FLOOR, logprob)


def _entry(codec: TextCodec, token_id: int, logprob: float | None) -> dict[str, object]:
    text = token_text(codec, token_id)
    # a token that is part of a character has bytes that its text no longer shows
    raw = None if "\ufffd" in text else list(text.encode())
    return {"token": text, "logprob": _number(logprob), "bytes": raw}


def chat_logprobs(codec: TextCodec, events: Iterable[TokenEvent]) -> dict[str, object]:
    """`choices[].logprobs` of chat completions."""
    content = []
    for event in events:
        if event.token_id is None or is_end_mark(codec, event):
            continue
        top = [_entry(codec, one.token_id, one.logprob) for one in event.top_logprobs]
        content.append({**_entry(codec, event.token_id, event.logprob), "top_logprobs": top})
    return {"content": content, "refusal": None}


@dataclass(slots=True)
class CompletionLogprobs:
    """`choices[].logprobs` of text completions; keeps the running `text_offset`."""

    codec: TextCodec
    offset: int = 0
    tokens: list[str] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    tops: list[dict[str, float]] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)

    def add(self, event: TokenEvent) -> None:
        """Book one event."""
        if event.token_id is None or is_end_mark(self.codec, event):
            return
        text = token_text(self.codec, event.token_id)
        self.tokens.append(text)
        self.values.append(_number(event.logprob))
        top = {
            token_text(self.codec, one.token_id): _number(one.logprob) for one in event.top_logprobs
        }
        self.tops.append(top or {text: _number(event.logprob)})
        self.offsets.append(self.offset)
        self.offset += len(text)

    def take(self) -> dict[str, object]:
        """What was booked since the last call."""
        taken: dict[str, object] = {
            "tokens": self.tokens,
            "token_logprobs": self.values,
            "top_logprobs": self.tops,
            "text_offset": self.offsets,
        }
        self.tokens, self.values, self.tops, self.offsets = [], [], [], []
        return taken

"""Chat answers that are there as JSON (from the cache, from a frontier), given as streams. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Json = Mapping[str, Any]


def pieces_of(body: Json) -> list[dict[str, Any]]:
    """The chunks a whole chat answer streams as: role, message, end of each choice.

    They lack `id`, `created` and `usage`, which belong to one delivery.
    """
    pieces = []
    for choice in body.get("choices", ()):
        index = choice.get("index", 0)
        message = choice.get("message") or {}
        pieces.append(_piece(body, index, {"role": "assistant", "content": ""}))
        delta = {
            name: value
            for name, value in message.items()
            if name != "role" and value is not None and value != ""
        }
        if "tool_calls" in delta:
            delta["tool_calls"] = [
                {"index": at, **one} for at, one in enumerate(delta["tool_calls"])
            ]
        if delta:
            piece = _piece(body, index, delta)
            if choice.get("logprobs") is not None:
                piece["choices"][0]["logprobs"] = choice["logprobs"]
            pieces.append(piece)
        pieces.append(_piece(body, index, {}, choice.get("finish_reason") or "stop"))
    return pieces


def _piece(
    body: Json, index: int, delta: dict[str, Any], reason: str | None = None
) -> dict[str, Any]:
    return {
        "object": "chat.completion.chunk",
        "model": body.get("model"),
        "choices": [{"index": index, "delta": delta, "finish_reason": reason}],
    }


def kept_pieces(chunks: Sequence[Json]) -> list[dict[str, Any]]:
    """Chunks as a cache keeps them: those with choices, without the bill."""
    return [
        {name: value for name, value in chunk.items() if name not in ("usage", "edge")}
        for chunk in chunks
        if chunk.get("choices")
    ]


def finish_reasons(body: Json) -> list[str | None]:
    """How each choice of a whole answer ended."""
    return [choice.get("finish_reason") for choice in body.get("choices", ())]


def texts(body: Json) -> list[str]:
    """The text of each choice; empty where one has none, as beside tool calls."""
    return [(choice.get("message") or {}).get("content") or "" for choice in body["choices"]]

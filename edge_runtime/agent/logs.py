"""The newest log lines, in memory, for when the control host asks for them."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Final

import structlog

from edge_runtime.agent.protocol import MAX_BYTES, Channel, LogChunk, PullLog

_RANK: Final = {"debug": 0, "info": 1, "warning": 2, "error": 3, "critical": 4}
MAX_LINE_CHARS: Final = 2000
_CHUNK_CHARS: Final = MAX_BYTES[Channel.LOG] // 4  # room for JSON's escapes


@dataclass(slots=True)
class LogTail:
    """A structlog processor that remembers the last `lines` lines as JSON texts."""

    lines: int
    _kept: deque[tuple[int, str]] = field(init=False)

    def __post_init__(self) -> None:
        self._kept = deque(maxlen=self.lines)

    def __call__(
        self, logger: object, method: str, event: MutableMapping[str, Any]
    ) -> Mapping[str, Any]:
        """Remember a line; what is logged does not change."""
        text = json.dumps(event, default=repr, ensure_ascii=False)[:MAX_LINE_CHARS]
        self._kept.append((_RANK.get(method, 1), text))
        return event

    def attach(self) -> None:
        """Listen to this process's log lines, before they are rendered."""
        processors = list(structlog.get_config()["processors"])
        structlog.configure(processors=[*processors[:-1], self, processors[-1]])

    def detach(self) -> None:
        """Stop listening."""
        processors = structlog.get_config()["processors"]
        structlog.configure(processors=[one for one in processors if one is not self])

    def chunks(self, order: str, wanted: PullLog, budget_bytes: int) -> list[LogChunk]:
        """The newest lines that the order and the budget allow, oldest first."""
        left = min(wanted.max_bytes, budget_bytes)
        chosen: list[str] = []
        cut = 0
        for rank, text in reversed(self._kept):
            if rank < _RANK[wanted.level]:
                continue
            left -= len(text.encode())
            if left < 0:
                cut += 1
                continue
            chosen.append(text)
        groups: list[list[str]] = [[]]
        size = 0
        for text in reversed(chosen):
            if groups[-1] and size + len(text) > _CHUNK_CHARS:
                groups.append([])
                size = 0
            groups[-1].append(text)
            size += len(text)
        return [
            LogChunk(
                order=order,
                part=part,
                last=part == len(groups) - 1,
                lines=tuple(group),
                cut_lines=cut,
            )
            for part, group in enumerate(groups)
        ]

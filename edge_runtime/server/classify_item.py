"""One input of a classification on its way to a label."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from edge_runtime.cache.contract import Ticket
from edge_runtime.cache.policy import Use
from edge_runtime.router.case import Case
from edge_runtime.server.classify_entry import NO_USE
from edge_runtime.server.prompts import OneInput


@dataclass(slots=True)
class Item:
    """See the module. `tokens` and `answers` are by rung; `text` is the input as text."""

    index: int
    given: OneInput
    text: str
    case: Case
    tokens: dict[int, tuple[int, ...]] = field(default_factory=dict)
    answers: dict[int, dict[str, Any]] = field(default_factory=dict)
    use: Use = NO_USE
    ticket: Ticket | None = None
    answer: dict[str, Any] | None = None
    frontier_label: str | None = None

"""Keeping answers to train on: what the pool offers, and who takes it.

Rules
- The pool offers only answers of frontiers with `training_allowed`.
- An offer never blocks and never fails a request: what does not fit is dropped and counted.
"""

from __future__ import annotations

from typing import Protocol

from edge_runtime.router.contract import FrontierCall, Json


class CaptureLike(Protocol):
    """Who takes exchanges."""

    def offer(self, frontier: str, call: FrontierCall, sent: Json, answer: Json) -> None:
        """One exchange: the body as it was sent, and the whole answer that was taken."""
        ...

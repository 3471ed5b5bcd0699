"""How long the router itself takes for a request: `edge_router_seconds`.

Rules
- It runs from the request's headers until it is known what to do first, and again for each later
  decision. It stands still while the body arrives, and during tokenising, model runs, embeddings,
  frontier calls and waits for the ledger's disk. The exact cache's look-up is inside.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from edge_runtime.metrics import Metrics


@dataclass(slots=True)
class OwnTime:
    """A stopwatch of one request; `since_s` is None while it stands still."""

    clock: Callable[[], float]
    since_s: float | None
    spent_s: float = 0.0

    def stop(self) -> None:
        """A decision is made: what follows is not the router's."""
        if self.since_s is not None:
            self.spent_s += self.clock() - self.since_s
            self.since_s = None

    def go(self) -> None:
        """There is something to decide again."""
        if self.since_s is None:
            self.since_s = self.clock()

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """Stand still for the block."""
        self.stop()
        try:
            yield
        finally:
            self.go()

    def observe(self, metrics: Metrics, route: str) -> None:
        """Stop, and count it. Once a request."""
        self.stop()
        metrics.observe("edge_router_seconds", route, value=self.spent_s)

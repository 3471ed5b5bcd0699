"""What time it is, as far as a box may believe it.

Rules
- The system's clock may be years off. Believed is what the control host said in this run of the
  daemon, carried on by the monotonic clock, and, where an operator allows it, the system's clock.
- Signed documents are a lower bound: no believed time lies before the newest of them.
- Believed time never runs backwards within a run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

SLACK_S = 2  # a time told in whole seconds may lie that far below a document just signed


@dataclass(slots=True)
class Clock:
    """`monotonic_s` and `system_s` are seconds; `floor_s` is the newest signed document's time."""

    monotonic_s: Callable[[], float]
    system_s: Callable[[], float]
    trust_system: bool = False
    floor_s: int = 0
    _offset_s: float | None = None
    _latest_s: int = 0

    def told(self, now_s: int) -> None:
        """The control host says it is `now_s`; late delivery can only make that too early."""
        if now_s >= self.floor_s - SLACK_S:
            offset_s = now_s - self.monotonic_s()
            self._offset_s = max(offset_s, self._offset_s or offset_s)

    def signed(self, issued_s: int) -> None:
        """A signed document was written at `issued_s`."""
        self.floor_s = max(self.floor_s, issued_s)

    def now_s(self) -> int | None:
        """UTC epoch seconds, or None while nothing can be believed."""
        now_s: float | None = None
        if self._offset_s is not None:
            now_s = self.monotonic_s() + self._offset_s
        elif self.trust_system and self.system_s() >= self.floor_s:
            now_s = self.system_s()
        if now_s is None or now_s < self.floor_s - SLACK_S:
            return None
        self._latest_s = max(self._latest_s, int(now_s), self.floor_s)
        return self._latest_s

    def stamp_s(self) -> int:
        """What to write into reports: the best guess, right or wrong."""
        known = self.now_s()
        return max(0, int(self.system_s())) if known is None else known

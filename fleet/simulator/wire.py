"""One direction of a bad connection: messages that come twice, or after the next one."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Generic, TypeVar

T = TypeVar("T")


class Wire(Generic[T]):
    """Keeps at most one message back; nothing is lost but by `cut`."""

    def __init__(self, rng: random.Random, duplicate_share: float, late_share: float) -> None:
        self._rng = rng
        self._duplicate_share, self._late_share = duplicate_share, late_share
        self._late: list[T] = []

    @property
    def waiting(self) -> bool:
        """Whether a message is held back; `flush` lets it go."""
        return bool(self._late)

    def passed(self, messages: Iterable[T]) -> list[T]:
        """What arrives when these are sent now."""
        arrived: list[T] = []
        for message in messages:
            overtaken, self._late = self._late, []
            if not overtaken and self._rng.random() < self._late_share:
                self._late = [message]
                continue
            copies = 2 if self._rng.random() < self._duplicate_share else 1
            arrived += [message] * copies
            arrived += overtaken
        return arrived

    def flush(self) -> list[T]:
        """What was held back."""
        late, self._late = self._late, []
        return late

    def cut(self) -> None:
        """The connection is lost, and what was under way with it."""
        self._late = []

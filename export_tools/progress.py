"""What a long export tells about itself, without knowing who listens."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives the advance of one export. Called from the exporting thread only."""

    def begin(self, task: str, total_bytes: int) -> None:
        """A phase starts: what it does, and the source bytes it will read."""

    def advance(self, tensor: str, done_bytes: int) -> None:
        """`done_bytes` more source bytes of `tensor` were handled."""


class SilentProgress:
    """Listens to nothing: the default of every library call."""

    def begin(self, task: str, total_bytes: int) -> None:
        """Ignore the phase."""

    def advance(self, tensor: str, done_bytes: int) -> None:
        """Ignore the advance."""

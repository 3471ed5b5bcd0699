"""Where this package's numbers go."""

from __future__ import annotations

from typing import Protocol


class Meter(Protocol):
    """Where numbers go: `edge_runtime.metrics.Metrics`, or nowhere."""

    def count(self, name: str, *labels: str, amount: float = 1.0) -> None:
        """Add to a counter."""
        ...

    def gauge(self, name: str, *labels: str, value: float) -> None:
        """Set a gauge."""
        ...

    def observe(self, name: str, *labels: str, value: float) -> None:
        """Add to a histogram."""
        ...


class NullMeter:
    """A `Meter` that forgets."""

    def count(self, name: str, *labels: str, amount: float = 1.0) -> None:
        """Forget."""

    def gauge(self, name: str, *labels: str, value: float) -> None:
        """Forget."""

    def observe(self, name: str, *labels: str, value: float) -> None:
        """Forget."""

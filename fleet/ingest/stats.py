"""What ingest has done since the start, for `/metrics`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

MEANINGS: Final = {
    "messages": "Messages taken from the broker.",
    "reports": "Reports of boxes that said something new.",
    "old_reports": "Reports that a newer one had overtaken.",
    "links": "Beginnings and ends of connections.",
    "old_links": "Ends of connections that a newer one had overtaken.",
    "rows": "Telemetry rows that were new.",
    "duplicate_rows": "Telemetry rows that were here already.",
    "lost_rows": "Telemetry rows that boxes evicted before they could be taken.",
    "commits": "Transactions.",
    "failed_commits": "Transactions that failed; boxes send those messages again.",
    "acks": "Watermarks sent.",
    "failed_acks": "Watermarks that could not be sent; the next ones say the same.",
}


@dataclass
class IngestStats:
    """Counters; `dropped:<reason>` counts messages that were thrown away."""

    counts: Counter[str] = field(default_factory=Counter)
    last_commit_s: float = 0.0

    def dropped(self) -> dict[str, int]:
        """Messages that were thrown away, by reason."""
        return {
            name.removeprefix("dropped:"): count
            for name, count in self.counts.items()
            if name.startswith("dropped:")
        }

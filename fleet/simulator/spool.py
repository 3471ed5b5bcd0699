"""A box's telemetry until somebody committed it: in memory, under the rules of the real spool."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from edge_runtime.agent.protocol import (
    MAX_BATCH_ROWS,
    Ack,
    BatchHeader,
    SpoolState,
    TelemetryRow,
    encode_batch,
)

STREAM: Final = "serve"
BATCHES_AT_ONCE: Final = 8
BATCH_ROWS: Final = min(64, MAX_BATCH_ROWS)
_ROW_BYTES: Final = 700  # about what a simulated row takes as JSON
MAX_BOOTS: Final = 64


@dataclass(slots=True)
class Spool:
    """Rows by boot, oldest boot first. Past `max_rows` the oldest rows go and are counted.

    `made` counts, by boot, the rows a receiver must have in the end; it goes down again only by
    what was evicted or lost with the power.
    """

    max_rows: int = 2000
    evicted: int = 0
    made: dict[str, int] = field(default_factory=dict)
    _rows: dict[str, deque[TelemetryRow]] = field(default_factory=dict)
    _sent: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return sum(len(rows) for rows in self._rows.values())

    def state(self) -> SpoolState:
        """As it is reported; bytes are a guess."""
        rows = len(self)
        return SpoolState(rows=rows, bytes=rows * _ROW_BYTES, evicted_rows=self.evicted)

    def add(self, boot: str, row: TelemetryRow) -> None:
        """Keep one row."""
        self._rows.setdefault(boot, deque()).append(row)
        self.made[boot] = self.made.get(boot, 0) + 1
        while len(self) > self.max_rows or len(self._rows) > MAX_BOOTS:
            oldest = next(iter(self._rows))
            self._rows[oldest].popleft()
            self.evicted += 1
            self.made[oldest] -= 1
            self._tidy(oldest)

    def forget_after(self, boot: str, seq: int) -> None:
        """Rows above `seq` were not on the disk yet when the power went."""
        rows = self._rows.get(boot)
        while rows and rows[-1].seq > seq:
            rows.pop()
            self.made[boot] -= 1
        self._tidy(boot)

    def acknowledge(self, ack: Ack) -> int:
        """Delete what was committed elsewhere; the number of rows."""
        deleted = 0
        for boot in list(self._rows):
            mark, rows = ack.mark(boot, STREAM), self._rows[boot]
            while rows and rows[0].seq <= mark:
                rows.popleft()
                deleted += 1
            self._tidy(boot)
        return deleted

    def unsent(self) -> None:
        """Nobody knows what of it arrived: send everything again."""
        self._sent.clear()

    def batches(self, clock_s: int) -> list[bytes]:
        """The next messages of rows that were not sent yet; they count as sent now."""
        found: list[bytes] = []
        for boot, rows in self._rows.items():
            after = self._sent.get(boot, 0)
            fresh = (row for row in rows if row.seq > after)
            while len(found) < BATCHES_AT_ONCE and (part := tuple(islice(fresh, BATCH_ROWS))):
                found.append(self._message(boot, part, clock_s))
                self._sent[boot] = part[-1].seq
        return found

    def _message(self, boot: str, rows: tuple[TelemetryRow, ...], clock_s: int) -> bytes:
        header = BatchHeader(
            boot=boot,
            stream=STREAM,
            first_seq=rows[0].seq,
            last_seq=rows[-1].seq,
            oldest_seq=self._rows[boot][0].seq,
            rows=len(rows),
            clock_s=clock_s,
            evicted_rows=self.evicted,
        )
        return encode_batch(header, rows)

    def _tidy(self, boot: str) -> None:
        if not self._rows.get(boot):
            self._rows.pop(boot, None)
            self._sent.pop(boot, None)

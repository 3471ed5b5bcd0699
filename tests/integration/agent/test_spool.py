"""The spool: what was not taken stays, what was taken goes, and a full one is bounded."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from edge_runtime.agent.protocol import Ack, Sample, TelemetryRow, decode_batch, mark_key
from edge_runtime.agent.spool import Spool


def row(seq: int, series: int = 1) -> TelemetryRow:
    counts = tuple(Sample(metric=f"edge_x_{n}_total", value=n) for n in range(series))
    return TelemetryRow(seq=seq, uptime_ms=seq, length_ms=1, clock_s=1, counts=counts)


def sent(
    spool: Spool, after: dict[tuple[str, str], int] | None = None
) -> list[tuple[str, int, int]]:
    found = []
    for batch in spool.batches(after or {}, 9):
        header, rows = decode_batch(batch.message)
        assert (header.boot, header.first_seq, header.last_seq) == (
            batch.boot,
            rows[0].seq,
            rows[-1].seq,
        )
        found.append((batch.boot, batch.first_seq, batch.last_seq))
    return found


def test_rows_survive_a_restart_and_go_at_their_watermark(tmp_path: Path) -> None:
    path = tmp_path / "agent" / "spool.sqlite"
    with Spool.open(path, 1 << 20) as spool:
        for seq in range(1, 6):
            spool.add("b-1", "serve", row(seq))
    with Spool.open(path, 1 << 20) as spool:
        spool.add("b-2", "serve", row(1))
        assert sent(spool) == [("b-1", 1, 5), ("b-2", 1, 1)]
        assert sent(spool, {("b-1", "serve"): 3}) == [("b-1", 4, 5), ("b-2", 1, 1)]
        ack = Ack(now_s=1, marks={mark_key("b-1", "serve"): 4, mark_key("b-9", "serve"): 7})
        assert spool.acknowledge(ack) == 4
        assert spool.acknowledge(ack) == 0
        assert sent(spool) == [("b-1", 5, 5), ("b-2", 1, 1)]
        assert spool.state().rows == 2


def test_past_its_limit_the_oldest_go_and_are_counted_for_good(tmp_path: Path) -> None:
    path = tmp_path / "spool.sqlite"
    size = len(row(1).to_bytes())
    with Spool.open(path, 20 * size) as spool:
        for seq in range(1, 101):
            spool.add("b-1", "serve", row(seq))
        state = spool.state()
        assert state.bytes <= 20 * size + size
        assert state.rows + state.evicted_rows == 100
        (boot, first, last) = sent(spool)[0]
        assert (boot, last) == ("b-1", 100)
        assert first == state.evicted_rows + 1
        header, _ = decode_batch(spool.batches({}, 9)[0].message)
        assert (header.oldest_seq, header.evicted_rows) == (first, state.evicted_rows)
    with Spool.open(path, 20 * size) as spool:
        assert spool.state().evicted_rows == state.evicted_rows


def test_batches_stay_below_the_message_limit(tmp_path: Path) -> None:
    with Spool.open(tmp_path / "spool.sqlite", 1 << 26) as spool:
        for seq in range(1, 40):
            spool.add("b-1", "serve", row(seq, series=2000))
        parts = sent(spool)
        assert len(parts) > 1
        assert parts[0][1] == 1
        assert all(before[2] + 1 == after[1] for before, after in itertools.pairwise(parts))


def test_a_number_is_never_used_twice(tmp_path: Path) -> None:
    with Spool.open(tmp_path / "spool.sqlite", 1 << 20) as spool:
        spool.add("b-1", "serve", row(1))
        with pytest.raises(Exception, match="UNIQUE"):
            spool.add("b-1", "serve", row(1))
        assert spool.state().rows == 1


def test_a_damaged_spool_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "spool.sqlite"
    path.write_bytes(b"not a database at all" * 1000)
    with Spool.open(path, 1 << 20) as spool:
        spool.add("b-1", "serve", row(1))
        assert spool.state().rows == 1

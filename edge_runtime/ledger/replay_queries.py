"""Read what a replay needs from the ledger's detailed rows."""

from __future__ import annotations

import itertools
import sqlite3
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from edge_runtime.ledger.replay import PriceOf, Row, Scored, Seen, fold
from edge_runtime.ledger.replay_error import Known, Scores
from edge_runtime.ledger.rows import US_PER_DAY, ComparedBy, MoneySource, Purpose, Tier, Tokens


@dataclass(frozen=True, slots=True)
class While:
    """From `since_us` on, to before `until_us`."""

    since_us: int
    until_us: int


def requests(
    connection: sqlite3.Connection, span: While, price_of: PriceOf | None
) -> Iterator[Seen]:
    """Every request that has details. Costs a sort of the while's rows, and no memory for them."""
    rows = connection.execute(
        """
        SELECT tenant, request_id, tier, model, model_digest, task, purpose, reason, answered,
            score_ppm, tokens_in, tokens_cached, tokens_out, frontier_nano,
            energy_nano + hardware_nano AS here_nano, saved_nano, money_source
        FROM booked WHERE at_us >= ? AND at_us < ? AND purpose <> 'idle'
        ORDER BY tenant, request_id, id
        """,
        (span.since_us, span.until_us),
    )
    for _, group in itertools.groupby(map(_row, rows), lambda row: (row.tenant, row.request_id)):
        yield fold(group, price_of)


def idle_nano(connection: sqlite3.Connection, span: While) -> int:
    """What the box cost while it did nothing."""
    (nano,) = connection.execute(
        "SELECT coalesce(sum(energy_nano + hardware_nano), 0) FROM attempts "
        "WHERE at_us >= ? AND at_us < ? AND purpose = 'idle'",
        (span.since_us, span.until_us),
    ).fetchone()
    return int(nano)


def summed_up(connection: sqlite3.Connection, span: While) -> int:
    """Requests of the while that have no details any more."""
    (count,) = connection.execute(
        "SELECT coalesce(sum(requests), 0) FROM rollups WHERE start_day >= ? AND start_day < ?",
        (span.since_us // US_PER_DAY, -(-span.until_us // US_PER_DAY)),
    ).fetchone()
    return int(count)


@dataclass(slots=True)
class Survey:
    """What one pass over the requests tells of each model and task."""

    kept: dict[Scored, array[int]] = field(default_factory=dict)
    escalated: dict[Scored, array[int]] = field(default_factory=dict)
    models: dict[Scored, str] = field(default_factory=dict)

    def add(self, seen: Seen) -> None:
        """One more request."""
        if seen.scored is None or seen.score_ppm is None:
            return
        self.models[seen.scored] = seen.scored_model
        if seen.movable:
            side = self.kept if seen.by is Tier.LOCAL else self.escalated
            side.setdefault(seen.scored, array("q")).append(seen.score_ppm)

    def scored(self) -> tuple[Scored, ...]:
        """Every model and task that was scored, the most used first."""
        counts = {
            one: len(self.kept.get(one, ())) + len(self.escalated.get(one, ()))
            for one in {*self.kept, *self.escalated}
        }
        return tuple(sorted(counts, key=lambda one: (-counts[one], one.model_digest, one.task)))


def known(connection: sqlite3.Connection, span: While, scored: Scored, survey: Survey) -> Known:
    """Scores of requests and of comparisons of one model and task, sorted."""
    found: dict[tuple[ComparedBy, bool], array[int]] = {
        (by, wrong): array("q") for by in ComparedBy for wrong in (False, True)
    }
    shares = set()
    rows = connection.execute(
        "SELECT source, agreed, score_ppm, share_ppm FROM comparisons WHERE at_us >= ? "
        "AND at_us < ? AND model_digest = ? AND task = ? AND score_ppm IS NOT NULL",
        (span.since_us, span.until_us, scored.model_digest, scored.task),
    )
    for source, agreed, score, share in rows:
        by = ComparedBy(source)
        found[by, False].append(score)
        if not agreed:
            found[by, True].append(score)
        if by is ComparedBy.AUDIT:
            shares.add(share)
    return Known(
        _sorted(survey.kept.get(scored)),
        _sorted(survey.escalated.get(scored)),
        _sorted(found[ComparedBy.AUDIT, False]),
        _sorted(found[ComparedBy.AUDIT, True]),
        _sorted(found[ComparedBy.ESCALATED, False]),
        _sorted(found[ComparedBy.ESCALATED, True]),
        frozenset(shares),
    )


def _sorted(scores: array[int] | None) -> Scores:
    return np.sort(np.asarray(scores if scores is not None else (), np.int64))


def _row(row: sqlite3.Row) -> Row:
    return Row(
        tenant=row["tenant"],
        request_id=row["request_id"],
        tier=Tier(row["tier"]),
        model=row["model"],
        model_digest=row["model_digest"],
        task=row["task"],
        purpose=Purpose(row["purpose"]),
        reason=row["reason"],
        answered=bool(row["answered"]),
        score_ppm=row["score_ppm"],
        tokens=Tokens(row["tokens_in"], row["tokens_cached"], row["tokens_out"]),
        frontier_nano=row["frontier_nano"],
        here_nano=row["here_nano"],
        saved_nano=row["saved_nano"],
        money_source=MoneySource(row["money_source"]),
    )

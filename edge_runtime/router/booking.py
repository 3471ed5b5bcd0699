"""Ledger rows of the tiers `cache` and `local`, and what the caller is told of a request's cost.

Rules
- A row is made once its attempt's fate is known, so that `answered` is true on exactly one of a
  question. Rows of tier `frontier` are written by the frontier side; here they are only told.
- What the caller reads in `edge` comes from the same rows, so the two cannot differ.
- How rows reach the disk is the till's: see `till`.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any

from edge_runtime.cache.answers import Answer, AnswerScore
from edge_runtime.core import ModelInfo
from edge_runtime.ledger.energy.account import worst_source
from edge_runtime.ledger.money import NANO
from edge_runtime.ledger.rows import (
    Attempt,
    JouleSource,
    Status,
    Tier,
)
from edge_runtime.router.contract import FrontierError, FrontierReply, Payer, Reason
from edge_runtime.router.till import Till, Work


@dataclass(slots=True)
class _Local:
    """A local attempt whose fate may still be open."""

    row: Attempt
    rung: int


@dataclass(slots=True)
class Bill:
    """All attempts of one question. Call `close` once: it writes the rows that are still open."""

    till: Till
    payer: Payer
    attempts: int = 0
    entries: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    rows: list[Attempt] = field(default_factory=list)
    cost_nano: int = 0
    frontier_nano: int = 0
    saved_nano: int = 0
    energy_uj: int = 0
    sources: list[JouleSource] = field(default_factory=list)
    pending: list[Future[int]] = field(default_factory=list)
    _open: list[_Local] = field(default_factory=list)
    _closed: bool = False

    def local(
        self,
        info: ModelInfo,
        work: Work,
        *,
        rung: int = 0,
        status: Status = Status.OK,
        reason: str = "",
        score: float | None = None,
        task: str = "",
    ) -> None:
        """A local attempt ended; whether it answers is said by `close`."""
        row = self.till.local_row(
            self.payer,
            info,
            work,
            attempt=self.attempts,
            status=status,
            reason=reason,
            score=score,
            task=task,
        )
        self.attempts += 1
        self._open.append(_Local(row, rung))

    def cache_row(
        self, answer: Answer, *, model_digest: str, duration_us: int, reason: str
    ) -> Attempt:
        """The row of an answer that was kept before; it keeps the score it was made with.

        `model_digest` is that of the model the question went to first; a score's own goes before.
        """
        score = answer.score
        return Attempt(
            at_us=self.till.now_us(),
            request_id=self.payer.request_id,
            task_id=self.payer.task_id,
            tier=Tier.CACHE,
            model=answer.answered_by,
            attempt=self.attempts,
            tenant=self.payer.tenant,
            endpoint=self.payer.endpoint,
            tag=self.payer.tag,
            model_digest=model_digest if score is None else score.model_digest,
            tokens_in=answer.tokens_in,
            tokens_out=answer.tokens_out,
            saved_nano=answer.saved_nano,
            price_version=self.till.price_version,
            duration_us=duration_us,
            reason=reason,
            answered=True,
            score_ppm=None if score is None else score.ppm,
            task="" if score is None else score.task,
        )

    def score(self) -> AnswerScore | None:
        """The score of the question's last local answer that had one; once the bill is closed."""
        scored = [row for row in self.rows if row.score_ppm is not None]
        if not scored:
            return None
        last = max(scored, key=lambda row: row.attempt)
        assert last.score_ppm is not None
        return AnswerScore(last.score_ppm, last.task, last.model_digest)

    def cached(self, row: Attempt) -> None:
        """The answer came from the cache."""
        self.attempts += 1
        self._keep(row)

    def frontier(self, reply: FrontierReply) -> None:
        """A frontier answered; its rows were written by the frontier side."""
        number = self.attempts
        self.attempts += reply.tries
        self.cost_nano += reply.cost_nano
        self.frontier_nano += reply.cost_nano
        self._tell(
            number,
            {
                "tier": str(Tier.FRONTIER),
                "model": reply.frontier,
                "status": str(Status.OK),
                "tries": reply.tries,
                "tokens_in": reply.tokens.tokens_in,
                "tokens_cached": reply.tokens.tokens_cached,
                "tokens_out": reply.tokens.tokens_out,
                "cost": money(reply.cost_nano),
                "ms": _ms(reply.total_s * 1e6),
            },
        )

    def frontier_failed(self, error: FrontierError) -> None:
        """No frontier answered; what the tries cost is told all the same."""
        number = self.attempts
        self.attempts += error.tries
        self.cost_nano += error.cost_nano
        self.frontier_nano += error.cost_nano
        self._tell(
            number,
            {
                "tier": str(Tier.FRONTIER),
                "status": str(Status.ERROR),
                "why": str(error.why),
                "tries": error.tries,
                "cost": money(error.cost_nano),
            },
        )

    def close(self, *, rung: int | None, reason: Reason | str) -> None:
        """The question is decided: `rung`'s latest whole answer was given, or no local one.

        Rows that were open become `answered` or `discarded`. A second call does nothing.
        """
        if self._closed:
            return
        self._closed = True
        given = [at for at, one in enumerate(self._open) if one.rung == rung]
        for at, one in enumerate(self._open):
            row = one.row
            if given and at == given[-1] and row.status is Status.OK:
                row = replace(row, answered=True, reason=str(reason))
            elif row.status is Status.OK:
                row = replace(row, status=Status.DISCARDED, reason=row.reason or str(reason))
            self._keep(row)
        self._open.clear()

    def cancel(self) -> None:
        """The caller went away, or an error ended the request: nobody got an answer."""
        if not self._closed:
            self._closed = True
            for one in self._open:
                self._keep(replace(one.row, status=_ended(one.row.status)))
            self._open.clear()

    async def settled(self) -> None:
        """Wait for the disk, where the settings ask for it. Raises what the ledger raised."""
        if self.till.wait_for_disk:
            await asyncio.gather(*(asyncio.wrap_future(one) for one in self.pending))

    def _keep(self, row: Attempt) -> None:
        future = self.till.append(row)
        if future is not None and self.till.wait_for_disk:
            self.pending.append(future)
        self.rows.append(row)
        self.cost_nano += row.cost_nano
        self.saved_nano += row.saved_nano
        self.energy_uj += row.energy_uj
        self.sources.append(row.energy_source)
        self._tell(
            row.attempt,
            {
                "tier": str(row.tier),
                "model": row.model,
                "status": str(row.status),
                "answered": row.answered,
                "tokens_in": row.tokens_in,
                "tokens_cached": row.tokens_cached,
                "tokens_out": row.tokens_out,
                "cost": money(row.cost_nano),
                "joules": row.energy_uj / 1e6,
                "ms": _ms(row.duration_us),
            },
        )

    def _tell(self, number: int, entry: dict[str, Any]) -> None:
        self.entries.append((number, entry))

    @property
    def told(self) -> list[dict[str, Any]]:
        """What is told of each attempt, in the order they were made."""
        return [entry for _, entry in sorted(self.entries, key=lambda one: one[0])]

    def field(self) -> dict[str, Any]:
        """The cost part of the body's `edge`."""
        return {
            "cost": money(self.cost_nano),
            "currency": self.till.currency,
            "saved": money(self.saved_nano),
            "joules": self.energy_uj / 1e6,
            "joules_source": str(worst_source(self.sources)),
            "attempts": self.told,
        }


def money(nano: int) -> str:
    """Nano-units as a decimal of the currency, exact."""
    return f"{nano // NANO}.{nano % NANO:09d}"


def _ended(status: Status) -> Status:
    return Status.CANCELLED if status is Status.OK else status


def _ms(us: float) -> float:
    return round(us / 1000, 3)

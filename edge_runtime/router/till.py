"""The till: rows of local attempts, priced, and handed to the ledger.

Rules
- Appending never waits for the disk, and not even for its turn: in an event loop a row is handed
  to the ledger once the loop comes round, so that the answer goes out first. One that finds no
  place is counted and logged.
- With `ledger.wait_for_disk` a row is handed over at once, the answer waits for it, and is refused
  where the row finds no place.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final

import structlog

from edge_runtime.core import ModelInfo
from edge_runtime.errors import CapacityError
from edge_runtime.ledger.cost import energy_cost, local_cost
from edge_runtime.ledger.ledger import LedgerLike
from edge_runtime.ledger.prices import LocalPrice
from edge_runtime.ledger.rows import (
    Attempt,
    Outcome,
    Purpose,
    Status,
    Tier,
    Tokens,
    idle_row,
    ppm,
)
from edge_runtime.router.contract import Payer
from edge_runtime.router.energy import EnergyMeter, IdleEnergy

log: Final = structlog.get_logger("edge_runtime.router")


@dataclass(frozen=True, slots=True)
class Work:
    """What one local attempt took. `busy_us` is its part of the engine's time."""

    tokens: Tokens
    busy_us: int
    duration_us: int


@dataclass(slots=True)
class Till:
    """Makes and keeps rows. `ledger` None keeps none: requests still say what they cost."""

    ledger: LedgerLike | None
    meter: EnergyMeter
    local: LocalPrice
    now_us: Callable[[], int]
    currency: str | None = None
    price_version: str = ""
    wait_for_disk: bool = False
    lost: Callable[[], None] = lambda: None

    def local_row(
        self,
        payer: Payer,
        info: ModelInfo,
        work: Work,
        *,
        attempt: int = 0,
        status: Status = Status.OK,
        reason: str = "",
        purpose: Purpose = Purpose.SERVE,
        answered: bool = False,
        score: float | None = None,
        task: str = "",
    ) -> Attempt:
        """The row of a local attempt, priced."""
        energy = self.meter.of(work.busy_us)
        cost = local_cost(energy.energy_uj, work.busy_us, self.local)
        return Attempt(
            at_us=self.now_us(),
            request_id=payer.request_id,
            task_id=payer.task_id,
            tier=Tier.LOCAL,
            model=info.full_name,
            attempt=attempt,
            tenant=payer.tenant,
            endpoint=payer.endpoint,
            tag=payer.tag,
            purpose=purpose,
            model_digest=info.model_digest,
            tokens_in=work.tokens.tokens_in,
            tokens_cached=work.tokens.tokens_cached,
            tokens_out=work.tokens.tokens_out,
            energy_nano=cost.energy_nano,
            hardware_nano=cost.hardware_nano,
            price_version=self.price_version,
            energy_uj=energy.energy_uj,
            energy_source=energy.source,
            duration_us=work.duration_us,
            status=status,
            reason=reason,
            answered=answered,
            score_ppm=ppm(score),
            task=task if score is not None else "",
        )

    def append(self, row: Attempt) -> Future[int] | None:
        """Queue a row for the disk; see the module's rules. The future is for who waits for it."""
        if self.ledger is None:
            return None
        append = self.ledger.append
        if self.wait_for_disk:
            return self._hand_over(lambda: append(row))
        self._soon(lambda: append(row))
        return None

    def _soon(self, command: Callable[[], Future[int]]) -> None:
        """Hand a command over when the loop comes round; at once where there is none."""

        def run() -> None:
            with contextlib.suppress(CapacityError):  # counted and logged already
                self._hand_over(command)

        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            run()
        else:
            loop.call_soon(run)

    def _hand_over(self, command: Callable[[], Future[int]]) -> Future[int]:
        try:
            future = command()
        except CapacityError as error:
            self._lose(error)
            raise
        future.add_done_callback(self._look)
        return future

    def _look(self, future: Future[int]) -> None:
        if not future.cancelled() and (error := future.exception()) is not None:
            self._lose(error)

    def _lose(self, error: BaseException) -> None:
        self.lost()
        log.error("a ledger row was lost", action="ledger_row_lost", reason=str(error))

    def idle(self, idle: IdleEnergy) -> None:
        """Book a period's idle energy."""
        nano = energy_cost(idle.energy_uj, self.local)
        self.append(
            idle_row(
                at_us=self.now_us(),
                wall_us=idle.wall_us,
                energy_uj=idle.energy_uj,
                energy_source=idle.source,
                energy_nano=nano,
            )
        )

    def implied(self, payer: Payer, *, resolved: bool, source: str) -> None:
        """Book what an answer's form implies of its task."""
        if self.ledger is None:
            return
        keep = self.ledger.outcome
        outcome = Outcome(
            at_us=self.now_us(),
            task_id=payer.task_id,
            resolved=resolved,
            tenant=payer.tenant,
            explicit=False,
            source=source,
        )
        self._soon(lambda: keep(outcome))

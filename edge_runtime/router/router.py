"""The router of a daemon: what all questions share, and one `Case` for each question.

Read it in the order of a question: `plan` (who may answer) -> `Case.next` (what to do now, by
`decide.next_step`) -> the route does it and tells the case what came of it -> `Case.kept`,
`Case.escalated`, `Case.from_cache` or `Case.refusal` ends it. The routes are in
`edge_runtime.server`; nothing here knows HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, Final

import structlog

from edge_runtime.cache.answers import Answer
from edge_runtime.cache.contract import ExactCacheLike, Hit, Ticket
from edge_runtime.cache.key import Question
from edge_runtime.cache.policy import Use
from edge_runtime.ledger.money import NANO
from edge_runtime.ledger.rows import Tier
from edge_runtime.metrics import Metrics
from edge_runtime.router.booking import Bill
from edge_runtime.router.case import Case
from edge_runtime.router.contract import (
    FrontierLike,
    Payer,
    Policy,
    SemanticCacheLike,
)
from edge_runtime.router.decide import (
    Frontier,
)
from edge_runtime.router.plan import Directory, Plan, Wishes
from edge_runtime.router.settings import RouterSettings
from edge_runtime.router.till import Till
from edge_runtime.router.told import Told
from edge_runtime.router.trust import CertificateBook
from edge_runtime.router.watch.contract import TrialPlan, WatchLike, terms_of

log: Final = structlog.get_logger("edge_runtime.router")

DEFAULT_TENANT = "default"


@dataclass(slots=True)
class Router:
    """What all questions of a daemon share; parts that are None are not configured."""

    directory: Directory
    till: Till
    metrics: Metrics
    book: CertificateBook = field(default_factory=CertificateBook)
    settings: RouterSettings = field(default_factory=RouterSettings)
    frontiers: FrontierLike | None = None
    watch: WatchLike | None = None
    exact: ExactCacheLike | None = None
    exact_ttl_s: int = 0
    semantic: SemanticCacheLike | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def caches(self) -> bool:
        """Whether any cache is there."""
        return self.exact is not None or self.semantic is not None

    def plan(self, asked: str, wishes: Wishes, *, served: bool) -> Plan | None:
        """See `Directory.plan`."""
        return self.directory.plan(asked, wishes, served=served)

    def trial(self, plan: Plan) -> TrialPlan | None:
        """What a trial of the ladder's first model makes of a request; None in most cases.

        Only requests that a certificate judges and that may leave take part: of any other nobody
        could say which of two answers was right.
        """
        judged = plan.rules.policy is Policy.LOCAL_FIRST and plan.may_leave
        if self.watch is None or not plan.ladder or not judged:
            return None
        return self.watch.plan_trial(plan.ladder[0])

    def told(self, payer: Payer) -> Told:
        """A fresh account of one question."""
        return Told(Bill(self.till, payer))

    def open_case(self, plan: Plan, told: Told) -> Case:
        """A question to decide; the ladder is filled by `Case.rung`."""
        return Case(self, plan, told, frontier=self._frontier(plan))

    def _frontier(self, plan: Plan) -> Frontier:
        if self.frontiers is None or not plan.may_leave:
            return Frontier.ABSENT
        return Frontier.UNTRIED if self.frontiers.available(plan.order) else Frontier.ABSENT

    def tell_watch(self) -> None:
        """Name the certificates in force to the watch, and count them."""
        known = self.book.all()
        if self.watch is not None:
            for one in known:
                self.watch.certified(terms_of(one.certificate))
        self.metrics.gauge("edge_certificates", "known", value=len(known))
        self.metrics.gauge("edge_certificates", "refused", value=len(self.book.problems))

    def counts_endpoint(self, endpoint: str) -> str:
        """The endpoint as a metric label: configured names only."""
        return endpoint if endpoint in self.directory.endpoints else ""

    def look_up(self, question: Question, use: Use) -> Hit | Ticket | None:
        """The exact cache's answer; None where there is no cache, or it may not be used."""
        if self.exact is None or not (use.read or use.keep):
            return None
        found = self.exact.lookup(question, use)
        result = "hit" if isinstance(found, Hit) else "miss"
        self.metrics.count("edge_cache_lookups_total", "exact", result)
        return found

    def keep(self, ticket: Ticket, answer: Answer, use: Use) -> None:
        """Keep a fresh answer, in the background."""
        if self.exact is None or not use.keep:
            return
        keep = self.exact.keep

        async def run() -> None:
            try:
                await asyncio.to_thread(keep, ticket, answer, use)
            except ValueError as error:
                log.warning("answer not kept", action="cache_keep_failed", reason=str(error))

        self.background("keep", run())

    def background(self, name: str, work: Coroutine[Any, Any, None]) -> bool:
        """Run `work` beside the requests; False when too much runs already."""
        if len(self._tasks) >= self.settings.max_background_tasks:
            work.close()
            self.metrics.count("edge_background_dropped_total", name)
            return False
        task = asyncio.create_task(work, name=f"router-{name}")
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return True

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error(
                "background work failed",
                action="background_failed",
                task=task.get_name(),
                reason=repr(error),
            )

    async def finish_background(self, *, cancel: bool) -> None:
        """Wait until nothing runs beside the requests; cancel it first when asked."""
        tasks = list(self._tasks)
        for task in tasks:
            if cancel:
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def account(self, told: Told, endpoint: str) -> None:
        """Count a question that ended."""
        label = self.counts_endpoint(endpoint)
        if told.answered_by:
            self.metrics.count("edge_decisions_total", label, told.tier, told.reason)
        else:
            self.metrics.count("edge_refusals_total", label, told.reason or "error")
        for entry in told.bill.rows:
            if entry.cost_nano:
                self.metrics.count(
                    "edge_cost_total", str(entry.tier), amount=entry.cost_nano / NANO
                )
            if entry.saved_nano:
                self.metrics.count("edge_saved_total", amount=entry.saved_nano / NANO)
            if entry.energy_uj:
                source = str(entry.energy_source)
                self.metrics.count("edge_joules_total", source, amount=entry.energy_uj / 1e6)
        if told.bill.frontier_nano:
            cost = told.bill.frontier_nano / NANO
            self.metrics.count("edge_cost_total", str(Tier.FRONTIER), amount=cost)

"""Classification with something to decide: every input is a question of its own.

Rules
- Inputs of one request are decided one by one: some may be answered here, others escalate. The
  rows of a request with several inputs carry its id and `#` with the input's number.
- Questions that are at the same rung of the ladder run as one batch.
- What a frontier says must name a label of the bundle, or out of scope where the bundle maps that;
  anything else is refused and asked elsewhere, or answered here as degraded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from aiohttp import web

from edge_runtime.core import ModelInfo
from edge_runtime.router.contract import (
    FrontierCall,
    Json,
    Reason,
)
from edge_runtime.router.decide import Escalate, Keep, Refuse, Step, TryLocal
from edge_runtime.router.escalate import classify_body, label_problem
from edge_runtime.router.plan import Plan
from edge_runtime.router.watch.contract import TrialPlan
from edge_runtime.server import (
    classify_cache,
    classify_frontier,
    classify_local,
    classify_trial,
    classify_watch,
)
from edge_runtime.server.classify_entry import (
    LABEL_TOKENS,
    NEVER_KEPT,
    ClassifyBody,
    since_ms,
)
from edge_runtime.server.classify_item import Item
from edge_runtime.server.classify_open import begin
from edge_runtime.server.context import RequestContext, Services
from edge_runtime.server.own_time import OwnTime
from edge_runtime.server.replies import json_reply
from edge_runtime.server.trials import plan_of


@dataclass(slots=True)
class ClassifyCourse:
    """See the module. One a request."""

    request: web.Request
    services: Services
    context: RequestContext
    plan: Plan
    body: ClassifyBody
    own: OwnTime
    items: list[Item] = field(default_factory=list)
    infos: list[ModelInfo | None] = field(default_factory=list)
    token_count: int = 0
    trial: TrialPlan | None = None

    async def run(self) -> web.StreamResponse:
        """Answer, or raise what the caller is told."""
        router = self.services.router
        self.trial = router.trial(self.plan)
        self.plan = plan_of(self.plan, self.trial)
        try:
            await begin(self)
            while undecided := [item for item in self.items if item.answer is None]:
                self.own.go()
                await self._round(undecided)
            self.own.stop()
            for item in self.items:
                await item.case.told.bill.settled()
        finally:
            self.own.observe(self.services.metrics, self.context.route)
            for item in self.items:
                item.case.told.bill.cancel()
                router.account(item.case.told, self.plan.endpoint)
        classify_trial.pair(self)
        return self._reply()

    async def _round(self, undecided: Sequence[Item]) -> None:
        """One step for every question that has no answer yet; batches run as one."""
        steps: list[tuple[Item, Step]] = [(item, item.case.next()) for item in undecided]
        self.own.stop()
        for _, step in steps:
            if isinstance(step, Refuse):
                refused = next(item for item, one in steps if one is step)
                raise refused.case.refusal(step)
        for item, step in steps:
            if isinstance(step, Keep):
                self._keep(item, step)
        rungs = sorted({step.rung for _, step in steps if isinstance(step, TryLocal)})
        for rung in rungs:
            batch = [item for item, one in steps if isinstance(one, TryLocal) and one.rung == rung]
            await classify_local.attempt(self, rung, batch)
        escalating = [(item, one.reason) for item, one in steps if isinstance(one, Escalate)]
        for item, _ in escalating:
            classify_watch.tell(self, item, None)
        if escalating:
            places = asyncio.Semaphore(self.services.router.settings.max_concurrent_escalations)
            try:
                async with asyncio.TaskGroup() as group:
                    for item, reason in escalating:
                        group.create_task(classify_frontier.escalate(self, item, reason, places))
            except ExceptionGroup as errors:
                raise errors.exceptions[0] from errors

    def _keep(self, item: Item, step: Keep) -> None:
        item.case.kept(step)
        item.answer = item.answers[step.rung]
        if step.reason not in NEVER_KEPT:
            classify_cache.remember(self, item, item.answer)
        classify_watch.kept(self, item, step)

    # what the parts of the course share

    def call(self, item: Item, reason: Reason) -> FrontierCall | None:
        """The call that escalates an input; None where its bundle does not say how to ask."""
        info = self.context.info
        if info is None or info.escalation is None:
            return None
        escalation, labels = info.escalation, info.labels

        def accept(body: Json) -> str | None:
            return label_problem(escalation, labels, body)

        return item.case.call(
            classify_body(escalation, labels, item.text),
            reason,
            max_output_tokens=escalation.max_output_tokens or LABEL_TOKENS,
            deadline_s=self.context.deadline_s,
            accept=accept,
        )

    # writing

    def _reply(self) -> web.Response:
        data = []
        for item in self.items:
            assert item.answer is not None
            entry = {"index": item.index, **item.answer}
            if len(self.items) > 1:
                entry["edge"] = item.case.told.body()
            data.append(entry)
        edge = self.context.edge({"total_ms": since_ms(self.services, self.context)})
        usage = {"prompt_tokens": self.token_count, "total_tokens": self.token_count}
        return json_reply(
            {
                "object": "list",
                "model": self.body.model,
                "data": data,
                "usage": usage,
                "edge": edge,
            }
        )

    def since_us(self) -> int:
        """Microseconds since the request came."""
        return max(0, round((self.services.clock() - self.context.arrival_s) * 1e6))

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
from typing import Any

from aiohttp import web

from edge_runtime.cache.contract import Ticket
from edge_runtime.cache.policy import Use
from edge_runtime.core import Kind, ModelInfo
from edge_runtime.errors import CapacityError, EdgeError, UsageError
from edge_runtime.ledger.energy.account import share
from edge_runtime.ledger.rows import Status, Tokens
from edge_runtime.router.booking import Work
from edge_runtime.router.contract import (
    FrontierCall,
    Json,
    Reason,
)
from edge_runtime.router.decide import Escalate, Keep, Refuse, Step, TryLocal
from edge_runtime.router.escalate import classify_body, label_problem
from edge_runtime.router.plan import Plan
from edge_runtime.router.router import Case, fault_of
from edge_runtime.router.watch.contract import TrialPlan
from edge_runtime.server import classify_cache, classify_frontier, classify_trial, classify_watch
from edge_runtime.server.classify_entry import (
    LABEL_TOKENS,
    NEVER_KEPT,
    NO_USE,
    ClassifyBody,
    ranked,
    since_ms,
)
from edge_runtime.server.context import RequestContext, Services
from edge_runtime.server.encoders import too_long, work_of
from edge_runtime.server.offload import offload
from edge_runtime.server.own_time import OwnTime
from edge_runtime.server.prompts import OneInput, fit, split_inputs, to_tokens
from edge_runtime.server.replies import json_reply
from edge_runtime.server.trials import plan_of
from edge_runtime.stats.scores import classifier_scores


@dataclass(slots=True)
class Item:
    """One input on its way."""

    index: int
    text: str
    case: Case
    tokens: dict[int, tuple[int, ...]] = field(default_factory=dict)
    answers: dict[int, dict[str, Any]] = field(default_factory=dict)
    use: Use = NO_USE
    ticket: Ticket | None = None
    answer: dict[str, Any] | None = None
    frontier_label: str | None = None


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
            await self._open()
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

    async def _open(self) -> None:
        limit = self.services.settings.server.max_inputs_per_request
        inputs = split_inputs(self.body.input, param="input", limit=limit)
        router, alone = self.services.router, len(inputs) == 1
        errors = self._models()
        for index, one in enumerate(inputs):
            payer = self.context.payer(self.plan, None if alone else index)
            case = router.open_case(self.plan, router.told(payer))
            item = Item(index, self._text(one), case)
            self.items.append(item)
            self.context.told.append(case.told)
            for rung, info in enumerate(self.infos):
                case.rung(info, error=errors.get(rung))
        with self.own.away():
            await self._tokenise(inputs)
        for item in self.items:
            classify_cache.look_up(self, item)

    def _models(self) -> dict[int, Exception]:
        """The ladder's models, and why some of them cannot be tried."""
        errors: dict[int, Exception] = {}
        for rung, name in enumerate(self.plan.ladder):
            info: ModelInfo | None = None
            try:
                info = self.services.model(name, Kind.CLASSIFY)
            except (UsageError, CapacityError) as error:
                errors[rung] = error
            self.infos.append(info)
        # the labels that are asked for are those of the ladder's own model, not of its candidate
        known = [one for one in self.infos if one is not None]
        own = [one for one in known if one.name != self.plan.candidate]
        self.context.info = next(iter([*own, *known]), None)
        if self.context.info is None:
            # labels come from a bundle: without one there is nothing a frontier could be asked
            raise next(iter(errors.values()), _no_labels(self.plan))
        return errors

    def _text(self, one: OneInput) -> str:
        if isinstance(one, str):
            return one
        assert self.context.info is not None
        return self.services.host.codec(self.context.info.name).decode(one)

    async def _tokenise(self, inputs: Sequence[OneInput]) -> None:
        for rung, info in enumerate(self.infos):
            if info is None:
                continue
            codec = self.services.host.codec(info.name)
            lists = await to_tokens(codec, inputs, info, "input")
            cut_to = self.body.limit(info)
            pairs = list(zip(self.items, inputs, lists, strict=True))
            _refuse_empty(lists)
            if cut_to is None:
                self._take_fitting(rung, info, lists)
                continue
            cut = await offload(
                lambda codec=codec, cut_to=cut_to, pairs=pairs: [  # type: ignore[misc]
                    fit(codec, one, tokens, cut_to) for _, one, tokens in pairs
                ],
                chars=sum(len(one) for _, one, tokens in pairs if len(tokens) > cut_to),
            )
            for item, tokens in zip(self.items, cut, strict=True):
                item.tokens[rung] = tokens

    def _take_fitting(self, rung: int, info: ModelInfo, lists: Sequence[Sequence[int]]) -> None:
        """Inputs that are too long for a model are not tried there."""
        for item, tokens in zip(self.items, lists, strict=True):
            error = too_long(item.index, tokens, info)
            if error is None:
                item.tokens[rung] = tuple(tokens)
            elif self.plan.plain:
                raise error
            else:
                item.case.failed(rung, Reason.CONTEXT_TOO_LONG, error)

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
            await self._try(rung, batch)
        escalating = [(item, one.reason) for item, one in steps if isinstance(one, Escalate)]
        if escalating:
            places = asyncio.Semaphore(self.services.router.settings.max_concurrent_escalations)
            try:
                async with asyncio.TaskGroup() as group:
                    for item, reason in escalating:
                        group.create_task(classify_frontier.escalate(self, item, reason, places))
            except ExceptionGroup as errors:
                raise errors.exceptions[0] from errors

    # the local models

    async def _try(self, rung: int, batch: Sequence[Item]) -> None:
        info = self.infos[rung]
        assert info is not None
        tokens = [item.tokens[rung] for item in batch]
        try:
            logits = await self.services.host.encode(
                info.name,
                tokens,
                request_class=self.context.request_class,
                bundle_digest=info.bundle_digest,
            )
        except EdgeError as error:
            self._failed(rung, batch, error)
            return
        self.token_count += sum(len(one) for one in tokens)
        works = self._works(info, tokens)
        entries = ranked(logits, info, self.body.top_k)
        for at, (item, entry, work) in enumerate(zip(batch, entries, works, strict=True)):
            holding = item.case.certificate_at(rung)
            score: float | None = None
            if holding is not None and holding.known is not None:
                name = holding.known.certificate.score.name
                score = float(classifier_scores(name, logits[at : at + 1])[0])
            task = self.plan.task_of(info.name)
            item.case.told.bill.local(info, work, rung=rung, score=score, task=task)
            item.case.answered(rung, score)
            item.answers[rung] = entry

    def _works(self, info: ModelInfo, tokens: Sequence[Sequence[int]]) -> list[Work]:
        """A batch's work, shared among its inputs by their tokens."""
        whole = work_of(self.services, self.context, info, tokens)
        counts = [len(one) for one in tokens]
        busy = share(whole.busy_us, counts)
        return [
            Work(Tokens(count), part, whole.duration_us)
            for count, part in zip(counts, busy, strict=True)
        ]

    def _failed(self, rung: int, batch: Sequence[Item], error: Exception) -> None:
        deadline_s = self.context.deadline_s
        late = deadline_s is not None and self.services.clock() >= deadline_s
        fault = fault_of(error, late=late)
        if fault is None or self.plan.plain:
            raise error
        for item in batch:
            if fault is Reason.LOCAL_FAULT:
                info = item.case.info(rung)
                work = Work(Tokens(len(item.tokens[rung])), 0, self.since_us())
                item.case.told.bill.local(info, work, rung=rung, status=Status.ERROR)
            item.case.failed(rung, fault, error)

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


def _refuse_empty(lists: Sequence[Sequence[int]]) -> None:
    for index, tokens in enumerate(lists):
        if not tokens:
            raise UsageError(f"input {index} gives no tokens: send some text", param="input")


def _no_labels(plan: Plan) -> UsageError:
    return UsageError(
        f"{plan.asked} has no local classifier whose labels could be asked for; "
        "use /v1/chat/completions",
        param="model",
        code="wrong_model_kind",
    )

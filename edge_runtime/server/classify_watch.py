"""What the watch is told of classifications: kept, escalated, and tried beside a frontier."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

from edge_runtime.core import ModelInfo, RequestClass
from edge_runtime.errors import EdgeError
from edge_runtime.ledger.rows import Purpose, Tokens
from edge_runtime.router.contract import Reason
from edge_runtime.router.decide import Keep
from edge_runtime.router.escalate import read_label
from edge_runtime.router.till import Work
from edge_runtime.router.watch.contract import Compared, HowToCompare, Sample, Slice
from edge_runtime.server.classify_entry import ranked
from edge_runtime.server.watch_told import task_of, tell_decided

if TYPE_CHECKING:
    from edge_runtime.server.classify_course import ClassifyCourse
    from edge_runtime.server.classify_item import Item

log: Final = structlog.get_logger("edge_runtime.server")


def _where(item: Item, task: str) -> Slice:
    tokens = len(next(iter(item.tokens.values()), ()))
    tenant = item.case.told.bill.payer.tenant
    return Slice(task=task, tenant=tenant, prompt_tokens=tokens, text=item.text)


def tell(course: ClassifyCourse, item: Item, kept_rung: int | None) -> None:
    """Tell the watch of a decided question; `kept_rung`: whose label was sure enough."""
    counts = {rung: len(tokens) for rung, tokens in item.tokens.items()}
    tell_decided(item.case, _where(item, task_of(course.plan)), counts, kept_rung)


def kept(course: ClassifyCourse, item: Item, step: Keep) -> None:
    """Tell the watch of a label that was kept, and let it draw for an audit."""
    watch, case = course.services.router.watch, item.case
    confident = step.reason is Reason.CONFIDENT
    tell(course, item, step.rung if confident else None)
    known = case.holdings[step.rung].known
    score = case.scores.get(step.rung)
    if watch is None or known is None or score is None or not confident:
        return
    info = case.info(step.rung)
    call = course.call(item, step.reason)
    if call is None or info.escalation is None or item.answer is None:
        return
    escalation, labels = info.escalation, info.labels
    watch.maybe_audit(
        Sample(
            where=_where(item, known.certificate.task),
            request_id=case.told.bill.payer.request_id,
            certificate=known.digest,
            model_digest=info.model_digest,
            score=score,
            answer=item.answer["label"],
            how=HowToCompare.LABEL,
            read=lambda body: read_label(escalation, labels, body).label,
            call=call,
            may_leave=course.plan.may_leave,
        )
    )


def escalated(course: ClassifyCourse, item: Item, reason: Reason, label: str) -> None:
    """Tell the watch how the local label that lay there compares with the frontier's."""
    watch, case = course.services.router.watch, item.case
    if watch is None or reason is not Reason.LOW_CONFIDENCE:
        return
    for rung, score in case.scores.items():
        known = case.holdings[rung].known
        if known is None:
            continue
        watch.compared(
            Compared(
                where=_where(item, known.certificate.task),
                request_id=case.told.bill.payer.request_id,
                certificate=known.digest,
                model_digest=case.info(rung).model_digest,
                score=score,
                local=item.answers[rung]["label"],
                frontier=label,
                how=HowToCompare.LABEL,
            )
        )


def shadow(course: ClassifyCourse, item: Item, frontier: str) -> None:
    """Let the first local model try beside the frontier, in the background, and compare."""
    info, tokens = course.infos[0], item.tokens.get(0)
    if info is None or tokens is None:
        return
    services, payer = course.services, item.case.told.bill.payer
    where = _where(item, course.plan.task_of(info.name))

    async def run() -> None:
        batch = RequestClass.BATCH
        started_s = services.clock()
        try:
            logits = await services.host.encode(
                info.name, [tokens], request_class=batch, bundle_digest=info.bundle_digest
            )
        except EdgeError as error:
            log.warning("shadow failed", action="shadow_failed", reason=str(error))
            return
        book_beside(course, item, info, len(tokens), services.clock() - started_s)
        watch = services.router.watch
        if watch is not None:
            local = ranked(logits, info, 1)[0]["label"]
            watch.compared(
                Compared(
                    where=where,
                    request_id=payer.request_id,
                    certificate="",
                    model_digest=info.model_digest,
                    score=None,
                    local=local,
                    frontier=frontier,
                    how=HowToCompare.LABEL,
                )
            )

    services.router.background("shadow", run())


def book_beside(
    course: ClassifyCourse, item: Item, info: ModelInfo, tokens: int, taken_s: float
) -> None:
    """Book a label that a model gave for nobody, `taken_s` after it was asked."""
    services = course.services
    busy_s = services.metrics.encoder_seconds(info.name, tokens)
    bill = item.case.told.bill
    row = services.router.till.local_row(
        bill.payer,
        info,
        Work(Tokens(tokens), round(min(busy_s, taken_s) * 1e6), round(taken_s * 1e6)),
        attempt=bill.attempts,
        reason=str(Reason.SHADOW),
        purpose=Purpose.SHADOW,
    )
    services.router.till.append(row)

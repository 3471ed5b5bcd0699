"""What the watch is told of any decided question: one count, and each score that was made.

A question counts when it is decided, not when it is answered: a slow frontier would hold back the
low scores, and those that are kept at once would look like a drift.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from edge_runtime.router.case import Case
from edge_runtime.router.plan import Plan
from edge_runtime.router.watch.contract import Decided, Slice


def task_of(plan: Plan) -> str:
    """The task a question is about, whoever answers it."""
    if plan.candidate:
        return plan.task_of(plan.candidate)
    return plan.task_of(plan.ladder[0]) if plan.ladder else plan.task or plan.asked


def tell_decided(case: Case, where: Slice, tokens: Mapping[int, int], kept: int | None) -> None:
    """Count a question, the first time it is told, and hold its scores against their certificates.

    `kept` is the rung whose answer a certificate let through; None where the question escalated,
    or should have and could not. `tokens` by rung. A question that no certificate judged, as
    when there is none or an alarm suspends it, counts as escalated.
    """
    watch = case.router.watch
    if watch is None or case.counted or not case.plan.rules.needs_certificate:
        return
    case.counted = True
    judged = [
        (rung, score, known)
        for rung, score in case.scores.items()
        if (known := case.holdings[rung].known) is not None
    ]
    if not judged:
        whole = where.prompt_tokens
        watch.observe(Decided(where=where, certificate="", score=None, kept=False, tokens=whole))
        return
    counted = kept if kept in case.scores else judged[0][0]
    for rung, score, known in judged:
        watch.observe(
            Decided(
                where=replace(where, task=known.certificate.task),
                certificate=known.digest,
                score=score,
                kept=rung == kept,
                tokens=tokens.get(rung, where.prompt_tokens),
                again=rung != counted,
            )
        )

"""Who is let in without asking a person. Pure."""

from __future__ import annotations

import enum
from typing import Protocol

from edge_runtime.agent.protocol import EnrolRequest, split_principal
from fleet.enrol.claims import Claim
from fleet.expr import compile_expression
from fleet.registry.facts import ENROL_NAMES, facts_of


class Answer(enum.StrEnum):
    """What a policy says of a request."""

    APPROVE = "approve"
    ASK = "ask"  # an operator decides
    REFUSE = "refuse"


class Policy(Protocol):
    """The hook: anything that answers, quickly and without I/O."""

    def __call__(self, request: EnrolRequest, claim: Claim, principal: str) -> Answer:
        """What becomes of a request whose claim and signature hold."""


def by_claim(request: EnrolRequest, claim: Claim, principal: str) -> Answer:
    """Let in who holds a claim that says so; ask about everybody else."""
    del request, principal
    return Answer.APPROVE if claim.approve else Answer.ASK


class ByExpression:
    """Let in also those for whom an expression over `ENROL_NAMES` holds.

    Raises `ExpressionError` when it is made. Labels are the box's own with the claim's on top:
    only what the claim says of them can be relied on.
    """

    def __init__(self, text: str) -> None:
        self._expression = compile_expression(text, ENROL_NAMES)

    def __call__(self, request: EnrolRequest, claim: Claim, principal: str) -> Answer:
        """See `Policy`."""
        if claim.approve:
            return Answer.APPROVE
        tenant, box = split_principal(principal)
        values = {
            "principal": principal,
            "tenant": tenant,
            "box": box,
            "labels": {**request.labels, **claim.labels},
            **facts_of(request.hardware, request.versions),
        }
        return Answer.APPROVE if self._expression.holds(values) else Answer.ASK

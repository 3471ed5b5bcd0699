"""A trial of two bundles on one request: who was heard, and who still has to answer.

Rules
- The request is answered first, by the ladder; a trial costs its caller nothing. Whichever of the
  two has not answered by then does so in the background, in the batch class.
- A bundle that fails by itself lost the pair. A box that is full, or a model that was taken away
  meanwhile, says nothing of a bundle: there is no pair.
- Requests that no certificate judged here (cached, suspended, too long, ...) make no pair.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edge_runtime.errors import EngineError, UsageError
from edge_runtime.router.contract import Reason
from edge_runtime.router.decide import Tried
from edge_runtime.router.plan import Plan
from edge_runtime.router.watch.contract import Side, TrialPlan

FAILED = frozenset({Reason.LOCAL_FAULT, Reason.SCHEMA_INVALID})


@dataclass(frozen=True, slots=True)
class Heard:
    """What one bundle said; None where it failed."""

    answer: str | None


def plan_of(plan: Plan, trial: TrialPlan | None) -> Plan:
    """The plan of a request in a trial: the new bundle leads where it is to serve."""
    return plan.led_by(trial.new) if trial is not None and trial.serve is Side.NEW else plan


def heard(
    plan: Plan, name: str, answers: Mapping[int, str], tried: Mapping[int, Tried]
) -> Heard | None:
    """What a model said while the request was answered; None where it was not asked.

    `answers` and `tried` by rung.
    """
    if name not in plan.ladder:
        return None
    rung = plan.ladder.index(name)
    if rung in answers:
        return Heard(answers[rung])
    found = tried.get(rung)
    return Heard(None) if found is not None and found.fault in FAILED else None


def missing(trial: TrialPlan, old: Heard | None, new: Heard | None) -> str | None:
    """The model that still has to answer; None where both did, or neither."""
    if (old is None) == (new is None):
        return None
    return trial.old if old is None else trial.new


def lost_by(error: Exception) -> bool:
    """Whether an error in the background is the bundle's own: see the module's rules."""
    if isinstance(error, UsageError):
        return error.code != "model_not_found"
    return isinstance(error, EngineError)

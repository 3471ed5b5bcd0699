"""The agent's decisions, without its I/O; the fleet simulator runs the same code."""

from __future__ import annotations

from edge_runtime.agent.decide.gates import RECHECK_S
from edge_runtime.agent.decide.machine import (
    Offer,
    Taken,
    cancel,
    next_step,
    observe,
    report,
    resume,
    take,
    withdraw,
)
from edge_runtime.agent.decide.values import (
    ActionKind,
    Broken,
    Deferral,
    Done,
    Facts,
    GaveUp,
    HealthFacts,
    ItemRecord,
    Outcome,
    Plan,
    Policy,
    TryAgain,
)

__all__ = [
    "RECHECK_S",
    "ActionKind",
    "Broken",
    "Deferral",
    "Done",
    "Facts",
    "GaveUp",
    "HealthFacts",
    "ItemRecord",
    "Offer",
    "Outcome",
    "Plan",
    "Policy",
    "Taken",
    "TryAgain",
    "cancel",
    "next_step",
    "observe",
    "report",
    "resume",
    "take",
    "withdraw",
]

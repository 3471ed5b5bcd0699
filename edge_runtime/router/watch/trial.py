"""A trial of a second bundle on the same requests: go on, promote, or revert. Pure.

Rules
- Paired: both bundles answer the same request. Where they agree nobody needs to be asked; where
  they differ the frontier's answer says who was right. Only such discordant pairs weigh.
- A bundle that gave no answer, as after a fault, lost the pair to one that did.
- PASS promotes, FAIL reverts. A trial without a verdict after `max_pairs` reverts: what cannot be
  told apart does not need to be changed. The outcome is final.
- A trial that reverted changes no request any more. One that promoted gives the new one every
  request in `ab`; in `shadow` it only says so, because nobody agreed to other answers.
- A pair that differs and may not leave the box cannot be judged; it is counted apart. So the
  verdict is about requests that may leave.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge_runtime.router.watch.compare import same_answer
from edge_runtime.router.watch.contract import (
    HowToCompare,
    Outcome,
    Side,
    TrialPlan,
    TrialState,
)
from edge_runtime.router.watch.settings import TrialSettings
from edge_runtime.stats.sprt import PairedSprt
from edge_runtime.stats.verdict import Verdict


@dataclass(frozen=True, slots=True)
class Judged:
    """Who was right in one pair."""

    old_right: bool
    new_right: bool


def trial_name(model: str, candidate: str, old_digest: str, new_digest: str) -> str:
    """Another artefact on either side is another trial."""
    return f"{model}@{old_digest[:12]}:{candidate}@{new_digest[:12]}"


def plan(
    state: TrialState, settings: TrialSettings, draw: float, serve_draw: float
) -> TrialPlan | None:
    """What an ongoing trial or a promotion makes of a request, by draws from [0, 1)."""
    if state.outcome is Outcome.PROMOTE and settings.mode == "ab":
        return TrialPlan(state.trial, state.model, state.candidate, Side.NEW, paired=False)
    if state.outcome is not Outcome.CONTINUE or draw >= settings.share:
        return None
    new = settings.mode == "ab" and serve_draw < settings.candidate_share
    return TrialPlan(state.trial, state.model, state.candidate, Side.NEW if new else Side.OLD)


def judged_alone(old: str | None, new: str | None, how: HowToCompare) -> Judged | None:
    """The verdict on a pair that needs no frontier; None where one has to be asked."""
    if old is None or new is None:
        return Judged(old is not None or new is None, new is not None or old is None)
    return Judged(True, True) if same_answer(old, new, how) else None


def judged_by(reference: str, old: str, new: str, how: HowToCompare) -> Judged:
    """The verdict by the frontier's answer; both may be wrong."""
    return Judged(same_answer(old, reference, how), same_answer(new, reference, how))


def after_pair(state: TrialState, judged: Judged, settings: TrialSettings) -> TrialState:
    """The trial after one more pair. Costs a few logarithms."""
    if state.outcome is not Outcome.CONTINUE:
        return state
    sprt = PairedSprt(
        loss_share=settings.loss_share,
        false_halt=settings.false_halt,
        missed=settings.missed,
        pairs=state.pairs,
        losses=state.losses,
        wins=state.wins,
    )
    verdict = sprt.observe(old_right=judged.old_right, new_right=judged.new_right)
    outcome, why = Outcome.CONTINUE, ""
    seen = f"it lost {sprt.losses} and won {sprt.wins} of {sprt.pairs} pairs"
    if verdict is Verdict.FAIL:
        outcome, why = Outcome.REVERT, f"the candidate is worse: {seen}"
    elif verdict is Verdict.PASS:
        outcome, why = Outcome.PROMOTE, f"the candidate is not worse: {seen}"
    elif sprt.pairs >= settings.max_pairs:
        outcome, why = Outcome.REVERT, f"no verdict in time: {seen}"
    return TrialState(
        state.trial,
        state.model,
        state.candidate,
        sprt.pairs,
        sprt.losses,
        sprt.wins,
        state.unjudged,
        outcome,
        why,
    )

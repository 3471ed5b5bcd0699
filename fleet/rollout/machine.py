"""What happens next in a rollout. Pure: a state, what is known, and a cause in; a decision out.

Rules
- Nothing here acts. The engine stores a decision, state, history and effects in one commit, and
  acts afterwards; a crash before the commit changes nothing, one after it is made good by acting
  again.
- `decide` of the same arguments is the same decision. A tick that finds nothing to do returns the
  state as it was, and nothing is stored.
- A guard that fails halts in every live phase, also while a person paused or the gate holds.
- Not enough evidence is never a pass: the gate holds, until evidence comes or a person goes on in
  its stead.
- A rollback and a cancel are new generations for the boxes concerned, never the deletion of one.

    draft -> approved -> running -> baking -> gate { pass -> running (next wave) | completed
                                                   , insufficient -> holding
                                                   , fail -> halted }
    live <-> paused;   halted -> rolling_back -> rolled_back;   cancelled
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, NoReturn

from edge_runtime.errors import UsageError
from edge_runtime.stats.verdict import Verdict
from fleet.rollout.plan import HOUR_S, RolloutPlan
from fleet.rollout.states import (
    LIVE,
    Action,
    Aim,
    Cause,
    Command,
    Decision,
    Effect,
    Enlist,
    Offer,
    Phase,
    Recall,
    Reopen,
    RolloutState,
    SetWant,
    Transition,
    View,
)

MACHINE: Final = "rollout"
"""The actor of transitions that no person ordered."""
BURST_S: Final = 60.0
"""How much unused byte budget may be saved up: a control host that slept does not flood."""


@dataclass(frozen=True, slots=True)
class Rules:
    """The numbers of a plan that the machine needs; hours are seconds here."""

    not_before_s: float
    bake_s: float
    wave_deadline_s: float
    settled_share: float
    confirmed_share: float
    bytes_per_s: float
    rollback_bytes_per_s: float
    hold_back_s: float
    rollback_on_fail: bool
    by_another: bool

    @classmethod
    def of(cls, plan: RolloutPlan) -> Rules:
        """The rules of a plan."""
        return cls(
            not_before_s=plan.times.not_before_s or 0.0,
            bake_s=plan.times.bake_hours * HOUR_S,
            wave_deadline_s=plan.waves.deadline_hours * HOUR_S,
            settled_share=plan.waves.settled_share,
            confirmed_share=plan.waves.confirmed_share,
            bytes_per_s=plan.pace.bytes_per_s,
            rollback_bytes_per_s=plan.pace.bytes_per_s * plan.pace.rollback_factor,
            hold_back_s=plan.waves.hold_back_hours * HOUR_S,
            rollback_on_fail=plan.guards.on_fail == "rollback",
            by_another=plan.approval.by_another,
        )


def decide(rules: Rules, state: RolloutState, view: View, cause: Cause) -> Decision:
    """The decision. Raises `UsageError` for an order that the phase does not allow."""
    step = _Step(rules, state, view)
    if isinstance(cause, Command):
        step.order(cause)
    else:
        step.tick()
    return step.decision()


def recall(state: RolloutState) -> Recall:
    """Which boxes a rollout in this state wants back on the old one."""
    if state.phase in (Phase.ROLLING_BACK, Phase.ROLLED_BACK):
        return Recall.ALL
    if state.phase in (Phase.HALTED, Phase.CANCELLED):
        return Recall.UNFINISHED
    return Recall.NONE


class _Step:
    """One decision in the making: the state moves, and what moved it is written down."""

    def __init__(self, rules: Rules, state: RolloutState, view: View) -> None:
        self.rules, self.before, self.state, self.view = rules, state, state, view
        self.transitions: list[Transition] = []
        self.effects: list[Effect] = []

    def decision(self) -> Decision:
        state = self.state
        if state != self.before or self.transitions or self.effects:
            state = replace(state, version=self.before.version + 1)
        return Decision(state, tuple(self.transitions), tuple(self.effects))

    def go(
        self,
        phase: Phase,
        reason: str,
        *,
        actor: str = MACHINE,
        gate: Verdict | None = None,
        wave: int | None = None,
    ) -> None:
        """Enter `phase`; a new wave, or a phase that offers, begins with a fresh byte budget."""
        now, at = self.view.now_s, self.state.wave if wave is None else wave
        records = self.view.judgement.records if gate is not None else ()
        self.transitions.append(
            Transition(self.state.phase, phase, at, now, actor, reason, gate, records)
        )
        begins = wave is not None
        self.state = replace(
            self.state,
            phase=phase,
            wave=at,
            since_s=now,
            wave_since_s=now if begins else self.state.wave_since_s,
            paced_from_s=now,
            paced_bytes=0,
            paused_from=None,
        )

    # Time passes.

    def tick(self) -> None:
        phase = self.state.phase
        if phase is Phase.APPROVED:
            self._begin()
        elif phase in LIVE:
            self._watch()
        elif phase is Phase.HALTED:
            if self.state.by_guard and self.rules.rollback_on_fail:
                self.go(Phase.ROLLING_BACK, "a guard failed and the plan says to roll back")
            else:
                self._send_back()
        elif phase is Phase.ROLLING_BACK:
            self._roll_back()
        elif phase is Phase.CANCELLED:
            self._send_back()
        elif phase is Phase.COMPLETED:
            self._release_held_back()

    def _begin(self) -> None:
        if self.view.now_s < self.rules.not_before_s:
            return
        if not self.view.candidates:
            self.go(Phase.CANCELLED, "no box that the target names can run it")
            return
        self.effects.append(Enlist())
        self.go(Phase.RUNNING, f"{self.view.candidates} boxes take part", wave=0)

    def _watch(self) -> None:
        if self.view.judgement.verdict is Verdict.FAIL:
            self.go(Phase.HALTED, self.view.judgement.reason, gate=Verdict.FAIL)
            self.state = replace(self.state, by_guard=True)
        elif self.state.phase is Phase.RUNNING:
            self._offer(self.view.offers, Aim.NEW, self.rules.bytes_per_s)
            self._settle()
        elif self.state.phase is Phase.BAKING:
            if self.view.now_s >= self.state.since_s + self.rules.bake_s:
                self._gate()
        elif self.state.phase is Phase.HOLDING:
            self._gate()

    def _settle(self) -> None:
        counts = self.view.wave_counts
        if counts.waiting or len(self.effects) < len(self.view.offers):
            return  # some have not even been asked
        ended = counts.confirmed + counts.lost
        if not counts.open:
            self.go(Phase.BAKING, f"all {counts.taking_part} boxes ended")
        elif ended >= self.rules.settled_share * counts.taking_part:
            self.go(Phase.BAKING, f"{ended} of {counts.taking_part} boxes ended")
        elif self.view.now_s >= self.state.wave_since_s + self.rules.wave_deadline_s:
            self.go(Phase.BAKING, f"deadline; {counts.open} of {counts.taking_part} boxes are open")

    def _gate(self) -> None:
        counts, judgement = self.view.wave_counts, self.view.judgement
        few = counts.confirmed < self.rules.confirmed_share * counts.taking_part
        if judgement.verdict is Verdict.PASS and not few:
            self._next(judgement.reason, MACHINE, Verdict.PASS)
        elif self.state.phase is not Phase.HOLDING:
            confirmed = f"only {counts.confirmed} of {counts.taking_part} boxes confirmed"
            reason = confirmed if judgement.verdict is Verdict.PASS else judgement.reason
            self.go(Phase.HOLDING, reason, gate=Verdict.INSUFFICIENT)

    def _next(self, reason: str, actor: str, gate: Verdict) -> None:
        following = self.state.wave + 1
        if following < self.view.waves:
            self.go(Phase.RUNNING, reason, actor=actor, gate=gate, wave=following)
        else:
            self.go(Phase.COMPLETED, reason, actor=actor, gate=gate)

    def _roll_back(self) -> None:
        self._send_back()
        late = self.view.now_s >= self.state.since_s + self.rules.wave_deadline_s
        if self.view.returns or (self.view.returning and not late):
            return
        missing = f"; {self.view.returning} boxes have not said so yet" if late else ""
        self.go(Phase.ROLLED_BACK, f"every box was told to go back{missing}")

    def _send_back(self) -> None:
        self._offer(self.view.returns, Aim.OLD, self.rules.rollback_bytes_per_s)

    def _release_held_back(self) -> None:
        if self.view.now_s >= self.state.since_s + self.rules.hold_back_s:
            self._offer(self.view.held_back, Aim.NEW, self.rules.bytes_per_s)

    def _offer(self, waiting: Sequence[Offer], aim: Aim, bytes_per_s: float) -> None:
        """Ask boxes in order, as long as the byte budget is not overdrawn."""
        if not waiting:
            return
        earned = (self.view.now_s - self.state.paced_from_s) * bytes_per_s
        taken = max(self.state.paced_bytes, int(earned - BURST_S * bytes_per_s))
        for offer in waiting:
            if taken > earned:
                break
            self.effects.append(SetWant(offer.box, aim))
            taken += offer.size_bytes
        self.state = replace(self.state, paced_bytes=taken)

    # Somebody orders.

    def order(self, command: Command) -> None:
        getattr(self, f"_order_{command.action.value}")(command)

    def _order_approve(self, command: Command) -> None:
        if self.state.phase is not Phase.DRAFT:
            self._refuse(command)
        if self.rules.by_another and command.actor == self.view.filed_by:
            raise UsageError(
                "this plan has to be approved by another person than the one who filed it",
                code="needs_another",
                status=403,
            )
        self.go(Phase.APPROVED, command.reason or "approved", actor=command.actor)

    def _order_pause(self, command: Command) -> None:
        if self.state.phase not in LIVE - {Phase.PAUSED}:
            self._refuse(command)
        phase, since_s = self.state.phase, self.state.since_s
        self.go(Phase.PAUSED, command.reason or "paused", actor=command.actor)
        self.state = replace(self.state, paused_from=phase, paused_since_s=since_s)

    def _order_resume(self, command: Command) -> None:
        if self.state.phase is Phase.HOLDING:
            if self.view.judgement.verdict is Verdict.FAIL:
                self._watch()  # what failed meanwhile is not gone past
                return
            reason = f"in spite of: {self.view.judgement.reason}"
            if command.reason:
                reason = f"{command.reason} ({reason})"
            self._next(reason, command.actor, Verdict.INSUFFICIENT)
        elif self.state.phase is Phase.PAUSED and self.state.paused_from is not None:
            # Boxes were watched all the same: the bake time went on.
            since_s = self.state.paused_since_s
            reason = command.reason or "resumed"
            self.go(self.state.paused_from, reason, actor=command.actor)
            self.state = replace(self.state, since_s=since_s)
        else:
            self._refuse(command)

    def _order_halt(self, command: Command) -> None:
        if self.state.phase not in LIVE:
            self._refuse(command)
        self.go(Phase.HALTED, command.reason or "halted", actor=command.actor)

    def _order_rollback(self, command: Command) -> None:
        if self.state.phase not in LIVE | {Phase.HALTED, Phase.COMPLETED}:
            self._refuse(command)
        reason = command.reason or "rollback ordered"
        if self.state.phase is not Phase.HALTED:
            self.go(Phase.HALTED, reason, actor=command.actor)
        self.go(Phase.ROLLING_BACK, reason, actor=command.actor)

    def _order_retry(self, command: Command) -> None:
        if self.state.phase not in LIVE | {Phase.COMPLETED}:
            self._refuse(command)
        self.effects.append(Reopen())
        reason = command.reason or "boxes that gave up are asked again"
        if self.state.phase is Phase.PAUSED:
            self.go(Phase.PAUSED, reason, actor=command.actor)
            self.state = replace(
                self.state, paused_from=Phase.RUNNING, paused_since_s=self.view.now_s
            )
        else:
            self.go(Phase.RUNNING, reason, actor=command.actor)
        self.state = replace(self.state, wave_since_s=self.view.now_s)

    def _order_cancel(self, command: Command) -> None:
        if self.state.phase not in LIVE | {Phase.DRAFT, Phase.APPROVED, Phase.HALTED}:
            self._refuse(command)
        self.go(Phase.CANCELLED, command.reason or "cancelled", actor=command.actor)

    def _refuse(self, command: Command) -> NoReturn:
        raise UsageError(
            f"cannot {command.action} a rollout that is {self.state.phase.replace('_', ' ')}"
            f"{_hint(command.action, self.state.phase)}",
            code="wrong_phase",
            status=409,
        )


def _hint(action: Action, phase: Phase) -> str:
    if phase is Phase.HALTED and action in (Action.RESUME, Action.RETRY):
        return "; roll it back or cancel it, and file a new one"
    if phase is Phase.DRAFT:
        return "; approve it first"
    return ""

"""The trials of a box: which run, what they have seen, and whom to ask about a pair.

Rules
- A trial belongs to two artefacts: when either side's digest changes, another one starts.
- `MAX_TRIALS` are remembered, ended ones included; the oldest go first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from edge_runtime.router.watch.contract import AuditEnd, Outcome, Pair, TrialPlan, TrialState
from edge_runtime.router.watch.judge import Judge, Question
from edge_runtime.router.watch.settings import TrialSettings
from edge_runtime.router.watch.trial import (
    Judged,
    after_pair,
    judged_alone,
    judged_by,
    plan,
    trial_name,
)

MAX_TRIALS = 64


class TrialBook:
    """Event loop only. `ended` hears of each trial once, when it has its outcome."""

    def __init__(
        self,
        settings: Mapping[str, TrialSettings],
        judge: Judge,
        *,
        digest_of: Callable[[str], str | None],
        draw: Callable[[], float],
        ended: Callable[[TrialState], None],
    ) -> None:
        self._settings = settings
        self._judge = judge
        self._digest_of = digest_of
        self._draw = draw
        self._ended = ended
        self._trials: OrderedDict[str, TrialState] = OrderedDict()

    def change(self, settings: Mapping[str, TrialSettings]) -> None:
        """Run other trials from now on; what the former ones saw is remembered."""
        self._settings = settings

    def states(self) -> tuple[TrialState, ...]:
        """Every trial that is remembered, oldest first."""
        return tuple(self._trials.values())

    def restore(self, states: Iterable[TrialState]) -> None:
        """Go on from what was remembered."""
        self._trials.update({one.trial: one for one in states})

    def plan(self, model: str) -> TrialPlan | None:
        """Whether a request to `model` takes part in a trial now; costs two draws."""
        settings = self._settings.get(model)
        if settings is None:
            return None
        old, new = self._digest_of(model), self._digest_of(settings.candidate)
        if old is None or new is None:
            return None
        name = trial_name(model, settings.candidate, old, new)
        state = self._trials.get(name)
        if state is None:
            state = self._trials[name] = TrialState(name, model, settings.candidate)
            while len(self._trials) > MAX_TRIALS:
                self._trials.popitem(last=False)
        return plan(state, settings, self._draw(), self._draw())

    def pair(self, pair: Pair) -> Outcome:
        """Take a pair; the frontier is asked about it only where it has to be."""
        state = self._trials.get(pair.trial)
        if state is None:
            return Outcome.CONTINUE
        if state.outcome is not Outcome.CONTINUE:
            return state.outcome  # pairs that were on their way when the trial ended
        judged = judged_alone(pair.old, pair.new, pair.how)
        if judged is None and pair.reference is not None:
            assert pair.old is not None, "a pair without an answer needs no judge"
            assert pair.new is not None, "a pair without an answer needs no judge"
            judged = judged_by(pair.reference, pair.old, pair.new, pair.how)
        if judged is not None:
            return self._judged(pair.trial, judged)
        if not (pair.may_leave and self._judge.offer(self._question(pair))):
            self._unjudged(pair.trial)
        return state.outcome

    def _question(self, pair: Pair) -> Question:
        def answered(answer: str | None, _: AuditEnd) -> None:
            if pair.trial not in self._trials:
                return
            if answer is None or pair.old is None or pair.new is None:
                self._unjudged(pair.trial)
            else:
                self._judged(pair.trial, judged_by(answer, pair.old, pair.new, pair.how))

        return Question(pair.call, pair.read, answered)

    def _unjudged(self, name: str) -> None:
        state = self._trials[name]
        self._trials[name] = replace(state, unjudged=state.unjudged + 1)

    def _judged(self, name: str, judged: Judged) -> Outcome:
        before = self._trials[name]
        settings = self._settings.get(before.model)
        if settings is None:
            return before.outcome
        after = self._trials[name] = after_pair(before, judged, settings)
        if before.outcome is Outcome.CONTINUE and after.outcome is not Outcome.CONTINUE:
            self._ended(after)
        return after.outcome

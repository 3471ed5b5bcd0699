"""Alarms of one certificate: is traffic still what it was made from? Pure.

Rules
- What is expected comes from the certificate's own counts. Those are estimates, so every limit is
  an upper confidence bound of the estimate plus a tolerance from the settings: without it a watch
  that looks for ever must alarm, since no two samples agree exactly.
- Scores are watched, not decisions: an alarm that escalates everything does not feed itself, and
  escalations for other reasons (too long, too busy) are not drift.
- The first alarm stays and the watch rests until it is cleared; then it starts from nothing.
- Audits are compared with a frontier. A certificate against gold labels promises nothing about
  agreement with it, so the frontier's own error, from the settings, is added to alpha there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from edge_runtime.bundle.certificate import GOLD
from edge_runtime.router.watch.contract import Alarm, Method, Signal, Terms
from edge_runtime.router.watch.settings import AuditSettings, DriftSettings
from edge_runtime.router.watch.tokens import TokensState, TokensWatch
from edge_runtime.stats.bank import BankState, BettingBank, Tuning
from edge_runtime.stats.clopper_pearson import upper_bound

BASELINE_DELTA = 0.01  # chance that a limit taken from the calibration's counts is too low
HIGHEST_RATE = 0.9  # above it a rise cannot be told from what is expected


@dataclass(frozen=True, slots=True)
class CertificateState:
    """All that is known of one certificate."""

    alarm: Alarm | None = None
    escalation: BankState | None = None
    scores: BankState | None = None
    tokens: TokensState | None = None
    audit: BankState | None = None


def escalation_limit(terms: Terms, slack: float) -> float:
    """The highest escalation rate that is no drift."""
    size = terms.calibration_size
    below = size - round(terms.coverage * size)
    return upper_bound(below, size, BASELINE_DELTA) + slack


def score_limits(terms: Terms, slack: float) -> tuple[float, ...]:
    """Of P(score < decile j) and then of P(score > decile j), j = 1..9: the highest of each.

    The calibration's distribution is within sqrt(ln(2 / delta) / 2n) of the true one everywhere
    (Dvoretzky, Kiefer, Wolfowitz; Massart, Ann. Probab. 18, 1990).
    """
    room = math.sqrt(math.log(2 / BASELINE_DELTA) / (2 * terms.calibration_size)) + slack
    lows = [(j + 1) / 10 + room for j in range(len(terms.score_deciles))]
    highs = [1 - (j + 1) / 10 + room for j in range(len(terms.score_deciles))]
    return (*lows, *highs)


def score_events(deciles: tuple[float, ...], score: float) -> tuple[float, ...]:
    """1 where the score is below decile j, then where it is above it; ties are neither."""
    return (
        *(float(score < one) for one in deciles),
        *(float(score > one) for one in deciles),
    )


def audit_limit(terms: Terms, frontier_error: float) -> float:
    """The highest share of audited answers a frontier may contradict."""
    return terms.alpha + (frontier_error if terms.reference == GOLD else 0.0)


@dataclass(slots=True)
class DriftWatch:
    """The watches of one certificate; see the module's rules."""

    terms: Terms
    drift: DriftSettings
    audit: AuditSettings
    alarm: Alarm | None = None
    _escalation: BettingBank | None = field(init=False)
    _scores: BettingBank | None = field(init=False)
    _score_places: tuple[int, ...] = field(init=False)
    _tokens: TokensWatch = field(init=False)
    _audit: BettingBank | None = field(init=False)

    def __post_init__(self) -> None:
        self._start()

    def observe(self, *, score: float | None, tokens: int, at_us: int) -> Alarm | None:
        """Take one decision; the alarm it raised. A score that is no number counts as 0."""
        if self.alarm is not None or not self.drift.enabled:
            return None
        if score is not None:
            score = score if math.isfinite(score) else 0.0
            if self._escalation is not None:
                self._escalation.observe((float(score < self.terms.threshold),))
            if self._scores is not None:
                events = score_events(self.terms.score_deciles, score)
                self._scores.observe([events[place] for place in self._score_places])
        self._tokens.observe(tokens)
        return (
            self._look(Signal.ESCALATION, self._escalation, at_us)
            or self._look(Signal.SCORES, self._scores, at_us)
            or self._look(Signal.TOKENS, self._tokens.bank, at_us)
        )

    def audited(self, *, wrong: bool, at_us: int) -> Alarm | None:
        """Take one audit; the alarm it raised."""
        if self.alarm is not None or self._audit is None:
            return None
        self._audit.observe((float(wrong),))
        return self._look(Signal.AUDIT, self._audit, at_us)

    def clear(self) -> bool:
        """Forget the alarm and start all watches again; False when there was none."""
        was, self.alarm = self.alarm is not None, None
        if was:
            self._start()
        return was

    def state(self) -> CertificateState:
        """What `restore` needs."""
        banks = (self._escalation, self._scores, self._audit)
        escalation, scores, audit = (None if one is None else one.state() for one in banks)
        return CertificateState(self.alarm, escalation, scores, self._tokens.state(), audit)

    def restore(self, state: CertificateState) -> None:
        """Go on from `state`. Watches whose settings changed start again; an alarm stays."""
        self.alarm = state.alarm
        for bank, kept in (
            (self._escalation, state.escalation),
            (self._scores, state.scores),
            (self._audit, state.audit),
        ):
            if bank is not None and kept is not None:
                bank.restore(kept)
        if state.tokens is not None:
            self._tokens.restore(state.tokens)

    def _start(self) -> None:
        slack = self.drift.slack_share
        tuning = Tuning(
            level=self.drift.level,
            epoch=self.drift.epoch_requests,
            between=self.drift.cusum_false_alarm_requests,
        )
        self._escalation = _bank((escalation_limit(self.terms, slack),), tuning)
        limits = score_limits(self.terms, slack)
        self._score_places = tuple(at for at, one in enumerate(limits) if one <= HIGHEST_RATE)
        self._scores = _bank(tuple(limits[at] for at in self._score_places), tuning)
        self._tokens = TokensWatch(self.drift, tuning)
        self._audit = _bank(
            (audit_limit(self.terms, self.audit.frontier_error_share),),
            Tuning(
                level=self.audit.level,
                epoch=self.audit.epoch_audits,
                # As seldom as the other signals, counted in requests.
                between=max(1000.0, self.drift.cusum_false_alarm_requests * self.audit.share),
            ),
        )

    def _look(self, signal: Signal, bank: BettingBank | None, at_us: int) -> Alarm | None:
        if bank is None or not (bank.e_alarmed or (bank.cusum_alarmed and self.drift.cusum)):
            return None
        self.alarm = Alarm(
            at_us,
            self.terms.certificate,
            self.terms.task,
            signal,
            Method.E_PROCESS if bank.e_alarmed else Method.CUSUM,
            self._words(signal, bank),
            self.drift.suspend,
        )
        return self.alarm

    def _words(self, signal: Signal, bank: BettingBank) -> str:
        found, expected = bank.means[bank.loudest], bank.p0[bank.loudest]
        if signal is Signal.ESCALATION:
            return f"lately {found:.0%} score below the threshold; at most {expected:.0%} may"
        if signal is Signal.AUDIT:
            return f"lately {found:.0%} of audited answers differ; at most {expected:.1%} may"
        if signal is Signal.TOKENS:
            return self._tokens.words()
        place = self._score_places[bank.loudest]
        side, at = divmod(place, len(self.terms.score_deciles))
        where = f"{'above' if side else 'below'} {self.terms.score_deciles[at]:.4g}"
        return f"lately {found:.0%} of scores are {where}; at most {expected:.0%} may be"


def _bank(limits: tuple[float, ...], tuning: Tuning) -> BettingBank | None:
    if not limits or max(limits) > HIGHEST_RATE:
        return None
    return BettingBank(limits, tuning)

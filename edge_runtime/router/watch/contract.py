"""What the router tells the watch, and what the watch says back. Pure.

Rules
- `WatchLike` is all the router holds. Its plain methods cost microseconds, never wait and never
  raise on traffic; they are called from the event loop only. Frontier calls and the disk belong
  to the task that `running()` of the watch owns.
- Everything is about one certificate, named by its digest. A new certificate has a new digest,
  so it starts without alarms and with counts at zero.
- Nothing that must not leave the box is ever handed to a frontier here: `may_leave` decides.
- The watch acts on nothing itself: it says what is suspended and which bundle lost.

Example, in the order of a request::

    watch.certified(terms_of(certificate))            # at start, and when certificates change
    if (why := watch.suspended(certificate.digest)) is not None:
        ...                                           # judge() gets it as `suspended`
    watch.observe(Decided(...))                       # after each decision
    watch.maybe_audit(Sample(...))                    # after an answer was kept
    watch.compared(Compared(...))                     # after an escalated one was answered
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from edge_runtime.bundle.certificate import Certificate
from edge_runtime.router.contract import FrontierCall, Json


class Signal(enum.StrEnum):
    """What is watched."""

    ESCALATION = "escalation"  # share of scores below the threshold, against 1 - coverage
    SCORES = "scores"  # distribution of scores, against the certificate's deciles
    TOKENS = "tokens"  # mean tokens a request, against a baseline
    AUDIT = "audit"  # share of audited answers the frontier contradicts, against alpha


class Method(enum.StrEnum):
    """Which rule alarmed."""

    CUSUM = "cusum"  # fast; false alarms come at a known mean distance
    E_PROCESS = "e-process"  # a claim: false alarms at most at `level`, ever


class HowToCompare(enum.StrEnum):
    """When two answers count as the same."""

    LABEL = "label"  # equal after trimming and case folding
    JSON = "json"  # equal as canonical JSON; two texts that are no JSON differ
    TEXT = "text"  # equal after normalising Unicode, case, white space and end punctuation


@dataclass(frozen=True, slots=True)
class Terms:
    """What of a certificate is watched."""

    certificate: str
    task: str
    model_digest: str
    alpha: float
    delta: float
    threshold: float
    coverage: float
    calibration_size: int
    score_deciles: tuple[float, ...]
    reference: str


def terms_of(certificate: Certificate) -> Terms:
    """The terms of a certificate. Costs a sha256 of the document."""
    return Terms(
        certificate.digest,
        certificate.task,
        certificate.model_digest,
        certificate.alpha,
        certificate.delta,
        certificate.threshold,
        certificate.coverage,
        certificate.calibration_size,
        certificate.score_deciles,
        certificate.reference,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """Whose request it was. `language` is what the caller said; empty: guessed from `text`.

    `prompt_tokens` counts the prompt; `text` is looked at (its first 400 characters) and not kept.
    """

    task: str
    tenant: str
    prompt_tokens: int
    language: str = ""
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """One decision about a request.

    `certificate` and `score` are those of the local attempt, empty and None where there was
    none. `tokens` is prompt and answer together. `kept` says whether the caller got the local
    answer because its score reached the threshold. `again`: the slices have this request already,
    by the score of another model of its ladder.
    """

    where: Slice
    certificate: str
    score: float | None
    kept: bool
    tokens: int
    again: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A kept answer that may be audited: what to ask, and how to hold the reply against it.

    `read` takes the frontier's whole body to an answer of the same shape as `answer`; it raises
    `ValueError` where there is none. `call` is as it would have been to escalate; purpose,
    deadline and budget are set here.
    """

    where: Slice
    request_id: str
    certificate: str
    model_digest: str
    score: float | None
    answer: str
    how: HowToCompare
    read: Callable[[Json], str]
    call: FrontierCall
    may_leave: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """An escalated request whose local answer can be held against the frontier's for free."""

    where: Slice
    request_id: str
    certificate: str
    model_digest: str
    score: float | None
    local: str
    frontier: str
    how: HowToCompare


class Side(enum.StrEnum):
    """Which of two bundles."""

    OLD = "old"
    NEW = "new"


@dataclass(frozen=True, slots=True)
class TrialPlan:
    """What to do with this request: ask `serve` first, let the other answer it in the background.

    `paired` is false once the new one was promoted: then it serves, and nothing is compared.
    """

    trial: str
    old: str
    new: str
    serve: Side
    paired: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Answers of both bundles to one request; None where one failed.

    The frontier is asked only where they differ and the text may leave; `reference` is its answer
    where the request was escalated anyway.
    """

    trial: str
    request_id: str
    old: str | None
    new: str | None
    how: HowToCompare
    read: Callable[[Json], str]
    call: FrontierCall
    may_leave: bool
    reference: str | None = None


class Outcome(enum.StrEnum):
    """What a trial says; acting on it is the daemon's."""

    CONTINUE = "continue"
    PROMOTE = "promote"
    REVERT = "revert"


@dataclass(frozen=True, slots=True)
class TrialState:
    """Counts of one trial. `trial` names model, candidate and both digests."""

    trial: str
    model: str
    candidate: str
    pairs: int = 0
    losses: int = 0
    wins: int = 0
    unjudged: int = 0
    outcome: Outcome = Outcome.CONTINUE
    why: str = ""


@dataclass(frozen=True, slots=True)
class Alarm:
    """A watch found what it looks for. `suspends` the certificate, or only tells, by settings."""

    at_us: int
    certificate: str
    task: str
    signal: Signal
    method: Method
    detail: str
    suspends: bool


class EventKind(enum.StrEnum):
    """What happened; also a metric's label."""

    ALARM = "alarm"
    CLEARED = "cleared"
    TRIAL_PROMOTE = "trial-promote"
    TRIAL_REVERT = "trial-revert"


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """One thing worth telling people. `subject` is a task or a trial."""

    at_us: int
    kind: EventKind
    subject: str
    detail: str
    values: Mapping[str, str | float] = field(default_factory=dict)


class AuditEnd(enum.StrEnum):
    """What became of an audit; a metric's label."""

    AGREED = "agreed"
    DIFFERED = "differed"
    UNREADABLE = "unreadable"  # the frontier's reply holds no answer of that shape
    FAILED = "failed"  # no frontier answered within the tries
    DROPPED = "dropped"  # the queue is full


@dataclass(frozen=True, slots=True)
class SliceRow:
    """Counts and rates of one slice; intervals are two-sided 95 %, None without data."""

    dimension: str  # task, language, length, tenant
    value: str
    requests: int
    escalated: int
    escalation: float | None
    escalation_interval: tuple[float, float] | None
    audited: int
    wrong: int
    error: float | None
    error_interval: tuple[float, float] | None


class WatchListener(Protocol):
    """Hooks for metrics and logs; called from the event loop, must not raise."""

    def event(self, event: WatchEvent) -> None:
        """An alarm, its clearing, or the end of a trial."""
        ...

    def audited(self, task: str, end: AuditEnd) -> None:
        """An audit ended."""
        ...

    def audits_waiting(self, count: int) -> None:
        """The audit queue's length changed."""
        ...


class WatchLike(Protocol):
    """What the router needs of the watch; `state.MemoryWatchStore` makes one for tests."""

    def certified(self, terms: Terms) -> None:
        """A certificate is in force; calling it again for the same one changes nothing."""
        ...

    def suspended(self, certificate: str) -> str | None:
        """Why a certificate is suspended, for people; None while it is not."""
        ...

    def observe(self, decided: Decided) -> Alarm | None:
        """Count a decision; the alarm it raised, if it did."""
        ...

    def maybe_audit(self, sample: Sample) -> bool:
        """Draw; queue the audit when it is drawn and may be made. True when queued."""
        ...

    def compared(self, compared: Compared) -> bool:
        """Keep what an escalation said about the local answer; True when they agree."""
        ...

    def plan_trial(self, model: str) -> TrialPlan | None:
        """Whether this request to `model` takes part in a trial, and who answers."""
        ...

    def pair(self, pair: Pair) -> Outcome:
        """Count a pair; the trial's state, which a frontier's later judgement may change."""
        ...

    def clear(self, certificate: str, by: str) -> bool:
        """An operator takes an alarm back; the watches start again. False: there was none."""
        ...

    def alarms(self) -> Sequence[Alarm]:
        """Alarms that stand."""
        ...

    def trials(self) -> Sequence[TrialState]:
        """Every trial that is remembered, oldest first."""
        ...

    def slices(self) -> Sequence[SliceRow]:
        """The report, largest slices first within each dimension."""
        ...

    def events(self) -> Sequence[WatchEvent]:
        """The last events, oldest first; bounded."""
        ...

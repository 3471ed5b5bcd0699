"""Settings of the watch: `[watch]`, with `[watch.drift]`, `[watch.audit]`, `[watch.trial.NAME]`."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from edge_runtime.config_section import Section
from edge_runtime.router.settings import BudgetSettings


class DriftSettings(Section):
    """Alarms on escalations, scores and tokens, against what a certificate was made from."""

    enabled: bool = Field(default=True, description="Watch for drift.")
    suspend: bool = Field(
        default=True,
        description="Let an alarm suspend its certificate; `router.drift` says what happens then. "
        "false: it only tells.",
    )
    cusum: bool = Field(
        default=True, description="Let the fast rule (CUSUM) alarm, not only the e-process."
    )
    cusum_false_alarm_requests: int = Field(
        1_000_000,
        ge=1000,
        le=10**12,
        description="Mean number of requests between false alarms of the CUSUM, for each signal; "
        "the limits h follow from it.",
    )
    level: float = Field(
        0.001,
        gt=0,
        lt=0.5,
        description="Chance that the e-process of one signal ever alarms falsely.",
    )
    epoch_requests: int = Field(
        2000,
        ge=50,
        le=10_000_000,
        description="The e-process starts again after so many requests, at a share of its level.",
    )
    slack_share: float = Field(
        0.01,
        ge=0,
        le=0.5,
        description="Drift to tolerate, beyond what the calibration's size leaves open: of the "
        "escalation rate and of the distribution of scores.",
    )
    tokens_slack_share: float = Field(
        0.25, ge=0, le=10, description="Change of the mean tokens a request to tolerate."
    )
    tokens_mean: float | None = Field(
        None,
        gt=0,
        le=1e9,
        description="Mean tokens a request to expect. Left out: learnt from the first requests "
        "under each certificate.",
    )
    tokens_baseline_requests: int = Field(
        1000, ge=100, le=1_000_000, description="Requests the expected mean is learnt from."
    )
    tokens_cap: int = Field(
        4096,
        ge=16,
        le=1 << 20,
        description="Tokens at which one request stops counting more; the alarm is quickest when "
        "few requests reach it.",
    )


class AuditSettings(Section):
    """Kept answers that are compared with a frontier in the background."""

    share: float = Field(
        0.015, ge=0, le=1, description="Share of kept answers that are audited; 0: none."
    )
    budget: BudgetSettings = Field(
        default_factory=BudgetSettings,
        description="Most money audits and the judging of trials may cost; the budgets of box, "
        "tenant and endpoint hold as well.",
    )
    level: float = Field(
        0.01,
        gt=0,
        lt=0.5,
        description="Chance that the alarm on the audited error ever comes falsely.",
    )
    epoch_audits: int = Field(
        500, ge=20, le=1_000_000, description="The alarm's e-process starts again after so many."
    )
    frontier_error_share: float = Field(
        0.03,
        ge=0,
        lt=0.5,
        description="Answers the frontier itself gets wrong. It is added to alpha where a "
        "certificate was made against gold labels.",
    )
    max_waiting: int = Field(
        256, ge=1, le=100_000, description="Audits that may wait, as while the frontier is out."
    )
    max_waiting_tokens: int = Field(
        1 << 20, ge=1024, le=1 << 30, description="Prompt tokens of all audits that wait."
    )
    max_tries: int = Field(
        5, ge=1, le=100, description="Calls made for one audit before it is given up."
    )
    retry_s: float = Field(
        30.0, gt=0, le=3600, description="Pause after a frontier failed, unless it says how long."
    )


class TrialSettings(Section):
    """A second local bundle that answers the same requests, until one of the two has won."""

    candidate: str = Field(min_length=1, max_length=128, description="Model under trial.")
    mode: Literal["shadow", "ab"] = Field(
        "shadow",
        description="Who is asked first: always the old one (`shadow`), or for `candidate_share` "
        "of the requests the new one (`ab`). The other answers in the background.",
    )
    share: float = Field(0.1, gt=0, le=1, description="Share of requests that both bundles answer.")
    candidate_share: float = Field(
        0.5, gt=0, lt=1, description="In `ab`: share of those that are asked of the new one first."
    )
    loss_share: float = Field(
        2 / 3,
        gt=0.5,
        lt=1,
        description="Share of discordant pairs the new one must lose to be called worse; 2/3 is "
        "2 points at 6 % discordance.",
    )
    false_halt: float = Field(
        0.05, gt=0, lt=0.5, description="Chance to revert a candidate that is as good."
    )
    missed: float = Field(
        0.10, gt=0, lt=0.5, description="Chance to promote one that loses `loss_share`."
    )
    max_pairs: int = Field(
        20_000,
        ge=10,
        le=10_000_000,
        description="Pairs after which a trial without a verdict ends and reverts.",
    )


class WatchSettings(Section):
    """What is watched while the router decides."""

    drift: DriftSettings = Field(default_factory=DriftSettings, description="Drift alarms.")
    audit: AuditSettings = Field(default_factory=AuditSettings, description="Audits.")
    trial: dict[str, TrialSettings] = Field(
        default_factory=dict,
        max_length=16,
        description="A table `[watch.trial.MODEL]` puts a candidate beside a model that serves.",
    )
    max_certificates: int = Field(
        64, ge=1, le=4096, description="Certificates watched; the one unused longest goes first."
    )
    max_slices: int = Field(
        64,
        ge=1,
        le=4096,
        description="Values counted for each of task, language, length and tenant; more are "
        "counted as `(other)`.",
    )
    max_events: int = Field(256, ge=1, le=100_000, description="Events kept for looking at.")
    save_interval_s: float = Field(
        60.0,
        gt=0,
        le=3600,
        description="How often counts are written to disk; alarms are written at once.",
    )

    @model_validator(mode="after")
    def _no_model_against_itself(self) -> Self:
        for model, trial in self.trial.items():
            if trial.candidate == model:
                raise ValueError(f"trial.{model}: the candidate must be another model")
        return self

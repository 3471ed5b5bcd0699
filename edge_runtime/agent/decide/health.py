"""Whether what serves on probation must be taken back, by the rules its want brought."""

from __future__ import annotations

from edge_runtime.agent.decide.values import HealthFacts
from edge_runtime.agent.protocol import Failure, FailureCode, FailureKind, ProbationRules


def verdict(rules: ProbationRules, health: HealthFacts, crashes: int) -> Failure | None:
    """Why to take it back, or None. `crashes` are those of the daemon on this probation."""
    if health.mismatch:
        return _back(FailureCode.REFUSED, health.mismatch)
    if health.golden_ok is False:
        return _back(FailureCode.GOLDEN, "golden answers went wrong while it served")
    ends = crashes + health.engine_failures
    if ends > rules.max_crashes:
        return _back(FailureCode.CRASHES, f"{ends} crashes, {rules.max_crashes} are allowed")
    if health.requests >= rules.min_requests:
        share = health.errors / health.requests
        if share > rules.max_error_share:
            return _back(
                FailureCode.ERRORS,
                f"{share:.1%} of {health.requests} requests failed, "
                f"{rules.max_error_share:.1%} are allowed",
            )
    if min(health.routed, health.before_routed) >= rules.min_requests:
        now = health.escalated / health.routed
        before = health.before_escalated / health.before_routed
        if now - before > rules.max_escalation_shift:
            return _back(
                FailureCode.ESCALATION,
                f"escalates {now:.1%}, {before:.1%} before; a shift of "
                f"{rules.max_escalation_shift:.1%} is allowed",
            )
    return None


def _back(code: FailureCode, reason: str) -> Failure:
    return Failure(kind=FailureKind.REVERTED, code=code, reason=reason)

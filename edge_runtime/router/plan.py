"""From what a request names to who may answer it. Pure.

Rules
- `model` names, in this order: an endpoint, a local model, a frontier. A name that is none of
  them is the route's to refuse.
- `x-edge-endpoint` puts a request under an endpoint's rules without changing the model it asks
  for: naming a model outside the endpoint's ladder replaces the ladder by that model. A name that
  is not configured is a label in the ledger and nothing else.
- Privacy is the strictest of settings, endpoint and request.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from edge_runtime.router.contract import Policy, Privacy, Reason
from edge_runtime.router.decide import Rules
from edge_runtime.router.settings import EndpointSettings, RouterSettings


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a request says of its own routing: the `x-edge-*` headers."""

    endpoint: str = ""
    task: str = ""
    tag: str = ""
    task_id: str = ""
    privacy: Privacy = Privacy.MAY_LEAVE


@dataclass(frozen=True, slots=True)
class Plan:
    """Who may answer one request. `task` empty: each model's own name.

    `candidate` is a model under trial that is asked before the ladder's own; see `led_by`.
    `alpha` is the most a certificate may promise, None: whatever the newest one does.
    """

    asked: str
    ladder: tuple[str, ...]
    rules: Rules
    order: tuple[str, ...] = ()
    endpoint: str = ""
    task: str = ""
    max_output_tokens: int | None = None
    schema_retries: int = 0
    candidate: str = ""
    alpha: float | None = None

    @property
    def may_leave(self) -> bool:
        """Whether a frontier may ever see the request."""
        allowed = self.rules.policy is not Policy.LOCAL_ONLY
        return allowed and self.rules.privacy is Privacy.MAY_LEAVE

    @property
    def plain(self) -> bool:
        """One local model and nothing to decide."""
        return self.rules.policy is Policy.LOCAL_ONLY and len(self.ladder) == 1

    @property
    def configured(self) -> bool:
        """Whether an endpoint's table made it."""
        return self.rules.kept_reason is Reason.LOCAL_ONLY

    def task_of(self, model: str) -> str:
        """The task whose certificate counts for a model of the ladder."""
        stands_for = self.ladder[1] if model == self.candidate else model
        return self.task or stands_for

    def led_by(self, candidate: str) -> Plan:
        """A plan that asks `candidate` first, for the task of the model it may replace.

        What the candidate has no certificate for, is not sure of or fails at goes on to the ladder
        as it was, so no request fares worse for it.
        """
        rest = tuple(name for name in self.ladder if name != candidate)
        return replace(self, ladder=(candidate, *rest), candidate=candidate)


@dataclass(frozen=True, slots=True)
class Directory:
    """Names that requests may use. `frontiers` in the order of asking where none is set."""

    router: RouterSettings = field(default_factory=RouterSettings)
    endpoints: Mapping[str, EndpointSettings] = field(default_factory=dict)
    frontiers: tuple[str, ...] = ()
    hold_on_drift: bool = False

    def names(self) -> tuple[str, ...]:
        """What `model` may name besides local models."""
        return (*self.endpoints, *self.frontiers)

    def plan(self, asked: str, wishes: Wishes, *, served: bool) -> Plan | None:
        """The plan for a request; None when `asked` is no name at all.

        `served` says whether a local model of that name is active.
        """
        endpoint = self.endpoints.get(asked)
        if endpoint is not None:
            return self._endpoint(asked, asked, endpoint, wishes, tuple(endpoint.models))
        if not served and asked not in self.frontiers:
            return None
        ladder = (asked,) if served else ()
        headed = self.endpoints.get(wishes.endpoint)
        if headed is not None:
            whole = tuple(headed.models)
            used = whole if asked in whole[:1] else ladder
            return self._endpoint(asked, wishes.endpoint, headed, wishes, used)
        if not served:
            return self._make(asked, (), Policy.FRONTIER_ONLY, (asked,), wishes)
        return self._make(asked, ladder, self.router.policy, self._order(()), wishes)

    def _endpoint(
        self,
        asked: str,
        name: str,
        endpoint: EndpointSettings,
        wishes: Wishes,
        ladder: tuple[str, ...],
    ) -> Plan:
        order = self._order(tuple(endpoint.frontiers))
        policy = endpoint.policy
        if not ladder and asked in self.frontiers:
            order, policy = (asked,), Policy.FRONTIER_ONLY
        return Plan(
            asked,
            ladder,
            self._rules(policy, _strictest(endpoint.privacy, wishes.privacy), Reason.LOCAL_ONLY),
            order,
            name,
            wishes.task or (endpoint.task or ""),
            endpoint.max_output_tokens,
            endpoint.schema_retries,
            alpha=self.router.alpha if endpoint.alpha is None else endpoint.alpha,
        )

    def _make(
        self,
        asked: str,
        ladder: tuple[str, ...],
        policy: Policy,
        order: tuple[str, ...],
        wishes: Wishes,
    ) -> Plan:
        rules = self._rules(policy, wishes.privacy, Reason.REQUESTED_MODEL)
        return Plan(
            asked, ladder, rules, order, wishes.endpoint, wishes.task, alpha=self.router.alpha
        )

    def _rules(self, policy: Policy, privacy: Privacy, kept: Reason) -> Rules:
        return Rules(
            policy,
            _strictest(self.router.privacy, privacy),
            fallbacks_of(self.router),
            self.hold_on_drift,
            self.router.degraded_answers,
            kept,
        )

    def _order(self, wanted: tuple[str, ...]) -> tuple[str, ...]:
        return wanted or tuple(self.router.frontiers) or self.frontiers


def fallbacks_of(router: RouterSettings) -> frozenset[Reason]:
    """The faults that may lead on, by the settings' switches."""
    switches = {
        Reason.CONTEXT_TOO_LONG: router.on_context_too_long,
        Reason.TASK_NOT_SERVED: router.on_task_not_served,
        Reason.OVERLOAD: router.on_overload,
        Reason.DEADLINE: router.on_deadline,
        Reason.LOCAL_FAULT: router.on_local_fault,
        Reason.SCHEMA_INVALID: router.on_schema_invalid,
    }
    return frozenset(reason for reason, is_on in switches.items() if is_on)


def _strictest(*wanted: Privacy) -> Privacy:
    return Privacy.NEVER_LEAVE if Privacy.NEVER_LEAVE in wanted else Privacy.MAY_LEAVE

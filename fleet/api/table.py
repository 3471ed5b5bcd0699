"""The table of routes."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from edge_runtime.agent.protocol import ENROL_PATH, ROTATE_PATH, EnrolAnswer
from fleet.api import admin, boxes, cost, enrol, publish, rollouts, telemetry
from fleet.api.metrics import CONTENT_TYPE
from fleet.api.routes import OPEN, Done, Page, PageQuery, Route
from fleet.enrol.claims import Claim
from fleet.enrol.requests import Enrolment
from fleet.ingest.alert_store import Alert, Rule
from fleet.ingest.cost_queries import Budget, Costs
from fleet.ingest.queries import Hour, Point
from fleet.registry.audit import AuditEntry
from fleet.registry.boxes import Box, BoxPage
from fleet.registry.groups import Group
from fleet.registry.summary import Summary
from fleet.registry.tokens import Permission, Token
from fleet.rollout.service import BoxView, RolloutPage, RolloutSummary, VerdictView

_READ, _OPERATE, _ADMIN = Permission.READ, Permission.OPERATE, Permission.ADMIN
_BOX: Final = "/v1/boxes/{principal}"

_BOXES = (
    Route("GET", "/v1/summary", boxes.get_summary, _READ, "The fleet in numbers", answer=Summary),
    Route("GET", "/v1/boxes", boxes.list_boxes, _READ, "List boxes", boxes.BoxQuery,
          answer=Page[Box]),
    Route("GET", _BOX, boxes.get_box, _READ, "One box", answer=BoxPage),
    Route("GET", f"{_BOX}/credentials", boxes.list_credentials, _READ, "Credentials of a box",
          answer=boxes.BoxCredentials),
    Route("PUT", f"{_BOX}/labels", boxes.set_labels, _OPERATE, "Set a box's labels",
          body=boxes.LabelsBody, answer=BoxPage),
    Route("POST", f"{_BOX}/revoke", boxes.revoke_box, _OPERATE, "Put a box out",
          body=boxes.RevokeBody, answer=Done),
    Route("POST", f"{_BOX}/orders", boxes.order_box, _OPERATE, "Send a box an order",
          body=boxes.OrderBody, answer=boxes.OrderSent, status=202),
    Route("GET", "/v1/groups", boxes.list_groups, _READ, "List groups", answer=Page[Group]),
    Route("PUT", "/v1/groups/{name}", boxes.put_group, _OPERATE, "Make or change a group",
          body=boxes.GroupBody, answer=Group),
    Route("DELETE", "/v1/groups/{name}", boxes.delete_group, _OPERATE, "Forget a group",
          answer=Done),
)  # fmt: skip

_ENROL = (
    Route("POST", ENROL_PATH, enrol.enrol, OPEN, "A box asks to be let in",
          answer=EnrolAnswer, takes_bytes=True),
    Route("GET", f"{ENROL_PATH}/{{ticket}}", enrol.poll_enrolment, OPEN, "A box asks again",
          answer=EnrolAnswer),
    Route("POST", ROTATE_PATH, enrol.rotate, OPEN, "A box asks for a new credential",
          answer=EnrolAnswer, takes_bytes=True),
    Route("POST", "/v1/claims", enrol.create_claim, _OPERATE, "Make a claim",
          body=enrol.ClaimBody, answer=enrol.NewClaim, status=201),
    Route("GET", "/v1/claims", enrol.list_claims, _OPERATE, "List claims", PageQuery,
          answer=Page[Claim]),
    Route("POST", "/v1/claims/{id}/revoke", enrol.revoke_claim, _OPERATE, "End a claim",
          answer=Done),
    Route("GET", "/v1/enrolments", enrol.list_enrolments, _OPERATE, "List requests to be let in",
          enrol.EnrolmentQuery, answer=Page[Enrolment]),
    Route("POST", "/v1/enrolments/{id}/approve", enrol.approve_enrolment, _OPERATE,
          "Let a box in", body=enrol.DecisionBody, answer=Enrolment),
    Route("POST", "/v1/enrolments/{id}/refuse", enrol.refuse_enrolment, _OPERATE,
          "Refuse a box", body=enrol.DecisionBody, answer=Enrolment),
)  # fmt: skip

_ADMIN_ROUTES = (
    Route("GET", "/health", admin.get_health, OPEN, "Is it there", answer=admin.HealthAnswer),
    Route("GET", "/v1/whoami", admin.who_am_i, _READ, "Whom a token stands for",
          answer=admin.WhoAmI),
    Route("GET", "/v1/tokens", admin.list_tokens, _ADMIN, "List tokens", answer=Page[Token]),
    Route("POST", "/v1/tokens", admin.create_token, _ADMIN, "Make a token", body=admin.TokenBody,
          answer=admin.NewToken, status=201),
    Route("POST", "/v1/tokens/{id}/revoke", admin.revoke_token, _ADMIN, "End a token",
          answer=Token),
    Route("GET", "/v1/audit", admin.list_audit, _ADMIN, "Who changed what", admin.AuditQuery,
          answer=Page[AuditEntry]),
)  # fmt: skip


_TELEMETRY = (
    Route("GET", "/v1/telemetry/fleet", telemetry.fleet_hours, _READ, "The fleet by the hour",
          telemetry.HoursQuery, answer=Page[Hour]),
    Route("GET", "/v1/telemetry/totals", telemetry.fleet_totals, _READ, "The fleet over a time",
          telemetry.TotalsQuery, answer=telemetry.Totals),
    Route("GET", "/v1/telemetry/series", telemetry.fleet_series, _READ,
          "A counter by the hour and a label", telemetry.SeriesQuery, answer=Page[Point]),
    Route("GET", f"{_BOX}/telemetry", telemetry.box_hours, _READ, "A box by the hour",
          telemetry.HoursQuery, answer=Page[Hour]),
    Route("GET", f"{_BOX}/logs/{{order}}", telemetry.read_log, _OPERATE,
          "A log that was asked for", answer=telemetry.LogAnswer),
    Route("GET", "/v1/alerts", telemetry.list_alerts, _READ, "List alerts",
          telemetry.AlertQuery, answer=Page[Alert]),
    Route("GET", "/v1/alert-rules", telemetry.list_alert_rules, _READ, "List alert rules",
          answer=Page[Rule]),
    Route("PUT", "/v1/alert-rules/{name}", telemetry.put_alert_rule, _OPERATE,
          "Make or change an alert rule", body=telemetry.RuleBody, answer=Rule),
    Route("DELETE", "/v1/alert-rules/{name}", telemetry.delete_alert_rule, _OPERATE,
          "Forget an alert rule", answer=Done),
    Route("GET", "/metrics", telemetry.get_metrics, _READ, "For Prometheus",
          content_type=CONTENT_TYPE),
)  # fmt: skip

_COST = (
    Route("GET", "/v1/cost", cost.fleet_cost, _READ, "What the fleet cost", cost.CostQuery,
          answer=Costs),
    Route("GET", "/v1/budgets", cost.fleet_budgets, _READ, "How full budgets are",
          answer=Page[Budget]),
)  # fmt: skip

_ROLLOUT: Final = "/v1/rollouts/{id}"

_ROLLOUTS = (
    Route("GET", "/v1/rollouts", rollouts.list_rollouts, _READ, "List rollouts",
          answer=Page[RolloutSummary]),
    Route("POST", "/v1/rollouts", rollouts.file_rollout, _OPERATE, "File a plan",
          body=rollouts.PlanBody, answer=RolloutPage, status=201),
    Route("POST", "/v1/rollouts/forecast", rollouts.forecast_rollout, _OPERATE,
          "What a plan would come to", body=rollouts.PlanBody, answer=rollouts.ForecastAnswer),
    Route("GET", _ROLLOUT, rollouts.get_rollout, _READ, "One rollout", answer=RolloutPage),
    Route("GET", f"{_ROLLOUT}/boxes", rollouts.list_rollout_boxes, _READ, "Who takes part",
          PageQuery, answer=Page[BoxView]),
    Route("GET", f"{_ROLLOUT}/verdicts", rollouts.list_verdicts, _READ, "What guards said",
          answer=Page[VerdictView]),
    Route("GET", f"{_ROLLOUT}/explain", rollouts.explain_rollout, _READ, "Why guards said it",
          rollouts.ExplainQuery, answer=rollouts.Explanations),
    Route("POST", f"{_ROLLOUT}/replay", rollouts.replay_rollout, _OPERATE,
          "What other guards would have said", body=rollouts.PlanBody, answer=rollouts.Turns),
    Route("POST", f"{_ROLLOUT}/actions/{{action}}", rollouts.order_rollout, _OPERATE,
          "Approve, pause, resume, halt, rollback, retry, cancel", body=rollouts.ReasonBody,
          answer=RolloutPage),
    Route("GET", "/v1/published", rollouts.list_published, _READ, "What is published of a name",
          rollouts.PublishedQuery, answer=Page[rollouts.PublishedItem]),
)  # fmt: skip

_PUBLISH = (
    Route("PUT", "/v1/publish/blobs/{digest}", publish.put_blob, Permission.PUBLISH,
          "Send a file of something to publish", answer=publish.BlobKept, takes_stream=True),
    Route("POST", "/v1/publish/roles/{role}", publish.publish_role, Permission.PUBLISH,
          "Publish what was signed elsewhere", answer=publish.RolePublished, takes_bytes=True),
)  # fmt: skip


def _tagged(tag: str, routes: tuple[Route, ...]) -> tuple[Route, ...]:
    return tuple(replace(route, tag=tag) for route in routes)


ROUTES: Final = (
    *_tagged("boxes", _BOXES),
    *_tagged("enrolment", _ENROL),
    *_tagged("rollouts", _ROLLOUTS),
    *_tagged("publishing", _PUBLISH),
    *_tagged("telemetry", _TELEMETRY),
    *_tagged("cost", _COST),
    *_tagged("control host", _ADMIN_ROUTES),
)

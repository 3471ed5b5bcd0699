"""The REST API of rollouts, telemetry, alerts and metrics."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from edge_runtime.agent.protocol import LogChunk
from fleet.ingest.decode import Heard, decode
from fleet.ingest.rows import store
from fleet.registry import boxes, reports
from tests.support.fleet import DIGEST, NOW_S, have
from tests.support.fleet_api import Api, fleet_api
from tests.support.telemetry import MODEL_DIGEST, batch, row

ONE = "acme~box-1"
PLAN = f"""
name = "assistant 2"
[change]
name = "assistant"
digest = "{DIGEST}"
[target]
boxes = "true"
"""


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with fleet_api(tmp_path) as made:

        def work(connection: object) -> None:
            boxes.add(connection, ONE, {}, now_s=NOW_S)  # type: ignore[arg-type]
            reports.apply_have(connection, ONE, have(ONE, items=()), now_s=NOW_S)  # type: ignore[arg-type]

        await made.services.database.write(work)
        yield made


async def filed(api: Api) -> str:
    status, page = await api.ask("POST", "/v1/rollouts", role="operator", json={"plan": PLAN})
    assert status == 201, page
    return str(page["id"])


async def test_a_rollout_is_filed_steered_and_shown(api: Api) -> None:
    rollout = await filed(api)
    path = f"/v1/rollouts/{rollout}"
    status, page = await api.ask("GET", path, role="viewer")
    assert (status, page["phase"], page["plan"]["change"]["release"]) == (200, "draft", 2)
    status, page = await api.ask(
        "POST", f"{path}/actions/approve", role="admin", json={"reason": "go"}
    )
    assert (status, page["phase"]) == (200, "approved")
    status, answer = await api.ask("POST", f"{path}/actions/resume", role="operator")
    assert (status, answer["error"]["code"]) == (409, "wrong_phase")
    status, _ = await api.ask("POST", f"{path}/actions/explode", role="operator")
    assert status == 404
    _, listed = await api.ask("GET", "/v1/rollouts", role="viewer")
    assert [(one["id"], one["phase"]) for one in listed["items"]] == [(rollout, "approved")]
    _, log = await api.ask("GET", f"/v1/audit?object=rollout/{rollout}")
    assert [(one["actor"], one["action"]) for one in log["items"]] == [
        ("admin", "rollout.approve"),
        ("operator", "rollout.file"),
    ]


async def test_a_rollout_that_has_not_begun_has_nobody_and_no_verdict(api: Api) -> None:
    path = f"/v1/rollouts/{await filed(api)}"
    for part in ("boxes", "verdicts", "explain"):
        status, answer = await api.ask("GET", f"{path}/{part}", role="viewer")
        assert (status, answer["items"]) == (200, []), part
    status, answer = await api.ask("POST", f"{path}/replay", role="operator", json={"plan": PLAN})
    assert (status, answer["items"]) == (200, [])


async def test_a_forecast_stores_nothing(api: Api) -> None:
    status, answer = await api.ask(
        "POST", "/v1/rollouts/forecast", role="operator", json={"plan": PLAN}
    )
    assert (status, answer["forecast"]["boxes"]) == (200, 1), answer
    _, listed = await api.ask("GET", "/v1/rollouts")
    assert listed["items"] == []


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        ("name = ", "TOML"),
        (PLAN.replace('"true"', '"labls.x == 1"'), "labls"),
        (PLAN.replace(DIGEST, "00" * 32), "is published"),
    ],
)
async def test_a_wrong_plan_is_refused_with_the_reason(api: Api, plan: str, words: str) -> None:
    status, answer = await api.ask("POST", "/v1/rollouts", role="operator", json={"plan": plan})
    assert status in (400, 404)
    assert words in answer["error"]["message"]


async def test_what_is_published_is_listed(api: Api) -> None:
    _, answer = await api.ask("GET", "/v1/published?name=assistant", role="viewer")
    assert [(one["digest"], one["release"]) for one in answer["items"]] == [(DIGEST, 2)]


async def some_telemetry(api: Api) -> None:
    message = decode(batch(ONE, row(1, decisions=40, escalations=10)))
    assert isinstance(message, Heard)
    await api.services.database.write(lambda c: store(c, [message], now_s=NOW_S))


async def test_telemetry_is_shown_by_the_hour(api: Api) -> None:
    await some_telemetry(api)
    for path in ("/v1/telemetry/fleet", f"/v1/boxes/{ONE}/telemetry"):
        _, answer = await api.ask("GET", path, role="viewer")
        own, model = answer["items"]
        assert own["figures"]["escalation_rate"] == pytest.approx(0.25)
        assert (model["model_digest"], model["figures"]) == (MODEL_DIGEST, {"output_tokens": 50})
    _, answer = await api.ask(
        "GET", "/v1/telemetry/series?metric=edge_decisions_total&by=endpoint", role="viewer"
    )
    assert [(one["label"], one["value"]) for one in answer["items"]] == [("intent", 40)]
    assert (await api.ask("GET", "/v1/telemetry/series?metric='"))[0] == 400


async def test_totals_are_of_sums_and_of_the_time_that_was_asked_for(api: Api) -> None:
    await some_telemetry(api)
    _, answer = await api.ask("GET", "/v1/telemetry/totals?hours=24", role="viewer")
    assert (answer["since_s"], answer["rows"]) == (NOW_S - 86_400, 1)
    figures = answer["figures"]
    assert (figures["requests"], figures["output_tokens"]) == (40, 50)
    assert figures["escalation_rate"] == pytest.approx(0.25)
    _, me = await api.ask("GET", "/v1/whoami", role="viewer")
    assert me == {"name": "viewer", "role": "viewer", "now_s": NOW_S}


async def test_alert_rules_are_filed_and_alerts_listed(api: Api) -> None:
    body = {"expression": "unreachable > 0", "for_s": 60, "severity": "critical"}
    assert (await api.ask("PUT", "/v1/alert-rules/away", role="operator", json=body))[0] == 200
    wrong = {**body, "expression": "cpu > 1"}
    status, answer = await api.ask("PUT", "/v1/alert-rules/away", role="operator", json=wrong)
    assert (status, answer["error"]["code"]) == (400, "invalid_expression")
    _, listed = await api.ask("GET", "/v1/alert-rules", role="viewer")
    assert [(one["name"], one["expression"]) for one in listed["items"]] == [
        ("away", "unreachable > 0")
    ]
    _, alerts = await api.ask("GET", "/v1/alerts?open=true", role="viewer")
    assert alerts == {"items": [], "next": None}
    assert (await api.ask("DELETE", "/v1/alert-rules/away", role="operator"))[0] == 200
    assert (await api.ask("DELETE", "/v1/alert-rules/away", role="operator"))[0] == 404


async def test_a_log_is_read_by_those_who_may_order_it(api: Api) -> None:
    api.orders.logs.expect("o-1", ONE)
    api.orders.logs.add(ONE, LogChunk(order="o-1", part=0, last=True, lines=("a", "b")))
    path = f"/v1/boxes/{ONE}/logs/o-1"
    assert await api.ask("GET", path, role="operator") == (
        200,
        {"lines": ["a", "b"], "complete": True},
    )
    assert (await api.ask("GET", path, role="viewer"))[0] == 403
    assert (await api.ask("GET", path.replace("o-1", "o-2"), role="operator"))[0] == 404


async def test_prometheus_can_read_the_metrics(api: Api) -> None:
    api.services.ingest.counts.update({"rows": 5, "dropped:spoofed": 2})
    status, text = await api.ask("GET", "/metrics", role="viewer")
    assert status == 200
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples["fleet_boxes", "online"] == 1
    assert samples["fleet_ingest_rows_total",] == 5
    assert samples["fleet_ingest_dropped_total", "spoofed"] == 2
    assert (await api.ask("GET", "/metrics", role=None))[0] == 401


async def test_metrics_are_open_where_the_settings_say_so(tmp_path: Path) -> None:
    async with fleet_api(tmp_path, open_metrics=True) as api:
        assert (await api.ask("GET", "/metrics", role=None))[0] == 200

"""The REST API: who may call what, what comes in and out, and what is written down."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from edge_runtime.agent.protocol import EnrolAnswer
from fleet.api.routes import Route
from fleet.api.table import ROUTES
from fleet.registry import boxes, reports
from fleet.registry.tokens import MAY, Permission, Role
from tests.support.enrol import AskingBox
from tests.support.fleet import NOW_S, have
from tests.support.fleet_api import Api, fleet_api


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with fleet_api(tmp_path, max_body_bytes=65_536) as made:
        yield made


async def some_boxes(api: Api, count: int = 3) -> None:
    def work(connection: object) -> None:
        for number in range(1, count + 1):
            principal = f"acme~box-{number}"
            boxes.add(connection, principal, {"n": str(number)}, now_s=NOW_S)  # type: ignore[arg-type]
            reports.apply_have(connection, principal, have(principal), now_s=NOW_S)  # type: ignore[arg-type]

    await api.services.database.write(work)


def filled(route: Route) -> str:
    path = route.path
    for name in route.parameters:
        path = path.replace(f"{{{name}}}", "acme~box-1" if name == "principal" else "some-id")
    return path


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
async def test_a_route_is_closed_to_everybody_it_is_not_for(api: Api, route: Route) -> None:
    if route.permission is None:
        status, _ = await api.ask(route.method, filled(route), role=None, data=b"{}")
        assert status not in (401, 403)
        return
    nobody, answer = await api.ask(route.method, filled(route), role=None)
    assert (nobody, answer["error"]["code"]) == (401, "unauthorized")
    for role in Role:
        status, _ = await api.ask(route.method, filled(route), role=role.value, data=b"\x00")
        assert (status == 403) == (route.permission not in MAY[role]), role


async def test_a_token_that_ended_opens_nothing(api: Api) -> None:
    _, listed = await api.ask("GET", "/v1/tokens")
    viewer = next(token for token in listed["items"] if token["role"] == "viewer")
    assert (await api.ask("POST", f"/v1/tokens/{viewer['id']}/revoke"))[0] == 200
    assert (await api.ask("GET", "/v1/boxes", role="viewer"))[0] == 401
    api.secrets["forged"] = api.secrets["admin"][:-1] + "x"
    assert (await api.ask("GET", "/v1/boxes", role="forged"))[0] == 401


async def test_boxes_come_in_pages(api: Api) -> None:
    await some_boxes(api)
    _, first = await api.ask("GET", "/v1/boxes", role="viewer")
    _, rest = await api.ask("GET", f"/v1/boxes?after={first['next']}", role="viewer")
    assert [box["principal"] for box in first["items"] + rest["items"]] == [
        "acme~box-1",
        "acme~box-2",
        "acme~box-3",
    ]
    assert rest["next"] is None
    assert first["items"][0]["items"][0]["state"] == "confirmed"


async def test_boxes_are_found_by_expression_group_and_health(api: Api) -> None:
    await some_boxes(api)
    body = {"expression": "labels.n != '1'"}
    assert (await api.ask("PUT", "/v1/groups/late", role="operator", json=body))[0] == 200

    async def found(**query: str) -> list[str]:
        _, page = await api.ask("GET", "/v1/boxes", params=query)
        return [box["name"] for box in page["items"]]

    assert await found(where="labels.n == '2'") == ["box-2"]
    assert await found(group="late") == ["box-2", "box-3"]
    assert await found(group="late", where="labels.n == '3'") == ["box-3"]
    assert await found(health="unreachable") == []
    assert await found(tenant="other") == []


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("labls.n == '1'", "line 1, column 1"),
        ("labels.n == '1') || (true", "line 1, column 16"),
        ("cores", "gives int, not bool"),
        ("x" * 1025, "1024"),
    ],
)
async def test_a_wrong_expression_is_told_with_its_place(api: Api, where: str, words: str) -> None:
    status, answer = await api.ask("GET", "/v1/boxes", params={"where": where, "group": "none"})
    assert status == 400
    assert words in answer["error"]["message"]


async def test_a_change_is_written_down_with_who_made_it(api: Api) -> None:
    await some_boxes(api)
    status, box = await api.ask(
        "PUT", "/v1/boxes/acme~box-1/labels", role="operator",
        json={"labels": {"site": "oslo"}}, headers={"x-request-id": "abc123"},
    )  # fmt: skip
    assert (status, box["labels"]) == (200, {"site": "oslo"})
    _, log = await api.ask("GET", "/v1/audit?object=box/acme~box-1")
    assert [(one["actor"], one["action"], one["request_id"]) for one in log["items"]] == [
        ("operator", "box.labels", "abc123")
    ]
    # What was refused left no trace in the registry and none in the log.
    await api.ask("PUT", "/v1/boxes/acme~nobody/labels", role="operator", json={"labels": {}})
    await api.ask("PUT", "/v1/boxes/acme~box-1/labels", role="viewer", json={"labels": {}})
    _, log = await api.ask("GET", "/v1/audit")
    assert len(log["items"]) == 1


async def test_a_box_is_let_in_over_http(api: Api) -> None:
    _, made = await api.ask("POST", "/v1/claims", role="operator", json={"tenant": "acme"})
    box = AskingBox()
    _, waiting = await api.ask("POST", "/v1/enrol", role=None, data=box.request(made["secret"]))
    assert waiting["state"] == "pending"
    _, listed = await api.ask("GET", "/v1/enrolments?state=pending", role="operator")
    (asked,) = listed["items"]
    assert made["secret"] not in asked["request"]
    path = f"/v1/enrolments/{asked['id']}/approve"
    assert (await api.ask("POST", path, role="operator"))[0] == 200
    status, answer = await api.ask("GET", f"/v1/enrol/{waiting['ticket']}", role=None)
    granted = EnrolAnswer.model_validate(answer)
    assert status == 200
    assert granted.grant is not None
    assert granted.grant.principal == "acme~box-1"
    status, answer = await api.ask(
        "POST", "/v1/rotate", role=None, data=box.rotation(AskingBox().key, "acme~box-1")
    )
    assert (status, answer["state"]) == (200, "granted")


async def test_a_claim_can_be_ended_before_it_is_used(api: Api) -> None:
    _, made = await api.ask("POST", "/v1/claims", role="operator", json={"tenant": "acme"})
    await api.ask("POST", f"/v1/claims/{made['claim']['id']}/revoke", role="operator")
    status, answer = await api.ask(
        "POST", "/v1/enrol", role=None, data=AskingBox().request(made["secret"])
    )
    assert (status, answer["error"]["code"]) == (403, "claim_refused")
    _, listed = await api.ask("GET", "/v1/claims", role="operator")
    assert "secret" not in str(listed)


async def test_a_box_that_is_put_out_is_forgotten_by_the_broker(api: Api) -> None:
    await some_boxes(api, 1)
    status, _ = await api.ask(
        "POST", "/v1/boxes/acme~box-1/revoke", role="operator", json={"reason": "sold"}
    )
    assert (status, api.orders.forgotten) == (200, ["acme~box-1"])
    _, page = await api.ask("GET", "/v1/boxes")
    assert page["items"] == []
    _, page = await api.ask("GET", "/v1/boxes?status=revoked")
    assert [box["name"] for box in page["items"]] == ["box-1"]


async def test_an_order_goes_to_the_box(api: Api) -> None:
    await some_boxes(api, 1)
    path = "/v1/boxes/acme~box-1/orders"
    status, answer = await api.ask("POST", path, role="operator", json={"order": "report"})
    assert (status, answer, api.orders.sent) == (
        202,
        {"id": "order-1"},
        [("acme~box-1", "report")],
    )
    assert (await api.ask("POST", path, json={"order": "format"}))[0] == 400
    assert len(api.orders.sent) == 1


async def test_the_summary_counts_what_the_list_shows(api: Api) -> None:
    await some_boxes(api)
    _, summary = await api.ask("GET", "/v1/summary", role="viewer")
    assert (summary["active"], summary["revoked"]) == (3, 0)
    assert summary["health"] == {"online": 3, "silent": 0, "unreachable": 0}
    assert [(one["name"], one["state"], one["boxes"]) for one in summary["items"]] == [
        ("assistant", "confirmed", 3)
    ]


@pytest.mark.parametrize(
    ("method", "path", "options", "status", "code"),
    [
        ("GET", "/nowhere", {}, 404, "not_found"),
        ("DELETE", "/v1/boxes", {}, 405, "not_found"),
        ("GET", "/v1/boxes/acme~nobody", {}, 404, "not_found"),
        ("GET", "/v1/boxes?limit=x", {}, 400, "invalid_value"),
        ("GET", "/v1/boxes?limit=1&limit=2", {}, 400, "invalid_value"),
        ("GET", "/v1/boxes?colour=red", {}, 400, "invalid_value"),
        ("PUT", "/v1/groups/g", {"data": b"{"}, 400, "invalid_value"),
        ("PUT", "/v1/groups/G!", {"json": {"expression": "true"}}, 400, "invalid_value"),
        ("PUT", "/v1/groups/g", {"json": {"expression": "true", "x": 1}}, 400, "invalid_value"),
        ("PUT", "/v1/groups/g", {"data": b"x" * 100_000}, 413, "too_large"),
        ("POST", "/v1/enrol", {"data": b"not signed"}, 400, "refused_document"),
        ("GET", "/v1/enrol/unknown-ticket", {}, 404, "not_found"),
    ],
)
async def test_every_refusal_has_the_same_form(
    api: Api, method: str, path: str, options: dict[str, object], status: int, code: str
) -> None:
    found, answer = await api.ask(method, path, **options)
    assert (found, answer["error"]["code"]) == (status, code)
    assert set(answer["error"]) >= {"code", "message", "request_id"}


async def test_a_fault_of_ours_tells_nothing_of_the_inside(api: Api) -> None:
    api.services.enrolment = None  # type: ignore[assignment]
    status, answer = await api.ask("POST", "/v1/enrol", role=None, data=b"{}")
    assert status == 500
    assert "NoneType" not in str(answer)
    assert answer["error"]["request_id"] in answer["error"]["message"]


async def test_enrolment_is_held_to_a_rate(tmp_path: Path) -> None:
    async with fleet_api(tmp_path, enrol_per_s=0.2) as api:  # and a burst of two
        found = [(await api.ask("GET", "/v1/enrol/none", role=None))[0] for _ in range(3)]
    assert found == [404, 404, 429]


async def test_answers_are_not_to_be_kept(api: Api) -> None:
    async with api.client.get("/v1/boxes") as response:
        assert response.headers["cache-control"] == "no-store"
        assert response.headers["www-authenticate"] == "Bearer"


async def test_the_description_covers_every_route(api: Api) -> None:
    status, described = await api.ask("GET", "/openapi.json", role=None)
    assert (status, described["openapi"]) == (200, "3.1.0")
    found = {
        (method.upper(), path)
        for path, operations in described["paths"].items()
        for method in operations
    }
    assert found == {(route.method, route.path) for route in ROUTES}
    text = str(described)
    for reference in {part.split("'")[0] for part in text.split("#/components/schemas/")[1:]}:
        assert reference in described["components"]["schemas"], reference
    names = [route.name for route in ROUTES]
    assert len(set(names)) == len(names)


def test_what_changes_something_needs_more_than_reading() -> None:
    for route in ROUTES:
        if route.method != "GET" and route.permission is not None:
            assert route.permission is not Permission.READ, route.path

"""Alerts stored and told: at least once, within bounds."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from edge_runtime.errors import TransportError, UsageError
from fleet.db.database import Database
from fleet.ingest import alert_store
from fleet.ingest.alert_service import SIGNATURE_HEADER, Alerts, HttpPoster, MemoryPoster
from fleet.ingest.alert_store import Rule
from fleet.registry import boxes
from tests.support.fleet import LIMITS, NOW_S


class Clock:
    def __init__(self) -> None:
        self.now_s = NOW_S

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with Database.opened(database_url) as opened:
        rule = Rule(
            name="away", expression="unreachable > 0", for_s=60, severity="critical",
            description="a box is gone",
        )  # fmt: skip
        await opened.write(lambda c: alert_store.put_rule(c, rule, max_rules=2))
        await opened.write(lambda c: boxes.add(c, "acme~box-1", {}, now_s=NOW_S))
        yield opened


@pytest.fixture
def clock() -> Clock:
    return Clock()


def service(database: Database, clock: Clock, poster: MemoryPoster | None) -> Alerts:
    return Alerts(database, LIMITS, clock, 30.0, poster, secret=b"s", max_tries=3)


async def listed(database: Database) -> list[alert_store.Alert]:
    return await database.read(alert_store.listed)


async def test_an_alert_is_raised_told_and_cleared(database: Database, clock: Clock) -> None:
    poster = MemoryPoster()
    alerts = service(database, clock, poster)
    await alerts.look()
    assert await listed(database) == []
    clock.now_s += 60
    await alerts.look()
    await alerts.look()  # once is enough
    await alerts.tell()
    (alert,) = await listed(database)
    assert (alert.rule, alert.told, alert.values) == ("away", "told", {"unreachable": 1})
    await database.write(lambda c: boxes.set_status(c, "acme~box-1", "revoked"))
    await alerts.look()
    await alerts.tell()
    await alerts.tell()
    told = [json.loads(body) for body, _ in poster.posts]
    assert [(one["state"], one["id"]) for one in told] == [
        ("raised", alert.id),
        ("cleared", alert.id),
    ]
    body, headers = poster.posts[0]
    assert headers[SIGNATURE_HEADER] == f"sha256={hmac.new(b's', body, hashlib.sha256).hexdigest()}"
    assert await database.read(alert_store.count_open) == 0


async def test_a_deaf_webhook_is_tried_later_and_then_given_up(
    database: Database, clock: Clock
) -> None:
    poster = MemoryPoster(failures=100)
    alerts = service(database, clock, poster)
    await alerts.look()
    clock.now_s += 60
    await alerts.look()
    waits = []
    for _ in range(200):
        before = poster.failures
        await alerts.tell()
        if poster.failures < before:
            waits.append(clock.now_s - NOW_S - 60)
        clock.now_s += 5
    assert waits == [0, 10, 30]
    (alert,) = await listed(database)
    assert (alert.told, alert.tries) == ("given_up", 3)
    assert "500" in alert.last_error


async def test_without_a_webhook_alerts_are_only_listed(database: Database, clock: Clock) -> None:
    alerts = service(database, clock, None)
    await alerts.look()
    clock.now_s += 60
    await alerts.look()
    await alerts.tell()
    (alert,) = await listed(database)
    assert alert.told == "nobody"


async def test_rules_are_bounded_and_what_they_raised_goes_with_them(
    database: Database, clock: Clock
) -> None:
    def rule(name: str, text: str = "boxes > 100") -> Rule:
        return Rule(name=name, expression=text, for_s=0, severity="info", description="")

    await database.write(lambda c: alert_store.put_rule(c, rule("two"), max_rules=2))
    with pytest.raises(UsageError, match="2 rules already"):
        await database.write(lambda c: alert_store.put_rule(c, rule("three"), max_rules=2))
    with pytest.raises(UsageError, match="undeclared"):
        await database.write(lambda c: alert_store.put_rule(c, rule("two", "nope"), max_rules=2))
    alerts = service(database, clock, None)
    await alerts.look()
    clock.now_s += 60
    await alerts.look()
    await database.write(lambda c: alert_store.remove_rule(c, "away", now_s=clock.now_s))
    (alert,) = await listed(database)
    assert alert.cleared_s == clock.now_s


async def test_posts_go_to_the_webhook_and_nowhere_else() -> None:
    seen: list[str] = []

    async def take(request: web.Request) -> web.Response:
        seen.append(await request.text())
        return web.Response()

    async def elsewhere(_request: web.Request) -> web.Response:
        raise web.HTTPFound("/take")

    app = web.Application()
    app.router.add_post("/take", take)
    app.router.add_post("/moved", elsewhere)
    async with TestServer(app) as server:
        await HttpPoster(str(server.make_url("/take")), 10.0).post(b"{}", {})
        with pytest.raises(TransportError, match="302"):
            await HttpPoster(str(server.make_url("/moved")), 10.0).post(b"{}", {})
    with pytest.raises(TransportError, match="cannot be reached"):
        await HttpPoster("http://127.0.0.1:1/", 5.0).post(b"{}", {})
    assert seen == ["{}"]

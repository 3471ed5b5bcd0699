"""Settings of the fleet take effect while requests run: a whole agent beside a daemon over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from edge_runtime.agent.documents import SettingsDocuments
from edge_runtime.agent.overlay import NONE, with_overlays
from edge_runtime.agent.protocol import BoxState, FailureCode, ItemKind, ItemReport
from edge_runtime.bundle.files import RealFiles
from edge_runtime.config import Settings
from edge_runtime.config_file import parse_settings
from edge_runtime.router.frontier.memory import MemoryFrontiers
from edge_runtime.router.live import Routing
from edge_runtime.router.open import open_routing
from edge_runtime.server.app import create_app
from edge_runtime.server.fake_host import FakeHost
from edge_runtime.server.serve import listening, reroute
from tests.support.agents import SOON_S, Rig, rig, until
from tests.support.documents import open_signed, signed
from tests.support.routed import NOW, certificate, json_label, models
from tests.support.wants import want, want_item

S = BoxState
LETTERS = "4" * 64
FRONTIER = {"base_url": "http://127.0.0.1:9/v1", "model": "big", "training_allowed": False}
PRICES = {
    "version": "test-1",
    "frontier": {"big": {"input": "2.00", "cached_input": "0.50", "output": "8.00"}},
}
ASK = {"model": "letters", "input": "tree"}


@dataclass
class Daemon:
    """A daemon that classifies letters, the agent's side of its settings, and a fleet."""

    box: Rig
    own: Settings
    host: FakeHost
    frontiers: MemoryFrontiers
    routing: Routing
    documents: SettingsDocuments
    client: aiohttp.ClientSession
    generation: int = 0
    seen: list[dict[str, Any]] = field(default_factory=list)

    async def ask(self) -> dict[str, Any]:
        """One question's answer; `status` beside it."""
        async with self.client.post("/v1/classify", json=ASK) as response:
            body = await response.json()
            found = {"status": response.status, **body}
            self.seen.append(found)
            return found

    async def reason(self) -> str:
        """Why whoever answered one question did."""
        body = await self.ask()
        return str(body["edge"]["reason"])

    def publish(self, document: dict[str, Any], *, name: str = "policy", **rules: Any) -> int:
        """Want a signed settings document; its generation."""
        self.generation += 1
        data = signed(document)
        digest = hashlib.sha256(data).hexdigest()
        path = self.box.root / f"document-{self.generation}"
        path.write_bytes(data)
        self.box.fetcher.available[digest] = path
        probation = {"length_s": 0, **rules}
        fields = {"kind": ItemKind.SETTINGS, "name": name, "probation": probation}
        self.box.tell(want(want_item(self.generation, digest, **fields)))
        return self.generation

    async def wanted(self, document: dict[str, Any], *states: BoxState, **rules: Any) -> ItemReport:
        """Publish, and wait for one of these states."""
        generation = self.publish(document, **rules)
        return await self.box.reported(generation, *states, name="policy")


@contextlib.asynccontextmanager
async def daemon(tmp_path: Path, **sections: Any) -> AsyncIterator[Daemon]:
    own = parse_settings(
        {
            "server": {"port": 0},
            "store": {"path": str(tmp_path / "daemon")},
            "endpoints": {"letters": {"models": ["letter-class"], "task": "letter-class"}},
            "frontiers": {"big": FRONTIER},
            "prices": {"table": PRICES},
            **sections,
        }
    )
    running = with_overlays(own, parse_settings, tmp_path)
    host = FakeHost(models())
    async with rig(tmp_path) as box, contextlib.AsyncExitStack() as stack:
        routing = await stack.enter_async_context(open_routing(running, box.metrics))
        frontiers = MemoryFrontiers(json_label("other"), names=("big",), ledger=routing.ledger)
        routing.router.frontiers = frontiers
        book = routing.router.book
        book.clock = lambda: NOW
        book.add(certificate(LETTERS, "letter-class", 0.3, issued="2026-03-02T12:00:00Z"))
        book.add(certificate(LETTERS, "letter-class", 0.99999, alpha=0.02, k=5))
        app = create_app(host, running, box.metrics, router=routing.router)
        reroute(app, routing)
        documents = SettingsDocuments(own, open_signed, tmp_path, RealFiles(), routing)
        box.prepare = documents.prepare
        url = await stack.enter_async_context(listening(app, running))
        client = await stack.enter_async_context(aiohttp.ClientSession(url))
        await stack.enter_async_context(box.running())
        yield Daemon(box, own, host, frontiers, routing, documents, client)


async def test_policy_alpha_and_budget_change_between_requests(tmp_path: Path) -> None:
    async with daemon(tmp_path) as box:
        assert await box.reason() == "confident"
        await box.wanted({"endpoints": {"letters": {"alpha": 0.02}}}, S.CONFIRMED)
        assert await box.reason() == "low-confidence", "the stricter certificate decides"
        await box.wanted({"endpoints": {"letters": {"alpha": 0.001}}}, S.CONFIRMED)
        assert await box.reason() == "no-certificate"
        policy = {"endpoints": {"letters": {"policy": "frontier-only"}}}
        await box.wanted(policy, S.CONFIRMED)
        assert await box.reason() == "frontier-only"
        await box.wanted({**policy, "budgets": {"day": "0.000000001"}}, S.CONFIRMED)
        poor = (await box.ask())["edge"]
        assert (poor["reason"], poor["degraded"]) == ("degraded", True)
        assert "budget" in poor["detail"]
        await box.wanted({**policy, "budgets": {"day": "5"}}, S.CONFIRMED)
        assert await box.reason() == "frontier-only"
        await box.wanted({}, S.CONFIRMED)
        assert await box.reason() == "confident"


async def test_no_request_is_dropped_and_each_sees_one_policy(tmp_path: Path) -> None:
    async with daemon(tmp_path) as box:
        going = True

        async def ask() -> None:
            while going:
                await box.ask()

        askers = [asyncio.create_task(ask()) for _ in range(4)]
        policy: dict[str, Any] = {"endpoints": {"letters": {"policy": "frontier-only"}}}
        for document in (policy, {}, policy, {"router": {"privacy": "never-leave"}}):
            await box.wanted(document, S.CONFIRMED)
            before = len(box.seen)
            await until(lambda before=before: len(box.seen) >= before + 8)
        going = False
        await asyncio.gather(*askers)
        assert {one["status"] for one in box.seen} == {200}
        reasons = [one["edge"]["reason"] for one in box.seen]
        assert set(reasons) == {"confident", "frontier-only"}
        local = [one for one in box.seen if one["edge"]["reason"] == "confident"]
        assert {one["edge"]["tier"] for one in local} == {"local"}


async def test_a_request_in_progress_ends_by_the_settings_it_began_under(tmp_path: Path) -> None:
    async with daemon(tmp_path) as box:
        box.host.pause_after = 0
        going = asyncio.create_task(box.reason())
        async with asyncio.timeout(SOON_S):
            await box.host.paused.wait()
        await box.wanted({"endpoints": {"letters": {"policy": "frontier-only"}}}, S.CONFIRMED)
        box.host.pause_after = None
        assert await box.reason() == "frontier-only"
        box.host.resume.set()
        assert await going == "confident"


async def test_a_bad_document_is_refused_with_its_reason_and_changes_nothing(
    tmp_path: Path,
) -> None:
    async with daemon(tmp_path) as box:
        before = box.routing.router
        for document, reason in (
            ({"endpoints": {"letters": {"policy": "sometimes"}}}, "endpoints.letters.policy"),
            ({"router": {"polcy": "shadow"}}, "did you mean policy"),
            ({"budgets": {"endpoints": {"nobody": {"day": "1"}}}}, "there is no such endpoint"),
            ({"prices": {"table": {"version": "2", "frontier": {"big": None}}}}, "frontier.big"),
            ({"server": {"port": 1}}, "the box's own"),
            ({"cache": {"semantic": {"max_bytes": 1 << 20, "max_entry_bytes": 1 << 21}}}, "most"),
        ):
            told = await box.wanted(document, S.FAILED)
            assert told.failure is not None
            assert told.failure.code is FailureCode.REFUSED
            assert reason in told.failure.reason
            assert told.active == hashlib.sha256(NONE).hexdigest()
        assert box.routing.router is before
        assert with_overlays(box.own, parse_settings, tmp_path) == box.own
        assert await box.reason() == "confident"


async def test_bad_health_brings_the_former_behaviour_back(tmp_path: Path) -> None:
    async with daemon(tmp_path) as box:
        policy = {"endpoints": {"letters": {"policy": "frontier-only"}}}
        rules = {"length_s": 3600, "min_requests": 4, "max_error_share": 0.1}
        first = await box.wanted(policy, S.PROBATION, **rules)
        assert await box.reason() == "frontier-only"
        for _ in range(8):
            box.box.metrics.count("edge_http_requests_total", "/v1", "500", "letter-class")
        box.box.order("o-1", "report")
        told = await box.box.reported(box.generation, S.REVERTED, name="policy")
        assert told.failure is not None
        assert told.failure.code is FailureCode.ERRORS
        assert told.previous == first.active
        assert await box.reason() == "confident", "what the box had before the first document"
        assert (
            with_overlays(box.own, parse_settings, tmp_path).endpoints["letters"]
            == (box.own.endpoints["letters"])
        )


async def test_what_cannot_change_live_is_named_and_counts_at_the_next_start(
    tmp_path: Path,
) -> None:
    document = {
        "engine": {"max_wait_s": 7.0},
        "models": {"default_slots": 3},
        "ledger": {"detail_days": 5},
        "endpoints": {"letters": {"policy": "frontier-only"}},
    }
    async with daemon(tmp_path) as box:
        told = await box.wanted(document, S.CONFIRMED)
        # the pointer moved and the report may be older than the change
        keys = ("engine.max_wait_s", "ledger.detail_days", "models.default_slots")
        assert box.documents.at_next_start == keys
        assert told.active is not None
        assert await box.reason() == "frontier-only", "the rest counts now"
        assert box.routing.settings.engine.max_wait_s == box.own.engine.max_wait_s
    running = with_overlays(box.own, parse_settings, tmp_path)
    assert (running.engine.max_wait_s, running.models.default_slots) == (7.0, 3)
    async with open_routing(running, box.box.metrics) as routing:
        again = SettingsDocuments(box.own, open_signed, tmp_path, RealFiles(), routing)
        await again.settle()
        assert again.at_next_start == ()
        assert routing.settings.endpoints["letters"].policy == "frontier-only"


async def test_what_needs_a_part_that_stays_waits_as_a_whole(tmp_path: Path) -> None:
    document = {
        "frontiers": {"other": {**FRONTIER, "model": "other"}},
        "router": {"frontiers": ["other"]},
        "endpoints": {"letters": {"policy": "frontier-only"}},
        "prices": {"table": {**PRICES, "frontier": {"other": PRICES["frontier"]["big"]}}},  # type: ignore[index]
    }
    async with daemon(tmp_path) as box:
        await box.wanted(document, S.CONFIRMED)
        assert await box.reason() == "confident"
        waiting = box.documents.at_next_start
        assert {"frontiers.other.model", "endpoints.letters.policy"} <= set(waiting)


async def test_cache_prices_and_trials_change_live(tmp_path: Path) -> None:
    async with daemon(tmp_path) as box:
        await box.wanted(
            {
                "cache": {"exact": {"enabled": True, "ttl_s": 60, "max_bytes": 2 << 20}},
                "prices": {"table": {"version": "test-2"}},
                "energy": {"tariff_per_kwh": "0.50"},
            },
            S.CONFIRMED,
        )
        await box.ask()
        await box.routing.router.finish_background(cancel=False)
        assert await box.reason() == "cached"
        router = box.routing.router
        assert (router.exact_ttl_s, router.till.price_version) == (60, "test-2")
        assert router.till.local.tariff_nano_per_kwh == 500_000_000
        await box.wanted({"cache": {"exact": {"enabled": False}}}, S.CONFIRMED)
        assert await box.reason() == "confident"
        await box.wanted({"cache": {"exact": {"enabled": True}}}, S.CONFIRMED)
        assert await box.reason() == "cached", "what was kept is still there"

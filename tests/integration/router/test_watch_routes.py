"""What an operator sees of the watch over HTTP, and how an alarm is cleared."""

from __future__ import annotations

from typing import Any

from edge_runtime.metrics import Metrics
from edge_runtime.router.frontier.memory import MemoryFrontiers, Scripted, says
from edge_runtime.router.watch.contract import AuditEnd, Decided, Slice, Terms
from edge_runtime.router.watch.meter import MeteredListener
from edge_runtime.router.watch.settings import DriftSettings, WatchSettings
from edge_runtime.router.watch.state import MemoryWatchStore
from edge_runtime.router.watch.surroundings import Surroundings
from edge_runtime.router.watch.watch import Watch
from tests.support.routed import certificate, json_label, routed, short_is_sure

TERMS = Terms(
    "c" * 64, "intent", "d" * 64, 0.05, 0.1, 0.25, 0.75, 2000,
    tuple(place / 10 for place in range(1, 10)), "gold",
)  # fmt: skip


def alarmed(metrics: Metrics) -> Watch:
    watch = Watch(
        WatchSettings(drift=DriftSettings(tokens_mean=30.0)),
        MemoryFrontiers(json_label("a"), names=("big",)),
        MemoryWatchStore(),
        Surroundings(listener=MeteredListener(metrics), clock=lambda: 7),
    )
    watch.certified(TERMS)
    where = Slice(task="intent", tenant="shop", prompt_tokens=9, text="what is my balance")
    while not watch.alarms():
        watch.observe(Decided(where=where, certificate="c" * 64, score=0.01, kept=False, tokens=30))
    return watch


async def test_an_operator_sees_an_alarm_and_clears_it() -> None:
    metrics = Metrics()
    watch = alarmed(metrics)
    async with routed(json_label("a"), watch=watch) as daemon:
        async with daemon.client.get("/v1/watch") as response:
            seen: dict[str, Any] = await response.json()
        assert seen["alarms"][0]["task"] == "intent"
        assert seen["events"][0]["kind"] == "alarm"
        assert {row["dimension"] for row in seen["slices"]} == {
            "task", "language", "length", "tenant",
        }  # fmt: skip
        assert seen["slices"][0]["escalation"] == 1.0
        assert seen["trials"] == []
        wrong = await daemon.post("/v1/watch/clear", {"certificate": "not hex"})
        assert wrong.status == 400
        cleared = await daemon.post("/v1/watch/clear", {"certificate": "c" * 64})
        assert cleared.body == {"cleared": True}
        again = await daemon.post("/v1/watch/clear", {"certificate": "c" * 64})
        assert again.body == {"cleared": False}
    assert watch.suspended("c" * 64) is None
    assert watch.events()[-1].detail == "by operator"
    text = metrics.render().decode()
    assert 'edge_watch_events_total{event="alarm"} 1.0' in text
    assert 'edge_watch_events_total{event="cleared"} 1.0' in text
    assert "edge_drift_alarms_total{" in text


def fresh() -> Watch:
    return Watch(
        WatchSettings(),
        MemoryFrontiers(json_label("a"), names=("big",)),
        MemoryWatchStore(),
        Surroundings(clock=lambda: 7),
    )


def counted(watch: Watch) -> int:
    """Requests that the watch has by task."""
    return sum(row.requests for row in watch.slices() if row.dimension == "task")


async def test_an_escalation_counts_before_its_slow_frontier_answers() -> None:
    watch, before = fresh(), []

    def slow(body: Any) -> Scripted:
        before.append(counted(watch))
        return says('{"label": "vowel"}', stream=bool(body.get("stream")))

    promises = (
        certificate("4" * 64, "letter-class", 0.99),
        certificate("1" * 64, "echo", 0.999, kind="generate", score=short_is_sure()),
    )
    async with routed(
        slow,
        *promises,
        watch=watch,
        endpoints={"letters": {"models": ["letter-class"]}, "helper": {"models": ["echo"]}},
    ) as daemon:
        label = await daemon.post("/v1/classify", {"model": "letters", "input": "apple"})
        said = [{"role": "user", "content": "some words to say again"}]
        chat = await daemon.post("/v1/chat/completions", {"model": "helper", "messages": said})
    assert (label.edge["reason"], chat.edge["tier"]) == ("low-confidence", "frontier")
    assert before == [1, 2]
    assert counted(watch) == 2, "and only once"


async def test_a_box_that_watches_nothing_says_so() -> None:
    async with routed(json_label("a")) as daemon:
        refused = await daemon.post("/v1/watch/clear", {"certificate": "c" * 64})
        assert refused.status == 400
        assert refused.body["error"]["code"] == "not_configured"


async def test_only_an_admin_sees_whose_requests_were_weak() -> None:
    # The sha256 of "k": what a box keeps of a key.
    keys = {"shop": "8254c329a92850f6d539dd376f4816ee2764517da5e0235514af433164480d7a"}
    server = {"port": 0, "drain_timeout_s": 1, "api_key_sha256": keys}
    for admins, status in (([], 403), (["shop"], 200)):
        async with (
            routed(
                json_label("a"),
                watch=alarmed(Metrics()),
                server={**server, "admin_tenants": admins},
            ) as daemon,
            daemon.client.get("/v1/watch", headers={"Authorization": "Bearer k"}) as response,
        ):
            assert response.status == status


def test_audits_are_counted_and_the_queue_is_shown() -> None:
    metrics = Metrics()
    listener = MeteredListener(metrics)
    listener.audited("intent", AuditEnd.DIFFERED)
    listener.audits_waiting(3)
    text = metrics.render().decode()
    assert 'edge_audits_total{result="differed",task="intent"} 1.0' in text
    assert "edge_audits_waiting 3.0" in text

"""What the box's page shows of the last requests."""

from __future__ import annotations

from edge_runtime.server.recent import BUCKETS, KEPT, WINDOW_S, Recent, Seen, listed, summary


def seen(at_s: float, tier: str, **more: object) -> Seen:
    values = {
        "route": "/v1/classify",
        "model": "m",
        "tenant": "",
        "reason": "confident",
        "answered_by": "m@1",
        "seconds": 0.01,
        **more,
    }
    return Seen(at_s=at_s, tier=tier, **values)  # type: ignore[arg-type]


def test_rates_are_of_what_was_answered_in_the_window() -> None:
    found = summary(
        [
            seen(0, "local"),  # before the window
            seen(400, "local", cost=0.1, seconds=0.01),
            seen(401, "cache", saved=0.5, seconds=0.001),
            seen(402, "frontier", cost=0.5, seconds=0.5, reason="low-confidence"),
            seen(403, "local", degraded=True, reason="degraded"),
            seen(404, "refused", answered_by="", reason=""),
        ],
        now_s=500.0,
    )
    assert found["questions"] == 5
    assert found["escalation_rate"] == 0.25
    assert found["cache_hit_rate"] == 0.25
    assert found["degraded"] == 1
    assert found["saved"] == 0.5
    assert found["cost_per_task"] == 0.6 / 5
    assert found["latency_ms"]["p99"] > 400 > found["latency_here_ms"]["p99"]
    assert found["reasons"] == {"confident": 2, "low-confidence": 1, "degraded": 1, "-": 1}


def test_buckets_run_from_the_oldest_to_now() -> None:
    now_s = 1000.0
    found = summary([seen(now_s - WINDOW_S + 1, "local"), seen(now_s, "cache")], now_s)["buckets"]
    assert len(found) == BUCKETS
    assert found[0]["local"] == 1
    assert found[-1]["cache"] == 1
    assert sum(sum(one.values()) for one in found) == 2


def test_without_traffic_nothing_is_claimed() -> None:
    found = summary([], 10.0)
    assert found["escalation_rate"] is None
    assert found["latency_ms"] == {"p50": None, "p95": None, "p99": None}
    assert found["cost_per_task"] is None


def test_a_tenant_sees_its_own() -> None:
    recent = Recent()
    recent.note(seen(1, "local", tenant="a"))
    recent.note(seen(2, "local", tenant="b"))
    assert [one.tenant for one in recent.of("a")] == ["a"]
    assert len(recent.of(None)) == 2


def test_the_ring_is_bounded_and_the_newest_come_first() -> None:
    recent = Recent()
    for number in range(KEPT + 5):
        recent.note(seen(number, "local", answered_by=str(number)))
    assert len(recent.ring) == KEPT
    assert recent.total["local"] == KEPT + 5
    rows = listed(recent.of(None), KEPT + 10.0)
    assert [row["answered_by"] for row in rows[:2]] == [str(KEPT + 4), str(KEPT + 3)]

"""The stopwatch of what the router itself takes."""

from __future__ import annotations

from edge_runtime.metrics import Metrics
from edge_runtime.server.own_time import OwnTime


def test_it_stands_still_while_others_work_and_adds_up() -> None:
    now = [10.0]
    own = OwnTime(lambda: now[0], 9.0)
    with own.away():
        now[0] = 20.0
    now[0] = 20.5
    own.stop()
    own.stop()
    now[0] = 99.0
    own.go()
    own.go()
    now[0] = 99.25
    metrics = Metrics()
    own.observe(metrics, "/v1/classify")
    assert own.spent_s == 1.0 + 0.5 + 0.25
    assert 'edge_router_seconds_sum{route="/v1/classify"} 1.75' in metrics.render().decode()

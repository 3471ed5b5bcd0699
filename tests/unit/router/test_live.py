"""What of new settings can count in a running daemon, what waits, which certificate decides."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from edge_runtime.config import Settings
from edge_runtime.config_file import parse_settings
from edge_runtime.core import Kind
from edge_runtime.errors import ConfigError
from edge_runtime.router.live import counts_now, differing
from edge_runtime.router.plan import Directory, Wishes
from edge_runtime.router.settings import EndpointSettings, RouterSettings
from edge_runtime.router.trust import CertificateBook
from tests.support.routed import certificate

FRONTIER = {"base_url": "http://127.0.0.1:9/v1", "model": "gpt-4.1", "training_allowed": False}
STARTED = parse_settings({"frontiers": {"big": FRONTIER}})
NOW = datetime(2026, 4, 1, tzinfo=UTC)
MODEL = "4" * 64


def changed(**sections: Any) -> Settings:
    return parse_settings({"frontiers": {"big": FRONTIER}, **sections})


@pytest.mark.parametrize(
    "sections",
    [
        {"router": {"policy": "local-first", "alpha": 0.02, "drift": "hold"}},
        {"endpoints": {"a": {"models": ["m"], "alpha": 0.1}}},
        {"budgets": {"day": "2.50", "hold_s": 60}},
        {"prices": {"table": {"version": "2"}}},
        {"energy": {"busy_watts": "30", "tariff_per_kwh": "0.3"}},
        {"cache": {"exact": {"enabled": True, "ttl_s": 5}, "semantic": {"enabled": True}}},
        {"certificates": {"revoked": ["a" * 64]}},
        {"watch": {"audit": {"share": 0.5}, "trial": {"m": {"candidate": "n"}}}},
    ],
)
def test_what_the_fleet_may_steer_counts_at_once(sections: dict[str, Any]) -> None:
    wanted = changed(**sections)
    now = counts_now(STARTED, wanted)
    assert now == wanted
    assert differing(now, wanted) == ()
    assert differing(STARTED, now)


@pytest.mark.parametrize(
    ("sections", "waiting"),
    [
        ({"engine": {"threads": 3}}, ("engine.threads",)),
        ({"models": {"options": {"m": {"slots": 2}}}}, ("models.options.m.slots",)),
        ({"cache": {"exact": {"path": "/x"}}}, ("cache.exact.path",)),
        ({"energy": {"source": "none", "period_s": 5}}, ("energy.period_s", "energy.source")),
        ({"ledger": {"detail_days": 3}}, ("ledger.detail_days",)),
        ({"server": {"port": 1}}, ("server.port",)),
    ],
)
def test_what_is_open_stays_and_is_named(
    sections: dict[str, Any], waiting: tuple[str, ...]
) -> None:
    wanted = changed(**sections)
    now = counts_now(STARTED, wanted)
    assert now == STARTED
    assert set(waiting) <= set(differing(now, wanted))


def test_what_needs_a_part_that_stays_does_not_fit() -> None:
    wanted = changed(
        frontiers={"big": FRONTIER, "other": FRONTIER}, router={"frontiers": ["other"]}
    )
    with pytest.raises(ConfigError, match="other"):
        counts_now(STARTED, wanted)


def test_the_alpha_chooses_the_certificate_nearest_to_it() -> None:
    book = CertificateBook(clock=lambda: NOW)
    book.add(certificate(MODEL, "t", 0.9, alpha=0.02, k=5, issued="2026-03-05T00:00:00Z"))
    book.add(certificate(MODEL, "t", 0.3, alpha=0.05))
    thresholds = {}
    for alpha in (None, 0.5, 0.05, 0.049, 0.02, 0.01):
        known = book.holding(MODEL, "t", Kind.CLASSIFY, alpha).known
        thresholds[alpha] = None if known is None else known.certificate.threshold
    assert thresholds == {None: 0.9, 0.5: 0.3, 0.05: 0.3, 0.049: 0.9, 0.02: 0.9, 0.01: None}
    assert "alpha 0.02 at best" in book.holding(MODEL, "t", Kind.CLASSIFY, 0.01).detail


def test_an_endpoints_alpha_goes_before_the_routers() -> None:
    endpoints = {
        "own": EndpointSettings(models=["m"], alpha=0.01),
        "general": EndpointSettings(models=["m"]),
    }
    directory = Directory(RouterSettings(alpha=0.05), endpoints)
    alphas = []
    for asked in ("own", "general", "m"):
        plan = directory.plan(asked, Wishes(), served=True)
        assert plan is not None
        alphas.append(plan.alpha)
    assert alphas == [0.01, 0.05, 0.05]

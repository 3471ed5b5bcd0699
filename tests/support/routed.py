"""A daemon that routes, without a model, a network or a disk: what the router's tests share."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import aiohttp
import pytest

from edge_runtime.bundle.certificate import Certificate
from edge_runtime.bundle.escalation import Escalation
from edge_runtime.cache.memory import MemoryCache
from edge_runtime.config import Settings
from edge_runtime.core import Kind
from edge_runtime.ledger.memory import MemoryLedger
from edge_runtime.ledger.prices import LocalPrice
from edge_runtime.ledger.rows import Attempt, JouleSource, Purpose, Tier
from edge_runtime.metrics import Metrics
from edge_runtime.router.booking import money
from edge_runtime.router.energy import EnergyMeter
from edge_runtime.router.frontier.memory import Body, MemoryFrontiers, Scripted, says
from edge_runtime.router.plan import Directory
from edge_runtime.router.router import Router
from edge_runtime.router.till import Till
from edge_runtime.router.trust import CertificateBook
from edge_runtime.server.app import create_app
from edge_runtime.server.fake_host import FakeHost, fake_models
from edge_runtime.server.serve import listening
from edge_runtime.stats.scores import TOKEN_FEATURES

NOW = datetime(2026, 4, 1, tzinfo=UTC)
NOW_US = int(NOW.timestamp() * 1e6)
LOCAL = LocalPrice(
    tariff_nano_per_kwh=300_000_000, hardware_pico_per_busy_s=10**9, busy_milliwatts=40_000
)
LABELS = Escalation.model_validate(
    {
        "prompt": "Say which of these it is:\n{labels}",
        "parser": "label-json/1",
        "out_of_scope": {"answers": ["none"], "label": "oos"},
        "max_output_tokens": 32,
    }
)


def certificate(digest: str, task: str, threshold: float, **changes: Any) -> Certificate:
    """A certificate that holds at `NOW` for a classifier's margin."""
    document = {
        "model_digest": digest,
        "kind": "classify",
        "task": task,
        "score": {"name": "margin", "version": 1, "parameters": {}},
        "alpha": 0.05,
        "delta": 0.1,
        "lambda": threshold,
        "n": 1032,
        "k": 37,
        "calibration_size": 1339,
        "coverage": 1032 / 1339,
        "auroc": 0.96,
        "score_deciles": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9],
        "reference": "gold",
        "traffic": "a test's",
        "data_sha256": "b" * 64,
        "issued": "2026-03-01T12:00:00Z",
        "expires": "2026-06-01T12:00:00Z",
    }
    return Certificate.model_validate(document | changes)


def short_is_sure() -> dict[str, Any]:
    """A chat score of 0.5 for `e` (2.7) tokens; fewer are surer, more are less sure."""
    parameters: dict[str, float] = {"bias": 0.0}
    for name in TOKEN_FEATURES:
        weight = -1.0 if name == "log_length" else 0.0
        parameters |= {f"{name}.weight": weight, f"{name}.mean": 1.0, f"{name}.deviation": 1.0}
    return {"name": "token-logistic", "version": 1, "parameters": parameters}


def json_label(label: str) -> Callable[[Body], Scripted]:
    """A frontier that always says this label."""
    return lambda body: says(f'{{"label": "{label}"}}')


def models() -> list[Any]:
    """The fake host's models; classifiers may escalate, generators are greedy."""
    changes = {
        Kind.CLASSIFY: {"escalation": LABELS},
        Kind.GENERATE: {"default_params": {"temperature": 0.0}},
    }
    return [replace(info, **changes.get(info.kind, {})) for info in fake_models()]


@dataclass
class Routed:
    """A routed daemon in memory; `client` talks to it."""

    settings: Settings
    host: FakeHost
    ledger: MemoryLedger
    frontiers: MemoryFrontiers | None
    router: Router
    client: aiohttp.ClientSession = field(init=False)

    @property
    def rows(self) -> list[Attempt]:
        """The ledger's rows of callers' requests."""
        return [row for row in self.ledger.attempts if row.purpose is Purpose.SERVE]

    @property
    def sent(self) -> list[Body]:
        """What frontiers were sent."""
        assert self.frontiers is not None
        return [body for _, body in self.frontiers.transport.requests]

    async def post(self, path: str, body: Mapping[str, Any], **headers: str) -> Answered:
        """One request, whole."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.client.post(path, json=body, headers=named) as response:
            return Answered(response.status, response.headers.copy(), await response.json())


@dataclass
class Answered:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: Any

    @property
    def edge(self) -> dict[str, Any]:
        """The `edge` field."""
        edge: dict[str, Any] = self.body["edge"]
        return edge


@contextlib.asynccontextmanager
async def routed(
    answer: Callable[[Body], Scripted] | None,
    *certificates: Certificate,
    cached: bool = False,
    watch: Any = None,
    host: FakeHost | None = None,
    **sections: Any,
) -> AsyncIterator[Routed]:
    """A daemon on a free loopback port. `answer` None: no frontier is configured."""
    ledger = MemoryLedger(lambda: NOW_US)
    frontiers = None
    if answer is not None:
        frontiers = MemoryFrontiers(answer, names=("big",), ledger=ledger)
        table = {"base_url": "http://127.0.0.1:9/v1", "model": "big", "training_allowed": False}
        sections.setdefault("frontiers", {"big": table})
    settings = Settings.model_validate({"server": {"port": 0, "drain_timeout_s": 1}, **sections})
    metrics = Metrics()
    book = CertificateBook(settings.certificates, clock=lambda: NOW)
    for one in certificates:
        book.add(one)
    names = () if frontiers is None else frontiers.names()
    router = Router(
        Directory(settings.router, settings.endpoints, names, settings.router.drift == "hold"),
        Till(ledger, EnergyMeter(LOCAL), LOCAL, lambda: NOW_US, "USD", "memory"),
        metrics,
        book,
        settings.router,
        frontiers,
        watch,
        MemoryCache(lambda: NOW_US // 1_000_000) if cached else None,
        exact_ttl_s=60,
    )
    host = host or FakeHost(models())
    daemon = Routed(settings, host, ledger, frontiers, router)
    app = create_app(host, settings, metrics, router=router)
    async with listening(app, settings) as url, aiohttp.ClientSession(url) as session:
        daemon.client = session
        yield daemon
        await router.finish_background(cancel=True)


def hold_against_ledger(headers: Any, edge: dict[str, Any], rows: Sequence[Attempt]) -> None:
    """Every header and field says what the rows say."""
    given = [row for row in rows if row.answered]
    assert len(given) == 1, "exactly one row answered"
    row = given[0]
    assert headers["x-edge-answered-by"] == edge["answered_by"] == row.model
    assert headers["x-edge-tier"] == edge["tier"] == row.tier
    assert headers["x-edge-reason"] == edge["reason"] == row.reason
    assert headers["x-edge-certificate"] == (edge["certificate"] or "none")
    assert headers["x-edge-cache"] == edge["cache"]
    assert (headers.get("x-edge-degraded") == "true") == edge["degraded"]
    assert edge["cost"] == money(sum(one.cost_nano for one in rows))
    assert edge["saved"] == money(sum(one.saved_nano for one in rows))
    assert edge["joules"] == pytest.approx(sum(one.energy_uj for one in rows) / 1e6)
    local = [one for one in rows if one.tier is not Tier.FRONTIER]
    sources = [one.energy_source for one in local]
    order = list(JouleSource)
    worst = max(sources, key=order.index, default=JouleSource.NONE)
    assert edge["joules_source"] == worst
    told = [one for one in edge["attempts"] if one["tier"] != "frontier"]
    assert [(one["tier"], one["model"], one["status"]) for one in told] == [
        (str(one.tier), one.model, str(one.status)) for one in local
    ]
    for one, kept in zip(told, local, strict=True):
        assert one["answered"] == kept.answered
        assert one["cost"] == money(kept.cost_nano)
        assert one["joules"] == kept.energy_uj / 1e6
        assert one["tokens_in"] == kept.tokens_in
        assert one["tokens_out"] == kept.tokens_out
        assert one["ms"] == pytest.approx(kept.duration_us / 1000)
    beyond = [one for one in edge["attempts"] if one["tier"] == "frontier"]
    tries = [one for one in rows if one.tier is Tier.FRONTIER]
    assert sum(one["tries"] for one in beyond) == len(tries)
    numbers = [one.attempt for one in rows]
    assert sorted(numbers) == list(range(len(rows)))
    scored = [one.score_ppm for one in rows if one.score_ppm is not None]
    if edge["score"] is not None:
        assert scored[-1] == int(edge["score"] * 1_000_000)

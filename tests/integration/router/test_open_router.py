"""The router opened from settings: real ledger, price list, certificates, and what it refuses."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from edge_runtime.bundle.certificate import sign_certificate, write_time
from edge_runtime.bundle.envelope import public_pem
from edge_runtime.cli import app
from edge_runtime.config import Settings
from edge_runtime.config_file import parse_settings
from edge_runtime.core import Kind
from edge_runtime.errors import ConfigError
from edge_runtime.ledger.budget import Limit, Period
from edge_runtime.ledger.ledger import Ledger, now_us
from edge_runtime.ledger.rows import Attempt, MoneySource, Tier
from edge_runtime.metrics import Metrics
from edge_runtime.router.frontier.memory import MemoryFrontiers
from edge_runtime.router.open import open_router
from edge_runtime.router.parts import limits_of, prices_of
from edge_runtime.server.app import create_app
from edge_runtime.server.fake_host import FakeHost
from edge_runtime.server.serve import listening
from tests.support.routed import certificate, json_label, models

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
FRONTIER = {"base_url": "http://127.0.0.1:9/v1", "model": "gpt-4.1", "training_allowed": False}
LETTERS = "4" * 64


def settings_of(tmp_path: Path, **sections: Any) -> Settings:
    return parse_settings(
        {"server": {"port": 0}, "store": {"path": str(tmp_path / "store")}, **sections}
    )


def write_certificate(tmp_path: Path) -> dict[str, Any]:
    """A signed certificate that holds now, and the settings that name it."""
    folder = tmp_path / "certificates"
    folder.mkdir()
    now = datetime.now(UTC)
    promise = certificate(
        LETTERS,
        "letter-class",
        0.93,
        issued=write_time(now - timedelta(days=1)),
        expires=write_time(now + timedelta(days=1)),
    )
    (folder / "letters.json").write_bytes(sign_certificate(promise, KEY))
    (folder / "broken.json").write_bytes(b"{}")
    (tmp_path / "signer.pub").write_bytes(public_pem(KEY.public_key()))
    keys = [str(tmp_path / "signer.pub")]
    return {"directory": str(folder), "trusted_keys": keys}


async def test_requests_are_kept_on_the_disk(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, ledger={"wait_for_disk": True})
    metrics, host = Metrics(), FakeHost()
    async with open_router(settings, metrics) as router:
        daemon = create_app(host, settings, metrics, router=router)
        async with listening(daemon, settings) as url, aiohttp.ClientSession(url) as client:
            body = {"model": "letter-class", "input": "a"}
            async with client.post("/v1/classify", json=body) as response:
                edge = (await response.json())["edge"]
    rows = sqlite3.connect(tmp_path / "store" / "ledger" / "ledger.db")
    found = rows.execute("SELECT model, reason, answered FROM attempts").fetchall()
    rows.close()
    assert found == [("letter-class@1.0", "requested-model", 1)]
    assert (edge["currency"], edge["cost"]) == ("USD", "0.000000000")


async def test_certificates_of_the_folder_decide(tmp_path: Path) -> None:
    settings = settings_of(
        tmp_path,
        certificates=write_certificate(tmp_path),
        endpoints={"letters": {"models": ["letter-class"]}},
        frontiers={"big": FRONTIER},
    )
    metrics, host = Metrics(), FakeHost(models())
    frontiers = MemoryFrontiers(json_label("other"), names=("big",))
    async with open_router(settings, metrics, frontiers=frontiers) as router:
        assert len(router.book.problems) == 1
        assert "broken.json" in router.book.problems[0]
        daemon = create_app(host, settings, metrics, router=router)
        async with listening(daemon, settings) as url, aiohttp.ClientSession(url) as client:
            body = {"model": "letters", "input": ["tree", "apple"]}
            async with client.post("/v1/classify", json=body) as response:
                data = (await response.json())["data"]
    assert [entry["edge"]["reason"] for entry in data] == ["confident", "low-confidence"]
    assert (tmp_path / "store" / "watch").is_dir(), "the watch keeps its state beside the store"


async def test_a_certificate_that_came_with_a_new_model_counts_from_its_first_question(
    tmp_path: Path,
) -> None:
    named = write_certificate(tmp_path)
    path = tmp_path / "certificates" / "letters.json"
    elsewhere = path.rename(tmp_path / "letters.json")
    settings = settings_of(tmp_path, certificates={**named, "reload_s": 86_400})
    async with open_router(settings, Metrics()) as router, asyncio.timeout(20):
        await asyncio.sleep(0)  # the upkeep begins with the loop's next turn
        elsewhere.rename(path)
        while router.book.holding(LETTERS, "letter-class", Kind.CLASSIFY).known is None:  # noqa: ASYNC110 - the upkeep tells nobody
            await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"frontiers": {"big": {**FRONTIER, "model": "unknown"}}}, "no price for frontier model"),
        ({"frontiers": {"big": {**FRONTIER, "api_key_env": "EDGE_NO_SUCH_KEY"}}}, "EDGE_NO_SUCH"),
        ({"prices": {"file": "/nowhere/prices.toml"}}, "/nowhere/prices.toml"),
        (
            {"certificates": {"directory": "/nowhere", "trusted_keys": ["/nowhere/key.pub"]}},
            "certificates.trusted_keys",
        ),
    ],
)
async def test_what_cannot_work_stops_the_start(
    tmp_path: Path, sections: dict[str, Any], message: str
) -> None:
    settings = settings_of(tmp_path, **sections)
    with pytest.raises(ConfigError, match=message):
        async with open_router(settings, Metrics()):
            pass


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"endpoints": {"a": {"frontiers": ["big"]}}}, "endpoints.a.frontiers names big"),
        ({"router": {"policy": "frontier-only"}}, "router.policy is frontier-only"),
        ({"endpoints": {"a": {"policy": "local-only"}}}, "local-only needs a local model"),
        ({"frontiers": {"a": FRONTIER}, "endpoints": {"a": {}}}, "both an endpoint and a frontier"),
        ({"budgets": {"endpoints": {"x": {"day": "1"}}}}, "no such endpoint"),
        ({"budgets": {"day": 2.5}}, "decimal in quotes"),
        ({"frontiers": {"a": FRONTIER}, "ledger": {"enabled": False}}, "ledger must stay on"),
        ({"certificates": {"directory": "/x"}}, "trusted_keys"),
        ({"cache": {"exact": {"max_bytes": 1 << 20, "max_entry_bytes": 1 << 21}}}, "max_entry"),
    ],
)
def test_settings_that_contradict_themselves_are_refused(
    tmp_path: Path, sections: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        settings_of(tmp_path, **sections)


def test_budgets_become_limits_and_energy_wins_over_the_list(tmp_path: Path) -> None:
    settings = settings_of(
        tmp_path,
        budgets={"day": "2.50", "tenants": {"alice": {"month": "10"}}},
        energy={"busy_watts": "40", "tariff_per_kwh": "0.30"},
    )
    limits = set(limits_of(settings))
    assert Limit("box", Period.DAY, 2_500_000_000) in limits
    assert Limit("tenant:alice", Period.MONTH, 10_000_000_000) in limits
    local = prices_of(settings).local
    assert (local.busy_milliwatts, local.tariff_nano_per_kwh) == (40_000, 300_000_000)


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Any]:
    """Run a command on settings written as TOML."""

    def go(command: str, toml: str = "") -> Any:
        path = tmp_path / "edge.toml"
        path.write_text(f'[store]\npath = "{tmp_path / "store"}"\n{toml}', encoding="utf-8")
        return CliRunner().invoke(app, [command, "--config", str(path), "--json"])

    return go


def test_the_doctor_names_what_is_wrong_and_missing(run: Callable[..., Any]) -> None:
    found = run(
        "doctor",
        '[endpoints.helper]\nmodels = ["nobody"]\n[frontiers.big]\nmodel = "odd"\n'
        'base_url = "https://frontier.example/v1"\ntraining_allowed = false\n'
        'api_key_env = "EDGE_NO_SUCH_KEY"\n',
    )
    assert found.exit_code == 1
    for part in ("nobody is not installed", "no price", "evaluation_set", "budgets.day", "NO_SUCH"):
        assert part in found.output


def test_the_doctor_names_what_it_looked_at_and_what_is_still_a_guess(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    settings = tmp_path / "edge.toml"
    settings.write_text(f'[store]\npath = "{tmp_path}"\n')
    with Ledger.open(tmp_path / "ledger" / "ledger.db") as ledger:
        for number, source in enumerate((MoneySource.USAGE, MoneySource.WORST_CASE)):
            row = Attempt(
                at_us=now_us(),
                request_id="r",
                task_id="t",
                tier=Tier.FRONTIER,
                model="big",
                frontier_nano=20_000_000,
                money_source=source,
                call_id=f"call-{number}",
            )
            ledger.append(row).result()
    found = CliRunner().invoke(app, ["doctor", "--config", str(settings)])
    assert f"settings: {settings}" in found.output
    assert f"store: {tmp_path}; active models: none" in found.output
    assert "1 calls are booked by a guess, at 0.0200" in found.output
    assert "1 wrong, 0 missing, 1 note" in found.output


def test_the_inventory_names_endpoints_models_reasons_and_prices(run: Callable[..., Any]) -> None:
    listed = run(
        "inventory",
        '[endpoints.helper]\nmodels = ["nobody"]\n[frontiers.big]\nmodel = "gpt-4.1"\n'
        'base_url = "https://frontier.example/v1"\ntraining_allowed = false\n',
    )
    assert listed.exit_code == 0
    for part in ('"endpoint": "helper"', "not installed", "2 / 8 USD", '"endpoint": "big"'):
        assert part in listed.output

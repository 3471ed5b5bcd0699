"""CLINC150 with 18 % out of scope through the real daemon, beside a frontier that meters itself.

    python -m benchmarks.mixed_traffic --bundle models/intent-clinc150/bundle --data DATA \
        --daemon "edge-runtime" --work build/mixed --markdown mixed.md

Certifies the bundle on one half of the calibration data (alpha 5 %, delta 10 %) and sends the
other half, which the certificate has never seen, through a daemon for each scenario: the frontier
as usual (wrong 3 % of the time, sometimes refusing, off the labels, stalling, limiting, cutting),
everything to the frontier, the frontier down, slow, the budget used up, and the same questions
again with the exact cache (alone: `--only cache`). After each, the books are read once the daemon
has had `SETTLE_S` to learn what the calls it gave up really cost. Each scenario has a fresh
daemon, a fresh ledger and a fresh bill.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import aiohttp
import typer

from benchmarks.http_round import HttpRoundError, wait_until_ready
from benchmarks.machine import describe_machine
from benchmarks.mixed_load import play
from benchmarks.mixed_report import Result, markdown
from edge_runtime.ledger.database import open_reader
from edge_runtime.ledger.ledger import now_us
from edge_runtime.ledger.queries import By, lines
from edge_runtime.ledger.reconcile_sql import calls
from edge_runtime.ledger.report import Line
from export_tools.certify.command import SALT, CertifyRequest, certify, keygen
from export_tools.certify.issue import Terms
from export_tools.certify.traffic import Example, Half, half, mixed, read_examples

MODEL = TASK = "intent-clinc150"
ENDPOINT = "intents"
PRICE_KEY = "gpt-4.1"
OOS_SHARE = 0.18
READY_TRIES, READY_TRY_S = 40, 3.0
SETTLE_S = 30.0
USUAL = {
    "wrong": 0.03,
    "refuse": 0.01,
    "off_label": 0.01,
    "rate_limit": 0.01,
    "server_error": 0.005,
    "stall": 0.005,
    "cut": 0.005,
    "stall_s": 10.0,
    "retry_after_s": 0.2,
    "first_token_s": 0.25,
}


@dataclass(frozen=True)
class Scenario:
    """One run: how the frontier behaves, and what the settings say besides the common ones."""

    name: str
    behaviour: dict[str, float] = field(default_factory=dict)
    settings: str = ""
    policy: str = "local-first"
    frontier_runs: bool = True
    again: bool = False
    """Send everything twice and count the second time only."""


SCENARIOS = (
    Scenario("as usual"),
    Scenario("everything to the frontier", policy="frontier-only"),
    Scenario("frontier down", frontier_runs=False),
    Scenario("frontier slow", {"first_token_s": 1.5, "stall": 0.1}),
    Scenario("budget of 0.03 a day", settings='[budgets]\nday = "0.03"\n'),
    Scenario("same again, exact cache", settings="[cache.exact]\nenabled = true\n", again=True),
)


@contextlib.contextmanager
def running(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process until the block ends."""
    with log.open("wb") as sink:
        process = subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT)
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_for(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    """Until the daemon is ready. Raises `RuntimeError` with its last words when it ends before."""
    for _ in range(READY_TRIES):
        with contextlib.suppress(HttpRoundError):
            asyncio.run(wait_until_ready(url, READY_TRY_S))
            return
        if process.poll() is not None:
            break
    raise RuntimeError(f"the daemon is not ready: {log.read_text('utf-8')[-500:]}")


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def prepare(bundle: Path, data: Path, work: Path) -> tuple[list[Example], str]:
    """Write key, certificate and frontier's table to `work`; the traffic, and what was proved."""
    folder = data / "clinc150"
    inside = (folder / "validation.jsonl",)
    outside = (folder / "oos_calibration.jsonl", folder / "oos_validation.jsonl")
    (work / "certificates").mkdir(parents=True)
    keygen(work / "signer")
    request = CertifyRequest(
        bundle=bundle,
        variant="int8",
        task=TASK,
        data=inside,
        oos=outside,
        oos_share=OOS_SHARE,
        score="margin",
        terms=Terms(alpha=0.05, delta=0.1, days=90),
        key=work / "signer",
        out=work / "certificates" / "intent.json",
    )
    made = certify(request, datetime.now(UTC))
    if made.certificate is None:
        raise typer.BadParameter("nothing could be certified on these data", param_hint="--data")
    examples = read_examples(inside) + read_examples(outside, out_of_scope=True)
    traffic = mixed(half(examples, Half.REPORT, salt=SALT), OOS_SHARE, salt=SALT)
    random.Random(0).shuffle(traffic)
    rows = [{"text": one.text, "intent": one.label or "none"} for one in traffic]
    (work / "table.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    kept = made.certificate
    return traffic, (
        f"certificate: margin >= {kept.threshold:.4f}, {kept.k} wrong of {kept.n} kept, "
        f"{kept.coverage:.1%} kept on its calibration half"
    )


def settings_file(path: Path, scenario: Scenario, work: Path, ports: tuple[int, int]) -> Path:
    """The daemon's settings of one scenario."""
    own, frontier = ports
    path.write_text(
        f"""
[server]
port = {own}

[store]
path = "{work / "store"}"

[ledger]
path = "{path.with_suffix(".db")}"

[certificates]
directory = "{work / "certificates"}"
trusted_keys = ["{work / "signer.pub"}"]

[frontiers.central]
base_url = "http://127.0.0.1:{frontier}/v1"
usage_url = "http://127.0.0.1:{frontier}/v1/generation?id={{call}}"
model = "{PRICE_KEY}"
connect_timeout_s = 1.0
total_timeout_s = 5.0
max_tries = 3
training_allowed = false

[endpoints.{ENDPOINT}]
models = ["{MODEL}"]
policy = "{scenario.policy}"
task = "{TASK}"

{scenario.settings}
""",
        "utf-8",
    )
    return path


def run_scenario(
    scenario: Scenario, traffic: list[Example], work: Path, daemon: list[str], rate: float
) -> Result:
    """Start both sides, play the traffic, read both books."""
    own, frontier = free_port(), free_port()
    slug = scenario.name.replace(" ", "-").replace(",", "")
    settings = settings_file(work / f"{slug}.toml", scenario, work, (own, frontier))
    behaviour = {**USUAL, **scenario.behaviour}
    stand_in = [
        sys.executable, "-m", "benchmarks.frontier_standin", "--table", str(work / "table.jsonl"),
        "--port", str(frontier if scenario.frontier_runs else 0),
        *(f"--{name.replace('_', '-')}={value}" for name, value in behaviour.items()),
        *("--prices", str(price_list()), "--price-key", PRICE_KEY),
    ]  # fmt: skip
    url = f"http://127.0.0.1:{own}"
    # What one scenario's watch has seen must not weigh on the next.
    shutil.rmtree(work / "store" / "watch", ignore_errors=True)
    command = [*daemon, "serve", "--config", str(settings)]
    with (
        running(stand_in, work / f"{slug}.frontier.log"),
        running(command, work / f"{slug}.daemon.log") as process,
    ):
        wait_for(process, url, work / f"{slug}.daemon.log")
        for _ in range(2 if scenario.again else 1):
            replies, _ = asyncio.run(play(url, ENDPOINT, traffic, rate=rate))
        before = ledger_nano(settings.with_suffix(".db"))
        guessed = wait_until_settled(settings.with_suffix(".db"))
        bill = asyncio.run(get_json(f"http://127.0.0.1:{frontier}/bill"))
    return Result(
        scenario.name,
        tuple(replies),
        ledger_nano(settings.with_suffix(".db")),
        before,
        guessed,
        int(bill.get("nano", 0)),
        int(bill.get("calls", 0)),
    )


def price_list() -> Path:
    """The list that comes with the package."""
    from edge_runtime.ledger import prices  # noqa: PLC0415 - only its place is wanted

    return next(Path(prices.__file__).parent.glob("prices-*.toml"))


async def get_json(url: str) -> dict[str, Any]:
    """A JSON object, or nothing where nobody listens."""
    async with aiohttp.ClientSession() as session:
        try:
            async with session.get(url) as response:
                found: dict[str, Any] = await response.json()
                return found
        except aiohttp.ClientConnectionError:
            return {}


def ledger_nano(path: Path) -> int:
    """What the ledger says the frontier cost."""
    with open_reader(path) as reader:
        return lines(reader, By.TOTAL).get("", Line()).frontier_nano


def wait_until_settled(path: Path) -> int:
    """Until nothing in the ledger is a guess, for `SETTLE_S` at most; how many calls still are."""
    until = time.monotonic() + SETTLE_S
    while True:
        with open_reader(path) as reader:
            guessed = sum(one.open for one in calls(reader, 0, now_us()))
        if not guessed or time.monotonic() > until:
            return guessed
        time.sleep(0.2)


def benchmark(  # noqa: PLR0917 - typer reads the command's options from the signature
    bundle: Annotated[Path, typer.Option(help="the intent classifier's bundle")],
    data: Annotated[Path, typer.Option(help="folder that holds clinc150/")],
    work: Annotated[Path, typer.Option(help="new folder for keys, store, settings and logs")],
    daemon: Annotated[str, typer.Option(help="how to call edge-runtime")] = "edge-runtime",
    rate: Annotated[float, typer.Option(help="requests a second")] = 100.0,
    limit: Annotated[int, typer.Option(help="requests a scenario; 0: all there are")] = 0,
    only: Annotated[str, typer.Option(help="run scenarios whose name holds this")] = "",
    json_out: Annotated[Path | None, typer.Option("--json")] = None,
    markdown_out: Annotated[Path | None, typer.Option("--markdown")] = None,
) -> None:
    """Run every scenario and print the table."""
    if work.exists():
        raise typer.BadParameter(f"{work} exists; remove it or choose another", param_hint="--work")
    command = shlex.split(daemon)
    traffic, certified = prepare(bundle, data, work.absolute())
    traffic = traffic[: limit or None]
    install = [*command, "install", str(bundle), "--store", str(work.absolute() / "store")]
    subprocess.run(install, check=True, stdout=subprocess.DEVNULL)
    results = []
    for scenario in SCENARIOS:
        if only in scenario.name:
            results.append(run_scenario(scenario, traffic, work.absolute(), command, rate))
            typer.echo(f"{scenario.name}: {results[-1].tally}", err=True)
    outside = sum(one.label is None for one in traffic)
    head = f"{len(traffic)} requests, {outside} out of scope, {rate:g} a second; {certified}"
    table = markdown(head, results, describe_machine(), SCENARIOS[1].name)
    typer.echo(table)
    if markdown_out is not None:
        markdown_out.write_text(table, "utf-8")
    if json_out is not None:
        json_out.write_text(
            json.dumps([one.as_json() for one in results], indent=1) + "\n", "utf-8"
        )


if __name__ == "__main__":
    typer.run(benchmark)

"""A real rollout: two real daemons under traffic among 38 simulated boxes, in three acts.

    python -m benchmarks.fleet_rollout --work build/rollout --data DIR

One process is the control host and the simulated boxes, mosquitto is the broker, and each daemon
is an `edge-runtime serve` of its own, enrolled as any box is, with the `assistant` bundle, its
certificate and a frontier stand-in. Each is asked utterances that training never saw, all the time.

1. A good release reaches all boxes in waves; no request fails.
2. A release with wrong golden answers is refused by every box that tries it; the guard halts.
3. A release that escalates four points more passes its golden answers and is taken; the guard on
   escalations halts it, and all boxes go back.

The clock of control host and simulated boxes is `--factor` times as fast; downloads, daemons,
sockets and the database are in real time. The exit status is 1 when anything does not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import structlog

from benchmarks.fleet_rollout_acts import (
    Act,
    Pace,
    Play,
    broken_release,
    good_release,
    worse_release,
)
from benchmarks.fleet_rollout_bundles import Releases, Utterances, make_releases
from benchmarks.fleet_rollout_cast import (
    MODEL,
    TENANT,
    Options,
    bodies_of,
    daemons_of,
    held_out,
    known,
    publish,
    settings_of,
    specs_of,
)
from benchmarks.fleet_rollout_report import markdown
from benchmarks.fleet_rollout_stage import broker
from benchmarks.frontier_answers import Behaviour, Oracle
from benchmarks.frontier_standin import StandIn
from benchmarks.machine import describe_machine
from edge_runtime.bundle.digests import model_digest
from fleet.demo_traffic import Traffic
from fleet.rehearsal import Cast, Rehearsal, Stage, rehearsal
from fleet.simulator.clock import FastClock
from fleet.simulator.world import Bundle, Flaws, World

HEARD_S: Final = 120.0


@dataclass
class Report:
    """What came of it. Seconds are real ones."""

    machine: dict[str, object]
    options: dict[str, Any]
    broker: str = ""
    prepared_s: float = 0.0
    took_s: float = 0.0
    noise: float = 0.0
    releases: list[dict[str, Any]] = field(default_factory=list)
    acts: list[Act] = field(default_factory=list)

    @property
    def failed(self) -> list[str]:
        """The checks that do not hold, with their act."""
        return [f"{act.title}: {name}" for act in self.acts for name in act.failed]


@contextlib.asynccontextmanager
async def playing(
    options: Options, releases: Releases, utterances: Utterances, report: Report
) -> AsyncIterator[tuple[Play, list[Bundle]]]:
    """Everything that runs: stand-in, broker, control host, boxes, traffic."""
    keys = await asyncio.to_thread(publish, releases, options.work)
    first, good, worse = (one.measured for one in (releases.first, releases.good, releases.worse))
    assert first is not None
    assert good is not None
    assert worse is not None
    shift = worse.escalates - good.escalates
    bundles = [
        known(releases.first), known(releases.good),
        known(releases.broken, Flaws(refused_share=1.0)),
        known(releases.worse, Flaws(escalation_shift=shift)),
    ]  # fmt: skip
    table = {one.text: one.label or "none" for one in utterances.loop}
    async with contextlib.AsyncExitStack() as stack:
        standin = StandIn(Oracle(table), Behaviour(wrong=0.0))
        frontier = await stack.enter_async_context(standin.serving())
        stage_of = await stack.enter_async_context(broker(options.work))
        report.broker = stage_of.name
        daemons = await asyncio.to_thread(daemons_of, options, releases.first, frontier, keys)
        cast = Cast(
            TENANT, specs_of(options, bundles[0], first.escalates),
            World.of(*bundles, seed=options.seed), daemons, options.seed,
        )  # fmt: skip
        settings = settings_of(options.work, stage_of.settings)
        stage = Stage(
            settings, FastClock(options.factor), stage_of.lines, stage_of.connector,
            stage_of.credentials,
        )  # fmt: skip
        fleet = await stack.enter_async_context(rehearsal(stage, cast))
        await fleet.heard_from_all(HEARD_S)
        play = Play(fleet, MODEL, Pace(options.factor), traffic_to(fleet, options, utterances))
        for traffic in play.traffic.values():
            fleet.beside(traffic.run())
        yield play, bundles


def traffic_to(fleet: Rehearsal, options: Options, utterances: Utterances) -> dict[str, Traffic]:
    """Steady requests to each daemon, by its principal."""
    return {
        f"{TENANT}~{daemon.name}": Traffic(
            daemon.url, "/v1/chat/completions", bodies_of(utterances.loop), 1 / options.rate
        )
        for daemon in fleet.daemons
    }


async def play_all(options: Options, releases: Releases, utterances: Utterances,
                   report: Report) -> None:  # fmt: skip
    """The three acts."""
    async with playing(options, releases, utterances, report) as (play, bundles):
        report.acts = play.acts
        first, good, broken, worse = bundles
        await play.fleet.wait(play.pace.window_s + play.pace.grace_s)
        await good_release(play, good, first)
        await broken_release(play, broken, good)
        # Both windows of the next act belong to one release.
        await play.fleet.wait(play.pace.window_s)
        await worse_release(play, worse, good)


def measure(options: Options) -> Report:
    """Prepare, play, report. `options.work` must not exist."""
    options.work.mkdir(parents=True)
    report = Report(describe_machine(), asdict(options))
    began_s = time.monotonic()
    utterances = Utterances.of(held_out(options.data), options.loop)
    releases = make_releases(options.bundle, utterances, options.work / "bundles")
    report.prepared_s = time.monotonic() - began_s
    report.noise = releases.noise
    for release in releases:
        told: dict[str, Any] = {"version": release.manifest.version}
        told["model_digest"] = model_digest(release.manifest, "int8")
        if release.measured is not None:
            certificate = release.measured.certificate
            told |= {name: value for name, value in asdict(release.measured).items()
                     if name != "certificate"}  # fmt: skip
            told |= {"threshold": certificate.threshold, "n": certificate.n, "k": certificate.k}
        report.releases.append(told)
    asyncio.run(play_all(options, releases, utterances, report))
    report.took_s = time.monotonic() - began_s
    return report


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="a new folder, kept")
    parser.add_argument("--data", type=Path, required=True, help="holds snips/train.jsonl")
    parser.add_argument("--bundle", type=Path, default=Options.bundle)
    parser.add_argument("--factor", type=float, default=10.0, help="simulated s in a real s")
    parser.add_argument("--rate", type=float, default=5.0, help="requests a s to each daemon")
    parser.add_argument("--loop", type=int, default=120, help="utterances that are repeated")
    parser.add_argument("--markdown", type=Path)
    return parser.parse_args(argv)


def main() -> None:
    """Run it; the exit status says whether everything held."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    asked = arguments(sys.argv[1:])
    options = Options(
        asked.work.resolve(), asked.data, asked.bundle, factor=asked.factor, rate=asked.rate,
        loop=asked.loop,
    )  # fmt: skip
    report = measure(options)
    print(json.dumps(asdict(report), indent=2, default=str))
    if asked.markdown is not None:
        asked.markdown.write_text(markdown(asdict(report)), "utf-8")
    if report.failed:
        raise SystemExit("does not hold: " + "; ".join(report.failed))


if __name__ == "__main__":
    main()

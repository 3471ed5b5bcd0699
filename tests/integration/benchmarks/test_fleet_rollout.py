"""The rollout benchmark in small: a real daemon and a few simulated boxes, two of its acts."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.fleet_rollout_acts import Pace, Play, broken_release, good_release
from benchmarks.fleet_rollout_bundles import add_noise
from benchmarks.fleet_rollout_cast import settings_of
from benchmarks.fleet_rollout_stage import broker
from edge_runtime.bundle.files import RealFiles
from fleet.demo_daemon import Daemon
from fleet.demo_traffic import Traffic
from fleet.rehearsal import Cast, Stage, rehearsal
from fleet.simulator.broker import free_port
from fleet.simulator.clock import FastClock
from fleet.simulator.tiny import GOLDEN_INPUT, publish_releases
from fleet.simulator.world import Flaws, World, make_spec
from tests.support.graphs import WEIGHTS, write_graph_bundle
from tests.support.services import SCRIPT, UNAVAILABLE, folder_for_anyone

NAME, TENANT, WHO = "tiny", "acme", "acme~real"
FACTOR = 60.0


@pytest.mark.timeout(180)
def test_a_real_daemon_takes_a_good_release_and_refuses_a_broken_one() -> None:
    have = subprocess.run([sys.executable, str(SCRIPT), "install"], check=False)
    if have.returncode == UNAVAILABLE:
        pytest.skip("TESTS WITH MOSQUITTO NOT RUN: it cannot be had here")
    with folder_for_anyone() as work:
        asyncio.run(play_in(work))


async def play_in(work: Path) -> None:
    refused = Flaws(refused_share=1.0)
    first, good, broken = publish_releases(work, NAME, (Flaws(), Flaws(), refused))
    daemon = Daemon("real", work / "real", free_port(), (work / "build-1",))
    specs = [
        make_spec(TENANT, number, model=NAME, serves=first.digest, telemetry_s=60.0)
        for number in range(5)
    ]
    cast = Cast(TENANT, specs, World.of(first, good, broken), (daemon,))
    async with broker(work) as found:
        settings = settings_of(work, found.settings)
        stage = Stage(settings, FastClock(FACTOR), found.lines)
        async with rehearsal(stage, cast) as fleet:
            await fleet.heard_from_all(60.0)
            body = {"model": NAME, "input": GOLDEN_INPUT}
            traffic = Traffic(daemon.url, "/v1/embeddings", (body,), 0.1)
            fleet.beside(traffic.run())
            pace = Pace(FACTOR, window_s=0.5, grace_s=0.1, bake_s=1.0, probation_s=1)
            play = Play(fleet, NAME, pace, {WHO: traffic})
            await fleet.wait(0.5)
            taken = await good_release(play, good, first, guarded=False)
            halted = await broken_release(play, broken, good)
    assert (taken.failed, halted.failed) == ([], []), (taken.traffic, halted.traffic)
    assert (taken.phase, halted.phase) == ("completed", "rolled_back")
    assert taken.traffic[WHO]["requests"] > 10
    assert halted.told["boxes begun"] >= 2


def test_noise_moves_int8_weights_and_nothing_else(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    manifest = write_graph_bundle(bundle, RealFiles(), 1)
    path = bundle / "int8" / "model.onnx_data"
    before = np.frombuffer(path.read_bytes(), np.int8)
    add_noise(bundle, manifest, 3.0)
    after = np.frombuffer(path.read_bytes(), np.int8)
    moved = after[: WEIGHTS.size].astype(int) - before[: WEIGHTS.size]
    assert 2.5 < moved.std() < 3.5
    assert (after[WEIGHTS.size :] == before[WEIGHTS.size :]).all()

"""The two processes of `fleet_scale`: the control host, and a swarm of boxes.

Each is told what to do by one JSON document (a file) and by lines on its standard input, and
answers with JSON lines. They are processes of their own so that their CPU and memory are theirs.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import structlog

from edge_runtime.agent.protocol import ENROL_PATH, EnrolAnswer
from fleet.api.server import listening
from fleet.rollout.states import Action
from fleet.serve import control_host
from fleet.settings import FleetSettings
from fleet.simulator.box import SimBox
from fleet.simulator.clock import FastClock
from fleet.simulator.faults import FaultRates
from fleet.simulator.joining import AT_ONCE, join, keys_of
from fleet.simulator.mqtt import Lines
from fleet.simulator.swarm import Swarm
from fleet.simulator.world import Bundle, World, make_spec

TENANT = "acme"
MODEL = "assistant"
Answer = Callable[[list[str]], Awaitable[dict[str, Any]]]


def tell(event: str, **more: Any) -> None:
    print(json.dumps({"event": event, **more}), flush=True)


async def obey(answer: Answer) -> None:
    """Answer each line of standard input; ends with `quit` or the end of it."""
    loop, reader = asyncio.get_running_loop(), asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while (line := (await reader.readline()).decode().strip()) not in ("", "quit"):
        words = line.split()
        tell(words[0], **await answer(words))


async def control(job: dict[str, Any]) -> None:
    clock = FastClock(**job["clock"])
    settings = FleetSettings.model_validate(job["settings"])
    async with control_host(settings, now=clock.now_s) as host, listening(host.services) as url:
        running = asyncio.create_task(host.run())
        tell("listening", url=url)
        service = host.services.rollouts

        async def answer(words: list[str]) -> dict[str, Any]:
            match words:
                case ["file", path]:
                    text = await asyncio.to_thread(Path(path).read_text)
                    page = await service.file(text, "benchmark")
                    await service.order(page.id, Action.APPROVE, "benchmark", "")
                    return {"id": page.id}
                case ["page", rollout]:
                    page = await service.page(rollout)
                    waves = [wave.model_dump() for wave in page.waves_by_status]
                    history = [
                        (entry.after, entry.wave, entry.at_s, entry.reason)
                        for entry in page.history
                    ]
                    return {"phase": page.phase, "waves": waves, "history": history}
                case _:
                    return {"counts": dict(host.ingest.stats.counts),
                            "connections": host.link.connections,
                            "inbox": host.link.inbox.qsize()}  # fmt: skip

        await obey(answer)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def swarm(job: dict[str, Any]) -> None:
    clock = FastClock(**job["clock"])
    bundles = [Bundle(*parts) for parts in job["bundles"]]
    world = World.of(*bundles, seed=job["seed"])
    specs = [
        make_spec(TENANT, number, model=MODEL, serves=bundles[0].digest,
                  telemetry_s=job["telemetry_s"], report_spread_s=job["spread_s"])
        for number in job["numbers"]
    ]  # fmt: skip
    tell("ready")
    connector = aiohttp.TCPConnector(limit=AT_ONCE)
    async with aiohttp.ClientSession(job["url"], connector=connector) as session:

        async def ask(body: bytes) -> EnrolAnswer:
            headers = {"content-type": "application/json"}
            async with session.post(ENROL_PATH, data=body, headers=headers) as response:
                response.raise_for_status()
                return EnrolAnswer.from_bytes(await response.read())

        grants = await join(specs, job["claims"], ask)
    tell("enrolled", boxes=len(grants))
    rates = FaultRates.model_validate(job["faults"])
    boxes = [
        SimBox(spec, world, rates, keys_of(grants[spec.principal]), seed=job["seed"],
               now_s=clock.now_s())
        for spec in specs
    ]  # fmt: skip
    passwords = {name: grant.broker.password for name, grant in grants.items()}
    crowd = Swarm(boxes, passwords, Lines("127.0.0.1", job["port"]), clock, job["connects_per_s"])
    running = asyncio.create_task(crowd.run())

    async def answer(words: list[str]) -> dict[str, Any]:
        if running.done():
            running.result()
        if words == ["made"]:
            # A box that fell silent for good keeps its rows: they are held back, not lost.
            silent = [box for box in boxes if box.powered and not box.wants_link]
            made = {
                f"{box.spec.principal} {boot}": count
                for box in boxes
                if box not in silent
                for boot, count in box.stored.spool.made.items()
            }
            return {"made": made, "evicted": sum(box.stored.spool.evicted for box in boxes),
                    "silent_boxes": len(silent),
                    "held_back": sum(len(box.stored.spool) for box in silent)}  # fmt: skip
        return {"connected": crowd.connected, "counts": dict(crowd.counts),
                "refused": sum(box.refused for box in boxes),
                "foreign": crowd.lines.foreign}  # fmt: skip

    await obey(answer)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


def main(role: str, path: str) -> None:
    level = structlog.make_filtering_bound_logger(logging.ERROR)
    structlog.configure(
        wrapper_class=level, logger_factory=structlog.PrintLoggerFactory(sys.stderr)
    )
    job = json.loads(Path(path).read_text())
    asyncio.run({"control": control, "swarm": swarm}[role](job))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])

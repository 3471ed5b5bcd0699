"""A whole fleet of simulated boxes against mosquitto on loopback.

Boxes enrol over HTTP, connect (one TCP connection each) and send telemetry every five simulated
minutes. A bundle is rolled out in four waves; in the middle the broker is killed (SIGKILL) and
started again a few seconds later. In the end every row that a box ever made must be in the
database (with `--faults`, but for those of boxes that fell silent for good, which hold them).

    python -m benchmarks.fleet_scale --boxes 200 --factor 60

Broker, sockets and database run in real time; waits, bake times and telemetry intervals on a clock
that is `--factor` times as fast. Ten thousand boxes need 10,000 file descriptors in the swarm's
process and in the broker's (`ulimit -n`).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

from benchmarks.fleet_scale_roles import MODEL, TENANT
from benchmarks.machine import describe_machine
from edge_runtime.bundle.canonical import canonical_bytes
from fleet.db.database import Database, open_database
from fleet.db.tables_telemetry import telemetry_rows
from fleet.enrol.broker import acl_file, password_file
from fleet.enrol.mosquitto import BrokerPlaces, mosquitto_conf
from fleet.enrol.secrets import RootSecret, mosquitto_hash
from fleet.rollout.states import ENDED
from fleet.simulator.clock import FastClock
from fleet.simulator.faults import EVERYTHING, NO_FAULTS
from fleet.simulator.joining import make_claims
from fleet.simulator.tiny import publish_two
from fleet.simulator.world import make_spec

ROOT = Path(__file__).resolve().parents[1]
CONTROL = "control"
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PLAN = """
name = "{name} 2"
[change]
name = "{name}"
digest = "{digest}"
[waves]
shares = {shares}
least_boxes = {least}
deadline_hours = {deadline}
[times]
bake_hours = {bake}
silent_after_min = {silent}
[probation]
length_s = 300
"""


@dataclass(frozen=True)
class Options:
    """See `--help`; hours and seconds of boxes are simulated ones."""

    boxes: int = 200
    factor: float = 30.0
    processes: int = 1
    telemetry_s: float = 300.0
    bake_hours: float = 0.25
    outage_s: float = 3.0
    connects_per_s: float = 300.0
    limit_s: float = 1800.0
    seed: int = 1
    faults: bool = False
    kill: bool = True
    join_only: bool = False
    database: str | None = None


@dataclass
class Report:
    """Seconds are real ones unless they say otherwise; CPU shares are of one core."""

    options: dict[str, Any]
    machine: dict[str, object]
    phase: str = ""
    enrol_s: float = 0.0
    connect_s: float = 0.0
    rollout_s: float = 0.0
    rollout_simulated_h: float = 0.0
    reconnect_s: float = 0.0
    messages: int = 0
    messages_per_s: float = 0.0
    control_cpu_share: float = 0.0
    control_rss_mib: float = 0.0
    swarm_cpu_share: float = 0.0
    swarm_rss_mib: float = 0.0
    broker_cpu_share: float = 0.0
    rows_made: int = 0
    rows_lost: int = 0
    rows_evicted: int = 0
    rows_held_back: int = 0
    silent_boxes: int = 0
    duplicate_rows: int = 0
    refused_messages: int = 0
    foreign_messages: int = 0
    control_counts: dict[str, int] = field(default_factory=dict)
    history: list[Any] = field(default_factory=list)
    waves: list[Any] = field(default_factory=list)


class Role:
    """A process that answers lines with JSON lines."""

    def __init__(self, role: str, job: dict[str, Any], folder: Path) -> None:
        path = folder / f"{role}-{time.monotonic_ns()}.json"
        path.write_bytes(canonical_bytes(job))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.fleet_scale_roles", role, str(path)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        )  # fmt: skip

    def heard(self, event: str) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"a process ended with {self.process.wait()} before {event}")
        found: dict[str, Any] = json.loads(line)
        assert found["event"] == event, found
        return found

    def ask(self, line: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.heard(line.split(maxsplit=1)[0])

    def end(self) -> None:
        with contextlib.suppress(OSError):
            assert self.process.stdin is not None
            self.process.stdin.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


class Broker:
    """mosquitto with the configuration that this project recommends."""

    def __init__(self, folder: Path, control_hash: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self.places = BrokerPlaces(
            "127.0.0.1", self.port, folder / "passwords", folder / "acl", folder, folder / "pid"
        )
        self.places.passwords.write_text(password_file({CONTROL: control_hash}))
        self.places.acl.write_text(acl_file(CONTROL))
        self.config = folder / "mosquitto.conf"
        self.config.write_text("user root\n" + mosquitto_conf(self.places))
        self.cpu_before_s = 0.0
        self.start()

    def start(self) -> None:
        script = [sys.executable, str(ROOT / "scripts" / "test-services"), "mosquitto"]
        self.process = subprocess.Popen([*script, "--config", str(self.config)])
        end_s = time.monotonic() + 60
        while time.monotonic() < end_s and self.process.poll() is None:
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", self.port), 1),
            ):
                return
            time.sleep(0.05)
        raise SystemExit(self.process.poll() or 1)

    def kill(self) -> None:
        self.cpu_before_s += used(self.process.pid)[0]
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def used(pid: int) -> tuple[float, float]:
    """CPU seconds so far, and the largest resident set in MiB."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    peak = Path(f"/proc/{pid}/status").read_text().split("VmHWM:")[1].split()[0]
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S, int(peak) / 1024


def measure(options: Options) -> Report:
    report = Report(asdict(options), describe_machine())
    folder = Path(tempfile.mkdtemp(prefix="fleet-scale-"))
    folder.chmod(0o755)
    try:
        with contextlib.ExitStack() as stack:
            _run(options, report, folder, stack)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return report


def _run(options: Options, report: Report, folder: Path, stack: contextlib.ExitStack) -> None:
    clock = FastClock(options.factor)
    old, new = publish_two(folder, MODEL)
    secret = RootSecret.load(folder / "state" / "root-secret")
    broker = Broker(folder, mosquitto_hash(secret.derive("control", CONTROL)))
    stack.callback(broker.kill)
    url = options.database or f"sqlite:///{folder / 'fleet.db'}"
    database = open_database(url)
    stack.callback(database.close)
    numbers = list(range(options.boxes))
    specs = [make_spec(TENANT, number) for number in numbers]
    claims = database.write_now(lambda c: make_claims(c, specs, now_s=clock.now_s()))
    times = {"factor": clock.factor, "start_s": clock.start_s, "zero_s": clock.zero_s}
    settings = _settings(folder, broker, url)
    control = Role("control", {"clock": times, "settings": settings}, folder)
    stack.callback(control.end)
    api = control.heard("listening")["url"]

    swarms = []
    for share in range(options.processes):
        mine = numbers[share :: options.processes]
        job = {
            "clock": times, "numbers": mine, "claims": claims[share :: options.processes],
            "bundles": [[b.digest, b.model_digest, b.version, b.release] for b in (old, new)],
            "seed": options.seed, "telemetry_s": options.telemetry_s,
            "spread_s": 60.0, "url": api, "port": broker.port,
            "connects_per_s": options.connects_per_s / options.processes,
            "faults": (EVERYTHING if options.faults else NO_FAULTS).model_dump(),
        }  # fmt: skip
        swarms.append(Role("swarm", job, folder))
        stack.callback(swarms[-1].end)
    for one in swarms:
        one.heard("ready")
    began_s = time.monotonic()
    for one in swarms:
        one.heard("enrolled")
    report.enrol_s = time.monotonic() - began_s
    _wait(lambda: control.ask("stats")["counts"].get("reports", 0) >= options.boxes, options)
    report.connect_s = time.monotonic() - began_s - report.enrol_s
    if options.join_only:
        report.phase = "joined"
        return

    _roll_out(options, report, folder, (control, swarms, broker, new.digest))
    _account(options, report, (control, swarms, database))


def _roll_out(
    options: Options, report: Report, folder: Path, parts: tuple[Role, list[Role], Broker, str]
) -> None:
    control, swarms, broker, digest = parts
    small = options.boxes < 400
    least = max(1, options.boxes // 4) if small else 20
    plan = folder / "plan.toml"
    plan.write_text(
        PLAN.format(
            name=MODEL, digest=digest, bake=options.bake_hours, least=least,
            # Reconnecting takes real time: at least a minute of it is no silence, nor too late.
            silent=max(45.0, options.factor), deadline=max(1.0, options.factor / 60),
            shares=[0.1, 0.3, 0.6, 1.0] if small else [0.01, 0.1, 0.5, 1.0],
        )
    )  # fmt: skip
    before = control.ask("stats")["counts"]["messages"]
    cpu = {one: used(one.process.pid)[0] for one in (control, *swarms)}
    broker_cpu_s = used(broker.process.pid)[0]
    began_s = time.monotonic()
    rollout = control.ask(f"file {plan}")["id"]
    killed = not options.kill
    while True:
        page = control.ask(f"page {rollout}")
        report.phase = page["phase"]
        working = [wave for wave in page["waves"] if wave["wave"] >= 3 and wave["open"]]
        if not killed and working:
            report.reconnect_s = _kill_broker(options, control, swarms, broker)
            killed = True
        if page["phase"] in [one.value for one in ENDED]:
            break
        if time.monotonic() - began_s > options.limit_s:
            raise SystemExit(f"the rollout is still {page['phase']}: {page['history'][-1]}")
        time.sleep(0.5)
    took_s = time.monotonic() - began_s
    report.rollout_s, report.rollout_simulated_h = took_s, took_s * options.factor / 3600
    report.history = [
        [entry[0], entry[1], round(entry[2] - page["history"][0][2]), entry[3]]
        for entry in page["history"]
    ]
    report.waves = page["waves"]
    report.messages = control.ask("stats")["counts"]["messages"] - before
    report.messages_per_s = report.messages / took_s
    report.control_cpu_share = (used(control.process.pid)[0] - cpu[control]) / took_s
    report.swarm_cpu_share = sum(used(one.process.pid)[0] - cpu[one] for one in swarms) / took_s
    spent_s = broker.cpu_before_s + used(broker.process.pid)[0]
    report.broker_cpu_share = (spent_s - broker_cpu_s) / took_s


def _kill_broker(options: Options, control: Role, swarms: list[Role], broker: Broker) -> float:
    """Kill it, start it again; how long until everybody who was connected is again."""
    before = sum(one.ask("status")["connected"] for one in swarms)
    broker.kill()
    time.sleep(options.outage_s)
    broker.start()
    began_s, number = time.monotonic(), control.ask("stats")["connections"]
    goal = before * 0.98  # with faults some are always away
    _wait(lambda: sum(one.ask("status")["connected"] for one in swarms) >= goal, options)
    _wait(lambda: control.ask("stats")["connections"] > number or number > 1, options)
    return time.monotonic() - began_s


def _account(options: Options, report: Report, parts: tuple[Role, list[Role], Database]) -> None:
    """Every row that was made by now must come in; boxes go on meanwhile."""
    control, swarms, database = parts
    made: dict[str, int] = {}
    for one in swarms:
        told = one.ask("made")
        made |= told["made"]
        report.rows_evicted += told["evicted"]
        report.rows_held_back += told["held_back"]
        report.silent_boxes += told["silent_boxes"]
    patience_s = 60 + 6 * options.telemetry_s / options.factor
    end_s = time.monotonic() + patience_s
    while (lost := _missing(database, made)) and time.monotonic() < end_s:
        time.sleep(1.0)
    report.rows_made, report.rows_lost = sum(made.values()), lost
    counts = control.ask("stats")["counts"]
    report.control_counts = counts
    report.duplicate_rows = counts.get("duplicate_rows", 0)
    report.control_rss_mib = used(control.process.pid)[1]
    report.swarm_rss_mib = sum(used(one.process.pid)[1] for one in swarms)
    for one in swarms:
        status = one.ask("status")
        report.refused_messages += status["refused"]
        report.foreign_messages += status["foreign"]


def _missing(database: Database, made: dict[str, int]) -> int:
    table = telemetry_rows.c
    query = select(table.principal, table.boot, func.count()).group_by(table.principal, table.boot)
    found = {
        f"{principal} {boot}": count
        for principal, boot, count in database.read_now(lambda c: c.execute(query).all())
    }
    return sum(max(0, count - found.get(name, 0)) for name, count in made.items())


def _wait(done: Any, options: Options) -> None:
    end_s = time.monotonic() + options.limit_s
    while not done():
        if time.monotonic() > end_s:
            raise SystemExit("it takes too long")
        time.sleep(0.25)


def _settings(folder: Path, broker: Broker, url: str) -> dict[str, Any]:
    return {
        "state": {"dir": str(folder / "state")},
        "database": {"url": url},
        "api": {"port": 0, "enrol_per_s": 10_000},
        "broker": {
            "port": broker.port,
            "public_port": broker.port,
            "user": CONTROL,
            "passwords_file": str(broker.places.passwords),
            "acl_file": str(broker.places.acl),
            "pid_file": str(broker.places.pid),
            "max_queued_messages": 100_000,
        },
        "publish": {
            "repository": str(folder / "repository"),
            "keys": [str(folder / "keys" / "online")],
        },
        "ingest": {"raw_days": 365},
    }


def arguments(argv: list[str]) -> Iterator[tuple[str, Any]]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    known = Options()
    parser.add_argument("--boxes", type=int, default=known.boxes)
    parser.add_argument(
        "--factor", type=float, default=known.factor, help="simulated s in a real s"
    )
    parser.add_argument("--processes", type=int, default=known.processes, help="of boxes")
    parser.add_argument("--telemetry-s", type=float, default=known.telemetry_s, help="simulated")
    parser.add_argument("--bake-hours", type=float, default=known.bake_hours, help="simulated")
    parser.add_argument("--outage-s", type=float, default=known.outage_s, help="without a broker")
    parser.add_argument("--connects-per-s", type=float, default=known.connects_per_s)
    parser.add_argument("--limit-s", type=float, default=known.limit_s)
    parser.add_argument("--seed", type=int, default=known.seed)
    parser.add_argument("--faults", action="store_true", help="some of every fault")
    parser.add_argument("--no-kill", dest="kill", action="store_false")
    parser.add_argument("--join-only", action="store_true", help="end once all are connected")
    parser.add_argument("--database", help="postgresql://...; without: SQLite in a new folder")
    yield from vars(parser.parse_args(argv)).items()


def main() -> None:
    report = measure(Options(**dict(arguments(sys.argv[1:]))))
    print(json.dumps(asdict(report), indent=2, default=str))
    if report.rows_lost or report.phase not in {"completed", "joined"}:
        raise SystemExit(f"phase {report.phase}, {report.rows_lost} rows lost")


if __name__ == "__main__":
    main()

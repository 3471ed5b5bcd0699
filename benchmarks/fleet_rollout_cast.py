"""Who takes part in `fleet_rollout`, and what is published to them.

Rules
- Simulated boxes stand on ten kinds of hardware, four of each: then the first half of the boxes
  holds one real daemon, and the other real daemon, unchanged, is its partner.
- Simulated boxes fetch as slowly as it takes real ones to fetch and load, so that neither kind
  decides alone.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from benchmarks.fleet_rollout_bundles import TASK, Release, Releases
from benchmarks.fleet_rollout_stage import CONTROL
from edge_runtime.agent.protocol import Hardware
from edge_runtime.bundle.certificate import sign_certificate
from edge_runtime.bundle.digests import bundle_digest, model_digest
from edge_runtime.bundle.envelope import public_pem
from edge_runtime.bundle.targets import model_role
from export_tools.certify.traffic import Example, answer_of, read_examples
from export_tools.train.data import read_examples as read_labelled
from export_tools.train.data import split_examples
from export_tools.train.recipe import load_train_config
from fleet.demo_daemon import Daemon
from fleet.publish.initial import initialise
from fleet.publish.publish import Publisher, role_keys
from fleet.publish.repository import Repository
from fleet.settings import FleetSettings
from fleet.simulator.broker import free_port
from fleet.simulator.world import NO_FLAWS, BoxSpec, Bundle, Flaws, make_spec

ROOT: Final = Path(__file__).resolve().parents[1]
MODEL: Final = "assistant"
ENDPOINT: Final = "commands"
TENANT: Final = "acme"
CPU_MODELS: Final = 10
DAEMON_SETTINGS: Final = """
[engine]
threads = 1

[certificates]
directory = "{certificates}"
trusted_keys = ["{keys}"]

[frontiers.central]
base_url = "{frontier}"
model = "gpt-4.1"
training_allowed = false

[endpoints.{endpoint}]
models = ["{model}"]
policy = "local-first"
task = "{task}"

# The fleet's guard is what is tried here, so the box only tells of drift.
[watch.drift]
suspend = false
"""


@dataclass(frozen=True)
class Options:
    """See `--help`. `rate`: requests a second to each daemon; they repeat `loop` utterances."""

    work: Path
    data: Path
    bundle: Path = ROOT / "models" / MODEL / "bundle"
    boxes: int = 38
    daemons: int = 2
    factor: float = 10.0
    rate: float = 5.0
    loop: int = 120
    seed: int = 1


def held_out(data: Path) -> list[Example]:
    """Utterances of `data`/snips/train.jsonl that the bundle's recipe keeps out of training."""
    path = data / "snips" / "train.jsonl"
    config = load_train_config(ROOT / "models" / MODEL / "recipe.toml")
    unseen = {example.text for example in split_examples(read_labelled(path), config.split).heldout}
    return [one for one in read_examples([path], right=answer_of) if one.text in unseen]


def publish(releases: Releases, work: Path) -> Path:
    """Publish all bundles and certificates; the public key of who signed the certificates."""
    repository = Repository(work / "repository")
    now = datetime.now(UTC)
    ring = initialise(repository, work / "keys", now=now, models=[MODEL])
    publisher = Publisher(repository, ring, now)
    (signer,) = (ring.keys[one] for one in role_keys(repository, model_role(MODEL)))
    for release in releases:
        publisher.bundle(release.directory)
        if release.measured is not None:
            publisher.certificate(MODEL, sign_certificate(release.measured.certificate, signer))
    path = work / "publisher.pub"
    path.write_bytes(public_pem(signer.public_key()))
    # What serves from the start has its certificate from the start.
    assert releases.first.measured is not None
    (work / "first.json").write_bytes(sign_certificate(releases.first.measured.certificate, signer))
    return path


def known(release: Release, flaws: Flaws = NO_FLAWS) -> Bundle:
    """A release as simulated boxes see it."""
    manifest = release.manifest
    return Bundle(
        bundle_digest(manifest), model_digest(manifest, "int8"), manifest.version,
        manifest.release, flaws,
    )  # fmt: skip


def specs_of(options: Options, serves: Bundle, escalates: float) -> list[BoxSpec]:
    """Simulated boxes on ten kinds of hardware, so that each real daemon has its like in a wave."""
    found = []
    for number in range(options.boxes):
        spec = make_spec(
            TENANT, number, model=MODEL, serves=serves.digest, escalates=escalates,
            requests_per_s=100.0, telemetry_s=2 * options.factor, link_bytes_s=1.2e5,
        )  # fmt: skip
        hardware = _on(f"simulated CPU {number % CPU_MODELS}", spec.hardware)
        found.append(replace(spec, hardware=hardware))
    return found


def _on(cpu_model: str, hardware: Hardware) -> Hardware:
    """The same machine with another CPU, which can run the bundle."""
    features = (*hardware.cpu_features, "vnni")
    return hardware.model_copy(update={"cpu_model": cpu_model, "cpu_features": features})


def daemons_of(options: Options, first: Release, frontier: str, keys: Path) -> list[Daemon]:
    """The real boxes, each in a folder of its own."""
    found = []
    for number in range(options.daemons):
        directory = options.work / f"daemon-{number}"
        certificates = directory / "certificates"
        certificates.mkdir(parents=True)
        shutil.copy(options.work / "first.json", certificates)
        settings = DAEMON_SETTINGS.format(
            certificates=certificates, keys=keys, frontier=frontier, endpoint=ENDPOINT,
            model=MODEL, task=TASK,
        )  # fmt: skip
        found.append(Daemon(f"real-{number}", directory, free_port(), (first.directory,), settings))
    return found


def settings_of(work: Path, broker_settings: dict[str, Any]) -> FleetSettings:
    """The control host's, with everything below `work`."""
    port = free_port()
    return FleetSettings.model_validate(
        {
            "state": {"dir": work / "state"},
            "database": {"url": f"sqlite:///{work / 'fleet.db'}"},
            "api": {"port": port, "public_url": f"http://127.0.0.1:{port}"},
            "broker": {"user": CONTROL, **broker_settings},
            "publish": {"repository": work / "repository", "keys": [work / "keys" / "online"]},
            "ingest": {"commit_wait_ms": 50},
        }
    )


def bodies_of(loop: Sequence[Example]) -> list[dict[str, Any]]:
    """Requests as a product would send them."""
    return [
        {"model": ENDPOINT, "messages": [{"role": "user", "content": one.text}]} for one in loop
    ]

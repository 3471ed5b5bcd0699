"""What there is to install in a simulation, and what is wrong with it.

Rules
- A bundle's flaws show only where a real one's would: in a refusal to load, in crashes, in wrong
  golden answers, in the counts of telemetry. Nothing tells the control host but the protocol.
- Which boxes a partial flaw hits follows from the seed, the box and the bundle: the same ones in
  every run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from edge_runtime.agent.protocol import Hardware, Versions

GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Flaws:
    """How a bundle is worse than it should be.

    `refused_on`, `golden_on`, `crashes_on`: CPU models on which it does not load, answers its
    golden inputs wrong while it serves, ends the daemon. `*_share`: the same on that share of all
    boxes. `escalation_shift` and `error_share` are added to the shares of every box, `slower`
    multiplies the seconds of a request.
    """

    refused_on: frozenset[str] = frozenset()
    golden_on: frozenset[str] = frozenset()
    crashes_on: frozenset[str] = frozenset()
    refused_share: float = 0.0
    golden_share: float = 0.0
    crash_share: float = 0.0
    crash_after_s: float = 120.0
    escalation_shift: float = 0.0
    error_share: float = 0.0
    slower: float = 1.0


NO_FLAWS = Flaws()


@dataclass(frozen=True, slots=True)
class Bundle:
    """One release as a simulated box sees it."""

    digest: str
    model_digest: str
    version: str = "1.0.0"
    release: int = 1
    flaws: Flaws = NO_FLAWS


def simulated_bundle(name: str, release: int, flaws: Flaws = NO_FLAWS) -> Bundle:
    """A bundle that exists in a simulation only; its digests follow from name and release."""

    def digest(of: str) -> str:
        return hashlib.sha256(f"{of}/{name}/{release}".encode()).hexdigest()

    return Bundle(digest("bundle"), digest("model"), f"{release}.0.0", release, flaws)


@dataclass(frozen=True, slots=True)
class World:
    """All bundles by digest, published or served; `seed` decides whom partial flaws hit."""

    bundles: Mapping[str, Bundle] = field(default_factory=dict)
    seed: int = 0

    @classmethod
    def of(cls, *bundles: Bundle, seed: int = 0) -> World:
        """A world of these."""
        return cls({bundle.digest: bundle for bundle in bundles}, seed)

    def flaws(self, digest: str | None) -> Flaws:
        """Those of a bundle; of an unknown one none."""
        bundle = self.bundles.get(digest or "")
        return NO_FLAWS if bundle is None else bundle.flaws

    def refuses(self, digest: str, principal: str, cpu_model: str) -> bool:
        """Whether this box cannot load it."""
        flaws = self.flaws(digest)
        return cpu_model in flaws.refused_on or self._hit(
            "refused", digest, principal, flaws.refused_share
        )

    def answers_wrong(self, digest: str, principal: str, cpu_model: str) -> bool:
        """Whether its golden answers go wrong on this box."""
        flaws = self.flaws(digest)
        return cpu_model in flaws.golden_on or self._hit(
            "golden", digest, principal, flaws.golden_share
        )

    def crashes(self, digest: str | None, principal: str, cpu_model: str) -> bool:
        """Whether it ends the daemon of this box."""
        flaws = self.flaws(digest)
        return cpu_model in flaws.crashes_on or self._hit(
            "crash", digest or "", principal, flaws.crash_share
        )

    def _hit(self, flaw: str, digest: str, principal: str, share: float) -> bool:
        if share <= 0:
            return False
        text = f"{self.seed}/{flaw}/{digest}/{principal}".encode()
        drawn = int.from_bytes(hashlib.sha256(text).digest()[:8], "big") / 2**64
        return drawn < share


@dataclass(frozen=True, slots=True)
class BoxSpec:
    """A simulated machine and how it is set up.

    `serves` is the digest it serves from the start under `model`. `requests_per_s` are
    simulated seconds', `escalates` the share that goes to the frontier with a flawless bundle.
    """

    principal: str
    hardware: Hardware
    versions: Versions
    model: str = "assistant"
    serves: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    requests_per_s: float = 0.5
    escalates: float = 0.12
    link_bytes_s: float = 2e6
    disk_free_bytes: int = 8 * GIB
    telemetry_s: float = 300.0
    report_spread_s: float = 5.0
    report_every_s: float = 86_400.0
    spool_rows: int = 2000


CPU_MODELS = ("Intel Atom x6425E", "Intel Core i5-1245UE", "AMD Ryzen V1500B", "Intel N100")
SITES = ("berlin", "oslo", "porto", "turin", "graz")


def make_spec(tenant: str, number: int, **changes: object) -> BoxSpec:
    """The `number`th box of a varied fleet; the same number is the same machine each time."""
    cpu_model = CPU_MODELS[number % len(CPU_MODELS)]
    values: dict[str, object] = {
        "principal": f"{tenant}~box-{number:05d}",
        "hardware": Hardware(
            arch="x86_64",
            cpu_model=cpu_model,
            cores=4,
            cpu_features=("avx2", "fma"),
            memory_bytes=(8 if number % 3 else 16) * GIB,
            disk_total_bytes=64 * GIB,
        ),
        "versions": Versions(daemon="0.1.0", onnxruntime="1.32.0", python="3.11", os="simulated"),
        "labels": {"site": SITES[(number // len(CPU_MODELS)) % len(SITES)]},
    }
    return BoxSpec(**{**values, **changes})  # type: ignore[arg-type]

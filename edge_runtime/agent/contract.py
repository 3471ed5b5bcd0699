"""What the agent needs of trust, downloads and the daemon; each border has an in-memory twin.

Rules
- The agent asks `TrustGate` before a byte is fetched, and again before it activates.
- `BlobFetcher` returns only what is whole, verified against the signed digests, and durable.
- Errors tell the agent what to do: `BundleError` gives the generation up, `MetadataExpired` and
  `TransportError` and `CapacityError` wait, `NoDeltaError` follows the item's `delta_fallback`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edge_runtime.agent.protocol import WantItem
from edge_runtime.bundle.activation import Committed, Refused
from edge_runtime.bundle.envelope import TrustedKeys
from edge_runtime.errors import EdgeError, TransportError

Progress = Callable[[int, int], None]
"""Called with bytes done and bytes in all; cheap, never raises, from any thread."""


class MetadataExpiredError(TransportError):
    """Trust metadata is past its date and no fresh one was to be had: nothing new is installed.

    What serves already goes on. Set the clock, or let the box reach its control host.
    """


class NoDeltaError(EdgeError):
    """No delta from what this box has leads to the wanted bytes."""


@dataclass(frozen=True, slots=True)
class Trusted:
    """What signed metadata says about a wanted digest.

    `size` in bytes of the target file (for bundles the manifest, whose sha256 is the bundle
    digest). `release` and `release_floor` are the signed ones; the want must agree with them.
    """

    digest: str
    size: int
    release: int
    release_floor: int


class TrustGate(Protocol):
    """Trust metadata as this box holds it. Keeps it across restarts."""

    def want_keys(self) -> TrustedKeys:
        """Who may sign `want` and `do` now. No I/O."""

    async def verify(self, item: WantItem, *, now_s: int | None) -> Trusted:
        """Whether signed metadata agrees with a wanted item; fetches newer metadata if it can.

        `now_s` is UTC where the box knows it. Raises `BundleError` when the item is not trusted,
        `MetadataExpiredError`, or `TransportError` when nothing usable could be fetched.
        """


@dataclass(frozen=True, slots=True)
class FetchJob:
    """One download. `directory` is the fetcher's alone and keeps what is done across restarts.

    `base` is the active bundle's directory, for deltas. `full_allowed`: whether everything may
    be fetched where no delta fits. `rate_bytes_s` None: as fast as it comes.
    """

    item: WantItem
    trusted: Trusted
    sources: tuple[str, ...]
    directory: Path
    base: Path | None
    full_allowed: bool
    rate_bytes_s: int | None


class BlobFetcher(Protocol):
    """Resumable, block-verified downloads."""

    async def fetch(self, job: FetchJob, progress: Progress) -> Path:
        """The path of what was wanted: the folder of a bundle or release, the file of settings.

        Goes on where an earlier call, or process, stopped. Cancelling stops within a block.
        Raises `BundleError` for bytes that are not the signed ones from every source,
        `TransportError`, `CapacityError` when the disk is too full, `NoDeltaError`.
        """


class Activator(Protocol):
    """The serving side: the activation contract while requests run. See `host.Host`."""

    async def activate(self, name: str, digest: str) -> Committed | Refused:
        """Serve `name` from a staged bundle; requests in progress end on the old one."""

    async def revert(self, name: str) -> Committed | Refused:
        """Serve `name` from its previous bundle again."""

"""`Trust`: the agent's `TrustGate` over python-tuf metadata.

Rules
- Sources are asked in order until one vouches for what is wanted. Where none can be used, what was
  accepted before and has not expired still decides: a box off the network installs what it knows.
- A target is believed when its signed sha256 is the wanted digest and its signed release the
  wanted release.
- A date is judged by the time the caller knows, if it does, as well as by the system clock.
- Keys for envelopes come from the delegations of the accepted targets metadata.

Example::

    trust = Trust(TrustState(directory, files, grant_root), sources, grant_keys)
    trusted = await trust.verify(item, now_s=now_s)
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import structlog
from pydantic import ValidationError
from tuf.api.metadata import Metadata, Root, Signed, Snapshot, TargetFile, Targets, Timestamp

from edge_runtime.agent.contract import MetadataExpiredError, Trusted
from edge_runtime.agent.protocol import ItemKind, WantItem
from edge_runtime.agent.trust.client import Limits, cached, run_round
from edge_runtime.agent.trust.sources import MetadataSource
from edge_runtime.agent.trust.state import Accepted, TrustState
from edge_runtime.bundle.envelope import TrustedKeys, open_envelope, public_key_of_hex, trust
from edge_runtime.bundle.targets import (
    MAX_DOCUMENT_BYTES,
    ORDERS_ROLE,
    RELEASES_ROLE,
    SETTINGS_ROLE,
    SETTINGS_TYPE,
    TargetFacts,
    bundle_target,
    delta_target,
    model_role,
    release_target,
    settings_target,
)
from edge_runtime.errors import BundleError, EdgeError, TransportError

_TOP_ROLES = (Root.type, Timestamp.type, Snapshot.type, Targets.type)
_log = structlog.get_logger(__name__)


class _UnknownTargetError(BundleError):
    """Metadata is good and does not name the target."""


@dataclass(frozen=True, slots=True)
class TrustLimits:
    """`fresh_s`: for so long after a refresh, what it brought is asked before the network."""

    metadata: Limits = field(default_factory=Limits)
    fresh_s: float = 300.0


@dataclass(frozen=True, slots=True)
class TargetRef:
    """A small signed file: its path among the targets, its sha256 in hex, its size in bytes."""

    path: str
    sha256: str
    size: int


class Trust:
    """See the module. `verify` and `refresh` do their work in a thread, one at a time."""

    def __init__(
        self,
        state: TrustState,
        sources: Sequence[MetadataSource],
        want_keys: TrustedKeys,
        *,
        limits: TrustLimits | None = None,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._state = state
        self._sources = tuple(sources)
        self._enrolled_keys = want_keys
        self._limits = TrustLimits() if limits is None else limits
        self._monotonic_s = monotonic_s
        self._mutex = threading.Lock()
        self._refreshed_s: float | None = None
        self._accepted = state.load()
        self._targets = _targets_of(self._accepted, Targets.type)

    # Asked by the agent

    def want_keys(self) -> TrustedKeys:
        """See `TrustGate.want_keys`: those of the role `orders`, or those of the enrolment."""
        return self._role_keys(ORDERS_ROLE) or self._enrolled_keys

    async def verify(self, item: WantItem, *, now_s: int | None) -> Trusted:
        """See `TrustGate.verify`."""
        return await asyncio.to_thread(self._verify, item, now_s)

    async def refresh(self, *, now_s: int | None) -> None:
        """Bring new metadata, without asking for anything in it. Raises like `verify`."""
        await asyncio.to_thread(self._look_up, None, Targets.type, now_s)

    # Asked by those who read what was fetched

    def open_settings(self, envelope: bytes) -> bytes:
        """The canonical JSON of a settings document. Raises `BundleError`: other keys signed it."""
        keys = self._role_keys(SETTINGS_ROLE)
        return open_envelope(envelope, SETTINGS_TYPE, keys, name="settings")

    def certificate_keys(self, name: str) -> TrustedKeys:
        """Who may sign certificates of model `name`; empty when nobody may."""
        return self._role_keys(model_role(name))

    def certificates(self, name: str) -> tuple[TargetRef, ...]:
        """The published certificates of model `name`, as far as this box has heard of them."""
        prefix = f"certificates/{name}/"
        found = self._signed_by(model_role(name))
        return tuple(_reference(item) for path, item in found.items() if path.startswith(prefix))

    def delta(self, name: str, digest: str, base: str) -> TargetRef | None:
        """The published delta set that makes bundle `digest` out of `base`, where there is one."""
        target = self._signed_by(model_role(name)).get(delta_target(name, digest, base))
        return None if target is None else _reference(target)

    # In the worker thread

    def _verify(self, item: WantItem, now_s: int | None) -> Trusted:
        path, role = _place_of(item)
        target = self._look_up(path, role, now_s)
        assert target is not None, "one path was asked for"
        reference = _reference(target)
        if reference.sha256 != item.digest:
            raise BundleError(path, "its signed sha256 is not the wanted digest")
        if reference.size > MAX_DOCUMENT_BYTES:
            raise BundleError(path, f"is larger than {MAX_DOCUMENT_BYTES} bytes")
        facts = _facts(target)
        if facts.release != item.release:
            raise BundleError(
                path, f"is signed as release {facts.release}, the want says {item.release}"
            )
        folder = path.rpartition("/")[0]
        siblings = self._signed_by(role)
        floor = max(
            _facts(other).release_floor
            for name, other in siblings.items()
            if name.rpartition("/")[0] == folder
        )
        return Trusted(item.digest, reference.size, facts.release, floor)

    def _look_up(self, path: str | None, role: str, now_s: int | None) -> TargetFile | None:
        """The target of `path` from the first source that knows it; see the rules."""
        with self._mutex:
            errors: list[EdgeError] = []
            first = (cached(self._accepted),) if path is not None and self._is_fresh() else ()
            for source in (*first, *self._sources):
                try:
                    return self._ask(source, path, role, now_s)
                except EdgeError as error:
                    errors.append(error)
            try:
                return self._ask(cached(self._accepted), path, role, now_s)
            except EdgeError as error:
                errors.append(error)
            raise _gravest(errors)

    def _ask(
        self, source: MetadataSource, path: str | None, role: str, now_s: int | None
    ) -> TargetFile | None:
        done = run_round(self._accepted, source, path, role, self._limits.metadata)
        self._keep(done.accepted)
        if done.error is not None:
            _log.warning(
                "trust metadata not usable",
                action="metadata_refused",
                source=source.name,
                reason=str(done.error),
            )
            raise done.error
        _check_dates(self._accepted, role, now_s)
        if source in self._sources:
            self._refreshed_s = self._monotonic_s()
        if path is None:
            return None
        if done.found is None:
            raise _UnknownTargetError(path, "no key that this box trusts has signed it: publish it")
        return done.found

    def _keep(self, accepted: Accepted) -> None:
        targets = _targets_of(accepted, Targets.type)
        delegations = None if targets is None else targets.delegations
        known = {*(delegations.roles or {})} if delegations is not None else set()
        known |= set(_TOP_ROLES)
        roles = {name: data for name, data in accepted.roles.items() if name in known}
        accepted = Accepted(accepted.root, roles)
        if accepted != self._accepted:
            self._state.save(accepted)  # before anything is decided by it
            self._accepted = accepted
            self._targets = targets

    def _is_fresh(self) -> bool:
        if self._refreshed_s is None:
            return False
        return self._monotonic_s() - self._refreshed_s < self._limits.fresh_s

    def _role_keys(self, role: str) -> TrustedKeys:
        delegations = None if self._targets is None else self._targets.delegations
        if delegations is None or delegations.roles is None or role not in delegations.roles:
            return {}
        ids = delegations.roles[role].keyids
        return trust(
            public_key_of_hex(delegations.keys[item].keyval["public"], name=item) for item in ids
        )

    def _signed_by(self, role: str) -> dict[str, TargetFile]:
        targets = _targets_of(self._accepted, role)
        return {} if targets is None else targets.targets


def _targets_of(accepted: Accepted, role: str) -> Targets | None:
    """Metadata of a role that was verified when it was accepted."""
    data = accepted.roles.get(role)
    return None if data is None else Metadata[Targets].from_bytes(data).signed


def _place_of(item: WantItem) -> tuple[str, str]:
    """The target path of a wanted item, and the role that may sign it."""
    if item.kind is ItemKind.BUNDLE:
        return bundle_target(item.name, item.digest), model_role(item.name)
    if item.kind is ItemKind.SETTINGS:
        return settings_target(item.name, item.digest), SETTINGS_ROLE
    return release_target(item.name, item.digest), RELEASES_ROLE


def _reference(target: TargetFile) -> TargetRef:
    digest = target.hashes.get("sha256")
    if digest is None:
        raise BundleError(target.path, "has no signed sha256")
    return TargetRef(target.path, digest, target.length)


def _facts(target: TargetFile) -> TargetFacts:
    try:
        return TargetFacts.model_validate(target.custom)
    except ValidationError as error:
        raise BundleError(target.path, "its signed metadata says no release") from error


def _check_dates(accepted: Accepted, role: str, now_s: int | None) -> None:
    """Hold the dates of the top-level roles and of `role` against the time the caller knows."""
    if now_s is None:
        return
    now = datetime.fromtimestamp(now_s, UTC)
    files = {"root": accepted.root, **accepted.roles}
    for name in (*_TOP_ROLES, role):
        signed: Signed | None = Metadata.from_bytes(files[name]).signed if name in files else None
        if signed is not None and signed.is_expired(now):
            raise MetadataExpiredError(
                f"{name} metadata expired at {signed.expires:%Y-%m-%d %H:%M} UTC: the fleet's "
                "operator must sign it again. What serves goes on"
            )


def _gravest(errors: list[EdgeError]) -> EdgeError:
    """What to report of several failures: bad content, then expiry, then the network.

    That a target is not signed is said last: a source that could not be reached may know it.
    """
    known = [error for error in errors if not isinstance(error, _UnknownTargetError)]
    for family in (BundleError, MetadataExpiredError, TransportError):
        for error in known:
            if isinstance(error, family):
                return error
    return errors[0]

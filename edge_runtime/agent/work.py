"""Does what the decider asks for, and says how it ended.

Rules
- Trust is asked before the first byte and again before anything is activated.
- Every end is an `Outcome`: content that can never be right gives up, what may pass is tried
  again, and what leaves the disk unknown says so. Nothing but a cancel leaves as an exception.
- Each action may be done twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog

from edge_runtime.agent.contract import (
    BlobFetcher,
    FetchJob,
    MetadataExpiredError,
    NoDeltaError,
    Trusted,
    TrustGate,
)
from edge_runtime.agent.decide import (
    ActionKind,
    Broken,
    Done,
    GaveUp,
    ItemRecord,
    Outcome,
    TryAgain,
)
from edge_runtime.agent.protocol import DeferReason, FailureCode, ItemKind, WantItem
from edge_runtime.agent.shelf import Shelf
from edge_runtime.bundle.activation import Refused
from edge_runtime.bundle.files import Files, exists, remove_tree
from edge_runtime.errors import (
    BundleError,
    CapacityError,
    EdgeError,
    EngineError,
    TransportError,
    UsageError,
)

log: Final = structlog.get_logger("edge_runtime.agent")


Companions = Callable[[WantItem, tuple[str, ...]], Awaitable[None]]
"""Brings what ships beside an item, from these sources; holds nothing up when it cannot."""


@dataclass(slots=True)
class Worker:
    """See the module. `incoming` is where downloads grow, one folder an item.

    `floors` are the release floors that were verified, by item key; `progress` bytes done and
    in all, by item key.
    """

    shelves: Mapping[ItemKind, Shelf]
    trust: TrustGate
    fetcher: BlobFetcher
    files: Files
    incoming: Path
    rate_bytes_s: int | None = None
    companions: Companions | None = None
    floors: dict[str, int] = field(default_factory=dict)
    progress: dict[str, tuple[int, int]] = field(default_factory=dict)

    async def perform(
        self, action: ActionKind, record: ItemRecord, sources: tuple[str, ...], now_s: int | None
    ) -> Outcome:
        """Do one action to its end."""
        item = record.item
        try:
            outcome = await self._do(action, item, sources, now_s)
        except EdgeError as error:
            outcome = explain(action, item, error)
        except OSError as error:
            outcome = TryAgain(DeferReason.DISK, FailureCode.DISK, str(error))
        except Exception as error:
            log.exception("the agent failed", action="agent_failed", item=item.key)
            swaps = action in (ActionKind.ACTIVATE, ActionKind.REVERT)
            why = f"a bug: {error!r}"
            outcome = Broken(why) if swaps else GaveUp(FailureCode.INTERNAL, why)
        if not isinstance(outcome, Done):
            log.warning(
                "not done",
                action="agent_refused",
                item=item.key,
                step=str(action),
                why=str(outcome),
            )
        return outcome

    async def _do(
        self, action: ActionKind, item: WantItem, sources: tuple[str, ...], now_s: int | None
    ) -> Outcome:
        match action:
            case ActionKind.VERIFY:
                return await self._verify(item, now_s)
            case ActionKind.FETCH:
                return await self._fetch(item, sources, now_s)
            case ActionKind.ACTIVATE:
                return await self._activate(item, sources, now_s)
            case ActionKind.REVERT:
                return await self._revert(item)

    def folder(self, item: WantItem) -> Path:
        """Where the download of an item grows."""
        return self.incoming / f"{item.kind}-{item.name}"

    def discard(self, item: WantItem) -> None:
        """Drop what was downloaded for an item. Blocks on the disk."""
        folder = self.folder(item)
        if exists(self.files, folder):
            remove_tree(self.files, folder)
        self.progress.pop(item.key, None)

    async def _trusted(self, item: WantItem, now_s: int | None) -> Trusted:
        trusted = await self.trust.verify(item, now_s=now_s)
        self.floors[item.key] = max(trusted.release_floor, self.floors.get(item.key, 1))
        return trusted

    async def _verify(self, item: WantItem, now_s: int | None) -> Outcome:
        self.shelves[item.kind].check(item.name)
        await self._trusted(item, now_s)
        floor = self.floors[item.key]
        if item.release < floor:
            return GaveUp(
                FailureCode.BELOW_FLOOR, f"release {item.release} is below the floor {floor}"
            )
        return Done()

    async def _fetch(self, item: WantItem, sources: tuple[str, ...], now_s: int | None) -> Outcome:
        shelf = self.shelves[item.kind]
        trusted = await self._trusted(item, now_s)
        active = (await asyncio.to_thread(shelf.holdings)).active.get(item.name)
        rates = [rate for rate in (item.rate_bytes_s, self.rate_bytes_s) if rate is not None]
        job = FetchJob(
            item=item,
            trusted=trusted,
            sources=sources,
            directory=self.folder(item),
            base=None if active is None else shelf.directory(active.bundle_digest),
            full_allowed=item.delta_fallback == "full",
            rate_bytes_s=min(rates, default=None),
        )

        def note(done: int, total: int) -> None:
            self.progress[item.key] = (done, total)

        path = await self.fetcher.fetch(job, note)
        await asyncio.to_thread(shelf.stage, path, item.digest)
        await asyncio.to_thread(self.discard, item)
        return Done()

    async def _activate(
        self, item: WantItem, sources: tuple[str, ...], now_s: int | None
    ) -> Outcome:
        checked = await self._verify(item, now_s)
        if not isinstance(checked, Done):
            return checked
        if self.companions is not None:
            await self.companions(item, sources)
        outcome = await self.shelves[item.kind].activate(item.name, item.digest)
        if isinstance(outcome, Refused):
            return GaveUp(FailureCode.REFUSED, outcome.reason)
        return Done()

    async def _revert(self, item: WantItem) -> Outcome:
        shelf = self.shelves[item.kind]
        active = (await asyncio.to_thread(shelf.holdings)).active.get(item.name)
        if active is not None and active.bundle_digest != item.digest:
            return Done()  # somebody was faster; going back twice would bring it back
        outcome = await shelf.revert(item.name)
        if isinstance(outcome, Refused):
            return GaveUp(FailureCode.REFUSED, outcome.reason)
        return Done()


def explain(action: ActionKind, item: WantItem, error: EdgeError) -> Outcome:
    """What an error of this project means for the item. Pure."""
    text = str(error)
    match error:
        case MetadataExpiredError():
            return TryAgain(DeferReason.TRUST, FailureCode.UNTRUSTED, text)
        case TransportError():
            return TryAgain(DeferReason.NETWORK, FailureCode.TRANSFER, text)
        case CapacityError(reason="memory"):
            return TryAgain(DeferReason.MEMORY, FailureCode.INCOMPATIBLE, text)
        case CapacityError():
            return TryAgain(DeferReason.DISK, FailureCode.NO_SPACE, text)
        case NoDeltaError() if item.delta_fallback == "wait":
            return TryAgain(DeferReason.DELTA, FailureCode.DELTA, text)
        case NoDeltaError():
            return GaveUp(FailureCode.DELTA, text)
        case BundleError() if action is ActionKind.FETCH:
            return GaveUp(FailureCode.CORRUPT, text)
        case BundleError():
            return GaveUp(FailureCode.UNTRUSTED, text)
        case UsageError():
            return GaveUp(FailureCode.INCOMPATIBLE, text)
        case EngineError() if action in (ActionKind.ACTIVATE, ActionKind.REVERT):
            return Broken(text)
        case EngineError():
            return TryAgain(DeferReason.DISK, FailureCode.DISK, text)
        case _:
            return GaveUp(FailureCode.INTERNAL, text)

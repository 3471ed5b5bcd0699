"""The semantic cache of a daemon: opened once its encoder is there, and kept to what serves.

Rules
- Models load while the daemon listens, so the cache opens late: until then nothing is similar.
- An embedding that fails, as when the box is full, makes a miss, never a failed request.
- Vectors of two models are never compared: entries belong to the model that embedded them. When
  the encoder is swapped, the new one finds and keeps its own from the next request on, and one
  that comes back finds what it had kept, with what audits said of it.
- One store for all of them, within the limits of the settings: what an encoder that left had kept
  is the least used, and goes first.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Final

import structlog

from edge_runtime.cache.semantic.cache import limits_of, open_semantic_store, semantic_cache_of
from edge_runtime.cache.semantic.contract import Embed, Vector
from edge_runtime.cache.semantic.store import SemanticStore
from edge_runtime.config import Settings
from edge_runtime.core import FloatArray, Kind, ModelHost, ModelInfo
from edge_runtime.errors import CapacityError, EdgeError, UsageError
from edge_runtime.router.live import Routing
from edge_runtime.router.router import Router

log: Final = structlog.get_logger("edge_runtime.router")

LOOK_AGAIN_S = 1.0


def embedder(host: ModelHost, info: ModelInfo) -> Embed:
    """Embeds one text with a loaded encoder; None for what it cannot take, or not now."""

    async def embed(text: str) -> Vector | None:
        try:
            tokens = host.codec(info.name).encode(text, add_special_tokens=True)
            if not 0 < len(tokens) <= info.context_tokens:
                return None
            rows: FloatArray = await host.encode(
                info.name, [tokens], bundle_digest=info.bundle_digest
            )
        except EdgeError as error:
            log.info("question not embedded", action="embed_failed", reason=str(error))
            return None
        vector: Vector = rows[0]
        return vector

    return embed


@dataclass(slots=True)
class _Keeper:
    """Gives the router the cache that fits the settings and the encoder that serves."""

    routing: Routing
    host: ModelHost
    store: SemanticStore | None = None
    _opening: asyncio.Task[None] | None = None
    _closed: bool = field(default=False)

    def look(self) -> None:
        """Settings or the encoder changed. On the event loop."""
        settings = self.routing.settings.cache.semantic
        if self._closed:
            return
        if not settings.enabled:
            self.routing.router.semantic = None
        elif self.store is None:
            if self._opening is None or self._opening.done():
                self._opening = asyncio.create_task(self._open(), name="semantic-cache")
        else:
            self._use(self.store)

    def _use(self, store: SemanticStore) -> None:
        """A cache over the open store, for the encoder that serves now."""
        router, settings = self.routing.router, self.routing.settings.cache.semantic
        router.semantic = None
        if not settings.enabled or self._closed:
            return
        try:
            info = self.host.info(settings.encoder)
            store.limit(limits_of(settings), settings.least_score)
        except EdgeError as error:
            log.error("no semantic cache", action="semantic_failed", reason=str(error))  # noqa: TRY400
            return
        if not _embeds(info):
            return
        embed = embedder(self.host, info)
        router.semantic = semantic_cache_of(store, settings, embed, encoder=info.model_digest)
        log.info("semantic cache is open", action="semantic_opened", encoder=info.full_name)

    async def _open(self) -> None:
        if not await self._loaded():
            return
        try:
            # the path stays as it was at the start: two would be two caches
            settings = self.routing.settings.cache.semantic
            self.store = await asyncio.to_thread(open_semantic_store, settings)
        except EdgeError as error:
            log.error("no semantic cache", action="semantic_failed", reason=str(error))  # noqa: TRY400
            return
        self._use(self.store)

    async def _loaded(self) -> bool:
        """Wait for the encoder; False when it never will be there, or embeds nothing."""
        while True:
            name = self.routing.settings.cache.semantic.encoder
            try:
                return _embeds(self.host.info(name))
            except (UsageError, CapacityError) as error:
                if self.host.ready:
                    log.error("no semantic cache", action="semantic_failed", reason=str(error))  # noqa: TRY400
                    return False
                await asyncio.sleep(LOOK_AGAIN_S)

    async def close(self) -> None:
        """Take the cache from the router, and close the store once nobody writes to it."""
        self._closed = True
        self.routing.router.semantic = None
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        await self.routing.router.finish_background(cancel=True)
        if self.store is not None:
            await asyncio.to_thread(self.store.close)


@contextlib.asynccontextmanager
async def semantic_cache(routing: Routing, host: ModelHost) -> AsyncIterator[None]:
    """Give the router its semantic cache as settings and models come and go, while this lasts."""
    keeper = _Keeper(routing, host)

    def changed(router: Router, settings: Settings) -> None:
        keeper.look()

    def swapped(old: ModelInfo | None, new: ModelInfo) -> None:
        if new.name == routing.settings.cache.semantic.encoder:
            keeper.look()

    routing.on_change(changed)
    host.on_swap(swapped)
    keeper.look()
    try:
        yield
    finally:
        await keeper.close()


def _embeds(info: ModelInfo) -> bool:
    if info.kind is Kind.EMBED:
        return True
    log.error(
        "no semantic cache",
        action="semantic_failed",
        reason=f"cache.semantic.encoder {info.name} is of kind {info.kind}: name an embedder",
    )
    return False

"""Open the semantic cache once the model that embeds questions is there, and close it again.

Rules
- Models load while the daemon listens, so the cache opens late: until then nothing is similar.
- An embedding that fails, as when the box is full, makes a miss, never a failed request.
- Vectors of two models are never mixed: once the encoder was swapped nothing is similar until the
  daemon starts again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

import structlog

from edge_runtime.cache.semantic.cache import SemanticCache, open_semantic_cache
from edge_runtime.cache.semantic.contract import Embed, Vector
from edge_runtime.cache.semantic.settings import SemanticCacheSettings
from edge_runtime.core import FloatArray, Kind, ModelHost, ModelInfo
from edge_runtime.errors import CapacityError, EdgeError, UsageError
from edge_runtime.router.router import Router

log: Final = structlog.get_logger("edge_runtime.router")

LOOK_AGAIN_S = 1.0


def embedder(host: ModelHost, info: ModelInfo) -> Embed:
    """Embeds one text with a loaded encoder; None for what it cannot take, or not now."""

    async def embed(text: str) -> Vector | None:
        tokens = host.codec(info.name).encode(text, add_special_tokens=True)
        if not 0 < len(tokens) <= info.context_tokens:
            return None
        try:
            rows: FloatArray = await host.encode(
                info.name, [tokens], bundle_digest=info.bundle_digest
            )
        except EdgeError as error:
            log.info("question not embedded", action="embed_failed", reason=str(error))
            return None
        vector: Vector = rows[0]
        return vector

    return embed


@contextlib.asynccontextmanager
async def semantic_cache(
    router: Router, host: ModelHost, settings: SemanticCacheSettings
) -> AsyncIterator[None]:
    """Give `router` its semantic cache as soon as it can be opened, for as long as this lasts."""
    if not settings.enabled:
        yield
        return
    opened: list[SemanticCache] = []
    opening = asyncio.create_task(_open(router, host, settings, opened), name="semantic-cache")
    try:
        yield
    finally:
        opening.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await opening
        router.semantic = None
        await router.finish_background(cancel=True)
        for cache in opened:
            await cache.aclose()


async def _open(
    router: Router, host: ModelHost, settings: SemanticCacheSettings, opened: list[SemanticCache]
) -> None:
    info = await _loaded(host, settings.encoder)
    if info is None:
        return
    embed = embedder(host, info)
    try:
        cache = await asyncio.to_thread(
            lambda: open_semantic_cache(settings, embed, encoder=info.model_digest)
        )
    except EdgeError as error:
        log.error("no semantic cache", action="semantic_failed", reason=str(error))  # noqa: TRY400
        return
    opened.append(cache)
    router.semantic = cache
    log.info("semantic cache is open", action="semantic_opened", encoder=info.full_name)


async def _loaded(host: ModelHost, name: str) -> ModelInfo | None:
    """The encoder, once it is there; None when it never will be."""
    while True:
        try:
            info = host.info(name)
        except (UsageError, CapacityError) as error:
            if host.ready:
                log.error("no semantic cache", action="semantic_failed", reason=str(error))  # noqa: TRY400
                return None
            await asyncio.sleep(LOOK_AGAIN_S)
            continue
        if info.kind is Kind.EMBED:
            return info
        log.error(
            "no semantic cache",
            action="semantic_failed",
            reason=f"cache.semantic.encoder {name} is of kind {info.kind}: name an embedder",
        )
        return None

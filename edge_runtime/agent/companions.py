"""What belongs to a bundle and ships beside it: its certificates.

A certificate names one model digest, so those of the old and the new model lie beside each other
and going back to a bundle brings its own back into force. Without one everything escalates: that
costs money, not right answers, so a certificate that cannot be had holds nothing up.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from edge_runtime.agent.download import BlobSource
from edge_runtime.agent.protocol import ItemKind, WantItem
from edge_runtime.agent.trust import TargetRef
from edge_runtime.bundle.files import Files, exists, make_dirs, write_atomically
from edge_runtime.errors import EdgeError

log: Final = structlog.get_logger("edge_runtime.agent")

MAX_CERTIFICATE_BYTES: Final = 1024 * 1024


@dataclass(slots=True)
class Companions:
    """Fetches certificates into the folder the router reads."""

    directory: Path
    certificates: Callable[[str], Iterable[TargetRef]]
    open_source: Callable[[str], BlobSource]
    files: Files

    async def fetch(self, item: WantItem, sources: tuple[str, ...]) -> None:
        """Bring the certificates of a bundle's name, those that are not here yet."""
        if item.kind is not ItemKind.BUNDLE:
            return
        await asyncio.to_thread(make_dirs, self.files, self.directory)
        for reference in self.certificates(item.name):
            path = self.directory / f"{reference.sha256}.json"
            if reference.size > MAX_CERTIFICATE_BYTES or exists(self.files, path):
                continue
            data = await self._read(reference, sources)
            if data is not None:
                await asyncio.to_thread(write_atomically, self.files, path, data)
                log.info("certificate fetched", action="certificate_fetched", name=item.name)

    async def _read(self, reference: TargetRef, sources: tuple[str, ...]) -> bytes | None:
        for url in sources:
            data = bytearray()
            try:
                source = self.open_source(url)
                async for piece in source.read(reference.sha256, 0, reference.size):
                    data += piece
            except EdgeError as error:
                log.info("certificate not fetched", action="certificate_missing", why=str(error))
                continue
            if hashlib.sha256(data).hexdigest() == reference.sha256:
                return bytes(data)
        return None

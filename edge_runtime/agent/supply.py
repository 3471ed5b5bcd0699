"""Where an agent's bytes and trust come from: one HTTP client, signed metadata, downloads."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp

from edge_runtime.agent.companions import Companions
from edge_runtime.agent.credential import Credential, CredentialStore
from edge_runtime.agent.download import BlobSource, BundleFetcher, FetchLimits, HttpBlobs
from edge_runtime.agent.protocol import Grant
from edge_runtime.agent.trust import HttpMetadata, MetadataSource, Trust, TrustState
from edge_runtime.agent.work import Companions as FetchCompanions
from edge_runtime.bundle.files import Files
from edge_runtime.errors import ConfigError

METADATA_TIMEOUT_S: Final = 60.0
MAX_CONNECTIONS: Final = 16


async def open_session(
    credentials: CredentialStore, credential: Credential
) -> aiohttp.ClientSession:
    """An HTTP client that shows the box's certificate where it has one."""
    ca, certificate, key = await asyncio.to_thread(credentials.tls_files, credential)
    context = ssl.create_default_context(cafile=ca)
    if certificate is not None:
        context.load_cert_chain(certificate, key)
    connector = aiohttp.TCPConnector(ssl=context, limit=MAX_CONNECTIONS)
    return aiohttp.ClientSession(connector=connector)


@dataclass(frozen=True, slots=True)
class Supply:
    """See the module. `directory` is the agent's; `held` names bundles whose bytes are here."""

    session: aiohttp.ClientSession
    loop: asyncio.AbstractEventLoop
    directory: Path
    files: Files
    held: Callable[[], Iterable[Path]]

    def source(self, url: str) -> BlobSource:
        """Blobs below a base URL."""
        return HttpBlobs(self.session, url)

    def trust(self, grant: Grant, credential: Credential) -> Trust:
        """Signed metadata. Raises `ConfigError` without a root; blocks on the disk."""
        if grant.tuf_root is None:
            raise ConfigError("the enrolment brought no trust root; enrol this box again")
        sources: list[MetadataSource] = []
        if grant.metadata is not None:
            timeout_s = METADATA_TIMEOUT_S
            sources.append(
                HttpMetadata(self.session, grant.metadata, timeout_s=timeout_s, loop=self.loop)
            )
        state = TrustState(self.directory / "trust", self.files, grant.tuf_root.encode())
        return Trust(state, sources, credential.want_keys())

    def fetcher(self, trust: Trust, min_free_bytes: int) -> BundleFetcher:
        """Downloads of what `trust` vouches for."""
        return BundleFetcher(
            self.source,
            trust.delta,
            held=self.held,
            files=self.files,
            limits=FetchLimits(min_free_bytes=min_free_bytes),
        )

    def companions(self, trust: Trust, certificates: Path | None) -> FetchCompanions | None:
        """What brings certificates into their folder; None where the box keeps none."""
        if certificates is None:
            return None
        return Companions(certificates, trust.certificates, self.source, self.files).fetch

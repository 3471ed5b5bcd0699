"""`BundleFetcher`: the agent's `BlobFetcher`. From a trusted digest to a whole bundle directory.

Rules
- The manifest is fetched first, by the signed digest; everything else by what it lists.
- What is here already is not fetched: files of bundles on this box, files of an earlier try.
- Space is checked before the first large byte. A delta that does not work out costs its own bytes
  and is told aloud; whether everything is fetched then is the job's policy, never silent.
- The directory that is returned holds the bundle and nothing else, durably.

Example::

    fetcher = BundleFetcher(lambda url: HttpBlobs(session, url), trust.delta)
    directory = await fetcher.fetch(job, progress)
    store.stage(directory, link=True)
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from edge_runtime.agent.contract import FetchJob, Progress
from edge_runtime.agent.download.blob import Transfer, TransferLimits
from edge_runtime.agent.download.clock import Clock, RealClock
from edge_runtime.agent.download.local import LocalFiles
from edge_runtime.agent.download.rate import Pacer, TokenBucket
from edge_runtime.agent.download.run import DeltaLookup, FetchReport, Run, full
from edge_runtime.agent.download.sources import BlobSource
from edge_runtime.agent.download.spool import Spool
from edge_runtime.agent.protocol import ItemKind
from edge_runtime.bundle.files import Files, RealFiles, make_dirs, remove_tree
from edge_runtime.errors import EngineError

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """`min_free_bytes` stay free on the disk; `burst_bytes` may come at once under a pace."""

    min_free_bytes: int = 256 * 1024 * 1024
    burst_bytes: int = 256 * 1024
    transfer: TransferLimits = field(default_factory=TransferLimits)


class BundleFetcher:
    """See the module. `report` is that of the last job that ended well.

    `open_source` makes a source of a base URL. `held` names directories of whole bundles on this
    box, besides the job's base, whose files may be used again.
    """

    def __init__(
        self,
        open_source: Callable[[str], BlobSource],
        deltas: DeltaLookup,
        *,
        held: Callable[[], Iterable[Path]] = tuple,
        files: Files | None = None,
        clock: Clock | None = None,
        limits: FetchLimits | None = None,
    ) -> None:
        self._open_source = open_source
        self._deltas = deltas
        self._held = held
        self._files: Files = RealFiles() if files is None else files
        self._clock: Clock = RealClock() if clock is None else clock
        self._limits = FetchLimits() if limits is None else limits
        self.report = FetchReport()

    async def fetch(self, job: FetchJob, progress: Progress) -> Path:
        """See `BlobFetcher.fetch`."""
        transfer = Transfer(
            [self._open_source(url) for url in job.sources],
            self._pacer(job.rate_bytes_s),
            self._clock,
            self._limits.transfer,
        )
        with _disk_errors(job.directory):
            spool = await asyncio.to_thread(self._open_spool, job)
            run = Run(spool, transfer, job, progress, self._limits.min_free_bytes)
            path = await self._run(run, job)
        self.report = run.report
        _log.info(
            "fetched",
            action="fetched",
            digest=job.trusted.digest,
            full_bytes=run.report.full_bytes,
            delta_bytes=run.report.delta_bytes,
            here_bytes=run.report.here_bytes,
            sources={account.name: account.bytes for account in transfer.accounts.all},
        )
        return path

    async def _run(self, run: Run, job: FetchJob) -> Path:
        if job.item.kind is ItemKind.SETTINGS:
            return (await run.document(job.trusted.digest, job.trusted.size)).path
        if job.item.kind is ItemKind.DAEMON:
            return await run.release()
        folders = () if job.base is None else (job.base,)
        base = await asyncio.to_thread(LocalFiles, self._files, folders)
        here = await asyncio.to_thread(LocalFiles, self._files, (*folders, *self._held()))
        return await run.bundle(base, here, self._deltas)

    def _pacer(self, rate_bytes_s: int | None) -> Pacer:
        bucket = None
        if rate_bytes_s is not None:
            bucket = TokenBucket(rate_bytes_s, self._limits.burst_bytes)
        return Pacer(bucket, self._clock)

    def _open_spool(self, job: FetchJob) -> Spool:
        """The folder of this digest; those of other digests are removed."""
        make_dirs(self._files, job.directory)
        for name in self._files.listdir(job.directory):
            if name != job.trusted.digest:
                remove_tree(self._files, job.directory / name)
        spool = Spool(job.directory / job.trusted.digest, self._files)
        spool.open()
        return spool


@contextlib.contextmanager
def _disk_errors(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise full(directory, "the disk filled up meanwhile") from error
        raise EngineError(f"{directory}: {error}; check the disk, then restart") from error

"""One blob from several sources: blocks in parallel, verified as they land, committed in order.

Rules
- A block is written only when its sha256 is the signed one; whoever sent another pays for it.
- At most `window_blocks` blocks are on their way or wait for those before them.
- A source that keeps a block longer than its size at `min_bytes_s` allows is given up for it; time
  spent waiting for the pace does not count.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from edge_runtime.agent.download.accounts import AccountLimits, Accounts, Ask, Fault, Wait
from edge_runtime.agent.download.clock import Clock
from edge_runtime.agent.download.plan import BlobSpec, next_blocks
from edge_runtime.agent.download.rate import Pacer
from edge_runtime.agent.download.sources import BlobSource, SourceError
from edge_runtime.agent.download.spool import Part
from edge_runtime.errors import EdgeError, EngineError

READ_BACK_TRIES = 3
"""How often a part that decayed on the disk is repaired before the disk is given up."""


@dataclass(frozen=True, slots=True)
class TransferLimits:
    """Bounds of transfers; times in seconds, speeds in bytes/s."""

    window_blocks: int = 4
    min_bytes_s: float = 2048.0
    grace_s: float = 30.0
    accounts: AccountLimits = field(default_factory=AccountLimits)


class Transfer:
    """Fetches blobs of one job from its sources, sharing accounts and pace."""

    def __init__(
        self, sources: Sequence[BlobSource], pacer: Pacer, clock: Clock, limits: TransferLimits
    ) -> None:
        self._sources = tuple(sources)
        self._pacer = pacer
        self._clock = clock
        self._limits = limits
        self.accounts = Accounts([source.name for source in sources], limits.accounts)

    async def complete(self, part: Part, committed: Callable[[int], None]) -> None:
        """Fetch what a part misses. `committed` is called with the size of each durable block.

        Raises `BundleError` when every source sent other bytes, `TransportError` when none could
        send the right ones, `OSError` of the disk.
        """
        for _ in range(READ_BACK_TRIES):
            try:
                await self._complete(part, committed)
            except BaseExceptionGroup as group:
                raise _first(group) from group
            if not part.resumed or await asyncio.to_thread(part.audit):
                return
        raise EngineError(f"{part.path}: the disk does not keep what is written; replace it")

    async def _complete(self, part: Part, committed: Callable[[int], None]) -> None:
        total = len(part.spec.blocks)
        async with asyncio.TaskGroup() as group:
            coming: dict[int, asyncio.Task[bytes | EdgeError]] = {}
            while part.done < total:
                window = self._limits.window_blocks
                for index in next_blocks(total, part.done, coming.keys(), window):
                    name = f"block {part.spec.sha256[:12]}/{index}"
                    coming[index] = group.create_task(self._block(part.spec, index), name=name)
                data = await coming.pop(part.done)
                if isinstance(data, EdgeError):  # only now, when all before it are safe
                    raise data
                await asyncio.to_thread(part.append, part.done, data)
                committed(len(data))

    async def _block(self, spec: BlobSpec, index: int) -> bytes | EdgeError:
        start, length = spec.span(index)
        while True:
            choice = self.accounts.choose(spec.sha256, self._clock.now_s())
            if isinstance(choice, EdgeError):
                return choice
            if isinstance(choice, Wait):
                await self._clock.sleep(max(choice.until_s - self._clock.now_s(), 0.0))
                continue
            try:
                data = await self._ask(choice, spec, start, length)
                if hashlib.sha256(data).hexdigest() != spec.blocks[index]:
                    raise SourceError(Fault.CORRUPT, f"sent other bytes at {start}")
            except SourceError as error:
                now_s = self._clock.now_s()
                reason = str(error)
                self.accounts.note_fault(choice.index, spec.sha256, error.fault, reason, now_s)
            else:
                self.accounts.note_block(choice.index, length)
                return data

    async def _ask(self, choice: Ask, spec: BlobSpec, start: int, length: int) -> bytes:
        source = self._sources[choice.index]
        data = bytearray()
        began_s = self._clock.now_s()
        allowed_s = self._limits.grace_s + length / self._limits.min_bytes_s
        async with contextlib.aclosing(source.read(spec.sha256, start, length)) as pieces:
            async for piece in pieces:
                data += piece
                if len(data) > length:
                    raise SourceError(Fault.FAILED, "sent more than was asked for")
                before_s = self._clock.now_s()
                if before_s - began_s > allowed_s:
                    raise SourceError(Fault.FAILED, "is too slow")
                await self._pacer.took(len(piece))
                began_s += self._clock.now_s() - before_s
        if len(data) < length:
            raise SourceError(Fault.FAILED, f"sent {len(data)} of {length} bytes")
        return bytes(data)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """One error of several that ended a group; the others are its consequences or repeats."""
    found = group.exceptions[0]
    return _first(found) if isinstance(found, BaseExceptionGroup) else found

"""Changing a model while it answers: the daemon's side of the activation contract.

Rules
- The new model is loaded, warmed up and asked its golden inputs beside the old one, in a thread
  of its own; a refusal leaves nothing behind.
- The pointer on disk moves first, then the name, on the event loop, between two requests.
- Every request stays with the model it was tokenised for. The old one leaves the engine when
  its last request has ended and nobody can bring another: after `swap_grace_s` in which those
  who looked it up may still come, or at `swap_drain_s`, when what is left is told 503.
- One change at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

import structlog

from edge_runtime.bundle.activation import Committed, Loader, Prepared, Refused
from edge_runtime.bundle.manifest import Manifest
from edge_runtime.bundle.pack import load_manifest
from edge_runtime.bundle.store import Store
from edge_runtime.config import Settings
from edge_runtime.core import OnSwap
from edge_runtime.engine.load import LoadedModel
from edge_runtime.engine.memory import available_bytes, needed_bytes
from edge_runtime.errors import CapacityError, EngineError, UsageError

log: Final = structlog.get_logger("edge_runtime.host")


@dataclass(slots=True)
class InUse:
    """Requests in progress by loaded model. Lives on the event loop."""

    _counts: dict[int, int] = field(default_factory=dict)
    _idle: dict[int, asyncio.Event] = field(default_factory=dict)

    @contextlib.contextmanager
    def hold(self, model: LoadedModel) -> Iterator[None]:
        """Count one request of `model` while inside."""
        key = id(model)
        self._counts[key] = self._counts.get(key, 0) + 1
        try:
            yield
        finally:
            self._counts[key] -= 1
            if not self._counts[key]:
                del self._counts[key]
                idle = self._idle.get(key)
                if idle is not None:
                    idle.set()

    def count(self, model: LoadedModel) -> int:
        """Requests of `model` in progress."""
        return self._counts.get(id(model), 0)

    async def wait_idle(self, model: LoadedModel) -> None:
        """Return when `model` has no request in progress."""
        key = id(model)
        while key in self._counts:
            self._idle[key] = asyncio.Event()
            try:
                await self._idle[key].wait()
            finally:
                del self._idle[key]


class SwapHost(Protocol):
    """What a swap needs of the host. All but `failure` on the event loop."""

    failure: str

    def load(self, directory: Path, manifest: Manifest) -> LoadedModel:
        """Load a bundle; in a worker thread. Raises `EdgeError`."""

    def replace(self, loaded: LoadedModel) -> LoadedModel | None:
        """Serve a name from `loaded` from now on; the one before it, kept for its requests."""

    def forget(self, loaded: LoadedModel) -> None:
        """Let a replaced model go; requests still in it end with a 503."""


@dataclass(slots=True)
class Swapper:
    """Activates and reverts while requests run; see the module. One a host."""

    host: SwapHost
    store: Store
    settings: Settings
    in_use: InUse
    on_swap: list[OnSwap] = field(default_factory=list)
    available_bytes: Callable[[], int | None] = available_bytes
    loaded: asyncio.Event = field(default_factory=asyncio.Event)
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _drains: set[asyncio.Task[None]] = field(default_factory=set)

    async def activate(self, name: str, digest: str) -> Committed | Refused:
        """See `Host.activate`."""
        serve = self.settings.models.serve
        if serve and name not in serve:
            raise UsageError(f"{name} is not among models.serve; add it there, then restart")
        async with self._one_at_a_time():
            await asyncio.to_thread(self._check_room, digest)
            return await _to_the_end(self.store.activate, name, digest, self._loader())

    async def revert(self, name: str) -> Committed | Refused:
        """See `Host.revert`."""
        async with self._one_at_a_time():
            return await _to_the_end(self.store.revert, name, self._loader())

    async def close(self) -> None:
        """End every drain at once; the engine then ends what is left."""
        drains = list(self._drains)
        for task in drains:
            task.cancel()
        await asyncio.gather(*drains, return_exceptions=True)

    def swapped(self, loaded: LoadedModel) -> None:
        """The pointer moved: serve from `loaded`, drain the old one. On the event loop."""
        old = self.host.replace(loaded)
        log.info(
            "model swapped",
            action="model_swapped",
            model=loaded.info.full_name,
            before=None if old is None else old.info.full_name,
        )
        for listener in self.on_swap:
            listener(None if old is None else old.info, loaded.info)
        if old is not None:
            task = asyncio.get_running_loop().create_task(self._drain(old), name="drain-model")
            self._drains.add(task)
            task.add_done_callback(self._drains.discard)

    async def _drain(self, old: LoadedModel) -> None:
        engine = self.settings.engine
        try:
            await asyncio.sleep(engine.swap_grace_s)
            async with asyncio.timeout(engine.swap_drain_s):
                await self.in_use.wait_idle(old)
        except TimeoutError:
            left = self.in_use.count(old)
            log.warning(
                "requests of a replaced model end", action="drain_cut", model=old.info.full_name,
                requests=left,
            )  # fmt: skip
        finally:
            self.host.forget(old)
        log.info("replaced model left", action="model_drained", model=old.info.full_name)

    @contextlib.asynccontextmanager
    async def _one_at_a_time(self) -> AsyncIterator[None]:
        await self.loaded.wait()  # or the start could load an older pointer over ours
        async with self._lock:
            if self.host.failure:
                raise EngineError(self.host.failure)
            yield

    def _check_room(self, digest: str) -> None:
        """Refuse before anything is read into memory. In a worker thread."""
        directory = self.store.directory(digest)
        if not directory.is_dir():
            return  # the store says it better
        needed = needed_bytes(load_manifest(directory), self.settings)
        available = self.available_bytes()
        if available is not None and needed > available:
            raise CapacityError(
                f"the model needs about {needed} bytes beside the one that serves and "
                f"{available} are free: free memory, or stop the daemon and activate it then",
                retry_after_s=60.0,
                status=503,
                reason="memory",
            )

    def _loader(self) -> Loader:
        loop = asyncio.get_running_loop()

        def load(directory: Path, manifest: Manifest) -> Prepared:
            return _Beside(self, loop, self.host.load(directory, manifest))

        return load


@dataclass(slots=True)
class _Beside:
    """A model that is loaded and warm beside the one that serves."""

    swapper: Swapper
    loop: asyncio.AbstractEventLoop
    loaded: LoadedModel

    def commit(self) -> None:
        """See `Prepared`; called in the thread that moved the pointer."""
        with contextlib.suppress(RuntimeError):  # a closed loop serves nobody any more
            self.loop.call_soon_threadsafe(self.swapper.swapped, self.loaded)

    def abort(self) -> None:
        """Nothing but memory was taken, and it goes with this object."""


async def _to_the_end(
    switch: Callable[..., Committed | Refused], *arguments: object
) -> Committed | Refused:
    """Run a change of the store in a thread; who cancels it waits until it is over.

    A thread cannot be stopped, and the store must not be closed under it.
    """
    work = asyncio.ensure_future(asyncio.to_thread(switch, *arguments))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait([work])
        raise

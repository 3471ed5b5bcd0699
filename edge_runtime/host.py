"""The real `ModelHost`: active bundles of the store, loaded into one engine thread.

Models are changed while they answer: `Host.activate` and `Host.revert`, see `edge_runtime.swap`.

`open_host` yields at once and loads in the background, so that the HTTP side can say what it
waits for. A model whose bundle fails to load keeps the host from being ready, with the reason.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import structlog

from edge_runtime.bundle.activation import Committed, Loader, Refused
from edge_runtime.bundle.manifest import Manifest
from edge_runtime.bundle.store import Store
from edge_runtime.config import Settings
from edge_runtime.core import (
    FloatArray,
    GenerateRequest,
    ModelInfo,
    OnSwap,
    RequestClass,
    TextCodec,
    TokenEvent,
)
from edge_runtime.engine.decode_worker import DecodeWorker, Event
from edge_runtime.engine.encode_worker import EncodeWorker
from edge_runtime.engine.load import LoadedModel, load_model
from edge_runtime.engine.loop import EngineLoop
from edge_runtime.errors import CapacityError, EdgeError, EngineError, UsageError
from edge_runtime.metrics import EngineObserver, Metrics, NullObserver
from edge_runtime.swap import InUse, Swapper

log: Final = structlog.get_logger("edge_runtime.host")

NOTHING_ACTIVE: Final = ""
"""The key in `Host.problems` of an empty store; no model is called that."""


@dataclass(slots=True)
class Host:
    """See `ModelHost`. Lives on one event loop; models run in the engine thread."""

    engine: EngineLoop
    loop: asyncio.AbstractEventLoop
    store: Store
    settings: Settings
    observer: EngineObserver
    loading_reason: str = "models are being loaded"
    problems: dict[str, str] = field(default_factory=dict)
    failure: str = ""
    in_use: InUse = field(default_factory=InUse)
    swapper: Swapper = field(init=False)
    _started: int = 0
    _models: dict[str, LoadedModel] = field(default_factory=dict)
    _replaced: dict[tuple[str, str], LoadedModel] = field(default_factory=dict)
    _streams: dict[str, asyncio.Queue[TokenEvent]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.swapper = Swapper(self, self.store, self.settings, self.in_use)

    @property
    def not_ready_reason(self) -> str:
        """Why `ready` is false, for people."""
        return self.failure or self.loading_reason or "; ".join(self.problems.values())

    @property
    def ready(self) -> bool:
        """True once every configured model can answer."""
        return not self.not_ready_reason

    def models(self) -> Sequence[ModelInfo]:
        """Every active model."""
        return [loaded.info for loaded in self._models.values()]

    def info(self, model: str) -> ModelInfo:
        """See `ModelHost`."""
        return self._loaded(model).info

    def codec(self, model: str) -> TextCodec:
        """See `ModelHost`."""
        return self._loaded(model).codec

    async def activate(self, name: str, digest: str) -> Committed | Refused:
        """Serve `name` from a staged bundle while requests run; none of them is dropped.

        Loads beside what serves, so both must fit in memory: `CapacityError` when they do not.
        Raises `EngineError` when the engine has failed, or the store while the pointer moved.
        Takes seconds; cancelling waits for its end.
        """
        return await self.swapper.activate(name, digest)

    async def revert(self, name: str) -> Committed | Refused:
        """Serve `name` from its previous bundle again, in the same way."""
        return await self.swapper.revert(name)

    def on_swap(self, listener: OnSwap) -> None:
        """Call `listener` on the event loop whenever a name changed its model."""
        self.swapper.on_swap.append(listener)

    def load(self, directory: Path, manifest: Manifest) -> LoadedModel:
        """See `SwapHost`."""
        return load_model(
            directory, manifest, self.settings, deliver=self.deliver, observer=self.observer
        )

    def replace(self, loaded: LoadedModel) -> LoadedModel | None:
        """See `SwapHost`."""
        name = loaded.info.name
        old = self._models.get(name)
        self._models[name] = loaded
        self.engine.add(loaded.worker)
        self.problems.pop(name, None)
        self.problems.pop(NOTHING_ACTIVE, None)
        if old is not None:
            self._replaced[name, old.info.bundle_digest] = old
        return old

    def forget(self, loaded: LoadedModel) -> None:
        """See `SwapHost`."""
        key = (loaded.info.name, loaded.info.bundle_digest)
        if self._replaced.get(key) is loaded:
            del self._replaced[key]
        self.engine.remove(loaded.worker)

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[TokenEvent, None]:
        """See `ModelHost`; the sequence is queued when the first event is asked for."""
        loaded = self._loaded(request.model, request.bundle_digest)
        worker = loaded.worker
        if not isinstance(worker, DecodeWorker):
            raise UsageError(f"{request.model} does not generate text", param="model")
        events: asyncio.Queue[TokenEvent] = asyncio.Queue()
        # Callers choose their ids: two requests in progress may bear the same one.
        self._started += 1
        request = replace(request, request_id=f"{request.request_id}#{self._started}")
        self._streams[request.request_id] = events
        finished = False
        with self.in_use.hold(loaded):
            try:
                worker.submit(request)
                self.engine.wake()
                while not finished:
                    event = await events.get()
                    finished = event.finish_reason is not None
                    yield event
            finally:
                del self._streams[request.request_id]
                if not finished:
                    worker.cancel(request.request_id)
                    self.engine.wake()

    async def encode(
        self,
        model: str,
        inputs: Sequence[Sequence[int]],
        *,
        request_class: RequestClass = RequestClass.INTERACTIVE,
        bundle_digest: str = "",
    ) -> FloatArray:
        """See `ModelHost`. Cancelling takes what has not run yet out of the queue."""
        loaded = self._loaded(model, bundle_digest)
        worker = loaded.worker
        if not isinstance(worker, EncodeWorker):
            raise UsageError(f"{model} has no embeddings or labels to give", param="model")
        with self.in_use.hold(loaded):
            future = worker.submit(inputs, request_class)
            self.engine.wake()
            return await asyncio.wrap_future(future)

    def deliver(self, events: Sequence[Event]) -> None:
        """Take a batch of events from the engine thread over to the event loop."""
        # A closed loop has nobody left to tell.
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self._dispatch, events)

    def engine_failed(self, error: BaseException) -> None:
        """The engine thread ended: say so until the daemon is started again."""
        self.failure = f"the engine failed ({error}); restart the daemon"

    def _dispatch(self, events: Sequence[Event]) -> None:
        for request_id, event in events:
            stream = self._streams.get(request_id)
            if stream is not None:
                stream.put_nowait(event)

    def _loaded(self, model: str, bundle_digest: str = "") -> LoadedModel:
        """The model that serves a name, or the one a request was tokenised for."""
        if self.failure:
            raise EngineError(self.failure)
        loaded = self._models.get(model)
        if loaded is None:
            raise self._absent(model)
        if bundle_digest in ("", loaded.info.bundle_digest):
            return loaded
        replaced = self._replaced.get((model, bundle_digest))
        if replaced is None:
            raise CapacityError(
                f"{model} was replaced while the request was read; ask again",
                retry_after_s=1.0,
                status=503,
            )
        return replaced

    def _absent(self, model: str) -> CapacityError | UsageError:
        if not self.ready:
            return CapacityError(
                f"{model!r} cannot answer yet: {self.not_ready_reason}",
                retry_after_s=2.0,
                status=503,
            )
        return UsageError(
            f"no active model is called {model!r}; GET /v1/models lists them",
            param="model",
            code="model_not_found",
            status=404,
        )


@contextlib.asynccontextmanager
async def open_host(settings: Settings, metrics: Metrics) -> AsyncIterator[Host]:
    """Open the store, start the engine, and load models in the background.

    Raises `ConfigError` when the store cannot be opened. Leaving ends every request and waits
    for the engine thread.
    """
    loop = asyncio.get_running_loop()
    with contextlib.ExitStack() as stack:
        opening = Store.open(settings.store.path)
        store = await asyncio.to_thread(stack.enter_context, opening)
        engine = EngineLoop()
        host = Host(engine, loop, store, settings, metrics)
        engine.on_crash = host.engine_failed
        stack.enter_context(engine)
        loading = asyncio.create_task(_load_all(host), name="load-models")
        try:
            yield host
        finally:
            loading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await loading
            await host.swapper.close()


async def _load_all(host: Host) -> None:
    active = host.store.active()
    names = host.settings.models.serve or sorted(active)
    problems = host.problems
    for name in names:
        if name not in active:
            problems[name] = f"{name}: not active in the store; install a bundle for it"
            continue
        host.loading_reason = f"loading {name}"
        started_s = time.monotonic()
        try:
            loaded = await asyncio.to_thread(_load_one, host, active[name].bundle_digest)
        except EdgeError as error:
            problems[name] = str(error)
            log.error("model not loaded", action="model_failed", model=name, reason=str(error))  # noqa: TRY400
            continue
        except Exception as error:
            # A bug in one model's loading must not leave "loading" standing for ever.
            problems[name] = f"{name}: loading failed ({error!r}); see the daemon's log"
            log.exception("model not loaded", action="model_failed", model=name)
            continue
        host.replace(loaded)
        log.info(
            "model loaded",
            action="model_loaded",
            model=loaded.info.full_name,
            variant=loaded.info.variant,
            seconds=round(time.monotonic() - started_s, 2),
        )
    if not names:
        problems[NOTHING_ACTIVE] = (
            "no model is active in the store; run `edge-runtime install BUNDLE`"
        )
    host.loading_reason = ""
    host.swapper.loaded.set()


def _load_one(host: Host, digest: str) -> LoadedModel:
    manifest = host.store.verify(digest)
    return host.load(host.store.directory(digest), manifest)


class _Checked:
    """A bundle that loaded and answered right in a process that does not serve."""

    def commit(self) -> None:
        """Nothing to swap: the daemon loads the bundle at its next start."""

    def abort(self) -> None:
        """Nothing was kept."""


def bundle_loader(settings: Settings) -> Loader:
    """The engine's part of an activation outside the daemon: load, check golden answers, let go."""

    def load(directory: Path, manifest: Manifest) -> _Checked | Refused:
        load_model(
            directory, manifest, settings, deliver=lambda events: None, observer=NullObserver()
        )
        return _Checked()

    return load

"""Run the app on a port until told to stop, then drain."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Final, TypeVar

import structlog
from aiohttp import web

from edge_runtime.config import Settings
from edge_runtime.core import ModelHost
from edge_runtime.errors import CapacityError, ConfigError, UsageError
from edge_runtime.metrics import Metrics
from edge_runtime.router.live import Routing
from edge_runtime.router.open import open_routing
from edge_runtime.router.similar import semantic_cache
from edge_runtime.server.app import create_app
from edge_runtime.server.context import CURRENT
from edge_runtime.server.pauses import short_pauses

log: Final = structlog.get_logger("edge_runtime.server")

MIN_DRAIN_S = 0.01  # aiohttp takes 0 for "wait for ever"

H = TypeVar("H", bound=ModelHost)
HostFactory = Callable[[Settings, Metrics], contextlib.AbstractAsyncContextManager[H]]
Join = Callable[[H, Metrics, Routing], contextlib.AbstractAsyncContextManager[object]]
"""Opens what runs beside the server as long as it listens: a box's part in a fleet."""


@contextlib.asynccontextmanager
async def listening(app: web.Application, settings: Settings) -> AsyncGenerator[str, None]:
    """Listen, and yield the base URL. On leaving: refuse new work, wait for what is in
    progress up to `server.drain_timeout_s`, then cancel it.

    Raises `ConfigError` when the address cannot be had.
    """
    server = settings.server
    runner = web.AppRunner(
        app,
        handler_cancellation=True,
        shutdown_timeout=max(server.drain_timeout_s, MIN_DRAIN_S),
        keepalive_timeout=server.keepalive_timeout_s,
        max_line_size=server.max_header_bytes,
        max_field_size=server.max_header_bytes,
        access_log=None,
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, server.host, server.port)
        try:
            await site.start()
        except OSError as error:
            raise ConfigError(
                f"server.host {server.host}, server.port {server.port}: {error.strerror}; "
                "choose another port or stop what listens there"
            ) from error
        port = runner.addresses[0][1]
        host = f"[{server.host}]" if ":" in server.host else server.host
        yield f"http://{host}:{port}"
    finally:
        app[CURRENT].services.traffic.draining = True
        await runner.cleanup()


def _alone(host: ModelHost, metrics: Metrics, routing: Routing) -> contextlib.nullcontext[None]:
    return contextlib.nullcontext()


async def serve(
    settings: Settings,
    open_host: HostFactory[H],
    *,
    join: Join[H] = _alone,
    on_listening: Callable[[str], None] = lambda _: None,
    wait_for_stop: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Load models, listen at once (503 until they are ready), stop on SIGTERM or SIGINT.

    `on_listening` gets the base URL as soon as the port is open.
    """
    metrics = Metrics()
    async with contextlib.AsyncExitStack() as stack:
        # first in, last out: what the engine's last requests cost still finds its ledger
        hosts: list[ModelHost] = []
        routing = await stack.enter_async_context(
            open_routing(settings, metrics, digest_of=lambda name: _digest(hosts, name))
        )
        host = await stack.enter_async_context(open_host(settings, metrics))
        hosts.append(host)
        await stack.enter_async_context(semantic_cache(routing, host))
        app = create_app(host, settings, metrics, router=routing.router)
        reroute(app, routing)
        await stack.enter_async_context(join(host, metrics, routing))
        await stack.enter_async_context(short_pauses(host))
        async with listening(app, settings) as url:
            log.info("listening", action="listening", url=url)
            on_listening(url)
            await (wait_for_stop or _stop_signal)()
            log.info("stopping", action="draining", up_to_s=settings.server.drain_timeout_s)
    log.info("stopped", action="stopped")


def reroute(app: web.Application, routing: Routing) -> None:
    """Let the app's next requests be routed by what counts whenever settings change."""
    routing.on_change(lambda router, settings: app[CURRENT].route_by(router))


def _digest(hosts: list[ModelHost], name: str) -> str | None:
    """The digest of an active model; None for one that is not there, or not yet."""
    try:
        return hosts[0].info(name).model_digest if hosts else None
    except (UsageError, CapacityError):
        return None


async def _stop_signal() -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        await stop.wait()
    finally:
        # a second signal ends the process at once
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)

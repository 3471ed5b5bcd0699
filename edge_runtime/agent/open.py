"""Puts the agent together around a daemon's host, from settings and the box's credential.

A box that was not enrolled, or whose credential is damaged, serves without an agent.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Callable
from typing import Final

import structlog

from edge_runtime.agent.build import Parts
from edge_runtime.agent.credential import (
    CredentialStore,
)
from edge_runtime.agent.documents import AtNextStart, LiveSettings
from edge_runtime.agent.link import Transport
from edge_runtime.agent.run import Agent
from edge_runtime.bundle.files import RealFiles
from edge_runtime.config import Settings
from edge_runtime.errors import ConfigError, EdgeError
from edge_runtime.host import Host
from edge_runtime.metrics import Metrics

log: Final = structlog.get_logger("edge_runtime.agent")


Join = Callable[[Host, Metrics, LiveSettings], contextlib.AbstractAsyncContextManager[Agent | None]]


def in_fleet(own: Settings, running: Settings) -> Join:
    """For `server.serve`: the agent beside a daemon that runs with `running` settings.

    `own` are those of the box's own file, which the fleet's documents go over.
    """

    def join(
        host: Host, metrics: Metrics, live: LiveSettings
    ) -> contextlib.AbstractAsyncContextManager[Agent | None]:
        return open_agent(running, host, metrics, own=own, live=live)

    return join


@contextlib.asynccontextmanager
async def open_agent(
    settings: Settings,
    host: Host,
    metrics: Metrics,
    *,
    own: Settings | None = None,
    live: LiveSettings | None = None,
    transport: Transport | None = None,
) -> AsyncIterator[Agent | None]:
    """Run the agent while inside; yields None where there is nothing to run.

    `settings` are those the daemon runs with, `own` those of its file (None: the same). Without
    `live` settings count from the next start only. `transport` replaces MQTT in tests.
    """
    directory = settings.agent.directory(settings.store.path)
    credentials = CredentialStore(directory / "credential", RealFiles())
    try:
        credential = await asyncio.to_thread(credentials.load) if settings.agent.enabled else None
        if credential is None or credential.grant is None:
            yield None
            return
    except ConfigError as error:
        log.error("no fleet", action="agent_off", reason=str(error))  # noqa: TRY400 - said in full
        yield None
        return
    async with contextlib.AsyncExitStack() as stack:
        parts = Parts(
            settings,
            settings if own is None else own,
            AtNextStart(settings) if live is None else live,
            host,
            metrics,
            credentials,
            credential,
            credential.grant,
        )
        yield await _started(parts, stack, transport)


async def _started(
    parts: Parts, stack: contextlib.AsyncExitStack, transport: Transport | None
) -> Agent | None:
    """The agent, running until `stack` is left; None when it cannot run on this box."""
    try:
        async with contextlib.AsyncExitStack() as building:
            agent = await parts.build(building, transport)
            await building.enter_async_context(agent.running())
            await asyncio.to_thread(parts.trial().came_up)
            rotating = asyncio.ensure_future(parts.rotate_in_time())
            building.callback(rotating.cancel)
            stack.push_async_exit(building.pop_all())
    except (EdgeError, OSError, sqlite3.Error) as error:
        # A full disk or a broken certificate takes a box out of the fleet, not out of service.
        log.exception("the agent does not run", action="agent_off", reason=str(error))
        return None
    log.info("in a fleet", action="agent_on", principal=parts.grant.principal)
    return agent

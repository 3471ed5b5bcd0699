"""Published on disk, served over a socket, trusted, fetched and staged by a box."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from aiohttp.typedefs import Handler

from edge_runtime.agent.contract import FetchJob
from edge_runtime.agent.download import BundleFetcher, HttpBlobs
from edge_runtime.agent.download.clock import ManualClock
from edge_runtime.agent.trust import HttpMetadata, Trust, TrustState
from edge_runtime.bundle.envelope import trust
from edge_runtime.bundle.files import RealFiles
from edge_runtime.bundle.manifest import BLOCK_BYTES
from edge_runtime.bundle.store import Store
from edge_runtime.errors import TransportError
from fleet.blobs.api import blob_routes
from fleet.publish.initial import initialise
from fleet.publish.publish import Publisher
from fleet.publish.repository import Repository
from tests.support.bundles import write_tiny_bundle
from tests.support.downloads import job_for
from tests.support.published import wanted

WEIGHTS = random.Random(3).randbytes(2 * BLOCK_BYTES + 1000)


class Host:
    """A published bundle behind a server that ends connections after `cut_after` blob requests."""

    def __init__(self, root: Path) -> None:
        now = datetime.now(UTC)
        self.repository = Repository(root / "repo")
        ring = initialise(self.repository, root / "keys", models=["tiny"], now=now)
        write_tiny_bundle(root / "bundle", weights=WEIGHTS)
        self.digest = Publisher(self.repository, ring, now).bundle(root / "bundle").digest
        self.ranges: list[str] = []
        self.cut_after = 1_000_000

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self._watch])
        app.add_routes(blob_routes(self.repository.root_path))
        return app

    @web.middleware
    async def _watch(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if "/blob/" in request.path:
            self.ranges.append(request.headers["Range"])
            if len(self.ranges) > self.cut_after:
                assert request.transport is not None
                request.transport.abort()
        return await handler(request)


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def test_from_a_published_bundle_to_a_staged_one(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    host = Host(tmp_path / "host")
    async with TestServer(host.app()) as server:
        url = str(server.make_url("")).rstrip("/")
        loop = asyncio.get_running_loop()
        root = (host.repository.metadata_path / "1.root.json").read_bytes()
        state = TrustState(tmp_path / "trust", RealFiles(), root)
        metadata = HttpMetadata(session, f"{url}/v1/tuf", timeout_s=10, loop=loop)
        gate = Trust(state, [metadata], trust([]))
        item = wanted(host.digest)
        trusted = await gate.verify(item, now_s=int(datetime.now(UTC).timestamp()))
        fetcher = BundleFetcher(lambda base: HttpBlobs(session, base), gate.delta)
        job = FetchJob(item, trusted, (url,), tmp_path / "spool", None, True, None)
        directory = await fetcher.fetch(job, lambda done, total: None)
    with Store.open(tmp_path / "store") as store:
        assert store.stage(directory, link=True) == host.digest
    assert fetcher.report.full_bytes == len(WEIGHTS) + 7


async def test_a_download_that_broke_off_goes_on_from_another_server(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    host = Host(tmp_path / "host")
    digest = host.digest
    size = (host.repository.root_path / "blobs" / "sha256" / digest).stat().st_size
    async with TestServer(host.app()) as first, TestServer(host.app()) as second:
        urls = [str(server.make_url("")).rstrip("/") for server in (first, second)]
        job = replace(job_for(digest, size), directory=tmp_path / "spool")
        fetcher = BundleFetcher(
            lambda base: HttpBlobs(session, base), lambda *_: None, clock=ManualClock()
        )
        host.cut_after = 3
        with pytest.raises(TransportError, match="no source gave blob"):
            await fetcher.fetch(replace(job, sources=(urls[0],)), lambda done, total: None)
        before = len(host.ranges)
        host.cut_after = 1_000_000
        progress: list[int] = []
        path = await fetcher.fetch(
            replace(job, sources=(urls[1],)), lambda done, total: progress.append(done)
        )
    assert (path / "int8" / "model.onnx_data").read_bytes() == WEIGHTS
    assert len(host.ranges) > before


@pytest.mark.parametrize(
    ("status", "headers", "reason"),
    [
        (404, {}, "does not have it"),
        (500, {}, "answered 500"),
        (302, {"Location": "/elsewhere"}, "answered 302"),
        (206, {"Content-Range": "bytes 5-9/10"}, "not the one asked for"),
        (206, {}, "not the one asked for"),
    ],
)
async def test_answers_that_are_not_the_range_are_refused(
    session: aiohttp.ClientSession, status: int, headers: dict[str, str], reason: str
) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=status, headers=headers, body=b"12345")

    app = web.Application()
    app.router.add_get("/{tail:.*}", answer)
    async with TestServer(app) as server:
        source = HttpBlobs(session, str(server.make_url("")))
        with pytest.raises(TransportError, match=reason):
            async for _ in source.read("0" * 64, 0, 5):
                pass


async def test_a_server_without_ranges_serves_only_whole_blobs(
    session: aiohttp.ClientSession,
) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=b"12345")

    app = web.Application()
    app.router.add_get("/{tail:.*}", answer)
    async with TestServer(app) as server:
        source = HttpBlobs(session, str(server.make_url("")))
        assert b"".join([piece async for piece in source.read("0" * 64, 0, 5)]) == b"12345"
        with pytest.raises(TransportError, match="answered 200 to a request for a range"):
            async for _ in source.read("0" * 64, 1, 4):
                pass


async def test_a_silent_server_is_given_up(session: aiohttp.ClientSession) -> None:
    async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silence, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    source = HttpBlobs(session, f"http://127.0.0.1:{port}", stall_timeout_s=0.05)
    with pytest.raises(TransportError):
        async for _ in source.read("0" * 64, 0, 5):
            pass
    server.close()

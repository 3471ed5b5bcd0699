"""The blob and metadata routes over a real socket."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from fleet.blobs.api import blob_routes

DATA = bytes(range(256)) * 2000
DIGEST = hashlib.sha256(DATA).hexdigest()
BLOB = f"/v1/blob/sha256/{DIGEST}"
Client = TestClient[web.Request, web.Application]


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    (tmp_path / "blobs" / "sha256").mkdir(parents=True)
    (tmp_path / "metadata").mkdir()
    (tmp_path / "blobs" / "sha256" / DIGEST).write_bytes(DATA)
    (tmp_path / "blobs" / "sha256" / ("0" * 64)).symlink_to("/etc/hostname")
    (tmp_path / "metadata" / "1.root.json").write_bytes(b"{}")
    (tmp_path / "metadata" / "timestamp.json").write_bytes(b"{1}")
    (tmp_path / "secret.json").write_bytes(b"secret")
    app = web.Application()
    app.add_routes(blob_routes(tmp_path, max_transfers=2))
    async with TestClient(TestServer(app)) as client:
        yield client


async def test_a_blob_is_sent_whole_and_for_ever(client: Client) -> None:
    reply = await client.get(BLOB)
    assert reply.status == 200
    assert await reply.read() == DATA
    assert reply.headers["ETag"] == f'"{DIGEST}"'
    assert "immutable" in reply.headers["Cache-Control"]
    again = await client.get(BLOB, headers={"If-None-Match": reply.headers["ETag"]})
    assert (again.status, await again.read()) == (304, b"")


async def test_a_range_is_sent_as_asked(client: Client) -> None:
    reply = await client.get(BLOB, headers={"Range": "bytes=1000-300999"})
    assert reply.status == 206
    assert reply.headers["Content-Range"] == f"bytes 1000-300999/{len(DATA)}"
    assert await reply.read() == DATA[1000:301_000]
    changed = {"Range": "bytes=1000-", "If-Range": '"other"'}
    assert (await client.get(BLOB, headers=changed)).status == 200


async def test_a_range_past_the_end_says_how_long_the_file_is(client: Client) -> None:
    reply = await client.get(BLOB, headers={"Range": f"bytes={len(DATA)}-"})
    assert (reply.status, reply.headers["Content-Range"]) == (416, f"bytes */{len(DATA)}")


async def test_head_says_the_same_without_bytes(client: Client) -> None:
    reply = await client.head(BLOB)
    assert (reply.status, reply.headers["Content-Length"]) == (200, str(len(DATA)))
    assert reply.headers["Accept-Ranges"] == "bytes"


async def test_metadata_is_sent_and_the_timestamp_not_kept(client: Client) -> None:
    root = await client.get("/v1/tuf/1.root.json")
    timestamp = await client.get("/v1/tuf/timestamp.json")
    assert (await root.read(), await timestamp.read()) == (b"{}", b"{1}")
    assert "immutable" in root.headers["Cache-Control"]
    assert timestamp.headers["Cache-Control"] == "no-cache"


@pytest.mark.parametrize(
    "path",
    [
        f"/v1/blob/sha256/{'f' * 64}",
        f"/v1/blob/sha256/{'0' * 64}",  # a link
        f"/v1/blob/sha256/{DIGEST.upper()}",
        "/v1/blob/sha256/..%2f..%2fsecret.json",
        "/v1/tuf/2.root.json",
        "/v1/tuf/..%2fsecret.json",
        "/v1/tuf/secret.json",
        "/v1/tuf/%2e%2e",
    ],
)
async def test_nothing_else_is_served(client: Client, path: str) -> None:
    reply = await client.get(path)
    assert reply.status == 404
    assert b"secret" not in await reply.read()


async def test_more_transfers_than_allowed_are_told_to_come_back(tmp_path: Path) -> None:
    app = web.Application()
    app.add_routes(blob_routes(tmp_path, max_transfers=0))
    async with TestClient(TestServer(app)) as client:
        reply = await client.get(BLOB)
    assert (reply.status, reply.headers["Retry-After"]) == (503, "5")


async def test_places_are_given_back(client: Client) -> None:
    for _ in range(5):  # two places
        assert (await client.get(BLOB)).status == 200
        assert (await client.get("/v1/tuf/9.root.json")).status == 404

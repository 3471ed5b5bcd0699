"""The wire to a frontier: certificates, redirects, keys, lines that break."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from benchmarks.frontier_answers import Oracle
from benchmarks.frontier_standin import StandIn
from edge_runtime.ledger.memory import MemoryLedger
from edge_runtime.ledger.rows import MoneySource
from edge_runtime.router.contract import FrontierError, FrontierWhy
from edge_runtime.router.frontier.memory import NOW_US
from edge_runtime.router.frontier.pool import FrontierPool
from tests.support.frontier import FakeTime, a_call
from tests.support.standin import PRICES, frontier, settings, streamed


def certificate(folder: Path) -> tuple[Path, Path]:
    """A key and a certificate for 127.0.0.1 that it signed itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False
        )
        .sign(key, SHA256())
    )
    pem, key_pem = folder / "cert.pem", folder / "key.pem"
    pem.write_bytes(made.public_bytes(Encoding.PEM))
    key_pem.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return pem, key_pem


async def test_only_a_trusted_certificate_gets_the_prompt(
    table: Mapping[str, str], tmp_path: Path
) -> None:
    pem, key_pem = certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pem, key_pem)
    stand_in = StandIn(Oracle(table))
    server = TestServer(stand_in.app(), scheme="https")
    await server.start_server(ssl=context)
    async with server:
        url = str(server.make_url("/v1"))
        for ca_file, answered in ((None, False), (pem, True)):
            ledger = MemoryLedger(lambda: NOW_US)
            given = {"big": settings(url, ca_file=ca_file, max_tries=1)}
            async with FrontierPool(given, PRICES, ledger, wall_us=lambda: NOW_US) as pool:
                if answered:
                    await pool.complete(a_call(next(iter(table))))
                    continue
                with pytest.raises(FrontierError, match="certificate"):
                    await pool.complete(a_call(next(iter(table))))
                assert stand_in.calls == 0
                assert ledger.attempts[0].money_source is MoneySource.NONE
    assert stand_in.calls == 1


async def test_nothing_follows_a_redirect_and_no_key_is_quoted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SOME_KEY", "very-secret")
    elsewhere: list[str] = []

    async def moved(request: web.Request) -> web.Response:
        return web.Response(status=307, headers={"Location": "/elsewhere"}, text="moved")

    async def caught(request: web.Request) -> web.Response:
        elsewhere.append(await request.text())
        return web.json_response({})

    async def quoting(request: web.Request) -> web.Response:
        said = f"no such key: {request.headers['Authorization']}"
        return web.json_response({"error": {"message": said}}, status=401)

    app = web.Application()
    app.router.add_post("/moved/chat/completions", moved)
    app.router.add_post("/quoting/chat/completions", quoting)
    app.router.add_post("/elsewhere", caught)
    async with TestServer(app) as server:
        for path, said in (("moved", "answered 307"), ("quoting", "no such key: Bearer <key>")):
            given = {"big": settings(str(server.make_url(f"/{path}")), api_key_env="SOME_KEY")}
            ledger = MemoryLedger(lambda: NOW_US)
            async with FrontierPool(given, PRICES, ledger, wall_us=lambda: NOW_US) as pool:
                with pytest.raises(FrontierError, match=said) as told:
                    await pool.complete(a_call())
            assert told.value.why is FrontierWhy.UNREACHABLE
            assert "very-secret" not in str(told.value)
            assert ledger.attempts[0].frontier_nano == 0
    assert elsewhere == []


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{",
        b"this is no HTTP\r\n\r\n",
        b"HTTP/1.1 503 Busy\r\nContent-Length: 99\r\n\r\n{",
    ],
)
async def test_a_line_that_breaks_may_have_been_charged(said: bytes) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(said)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        ledger = MemoryLedger(lambda: NOW_US)
        one = settings(url, max_tries=2)
        time = FakeTime()
        pool = FrontierPool(
            {"big": one}, PRICES, ledger, timing=time.timing, wall_us=lambda: NOW_US
        )
        async with pool:
            with pytest.raises(FrontierError) as told:
                await pool.complete(a_call())
    assert told.value.why is FrontierWhy.UNREACHABLE
    assert [row.money_source for row in ledger.attempts] == [MoneySource.WORST_CASE] * 2
    assert len(time.slept) == 1


async def test_a_wrong_key_is_no_reason_to_try_again(
    table: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in = StandIn(Oracle(table), api_key="right")
    async with stand_in.serving() as url:
        for key, calls in (("wrong-one", 1), ("right", 2)):
            monkeypatch.setenv("SOME_KEY", key)
            given = {"big": settings(url, api_key_env="SOME_KEY")}
            ledger = MemoryLedger(lambda: NOW_US)
            async with FrontierPool(given, PRICES, ledger, wall_us=lambda: NOW_US) as pool:
                if key == "right":
                    await pool.complete(a_call(next(iter(table))))
                else:
                    with pytest.raises(FrontierError, match="check its settings") as told:
                        await pool.complete(a_call(next(iter(table))))
                    assert "wrong-one" not in str(told.value)
            assert stand_in.calls == calls


async def test_connections_are_used_again(table: Mapping[str, str]) -> None:
    async with frontier(table) as (stand_in, pool, _):
        for text in list(table)[:3]:
            await pool.complete(a_call(text))
            await streamed(pool, text)
        assert stand_in.calls == 6
        assert len(stand_in.peers) == 1

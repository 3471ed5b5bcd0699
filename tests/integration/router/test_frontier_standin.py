"""The pool against a frontier that meters itself: what is booked is what is charged."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from benchmarks.frontier_answers import Behaviour, Oracle, read_table
from benchmarks.frontier_standin import StandIn
from edge_runtime.ledger.budget import Limit, Period, Refused, window_of
from edge_runtime.ledger.ledger import Ledger
from edge_runtime.ledger.memory import MemoryLedger
from edge_runtime.ledger.money import cents
from edge_runtime.ledger.prices import Prices, parse_prices
from edge_runtime.ledger.rows import MoneySource, Status
from edge_runtime.router.contract import FrontierError, FrontierReply, FrontierWhy, Json
from edge_runtime.router.frontier.memory import NOW_US, MemoryFrontiers, says
from edge_runtime.router.frontier.pool import FrontierPool
from edge_runtime.router.frontier.settings import FrontierSettings
from tests.support.frontier import FakeTime, a_call

PRICES: Prices = parse_prices(
    {
        "schema": 1,
        "version": "test",
        "as_of": "2026-11-22",
        "currency": "USD",
        "frontier": {"big": {"input": "2.50", "cached_input": "0.25", "output": 10}},
    }
)


@pytest.fixture(scope="module")
def table(repository: Path) -> Mapping[str, str]:
    path = repository / "tests" / "data" / "clinc150" / "train.jsonl"
    return read_table(path.read_text(encoding="utf-8").splitlines())


def settings(url: str, **changes: Any) -> FrontierSettings:
    values = {"base_url": url, "model": "big", "training_allowed": False}
    return FrontierSettings.model_validate(values | changes)


@contextlib.asynccontextmanager
async def frontier(
    table: Mapping[str, str], ledger: Any = None, *, time: FakeTime | None = None, **given: Any
) -> AsyncIterator[tuple[StandIn, FrontierPool, Any]]:
    """A stand-in and a pool that asks it; `given` are behaviours, and settings of the pool."""
    behaviour = {key: given.pop(key) for key in list(given) if key in Behaviour.__slots__}
    stand_in = StandIn(Oracle(table), Behaviour(**behaviour))
    ledger = MemoryLedger(lambda: NOW_US) if ledger is None else ledger
    async with stand_in.serving() as url:
        pool = FrontierPool(
            {"big": settings(url, **given)},
            PRICES,
            ledger,
            timing=(time or FakeTime()).timing,
            wall_us=lambda: NOW_US,
        )
        async with pool:
            yield stand_in, pool, ledger


async def streamed(pool: FrontierPool, text: str) -> tuple[str, FrontierReply]:
    parts: list[str] = []
    async for chunk in pool.stream(a_call(text)):
        choices = chunk.data.get("choices", ())
        parts += [choice["delta"].get("content") or "" for choice in choices]
        if chunk.reply is not None:
            return "".join(parts), chunk.reply
    raise AssertionError("a stream ended without its bill")


def no_refusal(body: Json) -> str | None:
    return "it refuses" if "sorry" in body["choices"][0]["message"]["content"] else None


async def test_the_ledger_equals_the_bill_through_every_fault(table: Mapping[str, str]) -> None:
    faults = {"server_error": 0.2, "rate_limit": 0.15, "refuse": 0.05, "off_label": 0.05}
    async with frontier(
        table, seed=3, retry_after_s=0.2, max_tries=8, breaker={"failures": 50}, **faults
    ) as (stand_in, pool, ledger):
        for number, text in enumerate(list(table)[:60]):
            if number % 2:
                said, reply = await streamed(pool, text)
                assert reply.body["choices"][0]["message"]["content"] == said
            else:
                with contextlib.suppress(FrontierError):
                    await pool.complete(a_call(text, accept=no_refusal))
    booked = sum(row.frontier_nano for row in ledger.attempts)
    assert booked == stand_in.meter.nano > 0
    assert len(ledger.attempts) == stand_in.calls > 60
    assert stand_in.kinds["server_error"] > 5
    assert stand_in.kinds["rate_limit"] > 5
    kinds = {row.status for row in ledger.attempts}
    assert kinds == {Status.OK, Status.ERROR, Status.DISCARDED}
    assert {row.money_source for row in ledger.attempts} == {MoneySource.USAGE, MoneySource.NONE}
    for name in ("tokens_in", "tokens_cached", "tokens_out"):
        assert sum(getattr(row, name) for row in ledger.attempts) == getattr(stand_in.meter, name)


async def test_a_cached_prefix_is_charged_as_cached(table: Mapping[str, str]) -> None:
    system = {"role": "system", "content": "Name the intent. " * 20}
    async with frontier(table) as (stand_in, pool, ledger):
        for text in list(table)[:3]:
            messages = [system, {"role": "user", "content": text}]
            await pool.complete(a_call(body={"messages": messages}))
    assert [row.tokens_cached > 60 for row in ledger.attempts] == [False, True, True]
    assert sum(row.frontier_nano for row in ledger.attempts) == stand_in.meter.nano


async def test_cut_streams_are_estimated_and_said_to_be(table: Mapping[str, str]) -> None:
    long = dict.fromkeys(table, "a b c d e f g h i j")
    async with frontier(
        long, cut=0.5, wrong=0.0, seed=1, max_tries=1, breaker={"failures": 90}
    ) as (stand_in, pool, ledger):
        reasons = []
        for text in list(long)[:20]:
            try:
                await streamed(pool, text)
            except FrontierError as error:
                reasons.append(error.why)
    estimates = [row for row in ledger.attempts if row.money_source is MoneySource.ESTIMATE]
    assert len(estimates) == len(reasons) == stand_in.kinds["cut"] > 3
    assert set(reasons) == {FrontierWhy.CUT}
    assert all(row.tokens_out == 5 and row.status is Status.ERROR for row in estimates)
    booked = sum(row.frontier_nano for row in ledger.attempts)
    assert cents(booked) == cents(stand_in.meter.nano)
    exact = sum(one["nano"] for one in stand_in.meter.entries if one["out"] == 10)
    usage = [row for row in ledger.attempts if row.money_source is MoneySource.USAGE]
    assert sum(row.frontier_nano for row in usage) == exact


async def test_a_cut_before_the_answer_is_asked_again_and_never_underpaid(
    table: Mapping[str, str],
) -> None:
    async with frontier(table, cut=0.5, seed=2, max_tries=6) as (stand_in, pool, ledger):
        for text in list(table)[:10]:
            await pool.complete(a_call(text))
    assert stand_in.kinds["cut"] > 2
    lost = [row for row in ledger.attempts if row.money_source is MoneySource.WORST_CASE]
    assert len(lost) == stand_in.kinds["cut"]
    assert sum(row.frontier_nano for row in ledger.attempts) > stand_in.meter.nano


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("behaviour", "why"),
    [
        ({"rate_limit": 1.0, "retry_after_s": 30.0}, FrontierWhy.RATE_LIMITED),
        ({"out_of_credit": 1.0}, FrontierWhy.OUT_OF_CREDIT),
        ({"server_error": 1.0}, FrontierWhy.UNREACHABLE),
        ({"stall": 1.0}, FrontierWhy.TIMEOUT),
        ({"credit_nano": 0}, FrontierWhy.OUT_OF_CREDIT),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
async def test_each_fault_has_its_reason(
    table: Mapping[str, str], behaviour: dict[str, float], why: FrontierWhy, stream: bool
) -> None:
    short = {"total_timeout_s": 0.2, "first_token_timeout_s": 0.1, "max_tries": 2}
    async with frontier(table, **behaviour, **short) as (_, pool, ledger):
        text = next(iter(table))
        with pytest.raises(FrontierError) as told:
            await (streamed(pool, text) if stream else pool.complete(a_call(text)))
        assert told.value.why is why
        assert told.value.tries == len(ledger.attempts) >= 1
        assert told.value.cost_nano == sum(row.frontier_nano for row in ledger.attempts)
        assert all(row.status is Status.ERROR for row in ledger.attempts)
        assert (told.value.retry_after_s == 30.0) == ("retry_after_s" in behaviour)


async def test_an_outage_fails_fast_and_ends_with_the_first_success(
    table: Mapping[str, str],
) -> None:
    time = FakeTime()
    async with frontier(table, time=time, server_error=1.0, max_tries=1) as (stand_in, pool, _):
        text = next(iter(table))
        for _turn in range(20):
            with pytest.raises(FrontierError):
                await pool.complete(a_call(text))
        assert stand_in.calls == 5  # the breaker opened
        assert not pool.available(())
        time.now_s += 2.0
        assert pool.available(())
        with pytest.raises(FrontierError):
            await pool.complete(a_call(text))
        assert stand_in.calls == 6  # one probe, although the breaker is open for 30 s
        stand_in.behaviour = stand_in.behaviour.changed({"server_error": 0.0})
        time.now_s += 2.0
        await pool.complete(a_call(text))
        await pool.complete(a_call(text))
        assert stand_in.calls == 8


async def test_nobody_listens_there_so_the_next_one_answers(table: Mapping[str, str]) -> None:
    stand_in = StandIn(Oracle(table))
    ledger = MemoryLedger(lambda: NOW_US)
    async with stand_in.serving() as url:
        async with stand_in.serving() as closed:
            pass
        both = {
            "gone": settings(closed, order=0, max_tries=2),
            "here": settings(url, order=1),
        }
        pool = FrontierPool(both, PRICES, ledger, timing=FakeTime().timing, wall_us=lambda: NOW_US)
        async with pool:
            assert pool.names() == ("gone", "here")
            reply = await pool.complete(a_call(next(iter(table))))
    assert (reply.frontier, reply.tries) == ("here", 3)
    assert [row.frontier_nano > 0 for row in ledger.attempts] == [False, False, True]
    assert [row.attempt for row in ledger.attempts] == [0, 1, 2]
    assert [row.answered for row in ledger.attempts] == [False, False, True]


async def test_a_caller_who_leaves_stops_the_frontier(table: Mapping[str, str]) -> None:
    long = dict.fromkeys(table, "word " * 400)
    async with frontier(long, token_s=0.001) as (stand_in, pool, ledger):
        stream = pool.stream(a_call(next(iter(long)), max_output_tokens=500))
        async for chunk in stream:
            if chunk.data["choices"][0]["delta"].get("content"):
                break
        await stream.aclose()
        async with asyncio.timeout(5):
            await stand_in.idle.wait()
        assert 0 < stand_in.meter.tokens_out < 300
        (row,) = ledger.attempts
        assert (row.status, row.money_source) == (Status.CANCELLED, MoneySource.ESTIMATE)
        assert not row.answered

        waiting = asyncio.create_task(pool.complete(a_call(next(iter(long)))))
        async with asyncio.timeout(5):
            await stand_in.busy.wait()
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            await stand_in.idle.wait()
        assert ledger.attempts[-1].status is Status.CANCELLED
        assert ledger.attempts[-1].money_source is MoneySource.WORST_CASE


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


CHILD = """
import asyncio, sys
from pathlib import Path
from edge_runtime.ledger.budget import Limit, Period
from edge_runtime.ledger.ledger import Ledger
from edge_runtime.router.frontier.memory import NOW_US, MemoryFrontiers, Scripted, Stall
from tests.support.frontier import a_call

async def main(path, limit_nano):
    limits = [Limit("box", Period.DAY, limit_nano)]
    with Ledger.open(path, limits=limits, clock=lambda: NOW_US) as ledger:
        frontiers = MemoryFrontiers(lambda _body: Scripted(before=Stall()), ledger=ledger)
        calls = [asyncio.create_task(frontiers.complete(a_call())) for _ in range(50)]
        while sum(not one.done() for one in calls) > frontiers.transport.open_now:
            await asyncio.sleep(0)
        print(frontiers.transport.open_now, flush=True)
        await asyncio.Event().wait()

asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
"""


def test_a_kill_in_the_middle_of_calls_forgets_no_money(tmp_path: Path) -> None:
    probe = MemoryFrontiers(lambda _body: says("x"))
    asyncio.run(probe.complete(a_call()))
    assert isinstance(probe.ledger, MemoryLedger)
    (worst,) = [one.worst_nano for one in probe.ledger._made.values()]
    path, limit_nano = tmp_path / "ledger.db", 10 * worst
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(path), str(limit_nano)],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        # Log lines come first: refusals are told there.
        sent = next(line for line in child.stdout if line.strip().isdecimal())
        child.send_signal(signal.SIGKILL)
        child.wait(10)
    assert int(sent) == 10
    limits = [Limit("box", Period.DAY, limit_nano)]
    with Ledger.open(path, limits=limits, clock=lambda: NOW_US) as ledger:
        window = window_of("box", Period.DAY, NOW_US)
        assert ledger.usage([window]).result()[window].held_nano == limit_nano
        frontiers = MemoryFrontiers(lambda _body: says("x"), ledger=ledger)
        with pytest.raises(FrontierError, match="budget of box"):
            asyncio.run(frontiers.complete(a_call()))
        assert frontiers.transport.requests == []


async def test_fifty_at_once_never_pass_a_budget_for_ten(
    table: Mapping[str, str], tmp_path: Path
) -> None:
    text = next(iter(table))
    probe = MemoryLedger(lambda: NOW_US)
    async with frontier(table, probe) as (_, pool, _):
        await pool.complete(a_call(text))
    (worst,) = [one.worst_nano for one in probe._made.values()]
    limit = Limit("box", Period.DAY, 10 * worst)
    path = tmp_path / "ledger.db"

    def opened() -> Ledger:
        return Ledger.open(path, limits=[limit], clock=lambda: NOW_US)

    window = window_of("box", Period.DAY, NOW_US)
    with opened() as ledger:
        async with frontier(table, ledger, token_s=0.01) as (stand_in, pool, _):
            results = await asyncio.gather(
                *(pool.complete(a_call(text)) for _ in range(50)), return_exceptions=True
            )
        refused = [one for one in results if isinstance(one, FrontierError)]
        answered = [one for one in results if isinstance(one, FrontierReply)]
        assert stand_in.most_active <= 10
        assert len(refused) + len(answered) == 50
        assert {one.why for one in refused} == {FrontierWhy.BUDGET}
        assert all((one.retry_after_s or 0) > 0 for one in refused)
        used = ledger.usage([window]).result()[window]
        assert used.held_nano == 0
        assert used.spent_nano == stand_in.meter.nano <= limit.limit_nano
        # The daemon dies in the middle of four calls: their money stays held.
        for number in range(4):
            held = ledger.reserve(f"lost-{number}", worst_nano=worst).result()
            assert not isinstance(held, Refused)
    with opened() as ledger:
        before = ledger.usage([window]).result()[window]
        assert before.held_nano == 4 * worst
        async with frontier(table, ledger, token_s=0.01) as (stand_in, pool, _):
            for _round in range(3):
                await asyncio.gather(
                    *(pool.complete(a_call(text)) for _ in range(50)), return_exceptions=True
                )
        used = ledger.usage([window]).result()[window]
        assert used.total_nano == before.total_nano + stand_in.meter.nano <= limit.limit_nano
        assert used.held_nano == 4 * worst
        assert 0 < stand_in.most_active <= 6

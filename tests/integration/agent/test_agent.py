"""The whole agent on real files: what is wanted is served, and what serves is reported."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge_runtime.agent.contract import MetadataExpiredError, NoDeltaError
from edge_runtime.agent.protocol import (
    Ack,
    BoxState,
    Cancel,
    Channel,
    DeferReason,
    FailureCode,
    FailureKind,
    ItemKind,
    Link,
    PullLog,
    decode_batch,
    mark_key,
    topic,
)
from edge_runtime.core import FinishReason
from edge_runtime.errors import BundleError, TransportError
from tests.support.agents import KEY, SOON_S, Rig, rig, until
from tests.support.wants import PRINCIPAL, want, want_item

S = BoxState


def serves(box: Rig) -> str:
    pointer = box.host.store.active()["tiny"]
    assert box.host.info("tiny").bundle_digest == pointer.bundle_digest
    return pointer.bundle_digest


async def test_a_wanted_bundle_is_fetched_served_and_confirmed(tmp_path: Path) -> None:
    async with rig(tmp_path) as box:
        digest = box.source(9)
        async with box.running():
            box.want(5, digest)
            told = await box.reported(5, S.CONFIRMED)
        assert (told.active, told.previous) == (digest, box.digests[0])
        assert serves(box) == digest
        assert not (tmp_path / "incoming" / "bundle-tiny").exists()
        ups = [
            Link.from_bytes(one.payload)
            for one in box.broker.sent
            if one.topic == topic(PRINCIPAL, Channel.LINK)
        ]
        assert [(one.up, one.connection) for one in ups] == [(True, 1), (False, 1)]


async def test_an_old_generation_only_reports_again(tmp_path: Path) -> None:
    async with rig(tmp_path) as box:
        async with box.running():
            box.want(5, box.digests[1])
            await box.reported(5, S.CONFIRMED)
            reports = len(box.haves())
            box.want(4, box.digests[2])
            async with asyncio.timeout(SOON_S):
                while len(box.haves()) == reports:
                    box.broker.heard.clear()
                    await box.broker.heard.wait()
        assert serves(box) == box.digests[1]
        assert box.haves()[-1].generation == 5


async def test_a_refused_bundle_leaves_the_old_one_serving(tmp_path: Path) -> None:
    async with rig(tmp_path) as box:
        digest = box.source(9)
        box.host.refuse = BundleError("tiny", "golden input 'a' gives 'b'")
        async with box.running():
            box.want(5, digest)
            told = await box.reported(5, S.FAILED)
        assert told.failure is not None
        assert (told.failure.kind, told.failure.code) == (
            FailureKind.NO_CHANGE,
            FailureCode.REFUSED,
        )
        assert "golden" in told.failure.reason
        assert serves(box) == box.digests[0]


async def test_bad_health_takes_it_back_by_itself(tmp_path: Path) -> None:
    async with rig(tmp_path) as box:
        rules = {"length_s": 3600, "min_requests": 5, "max_error_share": 0.1}
        async with box.running() as agent:
            box.want(5, box.digests[1], probation=rules)
            await box.reported(5, S.PROBATION)
            assert serves(box) == box.digests[1]
            for status in ("200", "500"):
                box.metrics.count("edge_http_requests_total", "/v1", status, "tiny", amount=10)
            box.order("o-1", "report")  # wakes the loop; a box on its own looks every minute
            told = await box.reported(5, S.REVERTED)
            assert agent.box.record.items["bundle/tiny"].state is S.REVERTED
        assert told.failure is not None
        assert told.failure.code is FailureCode.ERRORS
        assert serves(box) == box.digests[0]


async def test_requests_go_on_through_install_and_revert(tmp_path: Path) -> None:
    from tests.integration.host.test_swap import answer, request

    async with rig(tmp_path, grace_s=0.1) as box:
        going, ends = True, []

        async def ask() -> None:
            while going:
                info = box.host.info("tiny")
                await asyncio.sleep(0)
                events = await answer(box.host, request("x", info.bundle_digest))
                ends.append(events[-1].finish_reason)

        askers = [asyncio.create_task(ask()) for _ in range(3)]
        async with box.running():
            box.want(5, box.source(9))
            await box.reported(5, S.CONFIRMED)
            box.want(6, box.digests[0])
            await box.reported(6, S.CONFIRMED)
            going = False
            async with asyncio.timeout(SOON_S):
                await asyncio.gather(*askers)
        assert len(ends) > 3
        assert set(ends) == {FinishReason.LENGTH}


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (TransportError("no route"), DeferReason.NETWORK),
        (MetadataExpiredError("timestamp expired"), DeferReason.TRUST),
    ],
)
async def test_what_may_pass_is_tried_again_until_it_does(
    tmp_path: Path, error: TransportError, reason: DeferReason
) -> None:
    async with rig(tmp_path) as box:
        box.trust.error = error
        async with box.running():
            box.want(5, box.digests[1])
            assert (await box.reported(5, S.DEFERRED)).defer is reason
            box.trust.error = None
            await box.reported(5, S.CONFIRMED)
        assert serves(box) == box.digests[1]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BundleError("block 3", "is not the signed one"), FailureCode.CORRUPT),
        (NoDeltaError("no delta"), FailureCode.DELTA),
    ],
)
async def test_bytes_that_cannot_be_had_are_given_up(
    tmp_path: Path, error: Exception, code: FailureCode
) -> None:
    async with rig(tmp_path) as box:
        box.fetcher.error = error  # type: ignore[assignment]
        async with box.running():
            box.want(5, box.source(9), delta_fallback="fail")
            told = await box.reported(5, S.FAILED)
        assert told.failure is not None
        assert told.failure.code is code


async def test_unsigned_foreign_and_oversized_messages_are_refused(tmp_path: Path) -> None:
    async with rig(tmp_path) as box:
        other = Ed25519PrivateKey.generate()
        name = topic(PRINCIPAL, Channel.WANT)
        item = box.item(7, box.digests[1])
        async with box.running() as agent:
            box.broker.publish(name, want(item).sealed([other]))
            box.broker.publish(name, want(item).payload())
            box.broker.publish(name, want(item, principal="acme~box-2").sealed([KEY]))
            box.broker.publish(name, b"[" * 100_000)
            box.broker.publish(topic(PRINCIPAL, Channel.ACK), b"{}")
            box.broker.publish(topic(PRINCIPAL, Channel.DO), b"{}")
            box.want(5, box.digests[2])
            await box.reported(5, S.CONFIRMED)
            assert agent.box.record.generation == 5
        assert serves(box) == box.digests[2]


async def test_a_verified_floor_outlives_the_want_that_brought_it(tmp_path: Path) -> None:
    async with rig(tmp_path) as box:
        box.trust.floors["bundle/tiny"] = 3
        async with box.running():
            box.want(5, box.digests[1], release=3)
            await box.reported(5, S.CONFIRMED)
        box.trust.floors.clear()
        async with box.running():
            box.want(6, box.digests[2], release=2)
            told = await box.reported(6, S.FAILED)
        assert told.failure is not None
        assert told.failure.code is FailureCode.BELOW_FLOOR


async def test_a_cancel_order_stops_a_download(tmp_path: Path) -> None:
    async with rig(tmp_path) as box:
        box.fetcher.gate = asyncio.Event()
        async with box.running():
            box.want(5, box.source(9))
            await box.reported(5, S.FETCHING)
            cancel = Cancel(kind=ItemKind.BUNDLE, name="tiny", generation=5)
            box.order("o-1", "cancel", cancel=cancel)
            told = await box.reported(5, S.FAILED)
        assert told.failure is not None
        assert told.failure.code is FailureCode.CANCELLED
        assert box.fetcher.cancelled == 1


async def test_a_newer_want_takes_the_place_of_a_download(tmp_path: Path) -> None:
    async with rig(tmp_path) as box:
        box.fetcher.gate = asyncio.Event()
        async with box.running():
            box.want(5, box.source(9))
            await box.reported(5, S.FETCHING)
            box.want(6, box.digests[1])
            await box.reported(6, S.CONFIRMED)
        assert box.fetcher.cancelled == 1
        assert serves(box) == box.digests[1]


async def test_a_box_that_was_stopped_in_a_download_goes_on(tmp_path: Path) -> None:
    async with rig(tmp_path) as box:
        digest = box.source(9)
        box.fetcher.gate = asyncio.Event()
        async with box.running():
            box.want(5, digest)
            await box.reported(5, S.FETCHING)
        box.fetcher.gate = None
        box.broker.refuse = True  # and needs no broker for that
        async with box.running() as agent:
            await until(lambda: agent.box.record.items["bundle/tiny"].state is S.CONFIRMED)
        assert serves(box) == digest
        assert agent.box.record.crashes == 0


async def test_a_lost_broker_is_found_again_and_told_everything(tmp_path: Path) -> None:
    async with rig(tmp_path) as box:
        async with box.running():
            box.want(5, box.digests[1])
            await box.reported(5, S.CONFIRMED)
            box.broker.forget()  # killed, and without its retained messages
            box.want(6, box.digests[2])
            await box.reported(6, S.CONFIRMED)
        numbers = [document.connection for document in box.haves()]
        assert numbers == sorted(numbers)
        assert numbers[-1] == 2
        assert box.haves()[-1].seq == len(box.haves())


async def test_a_broker_that_acknowledges_nothing_is_left(tmp_path: Path) -> None:
    async with rig(tmp_path) as box, box.running():
        box.want(5, box.digests[1])
        await box.reported(5, S.CONFIRMED)
        box.broker.silent = True
        box.order("o-1", "report")
        await until(lambda: box.broker.connects == 2)
        box.broker.silent = False
        box.want(6, box.digests[2])
        await box.reported(6, S.CONFIRMED)


async def test_orders_are_obeyed_once(tmp_path: Path) -> None:
    async with rig(tmp_path) as box:
        async with box.running() as agent:
            box.want(5, box.digests[1])
            await box.reported(5, S.CONFIRMED)
            for _ in range(3):
                box.order("o-1", "log", log=PullLog())
            box.order("o-2", "log", log=PullLog())
            name = topic(PRINCIPAL, Channel.LOG)
            await asyncio.wait_for(
                box.broker.wait_for(lambda one: one.topic == name and b"o-2" in one.payload), SOON_S
            )
            assert agent.box.record.orders == ("o-1", "o-2")
        answers = [one.payload for one in box.broker.sent if one.topic == name]
        assert sum(b'"o-1"' in payload for payload in answers) == 1


async def test_telemetry_is_kept_until_its_watermark_comes(tmp_path: Path) -> None:
    async with rig(tmp_path) as box:
        name = topic(PRINCIPAL, Channel.TELEMETRY, "serve")

        def batches() -> list[tuple[str, int, int]]:
            heads = [decode_batch(one.payload)[0] for one in box.broker.sent if one.topic == name]
            return [(head.boot, head.first_seq, head.last_seq) for head in heads]

        async with box.running(send={"interval_s": 0.05, "send_s": 0.05}) as agent:
            box.want(5, box.digests[1])
            await box.reported(5, S.CONFIRMED)
            await asyncio.wait_for(box.broker.wait_for(lambda one: one.topic == name), SOON_S)
            assert agent.sender.spool.state().rows > 0
        box.broker.sent.clear()
        async with box.running(send={"interval_s": 60.0, "send_s": 60.0}) as agent:
            await asyncio.wait_for(box.broker.wait_for(lambda one: one.topic == name), SOON_S)
            boot, first, last = batches()[0]
            assert (boot, first) == ("b-1", 1)
            box.ack(Ack(now_s=1_900_000_000, marks={mark_key("b-1", "serve"): last}))
            await until(lambda: agent.sender.spool.state().rows == 0)
            assert agent.box.clock.now_s() is not None


async def test_settings_documents_go_the_same_way(tmp_path: Path) -> None:
    async with rig(tmp_path) as box:
        versions = []
        for text in ("first", "second"):
            path = tmp_path / text
            path.write_text(text)
            versions.append(hashlib.sha256(text.encode()).hexdigest())
            box.fetcher.available[versions[-1]] = path
        fields = {"kind": ItemKind.SETTINGS, "name": "policy", "probation": {"length_s": 0}}
        async with box.running():
            box.tell(want(want_item(5, versions[0], **fields)))
            await box.reported(5, S.CONFIRMED, name="policy")
            box.tell(want(want_item(6, versions[1], **fields)))
            told = await box.reported(6, S.CONFIRMED, name="policy")
        assert (told.active, told.previous) == (versions[1], versions[0])
        assert box.applied == [("policy", "first"), ("policy", "second")]
        assert serves(box) == box.digests[0]


async def test_what_nobody_wants_any_more_goes(tmp_path: Path) -> None:
    async with rig(tmp_path) as box:
        async with box.running():
            box.want(5, box.digests[1])
            await box.reported(5, S.CONFIRMED)
        assert set(box.host.store.digests()) == {box.digests[0], box.digests[1]}

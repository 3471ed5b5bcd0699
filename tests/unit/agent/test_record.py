"""The box's record: read back as it was written, or begun anew."""

from __future__ import annotations

from pathlib import Path

from edge_runtime.agent.decide import ItemRecord
from edge_runtime.agent.protocol import REMEMBERED_ORDERS, BoxState
from edge_runtime.agent.record import NAME, BoxRecord, RecordStore
from edge_runtime.bundle.crash import CrashFiles
from tests.support.wants import PRINCIPAL, want_item

AGENT = Path("/var/agent")


def full() -> BoxRecord:
    record = BoxRecord(principal=PRINCIPAL, generation=7, connection=3, running=True)
    item = ItemRecord(item=want_item(7), state=BoxState.PROBATION, served_s=1.5)
    return record.with_item(item).with_order("o-1").with_floor("bundle/assistant", 4)


def test_a_record_comes_back_as_it_was_written() -> None:
    files = CrashFiles()
    store = RecordStore(AGENT, files)
    assert store.load(PRINCIPAL) == BoxRecord(principal=PRINCIPAL)
    store.save(full())
    assert RecordStore(AGENT, files).load(PRINCIPAL) == full()


def test_a_record_of_another_box_counts_for_nothing() -> None:
    files = CrashFiles()
    store = RecordStore(AGENT, files)
    store.load(PRINCIPAL)
    store.save(full())
    assert store.load("acme~box-2") == BoxRecord(principal="acme~box-2")


def test_one_that_cannot_be_read_is_set_aside() -> None:
    files = CrashFiles()
    store = RecordStore(AGENT, files)
    store.load(PRINCIPAL)
    files.create(AGENT / NAME)
    files.append(AGENT / NAME, b'{"schema":')
    assert store.load(PRINCIPAL) == BoxRecord(principal=PRINCIPAL)
    assert files.listdir(AGENT) == ["record.damaged"]


def test_orders_are_remembered_up_to_a_number() -> None:
    record = BoxRecord(principal=PRINCIPAL)
    for number in range(REMEMBERED_ORDERS + 10):
        record = record.with_order(f"o-{number}")
    assert len(record.orders) == REMEMBERED_ORDERS
    assert record.orders[0] == "o-10"


def test_floors_only_rise() -> None:
    record = full().with_floor("bundle/assistant", 2)
    assert record.floors == {"bundle/assistant": 4}

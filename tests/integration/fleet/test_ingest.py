"""Ingest on both databases: once, in any order, kept as sums, aged out."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import pytest
from sqlalchemy import Connection, func, select

from edge_runtime.agent.protocol import Channel, Link, topic
from fleet.db.database import Database, open_database
from fleet.db.tables_telemetry import box_hours, fleet_hours, telemetry_marks, telemetry_rows
from fleet.ingest.decode import Heard, Message, decode
from fleet.ingest.queries import (
    box_by_hour,
    counter_by_label,
    fleet_by_hour,
    fleet_sums,
    window_sums,
)
from fleet.ingest.rows import HOUR_S, Keep, Stored, age_out, store
from fleet.registry import boxes
from tests.support.fleet import LIMITS, NOW_S, have
from tests.support.telemetry import MODEL_DIGEST, batch, row

ONE, TWO = "acme~box-1", "acme~box-2"


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    opened = open_database(database_url)
    for principal in (ONE, TWO):
        opened.write_now(lambda c, name=principal: boxes.add(c, name, {}, now_s=NOW_S))  # type: ignore[misc]
    yield opened
    opened.close()


def heard(*messages: Message) -> list[Heard]:
    found = [decode(message) for message in messages]
    assert all(isinstance(one, Heard) for one in found), found
    return [one for one in found if isinstance(one, Heard)]


def take(database: Database, *messages: Message) -> Stored:
    return database.write_now(lambda c: store(c, heard(*messages), now_s=NOW_S))


def decisions(connection: Connection) -> float | None:
    return fleet_sums(connection, since_s=0).total("edge_decisions_total")


def test_a_batch_is_added_once_and_acknowledged_again(database: Database) -> None:
    message = batch(ONE, row(1), row(2))
    first = take(database, message)
    again = take(database, message, message)
    assert first.acks == again.acks == {ONE: {"boot-a/serve": 2}}
    assert (first.counts["rows"], again.counts["rows"]) == (2, 0)
    assert database.read_now(decisions) == 20


def test_any_order_and_any_repeats_lead_to_the_same_sums(database: Database) -> None:
    rng = random.Random(7)
    messages = [
        batch(principal, row(seq, decisions=seq), row(seq + 1, decisions=seq + 1), oldest_seq=1)
        for principal in (ONE, TWO)
        for seq in range(1, 13, 2)
    ]
    sent = messages + rng.sample(messages, 6)
    rng.shuffle(sent)
    for start in range(0, len(sent), 5):
        last = take(database, *sent[start : start + 5])
    assert database.read_now(decisions) == 2 * sum(range(1, 13))
    marks = database.read_now(lambda c: list(c.execute(select(telemetry_marks.c.mark)).scalars()))
    assert marks == [12, 12]
    assert last.acks
    stored = select(func.count()).select_from(telemetry_rows)
    assert database.read_now(lambda c: c.execute(stored).scalar_one()) == 24


def test_a_gap_is_acknowledged_only_up_to_it(database: Database) -> None:
    ahead = take(database, batch(ONE, row(3), oldest_seq=1))
    assert ahead.acks == {ONE: {"boot-a/serve": 0}}
    assert take(database, batch(ONE, row(1), row(2), oldest_seq=1)).acks == {
        ONE: {"boot-a/serve": 3}
    }


def test_evicted_rows_are_counted_as_lost(database: Database) -> None:
    found = take(database, batch(ONE, row(5), oldest_seq=5, evicted_rows=4))
    assert found.acks == {ONE: {"boot-a/serve": 5}}
    assert found.counts["lost_rows"] == 4


def test_who_was_not_let_in_is_not_listened_to(database: Database) -> None:
    stranger = "acme~stranger"
    database.write_now(lambda c: boxes.set_status(c, TWO, "revoked"))
    found = take(
        database,
        batch(stranger, row(1)),
        batch(TWO, row(1)),
        Message(topic(stranger, Channel.HAVE), have(stranger).to_bytes(), NOW_S),
    )
    assert found.counts == {"dropped:unknown_box": 3}
    assert found.acks == {}
    assert database.read_now(decisions) is None


def test_reports_and_links_reach_the_registry(database: Database) -> None:
    found = take(
        database,
        Message(topic(ONE, Channel.LINK), Link(up=True, connection=4, boot="b").to_bytes(), NOW_S),
        Message(topic(ONE, Channel.HAVE), have(ONE, connection=4).to_bytes(), NOW_S),
        Message(topic(ONE, Channel.HAVE), have(ONE, connection=4).to_bytes(), NOW_S),
    )
    assert found.counts == {"links": 1, "reports": 1, "old_reports": 1}
    box = database.read_now(lambda c: boxes.get(c, ONE, now_s=NOW_S, limits=LIMITS))
    assert box.reported is not None


def test_telemetry_counts_as_a_word_of_the_box(database: Database) -> None:
    take(database, batch(ONE, row(1), received_s=NOW_S + 5))
    box = database.read_now(lambda c: boxes.get(c, ONE, now_s=NOW_S + 5, limits=LIMITS))
    assert (box.last_contact_s, box.health) == (NOW_S + 5, "online")


def test_what_fails_half_way_leaves_nothing(database: Database) -> None:
    def work(connection: Connection) -> None:
        store(connection, heard(batch(ONE, row(1))), now_s=NOW_S)
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        database.write_now(work)
    assert database.read_now(decisions) is None
    assert take(database, batch(ONE, row(1))).counts["rows"] == 1


def hours_of(*ages_h: float) -> Sequence[Message]:
    return [
        batch(ONE, row(seq, clock_s=int(NOW_S - age_h * HOUR_S)))
        for seq, age_h in enumerate(ages_h, start=1)
    ]


def test_hours_are_the_hours_in_which_it_happened(database: Database) -> None:
    take(database, *hours_of(2, 1, 1, 0))
    found = database.read_now(lambda c: box_by_hour(c, ONE, since_s=NOW_S - 4 * HOUR_S, digest=""))
    assert [one.figures["requests"] for one in found] == [10, 20, 10]
    fleet = database.read_now(lambda c: fleet_by_hour(c, since_s=0, digest=MODEL_DIGEST))
    assert [one.figures["output_tokens"] for one in fleet] == [50, 100, 50]
    assert {one.model_digest for one in fleet} == {MODEL_DIGEST}


def test_counters_are_shown_by_a_label(database: Database) -> None:
    take(database, *hours_of(0), batch(TWO, row(1)))
    found = database.read_now(
        lambda c: counter_by_label(c, "edge_decisions_total", "tier", since_s=0)
    )
    assert [(one.label, one.value) for one in found] == [("local", 20)]
    by_digest = database.read_now(
        lambda c: counter_by_label(c, "edge_output_tokens_total", "model_digest", since_s=0)
    )
    assert [(one.label, one.value) for one in by_digest] == [(MODEL_DIGEST, 100)]


def test_a_window_holds_the_rows_that_ended_in_it(database: Database) -> None:
    take(database, *hours_of(3, 2, 1))
    found = database.read_now(
        lambda c: window_sums(c, ONE, NOW_S - 2.5 * HOUR_S, NOW_S - 0.5 * HOUR_S)
    )
    assert (found.rows, found.total("edge_decisions_total")) == (2, 20)
    assert found.total("edge_output_tokens_total") == 100


def test_raw_rows_age_out_and_sums_stay(database: Database) -> None:
    take(database, *hours_of(30, 2, 1))
    keep = Keep(raw_s=60.0, box_s=24 * 3600.0, fleet_s=1e9)
    gone = database.write_now(lambda c: age_out(c, keep, now_s=NOW_S + 120))
    assert gone[telemetry_rows.name] == 3
    assert gone[box_hours.name] == 2  # of the box, and of its model
    assert gone[fleet_hours.name] == 0
    assert database.read_now(decisions) == 30
    # A window is still there, in whole hours.
    start = (NOW_S // HOUR_S - 3) * HOUR_S
    found = database.read_now(lambda c: window_sums(c, ONE, start, NOW_S))
    assert found.total("edge_decisions_total") == 20
    # The marks are as young as the last message: nothing is taken twice.
    assert take(database, *hours_of(30, 2, 1)).counts["rows"] == 0

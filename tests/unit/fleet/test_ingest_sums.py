"""Sums of telemetry, the figures made of them, and what is read from messages."""

from __future__ import annotations

import json

import pytest

from edge_runtime.agent.protocol import MAX_BYTES, Channel, Link, Sample, topic
from edge_runtime.metric_specs import SPECS
from fleet.ingest.decode import Dropped, Heard, Message, decode, time_of
from fleet.ingest.figures import all_figures, figures_of
from fleet.ingest.sums import (
    BOX,
    MAX_SERIES,
    Distribution,
    Sums,
    parse_key,
    series_key,
    sums_of_row,
)
from fleet.rollout.signals import MEASURED
from tests.support.fleet import NOW_S, have
from tests.support.telemetry import MODEL_DIGEST, batch, row


def test_a_row_is_parted_by_artefact() -> None:
    found = sums_of_row(row(), NOW_S)
    assert set(found) == {BOX, MODEL_DIGEST}
    assert found[MODEL_DIGEST].counts == {"edge_output_tokens_total": 50}
    assert found[MODEL_DIGEST].gauges["edge_queue_depth"].last == 1
    assert 'edge_escalations_total{endpoint="intent",reason="low-score"}' in found[BOX].counts


def test_a_model_nobody_explained_stays_with_the_box() -> None:
    found = sums_of_row(row(models={}), NOW_S)
    assert set(found) == {BOX}
    assert found[BOX].counts['edge_output_tokens_total{model="assistant"}'] == 50


def test_sums_are_the_same_in_any_order_and_after_storage() -> None:
    parts = [sums_of_row(row(seq, decisions=seq), NOW_S + seq)[BOX] for seq in range(1, 5)]

    def merged(order: list[int]) -> Sums:
        total = Sums()
        for index in order:
            stored = json.loads(json.dumps(parts[index].document()))
            total.merge(Sums.of_document(stored))
        return total

    assert merged([0, 1, 2, 3]) == merged([3, 1, 0, 2])
    assert merged([0, 1, 2, 3]).total("edge_decisions_total") == 10


def test_the_last_reading_of_a_gauge_is_the_newest_rows() -> None:
    early = sums_of_row(row(1), NOW_S)[MODEL_DIGEST]
    late = sums_of_row(row(2), NOW_S + 300)[MODEL_DIGEST]
    gauge = Sums().merge(late).merge(early).gauges["edge_queue_depth"]
    assert (gauge.last, gauge.low, gauge.high, gauge.readings) == (2, 1, 2, 2)


def test_sketches_with_other_bounds_keep_every_observation() -> None:
    mine = Distribution([0.1, 1.0], [5, 5, 0], 3.0)
    mine.merge(Distribution([0.05, 0.5, 2.0], [1, 2, 3, 4], 9.0))
    assert (mine.counts, mine.total) == ([6, 7, 7], 12.0)


def test_series_are_bounded_and_what_is_lost_is_counted() -> None:
    many = Sums(counts={f"metric_{number}": 1.0 for number in range(MAX_SERIES)})
    total = Sums().merge(many).merge(Sums(counts={"one_more": 1.0, "metric_0": 1.0}))
    assert (len(total.counts), total.dropped_series) == (MAX_SERIES, 1)
    assert total.counts["metric_0"] == 2.0


def test_names_of_series_are_read_back() -> None:
    labels = {"tier": "local", "endpoint": "intent"}
    assert parse_key(series_key("edge_decisions_total", labels)) == ("edge_decisions_total", labels)
    assert parse_key("edge_saved_total") == ("edge_saved_total", {})


def test_figures_come_from_metrics_that_exist() -> None:
    specs = {spec.name: spec for spec in SPECS}
    for name, series in MEASURED.items():
        assert series.metric in specs, name
        assert not series.label or series.label in specs[series.metric].labels, name


def test_figures_of_a_box() -> None:
    sums = Sums()
    for part in sums_of_row(row(decisions=40, escalations=10), NOW_S).values():
        sums.merge(part)
    figures = figures_of(sums)
    assert (figures["requests"], figures["escalations"]) == (40, 10)
    assert figures["output_tokens"] == 50
    assert 0.1 < figures["p95_s"] <= 1.0
    assert "cost_usd" not in figures or figures["cost_usd"] == 0  # nothing was heard of it
    assert all_figures(sums)["escalation_rate"] == pytest.approx(0.25)


def test_a_label_may_be_a_prefix() -> None:
    sums = Sums(counts={'m{status="500"}': 2.0, 'm{status="503"}': 1.0, 'm{status="200"}': 9.0})
    assert sums.total("m", "status", "5*") == 3
    assert sums.total("m", "status", "404") == 0
    assert sums.total("m", "route", "x") == 0
    assert sums.total("n") is None


def test_good_messages_are_read() -> None:
    report = have().to_bytes()
    for channel, payload, kind in (
        (Channel.HAVE, report, "Have"),
        (Channel.LINK, Link(up=True, connection=1, boot="b").to_bytes(), "Link"),
    ):
        heard = decode(Message(topic("acme~box-1", channel), payload, NOW_S))
        assert isinstance(heard, Heard)
        assert type(heard.said).__name__ == kind
    heard = decode(batch("acme~box-1", row(1), row(2)))
    assert isinstance(heard, Heard)
    assert heard.principal == "acme~box-1"


@pytest.mark.parametrize(
    ("name", "payload", "reason"),
    [
        ("elsewhere", b"", "topic"),
        (topic("acme~box-1", Channel.HAVE).replace("fl/1/", "fl/1/9"), b"", "topic"),
        (topic("acme~box-1", Channel.WANT), b"{}", "topic"),
        (topic("acme~box-1", Channel.HAVE), b"{}", "unreadable"),
        (topic("acme~box-1", Channel.HAVE), b"\xff", "unreadable"),
        (topic("acme~box-1", Channel.LINK), b"x" * 1000, "oversized"),
        (topic("acme~box-1", Channel.HAVE), b"x" * (MAX_BYTES[Channel.HAVE] + 1), "oversized"),
        (topic("acme~box-2", Channel.HAVE), have("acme~box-1").to_bytes(), "spoofed"),
        (topic("acme~box-1", Channel.TELEMETRY, "serve"), b"FT1\x00\x02{}", "unreadable"),
        (topic("acme~box-1", Channel.TELEMETRY, "other"), batch("acme~box-1", row()).payload,
         "spoofed"),
    ],
)  # fmt: skip
def test_bad_messages_are_dropped_with_a_reason(name: str, payload: bytes, reason: str) -> None:
    dropped = decode(Message(name, payload, NOW_S))
    assert isinstance(dropped, Dropped)
    assert dropped.reason == reason


@pytest.mark.parametrize(
    ("box_now_s", "row_s", "age_s"),
    [(1000, 700, 300), (1000, 1000, 0), (1000, 5000, 0), (2_000_000_000, 5, 0)],
)
def test_only_distances_on_a_boxs_clock_are_believed(
    box_now_s: int, row_s: int, age_s: float
) -> None:
    message = batch("acme~box-1", row(clock_s=row_s), clock_s=box_now_s)
    heard = decode(message)
    assert isinstance(heard, Heard)
    header, rows = heard.said.header, heard.said.rows  # type: ignore[union-attr]
    assert time_of(rows[0], header, NOW_S) == NOW_S - age_s


def test_a_series_is_a_sample_of_the_protocol() -> None:
    with pytest.raises(ValueError, match="pattern"):
        Sample(metric="m", labels={"a": 'b"c'}, value=1)

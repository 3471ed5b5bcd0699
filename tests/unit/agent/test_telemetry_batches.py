"""Telemetry batches: the wire format and its limits."""

from __future__ import annotations

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from edge_runtime.agent.protocol import (
    MAX_ROWS_BYTES,
    Ack,
    BatchHeader,
    Sample,
    Sketch,
    TelemetryRow,
    decode_batch,
    decode_header,
    encode_batch,
    mark_key,
)
from edge_runtime.errors import BundleError

BOUNDS = (0.1, 1.0, 10.0)


def row(seq: int) -> TelemetryRow:
    sketch = Sketch(
        metric="edge_ttft_seconds",
        labels={"model": "assistant", "class": "interactive"},
        bounds=BOUNDS,
        counts=(1, 2, 0, 3),
        total=40.5,
    )
    count = Sample(metric="edge_http_requests_total", labels={"route": "/v1/chat"}, value=6)
    return TelemetryRow(
        seq=seq, uptime_ms=9, length_ms=5, clock_s=1, counts=(count,), sketches=(sketch,)
    )


def header(first: int, last: int, rows: int) -> BatchHeader:
    return BatchHeader(
        boot="b-1", stream="serve", first_seq=first, last_seq=last, rows=rows, clock_s=1
    )


def test_a_batch_comes_back_with_its_gaps() -> None:
    rows = (row(4), row(5), row(9))
    message = encode_batch(header(4, 9, 3), rows)
    assert decode_batch(message) == (header(4, 9, 3), rows)
    assert decode_header(message) == header(4, 9, 3)


@pytest.mark.parametrize(
    ("head", "seqs"),
    [
        (header(1, 2, 2), (1, 3)),
        (header(1, 2, 2), (2, 1)),
        (header(1, 3, 2), (1, 2, 3)),
        (header(1, 3, 3), (1, 1, 3)),
    ],
)
def test_rows_must_be_those_of_the_header(head: BatchHeader, seqs: tuple[int, ...]) -> None:
    with pytest.raises(BundleError, match="not those of its header"):
        encode_batch(head, tuple(row(seq) for seq in seqs))


def test_a_header_cannot_promise_more_rows_than_numbers() -> None:
    with pytest.raises(ValidationError, match="more rows than numbers"):
        header(3, 4, 3)


def test_damaged_batches_are_refused() -> None:
    message = encode_batch(header(1, 1, 1), (row(1),))
    for broken in (
        b"",
        b"FT1",
        b"FT2" + message[3:],
        message[:30],
        message[:-1],
        message[:-20] + bytes(20),
        message[:3] + b"\xff\xff" + message[5:],
        message + bytes(65 * 1024),
    ):
        with pytest.raises(BundleError):
            decode_batch(broken)


def with_frame(frame: bytes) -> bytes:
    head = header(1, 1, 1).to_bytes()
    return b"FT1" + len(head).to_bytes(2, "big") + head + frame


def test_a_frame_that_unpacks_to_too_much_is_never_unpacked() -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(MAX_ROWS_BYTES + 1))
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1 << 24))
    for frame in (bomb, unsized):
        assert len(frame) < 8192
        with pytest.raises(BundleError, match="must say its size"):
            decode_batch(with_frame(frame))


@pytest.mark.parametrize("value", ["what is my balance?", "a\nb", "x" * 97, 'q"'])
def test_labels_cannot_carry_text(value: str) -> None:
    with pytest.raises(ValidationError):
        Sample(metric="edge_x", labels={"model": value}, value=1)


@pytest.mark.parametrize(
    ("bounds", "counts"), [((1.0, 1.0), (0, 0, 0)), ((2.0, 1.0), (0, 0, 0)), ((1.0,), (0,))]
)
def test_sketches_hold_together(bounds: tuple[float, ...], counts: tuple[int, ...]) -> None:
    with pytest.raises(ValidationError):
        Sketch(metric="edge_x", bounds=bounds, counts=counts, total=0)


counts_of = st.lists(st.integers(0, 1000), min_size=4, max_size=4).map(tuple)


def sketch(counts: tuple[int, ...]) -> Sketch:
    return Sketch(metric="edge_x", bounds=BOUNDS, counts=counts, total=float(sum(counts)))


@given(counts_of, counts_of, st.floats(0, 1))
def test_merging_adds_counts_and_keeps_quantiles_between(
    left: tuple[int, ...], right: tuple[int, ...], share: float
) -> None:
    merged = sketch(left).merged(sketch(right))
    assert merged == sketch(right).merged(sketch(left))
    assert merged.observations == sum(left) + sum(right)
    quantiles = [part.quantile(share) for part in (sketch(left), sketch(right))]
    known = [value for value in quantiles if value is not None]
    mine = merged.quantile(share)
    if mine is None:
        assert not known
    else:
        assert min(known) - 1e-9 <= mine <= max(known) + 1e-9


def test_quantiles_are_linear_within_a_bucket_and_end_at_the_last_bound() -> None:
    assert sketch((0, 10, 0, 0)).quantile(0.5) == pytest.approx(0.55)
    assert sketch((0, 0, 0, 5)).quantile(0.5) == 10.0
    with pytest.raises(ValueError, match="other bounds"):
        sketch((1, 1, 1, 1)).merged(
            Sketch(metric="edge_x", bounds=(1.0, 2.0, 3.0), counts=(0, 0, 0, 0), total=0)
        )


def test_watermarks_are_by_boot_and_stream() -> None:
    ack = Ack(now_s=5, marks={mark_key("b-1", "serve"): 7})
    assert Ack.from_bytes(ack.to_bytes()) == ack
    assert (ack.mark("b-1", "serve"), ack.mark("b-2", "serve")) == (7, 0)

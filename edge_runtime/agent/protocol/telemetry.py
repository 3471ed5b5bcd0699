"""`t/<stream>` and `ack`: counts and mergeable sketches up, watermarks down.

Rules
- A row covers one stretch of one boot. Rows of a stream are numbered from 1 in a boot, without
  gaps but for evicted ones. `(principal, boot, stream, seq)` names a row: a receiver that has it
  drops the second copy.
- Values are sums over the row's stretch, or the last value for gauges; never text. Label values
  come from closed sets and the parser holds them to a narrow alphabet.
- Sketches add up: same bounds, counts added.
- A box deletes rows only up to a watermark, which the receiver sends after its commit.

On the wire: `FT1`, two bytes of header length (big-endian), the header as canonical JSON, one
zstd frame of the rows as canonical JSON. A receiver decides by the header alone what it has.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

import zstandard
from pydantic import Field, model_validator

from edge_runtime.agent.protocol.cost import CostReport
from edge_runtime.agent.protocol.document import (
    Count,
    Document,
    EpochS,
    Part,
    Token,
)
from edge_runtime.agent.protocol.topics import MAX_BYTES, Channel, Stream
from edge_runtime.bundle.manifest import Name, Sha256
from edge_runtime.errors import BundleError

MAGIC = b"FT1"
MAX_ROWS_BYTES = 1024 * 1024
MAX_SERIES = 2048
MAX_BATCH_ROWS = 256
_LEVEL = 6

_Seq = Annotated[int, Field(ge=1, le=2**53 - 1)]
_Value = Annotated[float, Field(allow_inf_nan=False)]
MetricName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,95}$")]
_LabelName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
_LabelValue = Annotated[str, Field(pattern=r"^[A-Za-z0-9._:/@+{}-]{0,96}$")]
Labels = Annotated[dict[_LabelName, _LabelValue], Field(max_length=8)]


class Sample(Part):
    """One series: a counter's increase in the row's stretch, or a gauge's last value."""

    metric: MetricName
    labels: Labels = Field(default_factory=dict)
    value: _Value


class Sketch(Part):
    """A mergeable distribution: `counts[i]` observations up to `bounds[i]`, the last above all."""

    metric: MetricName
    labels: Labels = Field(default_factory=dict)
    bounds: tuple[_Value, ...] = Field(min_length=1, max_length=128)
    counts: tuple[Count, ...]
    total: _Value

    @model_validator(mode="after")
    def _one_count_a_bucket(self) -> Self:
        if list(self.bounds) != sorted(set(self.bounds)):
            raise ValueError("bounds must rise")
        if len(self.counts) != len(self.bounds) + 1:
            raise ValueError("needs one count a bound, and one above them")
        return self

    @property
    def observations(self) -> int:
        """How many values it stands for."""
        return sum(self.counts)

    def merged(self, other: Self) -> Self:
        """Both together. Raises `ValueError` when the bounds differ."""
        if self.bounds != other.bounds:
            raise ValueError(f"{self.metric}: sketches with other bounds cannot be added")
        counts = tuple(a + b for a, b in zip(self.counts, other.counts, strict=True))
        return self.model_copy(update={"counts": counts, "total": self.total + other.total})

    def quantile(self, share: float) -> float | None:
        """The value below which `share` (0 to 1) lie, linear within a bucket; None when empty.

        Beyond the last bound it answers that bound: the sketch knows no more.
        """
        goal, seen, low = share * self.observations, 0, 0.0
        if not self.observations:
            return None
        for bound, count in zip(self.bounds, self.counts, strict=False):
            if count and seen + count >= goal:
                return low + (bound - low) * max(0.0, goal - seen) / count
            seen, low = seen + count, bound
        return self.bounds[-1]


class ModelAtWork(Part):
    """Which artefact a model name meant during a row; a swap begins a new row."""

    version: Annotated[str, Field(max_length=64, pattern=r"^[\x21-\x7e]*$")] = ""
    bundle_digest: Sha256
    model_digest: Sha256


class TelemetryRow(Document):
    """What happened from `uptime_ms` - `length_ms` to `uptime_ms` of a boot.

    `clock_s` is the box's own idea of when it ended. `models` explains the label `model`.
    `cost` is absent where nothing was booked and no budget moved.
    """

    max_bytes: ClassVar[int] = MAX_ROWS_BYTES

    seq: _Seq
    uptime_ms: Count
    length_ms: Count
    clock_s: EpochS
    models: dict[Name, ModelAtWork] = Field(default_factory=dict, max_length=256)
    counts: tuple[Sample, ...] = Field(default=(), max_length=MAX_SERIES)
    gauges: tuple[Sample, ...] = Field(default=(), max_length=MAX_SERIES)
    sketches: tuple[Sketch, ...] = Field(default=(), max_length=MAX_SERIES)
    cost: CostReport | None = None


class BatchHeader(Document):
    """Which rows a message holds: `first_seq` to `last_seq` of a stream of a boot.

    `clock_s` is the sending box's clock now; the boot may be an older one. `oldest_seq` is the
    lowest row of this stream and boot that the box still holds: what lies below and never came
    was evicted, so that the receiver need not wait for it. `evicted_rows` counts those for good.
    """

    max_bytes: ClassVar[int] = 1024

    schema_: Literal["edge-runtime/telemetry/1"] = Field("edge-runtime/telemetry/1", alias="schema")
    boot: Token
    stream: Stream
    first_seq: _Seq
    last_seq: _Seq
    rows: int = Field(ge=1, le=MAX_BATCH_ROWS)
    clock_s: EpochS
    oldest_seq: _Seq | None = None
    evicted_rows: Count = 0

    @model_validator(mode="after")
    def _numbers_fit(self) -> Self:
        if not self.rows <= self.last_seq - self.first_seq + 1:
            raise ValueError("more rows than numbers")
        if self.oldest_seq is not None and self.oldest_seq > self.first_seq:
            raise ValueError("rows older than the oldest")
        return self


class Rows(Document):
    """The rows of a batch, as they lie in the zstd frame."""

    max_bytes: ClassVar[int] = MAX_ROWS_BYTES

    rows: tuple[TelemetryRow, ...] = Field(min_length=1, max_length=MAX_BATCH_ROWS)


class Ack(Document):
    """Watermarks by `<boot>/<stream>`: all rows up to the number are committed (or given up).

    `now_s` is the control host's clock when it wrote this.
    """

    max_bytes: ClassVar[int] = MAX_BYTES[Channel.ACK]

    schema_: Literal["edge-runtime/ack/1"] = Field("edge-runtime/ack/1", alias="schema")
    now_s: EpochS
    marks: dict[Annotated[str, Field(max_length=100)], Count] = Field(
        default_factory=dict, max_length=16
    )

    def mark(self, boot: str, stream: str) -> int:
        """The watermark of a stream of a boot; 0 when none is named."""
        return self.marks.get(mark_key(boot, stream), 0)


def mark_key(boot: str, stream: str) -> str:
    """The name of a stream of a boot in `Ack.marks`."""
    return f"{boot}/{stream}"


def encode_batch(header: BatchHeader, rows: tuple[TelemetryRow, ...]) -> bytes:
    """One telemetry message. Raises `BundleError` when it would be too large: send fewer rows."""
    _check_rows(header, rows)
    head = header.to_bytes()
    frame = zstandard.ZstdCompressor(level=_LEVEL).compress(Rows(rows=rows).to_bytes())
    message = MAGIC + len(head).to_bytes(2, "big") + head + frame
    if len(message) > MAX_BYTES[Channel.TELEMETRY]:
        raise BundleError("telemetry", f"has {len(message)} bytes; send fewer rows at once")
    return message


def decode_header(message: bytes) -> BatchHeader:
    """The header of a telemetry message. Raises `BundleError`."""
    return BatchHeader.from_bytes(_parts(message)[0])


def decode_batch(message: bytes) -> tuple[BatchHeader, tuple[TelemetryRow, ...]]:
    """Header and rows of a telemetry message; never unpacks more than `MAX_ROWS_BYTES`.

    Raises `BundleError`.
    """
    head, frame = _parts(message)
    header = BatchHeader.from_bytes(head)
    try:
        size = zstandard.frame_content_size(frame)
        if not 0 <= size <= MAX_ROWS_BYTES:
            raise BundleError("telemetry", f"must say its size, at most {MAX_ROWS_BYTES} bytes")
        data = zstandard.ZstdDecompressor().decompress(frame, max_output_size=MAX_ROWS_BYTES)
    except zstandard.ZstdError as error:
        raise BundleError("telemetry", f"is no zstd frame: {error}") from error
    rows = Rows.from_bytes(data).rows
    _check_rows(header, rows)
    return header, rows


def _parts(message: bytes) -> tuple[bytes, bytes]:
    if len(message) > MAX_BYTES[Channel.TELEMETRY]:
        raise BundleError("telemetry", f"has {len(message)} bytes, too many")
    start = len(MAGIC) + 2
    length = int.from_bytes(message[len(MAGIC) : start], "big")
    if message[: len(MAGIC)] != MAGIC or len(message) < start + length:
        raise BundleError("telemetry", "does not begin like a telemetry batch")
    return message[start : start + length], message[start + length :]


def _check_rows(header: BatchHeader, rows: tuple[TelemetryRow, ...]) -> None:
    seqs = [row.seq for row in rows]
    if seqs != sorted(set(seqs)) or len(seqs) != header.rows:
        raise BundleError("telemetry", "its rows are not those of its header")
    if (seqs[0], seqs[-1]) != (header.first_seq, header.last_seq):
        raise BundleError("telemetry", "its rows are not those of its header")

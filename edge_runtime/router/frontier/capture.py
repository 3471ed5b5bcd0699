"""Keeping answers to train on: redacted, encrypted, bounded.

Rules
- The pool offers only answers of frontiers with `training_allowed`.
- An offer never blocks and never fails a request: what does not fit is dropped and counted.
- Texts are redacted before they are encrypted, and encrypted before they touch the disk. Request
  and task ids, tenants and keys are not kept.
- A segment that is full is closed; past the total, or past their days, the oldest go. A process
  begins a segment of its own, so nothing is ever appended to an old one.

One thread does the work; files are the owner's only (0600). Records are not fsynced: the last
ones before a power cut may be lost, as nobody was told they were kept.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, Self

import orjson
import structlog

from edge_runtime.bundle.capture_file import (
    ANSWER_LOGPROB,
    TRAINING_ALLOWED,
    SegmentWriter,
    begun_us,
    read_key,
    segment_name,
    segments,
)
from edge_runtime.errors import ConfigError
from edge_runtime.ledger.ledger import now_us
from edge_runtime.ledger.rows import US_PER_DAY
from edge_runtime.router.contract import FrontierCall, Json
from edge_runtime.router.frontier.meter import Meter, NullMeter
from edge_runtime.router.frontier.redact import redact_json
from edge_runtime.router.frontier.settings import CaptureSettings

_log: Final = structlog.get_logger("edge_runtime.capture")
_KEPT_FIELDS = ("messages", "tools", "tool_choice", "response_format")


class CaptureLike(Protocol):
    """Who takes exchanges."""

    def offer(self, frontier: str, call: FrontierCall, sent: Json, answer: Json) -> None:
        """One exchange: the body as it was sent, and the whole answer that was taken."""
        ...


@dataclass(slots=True)
class _Segment:
    path: Path
    writer: SegmentWriter
    size: int


class Capture:
    """A `CaptureLike` that writes segments; see the module. `close` it, or use it in a `with`."""

    def __init__(
        self,
        settings: CaptureSettings,
        *,
        meter: Meter | None = None,
        wall_us: Callable[[], int] = now_us,
    ) -> None:
        """Reads the key and makes the folder. Raises `ConfigError`."""
        if settings.directory is None or settings.key_file is None:
            raise ConfigError("capture: needs a directory and a key_file")
        self._settings = settings
        self._folder = settings.directory
        self._key = read_key(settings.key_file)
        self._meter = meter or NullMeter()
        self._wall_us = wall_us
        self._segment: _Segment | None = None
        self._began_us = 0
        self._waiting = 0
        self._lock = threading.Lock()
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise ConfigError(f"{self._folder}: {error.strerror}; name another folder") from error
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="edge-capture")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def offer(self, frontier: str, call: FrontierCall, sent: Json, answer: Json) -> None:
        """See `CaptureLike.offer`. Costs microseconds: the work is another thread's."""
        with self._lock:
            if self._waiting >= self._settings.max_waiting:
                self._meter.count("edge_capture_records_total", "busy")
                return
            self._waiting += 1
        record = _record(frontier, call, sent, answer, self._wall_us())
        try:
            self._worker.submit(self._keep, record)
        except RuntimeError:  # closed meanwhile
            with self._lock:
                self._waiting -= 1

    def close(self) -> None:
        """Write what waits. May be called twice."""
        self._worker.shutdown(wait=True)

    def _keep(self, record: dict[str, Any]) -> None:
        result = "failed"
        try:
            result = self._write(record)
        except OSError as error:
            _log.warning("an answer could not be kept", action="capture_failed", error=str(error))
            self._segment = None  # half a record may stand there: the next begins a new one
        finally:
            with self._lock:
                self._waiting -= 1
            self._meter.count("edge_capture_records_total", result)

    def _write(self, record: dict[str, Any]) -> str:
        clean = redact_json(record["exchange"]) | record["labels"]
        if len(orjson.dumps(clean)) > self._settings.max_record_bytes:
            return "too_large"
        segment = self._segment
        if segment is None or segment.size >= self._settings.max_segment_bytes:
            segment = self._segment = self._begin()
        sealed = segment.writer.seal(clean)
        _append(segment.path, sealed)
        segment.size += len(sealed)
        return "written"

    def _begin(self) -> _Segment:
        self._make_room()
        writer = SegmentWriter(self._key)
        # Names sort by their time: a clock that stands or goes back must not reorder them.
        self._began_us = max(self._wall_us(), self._began_us + 1)
        path = self._folder / segment_name(self._began_us, writer.segment_id)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        os.close(os.open(path, flags, 0o600))
        _append(path, writer.header)
        return _Segment(path, writer, len(writer.header))

    def _make_room(self) -> None:
        """Delete segments that are too old, and the oldest past the total with one more."""
        oldest_us = self._wall_us() - self._settings.keep_days * US_PER_DAY
        found = [(path, path.stat().st_size) for path in segments(self._folder)]
        one_more = self._settings.max_segment_bytes + self._settings.max_record_bytes
        total = sum(size for _, size in found) + one_more
        for path, size in found:
            began_us = begun_us(path)
            old = began_us is not None and began_us < oldest_us
            if not old and total <= self._settings.max_total_bytes:
                continue
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
            total -= size


def _record(
    frontier: str, call: FrontierCall, sent: Json, answer: Json, at_us: int
) -> dict[str, Any]:
    choices = answer.get("choices") or [{}]
    logprob = _logprob(choices[0])
    return {
        "exchange": {
            **{name: sent[name] for name in _KEPT_FIELDS if sent.get(name) is not None},
            "answer": choices[0].get("message"),
            "finish_reason": choices[0].get("finish_reason"),
        },
        # Ours, not the caller's: they pass as they are.
        "labels": {
            "at_us": at_us,
            "frontier": frontier,
            "model": str(answer.get("model", "")),
            "endpoint": call.payer.endpoint,
            "purpose": str(call.purpose),
            "reason": call.reason,
            TRAINING_ALLOWED: True,  # only such answers are offered; see the rules
            **({} if logprob is None else {ANSWER_LOGPROB: logprob}),
        },
    }


def _logprob(choice: Json) -> float | None:
    """Of the whole answer; its tokens are not kept: cut up, they would escape the redaction."""
    told = choice.get("logprobs")
    tokens = told.get("content") if isinstance(told, Mapping) else None
    try:
        found = math.fsum(float(one["logprob"]) for one in tokens or ())
    except (KeyError, TypeError, ValueError):
        return None
    return min(0.0, found) if tokens and math.isfinite(found) else None


def _append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)

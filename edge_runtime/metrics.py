"""Metrics of the daemon and what the engine may say about itself.

The rows live in `edge_runtime.metric_specs`. `EngineObserver` is all the engine may call: safe
from any thread, microseconds a call, never raises.

Example:
    metrics = Metrics()
    metrics.observe_step("assistant", seconds=0.012, rows=4, tokens=4, slots=8)
    metrics.render()  # Prometheus text
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from edge_runtime.core import FinishReason, ModelInfo, RequestClass
from edge_runtime.metric_specs import BUSY_WINDOW_S, SPECS, MetricKind, MetricSpec

CONTENT_TYPE = CONTENT_TYPE_LATEST


class EngineObserver(Protocol):
    """What the engine tells. Safe from any thread, cheap, never raises.

    `model` is the model's name as requests use it. All times are seconds.
    """

    def observe_queue_wait(self, model: str, seconds: float, request_class: RequestClass) -> None:
        """A sequence got its slot `seconds` after it arrived."""

    def observe_ttft(self, model: str, seconds: float, request_class: RequestClass) -> None:
        """A sequence's first token was sampled `seconds` after it arrived."""

    def observe_inter_token(self, model: str, seconds: float) -> None:
        """A sequence's next token came `seconds` after the one before."""

    def observe_step(
        self, model: str, *, seconds: float, rows: int, tokens: int, slots: int
    ) -> None:
        """One decoder step ended: `rows` sequences, `tokens` packed, of `slots` slots."""

    def observe_encoder_batch(
        self, model: str, *, seconds: float, inputs: int, tokens: int
    ) -> None:
        """One encoder run ended."""

    def observe_sequence(
        self,
        model: str,
        *,
        prompt_tokens: int,
        cached_tokens: int,
        output_tokens: int,
        finish_reason: FinishReason,
    ) -> None:
        """A sequence ended, for whatever reason, after it had been admitted."""

    def observe_rejected(self, model: str, reason: str) -> None:
        """A sequence was not admitted; `reason` is one of a closed set, such as `queue_full`."""

    def observe_load(self, model: str, *, waiting: int, running: int, slots: int) -> None:
        """The queue or the slots of a model changed: set the gauges."""


class NullObserver:
    """An `EngineObserver` that forgets everything; for offline runs and tests."""

    def observe_queue_wait(self, model: str, seconds: float, request_class: RequestClass) -> None:
        """Forget."""

    def observe_ttft(self, model: str, seconds: float, request_class: RequestClass) -> None:
        """Forget."""

    def observe_inter_token(self, model: str, seconds: float) -> None:
        """Forget."""

    def observe_step(
        self, model: str, *, seconds: float, rows: int, tokens: int, slots: int
    ) -> None:
        """Forget."""

    def observe_encoder_batch(
        self, model: str, *, seconds: float, inputs: int, tokens: int
    ) -> None:
        """Forget."""

    def observe_sequence(
        self,
        model: str,
        *,
        prompt_tokens: int,
        cached_tokens: int,
        output_tokens: int,
        finish_reason: FinishReason,
    ) -> None:
        """Forget."""

    def observe_rejected(self, model: str, reason: str) -> None:
        """Forget."""

    def observe_load(self, model: str, *, waiting: int, running: int, slots: int) -> None:
        """Forget."""


class BusyWindow:
    """Share of the last `BUSY_WINDOW_S` seconds that was spent busy, one-second buckets.

    A run longer than a second is booked in the second it ended in; the share is capped at 1.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._start_s = clock()
        self._seconds = [0.0] * BUSY_WINDOW_S
        self._stamps = [-1] * BUSY_WINDOW_S
        self._lock = threading.Lock()

    def add(self, seconds: float) -> None:
        """Book `seconds` of work that ended now."""
        second = int(self._clock())
        place = second % BUSY_WINDOW_S
        with self._lock:
            if self._stamps[place] != second:
                self._stamps[place], self._seconds[place] = second, 0.0
            self._seconds[place] += seconds

    def ratio(self) -> float:
        """Busy share, 0 to 1, of the window or of the time since the start if shorter."""
        now = self._clock()
        oldest = int(now) - BUSY_WINDOW_S
        with self._lock:
            busy = sum(
                seconds
                for seconds, stamp in zip(self._seconds, self._stamps, strict=True)
                if stamp > oldest
            )
        elapsed = min(float(BUSY_WINDOW_S), now - self._start_s)
        return min(1.0, busy / elapsed) if elapsed > 0 else 0.0


class Metrics:
    """Prometheus metrics made from `SPECS`; also the daemon's `EngineObserver`.

    Each instance has its own registry, so that tests and several apps do not share counts.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.registry = CollectorRegistry()
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}
        self._histograms: dict[str, Histogram] = {}
        self._windows: dict[str, BusyWindow] = {}
        self._busy_s = 0.0
        self._encoder_rates: dict[str, float] = {}
        for spec in SPECS:
            self._create(spec)

    def _create(self, spec: MetricSpec) -> None:
        match spec.kind:
            case MetricKind.COUNTER:
                self._counters[spec.name] = Counter(
                    spec.name, spec.meaning, spec.labels, registry=self.registry
                )
            case MetricKind.GAUGE:
                self._gauges[spec.name] = Gauge(
                    spec.name, spec.meaning, spec.labels, registry=self.registry
                )
            case MetricKind.HISTOGRAM:
                self._histograms[spec.name] = Histogram(
                    spec.name,
                    spec.meaning,
                    spec.labels,
                    registry=self.registry,
                    buckets=spec.buckets,
                )

    def count(self, name: str, *labels: str, amount: float = 1.0) -> None:
        """Add to a counter; `labels` in the order of its spec. Raises `KeyError` on a typo."""
        counter = self._counters[name]
        (counter.labels(*labels) if labels else counter).inc(amount)

    def gauge(self, name: str, *labels: str, value: float) -> None:
        """Set a gauge. Raises `KeyError` on a name that is not in `SPECS`."""
        gauge = self._gauges[name]
        (gauge.labels(*labels) if labels else gauge).set(value)

    def observe(self, name: str, *labels: str, value: float) -> None:
        """Add one observation to a histogram. Raises `KeyError` like `gauge`."""
        self._histograms[name].labels(*labels).observe(value)

    def set_models(self, models: Iterable[ModelInfo]) -> None:
        """Publish `edge_model_info` for exactly these models."""
        gauge = self._gauges["edge_model_info"]
        gauge.clear()
        for info in models:
            gauge.labels(
                info.name, info.version, str(info.kind), info.variant, info.model_digest
            ).set(1)

    def render(self) -> bytes:
        """The Prometheus text exposition. Costs about a millisecond."""
        for model, window in list(self._windows.items()):
            self.gauge("edge_engine_busy_ratio", model, value=window.ratio())
        return generate_latest(self.registry)

    def busy_seconds(self) -> float:
        """Seconds spent inside model runs since the start, all models together."""
        return self._busy_s

    def encoder_seconds(self, model: str, tokens: int) -> float:
        """What so many tokens of an encoder take, by its latest runs; 0 before the first."""
        return self._encoder_rates.get(model, 0.0) * tokens

    def busy_ratio(self) -> float:
        """Busy share, 0 to 1, of the busiest model over the last `BUSY_WINDOW_S` seconds."""
        return max((window.ratio() for window in list(self._windows.values())), default=0.0)

    def _busy(self, model: str, seconds: float) -> None:
        self._busy_s += seconds
        self.count("edge_engine_busy_seconds_total", model, amount=seconds)
        window = self._windows.get(model)
        if window is None:
            window = self._windows.setdefault(model, BusyWindow(self._clock))
        window.add(seconds)

    def observe_queue_wait(self, model: str, seconds: float, request_class: RequestClass) -> None:
        """See `EngineObserver`."""
        self.observe("edge_queue_seconds", model, str(request_class), value=seconds)

    def observe_ttft(self, model: str, seconds: float, request_class: RequestClass) -> None:
        """See `EngineObserver`."""
        self.observe("edge_ttft_seconds", model, str(request_class), value=seconds)

    def observe_inter_token(self, model: str, seconds: float) -> None:
        """See `EngineObserver`."""
        self.observe("edge_inter_token_seconds", model, value=seconds)

    def observe_step(
        self, model: str, *, seconds: float, rows: int, tokens: int, slots: int
    ) -> None:
        """See `EngineObserver`."""
        self.observe("edge_step_seconds", model, value=seconds)
        self.observe("edge_step_rows", model, value=rows)
        self.observe("edge_step_tokens", model, value=tokens)
        self.observe("edge_batch_occupancy_ratio", model, value=rows / max(1, slots))
        self._busy(model, seconds)

    def observe_encoder_batch(
        self, model: str, *, seconds: float, inputs: int, tokens: int
    ) -> None:
        """See `EngineObserver`."""
        self.observe("edge_encoder_batch_seconds", model, value=seconds)
        self.observe("edge_encoder_batch_inputs", model, value=inputs)
        rate = seconds / max(1, tokens)
        known = self._encoder_rates.get(model, rate)
        self._encoder_rates[model] = known + 0.1 * (rate - known)
        self.count("edge_encoder_inputs_total", model, amount=inputs)
        self.count("edge_encoder_tokens_total", model, amount=tokens)
        self._busy(model, seconds)

    def observe_sequence(
        self,
        model: str,
        *,
        prompt_tokens: int,
        cached_tokens: int,
        output_tokens: int,
        finish_reason: FinishReason,
    ) -> None:
        """See `EngineObserver`."""
        self.observe("edge_sequence_prompt_tokens", model, value=prompt_tokens)
        self.observe("edge_sequence_output_tokens", model, value=output_tokens)
        self.count("edge_prompt_tokens_total", model, amount=prompt_tokens)
        self.count("edge_cached_tokens_total", model, amount=cached_tokens)
        self.count("edge_output_tokens_total", model, amount=output_tokens)
        self.count("edge_sequences_total", model, str(finish_reason))

    def observe_rejected(self, model: str, reason: str) -> None:
        """See `EngineObserver`."""
        self.count("edge_rejected_total", model, reason)

    def observe_load(self, model: str, *, waiting: int, running: int, slots: int) -> None:
        """See `EngineObserver`."""
        self.gauge("edge_queue_depth", model, value=waiting)
        self.gauge("edge_slots_busy", model, value=running)
        self.gauge("edge_slots", model, value=slots)

"""The rows of the metrics registry: name, unit, kind, labels, meaning.

Rules
- Every metric of the daemon is a row of `SPECS`; nothing else creates one. Prometheus, the
  reference page and telemetry read the same rows.
- Label values come from closed sets (routes, statuses, active models), never from the caller.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass

BUSY_WINDOW_S = 60

_SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_TOKENS = (1, 4, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
_ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)
_FAST_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5)
_RATIOS = (0.0625, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)


class MetricKind(enum.StrEnum):
    """How a metric moves."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One metric. `name` is what Prometheus shows; counters end in `_total`."""

    name: str
    unit: str
    kind: MetricKind
    labels: tuple[str, ...]
    meaning: str
    buckets: tuple[float, ...] = ()


def _counter(name: str, unit: str, labels: Iterable[str], meaning: str) -> MetricSpec:
    return MetricSpec(name, unit, MetricKind.COUNTER, tuple(labels), meaning)


def _gauge(name: str, unit: str, labels: Iterable[str], meaning: str) -> MetricSpec:
    return MetricSpec(name, unit, MetricKind.GAUGE, tuple(labels), meaning)


def _histogram(
    name: str, unit: str, labels: Iterable[str], meaning: str, buckets: tuple[float, ...]
) -> MetricSpec:
    return MetricSpec(name, unit, MetricKind.HISTOGRAM, tuple(labels), meaning, buckets)


SPECS: tuple[MetricSpec, ...] = (
    _counter(
        "edge_http_requests_total",
        "requests",
        ("route", "status", "model"),
        "Answered HTTP requests; `model` is empty where no active model was named.",
    ),
    _histogram(
        "edge_http_request_seconds",
        "seconds",
        ("route",),
        "From the request's headers to the last byte of its answer.",
        _SECONDS,
    ),
    _gauge("edge_http_requests_active", "requests", (), "Inference requests in progress."),
    _counter(
        "edge_http_disconnects_total",
        "requests",
        ("route",),
        "Requests whose client went away before the answer was complete.",
    ),
    _counter(
        "edge_http_inert_fields_total",
        "fields",
        ("field",),
        "Request fields that were accepted and ignored because they cannot change an answer.",
    ),
    _gauge(
        "edge_model_info",
        "1",
        ("model", "version", "kind", "variant", "model_digest"),
        "Always 1; joins a model's name to its version and digest.",
    ),
    _counter(
        "edge_rejected_total",
        "requests",
        ("model", "reason"),
        "Requests that were not admitted or waited past their deadline: `concurrent_requests`, "
        "`queue_full`, `wait_too_long`, `deadline`.",
    ),
    _gauge("edge_queue_depth", "sequences", ("model",), "Sequences that wait for a slot."),
    _histogram(
        "edge_queue_seconds",
        "seconds",
        ("model", "class"),
        "From a sequence's arrival to its slot.",
        _SECONDS,
    ),
    _histogram(
        "edge_ttft_seconds",
        "seconds",
        ("model", "class"),
        "Time to first token: from a sequence's arrival to its first sampled token.",
        _SECONDS,
    ),
    _histogram(
        "edge_inter_token_seconds",
        "seconds",
        ("model",),
        "Between two sampled tokens of one sequence.",
        _SECONDS,
    ),
    _histogram(
        "edge_step_seconds", "seconds", ("model",), "Duration of one engine step.", _SECONDS
    ),
    _histogram("edge_step_rows", "rows", ("model",), "Sequences in one engine step.", _ROWS),
    _histogram(
        "edge_step_tokens", "tokens", ("model",), "Packed tokens of one engine step.", _TOKENS
    ),
    _histogram(
        "edge_batch_occupancy_ratio",
        "ratio",
        ("model",),
        "Share of a model's slots that a step had work for.",
        _RATIOS,
    ),
    _counter(
        "edge_engine_busy_seconds_total",
        "seconds",
        ("model",),
        "Time spent inside model runs; its rate is the share of time the engine works.",
    ),
    _gauge(
        "edge_engine_busy_ratio",
        "ratio",
        ("model",),
        f"Share of the last {BUSY_WINDOW_S} seconds spent inside model runs.",
    ),
    _gauge("edge_slots", "slots", ("model",), "KV slots of a model."),
    _gauge("edge_slots_busy", "slots", ("model",), "KV slots that hold a running sequence."),
    _histogram(
        "edge_sequence_prompt_tokens",
        "tokens",
        ("model",),
        "Prompt tokens of one sequence.",
        _TOKENS,
    ),
    _histogram(
        "edge_sequence_output_tokens",
        "tokens",
        ("model",),
        "Sampled tokens of one sequence.",
        _TOKENS,
    ),
    _counter("edge_prompt_tokens_total", "tokens", ("model",), "Prompt tokens of ended sequences."),
    _counter(
        "edge_cached_tokens_total",
        "tokens",
        ("model",),
        "Prompt tokens whose KV was reused instead of computed.",
    ),
    _counter(
        "edge_output_tokens_total", "tokens", ("model",), "Sampled tokens of ended sequences."
    ),
    _counter(
        "edge_sequences_total",
        "sequences",
        ("model", "finish_reason"),
        "Ended sequences by reason; `cancelled` are those whose client went away.",
    ),
    _histogram(
        "edge_encoder_batch_seconds",
        "seconds",
        ("model",),
        "Duration of one encoder run.",
        _SECONDS,
    ),
    _histogram(
        "edge_encoder_batch_inputs", "inputs", ("model",), "Inputs in one encoder run.", _ROWS
    ),
    _counter("edge_encoder_inputs_total", "inputs", ("model",), "Inputs encoded."),
    _counter("edge_encoder_tokens_total", "tokens", ("model",), "Tokens encoded."),
    _counter(
        "edge_frontier_tries_total",
        "tries",
        ("frontier", "outcome"),
        "Calls to a frontier, each repeat included: `ok`, `cancelled`, or why it gave no answer.",
    ),
    _histogram(
        "edge_frontier_seconds", "seconds", ("frontier",), "Duration of one such call.", _SECONDS
    ),
    _histogram(
        "edge_frontier_first_token_seconds",
        "seconds",
        ("frontier",),
        "From a call's start to the first part of its answer; to its headers without streaming.",
        _SECONDS,
    ),
    _counter(
        "edge_frontier_tokens_total",
        "tokens",
        ("frontier", "kind"),
        "Tokens as booked: `input`, `cached`, `output`; `trimmed` are those that were not sent.",
    ),
    _counter(
        "edge_frontier_cost_total",
        "currency",
        ("frontier", "source"),
        "Money as booked, in units of the price list's currency; `source` is who counted.",
    ),
    _counter(
        "edge_frontier_late_bills_total",
        "calls",
        ("frontier", "source"),
        "Calls booked by a guess whose real cost was learned afterwards; "
        "`edge_frontier_cost_total` keeps the guess, the ledger has the real cost.",
    ),
    _gauge(
        "edge_frontier_active_calls", "calls", ("frontier",), "Calls to a frontier in progress."
    ),
    _gauge(
        "edge_frontier_breaker_mode",
        "1",
        ("frontier",),
        "0 closed, 1 probing, 2 open, 3 paused (429), 4 out of credit; as of its last call.",
    ),
    _counter(
        "edge_capture_records_total",
        "records",
        ("result",),
        "Frontier answers kept for training: `written`, or why not: `too_large`, `busy`, `failed`.",
    ),
    _counter(
        "edge_decisions_total",
        "questions",
        ("endpoint", "tier", "reason"),
        "Questions answered, by who answered and why; `endpoint` is empty where no configured one "
        "was named. A classification of n inputs is n questions.",
    ),
    _counter(
        "edge_refusals_total",
        "questions",
        ("endpoint", "reason"),
        "Questions the router refused, by the reason that kept them from an answer.",
    ),
    _counter(
        "edge_escalations_total",
        "questions",
        ("endpoint", "reason"),
        "Questions sent to a frontier, answered or not.",
    ),
    _counter(
        "edge_frontier_failures_total",
        "questions",
        ("why",),
        "Escalations that no frontier answered: `budget`, `out-of-credit`, `rate-limited`, "
        "`breaker-open`, `timeout`, `unreachable`, `refused`, `bad-request`, `cut`, "
        "`none-configured`.",
    ),
    _counter(
        "edge_cache_lookups_total",
        "questions",
        ("cache", "result"),
        "Cache lookups; `cache` is exact or semantic, `result` hit or miss.",
    ),
    _counter(
        "edge_cost_total", "currency", ("tier",), "Money of attempts, in the price list's currency."
    ),
    _counter(
        "edge_task_outcomes_total",
        "tasks",
        ("outcome",),
        "Outcomes that callers told: `resolved` or `unresolved`; one told twice counts twice.",
    ),
    _counter(
        "edge_saved_total", "currency", (), "Money that cache hits would have cost to make again."
    ),
    _counter("edge_joules_total", "joules", ("source",), "Energy of attempts, by its source."),
    _histogram(
        "edge_router_seconds",
        "seconds",
        ("route",),
        "The router's own part of a chat or a classification: from its headers until it is known "
        "what to do first (plan, exact cache, decision), and each later decision. Not in it: the "
        "body's arrival, tokenising, models, embeddings, frontiers, waits for the ledger's disk.",
        _FAST_SECONDS,
    ),
    _counter(
        "edge_ledger_rows_lost_total",
        "rows",
        (),
        "Ledger rows that found no place on the disk; anything but 0 makes reports wrong.",
    ),
    _counter(
        "edge_background_dropped_total",
        "tasks",
        ("task",),
        "Shadows and kept answers left out because too many were in progress.",
    ),
    _gauge(
        "edge_certificates",
        "certificates",
        ("state",),
        "Certificates the box could read (`known`), and files it refused (`refused`).",
    ),
    _counter(
        "edge_drift_alarms_total",
        "alarms",
        ("task", "signal", "method"),
        "Drift alarms by what moved (`escalation`, `scores`, `tokens`, `audit`) and by which rule "
        "saw it (`cusum`, `e-process`).",
    ),
    _counter(
        "edge_watch_events_total",
        "events",
        ("event",),
        "What the watch told: `alarm`, `cleared`, `trial-promote`, `trial-revert`.",
    ),
    _counter(
        "edge_audits_total",
        "audits",
        ("task", "result"),
        "Kept answers held against a frontier: `agreed`, `differed`; or `unreadable`, `failed`, "
        "`dropped` where nothing came of it.",
    ),
    _gauge("edge_audits_waiting", "audits", (), "Audits and trial pairs that wait for a frontier."),
)

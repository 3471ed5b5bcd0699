"""The registry and what the engine's reports become."""

from __future__ import annotations

import pytest

from edge_runtime.core import FinishReason, Kind, ModelInfo, RequestClass
from edge_runtime.metric_specs import BUSY_WINDOW_S, SPECS, MetricKind
from edge_runtime.metrics import BusyWindow, Metrics


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_names_are_unique_and_say_unit_and_kind() -> None:
    names = [spec.name for spec in SPECS]
    assert len(set(names)) == len(names)
    for spec in SPECS:
        assert spec.name.startswith("edge_")
        assert spec.meaning.endswith(".")
        assert (spec.kind is MetricKind.COUNTER) == spec.name.endswith("_total")
        assert (spec.kind is MetricKind.HISTOGRAM) == bool(spec.buckets)
        assert list(spec.buckets) == sorted(spec.buckets)
        if spec.unit in {"seconds", "ratio"}:
            assert spec.unit in spec.name


def test_steps_show_time_rows_tokens_occupancy_and_busy_share() -> None:
    clock = Clock()
    metrics = Metrics(clock)
    clock.now_s += 10
    metrics.observe_step("m", seconds=2.0, rows=2, tokens=40, slots=8)
    metrics.render()
    assert value(metrics, "edge_step_seconds_sum", model="m") == 2.0
    assert value(metrics, "edge_step_rows_sum", model="m") == 2
    assert value(metrics, "edge_step_tokens_sum", model="m") == 40
    assert value(metrics, "edge_batch_occupancy_ratio_sum", model="m") == 0.25
    assert value(metrics, "edge_engine_busy_seconds_total", model="m") == 2.0
    # the model's window opened with its first run; ten seconds later a fifth of them was busy
    clock.now_s += 10
    metrics.render()
    assert value(metrics, "edge_engine_busy_ratio", model="m") == pytest.approx(0.2)


def test_sequences_show_tokens_and_why_they_ended() -> None:
    metrics = Metrics()
    metrics.observe_sequence(
        "m",
        prompt_tokens=10,
        cached_tokens=4,
        output_tokens=3,
        finish_reason=FinishReason.CANCELLED,
    )
    assert value(metrics, "edge_prompt_tokens_total", model="m") == 10
    assert value(metrics, "edge_cached_tokens_total", model="m") == 4
    assert value(metrics, "edge_output_tokens_total", model="m") == 3
    assert value(metrics, "edge_sequence_output_tokens_count", model="m") == 1
    ended = value(metrics, "edge_sequences_total", model="m", finish_reason="cancelled")
    assert ended == 1


def test_waits_are_kept_by_class() -> None:
    metrics = Metrics()
    metrics.observe_queue_wait("m", 0.5, RequestClass.BATCH)
    metrics.observe_ttft("m", 1.5, RequestClass.INTERACTIVE)
    metrics.observe_inter_token("m", 0.05)
    labels = {"model": "m", "class": "batch"}
    assert metrics.registry.get_sample_value("edge_queue_seconds_sum", labels) == 0.5
    labels = {"model": "m", "class": "interactive"}
    assert metrics.registry.get_sample_value("edge_ttft_seconds_sum", labels) == 1.5
    assert value(metrics, "edge_inter_token_seconds_sum", model="m") == 0.05


def test_encoder_batches_and_load_and_rejections() -> None:
    metrics = Metrics()
    metrics.observe_encoder_batch("e", seconds=0.1, inputs=5, tokens=50)
    metrics.observe_load("m", waiting=3, running=2, slots=8)
    metrics.observe_rejected("m", "queue_full")
    assert value(metrics, "edge_encoder_inputs_total", model="e") == 5
    assert value(metrics, "edge_encoder_tokens_total", model="e") == 50
    assert value(metrics, "edge_queue_depth", model="m") == 3
    assert value(metrics, "edge_slots_busy", model="m") == 2
    assert value(metrics, "edge_slots", model="m") == 8
    assert value(metrics, "edge_rejected_total", model="m", reason="queue_full") == 1


def test_model_info_follows_the_active_models() -> None:
    metrics = Metrics()

    def info(version: str) -> ModelInfo:
        return ModelInfo("m", version, Kind.EMBED, "int8", "b", "d", 1, 1)

    labels = {"model": "m", "kind": "embed", "variant": "int8", "model_digest": "d"}
    metrics.set_models([info("1")])
    metrics.set_models([info("2")])
    assert value(metrics, "edge_model_info", **labels, version="2") == 1
    assert value(metrics, "edge_model_info", **labels, version="1") is None


def test_two_instances_share_nothing() -> None:
    one, two = Metrics(), Metrics()
    one.observe_rejected("m", "x")
    assert value(two, "edge_rejected_total", model="m", reason="x") is None


def test_a_name_that_is_not_in_the_registry_is_a_bug() -> None:
    with pytest.raises(KeyError):
        Metrics().count("edge_nonsense_total")


def test_the_busy_window_forgets_and_never_exceeds_one() -> None:
    clock = Clock()
    window = BusyWindow(clock)
    assert window.ratio() == 0.0
    clock.now_s += 10
    window.add(5.0)
    assert window.ratio() == pytest.approx(0.5)
    window.add(50.0)
    assert window.ratio() == 1.0
    clock.now_s += BUSY_WINDOW_S
    assert window.ratio() == 0.0
    window.add(6.0)  # the same place in the ring as before, another second
    assert window.ratio() == pytest.approx(0.1)

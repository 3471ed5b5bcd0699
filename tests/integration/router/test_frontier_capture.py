"""Captured answers on disk: redacted, encrypted, bounded, readable with the key."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.bundle.capture_file import new_key, read_folder, read_key, segments
from edge_runtime.errors import ConfigError
from edge_runtime.ledger.rows import US_PER_DAY
from edge_runtime.metrics import Metrics
from edge_runtime.router.frontier.capture import Capture
from edge_runtime.router.frontier.memory import NOW_US, MemoryFrontiers, completion, says
from edge_runtime.router.frontier.settings import CaptureSettings
from tests.support.frontier import a_call


@pytest.fixture
def settings(tmp_path: Path) -> CaptureSettings:
    return changed(tmp_path)


def changed(folder: Path, **more: Any) -> CaptureSettings:
    key = folder / "capture.key"
    if not key.exists():
        key.write_text(new_key())
    values = {"enabled": True, "directory": folder / "captured", "key_file": key}
    return CaptureSettings.model_validate(values | more)


def records(settings: CaptureSettings) -> list[Mapping[str, Any]]:
    assert settings.directory is not None
    assert settings.key_file is not None
    return list(read_folder(settings.directory, read_key(settings.key_file)))


def offer(capture: Capture, text: str = "hello", answer: str = "greeting") -> None:
    call = a_call(text)
    capture.offer("big", call, {**call.body, "temperature": 0}, completion(answer))


async def test_what_the_pool_answered_can_be_read_with_the_key(settings: CaptureSettings) -> None:
    with Capture(settings, wall_us=lambda: NOW_US) as capture:
        frontiers = MemoryFrontiers(
            lambda _body: says('{"label": "balance"}'),
            settings={"training_allowed": True},
            capture=capture,
        )
        await frontiers.complete(a_call("I am bob@example.com, card 4111 1111 1111 1111"))
    assert records(settings) == [
        {
            "messages": [{"role": "user", "content": "I am <email>, card <card>"}],
            "answer": {"role": "assistant", "content": '{"label": "balance"}'},
            "finish_reason": "stop",
            "at_us": NOW_US,
            "frontier": "frontier",
            "model": "memory",
            "endpoint": "search",
            "purpose": "serve",
            "reason": "low-confidence",
            "training_allowed": True,
        }
    ]
    assert settings.directory is not None
    (path,) = segments(settings.directory)
    data = path.read_bytes()
    assert b"balance" not in data
    assert b"tenant-1" not in data
    assert path.stat().st_mode & 0o077 == 0
    assert settings.directory.stat().st_mode & 0o077 == 0


def test_of_logprobs_only_their_sum_is_kept(settings: CaptureSettings) -> None:
    answer = completion("call 555 0100 234")
    tokens = [{"token": "call", "logprob": -0.25}, {"token": " 555", "logprob": -0.5}]
    answer["choices"][0]["logprobs"] = {"content": tokens}
    broken = completion("yes")
    broken["choices"][0]["logprobs"] = {"content": [{"token": "yes"}]}
    with Capture(settings, wall_us=lambda: NOW_US) as capture:
        call = a_call("who")
        capture.offer("big", call, call.body, answer)
        capture.offer("big", call, call.body, broken)
    first, second = records(settings)
    assert first["answer_logprob"] == -0.75
    assert "555" not in str(first)
    assert "answer_logprob" not in second


def test_segments_are_bounded_and_the_oldest_go(tmp_path: Path) -> None:
    settings = changed(
        tmp_path, max_segment_bytes=4096, max_record_bytes=2048, max_total_bytes=12_288
    )
    assert settings.directory is not None
    now = [NOW_US]
    with Capture(settings, wall_us=lambda: now[0]) as capture:
        for number in range(60):
            now[0] += 1
            offer(capture, f"question {number} " + "x" * 500)
    sizes = [path.stat().st_size for path in segments(settings.directory)]
    assert len(sizes) >= 2
    assert sum(sizes) <= 12_288
    assert max(sizes) <= 4096 + 2048
    kept = [one["messages"][0]["content"].split()[1] for one in records(settings)]
    assert kept == [str(number) for number in range(60 - len(kept), 60)]


def test_old_segments_go_and_a_new_process_begins_its_own(tmp_path: Path) -> None:
    settings = changed(tmp_path, keep_days=2)
    assert settings.directory is not None
    for days, left in ((0, 1), (1, 2), (4, 1)):
        with Capture(settings, wall_us=lambda days=days: NOW_US + days * US_PER_DAY) as capture:  # type: ignore[misc]
            offer(capture)
        assert len(segments(settings.directory)) == left


def test_what_is_too_large_or_too_much_is_dropped_and_counted(tmp_path: Path) -> None:
    metrics = Metrics()
    settings = changed(tmp_path, max_record_bytes=1024, max_waiting=2)
    capture = Capture(settings, meter=metrics, wall_us=lambda: NOW_US)
    hold = threading.Event()
    capture._worker.submit(hold.wait, 30)
    offer(capture, "y" * 3000)
    offer(capture)
    offer(capture)
    hold.set()
    capture.close()
    capture.close()
    offer(capture)  # after the end: dropped, no error
    shown = metrics.render().decode()
    for result in ("too_large", "written", "busy"):
        assert f'edge_capture_records_total{{result="{result}"}} 1.0' in shown
    assert len(records(settings)) == 1


def test_a_disk_that_fails_fails_no_request(tmp_path: Path) -> None:
    metrics = Metrics()
    settings = changed(tmp_path)
    assert settings.directory is not None
    with Capture(settings, meter=metrics, wall_us=lambda: NOW_US) as capture:
        settings.directory.rmdir()
        offer(capture)
    assert 'edge_capture_records_total{result="failed"} 1.0' in metrics.render().decode()


def test_without_a_key_it_refuses_to_start(tmp_path: Path) -> None:
    settings = changed(tmp_path)
    assert settings.key_file is not None
    settings.key_file.write_text("short")
    with pytest.raises(ConfigError, match="64 hex digits"):
        Capture(settings)
    with pytest.raises(ConfigError, match="needs a directory"):
        Capture(CaptureSettings())
    settings.key_file.write_text(new_key())
    (tmp_path / "captured").write_text("a file")
    with pytest.raises(ConfigError, match="name another folder"):
        Capture(settings)

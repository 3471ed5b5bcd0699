"""Captures made by the daemon's own writer, as a frontier's answers come in."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from edge_runtime.bundle.capture_file import SegmentWriter, new_key, segment_name
from edge_runtime.bundle.escalation import Escalation
from edge_runtime.router.escalate import chat_body, classify_body
from edge_runtime.router.frontier.capture import Capture
from edge_runtime.router.frontier.memory import NOW_US, completion
from edge_runtime.router.frontier.settings import CaptureSettings
from tests.support.frontier import a_call

LABELS = ("light_on", "light_off", "music")
CLASSIFY = Escalation.model_validate(
    {
        "prompt": "Name the intent. The intents:\n{labels}\n\nAnswer with JSON.",
        "parser": "label-json/1",
        "out_of_scope": {"answers": ["none"], "label": "oos"},
        "answer_schema": {
            "type": "object",
            "required": ["label"],
            "properties": {"label": {"type": "string"}},
        },
    }
)
EXTRACT = Escalation(prompt="Give intent and slots.", parser="json/1")


def asked(text: str, said: str, **changes: Any) -> dict[str, Any]:
    """One classify exchange: what `offered` takes."""
    body = classify_body(CLASSIFY, LABELS, text)
    return {"body": body, "answer": completion(json.dumps({"label": said}))} | changes


def extracted(text: str, intent: str, slots: Iterable[tuple[str, str]], **changes: Any) -> Any:
    """One exchange that asks for slots."""
    body = chat_body(EXTRACT, {}, [{"role": "user", "content": text}])
    found = {"intent": intent, "slots": [{"slot": slot, "text": value} for slot, value in slots]}
    return {"body": body, "answer": completion(json.dumps(found))} | changes


def settings_in(folder: Path, **more: Any) -> CaptureSettings:
    """Settings of a capture in `folder`, with a key beside it."""
    key = folder / "capture.key"
    if not key.exists():
        key.write_text(new_key())
    values = {"enabled": True, "directory": folder / "captured", "key_file": key}
    return CaptureSettings.model_validate(values | more)


def captured(
    folder: Path, exchanges: Iterable[Mapping[str, Any]], **more: Any
) -> tuple[Path, Path]:
    """Let the daemon's writer keep exchanges; the folder of the segments, and the key."""
    settings = settings_in(folder, max_waiting=65_536, **more)
    assert settings.directory is not None
    assert settings.key_file is not None
    at_us = [NOW_US]

    def later() -> int:
        at_us[0] += 1_000_000
        return at_us[0]

    with Capture(settings, wall_us=later) as capture:
        for one in exchanges:
            call = a_call("", body=one["body"], reason=one.get("reason", "low-confidence"))
            payer = replace(call.payer, endpoint=one.get("endpoint", "intent"))
            call = replace(call, payer=payer)
            capture.offer(one.get("frontier", "big"), call, one["body"], one["answer"])
    return settings.directory, settings.key_file


def by_hand(path: Path, key: bytes, records: Iterable[Mapping[str, Any]]) -> Path:
    """A segment of any records, such as those of a daemon that wrote less."""
    writer = SegmentWriter(key)
    file = path / segment_name(NOW_US, writer.segment_id)
    file.write_bytes(writer.header + b"".join(writer.seal(one) for one in records))
    return file

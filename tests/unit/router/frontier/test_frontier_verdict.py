"""What a frontier's answer means."""

from __future__ import annotations

import json

import pytest

from edge_runtime.router.contract import FrontierWhy
from edge_runtime.router.frontier.verdict import (
    MAX_MESSAGE_CHARS,
    Billed,
    Health,
    Repeat,
    of_event,
    of_status,
    retry_after,
)


def error(message: str = "", **more: str) -> bytes:
    return json.dumps({"error": {"message": message, **more}}).encode()


CREDIT = (FrontierWhy.OUT_OF_CREDIT, Health.CREDIT, Repeat.NEXT)
SLOW_DOWN = (FrontierWhy.RATE_LIMITED, Health.PAUSE, Repeat.LATER)
WRONG = (FrontierWhy.BAD_REQUEST, Health.ALIVE, Repeat.NEVER)
MISCONFIGURED = (FrontierWhy.UNREACHABLE, Health.FAILURE, Repeat.NEXT)
LATE = (FrontierWhy.TIMEOUT, Health.FAILURE, Repeat.SAME)
ILL = (FrontierWhy.UNREACHABLE, Health.FAILURE, Repeat.SAME)
BUSY = (FrontierWhy.UNREACHABLE, Health.ALIVE, Repeat.SAME)


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (402, b"", CREDIT),
        (429, b"", SLOW_DOWN),
        (429, error(code="insufficient_quota"), CREDIT),
        (429, error(code="rate_limit_exceeded"), SLOW_DOWN),
        (400, error("Your credit balance is too low to access"), CREDIT),
        (400, error("Budget has been exceeded! Current cost: 3"), CREDIT),
        (403, error(type="BILLING_NOT_ACTIVE"), CREDIT),
        (400, error("temperature must be below 2"), WRONG),
        (413, b"too large", WRONG),
        (422, b"", WRONG),
        (401, error("bad key"), MISCONFIGURED),
        (403, error("no access"), MISCONFIGURED),
        (404, b"", MISCONFIGURED),
        (302, b"", MISCONFIGURED),
        (204, b"", MISCONFIGURED),
        (408, b"", LATE),
        (504, b"", LATE),
        (409, b"", BUSY),
        (425, b"", BUSY),
        (500, b"", ILL),
        (503, error(code="server_error"), ILL),
        (529, b"", ILL),
    ],
)
def test_a_status_and_its_body_decide(
    status: int, body: bytes, expected: tuple[FrontierWhy, Health, Repeat]
) -> None:
    verdict = of_status(status, body, 7.0)
    assert verdict is not None
    assert (verdict.why, verdict.health, verdict.repeat) == expected
    assert verdict.billed is Billed.NO  # a refusal by status is not charged
    assert str(status) in verdict.message


def test_a_200_has_to_be_looked_at() -> None:
    assert of_status(200, b"whatever") is None


@pytest.mark.parametrize("status", [402, 429, 500, 503, 504])
def test_the_wait_that_was_asked_for_is_kept(status: int) -> None:
    verdict = of_status(status, b"", 12.5)
    assert verdict is not None
    assert verdict.retry_after_s == 12.5


@pytest.mark.parametrize(
    "body", [b"<html>", b"\xff\xfe", b"[1, 2]", b'"text"', b"null", b"[" * 9000]
)
def test_a_body_that_is_no_error_is_quoted_briefly(body: bytes) -> None:
    verdict = of_status(500, body)
    assert verdict is not None
    assert len(verdict.message) < MAX_MESSAGE_CHARS + 40
    assert "\n" not in verdict.message


def test_an_error_as_plain_text_is_read() -> None:
    verdict = of_status(400, b'{"error": "you have exceeded your current quota"}')
    assert verdict is not None
    assert verdict.why is FrontierWhy.OUT_OF_CREDIT


@pytest.mark.parametrize(
    ("found", "why"),
    [
        ({"message": "overloaded"}, FrontierWhy.UNREACHABLE),
        ({"code": "insufficient_quota"}, FrontierWhy.OUT_OF_CREDIT),
        ("just text", FrontierWhy.UNREACHABLE),
    ],
)
def test_an_error_inside_a_stream_may_be_charged(found: object, why: FrontierWhy) -> None:
    verdict = of_event(found)
    assert (verdict.why, verdict.billed) == (why, Billed.PERHAPS)


NOW_S = 1_795_348_800.0  # Sun, 22 Nov 2026 12:00:00 GMT


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": " 0.5 "}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
        ({"retry-after": "Sun, 22 Nov 2026 12:01:30 GMT"}, 90.0),
        ({"retry-after": "Sun, 22 Nov 2026 11:00:00 GMT"}, 0.0),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "tomorrow"}, None),
    ],
)
def test_retry_after_is_seconds_or_a_date(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers, NOW_S) == seconds

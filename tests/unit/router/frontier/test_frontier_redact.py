"""What names people, accounts and keys is taken out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.router.frontier.redact import MAX_DEPTH, is_card, is_iban, redact, redact_json


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("mail bob.smith+x@mail.example.co.uk now", "mail <email> now"),
        ("call +49 30 1234567 or (415) 555-2671", "call <phone> or <phone>"),
        ("004930/1234567.", "<phone>."),
        ("card 4111 1111 1111 1111 12/26", "card <card> 12/26"),
        ("2 times 4111-1111-1111-1111", "2 times <card>"),
        ("378282246310005", "<card>"),
        ("pay DE89 3704 0044 0532 0130 00 and more", "pay <iban> and more"),
        ("GB82WEST12345698765432", "<iban>"),
        ("customer 123456789012345678901", "customer <number>"),
        ("order A4111111111111112", "order A<number>"),
        ("sk-proj-abcDEF0123456789abcdef", "<key>"),
        ("use ghp_abcdefghijklmnopqrstuv123456!", "use <key>!"),
        ("AKIAIOSFODNN7EXAMPLE", "<key>"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0.abc", "<key>"),
        ("Authorization: Bearer abcdef0123456789xyz", "Authorization: Bearer <key>"),
        ('{"password": "hunter22"}', '{"password": <key>"}'),
        ("api_key=abcdef123", "api_key=<key>"),
        ("https://user:secret1@host/path", "https://<login>@host/path"),
        ("-----BEGIN RSA PRIVATE KEY-----\nab\n-----END RSA PRIVATE KEY-----\nz", "<key>\nz"),
        ("-----BEGIN PRIVATE KEY-----\nnever ends 12", "<key>"),
    ],
)
def test_what_is_found_is_named(text: str, clean: str) -> None:
    assert redact(text) == clean


@pytest.mark.parametrize(
    "text",
    [
        "set an alarm for 7:30 on 12/24/2026",
        "date 2026-11-22 19:42:20",
        "what is 15 plus 27",
        "flight ba 2490 at 10 45",
        "transfer $3,500.00 to savings",
        "the risk-free task-based desk",
        "meet me @ noon",
        "",
    ],
)
def test_plain_speech_stays(text: str) -> None:
    assert redact(text) == text


@given(st.text(alphabet="0123456789", min_size=7, max_size=60), st.sampled_from(["", "x ", "é"]))
def test_no_long_run_of_digits_is_left(digits: str, before: str) -> None:
    clean = redact(f"{before}{digits}")
    assert sum(one.isdigit() for one in clean) < 7


@given(st.text(alphabet="ab@.<> 4711-+", max_size=60))
def test_redacting_twice_changes_nothing(text: str) -> None:
    once = redact(text)
    assert redact(once) == once


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("4111111111111111", True),
        ("4111111111111112", False),
        ("5500005555555559", True),
        ("0000000000000000", False),
        ("411111111111", False),
        ("4111 1111 1111 1111 ", False),
    ],
)
def test_a_card_has_a_check_digit(text: str, right: bool) -> None:
    assert is_card(text) is right


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("DE89 3704 0044 0532 0130 00", True),
        ("DE89 3704 0044 0532 0130 01", False),
        ("NL91ABNA0417164300", True),
        ("1234567890123456789", False),
        ("DE89 3704", False),
    ],
)
def test_an_iban_has_check_digits(text: str, right: bool) -> None:
    assert is_iban(text) is right


def test_every_text_of_a_json_value_is_redacted() -> None:
    value = {
        "a@example.com": ["b@example.com", {"c": "d@example.com"}],
        "account": 1234567890,
        "small": 42,
        "share": 0.5,
        "flag": True,
        "none": None,
    }
    assert redact_json(value) == {
        "<email>": ["<email>", {"c": "<email>"}],
        "account": "<number>",
        "small": 42,
        "share": 0.5,
        "flag": True,
        "none": None,
    }
    deep: object = "e@example.com"
    for _ in range(MAX_DEPTH + 5):
        deep = [deep]
    assert "@" not in str(redact_json(deep))

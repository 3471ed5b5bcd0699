"""Who may ask: pure checks of headers."""

from __future__ import annotations

import hashlib

import pytest

from edge_runtime.config import ServerSettings
from edge_runtime.core import RequestClass
from edge_runtime.errors import UsageError
from edge_runtime.server import guards

KEYS = {"a": hashlib.sha256(b"one").hexdigest(), "b": hashlib.sha256(b"two").hexdigest()}


def test_without_keys_everybody_is_the_unnamed_tenant() -> None:
    assert guards.authenticate({}, {}) == ""


@pytest.mark.parametrize(
    ("header", "tenant"), [("Bearer one", "a"), ("bearer two", "b"), ("Bearer  one ", "a")]
)
def test_a_key_names_its_tenant(header: str, tenant: str) -> None:
    assert guards.authenticate({"Authorization": header}, KEYS) == tenant


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer three", "Basic one", "Bearer \udcff"])
def test_other_keys_are_refused(header: str) -> None:
    with pytest.raises(UsageError) as caught:
        guards.authenticate({"Authorization": header}, KEYS)
    assert caught.value.status == 401


def test_the_digest_itself_is_no_key() -> None:
    with pytest.raises(UsageError):
        guards.authenticate({"Authorization": f"Bearer {KEYS['a']}"}, KEYS)


@pytest.mark.parametrize("given", ["abc", "a-b_c.d:1/2+3=4@5", "x" * 128])
def test_safe_request_ids_are_kept(given: str) -> None:
    assert guards.request_id({"x-request-id": given}) == given


@pytest.mark.parametrize("given", ["", "x" * 129, "a b", "a\nb", "é"])
def test_other_request_ids_are_replaced(given: str) -> None:
    first = guards.request_id({"x-request-id": given})
    assert first != given
    assert first != guards.request_id({})


def test_class_is_interactive_unless_said() -> None:
    assert guards.request_class({}) is RequestClass.INTERACTIVE
    assert guards.request_class({"x-edge-class": " Batch "}) is RequestClass.BATCH
    with pytest.raises(UsageError, match="interactive or batch"):
        guards.request_class({"x-edge-class": "urgent"})


def test_deadline_is_a_point_on_the_callers_clock() -> None:
    assert guards.deadline_s({}, 10.0, 1000) is None
    assert guards.deadline_s({"x-edge-deadline-ms": "500"}, 10.0, 1000) == 10.5


@pytest.mark.parametrize("text", ["0", "1001", "-1", "1e3", "", "٣", "9" * 40])
def test_deadlines_out_of_range_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="1 to 1000"):
        guards.deadline_s({"x-edge-deadline-ms": text}, 10.0, 1000)


@pytest.mark.parametrize(
    "host", ["localhost:8080", "127.0.0.1:8080", "[::1]:8080", "192.168.1.7", "", "box.lan"]
)
def test_own_hosts_pass(host: str) -> None:
    settings = ServerSettings(allowed_hosts=["box.lan"])
    assert guards.check_browser({"Host": host}, settings) is None


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example:8080", "[::1", "a b"])
def test_foreign_hosts_are_refused(host: str) -> None:
    with pytest.raises(UsageError) as caught:
        guards.check_browser({"Host": host}, ServerSettings())
    assert caught.value.code == "forbidden_host"


def test_keys_make_the_host_check_needless() -> None:
    settings = ServerSettings(api_key_sha256=KEYS)
    assert guards.check_browser({"Host": "box.example"}, settings) is None


def test_an_allowed_origin_is_returned_for_cors() -> None:
    settings = ServerSettings(cors_allowed_origins=["https://app.example"])
    headers = {"Host": "localhost", "Origin": "https://app.example"}
    assert guards.check_browser(headers, settings) == "https://app.example"


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:9999"])
def test_other_origins_are_refused(origin: str) -> None:
    with pytest.raises(UsageError) as caught:
        guards.check_browser({"Host": "localhost:8080", "Origin": origin}, ServerSettings())
    assert caught.value.code == "forbidden_origin"


def test_a_rebound_page_is_not_its_own_origin() -> None:
    settings = ServerSettings(api_key_sha256=KEYS)
    headers = {"Host": "evil.example:8080", "Origin": "http://evil.example:8080"}
    with pytest.raises(UsageError):
        guards.check_browser(headers, settings)

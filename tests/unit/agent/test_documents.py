"""Documents: round trips, signatures, limits."""

from __future__ import annotations

import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import ValidationError

from edge_runtime.agent.protocol import (
    MAX_BYTES,
    MAX_ITEMS,
    BoxState,
    Channel,
    Do,
    EnrolAnswer,
    EnrolRequest,
    Have,
    ItemKind,
    ItemReport,
    Link,
    PullLog,
    Want,
    Window,
)
from edge_runtime.bundle.canonical import canonical_bytes
from edge_runtime.bundle.envelope import public_pem, seal, trust
from edge_runtime.errors import BundleError
from tests.support.wants import HARDWARE, NEW, PRINCIPAL, VERSIONS, want, want_item

KEY, OTHER = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
TRUSTED = trust([KEY.public_key()])


def full_want() -> Want:
    windows = (Window(start_min=60, length_min=240), Window(days=(5, 6), start_min=0, length_min=9))
    items = [
        want_item(
            number + 1,
            name=f"model-{number}",
            windows=windows,
            not_before_s=1_800_000_000,
            deadline_s=1_900_000_000,
            delta_base=NEW,
            bytes_delta=2**40,
        )
        for number in range(MAX_ITEMS)
    ]
    return want(*items, sources=("https://control.example:8443/fleet",))


def test_a_signed_want_comes_back_whole_and_its_bytes_do_not_vary() -> None:
    document = full_want()
    sealed = document.sealed([KEY])
    assert Want.opened(sealed, TRUSTED) == document
    assert document.sealed([KEY]) == sealed
    assert len(sealed) <= MAX_BYTES[Channel.WANT]


@pytest.mark.parametrize("change", [b"acme~box-1", b"assistant"])
def test_an_altered_want_is_refused(change: bytes) -> None:
    payload = want(want_item()).payload()
    assert change in payload
    sealed = json.loads(want(want_item()).sealed([KEY]))
    forged = json.loads(seal(payload.replace(change, change[::-1]), Want.payload_type, [OTHER]))
    sealed["payload"] = forged["payload"]
    with pytest.raises(BundleError, match="does not match"):
        Want.opened(canonical_bytes(sealed), TRUSTED)


def test_a_want_of_another_signer_or_type_is_refused() -> None:
    with pytest.raises(BundleError, match="no key that is trusted"):
        Want.opened(want(want_item()).sealed([OTHER]), TRUSTED)
    with pytest.raises(BundleError, match="not a"):
        Want.opened(seal(want(want_item()).payload(), Do.payload_type, [KEY]), TRUSTED)


def test_what_is_signed_must_be_understood() -> None:
    values = json.loads(want(want_item()).payload()) | {"only_on_sundays": True}
    sealed = seal(canonical_bytes(values), Want.payload_type, [KEY])
    with pytest.raises(BundleError, match="only_on_sundays"):
        Want.opened(sealed, TRUSTED)


def test_an_oversized_envelope_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(BundleError, match="more than the 8192"):
        Want.opened(b"[" * 9000, TRUSTED)
    sources = tuple(f"https://example.com/{'x' * 480}{number}" for number in range(8))
    with pytest.raises(BundleError, match="more than the 8192"):
        full_want().model_copy(update={"sources": sources}).sealed([KEY])


def test_a_want_names_each_thing_once_and_no_later_generation() -> None:
    with pytest.raises(ValidationError, match="twice"):
        want(want_item(1), want_item(2))
    with pytest.raises(ValidationError, match="above"):
        want(want_item(5), generation=4)
    assert len(want(want_item(1), want_item(2, kind=ItemKind.SETTINGS)).items) == 2


@pytest.mark.parametrize(
    "data",
    [b"", b"null", b"[]", b'{"up":true}', b"\xff", b'{"up":true,"up":true}', b'{"up":"yes"}'],
)
def test_broken_documents_are_refused(data: bytes) -> None:
    with pytest.raises(BundleError):
        Link.from_bytes(data)


def test_unsigned_documents_may_know_more_than_we_do() -> None:
    document = Link(up=True, connection=3, boot="b-1")
    assert Link.from_bytes(document.to_bytes()) == document
    later = canonical_bytes(json.loads(document.to_bytes()) | {"signal_dbm": -70})
    assert Link.from_bytes(later) == document
    other = canonical_bytes(json.loads(document.to_bytes()) | {"schema": "edge-runtime/link/2"})
    with pytest.raises(BundleError, match="schema"):
        Link.from_bytes(other)


def test_have_comes_back_and_stays_below_its_limit() -> None:
    report = ItemReport(kind=ItemKind.BUNDLE, name="assistant", state=BoxState.CONFIRMED)
    document = Have(
        principal=PRINCIPAL,
        boot="b-1",
        seq=1,
        uptime_ms=5,
        clock_s=6,
        items=(report,),
        hardware=HARDWARE,
        versions=VERSIONS,
        labels={"site": "berlin"},
    )
    assert Have.from_bytes(document.to_bytes()) == document
    huge = document.model_copy(update={"labels": {f"l{n}": "x" * 2000 for n in range(16)}})
    with pytest.raises(BundleError, match="more than the 16384"):
        huge.to_bytes()


def test_an_order_brings_what_it_needs_and_expires() -> None:
    values = {"principal": PRINCIPAL, "id": "o-1", "issued_s": 100, "expires_s": 160}
    order = Do(order="log", log=PullLog(), **values)
    assert Do.opened(order.sealed([KEY]), TRUSTED) == order
    for wrong in (
        {"order": "log"},
        {"order": "report", "log": PullLog()},
        {"order": "cancel"},
        {"order": "report", "expires_s": 100},
        {"order": "report", "expires_s": 100 + 3601},
        {"order": "reboot"},
    ):
        with pytest.raises(ValidationError):
            Do(**(values | wrong))


def test_an_enrolment_is_signed_by_the_key_it_brings() -> None:
    request = EnrolRequest(
        claim="c" * 32,
        public_key_pem=public_pem(KEY.public_key()).decode(),
        csr_pem="",
        hardware=HARDWARE,
        versions=VERSIONS,
    )
    assert EnrolRequest.self_signed(request.sealed([KEY])) == request
    with pytest.raises(BundleError, match="no key that is trusted"):
        EnrolRequest.self_signed(request.sealed([OTHER]))
    for broken in (b"", b"[]", b"{}", b'{"payload":1}', b'{"payload":"e30="}'):
        with pytest.raises(BundleError):
            EnrolRequest.self_signed(broken)


def test_only_a_granted_answer_brings_a_grant() -> None:
    assert EnrolAnswer(state="pending", ticket="t" * 32).grant is None
    with pytest.raises(ValidationError, match="granted"):
        EnrolAnswer(state="granted", ticket="t" * 32)


MONDAY_S = 1_799_625_600  # 2027-01-11 00:00 UTC


@pytest.mark.parametrize(
    ("window", "at_s", "wait_s"),
    [
        (Window(start_min=60, length_min=60), 3600, 0),
        (Window(start_min=60, length_min=60), 7199, 0),
        (Window(start_min=60, length_min=60), 7200, 23 * 3600),
        (Window(start_min=60, length_min=60), 0, 3600),
        (Window(days=(0,), start_min=0, length_min=1), 60, 7 * 86_400 - 60),
        (Window(days=(6,), start_min=23 * 60, length_min=120), 0, 0),  # Sunday's, past midnight
        (Window(start_min=120, length_min=60, utc_offset_min=60), 3600, 0),
        (Window(start_min=120, length_min=60, utc_offset_min=60), 7200, 23 * 3600),
    ],
)
def test_windows_open_by_the_week(window: Window, at_s: int, wait_s: int) -> None:
    assert window.wait_s(MONDAY_S + at_s) == wait_s

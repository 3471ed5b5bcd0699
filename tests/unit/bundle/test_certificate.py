"""Certificates: what they must prove, when they hold, what they decide."""

from __future__ import annotations

import dataclasses
import json
import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from edge_runtime.bundle.canonical import canonical_bytes
from edge_runtime.bundle.certificate import (
    PAYLOAD_TYPE,
    Certificate,
    Context,
    Decision,
    Invalid,
    Reason,
    Valid,
    decide,
    judge,
    open_certificate,
    parse_certificate,
    read_time,
    sign_certificate,
    write_time,
)
from edge_runtime.bundle.envelope import seal, trust
from edge_runtime.errors import BundleError

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
TRUSTED = trust([KEY.public_key()])
ISSUED = datetime(2026, 3, 1, 12, tzinfo=UTC)
DOCUMENT: dict[str, Any] = {
    "schema": "edge-runtime/certificate/1",
    "model_digest": "a" * 64,
    "kind": "classify",
    "task": "intent",
    "score": {"name": "margin", "version": 1, "parameters": {}},
    "alpha": 0.05,
    "delta": 0.1,
    "lambda": 0.75,
    "n": 1032,
    "k": 37,
    "calibration_size": 1339,
    "coverage": 1032 / 1339,
    "auroc": 0.96,
    "score_deciles": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9],
    "reference": "gold",
    "traffic": "1339 inputs, 241 of them out of scope",
    "data_sha256": "b" * 64,
    "issued": "2026-03-01T12:00:00Z",
    "expires": "2026-06-01T12:00:00Z",
}
CONTEXT = Context("a" * 64, "intent", {"margin": 1})


def made(**changes: Any) -> Certificate:
    return parse_certificate(canonical_bytes({**DOCUMENT, **changes}))


def test_the_document_is_the_certificate() -> None:
    certificate = made()
    assert certificate.document() == DOCUMENT
    assert certificate.canonical() == canonical_bytes(DOCUMENT)
    assert len(certificate.digest) == 64
    assert certificate.digest != made(k=36).digest


def test_a_signed_certificate_reads_back() -> None:
    assert open_certificate(sign_certificate(made(), KEY), TRUSTED) == made()


def test_a_signature_does_not_help_a_wrong_document() -> None:
    data = seal(canonical_bytes({**DOCUMENT, "k": 60}), PAYLOAD_TYPE, [KEY])
    with pytest.raises(BundleError, match=r"60 errors in 1032 do not prove alpha=0\.05"):
        open_certificate(data, TRUSTED, name="cert.json")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"k": 43}, "do not prove"),
        ({"k": 1033}, "impossible"),
        ({"n": 1400, "coverage": 1.0}, "impossible"),
        ({"coverage": 0.9}, "coverage is not"),
        ({"alpha": 0.03}, "do not prove"),
        ({"alpha": 0}, "alpha"),
        ({"delta": 1}, "delta"),
        ({"lambda": 1.5}, "lambda"),
        ({"lambda": "0.75"}, "lambda"),
        ({"auroc": 0.5}, "auroc"),
        ({"score_deciles": [0.5] * 8}, "score_deciles"),
        ({"score_deciles": [0.5] * 8 + [0.4]}, "must rise"),
        ({"expires": "2026-03-01T12:00:00Z"}, "expires before"),
        ({"issued": "2026-3-1T12:00:00Z"}, "UTC time"),
        ({"issued": "2026-03-01T12:00:00+00:00"}, "UTC time"),
        ({"issued": "2026-02-30T12:00:00Z"}, "UTC time"),
        ({"model_digest": "A" * 64}, "model_digest"),
        ({"kind": "guess"}, "kind"),
        ({"task": "Intent!"}, "task"),
        ({"reference": ""}, "reference"),
        ({"score": {"name": "margin"}}, "version"),
        ({"surprise": 1}, "surprise"),
        ({"schema": "edge-runtime/certificate/2"}, "unknown schema"),
    ],
)
def test_what_does_not_hold_together_is_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(BundleError, match=reason):
        made(**changes)


@pytest.mark.parametrize("field", sorted(set(DOCUMENT) - {"schema", "score"}))
def test_every_field_is_required(field: str) -> None:
    rest = {key: value for key, value in DOCUMENT.items() if key != field}
    with pytest.raises(BundleError, match=field):
        parse_certificate(canonical_bytes(rest))


@pytest.mark.parametrize("payload", [b"", b"[]", b"null", b"\xff", json.dumps(DOCUMENT).encode()])
def test_what_is_no_canonical_document_is_refused(payload: bytes) -> None:
    with pytest.raises(BundleError, match=r"^certificate: "):
        parse_certificate(payload)


def test_a_wrong_certificate_cannot_be_made_either() -> None:
    with pytest.raises(ValidationError, match="do not prove"):
        Certificate.model_validate({**DOCUMENT, "k": 60})


def test_it_holds_where_and_when_it_was_made_for() -> None:
    for after in (timedelta(0), timedelta(days=91, hours=23)):
        assert judge(made(), CONTEXT, ISSUED + after) == Valid()
    zone = timezone(timedelta(hours=5))
    assert judge(made(), CONTEXT, (ISSUED + timedelta(minutes=1)).astimezone(zone)) == Valid()
    prompted = dataclasses.replace(CONTEXT, prompt_sha256="c" * 64)
    assert judge(made(prompt_sha256="c" * 64), prompted, ISSUED) == Valid()


@pytest.mark.parametrize(
    ("changes", "days", "reason"),
    [
        ({"model_digest": "d" * 64}, 1, Reason.MODEL),
        ({"task": "other"}, 1, Reason.TASK),
        ({"score_versions": {"margin": 2}}, 1, Reason.SCORE),
        ({"score_versions": {}}, 1, Reason.SCORE),
        ({"prompt_sha256": "c" * 64}, 1, Reason.PROMPT),
        ({"revoked": frozenset({made().digest})}, 1, Reason.REVOKED),
        ({"suspended": "the escalation rate rose"}, 1, Reason.SUSPENDED),
        ({}, -0.00001, Reason.NOT_YET),
        ({}, 92, Reason.EXPIRED),
        ({}, 4000, Reason.EXPIRED),
    ],
)
def test_it_dies_with_what_it_was_made_for(
    changes: dict[str, Any], days: float, reason: Reason
) -> None:
    found = judge(made(), dataclasses.replace(CONTEXT, **changes), ISSUED + timedelta(days=days))
    assert isinstance(found, Invalid)
    assert found.reason is reason
    assert found.detail


def test_another_certificate_is_not_revoked_with_it() -> None:
    context = dataclasses.replace(CONTEXT, revoked=frozenset({made(k=36).digest}))
    assert judge(made(), context, ISSUED) == Valid()


@given(st.floats())
def test_only_a_number_at_or_above_the_threshold_is_kept(score: float) -> None:
    wanted = math.isfinite(score) and score >= 0.75
    assert (decide(score, made()) is Decision.KEEP) == wanted


def test_the_threshold_itself_is_kept() -> None:
    assert decide(0.75, made()) is Decision.KEEP
    assert decide(math.nextafter(0.75, 0), made()) is Decision.ESCALATE


@given(st.datetimes(timezones=st.just(UTC)))
def test_times_survive_their_text(value: datetime) -> None:
    if value.year >= 1000:  # below, the platform writes fewer digits
        assert read_time(write_time(value)) == value.replace(microsecond=0)

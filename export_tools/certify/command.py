"""The whole of `edge-export certify` and `keygen`, without a terminal."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge_runtime.bundle.certificate import GOLD, Certificate, sign_certificate
from edge_runtime.bundle.envelope import key_id, private_pem, public_pem, read_private_key
from edge_runtime.errors import UsageError
from edge_runtime.stats.learn_then_test import Walk
from export_tools.certify.issue import Kept, Subject, Terms, issue, kept_by
from export_tools.certify.scorers import Scorer, open_scorer
from export_tools.certify.traffic import Example, Half, data_digest, half, mixed, read_examples

SALT = "edge-runtime certificate 1"
"""Part of every hash that halves and mixes; another value draws another sample."""
FIT_SALT = f"{SALT} fit"
"""A learned score is fitted on one half of the calibrating half, which then does not calibrate."""


@dataclass(frozen=True, slots=True)
class CertifyRequest:
    """What to certify. `oos_share` None takes the data's own share out of scope, `score` None the
    kind's own. `reference` says whose answers the data hold: people's, or a frontier's name.
    """

    bundle: Path
    variant: str
    task: str
    data: tuple[Path, ...]
    oos: tuple[Path, ...]
    oos_share: float | None
    score: str | None
    terms: Terms
    key: Path
    out: Path
    threads: int | None = None
    reference: str = GOLD


@dataclass(frozen=True, slots=True)
class Certification:
    """The outcome. Without a certificate nothing was written, and everything has to escalate.

    `report` is what the threshold does on the other half of the data; `too_long` inputs were
    left out, as the daemon escalates them unseen.
    """

    certificate: Certificate | None
    walk: Walk
    report: Kept | None
    too_long: int = 0


def certify(request: CertifyRequest, now: datetime) -> Certification:
    """Run the bundle on both halves of the traffic, calibrate on one, write, report on the other.

    Raises `UsageError`, `BundleError` or `ConfigError`; then nothing was written. Costs one run of
    the model an example.
    """
    if request.out.exists():
        raise UsageError(f"{request.out} exists; remove it or choose another", param="out")
    key = _load_key(request.key)
    scorer = open_scorer(request.bundle, request.variant, request.score, threads=request.threads)
    examples = read_examples(request.data, right=scorer.right)
    examples += read_examples(request.oos, out_of_scope=True)
    fitting = [item for item in examples if scorer.fits(item.text)]
    found = calibrate(
        scorer,
        fitting,
        request.oos_share,
        request.terms,
        now,
        task=request.task,
        reference=request.reference,
    )
    if found.certificate is not None:
        request.out.write_bytes(sign_certificate(found.certificate, key))
    return replace(found, too_long=len(examples) - len(fitting))


def calibrate(
    scorer: Scorer,
    examples: Sequence[Example],
    oos_share: float | None,
    terms: Terms,
    now: datetime,
    *,
    task: str,
    reference: str = GOLD,
) -> Certification:
    """Calibrate on one half of examples that fit, report on the other; writes nothing.

    Raises `UsageError` for data that cannot calibrate. Costs one run of the model an example.
    """
    first = half(examples, Half.CALIBRATE, salt=SALT)
    if scorer.learns:
        scorer.learn(mixed(half(first, Half.REPORT, salt=FIT_SALT), oos_share, salt=SALT))
        first = half(first, Half.CALIBRATE, salt=FIT_SALT)
    sample = mixed(first, oos_share, salt=SALT)
    outside = sum(item.label is None for item in sample)
    scores, errors = scorer.scored(sample)
    subject = Subject(
        model_digest=scorer.model_digest,
        kind=scorer.manifest.kind,
        task=task,
        score=scorer.score,
        traffic=f"{len(sample)} inputs, {outside} of them out of scope",
        data_sha256=data_digest(sample),
        reference=reference,
        parameters=scorer.parameters,
    )
    certificate, walk = issue(scores, errors, subject, terms, now)
    report = None
    if certificate is not None:
        others = mixed(half(examples, Half.REPORT, salt=SALT), oos_share, salt=SALT)
        report = kept_by(certificate.threshold, *scorer.scored(others))
    return Certification(certificate, walk, report)


def keygen(path: Path) -> str:
    """Write a new private key to `path` (mode 0600) and its public half to `<path>.pub`.

    Returns the key's id. Raises `UsageError` when either file exists or cannot be made.
    """
    key = Ed25519PrivateKey.generate()
    public = path.with_name(path.name + ".pub")
    if public.exists():
        raise UsageError(f"{public} exists; choose another path", param="out")
    try:
        # Made with its final mode: no moment in which others could read it.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(private_pem(key))
        public.write_bytes(public_pem(key.public_key()))
    except OSError as error:
        raise UsageError(f"{path}: cannot be made: {error.strerror}", param="out") from error
    return key_id(key.public_key())


def _load_key(path: Path) -> Ed25519PrivateKey:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; see `edge-export keygen`") from error
    return read_private_key(data, name=str(path))

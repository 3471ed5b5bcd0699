"""Certificate v1: what a model's confidence score may be trusted with.

A certificate says of one model digest and one task: of what is kept at `lambda` or above, at most
a share `alpha` is wrong, with confidence 1 - `delta` over the draw of the calibration data. It is a
document beside the bundle, signed on its own, and can expire or be revoked without it.

Rules
- A certificate proves itself: one whose `k` errors in `n` kept samples do not bound the error by
  `alpha` is refused when read, whoever signed it.
- It dies with the artefact, the prompt template, the score, the task, its dates, a revocation, and
  while a drift alarm suspends it. `judge` holds all of that and has no clock of its own.
- Without a valid certificate everything escalates. `decide` keeps only what reaches `lambda`; a
  score that is no number escalates.
- The promise is about inputs like the calibration data, and relative to its `reference`: "gold"
  labels, or the answers of a named frontier.

Times are UTC in whole seconds, written `2026-01-31T12:00:00Z`.
"""

from __future__ import annotations

import enum
import hashlib
import math
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from edge_runtime.bundle.canonical import canonical_bytes, parse_strict
from edge_runtime.bundle.envelope import TrustedKeys, open_envelope, seal
from edge_runtime.bundle.manifest import Name, Sha256
from edge_runtime.core import Kind
from edge_runtime.errors import BundleError
from edge_runtime.stats.clopper_pearson import upper_bound

SCHEMA = "edge-runtime/certificate/1"
PAYLOAD_TYPE = "application/vnd.edge-runtime.certificate.v1+json"
GOLD = "gold"

_TIME = "%Y-%m-%dT%H:%M:%SZ"
_ROUNDING = 1e-9


def _check_time(value: str) -> str:
    try:
        same = write_time(read_time(value)) == value
    except ValueError:
        same = False
    if not same:
        raise ValueError("must be a UTC time like 2026-01-31T12:00:00Z")
    return value


def read_time(value: str) -> datetime:
    """The aware UTC time of a document's text."""
    return datetime.strptime(value, _TIME).replace(tzinfo=UTC)


def write_time(value: datetime) -> str:
    """A document's text of an aware time; fractions of a second are cut."""
    return value.astimezone(UTC).strftime(_TIME)


Time = Annotated[str, AfterValidator(_check_time)]
_Finite = Annotated[float, Field(allow_inf_nan=False)]
_Level = Annotated[float, Field(gt=0, lt=1)]
_Share = Annotated[float, Field(ge=0, le=1)]


class ScoreDefinition(BaseModel):
    """Which function of `edge_runtime.stats.scores` computes the score, and with what weights."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    version: int = Field(ge=1)
    parameters: dict[str, _Finite] = Field(default_factory=dict)


class Certificate(BaseModel):
    """The document. Unknown fields are refused: what is signed must be understood.

    `n` samples were kept at `threshold` (written `lambda`), `k` of them wrong, out of
    `calibration_size`; `coverage` is their ratio. `data_sha256` covers the samples in use.
    `prompt_sha256` is that of the prompt template, where there is one. `score_deciles` are the
    nine deciles of the scores of all samples, for watching drift without labels.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, populate_by_name=True, protected_namespaces=()
    )

    schema_: Literal["edge-runtime/certificate/1"] = Field(
        default="edge-runtime/certificate/1", alias="schema"
    )
    model_digest: Sha256
    kind: Kind
    task: Name
    score: ScoreDefinition
    alpha: _Level
    delta: _Level
    threshold: _Share = Field(alias="lambda")
    n: int = Field(ge=1)
    k: int = Field(ge=0)
    calibration_size: int = Field(ge=1, le=1_000_000)
    coverage: _Share
    auroc: float = Field(gt=0.5, le=1)
    score_deciles: tuple[_Share, ...] = Field(min_length=9, max_length=9)
    reference: str = Field(min_length=1, max_length=128)
    traffic: str = Field(min_length=1, max_length=512)
    data_sha256: Sha256
    prompt_sha256: Sha256 | None = None
    issued: Time
    expires: Time

    @model_validator(mode="after")
    def _proves_itself(self) -> Self:
        if not self.k <= self.n <= self.calibration_size:
            raise ValueError(f"k={self.k}, n={self.n}, {self.calibration_size} samples: impossible")
        if abs(self.coverage - self.n / self.calibration_size) > _ROUNDING:
            raise ValueError("coverage is not n / calibration_size")
        if upper_bound(self.k, self.n, self.delta) > self.alpha + _ROUNDING:
            raise ValueError(f"{self.k} errors in {self.n} do not prove alpha={self.alpha}")
        if list(self.score_deciles) != sorted(self.score_deciles):
            raise ValueError("score_deciles must rise")
        if self.issued >= self.expires:
            raise ValueError("it expires before it is issued")
        return self

    def document(self) -> dict[str, Any]:
        """The certificate as JSON values, without the fields that are not set."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)

    def canonical(self) -> bytes:
        """The bytes that are signed."""
        return canonical_bytes(self.document())

    @property
    def digest(self) -> str:
        """The sha256, in hex, of the signed bytes: names it in headers and revocations."""
        return hashlib.sha256(self.canonical()).hexdigest()


def sign_certificate(certificate: Certificate, key: Ed25519PrivateKey) -> bytes:
    """The signed document, as it is written to a file."""
    return seal(certificate.canonical(), PAYLOAD_TYPE, [key])


def open_certificate(
    data: bytes, trusted: TrustedKeys, *, name: str = "certificate"
) -> Certificate:
    """The certificate of a signed document. Raises `BundleError` with the reason.

    Costs one signature check. It may still not hold: see `judge`.
    """
    return parse_certificate(open_envelope(data, PAYLOAD_TYPE, trusted, name=name), name=name)


def parse_certificate(payload: bytes, *, name: str = "certificate") -> Certificate:
    """The certificate of these canonical bytes, whose signature was checked elsewhere."""
    try:
        document = parse_strict(payload)
        schema = document.get("schema") if isinstance(document, dict) else None
        if schema != SCHEMA:
            raise BundleError(name, f"unknown schema {schema!r:.80}; this reads {SCHEMA!r}")
        certificate = Certificate.model_validate_json(payload, strict=True)
        if certificate.canonical() != payload:
            raise BundleError(name, "is not canonical JSON (RFC 8785)")
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in fault["loc"])
        reason = f"{where}: {fault['msg']}" if where else fault["msg"]
        raise BundleError(name, reason) from error
    except ValueError as error:
        raise BundleError(name, str(error)) from error
    return certificate


class Reason(enum.StrEnum):
    """Why a certificate does not hold now."""

    MODEL = "model-changed"
    TASK = "other-task"
    SCORE = "score-changed"
    PROMPT = "prompt-changed"
    REVOKED = "revoked"
    SUSPENDED = "suspended"
    NOT_YET = "not-yet-valid"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Context:
    """What a certificate is held against: the model, task and score in use, and what is known.

    `score_versions` are the versions of the scores this program computes
    (`stats.scores.VERSIONS`). `revoked` holds digests of certificates. `suspended` is the
    reason, for people, while a drift alarm stands.
    """

    model_digest: str
    task: str
    score_versions: dict[str, int]
    prompt_sha256: str | None = None
    revoked: AbstractSet[str] = field(default_factory=frozenset)
    suspended: str | None = None


@dataclass(frozen=True, slots=True)
class Valid:
    """The certificate holds."""


@dataclass(frozen=True, slots=True)
class Invalid:
    """The certificate does not hold: everything escalates. `detail` is for people."""

    reason: Reason
    detail: str


def judge(certificate: Certificate, context: Context, now: datetime) -> Valid | Invalid:
    """Whether `certificate` holds in `context` at `now` (aware). Pure; the first reason wins."""
    score = certificate.score
    if certificate.model_digest != context.model_digest:
        return Invalid(
            Reason.MODEL,
            f"is for model {certificate.model_digest[:12]}, not {context.model_digest[:12]}: "
            "certify the new artefact",
        )
    if certificate.task != context.task:
        return Invalid(Reason.TASK, f"is for task {certificate.task!r}, not {context.task!r}")
    if context.score_versions.get(score.name) != score.version:
        return Invalid(Reason.SCORE, f"needs score {score.name} v{score.version}: certify again")
    if certificate.prompt_sha256 != context.prompt_sha256:
        return Invalid(Reason.PROMPT, "was made with another prompt template: certify again")
    if certificate.digest in context.revoked:
        return Invalid(Reason.REVOKED, f"{certificate.digest[:12]} was revoked")
    if context.suspended is not None:
        return Invalid(Reason.SUSPENDED, context.suspended)
    if now < read_time(certificate.issued):
        return Invalid(Reason.NOT_YET, f"is valid from {certificate.issued}: check the clock")
    if now >= read_time(certificate.expires):
        return Invalid(Reason.EXPIRED, f"expired at {certificate.expires}: certify again")
    return Valid()


class Decision(enum.StrEnum):
    """What becomes of a local answer."""

    KEEP = "keep"
    ESCALATE = "escalate"


def decide(score: float, certificate: Certificate) -> Decision:
    """Keep at or above the threshold. Ask `judge` first: this does not look at validity."""
    if math.isfinite(score) and score >= certificate.threshold:
        return Decision.KEEP
    return Decision.ESCALATE

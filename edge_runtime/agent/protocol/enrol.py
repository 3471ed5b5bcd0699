"""Enrolment over HTTPS: a one-time claim becomes a credential of the box's own.

1. `POST /v1/enrol`, body: an envelope of `EnrolRequest`, signed by the key the box just made
   (whose public half it holds). Answer 200 or 202, an `EnrolAnswer`; 403 for a claim that is
   unknown, used or expired; 409 for a claim another key has used; 413, 429.
   The same key with the same claim gets the same answer again: a lost reply costs nothing.
2. While `state` is `pending`: `GET /v1/enrol/<ticket>` every `poll_after_s`.
3. `granted` brings everything a box needs. `refused` is final.

Later, `POST /v1/rotate` with an envelope of `RotateRequest`, signed by the box's present key,
answers an `EnrolAnswer` for the new key; the old credential holds until the new one was used.

Bodies are `application/json`; errors are `{"error": {"code", "message"}}`.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from edge_runtime.agent.protocol.document import (
    Document,
    EpochS,
    Part,
    Reason,
    SignedDocument,
    Url,
    unchecked_payload,
)
from edge_runtime.agent.protocol.report import Hardware, Versions
from edge_runtime.agent.protocol.topics import Principal
from edge_runtime.bundle.envelope import read_public_key, trust
from edge_runtime.bundle.manifest import Name
from edge_runtime.errors import BundleError, ConfigError

ENROL_PATH = "/v1/enrol"
ROTATE_PATH = "/v1/rotate"
MqttVersion = Literal["5", "3.1.1"]
_Pem = Annotated[str, Field(max_length=16 * 1024)]
_Secret = Annotated[str, Field(min_length=16, max_length=256, pattern=r"^[A-Za-z0-9._~-]+$")]


class EnrolRequest(SignedDocument):
    """A box asks to be let in. `csr_pem` asks for a client certificate for the same key."""

    max_bytes: ClassVar[int] = 64 * 1024
    payload_type: ClassVar[str] = "application/vnd.edge-runtime.enrol.v1+json"

    schema_: Literal["edge-runtime/enrol/1"] = Field("edge-runtime/enrol/1", alias="schema")
    claim: _Secret
    box: Name | None = None
    public_key_pem: _Pem
    csr_pem: _Pem
    hardware: Hardware
    versions: Versions
    labels: dict[Name, Annotated[str, Field(max_length=96)]] = Field(
        default_factory=dict, max_length=16
    )

    @classmethod
    def self_signed(cls, data: bytes) -> Self:
        """The request of an envelope that the key inside it signed. Raises `BundleError`."""
        claimed = cls.parse(unchecked_payload(data, cls.max_bytes, cls.__name__))
        try:
            key = read_public_key(claimed.public_key_pem.encode(), name=cls.__name__)
        except ConfigError as error:
            raise BundleError(cls.__name__, str(error)) from error
        return cls.opened(data, trust([key]))


class RotateRequest(SignedDocument):
    """A box asks for a credential for a new key; signed by its present one."""

    max_bytes: ClassVar[int] = 64 * 1024
    payload_type: ClassVar[str] = "application/vnd.edge-runtime.rotate.v1+json"

    schema_: Literal["edge-runtime/rotate/1"] = Field("edge-runtime/rotate/1", alias="schema")
    principal: Principal
    issued_s: EpochS
    public_key_pem: _Pem
    csr_pem: _Pem


class BrokerAccess(Part):
    """Where and as whom a box connects. User name and client id are its principal.

    `password` None: by client certificate. `mqtt` is what the broker speaks.
    """

    host: Annotated[str, Field(min_length=1, max_length=253)]
    port: int = Field(ge=1, le=65535)
    tls: bool = True
    password: _Secret | None = None
    mqtt: MqttVersion = "5"


class Grant(Part):
    """Everything an enrolled box needs.

    `want_keys_pem`: who may sign `want` and `do` until trust metadata says otherwise.
    `tuf_root`: the root metadata file as text. `ca_pem`: who signed the certificates of broker
    and control host; None for those of the public web.
    """

    principal: Principal
    broker: BrokerAccess
    api: Url
    sources: tuple[Url, ...] = Field(default=(), max_length=8)
    metadata: Url | None = None
    ca_pem: Annotated[str, Field(max_length=64 * 1024)] | None = None
    certificate_pem: Annotated[str, Field(max_length=64 * 1024)] | None = None
    want_keys_pem: tuple[_Pem, ...] = Field(min_length=1, max_length=8)
    tuf_root: Annotated[str, Field(max_length=256 * 1024)] | None = None


class EnrolAnswer(Document):
    """What the control host says to a request or a poll."""

    max_bytes: ClassVar[int] = 512 * 1024

    schema_: Literal["edge-runtime/enrolment/1"] = Field("edge-runtime/enrolment/1", alias="schema")
    state: Literal["pending", "granted", "refused"]
    ticket: _Secret
    poll_after_s: float = Field(default=5.0, ge=0.0, le=3600.0)
    reason: Reason = ""
    grant: Grant | None = None

    @model_validator(mode="after")
    def _grant_when_granted(self) -> Self:
        if (self.state == "granted") != (self.grant is not None):
            raise ValueError("a grant comes with `granted`, and only then")
        return self

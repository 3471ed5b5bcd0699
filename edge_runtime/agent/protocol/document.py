"""How documents of the fleet become bytes and back.

Rules
- Canonical JSON; a key named twice, a wrong type or a missing field is refused.
- Signed documents refuse fields they do not know: what is signed must be understood. Others
  ignore them, so that boxes and control hosts of different releases can talk.
- Sizes are checked before anything is parsed.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Self, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from edge_runtime.bundle.canonical import canonical_bytes, parse_strict
from edge_runtime.bundle.envelope import TrustedKeys, open_envelope, seal
from edge_runtime.errors import BundleError

MAX_COUNT = 2**53 - 1
_Model = TypeVar("_Model", bound=BaseModel)


def _printable(value: str) -> str:
    if any(not (char.isprintable() or char == "\n") for char in value):
        raise ValueError("must not hold control characters")
    return value


Count = Annotated[int, Field(ge=0, le=MAX_COUNT)]
Generation = Annotated[int, Field(ge=1, le=MAX_COUNT)]
EpochS = Annotated[int, Field(ge=0, le=1 << 40)]
Token = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,63}$")]
"""An id somebody made: of a boot, an order, a rollout."""
Reason = Annotated[str, Field(max_length=300), AfterValidator(_printable)]
Url = Annotated[str, Field(max_length=512, pattern=r"^https?://[^\s\"<>\\^`{|}]+$")]


class Part(BaseModel):
    """A piece of an unsigned document."""

    model_config = ConfigDict(extra="ignore", frozen=True, protected_namespaces=())


class SignedPart(BaseModel):
    """A piece of a signed document."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Document(Part):
    """An unsigned document; `max_bytes` bounds its JSON."""

    max_bytes: ClassVar[int]

    def to_bytes(self) -> bytes:
        """Canonical JSON, without fields that are None. Raises `BundleError` when too large."""
        return _bounded(_canonical(self), self.max_bytes, type(self).__name__)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The document of these bytes. Raises `BundleError` with the reason."""
        _bounded(data, cls.max_bytes, cls.__name__)
        return _parse(cls, data)


class SignedDocument(SignedPart):
    """A document in an envelope; `max_bytes` bounds the envelope."""

    max_bytes: ClassVar[int]
    payload_type: ClassVar[str]

    def payload(self) -> bytes:
        """The canonical JSON that is signed."""
        return _canonical(self)

    def sealed(self, keys: Sequence[Ed25519PrivateKey]) -> bytes:
        """The signed envelope. Raises `BundleError` when too large. One signature a key."""
        sealed = seal(self.payload(), self.payload_type, keys)
        return _bounded(sealed, self.max_bytes, type(self).__name__)

    @classmethod
    def opened(cls, data: bytes, trusted: TrustedKeys) -> Self:
        """The document of an envelope that a trusted key signed. Raises `BundleError`."""
        name = cls.__name__
        _bounded(data, cls.max_bytes, name)
        return cls.parse(open_envelope(data, cls.payload_type, trusted, name=name))

    @classmethod
    def parse(cls, payload: bytes) -> Self:
        """The document of its canonical JSON, of which nobody checked the signature here."""
        _bounded(payload, cls.max_bytes, cls.__name__)
        return _parse(cls, payload)


def unchecked_payload(data: bytes, max_bytes: int, name: str) -> bytes:
    """What an envelope holds, whoever signed it: only for finding out which key to check with.

    Raises `BundleError`.
    """
    _bounded(data, max_bytes, name)
    try:
        envelope = parse_strict(data)
        return base64.b64decode(envelope["payload"], validate=True)
    except (ValueError, TypeError, KeyError) as error:
        raise BundleError(name, f"is no signed document: {error}") from error


def _canonical(model: BaseModel) -> bytes:
    return canonical_bytes(model.model_dump(mode="json", by_alias=True, exclude_none=True))


def _parse(cls: type[_Model], data: bytes) -> _Model:
    try:
        parse_strict(data)  # refuses what pydantic's reader lets pass: keys named twice
        return cls.model_validate_json(data, strict=True)
    except ValidationError as error:
        raise BundleError(cls.__name__, _first_fault(error)) from error
    except ValueError as error:
        raise BundleError(cls.__name__, str(error)) from error


def _first_fault(error: ValidationError) -> str:
    fault: Any = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(part) for part in fault["loc"])
    return f"{where}: {fault['msg']}"[:300]


def _bounded(data: bytes, limit: int, name: str) -> bytes:
    if len(data) > limit:
        raise BundleError(name, f"has {len(data)} bytes, more than the {limit} allowed")
    return data

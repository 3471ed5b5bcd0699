"""What a fleet publishes, by name: TUF target paths, delegated roles, and their documents.

Rules
- A target's file is a small JSON document; its sha256 is the last part of its path, before
  `.json` (for a delta: the digest of the bundle it starts from). Blobs are named in it by sha256.
- One delegated role may sign the targets of one model; `settings` and `releases` have roles of
  their own. `orders` signs no targets: its keys sign what is made for one box at a time.
- Names and digests are checked before they become a path, so no target leads out of its role.

The control host writes these, the box reads them; who may be believed is `agent.trust`'s part.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from edge_runtime.bundle.canonical import canonical_bytes, parse_strict
from edge_runtime.bundle.manifest import BundlePath, FileEntry, Name, Sha256
from edge_runtime.errors import BundleError

SETTINGS_ROLE = "settings"
RELEASES_ROLE = "releases"
ORDERS_ROLE = "orders"

SETTINGS_TYPE = "application/vnd.edge-runtime.settings.v1+json"
MAX_DOCUMENT_BYTES = 4 * 1024 * 1024
MAX_DELTA_FILES = 4096

_NAME: TypeAdapter[str] = TypeAdapter(Name)
_DIGEST: TypeAdapter[str] = TypeAdapter(Sha256)
_ROLE = re.compile(r"settings|releases|orders|model-[a-z0-9][a-z0-9._-]{0,63}")


def model_role(name: str) -> str:
    """The role that may publish bundles, deltas and certificates of model `name`."""
    return f"model-{_name(name)}"


def role_paths(role: str) -> tuple[str, ...]:
    """The path patterns a delegated role may sign targets for. Raises `BundleError`."""
    if not _ROLE.fullmatch(role):
        raise BundleError(
            role[:80], "is no role of a fleet: settings, releases, orders, model-NAME"
        )
    if role.startswith("model-"):
        name = role.removeprefix("model-")
        return (f"bundles/{name}/*", f"certificates/{name}/*", f"deltas/{name}/*/*")
    return (f"{role}/*/*",)


def bundle_target(name: str, digest: str) -> str:
    """The target whose file is the manifest of that bundle."""
    return f"bundles/{_name(name)}/{_digest(digest)}.json"


def delta_target(name: str, digest: str, base: str) -> str:
    """The target whose file is the `DeltaSet` that makes bundle `digest` out of bundle `base`."""
    return f"deltas/{_name(name)}/{_digest(digest)}/{_digest(base)}.json"


def certificate_target(name: str, digest: str) -> str:
    """The target whose file is a signed certificate (an envelope) for a model."""
    return f"certificates/{_name(name)}/{_digest(digest)}.json"


def settings_target(name: str, digest: str) -> str:
    """The target whose file is a signed settings document (an envelope)."""
    return f"settings/{_name(name)}/{_digest(digest)}.json"


def release_target(name: str, digest: str) -> str:
    """The target whose file is a `Release` of the program `name`."""
    return f"releases/{_name(name)}/{_digest(digest)}.json"


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class TargetFacts(BaseModel):
    """What the signed metadata says of a target beside its digest: its `custom` section.

    `release` rises with every publication of a name. `release_floor` is about safety: the highest
    floor that any target of a name carries is the lowest release a box may go to. Fields that are
    not known are ignored, so that older boxes read newer metadata.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    release: int = Field(ge=1)
    release_floor: int = Field(default=1, ge=1)


class BundleFacts(TargetFacts):
    """The same of a bundle, for planning without its manifest.

    `size_bytes` covers all files; `variants` maps a variant's name to the bytes of its files,
    `model_digests` to its model digest.
    """

    version: str = Field(max_length=64)
    kind: str = Field(max_length=32)
    size_bytes: int = Field(ge=0)
    variants: dict[Name, Annotated[int, Field(ge=0)]]
    model_digests: dict[Name, Sha256]


class DeltaFile(_Document):
    """One file of the new bundle that `delta` makes out of the base bundle's `base_path`.

    `delta` lists the delta blob itself; its `path` is the new file's.
    """

    base_path: BundlePath
    base_sha256: Sha256
    delta: FileEntry


class DeltaSet(_Document):
    """All deltas between two bundles; files that are the same or have no delta are not listed."""

    schema_: Literal["edge-runtime/delta-set/1"] = Field(
        default="edge-runtime/delta-set/1", alias="schema"
    )
    name: Name
    base: Sha256
    result: Sha256
    files: tuple[DeltaFile, ...] = Field(min_length=1, max_length=MAX_DELTA_FILES)

    def canonical(self) -> bytes:
        """The bytes of the target's file."""
        return canonical_bytes(self.model_dump(mode="json", by_alias=True))


RELEASE_FILE = "release.json"
"""Where a box keeps the `Release` beside its files; none of them may be called so."""


class Release(_Document):
    """One release of a program: its files, each a blob."""

    schema_: Literal["edge-runtime/release/1"] = Field(
        default="edge-runtime/release/1", alias="schema"
    )
    name: Name
    version: str = Field(min_length=1, max_length=64)
    files: tuple[FileEntry, ...] = Field(min_length=1, max_length=64)

    def canonical(self) -> bytes:
        """The bytes of the target's file."""
        return canonical_bytes(self.model_dump(mode="json", by_alias=True))


_T = TypeVar("_T", DeltaSet, Release)


def parse_delta_set(data: bytes) -> DeltaSet:
    """The delta set of these canonical bytes. Raises `BundleError`."""
    return _parse(DeltaSet, data, "delta set")


def parse_release(data: bytes) -> Release:
    """The release of these canonical bytes. Raises `BundleError`."""
    return _parse(Release, data, "release")


def _parse(model: type[_T], data: bytes, name: str) -> _T:
    if len(data) > MAX_DOCUMENT_BYTES:
        raise BundleError(name, f"is larger than {MAX_DOCUMENT_BYTES} bytes")
    try:
        parse_strict(data)  # refuses what pydantic's reader lets pass: keys named twice
        document = model.model_validate_json(data, strict=True)
        if document.canonical() != data:
            raise BundleError(name, "is not canonical JSON (RFC 8785)")
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in fault["loc"])
        raise BundleError(name, f"{where}: {fault['msg']}") from error
    except ValueError as error:
        raise BundleError(name, str(error)) from error
    return document


def _name(value: str) -> str:
    return _checked(_NAME, value)


def _digest(value: str) -> str:
    return _checked(_DIGEST, value)


def _checked(adapter: TypeAdapter[str], value: str) -> str:
    try:
        return adapter.validate_python(value, strict=True)
    except ValidationError as error:
        raise BundleError(f"{value!r:.80}", error.errors()[0]["msg"]) from error

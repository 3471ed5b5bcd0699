"""Manifest v1: the one document that says what a bundle holds.

Rules
- `schema` must be `edge-runtime/bundle/1`; any other is refused.
- Required sections must be there and valid; unknown *optional* top-level sections are kept
  (so that the digest stays the same) and ignored.
- Paths are relative POSIX paths of plain ASCII names inside the bundle; nothing may point
  outside it, and no part may start with a dot.
- Every file of the bundle but `manifest.json` is listed in `files`, exactly once.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from edge_runtime.bundle.escalation import Escalation
from edge_runtime.core import Kind

SCHEMA = "edge-runtime/bundle/1"
BLOCK_BYTES = 2 * 1024 * 1024
MANIFEST_NAME = "manifest.json"

MAX_PATH_CHARS = 512

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PATH_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+@=-]{0,127}")


def _check_name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError(
            "must be 1-64 of a-z, 0-9, '.', '_' or '-', starting with a letter or digit"
        )
    return value


def _check_sha256(value: str) -> str:
    if not _SHA256.fullmatch(value):
        raise ValueError("must be 64 lower-case hex digits")
    return value


def check_path(value: str) -> str:
    """`value` when it may name a file of a bundle; raises `ValueError` with the reason."""
    if value.startswith("/") or "\\" in value:
        raise ValueError("must be a relative POSIX path")
    parts = value.split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise ValueError("must not hold empty, '.' or '..' parts")
    if len(value) > MAX_PATH_CHARS or not all(_PATH_PART.fullmatch(part) for part in parts):
        raise ValueError(
            f"must be at most {MAX_PATH_CHARS} characters, its parts 1-128 of letters, digits "
            "and '._+@=-', starting with a letter, digit or '_'"
        )
    if value == MANIFEST_NAME:
        raise ValueError("the manifest does not list itself")
    return value


Name = Annotated[str, AfterValidator(_check_name)]
Sha256 = Annotated[str, AfterValidator(_check_sha256)]
BundlePath = Annotated[str, AfterValidator(check_path)]


class _Section(BaseModel):
    """A section whose unknown keys are refused: a typo must not pass as an option."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class FileEntry(_Section):
    """One file: its size in bytes, sha256, and the sha256 of each 2 MiB block."""

    path: BundlePath
    size: int = Field(ge=0)
    sha256: Sha256
    blocks: tuple[Sha256, ...]

    @model_validator(mode="after")
    def _blocks_match_size(self) -> Self:
        expected = -(-self.size // BLOCK_BYTES)
        if len(self.blocks) != expected:
            raise ValueError(f"{self.path}: {len(self.blocks)} block hashes, size needs {expected}")
        return self


class DecoderGraph(_Section):
    """Graph contract of `generate` variants (packed tokens, KV slots; see docs/reference)."""

    type: Literal["decoder-packed/1"] = "decoder-packed/1"
    layers: int = Field(gt=0)
    hidden_size: int = Field(gt=0)
    heads: int = Field(gt=0)
    kv_heads: int = Field(gt=0)
    head_dim: int = Field(gt=0)
    vocab_size: int = Field(gt=0)
    sliding_window: int | None = Field(default=None, gt=0)
    kv_dtype: Literal["float32"] = "float32"


class EncoderGraph(_Section):
    """Graph contract of `embed`, `classify` and `rerank` variants.

    `packed`: inputs `input_ids` int64 [T], `pad_index` int64 [B, S], `unpad_index` int64 [T],
    `lengths` int32 [B]. `padded`: inputs `input_ids`, `attention_mask` int64 [B, S].
    Output of both: `output` float32 [B, width].
    """

    type: Literal["encoder-packed/1", "encoder-padded/1"] = "encoder-packed/1"
    width: int = Field(gt=0)
    pooling: Literal["mean", "cls", "none"] = "mean"
    normalized: bool = False


class Variant(_Section):
    """One quantised form. `files` are the variant's own; the tokenizer is shared.

    `native_graph`: the same model in the daemon's own operators, over the same weights; for
    boxes whose processor has them. Contract and answers are those of `graph`.
    """

    name: Name
    dtype: Literal["int8", "int4", "fp32"]
    graph: BundlePath
    files: tuple[BundlePath, ...]
    contract: DecoderGraph | EncoderGraph = Field(discriminator="type")
    onnxruntime_floor: str
    opset: int
    ir: int
    cpu_features: tuple[str, ...] = ()
    size_bytes: int = Field(ge=0)
    native_graph: BundlePath | None = None


class Tokenizer(_Section):
    """`file` is a `tokenizer.json`. Ids are those the daemon must know by itself."""

    file: BundlePath
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    pad_token_id: int | None = None


class ChatTemplate(_Section):
    """A Jinja template with the token strings it may use."""

    file: BundlePath
    bos_token: str = ""
    eos_token: str = ""


class Source(_Section):
    """Where the weights come from; `sha256` is that of the weights file (or files, sorted)."""

    id: str
    revision: str
    sha256: Sha256


class Sampling(_Section):
    """Defaults for fields a request leaves out, and the cap on answers."""

    defaults: dict[str, float] = Field(default_factory=dict)
    max_output_tokens: int | None = Field(default=None, gt=0)


class Golden(_Section):
    """One input whose answer is known. `answer`: text (generate), label (classify), or the
    leading components of the embedding (embed), which must agree to `tolerance` (absolute).
    """

    input: str
    answer: str | tuple[float, ...]
    tolerance: float = 0.0


class Manifest(BaseModel):
    """The manifest. Unknown optional sections are kept in `model_extra`."""

    model_config = ConfigDict(extra="allow", frozen=True, populate_by_name=True)

    schema_: Literal["edge-runtime/bundle/1"] = Field(alias="schema")
    name: Name
    version: str = Field(min_length=1, max_length=64)
    release: int = Field(ge=1)
    kind: Kind
    variants: tuple[Variant, ...] = Field(min_length=1)
    files: tuple[FileEntry, ...] = Field(min_length=1)
    tokenizer: Tokenizer
    licence: str = Field(min_length=1)
    source: Source
    recipe_digest: Sha256
    gate: dict[str, Any]
    context: int = Field(gt=0)
    chat_template: ChatTemplate | None = None
    labels: tuple[str, ...] = ()
    golden: tuple[Golden, ...] = ()
    sampling: Sampling = Sampling()
    escalation: Escalation | None = None

    def document(self) -> dict[str, Any]:
        """The manifest as it was written: no defaults added, unknown sections kept.

        Its canonical form is what `bundle_digest` covers, so a later version of this class
        with more defaults gives the same digest.
        """
        return self.model_dump(by_alias=True, exclude_unset=True)

    def variant(self, name: str) -> Variant:
        """The variant of that name. Raises `KeyError`."""
        for variant in self.variants:
            if variant.name == name:
                return variant
        raise KeyError(name)

    def entry(self, path: str) -> FileEntry:
        """The file entry of that path. Raises `KeyError`."""
        for entry in self.files:
            if entry.path == path:
                return entry
        raise KeyError(path)

    @model_validator(mode="after")
    def _refers_only_to_listed_files(self) -> Self:
        listed = [entry.path for entry in self.files]
        if len(set(listed)) != len(listed):
            raise ValueError("a file is listed twice")
        named = {path for variant in self.variants for path in (*variant.files, variant.graph)}
        named |= {item.native_graph for item in self.variants if item.native_graph is not None}
        named.add(self.tokenizer.file)
        if self.chat_template is not None:
            named.add(self.chat_template.file)
        missing = sorted(named - set(listed))
        if missing:
            raise ValueError(f"not listed under files: {', '.join(missing)}")
        return self

    @model_validator(mode="after")
    def _variant_names_differ(self) -> Self:
        names = [variant.name for variant in self.variants]
        if len(set(names)) != len(names):
            raise ValueError("two variants have the same name")
        return self

    @model_validator(mode="after")
    def _contract_fits_kind(self) -> Self:
        for variant in self.variants:
            is_decoder = isinstance(variant.contract, DecoderGraph)
            if is_decoder != (self.kind is Kind.GENERATE):
                raise ValueError(
                    f"variant {variant.name}: {variant.contract.type} is not a {self.kind} graph"
                )
        if self.kind is Kind.CLASSIFY and not self.labels:
            raise ValueError("a classifier needs labels")
        return self

    @model_validator(mode="after")
    def _escalation_fits_kind(self) -> Self:
        if self.escalation is None:
            return self
        if self.kind not in (Kind.GENERATE, Kind.CLASSIFY):
            raise ValueError(f"a bundle of kind {self.kind} never escalates")
        if self.escalation.labels != (self.kind is Kind.CLASSIFY):
            raise ValueError(f"escalation.parser {self.escalation.parser} is not for {self.kind}")
        strange = sorted(set(self.escalation.answers.values()) - set(self.labels))
        if strange:
            raise ValueError(f"escalation.answers maps to no label: {', '.join(strange)}")
        return self

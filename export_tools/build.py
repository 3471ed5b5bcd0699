"""From a checkpoint to a bundle: export, check, describe, pack.

Rules
- The bundle is built in a directory beside its place and moved there last: a failed or
  interrupted export leaves nothing.
- No variant enters a bundle unchecked: the gate's numbers are part of the manifest, and a gate
  that fails ends the export.
"""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edge_runtime import __version__
from edge_runtime.bundle.canonical import canonical_bytes
from edge_runtime.bundle.escalation import Escalation
from edge_runtime.bundle.manifest import SCHEMA, Manifest, Sampling
from edge_runtime.bundle.pack import pack
from edge_runtime.core import Kind
from edge_runtime.engine.offline import self_check
from edge_runtime.errors import BundleError, UsageError
from export_tools import decoder
from export_tools.decoder.config import ARCHITECTURES, parse_config, read_config
from export_tools.draft import VariantDraft
from export_tools.golden import GoldenInput, golden_sections
from export_tools.metadata import CheckpointMetadata
from export_tools.progress import Progress, SilentProgress
from export_tools.quant import variant_spec
from export_tools.weights import Checkpoint, weights_digest

if TYPE_CHECKING:
    from collections.abc import Iterator

Gate = Callable[[Path, Path, VariantDraft], dict[str, Any]]
"""Checks one variant: (checkpoint, bundle directory, draft) -> limits and numbers for the manifest.

Raises `BundleError` when the variant must not be shipped."""

Task = Literal["embed", "classify"]

DEFAULT_VARIANTS = ("int8",)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a bundle is. `source_id` and `source_revision` default to the directory's name and
    `local`; the weights' digest says the rest.
    """

    name: str
    version: str = "1"
    release: int = 1
    licence: str = "unknown"
    source_id: str | None = None
    source_revision: str = "local"


@dataclass(frozen=True, slots=True)
class Request:
    """What to export. `task` is for encoders: embed or classify (default: by the checkpoint).
    `max_context` caps a decoder's context in tokens. `limits` replace limits of the gate by name.
    `golden` are inputs whose answers every box must give; `max_output_tokens` caps answers.
    `sampling` replaces defaults of the checkpoint's generation config by name. `escalation` says
    how requests go to a frontier and come back.
    """

    checkpoint: Path
    out: Path
    identity: Identity
    variants: Sequence[str] = DEFAULT_VARIANTS
    task: Task | None = None
    max_context: int | None = None
    limits: Mapping[str, float] = field(default_factory=dict)
    golden: Sequence[GoldenInput] = ()
    max_output_tokens: int | None = None
    sampling: Mapping[str, float] = field(default_factory=dict)
    escalation: Escalation | None = None


@dataclass(frozen=True, slots=True)
class _Model:
    """What the manifest says of the model besides its variants."""

    kind: Kind
    context: int
    labels: tuple[str, ...]


def build(
    request: Request, *, gate: Gate | None = None, progress: Progress | None = None
) -> Manifest:
    """Export the checkpoint's variants and write the bundle directory `request.out`.

    `gate` None picks the gate of the model's kind. Raises `UsageError` when the request cannot
    be met (unknown variant, output exists) and `BundleError` when the checkpoint or a gate
    refuses. Costs one pass over the weights a variant, and the gate.
    """
    listener = progress or SilentProgress()
    specs = [variant_spec(name) for name in request.variants]
    if not specs or len({spec.name for spec in specs}) != len(specs):
        raise UsageError("name each variant once, and at least one", param="variant")
    if request.out.exists():
        raise UsageError(f"{request.out} exists; remove it or choose another", param="out")
    is_decoder = _is_decoder(request.checkpoint)
    model = _describe(request, is_decoder=is_decoder)
    metadata = CheckpointMetadata(request.checkpoint)
    check = gate or default_gate(request.limits, is_decoder=is_decoder)
    with _staging(request.out) as directory:
        drafts = [_export(request, directory, name, listener) for name in request.variants]
        gates = {draft.name: check(request.checkpoint, directory, draft) for draft in drafts}
        document = _manifest(request, model, drafts, gates)
        tokenizer = metadata.copy_tokenizer(directory)
        document["tokenizer"] = tokenizer.model_dump(mode="json")
        document.update(_generate_sections(request, metadata, model.kind, directory))
        if request.escalation is not None:
            document["escalation"] = escalation_section(request.escalation)
        document["golden"] = golden_sections(
            model.kind,
            request.golden,
            directory,
            draft=drafts[0],
            tokenizer=tokenizer,
            context=model.context,
        )
        manifest = pack(directory, document)
        self_check(directory, manifest)
        directory.rename(request.out)
    return manifest


def default_gate(limits: Mapping[str, float], *, is_decoder: bool) -> Gate:
    """The gate for a kind of model. `limits` replace those of the same name.

    Raises `UsageError` for a limit that the gate does not have.
    """
    from export_tools import gate as gates
    from export_tools.gate.limits import DECODER_LIMITS, ENCODER_LIMITS

    kind: type[gates.DecoderLimits | gates.EncoderLimits]
    kind = gates.DecoderLimits if is_decoder else gates.EncoderLimits
    known = [item.name for item in dataclasses.fields(kind)]
    unknown = sorted(set(limits) - set(known))
    if unknown:
        raise UsageError(
            f"unknown limits {', '.join(unknown)}; choose among: {', '.join(known)}", param="gate"
        )

    def check(checkpoint: Path, directory: Path, draft: VariantDraft) -> dict[str, Any]:
        if is_decoder:
            base = DECODER_LIMITS[draft.dtype]
            own = dataclasses.replace(base, **limits)
            return gates.gate_decoder(checkpoint, directory, draft, limits=own)
        wanted = dataclasses.replace(ENCODER_LIMITS[draft.dtype], **limits)
        return gates.gate_encoder(checkpoint, directory, draft, limits=wanted)

    return check


@contextmanager
def _staging(out: Path) -> Iterator[Path]:
    """A directory beside `out`, gone on leaving unless it was renamed."""
    out.parent.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".partial", dir=out.parent))
    try:
        directory.chmod(0o755)
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _is_decoder(checkpoint: Path) -> bool:
    """Whether the checkpoint is a causal language model; what it is exactly is checked later."""
    names = [str(name) for name in read_config(checkpoint).get("architectures") or []]
    if not names:
        raise BundleError("config.json", "names no architectures; it is not known how to export it")
    return any(name in ARCHITECTURES or name.endswith("ForCausalLM") for name in names)


def _describe(request: Request, *, is_decoder: bool) -> _Model:
    if is_decoder:
        config = parse_config(read_config(request.checkpoint), request.max_context)
        return _Model(Kind.GENERATE, config.context, ())
    from export_tools.encoder.export import encoder_facts

    facts = encoder_facts(request.checkpoint, request.task)
    return _Model(Kind(facts.task), facts.context, facts.labels)


def _export(request: Request, out: Path, variant: str, progress: Progress) -> VariantDraft:
    if _is_decoder(request.checkpoint):
        return decoder.build_variant(
            request.checkpoint, out, variant, progress, request.max_context
        )
    from export_tools.encoder.export import build_variant

    return build_variant(request.checkpoint, out, variant, task=request.task, progress=progress)


def _manifest(
    request: Request,
    model: _Model,
    drafts: Sequence[VariantDraft],
    gates: dict[str, dict[str, Any]],
) -> dict[str, object]:
    """The manifest without `files` and without what `_sections` adds."""
    identity = request.identity
    digest = weights_digest(Checkpoint(request.checkpoint).files)
    return {
        "schema": SCHEMA,
        "name": identity.name,
        "version": identity.version,
        "release": identity.release,
        "kind": model.kind.value,
        "variants": [_variant(draft) for draft in drafts],
        "licence": identity.licence,
        "source": {
            "id": identity.source_id or request.checkpoint.resolve().name,
            "revision": identity.source_revision,
            "sha256": digest,
        },
        "recipe_digest": recipe_digest(request, digest),
        "gate": gates,
        "context": model.context,
        "labels": list(model.labels),
    }


def _generate_sections(
    request: Request, metadata: CheckpointMetadata, kind: Kind, directory: Path
) -> dict[str, object]:
    """Chat template and sampling of a generator; copies the template into the bundle."""
    if kind is not Kind.GENERATE:
        return {}
    sampling = Sampling(
        defaults={**metadata.sampling_defaults(), **request.sampling},
        max_output_tokens=request.max_output_tokens,
    )
    sections: dict[str, object] = {"sampling": sampling.model_dump(mode="json")}
    template = metadata.copy_template(directory)
    if template is not None:
        sections["chat_template"] = template.model_dump(mode="json")
    return sections


def escalation_section(escalation: Escalation) -> dict[str, Any]:
    """The manifest's section, without what was left out."""
    return escalation.model_dump(mode="json", exclude_unset=True, exclude_none=True)


def _variant(draft: VariantDraft) -> dict[str, object]:
    document: dict[str, object] = {
        "name": draft.name,
        "dtype": draft.dtype,
        "graph": draft.graph,
        "files": list(draft.files),
        "contract": draft.contract.model_dump(mode="json"),
        "onnxruntime_floor": draft.onnxruntime_floor,
        "opset": draft.opset,
        "ir": draft.ir,
        "cpu_features": list(draft.cpu_features),
        "size_bytes": draft.size_bytes,
    }
    if draft.native_graph is not None:
        document["native_graph"] = draft.native_graph
    return document


def recipe_digest(request: Request, source_sha256: str) -> str:
    """Sha256 of what decides the bundle's weights: source, exporter, variants and their plans."""
    recipe = {
        "exporter": __version__,
        "source_sha256": source_sha256,
        "task": request.task,
        "max_context": request.max_context,
        "limits": dict(request.limits),
        "variants": {name: variant_spec(name).plan.describe() for name in request.variants},
    }
    return hashlib.sha256(canonical_bytes(recipe)).hexdigest()

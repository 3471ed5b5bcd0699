"""From a verified bundle directory to a worker that can answer: load, warm up, self-check.

The golden inputs of a bundle are run through the same worker that will serve it; a bundle that
does not give their answers on this box is refused.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import onnxruntime as ort

from edge_runtime.bundle.digests import bundle_digest, model_digest
from edge_runtime.bundle.manifest import DecoderGraph, EncoderGraph, Golden, Manifest, Variant
from edge_runtime.config import Settings
from edge_runtime.core import FloatArray, GenerateRequest, Kind, ModelInfo, SamplingParams
from edge_runtime.engine.cpu import cpu_features, missing_features, usable_cpus
from edge_runtime.engine.decode_worker import DecodeWorker, Deliver, Event
from edge_runtime.engine.decoder import DecoderSession
from edge_runtime.engine.encode_worker import EncodeWorker
from edge_runtime.engine.encoder import MAX_RUN_TOKENS, EncoderSession
from edge_runtime.engine.golden import encoder_answer
from edge_runtime.engine.native import library_path
from edge_runtime.engine.text import Codec, TextStream
from edge_runtime.errors import BundleError
from edge_runtime.metrics import EngineObserver, NullObserver
from edge_runtime.scheduler.sequences import DecodeLimits

_WARM_UP_TOKENS = 16


@dataclass(frozen=True, slots=True)
class _Choice:
    """One variant of a bundle on disk, with the settings it will run under."""

    directory: Path
    manifest: Manifest
    variant: Variant
    settings: Settings
    info: ModelInfo
    native: bool

    @property
    def graph(self) -> Path:
        path = self.variant.native_graph if self.native else self.variant.graph
        assert path is not None
        return self.directory / path

    @property
    def threads(self) -> int:
        return self.settings.engine.threads or usable_cpus()


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that is in memory, with what the HTTP side must know of it."""

    info: ModelInfo
    codec: Codec
    worker: DecodeWorker | EncodeWorker


def load_model(
    directory: Path,
    manifest: Manifest,
    settings: Settings,
    *,
    deliver: Deliver,
    observer: EngineObserver,
) -> LoadedModel:
    """Load the variant that `settings` names, warm it up and check its golden answers.

    Takes seconds and holds the weights in memory. Raises `BundleError` when the bundle cannot
    run on this box or answers wrong, `EngineError` when the machine fails.
    """
    variant = choose_variant(manifest, settings)
    native = _choose_native(manifest, variant, settings.engine.native_kernels)
    _check_box(manifest, variant, native=native)
    codec = Codec(directory, manifest)
    info = _info(manifest, variant, settings, codec)
    choice = _Choice(directory, manifest, variant, settings, info, native)
    worker: DecodeWorker | EncodeWorker
    if isinstance(variant.contract, DecoderGraph):
        worker = _decode_worker(choice, variant.contract, codec)
        _check_generate(manifest, worker, codec)
        worker.deliver, worker.observer = deliver, observer
    else:
        worker = _encode_worker(choice, variant.contract)
        _check_encode(manifest, worker, codec)
        worker.observer = observer
    return LoadedModel(info, codec, worker)


def choose_variant(manifest: Manifest, settings: Settings) -> Variant:
    """The variant these settings run. Raises `BundleError` when they name one that is not there."""
    options = settings.models.options.get(manifest.name)
    names = [variant.name for variant in manifest.variants]
    if options is not None and options.variant is not None:
        if options.variant not in names:
            raise BundleError(
                manifest.name,
                f"has no variant {options.variant!r}; set models.options.{manifest.name}.variant "
                f"to one of: {', '.join(names)}",
            )
        return manifest.variant(options.variant)
    default = settings.models.default_variant
    return manifest.variant(default if default in names else names[0])


def _choose_native(manifest: Manifest, variant: Variant, wish: str) -> bool:
    """Whether to run the native graph; see `engine.native_kernels`."""
    if wish == "off" or (wish == "auto" and "amx_int8" in cpu_features()):
        return False
    usable = variant.native_graph is not None and library_path() is not None
    if wish == "on" and not usable:
        lacks = "bundle brings no native graph" if variant.native_graph is None else "box cannot"
        raise BundleError(
            manifest.name,
            f"variant {variant.name} cannot run on the native kernels (the {lacks}); "
            "set engine.native_kernels to auto",
        )
    return usable


def _check_box(manifest: Manifest, variant: Variant, *, native: bool) -> None:
    floor = tuple(int(part) for part in variant.onnxruntime_floor.split(".")[:2])
    have = tuple(int(part) for part in ort.__version__.split(".")[:2])
    if have < floor:
        raise BundleError(
            manifest.name,
            f"variant {variant.name} needs onnxruntime {variant.onnxruntime_floor}, this box has "
            f"{ort.__version__}; update the runtime first",
        )
    # The native kernels are exact on every processor that runs them at all.
    needed = [name for name in variant.cpu_features if not (native and name == "vnni")]
    missing = missing_features(needed)
    if missing:
        raise BundleError(
            manifest.name,
            f"variant {variant.name} needs CPU features this box lacks: {', '.join(missing)}",
        )


def _info(manifest: Manifest, variant: Variant, settings: Settings, codec: Codec) -> ModelInfo:
    contract = variant.contract
    models = settings.models
    options = models.options.get(manifest.name)
    context = (options and options.context_tokens) or models.default_context_tokens
    cap = (options and options.max_output_tokens) or models.default_max_output_tokens
    if manifest.sampling.max_output_tokens is not None:
        cap = min(cap, manifest.sampling.max_output_tokens)
    return ModelInfo(
        name=manifest.name,
        version=manifest.version,
        kind=manifest.kind,
        variant=variant.name,
        bundle_digest=bundle_digest(manifest),
        model_digest=model_digest(manifest, variant.name),
        context_tokens=min(context, manifest.context),
        created_s=int(time.time()),
        labels=manifest.labels,
        default_params=dict(manifest.sampling.defaults),
        max_output_tokens=cap if manifest.kind is Kind.GENERATE else None,
        has_chat_template=manifest.chat_template is not None,
        vocab_size=contract.vocab_size if isinstance(contract, DecoderGraph) else codec.vocab_size,
        output_width=contract.width if isinstance(contract, EncoderGraph) else None,
        escalation=manifest.escalation,
    )


def _decode_worker(choice: _Choice, contract: DecoderGraph, codec: Codec) -> DecodeWorker:
    manifest, settings, info = choice.manifest, choice.settings, choice.info
    engine = settings.engine
    options = settings.models.options.get(manifest.name)
    limits = DecodeLimits(
        slots=(options and options.slots) or settings.models.default_slots,
        max_len=info.context_tokens,
        max_chunk_tokens=min(engine.max_chunk_tokens, info.context_tokens),
        min_chunk_tokens=min(engine.min_chunk_tokens, info.context_tokens),
        inter_token_target_ms=engine.inter_token_target_ms,
        max_waiting=engine.max_waiting_sequences,
        max_wait_s=engine.max_wait_s,
    )
    session = DecoderSession(
        choice.graph,
        contract,
        slots=limits.slots,
        max_len=limits.max_len,
        max_chunk=limits.max_chunk_tokens,
        threads=choice.threads,
        spinning=engine.allow_spinning,
        native=choice.native,
    )
    return DecodeWorker(
        model=manifest.name,
        decoder=session,
        limits=limits,
        eos_token_ids=frozenset(manifest.tokenizer.eos_token_ids),
        make_text=lambda stop: TextStream(codec, stop),
        deliver=lambda events: None,
        observer=NullObserver(),
        clock=time.monotonic,
        draw_seed=lambda: secrets.randbits(63),
    )


def _encode_worker(choice: _Choice, contract: EncoderGraph) -> EncodeWorker:
    manifest, engine = choice.manifest, choice.settings.engine
    session = EncoderSession(
        choice.graph,
        contract,
        max_len=choice.info.context_tokens,
        threads=choice.threads,
        pad_token_id=manifest.tokenizer.pad_token_id or 0,
        spinning=engine.allow_spinning,
        native=choice.native,
        max_run_tokens=max(MAX_RUN_TOKENS, engine.encoder_batch_tokens),
    )
    return EncodeWorker(
        model=manifest.name,
        encoder=session,
        batch_tokens=engine.encoder_batch_tokens,
        max_waiting_tokens=engine.max_waiting_encoder_tokens,
        busy_target_ms=engine.inter_token_target_ms / 2,
        observer=NullObserver(),
        clock=time.monotonic,
    )


def _check_generate(manifest: Manifest, worker: DecodeWorker, codec: Codec) -> None:
    """Warm up with a few tokens, then hold every golden prompt against its answer."""
    warm = [1 % worker.decoder.vocab_size] * min(_WARM_UP_TOKENS, worker.limits.max_len - 4)
    _generate(worker, warm, max_tokens=2)
    for golden in manifest.golden:
        if codec.has_chat_template:
            prompt = codec.apply_chat_template([{"role": "user", "content": golden.input}])
        else:
            prompt = codec.encode(golden.input, add_special_tokens=True)
        room = worker.limits.max_len - len(prompt)
        if room < 1:
            raise BundleError(
                manifest.name,
                f"golden input {golden.input!r} has {len(prompt)} tokens and the context is "
                f"{worker.limits.max_len}; raise models.options.{manifest.name}.context_tokens",
            )
        expected = codec.encode(str(golden.answer), add_special_tokens=False)
        answer = _generate(worker, prompt, max_tokens=max(1, min(room, len(expected) + 8)))
        if answer != golden.answer:
            raise _wrong_answer(manifest, golden, answer)


def _generate(worker: DecodeWorker, prompt: Sequence[int], *, max_tokens: int) -> str:
    """The greedy answer, by running the worker here until it is idle."""
    events: list[Event] = []
    worker.deliver = events.extend
    params = SamplingParams(max_tokens=max_tokens, temperature=0.0)
    now_s = worker.clock()
    worker.submit(GenerateRequest("golden", worker.model, tuple(prompt), params, arrival_s=now_s))
    while worker.turn():
        pass
    errors = [event.error for _, event in events if event.error is not None]
    if errors:
        raise BundleError(worker.model, f"the self-check failed: {errors[0]}")
    return "".join(event.text for _, event in events)


def _check_encode(manifest: Manifest, worker: EncodeWorker, codec: Codec) -> None:
    inputs = [golden.input for golden in manifest.golden] or ["warm up"]
    tokens = [codec.encode(text, add_special_tokens=True) for text in inputs]
    future: Future[FloatArray] = worker.submit([ids[: worker.encoder.max_len] for ids in tokens])
    while worker.turn(beside_decoder=False):
        pass
    rows = future.result(timeout=0)
    for golden, row in zip(manifest.golden, rows, strict=False):
        answer, right = encoder_answer(manifest, golden, row)
        if not right:
            raise _wrong_answer(manifest, golden, answer)


def _wrong_answer(manifest: Manifest, golden: Golden, answer: object) -> BundleError:
    return BundleError(
        manifest.name,
        f"golden input {golden.input!r} gives {answer!r} on this box, not {golden.answer!r}; "
        "build the bundle again, or serve another variant",
    )

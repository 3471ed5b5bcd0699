"""From a checkpoint directory to a bundle directory, and what is refused on the way."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from edge_runtime.bundle.pack import load_manifest, verify
from edge_runtime.core import Kind
from edge_runtime.errors import BundleError, UsageError
from export_tools import synth
from export_tools.build import Identity, Request, build
from export_tools.cli import app
from export_tools.decoder import build_variant
from export_tools.draft import VariantDraft
from tests.support.decoders import TINY_CONFIG, random_tensors, tiny_config, write_checkpoint

NUMBERS = {"mean_kld": 0.001}


def passing_gate(checkpoint: Path, bundle: Path, draft: VariantDraft) -> dict[str, Any]:
    assert (bundle / draft.graph).is_file()
    return NUMBERS


def failing_gate(checkpoint: Path, bundle: Path, draft: VariantDraft) -> dict[str, Any]:
    raise BundleError(draft.name, "mean KLD 3.1 is over the limit of 0.01")


def request(checkpoint: Path, out: Path, **changes: Any) -> Request:
    identity = Identity("tiny", version="2", release=7, licence="CC0-1.0")
    return Request(checkpoint, out, identity, **changes)


def test_a_bundle_holds_variants_tokenizer_and_template(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source")
    settings = {"eos_token_id": [319, 317], "temperature": 0.7, "top_k": 20, "do_sample": True}
    (source / "generation_config.json").write_text(json.dumps(settings))
    out = tmp_path / "bundle"
    manifest = build(
        request(source, out, variants=("int8", "int4"), sampling={"temperature": 0.0}),
        gate=passing_gate,
    )
    verify(out, load_manifest(out))
    assert manifest.kind is Kind.GENERATE
    assert (manifest.name, manifest.version, manifest.release) == ("tiny", "2", 7)
    assert [variant.dtype for variant in manifest.variants] == ["int8", "int4"]
    assert manifest.variants[0].cpu_features == ("vnni",)
    assert manifest.gate == {"int8": NUMBERS, "int4": NUMBERS}
    assert manifest.context == 256
    assert manifest.tokenizer.eos_token_ids == (319, 317)
    assert manifest.chat_template is not None
    assert manifest.chat_template.eos_token == "<|im_end|>"
    assert manifest.sampling.defaults == {"temperature": 0.0, "top_k": 20.0}
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_the_same_checkpoint_gives_the_same_bundle(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source")
    build(request(source, tmp_path / "one"), gate=passing_gate)
    build(request(source, tmp_path / "two"), gate=passing_gate)
    one, two = (tmp_path / name / "manifest.json" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


def test_a_failing_gate_leaves_nothing(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source")
    with pytest.raises(BundleError, match="over the limit"):
        build(request(source, tmp_path / "bundle"), gate=failing_gate)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_an_existing_output_is_not_touched(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source")
    out = tmp_path / "bundle"
    out.mkdir()
    (out / "precious").write_text("kept")
    with pytest.raises(UsageError, match="exists"):
        build(request(source, out), gate=passing_gate)
    assert [path.name for path in out.iterdir()] == ["precious"]


def test_an_unknown_variant_names_the_known_ones(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source")
    with pytest.raises(UsageError, match="int8, "):
        build(request(source, tmp_path / "bundle", variants=("int3",)), gate=passing_gate)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"architectures": ["MixtralForCausalLM"]}, "MixtralForCausalLM"),
        ({"architectures": ["Gemma2ForCausalLM"]}, "Gemma2ForCausalLM"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "'dynamic'"),
        ({"rope_scaling": {"rope_type": "longrope"}}, "'longrope'"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "low_freq_factor"),
        ({"num_key_value_heads": 3}, "num_key_value_heads = 3"),
        ({"hidden_size": "64"}, "hidden_size = '64'"),
        ({"num_experts": 8}, "num_experts = 8"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"rope_interleaved": True}, "rope_interleaved"),
    ],
)
def test_what_the_graph_cannot_do_is_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    source = write_checkpoint(tmp_path / "source")
    (source / "config.json").write_text(json.dumps(tiny_config(**changes)))
    with pytest.raises(BundleError, match=r"config\.json") as caught:
        build(request(source, tmp_path / "bundle"), gate=passing_gate)
    assert reason in str(caught.value)
    assert not (tmp_path / "bundle").exists()


def test_missing_extra_and_misshapen_tensors_are_listed(tmp_path: Path) -> None:
    tensors = random_tensors(tiny_config())
    del tensors["model.layers.1.mlp.up_proj.weight"]
    tensors["model.layers.0.self_attn.q_proj.bias"] = np.zeros(64, np.float32)
    tensors["model.norm.weight"] = np.ones(63, np.float32)
    source = write_checkpoint(tmp_path / "source", tensors)
    with pytest.raises(BundleError) as caught:
        build_variant(source, tmp_path, "int8")
    text = str(caught.value)
    assert "missing tensors: model.layers.1.mlp.up_proj.weight" in text
    assert "unknown tensors: model.layers.0.self_attn.q_proj.bias" in text
    assert "model.norm.weight is [63], config needs [64]" in text


def test_a_checkpoint_without_fast_tokenizer_says_what_to_do(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source")
    (source / "tokenizer.json").unlink()
    with pytest.raises(BundleError, match=r"no tokenizer\.json; save the tokenizer"):
        build(request(source, tmp_path / "bundle"), gate=passing_gate)


def test_the_command_reports_errors_in_one_line(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source")
    (source / "config.json").write_text(json.dumps(tiny_config(hidden_act="relu")))
    done = CliRunner().invoke(app, ["build", str(source), "--out", str(tmp_path / "bundle")])
    assert done.exit_code == 1
    assert done.stderr.startswith("error: config.json: hidden_act = 'relu'")


def test_a_synthetic_checkpoint_becomes_a_bundle_by_two_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the real gate; without torch its comparison with the source is left out."""
    tiny = {**synth.GEOMETRIES["smollm2-135m"], **TINY_CONFIG, "num_hidden_layers": 2}
    monkeypatch.setitem(synth.GEOMETRIES, "tiny", tiny)
    monkeypatch.setattr("export_tools.gate.source.is_installed", lambda: False)
    source, out = tmp_path / "source", tmp_path / "bundle"
    made = CliRunner().invoke(app, ["synth", "tiny", "--out", str(source)])
    assert made.exit_code == 0, made.output
    options = ["--variant", "int8", "--name", "synthetic", "--licence", "CC0-1.0"]
    built = CliRunner().invoke(app, ["build", str(source), "--out", str(out), *options])
    assert built.exit_code == 0, built.output
    manifest = load_manifest(out)
    verify(out, manifest)
    assert (manifest.name, manifest.licence) == ("synthetic", "CC0-1.0")
    figures = manifest.gate["int8"]["figures"]
    assert figures["company_error"] <= 1e-4
    assert figures["mean_kl"] < 0.02


def test_a_limit_that_the_gate_does_not_have_is_refused(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source")
    with pytest.raises(UsageError, match="unknown limits mean_klx; choose among: mean_kl"):
        build(request(source, tmp_path / "bundle", limits={"mean_klx": 1.0}))


def test_a_recipes_limit_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("export_tools.gate.source.is_installed", lambda: False)
    source = write_checkpoint(tmp_path / "source")
    with pytest.raises(BundleError, match=r"mean_kl = \S+ is above its limit 1e-12"):
        build(request(source, tmp_path / "bundle", limits={"mean_kl": 1e-12}))
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


_MEASURE = """
import sys, threading, time
from pathlib import Path
from export_tools.decoder import build_variant
from export_tools.synth import synthesize

def anonymous():
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024

peak, stop = [0], threading.Event()
def watch():
    while not stop.wait(0.002):
        peak[0] = max(peak[0], anonymous())

root = Path(sys.argv[1])
synthesize("smollm2-135m", root / "source", layers=1)
before = anonymous()
threading.Thread(target=watch, daemon=True).start()
build_variant(root / "source", root / "out", sys.argv[2])
stop.set()
print(peak[0] - before)
"""


@pytest.mark.parametrize("variant", ["fp32", "int8", "int4"])
def test_memory_stays_far_below_the_model(tmp_path: Path, variant: str) -> None:
    """Weights are streamed: the cost is some blocks, not tensors. The embedding is 57 MB."""
    command = [sys.executable, "-c", _MEASURE, str(tmp_path), variant]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=150)
    largest = 49152 * 576 * 2
    assert int(done.stdout) < 1.3 * largest + 128 * 2**20

"""Sentences a second of an encoder bundle beside other ways to run the same checkpoint.

`python -m benchmarks.encoder_speed CHECKPOINT TEXTS` exports the checkpoint (int8 and fp32) to a
temporary directory and times, in interleaved rounds on this machine: our int8, our fp32, stock
onnxruntime dynamic INT8 (per channel, on the same padded graph), and, where they are installed,
OpenVINO (int8 weights), torch. Prints a Markdown table of medians over rounds.

TEXTS is a text file with a sentence a line, or JSON lines with a `text`. Short: 2,000 of them;
long: 200 texts joined from them, about 130 tokens each. Tokens are counted, not timed: every
contestant gets the same tokens in length-sorted batches.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from edge_runtime.bundle.manifest import EncoderGraph
from edge_runtime.engine.offline import open_encoder, padded_feeds
from edge_runtime.engine.session import make_session, usable_cpus
from edge_runtime.scheduler.encoder_batches import plan_batches
from export_tools.encoder.export import build_variant, encoder_facts
from export_tools.gate.measures import cosines

Rows = Sequence[Sequence[int]]
Array = npt.NDArray[np.float32]
Encode = Callable[[Rows], Array]
LONG_TOKENS = 130
PEER_BUDGET = 2048


def main() -> None:
    """Parse arguments, time, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("texts", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=usable_cpus())
    parser.add_argument(
        "--budget", type=int, default=PEER_BUDGET, help="padded tokens of one of our runs"
    )
    parser.add_argument("--only", nargs="*", help="names of contestants, default all installed")
    arguments = parser.parse_args()
    short, long = load_rows(arguments.checkpoint, arguments.texts)
    with tempfile.TemporaryDirectory() as name:
        contestants = make_contestants(
            arguments.checkpoint, Path(name), arguments.threads, arguments.budget, arguments.only
        )
        tables = [race(contestants, rows, arguments.rounds) for rows in (short, long)]
    print(f"{arguments.threads} threads; short: {describe(short)}; long: {describe(long)}\n")
    print("| | short, sentences/s | long, sentences/s | cosine to our fp32 at p1 |")
    print("|---|---|---|---|")
    for contestant in contestants:
        speeds = [table[contestant] for table in tables]
        cosine = min(found[1] for found in speeds)
        print(f"| {contestant} | {speeds[0][0]:.0f} | {speeds[1][0]:.1f} | {cosine:.4f} |")


def describe(rows: Rows) -> str:
    """Number of rows and their mean length."""
    return f"{len(rows)} texts of {np.mean([len(row) for row in rows]):.1f} tokens"


def load_rows(checkpoint: Path, texts: Path) -> tuple[list[list[int]], list[list[int]]]:
    """Tokens of 2,000 short and 200 long texts."""
    lines = [line for line in texts.read_text("utf-8").splitlines() if line.strip()]
    if lines[0].startswith("{"):
        lines = [json.loads(line)["text"] for line in lines]
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    order = np.random.default_rng(0).permutation(len(lines))
    lines = [lines[index] for index in order]
    short = [tokenizer.encode(line).ids for line in (lines * (2000 // len(lines) + 1))[:2000]]
    long, parts = [], iter(lines * 10)
    for _ in range(200):
        text = next(parts)
        while len(tokens := tokenizer.encode(text).ids) < LONG_TOKENS - 6:
            text += ". " + next(parts)
        long.append(tokens)
    return short, long


def race(contestants: dict[str, Encode], rows: Rows, rounds: int) -> dict[str, tuple[float, float]]:
    """Median sentences a second and p1 cosine to `our fp32`, rounds interleaved."""
    outputs = {name: encode(rows) for name, encode in contestants.items()}  # warms up as well
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, encode in contestants.items():
            begin = time.perf_counter()
            encode(rows)
            seconds[name].append(time.perf_counter() - begin)
    return {
        name: (
            len(rows) / statistics.median(seconds[name]),
            float(np.quantile(cosines(outputs[name], outputs["our fp32"]), 0.01)),
        )
        for name in contestants
    }


def make_contestants(
    checkpoint: Path, directory: Path, threads: int, budget: int, only: Sequence[str] | None
) -> dict[str, Encode]:
    """Every contestant that is installed, by name."""
    makers: dict[str, Callable[[], Encode]] = {
        "our int8, native operators": lambda: ours(
            checkpoint, directory, "int8", threads, budget, native=True
        ),
        "our int8, portable graph": lambda: ours(checkpoint, directory, "int8", threads, budget),
        "our fp32": lambda: ours(checkpoint, directory, "fp32", threads, budget),
        "onnxruntime dynamic INT8": lambda: stock_dynamic(checkpoint, directory, threads),
        "OpenVINO int8 weights": lambda: openvino(checkpoint, directory, threads),
        "torch fp32": lambda: torch_eager(checkpoint, threads),
    }
    found: dict[str, Encode] = {}
    for name, make in makers.items():
        if only and name not in (*only, "our fp32"):
            continue
        try:
            found[name] = make()
        except ImportError as error:
            print(f"{name}: left out, {error}")
    return found


def ours(
    checkpoint: Path,
    directory: Path,
    variant: str,
    threads: int,
    budget: int,
    *,
    native: bool = False,
) -> Encode:
    """A variant through the daemon's own engine and batch planner."""
    directory /= "native" if native else "portable"
    draft = build_variant(checkpoint, directory, variant)
    assert isinstance(draft.contract, EncoderGraph)
    context = encoder_facts(checkpoint).context
    graph = draft.native_graph if native else draft.graph
    if graph is None:
        raise ImportError("the variant has no native graph")
    model = open_encoder(
        directory / graph, draft.contract, max_len=context, threads=threads, native=native
    )
    return batched(model.run, model.width, budget)


def batched(run: Encode, width: int, budget: int) -> Encode:
    """Length-sorted batches through `run`, results in the order given."""

    def encode(rows: Rows) -> Array:
        outputs = np.empty((len(rows), width), np.float32)
        for batch in plan_batches([len(row) for row in rows], budget, 4096):
            outputs[batch] = run([rows[index] for index in batch])
        return outputs

    return encode


def padded_graph(checkpoint: Path, directory: Path) -> Path:
    """Trace a padded graph with optimum, mean pooling added: what users have today."""
    from export_tools.encoder.other import build_other  # noqa: PLC0415 - needs optimum

    draft = build_other(checkpoint, directory / "padded", "fp32", "embed")
    return directory / "padded" / draft.graph


def stock_dynamic(checkpoint: Path, directory: Path, threads: int) -> Encode:
    """Quantise as onnxruntime's own tool does: one activation scale for the whole batch."""
    from onnxruntime.quantization import QuantType, quantize_dynamic  # noqa: PLC0415 - needs onnx

    graph = padded_graph(checkpoint, directory)
    target = directory / "dynamic.onnx"
    quantize_dynamic(
        graph,
        target,
        per_channel=True,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["MatMul", "Gemm", "Gather"],
    )
    session = make_session(target, threads=threads)
    return batched(
        lambda rows: session.run(None, feeds(rows))[0], width_of(checkpoint), PEER_BUDGET
    )


def openvino(checkpoint: Path, directory: Path, threads: int) -> Encode:
    """OpenVINO's CPU plugin with weights compressed to int8 (nncf) where nncf is installed."""
    import nncf  # noqa: PLC0415 - optional
    import openvino as ov  # noqa: PLC0415 - optional

    model = nncf.compress_weights(ov.Core().read_model(padded_graph(checkpoint, directory)))
    compiled = ov.Core().compile_model(
        model, "CPU", {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    )
    request = compiled.create_infer_request()

    def run(rows: Rows) -> Array:
        output: Array = request.infer(feeds(rows))["output"].copy()
        return output

    return batched(run, width_of(checkpoint), PEER_BUDGET)


def torch_eager(checkpoint: Path, threads: int) -> Encode:
    """The source implementation in batches of 32, as sentence-transformers runs it."""
    import torch  # noqa: PLC0415 - optional
    import transformers  # noqa: PLC0415 - optional

    torch.set_num_threads(threads)
    model: Any = transformers.AutoModel.from_pretrained(checkpoint).float().eval()

    def run(rows: Rows) -> Array:
        inputs = {name: torch.from_numpy(value) for name, value in feeds(rows).items()}
        with torch.inference_mode():
            hidden = model(**inputs).last_hidden_state
            mask = inputs["attention_mask"][:, :, None].float()
            mean = (hidden * mask).sum(dim=1) / mask.sum(dim=1)
            output: Array = torch.nn.functional.normalize(mean).numpy()
        return output

    def encode(rows: Rows) -> Array:
        outputs = np.empty((len(rows), width_of(checkpoint)), np.float32)
        order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
        for start in range(0, len(order), 32):
            batch = order[start : start + 32]
            outputs[batch] = run([rows[index] for index in batch])
        return outputs

    return encode


def width_of(checkpoint: Path) -> int:
    """The embedding width."""
    return int(json.loads((checkpoint / "config.json").read_text())["hidden_size"])


def feeds(rows: Rows) -> dict[str, Any]:
    """Padded inputs of a batch."""
    lengths = np.array([len(row) for row in rows])
    ids = np.concatenate([np.asarray(row, np.int64) for row in rows])
    return dict(padded_feeds(ids, lengths, 0))


if __name__ == "__main__":
    main()

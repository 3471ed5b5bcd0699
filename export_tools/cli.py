"""`edge-export`: checkpoints and recipes to bundles."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from edge_runtime.errors import ConfigError, UsageError
from export_tools.console import reported
from export_tools.distill.cli import distill
from export_tools.rightsize.cli import rightsize

app = typer.Typer(
    name="edge-export",
    help="Turn checkpoints into checked ONNX bundles.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

_OUT = Annotated[Path, typer.Option("--out", "-o", help="Directory to make; it must not exist.")]


@app.command()
def build(  # noqa: PLR0917 - options of a command
    source: Annotated[
        Path, typer.Argument(help="A checkpoint directory, or a recipe.toml (or its directory).")
    ],
    out: _OUT,
    variant: Annotated[
        list[str] | None,
        typer.Option(
            "--variant", help="int8 (default), int4, fp32, int8-7bit, int8-blocks; repeatable."
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Bundle name [default: the directory's].")
    ] = None,
    version: Annotated[str | None, typer.Option(help="Version shown to users.")] = None,
    release: Annotated[
        int | None, typer.Option(min=1, help="Rising number; a box never goes back by itself.")
    ] = None,
    licence: Annotated[str | None, typer.Option(help="Licence of the weights.")] = None,
    task: Annotated[
        str | None,
        typer.Option(help="For encoders: embed or classify [default: by the checkpoint]."),
    ] = None,
    max_context: Annotated[
        int | None, typer.Option(min=1, help="Cap of a decoder's context, tokens.")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Trained checkpoint of a recipe with a [train] table.")
    ] = None,
) -> None:
    """Export a checkpoint or recipe, check it, and write the bundle directory."""
    from export_tools.build import build as build_bundle
    from export_tools.console import RichProgress
    from export_tools.plan import Overrides, parse_task, plan_request

    console = Console(stderr=True)
    with reported(console):
        overrides = Overrides(
            tuple(variant or ()), name, version, release, licence, parse_task(task), max_context
        )
        request = plan_request(source, out, overrides, checkpoint)
        with RichProgress(console) as progress:
            manifest = build_bundle(request, progress=progress)
    size = sum(entry.size for entry in manifest.files)
    names = ", ".join(found.name for found in manifest.variants)
    console.print(f"{out}: {manifest.name}@{manifest.version} ({names}), {size / 1e6:.1f} MB")


@app.command()
def synth(
    geometry: Annotated[
        str, typer.Argument(help="qwen2.5-0.5b, qwen2.5-1.5b, llama-3.2-1b or smollm2-135m.")
    ],
    out: _OUT,
    layers: Annotated[int | None, typer.Option(min=1, help="Fewer layers than the model.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same bytes.")] = 0,
) -> None:
    """Write a random-weight checkpoint of a known geometry, with a working tokenizer."""
    from export_tools.console import RichProgress
    from export_tools.synth import synthesize

    console = Console(stderr=True)
    with reported(console):
        if out.exists():
            raise UsageError(f"{out} exists; remove it or choose another", param="out")
        with RichProgress(console) as progress:
            synthesize(geometry, out, layers=layers, seed=seed, progress=progress)
    console.print(f"{out}: {geometry} with random weights")


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help="A recipe.toml with a [train] table.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for the checkpoint; a stopped run goes on.")
    ],
    data: Annotated[
        Path | None,
        typer.Option(envvar="EDGE_DATA_DIR", help="Folder with the data sets' folders."),
    ] = None,
    *,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="A tiny run in seconds, to test the road.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Train the model of a recipe into a checkpoint that `build --checkpoint` takes."""
    console = Console(stderr=True)
    with reported(console):
        if importlib.util.find_spec("torch") is None:
            raise ConfigError("training needs torch and transformers: install the `train` extra")
        from export_tools.train.console import run_in_console

        run_in_console(recipe, data, out, smoke=smoke, device=device, console=console)


@app.command()
def keygen(
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Private key to make; FILE.pub is its public half.")
    ],
) -> None:
    """Make an Ed25519 key pair that signs certificates."""
    from export_tools.certify.command import keygen as make_key

    console = Console(stderr=True)
    with reported(console):
        console.print(f"{out} and {out}.pub: key {make_key(out)[:12]}")


@app.command()
def certify(  # noqa: PLR0917 - options of a command
    bundle: Annotated[Path, typer.Option(help="Bundle directory: classify or generate.")],
    task: Annotated[str, typer.Option(help="Task the certificate is for.")],
    data: Annotated[
        list[Path],
        typer.Option(
            "--data", help='JSON lines of {"text", "intent"}, or {"text", "answer"} for generation.'
        ),
    ],
    key: Annotated[Path, typer.Option(help="Private key, as `keygen` makes it.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Certificate to write.")],
    variant: Annotated[str, typer.Option(help="Variant that will serve.")] = "int8",
    oos: Annotated[
        list[Path] | None, typer.Option("--oos", help="The same, all out of scope; repeatable.")
    ] = None,
    traffic_oos: Annotated[
        float | None,
        typer.Option(min=0, max=0.99, help="Share out of scope [default: the data's own]."),
    ] = None,
    alpha: Annotated[float, typer.Option(help="Largest share of errors among the kept.")] = 0.05,
    delta: Annotated[float, typer.Option(help="Chance that the data mislead.")] = 0.1,
    score: Annotated[
        str | None,
        typer.Option(help="margin (classifiers), top-probability, token-logistic (generation)."),
    ] = None,
    days: Annotated[int, typer.Option(min=1, max=3650, help="Days it is valid.")] = 90,
    reference: Annotated[
        str, typer.Option(help="Whose answers the data are: gold, or a frontier's name.")
    ] = "gold",
) -> None:
    """Calibrate an escalation threshold on the quantised bundle and sign what it promises."""
    from datetime import UTC, datetime

    from export_tools.certify.command import CertifyRequest
    from export_tools.certify.command import certify as certify_bundle
    from export_tools.certify.console import show
    from export_tools.certify.issue import Terms

    console = Console(stderr=True)
    with reported(console):
        request = CertifyRequest(
            bundle=bundle,
            variant=variant,
            task=task,
            data=tuple(data),
            oos=tuple(oos or ()),
            oos_share=traffic_oos,
            score=score,
            terms=Terms(alpha, delta, days),
            key=key,
            out=out,
            reference=reference,
        )
        result = certify_bundle(request, datetime.now(UTC))
    show(result, request, console)
    if result.certificate is None:
        raise typer.Exit(1)


app.command()(distill)
app.command()(rightsize)

if __name__ == "__main__":
    app()

"""The pages on bundles, graphs, the store and `edge-export` say what the code does."""

from __future__ import annotations

import ast
import dataclasses
import re
import tomllib
from pathlib import Path

import pytest
import typer
from pydantic import BaseModel

from edge_runtime.bundle import manifest
from edge_runtime.bundle.escalation import Escalation
from edge_runtime.bundle.pointer import Pointer
from edge_runtime.cli import app as runtime_app
from edge_runtime.config_file import parse_settings
from edge_runtime.engine.decoder import _STEP_INPUTS as STEP_INPUTS
from edge_runtime.engine.encoder import _INPUTS as ENCODER_INPUTS
from export_tools import cli as export_app_module
from export_tools import golden, recipe
from export_tools.cli import app as export_app
from export_tools.decoder.config import ARCHITECTURES
from export_tools.encoder.config import FAMILIES
from export_tools.gate.limits import (
    DECODER_LIMITS,
    ENCODER_LIMITS,
    DecoderLimits,
    Dtype,
    EncoderLimits,
)
from export_tools.quant.variants import VARIANTS
from export_tools.synth import GEOMETRIES

DOCS = Path(__file__).parents[2] / "docs"
PAGES = DOCS / "reference"
SOURCES = [Path(manifest.__file__).parents[1], Path(export_app_module.__file__).parent]
PLACEHOLDER = r"\.\.\.|\b[A-Z]\b|\bNAME\b|'a'|'b'"
CACHE_FORMS = ("past_key_values.N.key", "past_key_values.N.value")
DTYPES: tuple[Dtype, ...] = ("int8", "int4", "fp32")


def section(page: str, heading: str) -> str:
    """What stands below the heading that begins so, down to the next heading."""
    text = (PAGES / f"{page}.md").read_text(encoding="utf-8")
    found = re.search(rf"^(#+) {re.escape(heading)}.*?\n(.*?)(?=^#|\Z)", text, re.M | re.S)
    assert found is not None, f"{page}.md has no section {heading}"
    return found[2]


def rows(text: str) -> list[list[str]]:
    """The cells of every table row, rules left out."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return [row for row in cells if not set("".join(row)) <= set("-| ")]


def first_names(text: str) -> list[str]:
    """Names in backticks in the first cell of each table row."""
    return [name for row in rows(text) for name in re.findall(r"`([^`]+)`", row[0])]


def fields(model: type[BaseModel]) -> set[str]:
    return {info.alias or name for name, info in model.model_fields.items()}


@pytest.mark.parametrize(
    "model",
    [
        manifest.Manifest,
        manifest.Variant,
        manifest.DecoderGraph,
        manifest.EncoderGraph,
        manifest.FileEntry,
        manifest.Tokenizer,
        manifest.ChatTemplate,
        manifest.Source,
        manifest.Sampling,
        manifest.Golden,
        Escalation,
    ],
)
def test_every_field_of_a_manifest_is_described_and_no_other(model: type[BaseModel]) -> None:
    names = first_names(section("bundle", model.__name__))
    assert len(names) == len(set(names))
    assert set(names) == fields(model)


def test_required_sections_of_a_manifest_are_marked() -> None:
    table = rows(section("bundle", "Manifest"))
    marked = {row[0].strip("`") for row in table if row[1] == "required"}
    required = {
        info.alias or name
        for name, info in manifest.Manifest.model_fields.items()
        if info.is_required()
    }
    assert marked == required


def test_the_pointer_of_the_store_is_described() -> None:
    text = section("store", "Pointer")
    assert [name for name in Pointer.model_fields if f"`{name}`" not in text] == []


def test_commands_of_the_store_exist() -> None:
    known = set(typer.main.get_command(runtime_app).commands)  # type: ignore[attr-defined]
    named = {name.split()[1] for name in first_names(section("store", "Commands"))}
    assert named == {"install", "activate", "revert", "models", "clean"}
    assert named <= known


def test_inputs_of_decoder_graphs_are_listed() -> None:
    names = first_names(section("graph", "decoder-packed/1"))
    assert set(names) == {
        *STEP_INPUTS,
        *CACHE_FORMS,
        "logits",
        "present.N.key",
        "present.N.value",
    }


@pytest.mark.parametrize("contract", sorted(ENCODER_INPUTS))
def test_inputs_of_encoder_graphs_are_listed(contract: str) -> None:
    names = set(first_names(section("graph", contract))) - {"output"}
    assert names == set(ENCODER_INPUTS[contract])


@pytest.mark.parametrize("command", ["build", "synth", "train", "keygen", "certify"])
def test_options_of_export_commands_are_listed(command: str) -> None:
    found = typer.main.get_command(export_app).commands[command]  # type: ignore[attr-defined]
    options = {
        name
        for parameter in found.params
        for name in parameter.opts
        if parameter.param_type_name == "option"
    }
    assert set(first_names(section("export", f"`edge-export {command}"))) == options


def test_every_export_command_has_a_section() -> None:
    text = (PAGES / "export.md").read_text(encoding="utf-8")
    commands = typer.main.get_command(export_app).commands  # type: ignore[attr-defined]
    assert set(re.findall(r"^## `edge-export (\w+)", text, re.M)) == set(commands)


def test_variants_are_those_of_the_exporter() -> None:
    assert first_names(section("export", "Variants")) == [
        name for name in ("int8", "int8-7bit", "int8-blocks", "int4", "fp32") if name in VARIANTS
    ]
    assert len(VARIANTS) == 5


def test_architectures_and_geometries_are_those_of_the_exporter() -> None:
    text = section("export", "Architectures")
    assert [name for name in (*ARCHITECTURES, *FAMILIES) if f"`{name}`" not in text] == []
    synth = section("export", "`edge-export synth")
    assert [name for name in GEOMETRIES if f"`{name}`" not in synth] == []


def limits_on_the_page() -> dict[str, list[float]]:
    table = [row for row in rows(section("export", "Gate")) if row[0] != "figure"]
    return {row[0].strip("`"): [float(cell) for cell in row[1:4]] for row in table}


def test_limits_of_the_gate_are_those_of_the_code() -> None:
    page = limits_on_the_page()
    every: list[dict[Dtype, DecoderLimits] | dict[Dtype, EncoderLimits]]
    every = [DECODER_LIMITS, ENCODER_LIMITS]
    code = {
        item.name: [getattr(limits[dtype], item.name) for dtype in DTYPES]
        for limits in every
        for item in dataclasses.fields(limits["int8"])
    }
    assert page == code


def test_keys_of_a_recipe_are_listed() -> None:
    tables = first_names(section("export", "Recipe"))
    models = (recipe.Recipe, recipe.PypiSource, recipe.TrainedSource, golden.GoldenInput)
    assert set(tables) == set().union(*(fields(model) for model in models))


def literals() -> list[str]:
    """Every piece of text in the sources, with the variables of messages cut out."""
    return [
        node.value
        for folder in SOURCES
        for path in folder.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]


def test_messages_in_troubleshooting_are_those_of_the_code() -> None:
    text = (DOCS / "howto" / "troubleshooting.md").read_text(encoding="utf-8")
    messages = [name for name in first_names(text) if " " in name]
    assert len(messages) > 30
    known = literals()
    unknown = [
        message
        for message in messages
        for piece in re.split(PLACEHOLDER, message)
        if len(piece) > 2 and not any(piece.strip(" `") in literal for literal in known)
    ]
    assert unknown == []


def test_settings_of_the_service_are_valid() -> None:
    text = (DOCS / "howto" / "run-as-a-service.md").read_text(encoding="utf-8")
    example = re.search(r"```toml\n(.*?)```", text, re.S)
    assert example is not None
    settings = parse_settings(tomllib.loads(example[1]))
    unit = re.search(r"^TimeoutStopSec=(\d+)$", text, re.M)
    assert unit is not None
    assert int(unit[1]) > settings.server.drain_timeout_s


def test_the_recipe_of_the_export_guide_is_valid() -> None:
    text = (DOCS / "howto" / "export-your-model.md").read_text(encoding="utf-8")
    example = re.search(r"```toml\n(.*?)```", text, re.S)
    assert example is not None
    parsed = recipe.Recipe.model_validate(tomllib.loads(example[1]))
    assert parsed.needs_training
    assert set(parsed.gate) <= {item.name for item in dataclasses.fields(EncoderLimits)}

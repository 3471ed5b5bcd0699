"""The reference pages say what the code does: settings, routes, fields, metrics, error codes."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

import edge_runtime
from edge_runtime.config_file import parse_settings
from edge_runtime.reference import TABLES, refresh, routes_table, settings_table
from edge_runtime.server.chat import ChatBody
from edge_runtime.server.classify import ClassifyBody
from edge_runtime.server.completions import CompletionBody
from edge_runtime.server.embeddings import EmbeddingBody
from edge_runtime.server.replies import CODES
from edge_runtime.server.tokens import DetokenizeBody, TokenizeBody

PAGES = Path(__file__).parents[2] / "docs" / "reference"
SOURCES = Path(edge_runtime.__file__).parent


@pytest.mark.parametrize("name", ["settings", "metrics", "errors", "http"])
def test_tables_are_up_to_date(name: str) -> None:
    text = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    assert refresh(text) == text, "run: python -m edge_runtime.reference docs/reference"


def test_every_table_is_on_a_page() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES.glob("*.md"))
    for name in TABLES:
        assert f"<!-- table {name} -->" in text


def test_a_stale_table_is_noticed() -> None:
    page = f"<!-- table routes -->\n{routes_table()}<!-- end routes -->"
    assert refresh(page) == page
    assert refresh(page.replace("POST", "PUT")) == page


@pytest.mark.parametrize(
    "shape",
    [ChatBody, CompletionBody, EmbeddingBody, ClassifyBody, TokenizeBody, DetokenizeBody],
)
def test_every_field_is_described(shape: type) -> None:
    text = (PAGES / "http.md").read_text(encoding="utf-8")
    missing = [name for name in shape.model_fields if f"`{name}`" not in text]  # type: ignore[attr-defined]
    assert missing == []


def test_every_setting_has_a_meaning() -> None:
    rows = [line.strip("| \n").split(" | ") for line in settings_table().splitlines()[2:]]
    assert len(rows) > 30
    assert [row[0] for row in rows if not row[-1].strip().endswith(".")] == []


def test_the_example_settings_are_valid() -> None:
    text = (PAGES / "settings.md").read_text(encoding="utf-8")
    example = re.search(r"```toml\n(.*?)```", text, re.DOTALL)
    assert example is not None
    settings = parse_settings(tomllib.loads(example[1]))
    assert settings.models.options["assistant"].slots == 4


def test_every_code_that_is_raised_is_listed() -> None:
    raised: dict[str, str] = {}
    for path in SOURCES.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
                continue
            if node.func.id in {"UsageError", "envelope"}:
                for keyword in node.keywords:
                    if keyword.arg == "code" and isinstance(keyword.value, ast.Constant):
                        raised[str(keyword.value.value)] = path.name
    assert raised
    assert set(raised) - set(CODES) == set()

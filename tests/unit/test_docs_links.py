"""What the documents point at exists: files, make targets, commands."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import typer

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("models/**/*.md")])

PROGRAMS = {
    "edge-runtime": "edge_runtime.cli",
    "edge-export": "export_tools.cli",
    "edge-fleet": "fleet.cli",
}


def prose(page: Path) -> str:
    return page.read_text("utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    local = [link.split("#")[0] for link in links if not re.match(r"[a-z]+:|#", link)]
    missing = [link for link in local if not (page.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_make_targets_in_the_text_exist(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([a-z][a-z0-9-]*):", makefile, flags=re.MULTILINE))
    named = set(re.findall(r"(?:`|^)make ([a-z][a-z0-9-]*)", prose(page), flags=re.MULTILINE))
    assert "run" in targets
    assert named <= targets


def commands_of(program: str) -> set[str]:
    """Return the subcommands of `program`, groups and what is in them, such as `config check`."""
    module = importlib.import_module(PROGRAMS[program])
    found: set[str] = set()
    waiting: list[tuple[str, Any]] = [("", typer.main.get_command(module.app))]
    while waiting:
        name, command = waiting.pop()
        children = getattr(command, "commands", None)
        found.add(name)
        if children is not None:
            waiting += [(f"{name} {child}".strip(), inner) for child, inner in children.items()]
    return found


@pytest.mark.parametrize("program", PROGRAMS)
def test_commands_in_the_text_exist(program: str) -> None:
    known = commands_of(program)
    groups = {words.split()[0] for words in known if " " in words}
    leaves = known - groups
    written = {
        (str(page.relative_to(ROOT)), match[1])
        for page in PAGES
        for match in re.finditer(
            rf"(?:`|/|^){program} ([a-z][a-z-]*(?: [a-z][a-z-]*)?)", prose(page), re.MULTILINE
        )
    }
    unknown = {
        (page, words)
        for page, words in written
        if words not in known and words.split()[0] not in leaves
    }
    assert known
    assert not unknown


def test_there_are_pages_to_check() -> None:
    names = {str(page.relative_to(ROOT)) for page in PAGES}
    assert {"README.md", "docs/glossary.md", "docs/development.md"} <= names

"""Which part may import what. One table of rules, held against every import in the source tree.

Imports inside functions and under `TYPE_CHECKING` count as well: a border is about what a part
may know, not about when it loads.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("edge_runtime", "export_tools", "fleet")

CLOCKS_AND_IO = (
    "aiohttp", "asyncio", "concurrent", "datetime", "http", "io", "logging", "multiprocessing",
    "onnxruntime", "os", "pathlib", "queue", "random", "secrets", "select", "selectors", "shutil",
    "signal", "socket", "sqlite3", "ssl", "structlog", "subprocess", "tempfile", "threading",
    "time", "urllib", "uuid",
)  # fmt: skip


@dataclass(frozen=True)
class Reserved:
    """`modules` may be imported only by the parts that `allowed` matches."""

    modules: tuple[str, ...]
    allowed: str
    reason: str


@dataclass(frozen=True)
class Barred:
    """The parts that `parts` matches may not import `modules`, save those in `but`."""

    parts: str
    modules: tuple[str, ...]
    reason: str
    but: tuple[str, ...] = ()


RULES: tuple[Reserved | Barred, ...] = (
    Reserved(
        ("onnxruntime",),
        r"edge_runtime\.engine(\..*)?",
        "the engine owns the runtime; others go through edge_runtime.engine.offline",
    ),
    Reserved(
        ("torch", "transformers", "optimum", "peft", "accelerate"),
        r"export_tools(\..*)?",
        "a box has no torch",
    ),
    Reserved(
        ("aiohttp.web", "aiohttp.web_exceptions", "aiohttp.web_response", "aiohttp.web_request"),
        r"edge_runtime\.server(\..*)?|fleet\.(\w+\.)*api(\..*)?",
        "only servers answer HTTP",
    ),
    Reserved(
        ("aiomqtt", "paho"),
        r"edge_runtime\.agent\.transport|fleet\.transport|fleet\.simulator\.mqtt",
        "one module a side speaks MQTT, and one for simulated boxes",
    ),
    Barred(
        r"edge_runtime(\..*)?",
        ("export_tools", "fleet"),
        "the daemon runs without its tools and without a control host",
    ),
    Barred(r"export_tools(\..*)?", ("fleet",), "exporting needs no control host"),
    Barred(r"fleet(\..*)?", ("export_tools",), "the control host exports nothing itself"),
    Barred(
        r"(export_tools|fleet)(\..*)?",
        ("edge_runtime",),
        "tools share the daemon's contracts, not its insides",
        but=(
            "edge_runtime",
            "edge_runtime.agent.clock",
            "edge_runtime.agent.decide",
            "edge_runtime.agent.protocol",
            "edge_runtime.bundle",
            "edge_runtime.config_loader",
            "edge_runtime.config_section",
            "edge_runtime.core",
            "edge_runtime.engine.offline",
            "edge_runtime.errors",
            # Distilling reads captured answers by the code that read them when they came.
            "edge_runtime.router.escalate",
            "edge_runtime.router.frontier.redact",
            "edge_runtime.router.schemas",
            "edge_runtime.stats",
        ),
    ),
    Barred(
        r"edge_runtime\.(core|errors|scheduler(\..*)?|stats(\..*)?|agent\.(decide|protocol)(\..*)?"
        r"|router\.frontier\.(breaker|events|ordering|redact|retry|tokens|trim|verdict))",
        CLOCKS_AND_IO,
        "deciders are pure: values in, a plan out",
    ),
    Barred(
        r"fleet\.rollout\.(evidence|guards|inventory|machine|pairs|plan|planner|progress|signals"
        r"|states|verdicts|wants|waves)",
        (*CLOCKS_AND_IO, "sqlalchemy", "fleet.db"),
        "a rollout is decided purely; its engine and its store do the rest",
    ),
    Barred(
        r"edge_runtime\.scheduler(\..*)?",
        ("edge_runtime.engine", "edge_runtime.server", "edge_runtime.bundle"),
        "the scheduler knows sequences, not models or HTTP",
    ),
    Barred(
        r"edge_runtime\.(engine|bundle|core|errors|stats)(\..*)?",
        ("edge_runtime.server", "edge_runtime.cli"),
        "inner parts do not know who calls them",
    ),
)


@dataclass(frozen=True)
class Import:
    """`importer` names `imported` on `line`; both are full dotted names."""

    importer: str
    imported: str
    line: int


def within(name: str, modules: tuple[str, ...]) -> bool:
    """True when dotted `name` is one of `modules` or lies inside one."""
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def broken_by(item: Import, rule: Reserved | Barred) -> bool:
    if isinstance(rule, Reserved):
        return within(item.imported, rule.modules) and not re.fullmatch(rule.allowed, item.importer)
    if not re.fullmatch(rule.parts, item.importer) or not within(item.imported, rule.modules):
        return False
    # The root package itself is allowed by name only, or it would allow all that lies inside.
    roots = tuple(module for module in rule.but if "." not in module)
    inner = tuple(module for module in rule.but if "." in module)
    return item.imported not in roots and not within(item.imported, inner)


def module_name(path: Path, root: Path) -> str:
    parts = list(path.relative_to(root).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(
    source: str, importer: str, *, is_package: bool, known: set[str]
) -> Iterator[Import]:
    """Yield every import in `source`; `from a import b` names `a.b` where that is a module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(importer, alias.name, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                anchor = importer.split(".")
                anchor = anchor[: len(anchor) - node.level + (1 if is_package else 0)]
                base = ".".join([*anchor, base] if base else anchor)
            for alias in node.names:
                full = f"{base}.{alias.name}"
                # Of foreign packages the name is kept: `from aiohttp import web` is aiohttp.web.
                foreign = base.split(".")[0] not in PACKAGES
                yield Import(importer, full if foreign or full in known else base, node.lineno)
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute | ast.Name)
            and (node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id)
            in ("import_module", "__import__")
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            yield Import(importer, str(node.args[0].value), node.lineno)


@pytest.fixture(scope="module")
def imports() -> list[Import]:
    paths = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    known = {module_name(path, ROOT) for path in paths}
    found: list[Import] = []
    for path in paths:
        name, package = module_name(path, ROOT), path.name == "__init__.py"
        found += imports_of(path.read_text("utf-8"), name, is_package=package, known=known)
    return found


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.reason)
def test_every_import_keeps_the_border(rule: Reserved | Barred, imports: list[Import]) -> None:
    assert len(imports) > 100  # an empty tree keeps every border
    broken = [
        f"{item.importer}:{item.line} imports {item.imported}"
        for item in imports
        if broken_by(item, rule)
    ]
    assert not broken, f"{rule.reason}:\n" + "\n".join(broken)


@pytest.mark.parametrize(
    ("importer", "source"),
    [
        ("edge_runtime.server.app", "def f():\n    import onnxruntime as ort"),
        ("export_tools.gate", "from onnxruntime import InferenceSession"),
        ("edge_runtime.engine.decoder", "import torch.nn"),
        ("edge_runtime.agent.link", "from aiohttp import web"),
        ("edge_runtime.agent.link", "from aiohttp.web import Application"),
        ("edge_runtime.agent.link", "import aiomqtt"),
        ("edge_runtime.scheduler.planner", "from time import monotonic"),
        ("edge_runtime.scheduler.planner", "import importlib\nimportlib.import_module('random')"),
        ("export_tools.gate", "from edge_runtime.engine.session import open_session"),
        ("export_tools.gate", "from edge_runtime.engine import session"),
        ("fleet.registry", "import edge_runtime.config"),
        ("edge_runtime.server.app", "import export_tools"),
        ("edge_runtime.engine.loop", "from ..server import app"),
    ],
)
def test_a_crossing_is_noticed(importer: str, source: str) -> None:
    known = {"edge_runtime.engine.session", "edge_runtime.server.app"}
    found = list(imports_of(source, importer, is_package=False, known=known))
    assert any(broken_by(item, rule) for item in found for rule in RULES)


@pytest.mark.parametrize(
    ("importer", "source"),
    [
        ("edge_runtime.engine.session", "import onnxruntime as ort"),
        ("edge_runtime.server.app", "from aiohttp import web"),
        ("edge_runtime.agent.blobs", "from aiohttp import ClientSession"),
        ("export_tools.gate", "from edge_runtime.engine.offline import open_bundle"),
        ("export_tools.gate", "from edge_runtime import __version__"),
        ("fleet.registry", "from edge_runtime.bundle.manifest import Manifest"),
        ("fleet.rollout.api.routes", "from aiohttp import web"),
    ],
)
def test_a_way_that_is_open_stays_open(importer: str, source: str) -> None:
    found = list(imports_of(source, importer, is_package=False, known=set()))
    assert found
    assert not [item for item in found for rule in RULES if broken_by(item, rule)]

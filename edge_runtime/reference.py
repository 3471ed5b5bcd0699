"""Write the tables of docs/reference from the code they describe.

`python -m edge_runtime.reference docs/reference` rewrites what stands between the markers
`<!-- table NAME -->` and `<!-- end NAME -->`; a test fails when a page is out of date.
"""

from __future__ import annotations

import enum
import json
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable
from decimal import Decimal
from pathlib import Path

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from edge_runtime.config import Settings
from edge_runtime.config_file import ENV_PREFIX
from edge_runtime.metric_specs import SPECS
from edge_runtime.server.app import routes
from edge_runtime.server.body import INERT, NOT_SERVED
from edge_runtime.server.replies import CODES, error_type

_MARKED = re.compile(r"(<!-- table (\w+) -->\n).*?(<!-- end \2 -->)", re.DOTALL)


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table; cells must hold no newline."""
    names = list(head)
    lines = [names, ["---"] * len(names), *[[str(cell) for cell in row] for row in rows]]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def settings_table() -> str:
    """Every key of every section, with type, default, bounds and variable."""
    rows: list[tuple[str, ...]] = []
    for section, info in Settings.model_fields.items():
        for path, model in _tables(section, info.annotation):
            rows += _section_rows(path, model)
    return table(("key", "type", "default", "bounds", "meaning"), rows)


def _tables(path: str, annotation: object) -> Iterable[tuple[str, type[BaseModel]]]:
    """The table an annotation stands for, or the type of each of its named tables."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield path, annotation
    for argument in typing.get_args(annotation):
        if isinstance(argument, type) and issubclass(argument, BaseModel):
            yield f"{path}.NAME", argument


def _section_rows(path: str, model: type[BaseModel]) -> Iterable[tuple[str, ...]]:
    for key, info in model.model_fields.items():
        place = f"{path}.{key}"
        tables = list(_tables(place, info.annotation))
        if not (tables and tables[0][0] == place):
            default = "" if key == "path" else _default(info)
            kind = _type_name(info.annotation)
            yield (f"`{place}`", kind, default, _bounds(info), _meaning(info))
        for inner, table_of in tables:
            yield from _section_rows(inner, table_of)


def _type_name(annotation: object) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return " or ".join(f'`"{value}"`' for value in arguments)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_type_name(one) for one in arguments if one is not type(None))
    if origin is list:
        return f"list of {_type_name(arguments[0])}"
    if origin is dict:
        return "table"
    if origin is typing.Annotated:
        return _type_name(arguments[0])
    names = {
        bool: "boolean",
        int: "integer",
        float: "number",
        str: "string",
        Path: "path",
        Decimal: "money",
    }
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return " or ".join(f'`"{one.value}"`' for one in annotation)
    return names.get(typing.cast("type", annotation), "table")


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    value = info.get_default(call_default_factory=True, validated_data={})
    if value is None:
        return ""
    shown = {True: "true", False: "false"}.get(value, value) if isinstance(value, bool) else value
    return f"`{shown}`" if shown not in ("", [], {}) else "empty"


def _bounds(info: FieldInfo) -> str:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<", "max_length": "entries ≤"}
    found = []
    kind = str(info.annotation)
    for constraint in info.metadata:
        for name, sign in signs.items():
            bound = getattr(constraint, name, None)
            if bound is not None:
                shown = (
                    "length ≤"
                    if name == "max_length" and kind in ("<class 'str'>", "str | None")
                    else sign
                )
                found.append(f"{shown} {bound}")
    return ", ".join(found)


def _meaning(info: FieldInfo) -> str:
    return (info.description or "").replace("|", "\\|")


def variable_of(key: str) -> str:
    """The environment variable of a key such as `server.port`."""
    return ENV_PREFIX + key.replace(".", "__").upper()


def metrics_table() -> str:
    """Every metric."""
    rows = (
        (f"`{spec.name}`", spec.unit, str(spec.kind), _code(spec.labels), spec.meaning)
        for spec in SPECS
    )
    return table(("name", "unit", "kind", "labels", "meaning"), rows)


def routes_table() -> str:
    """Every route."""
    rows = (
        (route.method, f"`{route.path}`", (route.handler.__doc__ or "").splitlines()[0])
        for route in routes()
    )
    return table(("method", "path", "what"), rows)


def errors_table() -> str:
    """Every error code."""
    rows = (
        (f"`{code}`", str(status), f"`{error_type(status)}`", meaning)
        for code, (status, meaning) in CODES.items()
    )
    return table(("code", "status", "type", "when"), rows)


def inert_list() -> str:
    """Fields that are accepted and ignored."""
    return _code(sorted(INERT)) + "\n"


def not_served_table() -> str:
    """Fields that are refused unless they ask for nothing."""
    rows = (
        (f"`{name}`", _code(json.dumps(value) for value in (None, *neutral)))
        for name, neutral in sorted(NOT_SERVED.items())
    )
    return table(("field", "accepted as"), rows)


def _code(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


TABLES: dict[str, Callable[[], str]] = {
    "settings": settings_table,
    "metrics": metrics_table,
    "routes": routes_table,
    "errors": errors_table,
    "inert": inert_list,
    "not_served": not_served_table,
}


def refresh(text: str) -> str:
    """The page with its tables written anew. Raises `KeyError` for a table that is unknown."""
    return _MARKED.sub(lambda found: f"{found[1]}{TABLES[found[2]]()}{found[3]}", text)


def main(directory: Path) -> None:
    """Rewrite every page of `directory` that is out of date."""
    for page in sorted(directory.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        fresh = refresh(text)
        if fresh != text:
            page.write_text(fresh, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

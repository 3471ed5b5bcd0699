"""Read any program's settings: one TOML file, then environment variables.

Rules
- An unknown key, a value out of range or an unreadable file stops the start with a
  `ConfigError` that names the key and, for a typo, the key that was probably meant.
- Environment variables win over the file: with the prefix `EDGE_`, `EDGE_SERVER__PORT=9000` sets
  `port` of `[server]`. Lists may be written with commas or as JSON, tables as JSON.

Example:
    settings = SettingsLoader(Settings, "EDGE_").load(Path("edge.toml"), os.environ)
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError

from edge_runtime.errors import ConfigError

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class SettingsLoader(Generic[M]):
    """Reads settings of one model. `prefix` starts its variables, `page` documents its keys."""

    model: type[M]
    prefix: str
    page: str = "docs/reference/settings.md"

    def load(self, path: Path | None, environ: Mapping[str, str]) -> M:
        """Read, merge and check. `path` None means no file.

        Raises `ConfigError` naming every wrong key, not only the first.
        """
        data: dict[str, Any] = {} if path is None else _read(path)
        for keys, text in self._variables(environ):
            self._put(data, keys, text)
        return self.parse(data)

    def parse(self, data: Mapping[str, Any]) -> M:
        """Check settings that were read already. Raises `ConfigError`."""
        try:
            return self.model.model_validate(data)
        except ValidationError as error:
            problems = "; ".join(self._explain(dict(item)) for item in error.errors())
            raise ConfigError(problems) from error

    def _variables(self, environ: Mapping[str, str]) -> list[tuple[tuple[str, ...], str]]:
        """The variables that are settings: those with a section, `EDGE_<SECTION>__<KEY>`."""
        found = []
        for name, text in sorted(environ.items()):
            if name.startswith(self.prefix) and "__" in name:
                keys = tuple(name.removeprefix(self.prefix).lower().split("__"))
                found.append((keys, text))
            else:
                self._refuse_near_miss(name)
        return found

    def _refuse_near_miss(self, name: str) -> None:
        """`EDGE_SERVER_PORT` would be ignored without a word; say how it is written."""
        for section in self.model.model_fields:
            start = f"{self.prefix}{section.upper()}_"
            if name.startswith(start):
                raise ConfigError(
                    f"{name}: not a setting; did you mean {start}_{name.removeprefix(start)}?"
                )

    def _put(self, data: dict[str, Any], keys: tuple[str, ...], text: str) -> None:
        variable = self.prefix + "__".join(keys).upper()
        table = data
        for key in keys[:-1]:
            inner = table.setdefault(key, {})
            if not isinstance(inner, dict):
                raise ConfigError(f"{variable}: {key} is not a table")
            table = inner
        table[keys[-1]] = self._value(keys, text, variable)

    def _value(self, keys: tuple[str, ...], text: str, variable: str) -> object:
        """The text of a variable in the type its key has; pydantic reads numbers and booleans."""
        origin = self._origin_of(keys)
        if origin is list and not text.lstrip().startswith("["):
            return [part.strip() for part in text.split(",") if part.strip()]
        if origin in (list, dict):
            try:
                return json.loads(text)
            except ValueError as error:
                raise ConfigError(f"{variable}: not valid JSON: {error}") from error
        return text

    def _origin_of(self, keys: tuple[str, ...]) -> object:
        annotation: object = self.model
        for key in keys:
            if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
                return None
            field = annotation.model_fields.get(key)
            if field is None:
                return None
            annotation = field.annotation
        return get_origin(annotation)

    def _explain(self, item: dict[str, Any]) -> str:
        location = tuple(item["loc"])
        key = ".".join(str(part) for part in location) or "settings"
        if item["type"] == "extra_forbidden":
            near = difflib.get_close_matches(
                str(location[-1]), self._known_keys(location[:-1]), n=1
            )
            hint = f"; did you mean {near[0]}?" if near else f"; see {self.page}"
            return f"{key}: unknown key{hint}"
        message = str(item["msg"]).removeprefix("Value error, ")
        return f"{key}: {message}"

    def _known_keys(self, location: tuple[object, ...]) -> list[str]:
        model: type[BaseModel] = self.model
        for part in location:
            field = model.model_fields.get(str(part))
            if field is None:
                continue  # a name inside `options`: its keys are those of the table's type
            candidates = [field.annotation, *get_args(field.annotation)]
            for candidate in candidates:
                if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                    model = candidate
        return list(model.model_fields)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; give --config a readable file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error


def settings_toml(settings: BaseModel) -> str:
    """Every setting as TOML; `SettingsLoader.load` reads it back to the same settings."""
    return toml_text(settings.model_dump(mode="json", exclude_none=True))


def toml_text(data: Mapping[str, Any]) -> str:
    """A document of tables, texts, numbers, booleans and lists as TOML.

    Raises `ValueError` for what TOML has not, such as null.
    """
    lines: list[str] = []
    _write_table(lines, "", data)
    return "\n".join(lines) + "\n"


def _write_table(lines: list[str], path: str, values: Mapping[str, Any]) -> None:
    plain = {key: value for key, value in values.items() if not isinstance(value, Mapping)}
    if plain or not values:
        head = [f"[{path}]"] if path else []
        lines += ([""] if lines else []) + head
        lines += [f"{_toml_key(key)} = {_toml_value(value)}" for key, value in plain.items()]
    for key, value in values.items():
        if isinstance(value, Mapping):
            _write_table(lines, f"{path}.{_toml_key(key)}" if path else _toml_key(key), value)


def _toml_value(value: object) -> str:
    if isinstance(value, Mapping):
        pairs = (f"{_toml_key(str(key))} = {_toml_value(one)}" for key, one in value.items())
        return "{ " + ", ".join(pairs) + " }" if value else "{}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml_value, value)) + "]"
    if not isinstance(value, str | int | float):
        raise ValueError(f"{value!r} has no form in TOML")  # noqa: TRY004  # of a document's content
    # JSON's texts, numbers and booleans are TOML's too, but for this one character.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")


def _toml_key(key: str) -> str:
    bare = key.isascii() and key.replace("_", "").replace("-", "").isalnum()
    return key if bare else _toml_value(key)

"""One expression language for groups, targets, guards and alerts: CEL, checked before it is stored.

Rules
- An expression is compiled against the names it may use and their types. A name that is not
  declared, types that do not fit and a syntax error are refused with line and column, when the
  expression is filed and not when it is first needed.
- Evaluation has no side effects and ends: CEL has no loops but bounded ones, the interpreter's
  budget of steps is fixed, and regular expressions are RE2's, linear in their input.
- A value that is not there (or not a number: NaN, infinity) makes the answer unknown, unless the
  rest decides it alone: `a || b` holds where `a` holds. `evaluate` raises `UnknownValueError`
  then; `holds` takes it for no.

CEL never mixes whole numbers and fractions: write `escalation_rate > 0.0`, not `> 0`. A label that
a box may lack is asked for first: `has(labels.site) && labels.site == "berlin"`.

Example::

    names = {"labels": dict, "ram_bytes": int}
    group = compile_expression('labels.site == "berlin" && ram_bytes > 4000000000', names)
    group.holds({"labels": {"site": "berlin"}, "ram_bytes": 8_000_000_000})  # True
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final

from cel_expr_python import cel

from edge_runtime.errors import UsageError

MAX_TEXT_CHARS: Final = 1024

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")
_STRING = re.compile(r"""[rRbB]{0,2}("(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')""")
_FIRST_ERROR = re.compile(r"ERROR: <input>:(\d+):(\d+): (.*)")

_TYPES: Final[Mapping[type, Any]] = MappingProxyType(
    {
        bool: cel.Type.BOOL,
        int: cel.Type.INT,
        float: cel.Type.DOUBLE,
        str: cel.Type.STRING,
        dict: cel.Type.Map(cel.Type.STRING, cel.Type.STRING),
        list: cel.Type.List(cel.Type.STRING),
    }
)


class ExpressionError(UsageError):
    """The expression is refused as written; `line` and `column` (from 1) say where."""

    def __init__(self, reason: str, *, line: int = 1, column: int = 1) -> None:
        super().__init__(
            f"expression, line {line}, column {column}: {reason}",
            param="expression",
            code="invalid_expression",
        )
        self.reason = reason
        self.line = line
        self.column = column


class UnknownValueError(UsageError):
    """The expression is well formed but these values do not decide it."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"expression has no answer: {reason}", code="unknown_value")


@dataclass(frozen=True)
class Expression:
    """A checked expression. Evaluating it costs about 15 microseconds."""

    text: str
    names: frozenset[str]
    """Those of the declared names that the text mentions."""
    result: type
    _types: Mapping[str, type] = field(repr=False, compare=False)
    _program: Any = field(repr=False, compare=False)

    def evaluate(self, values: Mapping[str, Any]) -> Any:
        """The answer for `values`, of type `result`.

        Names that the expression does not mention may be missing or be more than were declared.
        Raises `UnknownValueError` when a value it depends on is missing, None or not finite, when
        a map lacks the key, or when the arithmetic fails.
        """
        known = {
            name: value
            for name in self.names
            if (value := _known(values.get(name), self._types[name])) is not None
        }
        try:
            answer = self._program.eval(data=known)
        except RuntimeError as error:  # the budget of steps
            raise UnknownValueError(str(error)) from error
        if answer.type() != _TYPES[self.result]:
            raise UnknownValueError(str(answer.value()))
        return answer.plain_value()

    def holds(self, values: Mapping[str, Any]) -> bool:
        """True when the answer is true; false or unknown is False."""
        try:
            return self.evaluate(values) is True
        except UnknownValueError:
            return False


def compile_expression(text: str, names: Mapping[str, type], *, returns: type = bool) -> Expression:
    """Check `text` against the declared `names` and their types.

    Types are `bool`, `int`, `float`, `str`, `dict` (text to text) and `list` (of text); a name may
    have dots (`canary.crash_rate`). `returns` is the type the answer must have. Raises
    `ExpressionError`. Compiling costs some 100 microseconds; equal calls share one program.
    """
    if not text.strip():
        raise ExpressionError("is empty; write true to mean every box")
    if len(text) > MAX_TEXT_CHARS:
        raise ExpressionError(
            f"is longer than {MAX_TEXT_CHARS} characters; name groups and combine them"
        )
    program = _compile(text, tuple(sorted(names.items(), key=lambda item: item[0])))
    if program.return_type() != _TYPES[returns]:
        raise ExpressionError(
            f"gives {program.return_type().name().lower()}, not {returns.__name__}"
        )
    return Expression(text, _mentioned(text, names), returns, dict(names), program)


@lru_cache(maxsize=1024)
def _compile(text: str, names: tuple[tuple[str, type], ...]) -> Any:
    try:
        return _environment(names).compile(text)
    except RuntimeError as error:
        raise _refusal(str(error), names) from error


@lru_cache(maxsize=64)
def _environment(names: tuple[tuple[str, type], ...]) -> Any:
    for name, kind in names:
        if kind not in _TYPES:
            raise TypeError(f"{name}: {kind!r} is no type of an expression's name")
    return cel.NewEnv(variables={name: _TYPES[kind] for name, kind in names})


def _refusal(message: str, names: tuple[tuple[str, type], ...]) -> ExpressionError:
    found = _FIRST_ERROR.search(message)
    if found is None:
        return ExpressionError(message.splitlines()[0].removesuffix("]").rsplit(" [", 1)[0])
    line, column, reason = int(found[1]), int(found[2]), found[3].removesuffix(" (in container '')")
    reason = reason.removesuffix(" [INVALID_ARGUMENT]")
    if reason.startswith("undeclared reference"):
        column -= _from_its_start(reason)
        known = ", ".join(name for name, _ in names)
        reason = f"{reason}; known here: {known or 'no names'}"
    elif "double" in reason and "int" in reason:
        reason = f"{reason}; write fractions with a point (2.0) or convert with double()"
    return ExpressionError(reason, line=line, column=column)


def _from_its_start(reason: str) -> int:
    """How far the place of an unknown name lies behind its start: CEL names the last dot."""
    name = reason.split("'")[1]
    return len(name.rpartition(".")[0])


def _mentioned(text: str, names: Mapping[str, type]) -> frozenset[str]:
    """The declared names in `text`; a name inside a string is none."""
    found: set[str] = set()
    for match in _NAME.finditer(_STRING.sub('""', text)):
        parts = match[0].split(".")
        found.update(
            name for end in range(1, len(parts) + 1) if (name := ".".join(parts[:end])) in names
        )
    return frozenset(found)


def _known(value: Any, kind: type) -> Any:
    """`value` as the declared type, or None where it is none (then the name is not bound)."""
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value) if math.isfinite(value) else None
    if kind is int and isinstance(value, bool):
        return None
    return value if isinstance(value, kind) else None

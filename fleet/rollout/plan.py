"""The plan of a rollout: what a person files, checked as a whole before anything is stored.

Rules
- What cannot be parsed is refused when it is filed: an unknown key, a share that does not rise,
  an expression that names an unknown metric. The message names the key, and for expressions line
  and column.
- Times of the plan are hours, where a person thinks in hours; everything inside is seconds.
- A plan never changes. A new idea is a new rollout.

Example::

    name = "assistant 2"

    [change]
    kind = "bundle"
    name = "assistant"
    digest = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"

    [target]
    boxes = 'has(labels.site) && labels.site == "berlin"'

    [guards.quality.escalation_rate]
    tolerance = 0.03
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from edge_runtime.agent.protocol import ItemKind, ProbationRules, Window
from edge_runtime.bundle.manifest import Name, Sha256
from edge_runtime.errors import UsageError
from fleet.expr import ExpressionError, compile_expression
from fleet.rollout.signals import EVENT_NAMES, FIGURE_NAMES, QUALITY_DEFAULTS

HOUR_S: Final = 3600.0
MAX_PLAN_BYTES: Final = 64 * 1024
MAX_GUARDS: Final = 16

SAFETY_EVENT: Final = "crashed || refused || reverted || stuck || unreachable"

Hours = Annotated[float, Field(ge=0, le=24 * 365)]
Share = Annotated[float, Field(gt=0, le=1)]
Level = Annotated[float, Field(gt=0, lt=0.5)]


class PlanError(UsageError):
    """The plan is refused; `param` names the key."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Change(_Part):
    """What is rolled out. `digest`: of the bundle, or sha256 of the settings or daemon release.

    A plan may name it as `name@version` instead: the digest is looked up when the plan is filed,
    and stored with it. `release` and `release_floor` are those that were published; 0 asks for
    them to be looked up.
    """

    kind: ItemKind = ItemKind.BUNDLE
    name: Name
    version: Annotated[str, Field(pattern=r"^[\x21-\x7e]{0,64}$")] = ""
    digest: Sha256 | Literal[""] = ""
    release: int = Field(default=0, ge=0)
    release_floor: int = Field(default=0, ge=0)
    delta_fallback: Literal["full", "fail", "wait"] = "full"

    @model_validator(mode="before")
    @classmethod
    def _name_at_version(cls, given: Any) -> Any:
        """`name = "assistant@2.0.0"` is `name` and `version`."""
        if not isinstance(given, Mapping) or "@" not in str(given.get("name", "")):
            return given
        name, _, version = str(given["name"]).partition("@")
        if given.get("version", version) != version:
            raise ValueError(f"name says version {version}, version {given['version']}")
        return {**given, "name": name, "version": version}

    @model_validator(mode="after")
    def _is_named(self) -> Self:
        if not self.digest and not self.version:
            raise ValueError('name a version (name = "assistant@2.0.0") or a digest')
        return self

    @model_validator(mode="after")
    def _not_below_its_floor(self) -> Self:
        if 0 < self.release < self.release_floor:
            raise ValueError(f"release {self.release} lies below its floor {self.release_floor}")
        return self


class Target(_Part):
    """Which boxes; `boxes` is an expression over the registry's names, `true` for all."""

    boxes: str = "true"


class Waves(_Part):
    """How far each wave reaches, as shares of all boxes that take part.

    `least_boxes` lifts small waves. `hold_back` stays on the old one until `hold_back_hours`
    after completion. A wave is settled when `settled_share` of its boxes ended, or after
    `deadline_hours`; its gate needs `confirmed_share` of its boxes confirmed, so silent ones
    count.
    """

    shares: tuple[Share, ...] = Field(default=(0.01, 0.10, 0.50, 1.0), min_length=1, max_length=20)
    least_boxes: int = Field(default=20, ge=1, le=10_000)
    hold_back: float = Field(default=0.02, ge=0, le=0.5)
    hold_back_hours: Hours = 168.0
    settled_share: Share = 0.9
    confirmed_share: Share = 0.8
    deadline_hours: Hours = 72.0

    @field_validator("shares")
    @classmethod
    def _rise_to_all(cls, shares: tuple[float, ...]) -> tuple[float, ...]:
        if list(shares) != sorted(set(shares)) or shares[-1] != 1.0:
            raise ValueError("must rise and end with 1.0")
        return shares


class Pace(_Part):
    """Bytes a second the whole rollout may ask of the sources, and each box of its link."""

    bytes_per_s: float = Field(default=25e6, ge=1024, le=1e12)
    box_bytes_per_s: int | None = Field(default=None, ge=1024, le=1 << 34)
    metered: Literal["allow", "defer"] = "defer"
    rollback_factor: float = Field(default=2.0, ge=1, le=100)


class Times(_Part):
    """When boxes may act, how long a wave is watched, and when a box counts as silent."""

    not_before_s: float | None = Field(default=None, ge=0)
    windows: tuple[Window, ...] = Field(default=(), max_length=4)
    box_deadline_hours: Hours | None = None
    bake_hours: Hours = 2.0
    silent_after_min: float = Field(default=45.0, ge=1, le=60 * 24 * 14)
    before_hours: Annotated[float, Field(gt=0, le=24 * 28)] = 6.0
    after_hours: Annotated[float, Field(gt=0, le=24 * 28)] = 2.0
    telemetry_grace_min: float = Field(default=10.0, ge=0, le=60 * 24)


class SafetyGuard(_Part):
    """Halts when boxes show `event` at a rate above `limit`; the unit is the box.

    `level` is the chance of ever halting a rollout whose rate is `limit` or less.
    """

    event: str = SAFETY_EVENT
    limit: float = Field(default=0.02, gt=0, lt=0.5)
    level: Level | None = None

    @field_validator("event")
    @classmethod
    def _parses(cls, text: str) -> str:
        return _compiled(text, EVENT_NAMES, bool)


class QualityGuard(_Part):
    """Holds until `figure` is shown to be no worse than `tolerance`; halts when shown worse.

    Same box before and after, against a box that was not changed. `scale` `difference` compares
    shares as they are, `ratio` by their logarithm (a tolerance of 0.1 is then 10 percent).
    A box counts when it reported at least `least_count` of `least` in each window. Before wave
    `from_wave` (from 1) an insufficient verdict does not hold the rollout.
    """

    figure: str
    better: Literal["higher", "lower"]
    scale: Literal["difference", "ratio"] = "difference"
    tolerance: float = Field(ge=0, lt=1)
    least: str = "requests"
    least_count: float = Field(default=100, ge=0)
    from_wave: int = Field(default=1, ge=1, le=20)
    level: Level | None = None

    @field_validator("figure", "least")
    @classmethod
    def _parses(cls, text: str) -> str:
        return _compiled(text, FIGURE_NAMES, float)


class Guards(_Part):
    """All guards. The two budgets are what false halts of each sort may cost, shared evenly."""

    safety: dict[Name, SafetyGuard] = Field(default_factory=lambda: {"broken": SafetyGuard()})
    quality: dict[Name, QualityGuard] = Field(default_factory=dict)
    safety_budget: Level = 0.05
    quality_budget: Level = 0.05
    on_fail: Literal["rollback", "stop"] = "rollback"

    @field_validator("quality", mode="before")
    @classmethod
    def _known_figures_need_little(cls, value: Any) -> Any:
        return _with_defaults(value) if isinstance(value, Mapping) else value

    @model_validator(mode="after")
    def _few_and_apart(self) -> Self:
        if len(self.safety) + len(self.quality) > MAX_GUARDS:
            raise ValueError(f"at most {MAX_GUARDS} guards")
        both = set(self.safety) & set(self.quality)
        if both:
            raise ValueError(f"two guards are called {sorted(both)[0]}")
        if not self.safety:
            raise ValueError("a rollout without a safety guard is refused; keep the default")
        return self

    def level(self, name: str) -> float:
        """The guard's own level, or its even share of the budget."""
        if name in self.safety:
            return self.safety[name].level or self.safety_budget / len(self.safety)
        return self.quality[name].level or self.quality_budget / len(self.quality)


class Approval(_Part):
    """Whether somebody has to say yes, and whether it must be another than who filed it."""

    required: bool = True
    by_another: bool = False


class RolloutPlan(_Part):
    """A whole plan; see the module."""

    name: str = Field(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f]+$")
    change: Change
    target: Target = Target()
    waves: Waves = Waves()
    pace: Pace = Pace()
    times: Times = Times()
    probation: ProbationRules = ProbationRules()
    guards: Guards = Field(default_factory=Guards)
    approval: Approval = Approval()

    @model_validator(mode="after")
    def _bakes_as_long_as_it_measures(self) -> Self:
        if self.guards.quality and self.times.bake_hours < self.times.after_hours:
            raise ValueError("times.bake_hours must reach over times.after_hours")
        return self


def parse_plan(text: str, target_names: Mapping[str, type]) -> RolloutPlan:
    """The plan of a TOML document. `target_names`: what `target.boxes` may use, with types.

    Raises `PlanError` with the key; for expressions also line and column.
    """
    if len(text.encode()) > MAX_PLAN_BYTES:
        raise PlanError(f"the plan is larger than {MAX_PLAN_BYTES} bytes", code="too_large")
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PlanError(f"the plan is no TOML: {error}", code="not_toml") from error
    return check_plan(document, target_names)


def check_plan(document: Mapping[str, Any], target_names: Mapping[str, type]) -> RolloutPlan:
    """The plan of a parsed document; as `parse_plan`."""
    try:
        plan = RolloutPlan.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(str(part) for part in first["loc"]) or "plan"
        reason = first["msg"].removeprefix("Value error, ")
        raise PlanError(f"{key}: {reason}", param=key, code="invalid_plan") from error
    try:
        compile_expression(plan.target.boxes, target_names)
    except ExpressionError as error:
        raise PlanError(
            f"target.boxes: {error}", param="target.boxes", code="invalid_expression"
        ) from error
    return plan


def _compiled(text: str, names: Mapping[str, type], returns: type) -> str:
    try:
        compile_expression(text, names, returns=returns)
    except ExpressionError as error:  # pydantic collects only errors of values
        raise ValueError(str(error)) from error
    return text


def _with_defaults(guards: Mapping[str, Any]) -> dict[str, Any]:
    filled = {}
    for name, guard in guards.items():
        known = QUALITY_DEFAULTS.get(name)
        if known is None or not isinstance(guard, Mapping):
            filled[name] = guard
            continue
        given = {
            "figure": known.figure, "better": known.better, "scale": known.scale,
            "tolerance": known.tolerance, "least": known.least, "least_count": known.least_count,
        }  # fmt: skip
        # Another figure under a known name brings its own tolerance: theirs would mislead.
        filled[name] = dict(guard) if "figure" in guard else given | dict(guard)
    return filled

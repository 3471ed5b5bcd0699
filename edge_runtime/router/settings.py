"""Settings of routing: who answers what, what it may cost, and what is kept of it.

Rules
- Without any of these the daemon answers every request itself and keeps a ledger of it.
- Money is written as a decimal in quotes, `"2.50"`: a float would lose digits.
- What names a model, a frontier or a price is checked when the daemon opens its parts: see
  `edge_runtime.router.checks`.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from edge_runtime.cache.semantic.settings import SemanticCacheSettings
from edge_runtime.config_section import HomePath, Section
from edge_runtime.router.contract import Policy, Privacy

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def _name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError("must be 1-64 of a-z, 0-9, '.', '_' or '-'")
    return value


def _digest(value: str) -> str:
    if not _SHA256.fullmatch(value):
        raise ValueError("must be 64 lower-case hex digits")
    return value


def _decimal(value: object) -> object:
    if isinstance(value, bool | float):
        raise ValueError('must be a decimal in quotes, such as "2.50"')  # noqa: TRY004  # pydantic's
    return value


Name = Annotated[str, AfterValidator(_name)]
Digest = Annotated[str, AfterValidator(_digest)]
Money = Annotated[
    Decimal, BeforeValidator(_decimal), Field(ge=0, le=1_000_000_000, allow_inf_nan=False)
]
Alpha = Annotated[float, Field(gt=0, lt=1)]
DriftAction = Literal["escalate", "hold"]


class RouterSettings(Section):
    """Who answers requests that name no endpoint, and which troubles may escalate."""

    policy: Policy = Field(
        Policy.LOCAL_ONLY,
        description="Policy of requests that name a model, not an endpoint: `local-only`, "
        "`local-first`, `frontier-only` or `shadow`.",
    )
    frontiers: list[Name] = Field(
        default_factory=list,
        max_length=16,
        description="Frontiers to try, in this order. Empty: all configured, cheapest first.",
    )
    privacy: Privacy = Field(
        Privacy.MAY_LEAVE,
        description="`never-leave` keeps every request's text on the box; a request or an "
        "endpoint can only tighten it.",
    )
    alpha: Alpha | None = Field(
        None,
        description="Largest share of wrong answers a certificate may promise to count; of "
        "several that hold, the one nearest to it. Unset: the newest certificate.",
    )
    drift: DriftAction = Field(
        "escalate",
        description="While an alarm suspends a certificate: `escalate` everything, answering "
        "`degraded` where that fails; `hold` refuses what cannot be sent instead.",
    )
    on_context_too_long: bool = Field(
        default=True, description="Escalate what does not fit the local model."
    )
    on_task_not_served: bool = Field(
        default=True, description="Escalate what no local model serves, such as tools."
    )
    on_overload: bool = Field(default=True, description="Escalate when the box is full.")
    on_deadline: bool = Field(
        default=True, description="Escalate when the caller's deadline cannot be met here."
    )
    on_local_fault: bool = Field(default=True, description="Escalate when a local model fails.")
    on_schema_invalid: bool = Field(
        default=True,
        description="Escalate an answer that is still not of the wanted schema after its retries.",
    )
    degraded_answers: bool = Field(
        default=True,
        description="When no frontier can answer, answer here and say `degraded`; false: 503.",
    )
    max_concurrent_escalations: int = Field(
        64, ge=1, le=4096, description="Inputs of one request that are asked at the same time."
    )
    max_background_tasks: int = Field(
        32, ge=1, le=4096, description="Shadows and audits in progress; more are left out."
    )


class EndpointSettings(Section):
    """One product feature that calls, under the name it gives as `model` or `x-edge-endpoint`."""

    models: list[Name] = Field(
        default_factory=list,
        max_length=8,
        description="Local models to try, in this order; a later one is larger or more precise.",
    )
    policy: Policy = Field(Policy.LOCAL_FIRST, description="Who may answer; see `router.policy`.")
    frontiers: list[Name] = Field(
        default_factory=list, max_length=16, description="As `router.frontiers`, for this endpoint."
    )
    task: Name | None = Field(
        None, description="Task its certificates are for. Unset: the model's name."
    )
    privacy: Privacy = Field(Privacy.MAY_LEAVE, description="As `router.privacy`.")
    alpha: Alpha | None = Field(None, description="As `router.alpha`, which counts where unset.")
    max_output_tokens: int | None = Field(
        None, ge=1, le=1 << 20, description="Longest answer, here and at frontiers."
    )
    schema_retries: int = Field(
        0, ge=0, le=8, description="Further local tries when an answer is not of the wanted schema."
    )
    evaluation_set: HomePath | None = Field(
        None, description="The endpoint's own evaluation data; `doctor` names those without."
    )


class CertificatesSettings(Section):
    """Which certificates the box knows, and whose signatures it takes."""

    directory: HomePath | None = Field(
        None, description="Folder of certificates (`*.json`). Unset: none, and all escalates."
    )
    trusted_keys: list[HomePath] = Field(
        default_factory=list, max_length=64, description="Public keys (PEM) of signers."
    )
    revoked: list[Digest] = Field(
        default_factory=list, max_length=4096, description="Digests of certificates not to trust."
    )
    reload_s: float = Field(
        30.0, ge=1, le=86_400, description="How often the folder is looked at again."
    )

    @model_validator(mode="after")
    def _needs_a_signer(self) -> Self:
        if self.directory is not None and not self.trusted_keys:
            raise ValueError("a directory of certificates needs trusted_keys: name a public key")
        return self


class LedgerSettings(Section):
    """The record of what every request cost."""

    enabled: bool = Field(default=True, description="Keep a ledger.")
    path: HomePath | None = Field(
        None, description="The file. Unset: `ledger/ledger.db` in the store's folder."
    )
    detail_days: int = Field(92, ge=1, le=3650, description="Older rows are summed up.")
    max_detail_rows: int = Field(
        1_000_000, ge=1000, le=100_000_000, description="More rows than that are summed up too."
    )
    day_rollup_days: int = Field(
        400, ge=1, le=36_500, description="Older daily sums become monthly ones."
    )
    wait_for_disk: bool = Field(
        default=False,
        description="Answer only once the request's rows are on the disk, not just in its queue.",
    )


class BudgetSettings(Section):
    """Limits of one scope, in the price list's currency; UTC days and months."""

    day: Money | None = Field(None, description="Most money a day.")
    month: Money | None = Field(None, description="Most money a month.")


class BudgetsSettings(Section):
    """Most money frontiers may cost. Worst cases are reserved before each call."""

    day: Money | None = Field(None, description='Most money a day for the box, as `"2.50"`.')
    month: Money | None = Field(None, description="Most money a month for the box.")
    tenants: dict[Name, BudgetSettings] = Field(
        default_factory=dict, description="A table `[budgets.tenants.NAME]` for each limit."
    )
    endpoints: dict[Name, BudgetSettings] = Field(
        default_factory=dict, description="A table `[budgets.endpoints.NAME]` for each limit."
    )
    hold_s: float = Field(
        86_400.0,
        ge=60,
        le=31 * 86_400,
        description="How long money stays reserved for a call whose end nobody saw.",
    )
    expiry: Literal["charge", "release"] = Field(
        "charge", description="What becomes of it then: spent, or given back."
    )


class PricesSettings(Section):
    """What frontiers and this box cost."""

    file: HomePath | None = Field(
        None, description="Price list (TOML). Unset: the dated list that comes with the package."
    )
    override: HomePath | None = Field(
        None, description="A second list that wins key by key; needs a version of its own."
    )
    table: dict[str, Any] = Field(
        default_factory=dict,
        max_length=8,
        description="The same, written here: `[prices.table]` with a `version`, and keys of a "
        "price list; numbers in quotes. It wins over both files.",
    )


class EnergySettings(Section):
    """Where joules come from. What is set here wins over the price list's `[local]`."""

    source: Literal["auto", "rapl", "nvml", "assumption", "none"] = Field(
        "auto",
        description="`auto` takes counters where there are any, else `busy_watts`, else nothing.",
    )
    busy_watts: Money | None = Field(
        None,
        description="What the box draws while it works, idling included; an assumption, and "
        "labelled so.",
    )
    idle_watts: Money | None = Field(None, description="What the box draws without work.")
    tariff_per_kwh: Money | None = Field(None, description="Price of a kilowatt hour.")
    period_s: float = Field(
        60.0, ge=1, le=3600, description="How often counters are read and idle energy is booked."
    )


class ExactCacheSettings(Section):
    """The exact cache: the same question gets the same answer again."""

    enabled: bool = Field(default=False, description="Keep answers.")
    path: HomePath | None = Field(
        None, description="The file. Unset: `cache/exact.db` in the store's folder."
    )
    max_bytes: int = Field(
        256 << 20, ge=1 << 20, le=1 << 40, description="Most bytes of answers and their rows."
    )
    max_entry_bytes: int = Field(
        1 << 20, ge=1024, le=1 << 30, description="A larger answer is not kept."
    )
    ttl_s: int = Field(86_400, ge=1, le=31_536_000, description="How long an answer is served.")

    @model_validator(mode="after")
    def _entries_fit(self) -> Self:
        if self.max_entry_bytes > self.max_bytes:
            raise ValueError("max_entry_bytes must be at most max_bytes")
        return self


class CacheSettings(Section):
    """Answers kept for later."""

    exact: ExactCacheSettings = Field(default_factory=ExactCacheSettings)
    semantic: SemanticCacheSettings = Field(default_factory=SemanticCacheSettings)

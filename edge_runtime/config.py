"""Settings: what an operator may set, its default, its bounds and its meaning.

Rules
- Every limit has a name with its unit, a default and a bound; nothing is unlimited.
- API keys are stored as their sha256, never as the key itself.
- `edge_runtime.config_file` reads them; the reference page is made from the descriptions here.
"""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Literal, Self

from pydantic import (
    Field,
    field_validator,
    model_validator,
)

from edge_runtime.agent.settings import AgentSettings
from edge_runtime.config_section import HomePath, Section
from edge_runtime.router.contract import Policy
from edge_runtime.router.frontier.settings import CaptureSettings, FrontierSettings
from edge_runtime.router.settings import (
    BudgetsSettings,
    CacheSettings,
    CertificatesSettings,
    EndpointSettings,
    EnergySettings,
    LedgerSettings,
    Name,
    PricesSettings,
    RouterSettings,
)
from edge_runtime.router.watch.settings import WatchSettings

_SHA256 = re.compile(r"^[0-9a-f]{64}$")
_TENANT = re.compile(r"^[a-z0-9][a-z0-9._-]{0,63}$")


class ServerSettings(Section):
    """Where the daemon listens, who may ask, and how much."""

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8080, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    api_key_sha256: dict[str, str] = Field(
        default_factory=dict,
        description="Tenant name to the sha256 (hex) of its API key. Empty: no key is asked for.",
    )
    admin_tenants: list[str] = Field(
        default_factory=list,
        max_length=64,
        description="Tenants that may purge every tenant's kept answers.",
    )
    allow_open_off_loopback: bool = Field(
        default=False,
        description="Serve without API keys on an address that other machines reach.",
    )
    open_metrics: bool = Field(
        default=False, description="Serve `/metrics` without a key even when keys are set."
    )
    allowed_hosts: list[str] = Field(
        default_factory=list,
        max_length=64,
        description="Host names, besides loopback and addresses, that requests without keys "
        "may name in `Host`; stops web pages from reaching the daemon by DNS rebinding.",
    )
    cors_allowed_origins: list[str] = Field(
        default_factory=list,
        max_length=64,
        description="Web origins whose pages may call the daemon. Empty: none.",
    )
    max_body_bytes: int = Field(
        8 * 1024 * 1024, ge=1024, le=1 << 30, description="Largest request body."
    )
    max_header_bytes: int = Field(
        16 * 1024, ge=1024, le=1 << 20, description="Longest header or request line."
    )
    body_timeout_s: float = Field(
        30.0, gt=0, le=3600, description="Longest wait for a request's body."
    )
    write_timeout_s: float = Field(
        30.0,
        gt=0,
        le=3600,
        description="Longest wait for a client to take a piece of a stream; then it is cut off.",
    )
    keepalive_timeout_s: float = Field(
        75.0, ge=0, le=3600, description="How long an idle connection is kept."
    )
    max_concurrent_requests: int = Field(
        128, ge=1, le=65536, description="Inference requests in progress; more are told 429."
    )
    max_sequences_per_request: int = Field(
        64, ge=1, le=4096, description="Prompts times `n` of one request."
    )
    max_inputs_per_request: int = Field(
        2048, ge=1, le=65536, description="Inputs of one embedding or classification request."
    )
    max_deadline_ms: int = Field(
        600_000, ge=1, le=86_400_000, description="Largest `x-edge-deadline-ms` a caller may set."
    )
    drain_timeout_s: float = Field(
        20.0,
        ge=0,
        le=3600,
        description="How long requests in progress may go on after SIGTERM or SIGINT.",
    )

    @field_validator("api_key_sha256")
    @classmethod
    def _digests(cls, value: dict[str, str]) -> dict[str, str]:
        for tenant, digest in value.items():
            if not _TENANT.match(tenant):
                raise ValueError(f"tenant {tenant!r} must be 1-64 of a-z, 0-9, '.', '_' or '-'")
            if not _SHA256.match(digest):
                raise ValueError(
                    f"{tenant}: must be 64 lower-case hex digits; "
                    "make one with `edge-runtime config key`"
                )
        return value

    @property
    def on_loopback(self) -> bool:
        """True when only this machine can connect."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @model_validator(mode="after")
    def _not_open_by_accident(self) -> Self:
        if not (self.on_loopback or self.api_key_sha256 or self.allow_open_off_loopback):
            raise ValueError(
                f"host {self.host} can be reached by other machines and no API key is set; "
                "set server.api_key_sha256, or server.allow_open_off_loopback = true"
            )
        return self


class StoreSettings(Section):
    """Where bundles lie."""

    path: HomePath = Field(
        default_factory=lambda: Path("~/.local/share/edge-runtime").expanduser(),
        description="Folder of the bundle store.",
    )


class ModelSettings(Section):
    """What one model gets; a key left out takes the bundle's or `[models]`'s value."""

    variant: str | None = Field(None, description="Which variant of the bundle to run.")
    context_tokens: int | None = Field(
        None, ge=16, le=1 << 20, description="Longest prompt and answer together."
    )
    slots: int | None = Field(
        None, ge=1, le=256, description="KV slots: sequences that run at the same time."
    )
    max_output_tokens: int | None = Field(
        None, ge=1, le=1 << 20, description="Longest answer a request may ask for."
    )


class ModelsSettings(Section):
    """Which models run, and with what."""

    serve: list[str] = Field(
        default_factory=list,
        max_length=256,
        description="Names to serve. Empty: every model that is active in the store.",
    )
    default_variant: str = Field("int8", description="Variant to run where a bundle has it.")
    default_context_tokens: int = Field(
        4096,
        ge=16,
        le=1 << 20,
        description="Longest prompt and answer together, at most what the bundle allows.",
    )
    default_slots: int = Field(8, ge=1, le=256, description="KV slots a generating model gets.")
    default_max_output_tokens: int = Field(
        2048, ge=1, le=1 << 20, description="Longest answer, at most what the bundle allows."
    )
    options: dict[str, ModelSettings] = Field(
        default_factory=dict, description="A table `[models.options.NAME]` for each exception."
    )


class EngineSettings(Section):
    """How model runs are made."""

    threads: int = Field(
        0,
        ge=0,
        le=1024,
        description="Threads of a model run; 0 takes the cores this process may really use.",
    )
    allow_spinning: bool = Field(
        default=True,
        description="Let threads spin between the operators of one model run, never between "
        "runs: about a tenth faster steps; turn it off where other work needs the cores more.",
    )
    native_kernels: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Run INT8 bundles through the daemon's own operators. `auto`: where this "
        "processor runs them and has no AMX, which onnxruntime uses better; `on`: refuse bundles "
        "that cannot; `off`: the portable graph everywhere.",
    )
    inter_token_target_ms: float = Field(
        100.0,
        gt=0,
        le=10_000,
        description="Longest step that prompt chunks may cause while others decode.",
    )
    min_chunk_tokens: int = Field(
        16, ge=4, le=8192, description="Smallest prompt chunk of a step beside decoding rows."
    )
    max_chunk_tokens: int = Field(
        256, ge=4, le=8192, description="Largest prompt chunk one sequence brings to a step."
    )
    max_waiting_sequences: int = Field(
        256, ge=1, le=65536, description="Sequences that may wait for a slot; more are told 429."
    )
    max_wait_s: float = Field(
        120.0,
        gt=0,
        le=86_400,
        description="Longest expected wait for a slot; past it requests are told 429.",
    )
    max_waiting_encoder_tokens: int = Field(
        1 << 20,
        ge=1024,
        le=1 << 30,
        description="Encoder tokens that may wait; more are told 429.",
    )
    encoder_batch_tokens: int = Field(
        2048, ge=16, le=1 << 20, description="Token budget of one encoder run."
    )
    swap_grace_s: float = Field(
        10.0,
        ge=0,
        le=600,
        description="After a model was swapped: how long requests that were being read for the "
        "old one may still come.",
    )
    swap_drain_s: float = Field(
        600.0,
        gt=0,
        le=86_400,
        description="After a model was swapped: how long requests on the old one may still run.",
    )

    @model_validator(mode="after")
    def _chunks_in_order(self) -> Self:
        if self.min_chunk_tokens > self.max_chunk_tokens:
            raise ValueError(
                f"min_chunk_tokens ({self.min_chunk_tokens}) must not exceed "
                f"max_chunk_tokens ({self.max_chunk_tokens})"
            )
        return self


class LogSettings(Section):
    """What the daemon writes to standard error."""

    format: Literal["console", "json"] = Field("console", description="Lines for people or JSON.")
    level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least important line that is written."
    )


class Settings(Section):
    """Everything an operator may set."""

    server: ServerSettings = Field(default_factory=ServerSettings)
    store: StoreSettings = Field(default_factory=StoreSettings)
    models: ModelsSettings = Field(default_factory=ModelsSettings)
    engine: EngineSettings = Field(default_factory=EngineSettings)
    router: RouterSettings = Field(default_factory=RouterSettings)
    endpoints: dict[Name, EndpointSettings] = Field(default_factory=dict, max_length=256)
    frontiers: dict[Name, FrontierSettings] = Field(default_factory=dict, max_length=32)
    capture: CaptureSettings = Field(default_factory=CaptureSettings)
    certificates: CertificatesSettings = Field(default_factory=CertificatesSettings)
    watch: WatchSettings = Field(default_factory=WatchSettings)
    cache: CacheSettings = Field(default_factory=CacheSettings)
    ledger: LedgerSettings = Field(default_factory=LedgerSettings)
    budgets: BudgetsSettings = Field(default_factory=BudgetsSettings)
    prices: PricesSettings = Field(default_factory=PricesSettings)
    energy: EnergySettings = Field(default_factory=EnergySettings)
    agent: AgentSettings = Field(default_factory=AgentSettings)
    log: LogSettings = Field(default_factory=LogSettings)

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        lists = {f"endpoints.{name}.frontiers": one.frontiers for name, one in self._endpoints()}
        lists["router.frontiers"] = self.router.frontiers
        for key, names in lists.items():
            strange = sorted(set(names) - set(self.frontiers))
            if strange:
                known = ", ".join(self.frontiers) or "none"
                raise ValueError(f"{key} names {', '.join(strange)}; [frontiers] has {known}")
        both = sorted(set(self.endpoints) & set(self.frontiers))
        if both:
            raise ValueError(f"{both[0]} is both an endpoint and a frontier; rename one")
        strange = sorted(set(self.budgets.endpoints) - set(self.endpoints))
        if strange:
            raise ValueError(f"budgets.endpoints.{strange[0]}: there is no such endpoint")
        return self

    @model_validator(mode="after")
    def _can_be_answered(self) -> Self:
        policies = {f"endpoints.{name}.policy": one.policy for name, one in self._endpoints()}
        policies["router.policy"] = self.router.policy
        for key, policy in policies.items():
            if policy in (Policy.FRONTIER_ONLY, Policy.SHADOW) and not self.frontiers:
                raise ValueError(f"{key} is {policy}, but there is no table [frontiers.NAME]")
        for name, endpoint in self._endpoints():
            if not endpoint.models and endpoint.policy is Policy.LOCAL_ONLY:
                raise ValueError(f"endpoints.{name}.models: local-only needs a local model")
        return self

    @model_validator(mode="after")
    def _money_is_kept(self) -> Self:
        if self.frontiers and not self.ledger.enabled:
            raise ValueError("ledger.enabled: frontiers cost money, so the ledger must stay on")
        return self

    def _endpoints(self) -> list[tuple[str, EndpointSettings]]:
        return list(self.endpoints.items())

"""The section `[agent]`: how this box takes part in a fleet, once it was enrolled."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from edge_runtime.bundle.manifest import Name
from edge_runtime.config_section import Section

_LabelValue = Annotated[str, Field(max_length=96, pattern=r"^[\x20-\x7e]*$")]


def _expand(path: Path | None) -> Path | None:
    return None if path is None else path.expanduser()


class AgentSettings(Section):
    """How the box takes part in a fleet. Without an enrolment nothing of this does anything."""

    enabled: bool = Field(
        default=True, description="Take part in the fleet this box was enrolled in, if it was."
    )
    path: Annotated[Path | None, AfterValidator(_expand)] = Field(
        None,
        description="Folder of the agent's state, on the store's file system. "
        "Left out: `agent` in the store.",
    )
    labels: dict[Name, _LabelValue] = Field(
        default_factory=dict, max_length=16, description="What the box says of itself: site, line."
    )
    metered: bool = Field(
        default=False, description="The network costs by the byte: wants may ask not to use it."
    )
    metered_allowed: bool = Field(
        default=False, description="Download over a metered network all the same."
    )
    rate_bytes_s: int | None = Field(
        None, ge=1024, le=1 << 34, description="Fastest download; wants can only ask for less."
    )
    max_load: float = Field(
        0.9,
        gt=0,
        le=1,
        description="Busy share of the engine above which no model is swapped.",
    )
    retry_first_s: float = Field(10.0, gt=0, le=3600, description="First wait after a failure.")
    retry_cap_s: float = Field(
        6 * 3600.0, gt=0, le=86_400, description="Longest wait; waits double up to it."
    )
    max_tries: int = Field(50, ge=1, le=10_000, description="Failures after which it gives up.")
    trust_system_clock: bool = Field(
        default=False,
        description="Believe the system's clock for windows and deadlines; else only the "
        "control host's word since the daemon started counts.",
    )
    report_interval_s: float = Field(
        86_400.0, ge=60, le=7 * 86_400, description="Report at least this often."
    )
    connect_spread_s: float = Field(
        30.0,
        ge=0,
        le=3600,
        description="First connect and report wait a random part of this, so that a fleet does "
        "not come back all at once.",
    )
    reconnect_max_s: float = Field(
        300.0, ge=1, le=3600, description="Longest wait before connecting again."
    )
    keepalive_s: int = Field(60, ge=10, le=3600, description="MQTT keep-alive.")
    ack_timeout_s: float = Field(
        20.0, ge=1, le=600, description="Unacknowledged for so long, a connection counts as dead."
    )
    telemetry_interval_s: float = Field(
        60.0, ge=1, le=3600, description="Length of one row of telemetry."
    )
    telemetry_send_s: float = Field(
        300.0, ge=1, le=86_400, description="How often rows are sent; an unanswered one again."
    )
    spool_max_bytes: int = Field(
        64 * 1024 * 1024,
        ge=64 * 1024,
        le=1 << 34,
        description="Telemetry kept while nobody takes it; the oldest rows go first.",
    )
    log_lines: int = Field(
        2000, ge=0, le=100_000, description="Log lines kept in memory for when they are asked for."
    )
    log_max_bytes_per_day: int = Field(
        1024 * 1024, ge=0, le=1 << 30, description="Log bytes sent a day, however often asked for."
    )

    update_command: list[str] = Field(
        default_factory=list,
        max_length=32,
        description="Program that installs a release of the daemon, with its arguments; it finds "
        "version and folder in `EDGE_UPDATE_VERSION` and `EDGE_UPDATE_PATH`. Empty: this box takes "
        "no releases.",
    )
    update_timeout_s: float = Field(
        1800.0, gt=0, le=86_400, description="Longest time the update command may take."
    )
    update_max_starts: int = Field(
        3,
        ge=1,
        le=100,
        description="Starts of a new release that end before it is back in the fleet, after which "
        "the former one is installed again.",
    )
    restart_for_settings: bool = Field(
        default=False,
        description="End the daemon in order when settings of the fleet came that count only from "
        "the next start; for boxes whose service manager starts it again.",
    )

    def directory(self, store: Path) -> Path:
        """Where the agent keeps its state."""
        return store / "agent" if self.path is None else self.path

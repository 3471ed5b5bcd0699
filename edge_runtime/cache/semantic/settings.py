"""Settings of the semantic cache: the table `[cache.semantic]`."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from edge_runtime.config_section import Section


class SemanticCacheSettings(Section):
    """Answers served to questions that mean the same as one answered before. Off by default."""

    enabled: bool = Field(False, description="Look for answers to similar questions.")
    path: Path = Field(
        Path("/var/lib/edge-runtime/semantic.db"),
        description="SQLite file of the semantic cache; its index lies beside it.",
    )
    encoder: str = Field(
        "minilm-l6",
        min_length=1,
        description="Name of the bundle that embeds questions; it must be loaded.",
    )
    least_score: float | None = Field(
        None,
        gt=0,
        lt=1,
        description=(
            "Serve from this pair score on. Absent takes the threshold certified with the "
            "shipped score; a value of your own has no certificate."
        ),
    )
    audit_share: float = Field(
        0.02,
        ge=0.005,
        le=1,
        description="Share of would-be hits that a fresh answer checks.",
    )
    ttl_s: int = Field(86_400, ge=1, le=31_536_000, description="Seconds an answer may be served.")
    max_entries: int = Field(
        100_000, ge=1, le=1_000_000, description="Most answers kept; least recently used go first."
    )
    max_bytes: int = Field(
        512 << 20, ge=1 << 20, description="Most bytes of answers, questions and vectors kept."
    )
    max_entry_bytes: int = Field(
        256 << 10, ge=4096, description="A larger answer is not kept, in bytes."
    )
    max_text_chars: int = Field(
        600,
        ge=16,
        le=8000,
        description="A longer question is neither looked up nor kept, in characters.",
    )

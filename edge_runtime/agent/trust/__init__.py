"""Whom a box believes: TUF metadata, kept durably, asked before anything new is installed.

Rules
- Everything new is refused unless the root this box was enrolled with vouches for it, through the
  chain root -> targets -> the role of that model, settings or releases.
- Metadata that is older than what this box has seen, mis-signed, mixed from two states, larger
  than the limits or expired is refused. What was accepted before stays.
- Expiry blocks what is new. Nothing here ever stops what serves already.
- The client's work is python-tuf's (`client`); this package decides what to ask it, keeps the
  result in one file that a crash leaves old or new (`state`), and says what follows (`gate`).
"""

from __future__ import annotations

from edge_runtime.agent.trust.gate import TargetRef, Trust, TrustLimits
from edge_runtime.agent.trust.sources import HttpMetadata, MemoryMetadata, MetadataSource
from edge_runtime.agent.trust.state import TrustState

__all__ = [
    "HttpMetadata",
    "MemoryMetadata",
    "MetadataSource",
    "TargetRef",
    "Trust",
    "TrustLimits",
    "TrustState",
]

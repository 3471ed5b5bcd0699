"""Resumable, block-verified downloads; see `fetcher` for the rules and an example."""

from __future__ import annotations

from edge_runtime.agent.download.fetcher import BundleFetcher, FetchLimits
from edge_runtime.agent.download.run import FetchReport
from edge_runtime.agent.download.sources import BlobSource, HttpBlobs, MemoryBlobs

__all__ = [
    "BlobSource",
    "BundleFetcher",
    "FetchLimits",
    "FetchReport",
    "HttpBlobs",
    "MemoryBlobs",
]

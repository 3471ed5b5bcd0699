"""Decoder checkpoints to packed graphs."""

from export_tools.decoder.config import DecoderConfig, parse_config, read_config
from export_tools.decoder.export import build_variant

__all__ = ["DecoderConfig", "build_variant", "parse_config", "read_config"]

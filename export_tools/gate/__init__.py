"""Export gates: what a variant must show before it may be shipped."""

from export_tools.gate.decoder import gate_decoder
from export_tools.gate.encoder import gate_encoder
from export_tools.gate.limits import DecoderLimits, EncoderLimits

__all__ = ["DecoderLimits", "EncoderLimits", "gate_decoder", "gate_encoder"]

"""Encoders: checkpoint to one ONNX graph a variant."""

"""The daemon that runs on an edge box: serves small ONNX models over local HTTP."""

__version__ = "0.1.0"

"""Runs the models: the only part that imports onnxruntime."""

"""Turn checkpoints into checked, content-addressed ONNX bundles."""

"""ONNX graphs changed before they are opened; bytes in, bytes out."""

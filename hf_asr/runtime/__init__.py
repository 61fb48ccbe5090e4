"""Run an exported graph: onnxruntime providers, sessions, and a class that replaces the PyTorch model."""

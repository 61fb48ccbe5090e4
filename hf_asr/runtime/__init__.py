"""Run an exported graph: onnxruntime providers, sessions, and the graph in the place of the PyTorch model."""

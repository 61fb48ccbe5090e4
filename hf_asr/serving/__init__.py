"""Serving: the engine that batches requests, REST, Ray Serve replicas, and the Gradio demo."""

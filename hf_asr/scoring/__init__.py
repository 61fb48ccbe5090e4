"""Metrics, evaluation of a checkpoint, and their files."""

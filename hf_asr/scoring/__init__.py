"""Evaluate checkpoints: metrics, comparison and error reports."""

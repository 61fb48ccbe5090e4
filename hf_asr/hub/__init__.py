"""Checkpoints from and for elsewhere."""

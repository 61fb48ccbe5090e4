"""Fixtures of the server tests."""

import pytest

from hf_asr.checkpoint import load_checkpoint


@pytest.fixture(scope="session")
def parts(checkpoint):
    """Return model and processor of the tiny checkpoint."""
    return load_checkpoint(str(checkpoint), device="cpu")

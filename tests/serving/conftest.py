"""What servers are tried with."""

import pytest

from hf_asr.checkpoint import load_checkpoint


@pytest.fixture(scope="session")
def parts(checkpoint):
    """Model and processor of the tiny checkpoint."""
    return load_checkpoint(str(checkpoint), device="cpu")

"""The search for the largest batch that fits into memory."""

import pytest
import torch

from hf_asr.training.batch_search import find_batch_seconds


@pytest.mark.parametrize("capacity", [35.0, 100.0, 777.0])
def test_the_largest_batch_that_fits_is_found(capacity):
    tried = []

    def try_batch(seconds: float) -> None:
        tried.append(seconds)
        if seconds > capacity:
            raise torch.OutOfMemoryError

    found = find_batch_seconds(try_batch, longest=30.0)
    assert 0.85 * capacity <= found <= capacity
    assert len(tried) < 15


def test_a_longest_utterance_that_does_not_fit_is_an_error():
    def try_batch(seconds: float) -> None:
        raise torch.OutOfMemoryError

    with pytest.raises(ValueError, match="one utterance of 30.0 s does not fit: lower max_duration_seconds"):
        find_batch_seconds(try_batch, longest=30.0)

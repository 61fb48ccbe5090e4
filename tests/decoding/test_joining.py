"""The windows of a recording are kept in few parts, in their order."""

import pytest
import torch

from hf_asr.decoding.beam import BeamDecoder
from hf_asr.decoding.greedy import GreedyDecoder
from hf_asr.decoding.joining import append_joined


@pytest.mark.parametrize("lengths", [[16] * 1000, range(200, 0, -1), range(200), [1, 0, 0, 50] * 50])
def test_parts_are_few_and_in_their_order(lengths):
    parts, start = [], 0
    for length in lengths:
        append_joined(parts, torch.arange(start, start + length), join=torch.cat)
        start += length
    assert torch.equal(torch.cat(parts), torch.arange(start))
    assert len(parts) <= start.bit_length()


@pytest.mark.parametrize("decoder", [GreedyDecoder(0), BeamDecoder(0, beam_size=3)], ids=lambda each: each.name)
def test_a_decoder_keeps_a_thousand_windows_in_few_parts(decoder):
    windows = torch.randn(1000, 4, 5, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    search, whole = decoder.begin(), decoder.begin()
    decoder.advance([whole], [decoder.keep(windows.flatten(0, 1))])
    for window in windows:
        decoder.advance([search], [decoder.keep(window)])
    lists = [search] if isinstance(search, list) else [search.windows, search.pointers, search.tokens]
    assert max(map(len, lists)) <= 12
    ((found,), (expected,)) = decoder.finish([search, whole])
    assert found.tokens == expected.tokens
    assert found.score == pytest.approx(expected.score, abs=1e-2)

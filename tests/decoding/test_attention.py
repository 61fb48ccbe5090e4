"""The attention decoder alone finds the most probable token sequence, and CTC places its tokens in time."""

import itertools

import numpy as np
import pytest
import torch

from hf_asr import ConformerConfig, ConformerForCTC
from hf_asr.decoding.arguments import DecodingArguments
from hf_asr.decoding.attention import placed, search_tokens
from hf_asr.decoding.recognizer import Recognizer
from hf_asr.decoding.rescoring import attention_scores

from ..conftest import TINY


@pytest.fixture
def model() -> ConformerForCTC:
    torch.manual_seed(1)
    model = ConformerForCTC(ConformerConfig(**TINY, vocab_size=6, decoder_layers=1)).eval()
    torch.nn.init.normal_(model.decoder.lm_head.weight)
    return model


@pytest.mark.parametrize("seed", range(4))
def test_a_wide_beam_finds_the_best_sequence_of_all(model, seed):
    states, end = torch.randn(4, 32, generator=torch.Generator().manual_seed(seed)), model.config.eos_token_id
    with torch.no_grad():
        model.decoder.lm_head.bias[end] = 2.0
    tokens = [token for token in range(6) if token != end]
    every = [list(row) for length in range(4) for row in itertools.product(tokens, repeat=length)]  # and the end
    scores = attention_scores(model, states, every)
    best = max(range(len(every)), key=lambda i: scores[i])
    found = search_tokens(model, states, beam_size=6)
    assert found[0][0] == every[best]
    assert found[0][1] == pytest.approx(scores[best], abs=1e-4)
    assert [score for _, score in found] == sorted((score for _, score in found), reverse=True)


def test_a_decoder_that_never_ends_stops_with_the_frames(model):
    with torch.no_grad():
        model.decoder.lm_head.bias[model.config.eos_token_id] = -1000.0
    assert {len(tokens) for tokens, _ in search_tokens(model, torch.randn(7, 32), beam_size=3)} == {7}


def test_tokens_are_placed_where_ctc_expects_them():
    log_probs = torch.full((6, 4), 0.01)
    for frame, token in enumerate([0, 2, 0, 0, 3, 0]):
        log_probs[frame, token] = 0.97
    hypothesis = placed([2, 3], -1.5, log_probs.log(), blank=0)
    assert (hypothesis.tokens, hypothesis.frames, hypothesis.score) == ([2, 3], [(1, 2), (4, 5)], -1.5)
    assert placed([2, 2, 2, 2], -1.5, log_probs.log(), blank=0) is None, "four equal tokens need seven frames"
    nothing = placed([], -0.5, log_probs.log(), blank=0)
    assert (nothing.tokens, len(nothing.probabilities)) == ([], 6)


def test_recordings_have_transcripts_with_times(processor):
    torch.manual_seed(1)
    model = ConformerForCTC(ConformerConfig(**TINY, vocab_size=len(processor.tokenizer), decoder_layers=1)).eval()
    with torch.no_grad():
        model.decoder.lm_head.bias[model.config.eos_token_id] = 1.0
    torch.nn.init.normal_(model.decoder.lm_head.weight)
    recognizer = Recognizer(model, processor, arguments=DecodingArguments(decoding="attention", beam_size=3))
    waveforms = [
        np.random.default_rng(seed).normal(0, 0.1, int(16000 * seconds)).astype(np.float32)
        for seed, seconds in enumerate((2.0, 0.5))
    ]
    found = recognizer.transcribe(waveforms)
    for waveform, transcript in zip(waveforms, found, strict=True):
        (encoded,) = recognizer.encode(recognizer.split(waveform))
        sequences = [tokens for tokens, _ in search_tokens(model, encoded.states, beam_size=3)]
        assert transcript.hypothesis.tokens in sequences
        assert all(0 <= word.start <= word.end <= len(waveform) / 16000 for word in transcript.words)

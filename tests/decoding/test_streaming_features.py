"""Features of live audio equal those of the whole recording, whatever the pieces are."""

import numpy as np
import pytest
import torch

from hf_asr.decoding.streaming_features import FeatureStream
from hf_asr.model import ConformerFeatureExtractor

EXTRACTORS = {
    "mirrored": {},
    "snipped": {"snip_edges": True, "high_freq": 0.0},
    "other frames": {"frame_length": 32.0, "frame_shift": 8.0, "window_type": "hann"},
}


@pytest.mark.parametrize("options", EXTRACTORS.values(), ids=EXTRACTORS)
@pytest.mark.parametrize("samples", [1, 100, 399, 400, 401, 639, 640, 5000, 8001, 16000, 24321])
@pytest.mark.parametrize("piece", [1, 77, 160, 4000, 30000])
def test_pieces_give_the_features_of_the_whole(samples, piece, options):
    samples = min(samples, 1000 * piece)
    extractor = ConformerFeatureExtractor(**options)
    waveform = np.random.default_rng(0).uniform(-0.5, 0.5, samples).astype(np.float32)
    stream = FeatureStream(extractor)
    found = [stream.accept(waveform[start : start + piece]) for start in range(0, samples, piece)]
    found = torch.cat([*found, stream.finish()])
    expected = extractor(waveform, return_tensors="pt")["input_features"][0]
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)


def test_a_stream_without_samples_has_no_frames():
    assert FeatureStream(ConformerFeatureExtractor()).finish().shape == (0, 80)


def test_frames_come_as_soon_as_their_samples_are_there():
    stream = FeatureStream(ConformerFeatureExtractor())
    counts = [len(stream.accept(np.zeros(160, dtype=np.float32))) for _ in range(10)]
    assert counts == [0, 0, 2, 1, 1, 1, 1, 1, 1, 1]  # a frame ends 120 samples after the next one's begin


def test_the_kept_signal_does_not_grow():
    stream = FeatureStream(ConformerFeatureExtractor())
    for _ in range(1000):
        stream.accept(np.zeros(333, dtype=np.float32))
    assert len(stream._signal) < 1000

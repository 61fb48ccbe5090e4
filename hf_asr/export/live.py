"""Run recordings as live streams through PyTorch and a graph, for the comparison of both."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from ..decoding.streams import encode_in_steps
from ..model import ConformerFeatureExtractor, ConformerForCTC
from ..runtime.ort_model import OrtConformerForCTC

CHUNKS = 100  # of the longest stream


def stream_runner(
    model: ConformerForCTC | OrtConformerForCTC, extractor: ConformerFeatureExtractor
) -> Callable[[Sequence[np.ndarray]], list[np.ndarray]]:
    """Return a function from waveforms (samples,) to log-probabilities (frames, vocabulary) of streams in one batch.

    A third of the streams begins when others end, so that they are at different places.
    """

    def run(waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
        parts = [[torch.zeros(0, model.config.vocab_size)] for _ in waveforms]
        pieces = ([waveform] for waveform in waveforms)
        for i, encoded in encode_in_steps(model, extractor, pieces, max_streams=len(waveforms) - len(waveforms) // 3):
            parts[i].append(encoded.log_probs)
        return [torch.cat(part).numpy() for part in parts]

    return run


def joined(waveforms: Sequence[np.ndarray], *, samples: int) -> np.ndarray:
    """Return a waveform of so many samples, made of the waveforms in their order, which are repeated if necessary."""
    return np.resize(np.concatenate(waveforms), samples)

"""Compute the features of live audio as it arrives, equal to those of the whole recording."""

import math

import numpy as np
import torch

from ..model import ConformerFeatureExtractor

NO_SAMPLES = np.zeros(0, dtype=np.float32)


class FeatureStream:
    """The features of one stream.

    It keeps the samples that a later frame needs, less than a second.

    Args:
        extractor: Without `denoise`, and with frames that are not shorter than their distance.
    """

    def __init__(self, extractor: ConformerFeatureExtractor):
        self.extractor = extractor
        # The signal begins with mirrored samples where the extractor wants them. Then each frame is inside the signal.
        self._mirrored = 0 if extractor.snip_edges else extractor.window_length // 2 - extractor.hop_length // 2
        self._signal, self._has_begun = NO_SAMPLES, False  # from the first sample that a later frame needs
        self.num_samples = self.num_frames = 0  # accepted and returned so far

    def accept(self, samples: np.ndarray) -> torch.Tensor:
        """Return the frames (frames, num_mel_bins), 0 or more, that are complete with these samples (samples,)."""
        self.num_samples += len(samples)
        self._signal = np.concatenate([self._signal, samples.astype(np.float32)])
        if not self._has_begun:
            if self.num_samples < self.extractor.window_length:  # fewer than can be mirrored at both ends
                return self._frames(0)
            self._signal = np.concatenate([self._signal[: self._mirrored][::-1], self._signal])
            self._has_begun = True
        extractor = self.extractor
        return self._frames(max(0, 1 + (len(self._signal) - extractor.window_length) // extractor.hop_length))

    def finish(self) -> torch.Tensor:
        """Return the last frames, with the signal mirrored at its end and the silence of `min_duration`."""
        extractor = self.extractor
        if not self.num_samples:
            return self._frames(0)
        if not self._has_begun:
            return extractor(self._signal, return_tensors="pt")["input_features"][0]
        total = self._real_frames()
        lacking = total - self.num_frames
        end = (lacking - 1) * extractor.hop_length + extractor.window_length - len(self._signal)
        if lacking and end > 0:
            self._signal = np.concatenate([self._signal, self._signal[::-1][:end]])
        silence = (extractor.num_frames(self.num_samples) - total, extractor.num_mel_bins)
        return torch.cat([self._frames(lacking), torch.full(silence, math.log(extractor.energy_floor))])

    def _real_frames(self) -> int:
        """Return the number of frames without the silence of `min_duration`."""
        extractor = self.extractor
        if extractor.snip_edges:
            return max(0, 1 + (self.num_samples - extractor.window_length) // extractor.hop_length)
        return (self.num_samples + extractor.hop_length // 2) // extractor.hop_length

    def _frames(self, count: int) -> torch.Tensor:
        """Return the first `count` frames of the signal, and forget the samples that only they need."""
        extractor = self.extractor
        window_length, hop = extractor.window_length, extractor.hop_length
        self.num_frames += count
        if not count:
            return torch.zeros(0, extractor.num_mel_bins)
        signal = torch.from_numpy(self._signal[: (count - 1) * hop + window_length]) * extractor.waveform_scale
        self._signal = self._signal[count * hop :]
        # All frames are real and inside the signal, so this is less work than `log_mel`, which matters in a step.
        return extractor.frames_to_log_mel(signal.unfold(0, window_length, hop)[None])[0]

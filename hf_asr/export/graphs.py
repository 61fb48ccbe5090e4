"""Wrap the model as modules of tensors only, one for each kind of graph, and describe their inputs with optimum.

Letters in shapes: B batch, T feature frames, M mel bins, S encoder frames, V vocabulary.
"""

from copy import deepcopy

import torch
from optimum.exporters.base import ExporterConfig
from optimum.utils import NormalizedConfig
from optimum.utils.input_generators import DummyInputGenerator
from torch import nn

from ..model import ConformerFeatureExtractor, ConformerForCTC
from . import sherpa

TASK = "automatic-speech-recognition"
SAMPLES = ("waveforms", "lengths")  # inputs whose length is in samples


class FeaturesToLogProbs(nn.Module):
    """Maps raw log-mel features (B, T, M) and their mask (B, T) to log-probabilities (B, S, V), always float32."""

    def __init__(self, model: ConformerForCTC, extractor: ConformerFeatureExtractor):
        super().__init__()
        self.model, self.extractor = model, extractor

    def forward(self, input_features: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.model(input_features, attention_mask).logits.log_softmax(-1, dtype=torch.float32)


class WaveformsToLogProbs(FeaturesToLogProbs):
    """Maps samples in [-1, 1] (B, samples) to log-probabilities (B, S, V).

    `lengths` (B,) are the numbers of real samples. The second output is the number of real frames (B,).
    """

    def __init__(self, model: ConformerForCTC, extractor: ConformerFeatureExtractor):
        super().__init__(model, extractor)
        # The extractor caches its window and filters. This call fills the cache, or it would keep the tracer's fake
        # tensors.
        extractor.fbank(torch.zeros(1, extractor.window_length), torch.tensor([extractor.window_length]))

    def forward(self, waveforms: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features, frames = self.extractor.fbank(waveforms, lengths)
        mask = (torch.arange(features.shape[1], device=features.device) < frames[:, None]).long()
        return super().forward(features, mask), self.model.get_output_lengths(frames)


class SherpaToLogProbs(FeaturesToLogProbs):
    """Maps sherpa-onnx's features x (B, T, M), with x_lens (B,) real frames, to log_probs and log_probs_lens (B,).

    sherpa-onnx opens the graph as `zipformer_ctc` or `wenet_ctc`. As `zipformer_ctc` it computes features of samples in
    [-1, 1], where our extractor scales the samples by 32768: the graph adds the difference. As `wenet_ctc` it scales
    the samples as well: the mean of the features shows which of both it is. Our extractor also appends silence to short
    recordings, and sherpa-onnx does not: the graph appends it.
    """

    def forward(self, x: torch.Tensor, x_lens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        is_real = torch.arange(x.shape[1], device=x.device) < x_lens[:, None]  # (B, T)
        cells = (x_lens * x.shape[2]).clamp(min=1)
        mean = torch.where(is_real[:, :, None], x, 0.0).sum((1, 2)) / cells  # (B,)
        x = x + torch.where(mean < sherpa.MAX_MEAN, sherpa.log_scale(self.extractor), 0.0)[:, None, None]
        features, frames = self.extractor.add_silence(x, x_lens, min_frames=self.extractor.num_frames(0))
        mask = (torch.arange(features.shape[1], device=x.device) < frames[:, None]).long()
        return super().forward(features, mask), self.model.get_output_lengths(frames)


class DummyConformerInputs(DummyInputGenerator):
    """Generates the inputs for tracing: two utterances, the second one shorter."""

    SUPPORTED_INPUT_NAMES = ("input_features", "attention_mask", "waveforms", "lengths", "x", "x_lens")

    def __init__(self, task: str, normalized_config: NormalizedConfig, *, batch_size: int = 2, frames: int = 203, **_):
        self.batch_size, self.frames, self.mel_bins = batch_size, frames, normalized_config.num_mel_bins
        self.samples = frames * normalized_config.hop_length

    def generate(self, input_name: str, framework: str = "pt", int_dtype: str = "int64", float_dtype: str = "fp32"):
        size = self.samples if input_name in SAMPLES else self.frames
        lengths = torch.tensor([size - size // 3 * (row % 2) for row in range(self.batch_size)])
        if input_name in ("lengths", "x_lens"):
            return lengths
        if input_name == "attention_mask":
            return (torch.arange(size) < lengths[:, None]).long()
        shape = (self.batch_size, size) if input_name == "waveforms" else (self.batch_size, size, self.mel_bins)
        return torch.rand(shape)


class ConformerOnnxConfig(ExporterConfig):
    """A graph that takes features."""

    NORMALIZED_CONFIG_CLASS = NormalizedConfig
    DUMMY_INPUT_GENERATOR_CLASSES = (DummyConformerInputs,)
    ATOL_FOR_VALIDATION = 1e-4
    GRAPH_CLASS = FeaturesToLogProbs

    @property
    def inputs(self) -> dict[str, dict[int, str]]:
        axes = {0: "batch", 1: "frames"}
        return {"input_features": axes, "attention_mask": axes}

    @property
    def outputs(self) -> dict[str, dict[int, str]]:
        return {"log_probs": {0: "batch", 1: "encoder_frames"}}


class ConformerWaveformOnnxConfig(ConformerOnnxConfig):
    """A graph that takes waveforms, so that the caller needs no feature code."""

    ATOL_FOR_VALIDATION = 1e-3  # two Fourier transforms differ by this much in the log-mel of near silence
    GRAPH_CLASS = WaveformsToLogProbs

    @property
    def inputs(self) -> dict[str, dict[int, str]]:
        return {"waveforms": {0: "batch", 1: "samples"}, "lengths": {0: "batch"}}

    @property
    def outputs(self) -> dict[str, dict[int, str]]:
        return super().outputs | {"log_probs_lengths": {0: "batch"}}


class ConformerSherpaOnnxConfig(ConformerOnnxConfig):
    """A graph with the inputs and outputs of sherpa-onnx's offline recogniser."""

    GRAPH_CLASS = SherpaToLogProbs

    @property
    def inputs(self) -> dict[str, dict[int, str]]:
        return {"x": {0: "batch", 1: "frames"}, "x_lens": {0: "batch"}}

    @property
    def outputs(self) -> dict[str, dict[int, str]]:
        return super().outputs | {"log_probs_lens": {0: "batch"}}


EXPORTERS = {
    "onnx": ConformerOnnxConfig,
    "onnx-waveform": ConformerWaveformOnnxConfig,
    "sherpa-onnx": ConformerSherpaOnnxConfig,
}


def exporter_config(model: ConformerForCTC, exporter: str) -> ConformerOnnxConfig:
    """Return optimum's description of a graph of the model; `exporter` is a key of `EXPORTERS`."""
    return EXPORTERS[exporter](model.config, task=TASK)


def half_precision(model: ConformerForCTC) -> ConformerForCTC:
    """Return a copy that computes in float16, but normalises features in float32: float16 has three digits only."""
    copy = deepcopy(model).half()
    for name in ("feature_mean", "feature_istd"):
        setattr(copy.encoder, name, getattr(model.encoder, name).clone())
    return copy

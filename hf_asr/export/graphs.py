"""Wrap the model as modules of tensors only, one for each kind of graph, and describe their inputs with optimum.

Letters in shapes: B batch, T feature frames, M mel bins, S encoder frames, V vocabulary; D hidden size, H heads, K head
dimension.
"""

import math
from copy import deepcopy

import torch
from optimum.exporters.base import ExporterConfig
from optimum.utils import NormalizedConfig
from optimum.utils.input_generators import DummyInputGenerator
from torch import nn

from ..model import ConformerFeatureExtractor, ConformerForCTC
from ..model.configuration_conformer import required_frames
from ..model.streaming_conformer import StreamingCache, empty_cache
from . import sherpa, sherpa_streaming

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


class StepToLogProbs(FeaturesToLogProbs):
    """Maps the features and the mask of a step, and the tensors of a `StreamingCache`, to log-probabilities.

    The other outputs are the next cache. A step of a whole recording from an empty cache is the masked full pass.
    """

    def forward(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor,
        attention_cache: torch.Tensor,
        convolution_cache: torch.Tensor,
        offset: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        cache = StreamingCache(attention_cache, convolution_cache, offset)
        output = self.model(input_features, attention_mask, cache=cache)
        return output.logits.log_softmax(-1, dtype=torch.float32), *output.cache


class SherpaStepToLogProbs(FeaturesToLogProbs):
    """Maps a step of sherpa-onnx's online recogniser to log_probs (1, S, V) and the next caches.

    sherpa-onnx chooses the chunks: a step is a chunk of any size, and the cache has any number of chunks. `offset` (1,)
    begins with `required_cache_size` (1,), so the difference is the number of frames before the step. `attn_mask` has
    nothing new: it marks the same frames of the cache as empty.
    """

    def __init__(self, model: ConformerForCTC, extractor: ConformerFeatureExtractor):
        model = deepcopy(model)
        model.config.chunk_size = -1  # a step is one chunk
        super().__init__(model, extractor)

    def forward(
        self,
        x: torch.Tensor,  # (1, T, M)
        offset: torch.Tensor,
        required_cache_size: torch.Tensor,
        attn_cache: torch.Tensor,  # (layers, H, left, 2 * K)
        conv_cache: torch.Tensor,  # (layers, 1, D, kernel - 1)
        attn_mask: torch.Tensor,  # (1, 1, left + S)
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        # sherpa-onnx scales the samples as our extractor does, but raises energies to float32's epsilon only.
        x = x.clamp(min=math.log(self.extractor.energy_floor))
        cache = StreamingCache(attn_cache[:, None], conv_cache, offset - required_cache_size)
        output = self.model(x, cache=cache)
        log_probs = output.logits.log_softmax(-1, dtype=torch.float32)
        return log_probs, output.cache.attention[:, 0], output.cache.convolution


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


class DummyCaches(DummyInputGenerator):
    """Generates empty caches for tracing, as our graph of a step takes them and as sherpa-onnx does."""

    SUPPORTED_INPUT_NAMES = ("attention_cache", "convolution_cache", "offset")
    SUPPORTED_INPUT_NAMES += ("required_cache_size", "attn_cache", "conv_cache", "attn_mask")

    def __init__(self, task: str, normalized_config: NormalizedConfig, *, batch_size: int = 2, **_):
        config = normalized_config.config
        self.cache = empty_cache(config, batch_size=batch_size, device=torch.device("cpu"), dtype=torch.float32)

    def generate(self, input_name: str, framework: str = "pt", int_dtype: str = "int64", float_dtype: str = "fp32"):
        attention, convolution, offset = self.cache
        layers, _, heads, _, width = attention.shape
        left = 16  # frames of sherpa-onnx's cache; PyTorch would take 0 and 1 for constants
        return {
            "attention_cache": attention,
            "convolution_cache": convolution,
            "offset": offset,
            "required_cache_size": torch.full_like(offset, left),
            "attn_cache": torch.zeros(layers, heads, left, width),
            "conv_cache": convolution,
            "attn_mask": torch.ones(1, 1, 3 * left, dtype=torch.bool),
        }[input_name]


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

    @property
    def metadata(self) -> dict[str, str]:
        """Return the properties that are stored in the file."""
        return {}


class ConformerWaveformOnnxConfig(ConformerOnnxConfig):
    """A graph that takes waveforms, so that the caller needs no feature code."""

    # Two Fourier transforms differ by up to 4e-3 in the log-mel of near silence. That changed log-probabilities of real
    # recordings by up to 2.8e-3, and the features of the graph were nearer to those of a transform in float64.
    ATOL_FOR_VALIDATION = 1e-2
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

    @property
    def metadata(self) -> dict[str, str]:
        return sherpa.metadata(self._config)


class ConformerStepOnnxConfig(ConformerOnnxConfig):
    """A graph of one step of any number of streams and frames, in the chunks of the configuration."""

    DUMMY_INPUT_GENERATOR_CLASSES = (DummyConformerInputs, DummyCaches)
    GRAPH_CLASS = StepToLogProbs
    CACHE = {"attention_cache": {1: "batch"}, "convolution_cache": {1: "batch"}, "offset": {0: "batch"}}

    @property
    def inputs(self) -> dict[str, dict[int, str]]:
        return super().inputs | self.CACHE

    @property
    def outputs(self) -> dict[str, dict[int, str]]:
        return super().outputs | {f"next_{name}": axes for name, axes in self.CACHE.items()}

    @property
    def metadata(self) -> dict[str, str]:
        """Return the chunks, and the feature frames of a step and between the beginnings of two steps."""
        chunk_size, factor = self._config.chunk_size, self._config.subsampling_factor
        frames = {"frames_of_step": required_frames(factor, chunk_size), "frames_between_steps": factor * chunk_size}
        properties = {"chunk_size": chunk_size, "num_left_chunks": self._config.num_left_chunks} | frames
        return {name: str(value) for name, value in properties.items()}


class ConformerSherpaStepOnnxConfig(ConformerOnnxConfig):
    """A graph with the inputs and outputs of sherpa-onnx's online recogniser, in its order; it takes one stream."""

    DUMMY_INPUT_GENERATOR_CLASSES = (DummyConformerInputs, DummyCaches)
    GRAPH_CLASS = SherpaStepToLogProbs

    @property
    def inputs(self) -> dict[str, dict[int, str]]:
        sizes = {"x": {1: "frames"}, "offset": {}, "required_cache_size": {}}
        return sizes | {"attn_cache": {2: "left"}, "conv_cache": {}, "attn_mask": {2: "keys"}}

    @property
    def outputs(self) -> dict[str, dict[int, str]]:
        return {"log_probs": {1: "encoder_frames"}, "next_att_cache": {2: "left"}, "next_conv_cache": {}}

    def generate_dummy_inputs(self, framework: str = "pt", **sizes) -> dict[str, torch.Tensor]:
        return super().generate_dummy_inputs(framework, batch_size=1, **sizes)

    @property
    def metadata(self) -> dict[str, str]:
        return sherpa_streaming.metadata(self._config)


EXPORTERS = {
    "onnx": ConformerOnnxConfig,
    "onnx-waveform": ConformerWaveformOnnxConfig,
    "onnx-streaming": ConformerStepOnnxConfig,
    "sherpa-onnx": ConformerSherpaOnnxConfig,
    "sherpa-onnx-streaming": ConformerSherpaStepOnnxConfig,
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

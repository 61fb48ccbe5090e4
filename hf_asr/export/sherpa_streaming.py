"""Write the files of sherpa-onnx's online recogniser, which transcribes live audio on phones, boards and in browsers.

It opens them as `wenet_ctc`. Unlike its offline recogniser, it adds no noise to the samples. It computes one stream at
a time, and its times and endpoints assume encoder frames of 40 ms.
"""

import copy
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from ..files import TOKENS
from ..model import ConformerConfig, ConformerFeatureExtractor, ConformerForCTC, ConformerProcessor
from ..model.configuration_conformer import required_frames
from ..model.streaming_conformer import empty_cache
from . import sherpa
from .live import stream_runner

ENERGY_FLOOR = 2.0**-23  # of sherpa-onnx, for samples that are scaled by 32768; the graph raises it to ours
EXAMPLE = """\
import numpy, sherpa_onnx, soundfile

recognizer = sherpa_onnx.OnlineRecognizer.from_wenet_ctc(
    model="{model}",
    tokens="{tokens}",
    chunk_size={chunk_size},
    num_left_chunks={num_left_chunks},
)
samples, rate = soundfile.read("recording.wav", dtype="float32")  # mono
stream = recognizer.create_stream()
stream.accept_waveform(rate, samples)  # or piece by piece
stream.accept_waveform(rate, numpy.zeros(round({silence} * rate), numpy.float32))  # or the last words are missing
stream.input_finished()
while recognizer.is_ready(stream):
    recognizer.decode_stream(stream)
print(recognizer.get_result(stream))
"""


def metadata(config: ConformerConfig) -> dict[str, str]:
    """Return the properties of the graph; sherpa-onnx reads all but `chunk_size` and `left_chunks`."""
    return sherpa.metadata(config) | {
        "model_type": "wenet_ctc",
        "head": str(config.num_attention_heads),
        "num_blocks": str(config.num_hidden_layers),
        "output_size": str(config.hidden_size),
        "cnn_module_kernel": str(config.conv_kernel_size),
        "right_context": str(required_frames(config.subsampling_factor, 1) - 1),
        "chunk_size": str(config.chunk_size),
        "left_chunks": str(config.num_left_chunks),
    }


def refusal(config: ConformerConfig) -> str | None:
    """Return why sherpa-onnx cannot run a model that streams, or None; `sherpa.refusal` judges its features."""
    if config.num_attention_heads * config.head_dim != config.hidden_size:
        return (
            f"sherpa-onnx needs a head_dim of hidden_size / num_attention_heads for live audio, not {config.head_dim}: "
            "it computes the size of the cache so"
        )
    return None


def warn_of_times(config: ConformerConfig, extractor: ConformerFeatureExtractor) -> None:
    """Print a warning if sherpa-onnx counts another duration for an encoder frame than it has."""
    if (milliseconds := config.subsampling_factor * extractor.frame_shift) != 40:
        print(
            f"sherpa-onnx takes an encoder frame for 40 ms, and it has {milliseconds:g} ms: the text is right, but its "
            "times and the rules for endpoints are not",
            file=sys.stderr,
        )


def silence_seconds(config: ConformerConfig, extractor: ConformerFeatureExtractor) -> float:
    """Return how much silence the end of a stream needs: a chunk.

    sherpa-onnx makes a step only if it has one feature frame more than the step needs, so the last chunk must be whole.
    Three feature frames less would suffice.
    """
    return config.chunk_size * config.subsampling_factor * extractor.frame_shift / 1000


def example(folder: Path, name: str, *, config: ConformerConfig, extractor: ConformerFeatureExtractor) -> str:
    """Return Python that transcribes a recording with the graph `name` of a folder."""
    return EXAMPLE.format(
        model=(folder / name).as_posix(),
        tokens=(folder / TOKENS).as_posix(),
        chunk_size=config.chunk_size,
        num_left_chunks=config.num_left_chunks,
        silence=silence_seconds(config, extractor),
    )


def runners(
    session: onnxruntime.InferenceSession, *, model: ConformerForCTC, processor: ConformerProcessor
) -> tuple[Callable[[np.ndarray], np.ndarray], Callable[[Sequence[np.ndarray]], list[np.ndarray]]]:
    """Return functions to log-probabilities (frames, vocabulary) of waveforms (samples,) that silence follows.

    The first one streams a waveform through PyTorch, and returns the frames that sherpa-onnx computes. The second one
    runs the graph on each of several waveforms in sherpa-onnx's steps.
    """
    config, extractor = model.config, copy.copy(processor.feature_extractor)
    extractor.energy_floor, extractor.min_duration = ENERGY_FLOOR, 0.0
    silence = np.zeros(round(silence_seconds(config, extractor) * extractor.sampling_rate), np.float32)
    streamed = stream_runner(model, processor.feature_extractor)
    size, hop = model.encoder.frames_of_step(), config.chunk_size * config.subsampling_factor

    def run_source(waveform: np.ndarray) -> np.ndarray:
        waveform = np.concatenate([waveform, silence])
        steps = len(range(0, extractor.num_frames(len(waveform)) - size, hop))
        return streamed([waveform])[0][: steps * config.chunk_size]

    def run_alone(waveform: np.ndarray) -> np.ndarray:
        samples = torch.from_numpy(np.concatenate([waveform, silence]))
        features, _ = extractor.log_mel(samples[None], torch.tensor([len(samples)]))
        return run_steps(session, features.numpy(), config=config)

    return run_source, lambda waveforms: [run_alone(waveform) for waveform in waveforms]


def run_steps(session: onnxruntime.InferenceSession, features: np.ndarray, *, config: ConformerConfig) -> np.ndarray:
    """Return the log-probabilities (frames, vocabulary) of features (1, frames, bins), in steps as sherpa-onnx's."""
    chunk_size, left = config.chunk_size, config.chunk_size * config.num_left_chunks
    size, hop = required_frames(config.subsampling_factor, chunk_size), chunk_size * config.subsampling_factor
    attention, convolution, _ = empty_cache(config, batch_size=1, device=torch.device("cpu"), dtype=torch.float32)
    caches = [attention[:, 0].numpy(), convolution.numpy()]
    parts = [np.zeros((0, config.vocab_size), np.float32)]
    for number, start in enumerate(range(0, features.shape[1] - size, hop)):
        offset = number * chunk_size
        inputs = {
            "x": features[:, start : start + size],
            "offset": np.array([left + offset]),
            "required_cache_size": np.array([left]),
            "attn_cache": caches[0],
            "conv_cache": caches[1],
            "attn_mask": (np.arange(left + chunk_size) >= left - offset)[None, None],
        }
        log_probs, *caches = session.run(None, inputs)
        parts.append(log_probs[0])
    return np.concatenate(parts)

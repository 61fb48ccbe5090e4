"""Files of sherpa-onnx's offline recogniser (`from_zipformer_ctc`), which runs on phones, boards and in browsers.

Of its kinds of CTC models this is the one whose features are ours. `wenet_ctc` adds noise of one 16-bit step to the
samples before it computes (2.0.1, whatever its setting of dither says): recordings with quiet bands get other features,
and other ones each time. The same files can be opened as that. Time stamps of tokens are right for a subsampling of 4,
which `zipformer_ctc` takes for granted.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ..files import write_text
from ..model import ConformerConfig, ConformerFeatureExtractor, ConformerTokenizer

# What sherpa-onnx computes, whatever a model was trained on, but for the scale: it takes samples in [-1, 1] and lets no
# energy below float32's epsilon, which is 128 for samples that are 32768 times as large.
FEATURES = ConformerFeatureExtractor(waveform_scale=32768.0, energy_floor=128.0)
CHECKED = ("num_mel_bins", "sampling_rate", "frame_length", "frame_shift", "preemphasis", "remove_dc_offset")
CHECKED += ("window_type", "low_freq", "high_freq", "snip_edges", "dither", "waveform_scale", "energy_floor")
# The mean log-mel of samples in [-1, 1] is below that, unless they are noise at full scale; that of 16-bit samples is
# above, for silence has 4.3 with the noise that `wenet_ctc` adds.
MAX_MEAN = 3.0
PADDING = math.log(1e-10)  # what it fills shorter recordings of a batch up with


def metadata(config: ConformerConfig) -> dict[str, str]:
    """Give what sherpa-onnx reads from the graph; `wenet_ctc` asks for the last two."""
    return {
        "model_type": "zipformer2_ctc",
        "version": "1",
        "model_author": "hf_asr",
        "comment": "Conformer CTC",
        "subsampling_factor": str(config.subsampling_factor),
        "vocab_size": str(config.vocab_size),
    }


def log_scale(extractor: ConformerFeatureExtractor) -> float:
    """Give what our features are above those of samples in [-1, 1]."""
    return 2 * math.log(extractor.waveform_scale)


def inputs(extractor: ConformerFeatureExtractor, waveforms: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Compute what sherpa-onnx would give the graph for waveforms (samples,), if it computed as `extractor` does."""
    parts = []
    for waveform in waveforms:
        features, frames = extractor.log_mel(torch.from_numpy(waveform)[None], torch.tensor([len(waveform)]))
        parts.append(features[0, : int(frames)].numpy() - log_scale(extractor))
    lengths = np.array([len(part) for part in parts])
    x = np.full((len(parts), lengths.max(), extractor.num_mel_bins), PADDING, np.float32)
    for row, part in zip(x, parts, strict=True):
        row[: len(part)] = part
    return {"x": x, "x_lens": lengths}


def refusal(extractor: ConformerFeatureExtractor, *, allow_other_features: bool = False) -> str | None:
    """Say why sherpa-onnx would hear something else than the model was trained on, or None.

    `allow_other_features` lets those pass that differ a little, as WeNet's do.
    """
    if extractor.denoise:
        return (
            "this checkpoint relies on denoising, which sherpa-onnx does not do: train without "
            "feature_extractor: {denoise: true}, with noise among the augmentations instead"
        )
    if allow_other_features:
        return None
    other = [name for name in CHECKED if getattr(extractor, name) != getattr(FEATURES, name)]
    if other:
        values = ", ".join(f"{name} {getattr(extractor, name)} (it has {getattr(FEATURES, name)})" for name in other)
        return (
            f"this checkpoint was trained on features that sherpa-onnx does not compute: {values}; "
            "--allow_other_features exports it nevertheless, and on a phone it hears something a little different"
        )
    return None


def write_tokens(path: Path, tokenizer: ConformerTokenizer) -> None:
    """`token id` a line; the blank, which sherpa-onnx must find, as `<blk>`."""
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    tokens[tokenizer.pad_token_id] = "<blk>"
    write_text(path, "".join(f"{token} {i}\n" for i, token in enumerate(tokens)))

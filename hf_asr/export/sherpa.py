"""Write the files of sherpa-onnx's offline recogniser, which runs on phones, on boards and in browsers.

Of sherpa-onnx's kinds of CTC models, `zipformer_ctc` computes the same features as our extractor. `wenet_ctc` can open
the same files, but it adds noise of one 16-bit step to the samples (2.0.1, whatever the dither option is), so that
recordings with quiet bands get other features each time. Time stamps of tokens are right for a subsampling factor of 4
only, which `zipformer_ctc` assumes.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ..files import write_text
from ..model import ConformerConfig, ConformerFeatureExtractor, ConformerTokenizer

# The features that sherpa-onnx computes for every model, except for the scale: it takes samples in [-1, 1] and raises
# energies to float32's epsilon at least, which corresponds to 128 for samples that are scaled by 32768.
FEATURES = ConformerFeatureExtractor(waveform_scale=32768.0, energy_floor=128.0)
CHECKED = ("num_mel_bins", "sampling_rate", "frame_length", "frame_shift", "preemphasis", "remove_dc_offset")
CHECKED += ("window_type", "low_freq", "high_freq", "snip_edges", "dither", "waveform_scale", "energy_floor")
# The mean log-mel of samples in [-1, 1] is below this value, unless they are noise at full scale. The mean for 16-bit
# samples is above it: silence with the noise that `wenet_ctc` adds has 4.3.
MAX_MEAN = 3.0
PADDING = math.log(1e-10)  # sherpa-onnx pads shorter recordings of a batch with this value


def metadata(config: ConformerConfig) -> dict[str, str]:
    """Return the properties that sherpa-onnx reads from the graph; `wenet_ctc` needs the last two."""
    return {
        "model_type": "zipformer2_ctc",
        "version": "1",
        "model_author": "hf_asr",
        "comment": "Conformer CTC",
        "subsampling_factor": str(config.subsampling_factor),
        "vocab_size": str(config.vocab_size),
    }


def log_scale(extractor: ConformerFeatureExtractor) -> float:
    """Return by how much our log-mel features exceed those of samples in [-1, 1]."""
    return 2 * math.log(extractor.waveform_scale)


def inputs(extractor: ConformerFeatureExtractor, waveforms: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Return the inputs that sherpa-onnx would give the graph for waveforms (samples,), computed by `extractor`."""
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
    """Return why sherpa-onnx cannot run a model with these features, or None.

    Args:
        allow_other_features: Accept features that differ a little from sherpa-onnx's, as WeNet's do.
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
            "--allow_other_features exports it nevertheless, and on a phone its input differs a little"
        )
    return None


def write_tokens(path: Path, tokenizer: ConformerTokenizer) -> None:
    """Write `tokens.txt`: one `token id` per line, the blank as `<blk>`, the name that sherpa-onnx needs."""
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    tokens[tokenizer.pad_token_id] = "<blk>"
    write_text(path, "".join(f"{token} {i}\n" for i, token in enumerate(tokens)))

"""Files of sherpa-onnx's offline recogniser (`from_wenet_ctc`), which runs on phones, boards and in browsers."""

from pathlib import Path

from ..files import write_text
from ..model import ConformerConfig, ConformerFeatureExtractor, ConformerTokenizer

# What sherpa-onnx computes, whatever a model was trained on; found by a graph that returned its input.
FEATURES = ConformerFeatureExtractor()
CHECKED = ("num_mel_bins", "sampling_rate", "frame_length", "frame_shift", "preemphasis", "remove_dc_offset")
CHECKED += ("window_type", "low_freq", "high_freq", "snip_edges", "dither", "waveform_scale")


def metadata(config: ConformerConfig) -> dict[str, str]:
    """What sherpa-onnx reads from the graph to know it."""
    return {
        "model_type": "wenet_ctc",
        "version": "1",
        "model_author": "hf_asr",
        "comment": "Conformer CTC",
        "subsampling_factor": str(config.subsampling_factor),
        "vocab_size": str(config.vocab_size),
    }


def refusal(extractor: ConformerFeatureExtractor, *, allow_differences: bool = False) -> str | None:
    """Why sherpa-onnx would hear something else than the model was trained on, or None.

    `allow_differences` lets other features pass, as those of WeNet's models, which differ a little.
    """
    if extractor.denoise:
        return (
            "this checkpoint relies on denoising, which sherpa-onnx does not do: train without "
            "feature_extractor: {denoise: true}, with noise among the augmentations instead"
        )
    if allow_differences:
        return None
    other = [name for name in CHECKED if getattr(extractor, name) != getattr(FEATURES, name)]
    if other:
        values = ", ".join(f"{name} {getattr(extractor, name)} (it has {getattr(FEATURES, name)})" for name in other)
        return (
            f"this checkpoint was trained on features that sherpa-onnx does not compute: {values}; "
            "--allow_differences exports it nevertheless"
        )
    return None


def write_tokens(path: Path, tokenizer: ConformerTokenizer) -> None:
    """`token id` a line; the blank, which sherpa-onnx must find, as `<blk>`."""
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    tokens[tokenizer.pad_token_id] = "<blk>"
    write_text(path, "".join(f"{token} {i}\n" for i, token in enumerate(tokens)))

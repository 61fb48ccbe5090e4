"""Everything that differs between our Conformer and another CTC family (wav2vec2, hubert, parakeet …).

Ours takes log-mel features and a mask, and computes its own loss. Other families keep their feature extractor; their
tokenizer becomes one of ours, and their CTC loss is computed here.
"""

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, normalizers, pre_tokenizers
from torch import nn
from transformers import FeatureExtractionMixin, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from .model import ConformerConfig, ConformerFeatureExtractor, ConformerTokenizer
from .model.configuration_conformer import required_frames
from .model.losses_conformer import ctc_loss, smoothed
from .model.tokenization_conformer import SPACE, character_backend, splits_special_tokens, text_normalizer

# Modules that have a row for each token: Parakeet's and our head, wav2vec2's head, and our decoders'.
HEADS = ("ctc_head", "lm_head", "decoder.lm_head", "decoder.embed_tokens")
HEADS += ("reverse_decoder.lm_head", "reverse_decoder.embed_tokens")
_IS_HEAD = re.compile(r"(^|\.)(ctc_head|lm_head|phoneme_head)\.")
_WINDOW = 400  # samples, 25 ms: the first frame needs so many samples more than one hop
_MIN_SECONDS = 0.25  # shorter recordings do not fit into the convolutions of other families


def is_conformer(config: PreTrainedConfig) -> bool:
    """Return whether a configuration is our Conformer's, which has our features and computes its own loss."""
    return isinstance(config, ConformerConfig)


def is_head_parameter(name: str) -> bool:
    """Return whether a parameter of this name belongs to an output layer: of CTC, of the phonemes or of a decoder."""
    return _IS_HEAD.search(name) is not None


def ctc_head(model: PreTrainedModel) -> nn.Linear | nn.Conv1d:
    """Return the output layer of a CTC model, which has a row for each token."""
    return model.ctc_head if hasattr(model, "ctc_head") else model.lm_head


def merge_sounds(model: PreTrainedModel) -> None:
    """Give a checkpoint an ordinary head if tokens share its rows, in place; see `ConformerForCTC.merge_sounds`."""
    if is_conformer(model.config):
        model.merge_sounds()


# Frames


def samples_per_frame(config: PreTrainedConfig) -> int:
    """Return the number of samples of audio that one frame of logits covers."""
    if hasattr(config, "inputs_to_logits_ratio"):
        return config.inputs_to_logits_ratio
    return 160 * config.encoder_config.subsampling_factor  # Parakeet, whose features are 10 ms apart


def output_lengths(model: PreTrainedModel, attention_mask: torch.Tensor) -> torch.Tensor:
    """Return the number of frames of logits of each utterance, (batch,); the mask is (batch, frames or samples)."""
    lengths = attention_mask.sum(-1)
    encoder = getattr(model, "encoder", None)
    if hasattr(encoder, "_get_subsampling_output_length"):  # Parakeet
        return encoder._get_subsampling_output_length(lengths)
    return model._get_feat_extract_output_lengths(lengths).long()


def output_mask(model: PreTrainedModel, attention_mask: torch.Tensor, *, frames: int) -> torch.Tensor:
    """Return a bool mask (batch, frames), True for real frames of logits."""
    lengths = output_lengths(model, attention_mask).clamp(max=frames)
    return torch.arange(frames, device=lengths.device) < lengths[:, None]


def ctc_frames(labels: Sequence[int]) -> int:
    """Count the frames of logits that CTC needs to align `labels`: one for each, and one between two equal ones."""
    return len(labels) + sum(a == b for a, b in itertools.pairwise(labels))


def required_samples(labels: Sequence[int], *, config: PreTrainedConfig) -> int:
    """Count the samples of audio that suffice for CTC to align `labels`."""
    if is_conformer(config):
        return _required_feature_frames(labels, config) * config.hop_length + _WINDOW
    # wav2vec2's SpecAugment refuses batches that are shorter than one of its masks.
    frames = max(ctc_frames(labels), getattr(config, "mask_time_length", 0)) + 2
    return frames * samples_per_frame(config) + _WINDOW


def pad_to_labels(waveform: np.ndarray, labels: Sequence[int], *, config: PreTrainedConfig) -> tuple[np.ndarray, int]:
    """Return a waveform (samples,) and the least number of feature frames with which CTC can align `labels`.

    Our extractor appends silence to the features, up to that number. Other families' extractors cannot: for them the
    silence is appended to the waveform, and the number is 0.
    """
    if is_conformer(config):
        return waveform, _required_feature_frames(labels, config)
    lack = required_samples(labels, config=config) - len(waveform)
    return np.pad(waveform, (0, max(0, lack))), 0


def _required_feature_frames(labels: Sequence[int], config: ConformerConfig) -> int:
    return required_frames(config.subsampling_factor, ctc_frames(labels))


# Inputs


def shortest_input(extractor: FeatureExtractionMixin) -> int:
    """Return the minimum number of samples of a waveform; a shorter one is padded with silence before the extractor.

    Our extractor itself pads short recordings, with silent feature frames.
    """
    return 1 if isinstance(extractor, ConformerFeatureExtractor) else round(_MIN_SECONDS * extractor.sampling_rate)


def computes_on_device(extractor: FeatureExtractionMixin) -> bool:
    """Return whether the extractor can compute on a GPU; other families' extractors compute on the CPU only."""
    return isinstance(extractor, ConformerFeatureExtractor)


def model_inputs(inputs: Mapping[str, Any], extractor: FeatureExtractionMixin) -> dict[str, Any]:
    """Return the inputs for the model, without the attention mask if the model was trained without one.

    The base models of wav2vec2 were trained without an attention mask.
    """
    inputs = dict(inputs)
    if not extractor.return_attention_mask:
        inputs.pop("attention_mask")
    return inputs


# Training


def summed_ctc_loss(
    model: PreTrainedModel, logits: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """Return the CTC loss of another family's logits (batch, frames, vocabulary), summed over the batch, in float32.

    It is computed as in our model, with label smoothing in training.

    Args:
        attention_mask: Mask of the inputs, (batch, frames or samples).
        labels: (batch, tokens), padded with -100.
    """
    config = model.config
    mask = output_mask(model, attention_mask, frames=logits.shape[1])  # (B, S)
    log_probs = F.log_softmax(logits, dim=-1, dtype=torch.float32)  # (B, S, V)
    loss = ctc_loss(log_probs, mask.sum(-1), labels, blank=config.pad_token_id)
    return smoothed(loss, log_probs, mask, factor=config.label_smoothing if model.training else 0.0)


def parametrized_name(name: str) -> str:
    """Return the name that torch gives today to a parameter of its old weight norm; other names are unchanged.

    Checkpoints of wav2vec2 on the Hub have the old names.
    """
    return re.sub(r"weight_([gv])$", lambda match: f"parametrizations.weight.original{'gv'.index(match[1])}", name)


def disable_layerdrop(config: PreTrainedConfig) -> float:
    """Set a checkpoint's `layerdrop` to 0 and return what it was.

    With layerdrop, a process skips layers, which then have no gradient there, and DistributedDataParallel fails.
    """
    found = 0.0
    for part in (config, getattr(config, "encoder_config", None)):
        if getattr(part, "layerdrop", 0):
            found, part.layerdrop = part.layerdrop, 0.0
    return found


# Tokenizers


def as_conformer_tokenizer(
    tokenizer: PreTrainedTokenizerBase, *, blank_id: int, text_normalization: str
) -> ConformerTokenizer:
    """Return a tokenizer with another family's CTC vocabulary and ids, and our normalisation, decoding and offsets."""
    roles = {
        "pad_token": tokenizer.convert_ids_to_tokens(blank_id),
        "unk_token": tokenizer.unk_token,
        "bos_token": tokenizer.bos_token,
        "eos_token": tokenizer.eos_token,
    }
    if hasattr(tokenizer, "backend_tokenizer"):
        description = json.loads(tokenizer.backend_tokenizer.to_str())
        description |= {"post_processor": None, "truncation": None, "padding": None}  # labels have no special tokens
        backend = Tokenizer.from_str(json.dumps(description))
        own = [] if backend.normalizer is None else [backend.normalizer]
        backend.normalizer = normalizers.Sequence([text_normalizer(text_normalization), *own])
        own = [] if backend.pre_tokenizer is None else [backend.pre_tokenizer]
        special = {token for token in [*roles.values(), *tokenizer.all_special_tokens] if token and len(token) > 1}
        backend.pre_tokenizer = pre_tokenizers.Sequence([*own, splits_special_tokens(sorted(special))])
    else:  # wav2vec2's: characters, and a sign between words
        delimiter = getattr(tokenizer, "word_delimiter_token", None)
        # A blank called "-" is renamed; otherwise every hyphen of a transcript would become a blank.
        names = {token: f"<{token}>" for token in roles.values() if token and len(token) == 1}
        roles = {role: names.get(token, token) for role, token in roles.items()}
        names |= {delimiter: SPACE}
        vocabulary = {names.get(token, token): i for token, i in tokenizer.get_vocab().items()}
        special = {names.get(token, token) for token in tokenizer.all_special_tokens} | set(roles.values())
        lowered = {(token if token in special else token.lower()): i for token, i in vocabulary.items()}
        if text_normalization != "none" and len(lowered) == len(vocabulary):
            vocabulary = lowered  # theirs is upper case, normalised transcripts are lower case
        backend = character_backend(vocabulary, unknown=roles["unk_token"])
        backend.normalizer = text_normalizer(text_normalization)
    return ConformerTokenizer(
        tokenizer_object=backend,
        **roles,
        clean_up_tokenization_spaces=False,
        text_normalization=text_normalization,
    )

"""Weights with our names and with WeNet's names, in both directions.

WeNet's subsampling has as many channels as the model is wide, and WeNet multiplies its output by the square root of the
width. A model of ours may have fewer channels and no factor. `widen_subsampling` makes the two equal: the missing
channels have weights of zero, and the last projection is divided by the factor. `narrow_subsampling` is its exact
inverse.
"""

import math
import re
from collections.abc import Mapping

import torch
import torch.nn.functional as F

from ..model import ConformerConfig, ConformerForCTC

# Our name of each part of a block -> WeNet's name. Weights and biases have the same names and shapes in both.
BLOCK_PARTS = {
    "feed_forward1_norm": "norm_ff_macaron",
    "feed_forward1.up_proj": "feed_forward_macaron.w_1",
    "feed_forward1.down_proj": "feed_forward_macaron.w_2",
    "attention_norm": "norm_mha",
    "attention.o_proj": "self_attn.linear_out",
    "attention.position_proj": "self_attn.linear_pos",
    "convolution_norm": "norm_conv",
    "convolution.pointwise_conv1": "conv_module.pointwise_conv1",
    "convolution.depthwise_conv": "conv_module.depthwise_conv",
    "convolution.norm": "conv_module.norm",
    "convolution.pointwise_conv2": "conv_module.pointwise_conv2",
    "feed_forward2_norm": "norm_ff",
    "feed_forward2.up_proj": "feed_forward.w_1",
    "feed_forward2.down_proj": "feed_forward.w_2",
    "final_norm": "norm_final",
}
DECODER_BLOCK_PARTS = {
    "self_attention_norm": "norm1",
    "self_attention.q_proj": "self_attn.linear_q",
    "self_attention.o_proj": "self_attn.linear_out",
    "cross_attention_norm": "norm2",
    "cross_attention.q_proj": "src_attn.linear_q",
    "cross_attention.o_proj": "src_attn.linear_out",
    "feed_forward_norm": "norm3",
    "feed_forward.up_proj": "feed_forward.w_1",
    "feed_forward.down_proj": "feed_forward.w_2",
}
DECODER_PARTS = {"embed_tokens": "embed.0", "final_norm": "after_norm", "lm_head": "output_layer"}
TOP_PARTS = {"encoder.final_norm": "encoder.after_norm", "ctc_head": "ctc.ctc_lo"}
# Computed positions, and projections of an option that no model uses.
NOT_IMPORTED = r"encoder\.embed\.pos_enc\.pe|decoder\.(.+\.)?embed\.1\.pe|.+\.concat_linear[12]?\..+"
# Our fused projections -> WeNet's single ones.
FUSED = {"attention.qkv_proj": "self_attn.linear_{qkv}"}
DECODER_FUSED = {"self_attention.kv_proj": "self_attn.linear_{kv}", "cross_attention.kv_proj": "src_attn.linear_{kv}"}


def wenet_names(name: str, config: ConformerConfig) -> list[str]:
    """Return WeNet's names of the weights that form one of ours: one name, or several for a fused projection."""
    module, _, leaf = name.rpartition(".")
    if block := re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)", module):
        place = f"encoder.encoders.{block[1]}"
        if block[2] == "attention":  # bias_u and bias_v
            return [f"{place}.self_attn.pos_{leaf}"]
        return _parts(f"{place}.{(FUSED | BLOCK_PARTS)[block[2]]}.{leaf}")
    if part := re.fullmatch(r"((?:reverse_)?decoder)\.(.+)", module):
        decoder = "decoder"
        if config.reverse_decoder_layers:
            decoder = "decoder.left_decoder" if part[1] == "decoder" else "decoder.right_decoder"
        if block := re.fullmatch(r"layers\.(\d+)\.(.+)", part[2]):
            return _parts(f"{decoder}.decoders.{block[1]}.{(DECODER_FUSED | DECODER_BLOCK_PARTS)[block[2]]}.{leaf}")
        return [f"{decoder}.{DECODER_PARTS[part[2]]}.{leaf}"]
    if module.startswith("encoder.subsampling.conv."):
        return [name.replace("subsampling", "embed")]
    if module == "encoder.subsampling.out":
        return [f"encoder.embed.{'out.0' if config.subsampling_factor == 4 else 'linear'}.{leaf}"]
    if module == "encoder":  # feature_mean and feature_istd
        return [f"encoder.global_cmvn.{leaf.removeprefix('feature_')}"]
    return [f"{TOP_PARTS[module]}.{leaf}"]


def _parts(name: str) -> list[str]:
    """Return the names that `linear_{qkv}` in a name means: with linear_q, linear_k and linear_v."""
    fused = re.search(r"\{(\w+)\}", name)
    return [name.replace(fused[0], letter) for letter in fused[1]] if fused else [name]


def is_pointwise(name: str) -> bool:
    """Return whether one of our weights is a convolution of kernel size 1 in WeNet, and a projection here."""
    return "pointwise_conv" in name and name.endswith("weight")


def to_wenet(state: Mapping[str, torch.Tensor], config: ConformerConfig) -> dict[str, torch.Tensor]:
    """Return weights with our names under WeNet's names and in WeNet's shapes."""
    converted = {}
    for name, value in state.items():
        names = wenet_names(name, config)
        for key, part in zip(names, value.chunk(len(names)) if len(names) > 1 else [value], strict=True):
            converted[key] = (part.unsqueeze(-1) if is_pointwise(name) else part).contiguous().clone()
    return converted


def from_wenet(state: Mapping[str, torch.Tensor], config: ConformerConfig) -> dict[str, torch.Tensor]:
    """Return WeNet's weights with our names and in our shapes.

    Raises:
        ValueError: A weight is unknown, is missing or has another shape; the message has WeNet's name of it.
    """
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in ConformerForCTC(config).state_dict().items()}
    sources = {name: wenet_names(name, config) for name in shapes}
    known = {source for names in sources.values() for source in names}
    if extra := [key for key in state if key not in known and not re.fullmatch(NOT_IMPORTED, key)]:
        shape = tuple(state[extra[0]].shape)
        raise ValueError(f"final.pt: {_named(extra)}, of shape {shape}, has no place in the model of train.yaml")
    counters = {key: torch.tensor(0) for key in known if key.endswith("num_batches_tracked")}  # missing in older files
    if missing := [key for names in sources.values() for key in names if key not in state | counters]:
        raise ValueError(f"final.pt: {_named(missing)} is missing, which the model of train.yaml has")
    converted = {}
    for name, names in sources.items():
        parts = [(counters | state)[key] for key in names]
        if is_pointwise(name):
            parts = [part.squeeze(-1) for part in parts]
        shape = shapes[name] if len(parts) == 1 else (shapes[name][0] // len(parts), *shapes[name][1:])
        for key, part in zip(names, parts, strict=True):
            if part.shape != shape:
                raise ValueError(f"final.pt: {key} has shape {tuple(part.shape)}; by train.yaml it is {tuple(shape)}")
        converted[name] = torch.cat(parts) if len(parts) > 1 else parts[0]
    return converted


def _named(keys: list[str]) -> str:
    """Return the first name and the number of the others."""
    return keys[0] + (f" (and {len(keys) - 1} more)" if len(keys) > 1 else "")


def widen_subsampling(state: Mapping[str, torch.Tensor], config: ConformerConfig) -> dict[str, torch.Tensor]:
    """Return WeNet's weights of a model of ours, with WeNet's channels and factor of the subsampling.

    The divided projection is in float64, so that a multiplication gives back the same float32 numbers. WeNet rounds it
    to float32 when it loads it.
    """
    missing = config.hidden_size - config.subsampling_channels
    widened = {key: _pad_channels(key, value, config, missing=missing) for key, value in state.items()}
    if not config.scale_input:
        for key in _projection(config):
            widened[key] = widened[key].double() / math.sqrt(config.hidden_size)
    return widened


def narrow_subsampling(state: Mapping[str, torch.Tensor], config: ConformerConfig) -> dict[str, torch.Tensor]:
    """Return the weights without the channels and the factor that `widen_subsampling` adds for a model of ours.

    Raises:
        ValueError: A channel beyond those of the configuration is not zero.
    """
    missing, narrowed = config.hidden_size - config.subsampling_channels, dict(state)
    for key, value in state.items() if missing else ():
        part = _pad_channels(key, value, config, missing=-missing)
        restored = _pad_channels(key, part, config, missing=missing)
        if restored.shape != value.shape or not torch.equal(restored, value):
            raise ValueError(
                f"final.pt: {key} uses more than the {config.subsampling_channels} channels of train.yaml's "
                "hf_asr.config.subsampling_channels"
            )
        narrowed[key] = part
    if not config.scale_input:
        for key in _projection(config):
            if key in narrowed:  # otherwise `from_wenet` names it
                narrowed[key] = (narrowed[key].double() * math.sqrt(config.hidden_size)).float()
    return narrowed


def _projection(config: ConformerConfig) -> list[str]:
    """Return WeNet's names of weight and bias of the subsampling's projection."""
    return [name for leaf in ("weight", "bias") for name in wenet_names(f"encoder.subsampling.out.{leaf}", config)]


def _pad_channels(key: str, value: torch.Tensor, config: ConformerConfig, *, missing: int) -> torch.Tensor:
    """Return a weight of the subsampling with `missing` more channels of zeros; a negative number removes channels."""
    if key == _projection(config)[0]:  # (D, channels * mel)
        channels = config.subsampling_channels - min(missing, 0)
        return F.pad(value.unflatten(1, (channels, -1)), (0, 0, 0, missing)).flatten(1).contiguous()
    if not key.startswith("encoder.embed.conv."):
        return value
    if value.ndim == 1 or key.startswith("encoder.embed.conv.0."):
        return F.pad(value, (0,) * (2 * value.ndim - 1) + (missing,))
    return F.pad(value, (0, 0, 0, 0, 0, missing, 0, missing))

"""Importing WeNet's Conformer encoders with their CTC head (https://github.com/wenet-e2e/wenet).

A model directory holds `final.pt`, `train.yaml`, `units.txt` and, as a rule, `global_cmvn`; a model of BPE also its
sentencepiece model, `train_960_unigram5000.model` or the like.
"""

import json
import logging
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch

from ..model import ConformerConfig, ConformerForCTC, ConformerProcessor
from .wenet_recipe import WenetRecipe, load_recipe, parse_recipe
from .wenet_units import find_pieces, read_tokenizer, read_units

logger = logging.getLogger(__name__)

WRAPPERS = ("model", "state_dict", "model_state_dict", "module")  # of other trainers, around the weights
PREFIXES = ("module.", "_orig_mod.", "model.")  # before each name: DistributedDataParallel, torch.compile, Lightning
NOT_IMPORTED = r"decoder\..+|encoder\.embed\.pos_enc\.pe|.+\.concat_linear\..+"  # the second is computed anew

# Our name of a block's part -> WeNet's, where weight and bias keep name and shape.
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
TOP_PARTS = {"encoder.final_norm": "encoder.after_norm", "ctc_head": "ctc.ctc_lo"}


def wenet_names(name: str, *, subsampling_factor: int) -> list[str]:
    """WeNet's names of the weights that make up ours: one, or the three of a fused projection."""
    module, _, leaf = name.rpartition(".")
    if block := re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)", module):
        place, part = f"encoder.encoders.{block[1]}", block[2]
        if part == "attention.qkv_proj":
            return [f"{place}.self_attn.linear_{which}.{leaf}" for which in "qkv"]
        if part == "attention":  # bias_u and bias_v
            return [f"{place}.self_attn.pos_{leaf}"]
        return [f"{place}.{BLOCK_PARTS[part]}.{leaf}"]
    if module.startswith("encoder.subsampling.conv."):
        return [name.replace("subsampling", "embed")]
    if module == "encoder.subsampling.out":
        return [f"encoder.embed.{'out.0' if subsampling_factor == 4 else 'linear'}.{leaf}"]
    if module == "encoder":  # feature_mean and feature_istd
        return [f"encoder.global_cmvn.{leaf.removeprefix('feature_')}"]
    return [f"{TOP_PARTS[module]}.{leaf}"]


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read a state dict under WeNet's names, be it inside another dict or under the names of a wrapped model.

    Raises:
        ValueError: The file holds something else, or numbers that are not finite.
    """
    accepted = "torch.save of a model's state_dict() is accepted"
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of pickle, zipfile or torch: whatever the bytes lead to
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"{path} cannot be read as weights ({reason}): {accepted}") from error
    while isinstance(state, Mapping) and (inner := [key for key in WRAPPERS if isinstance(state.get(key), Mapping)]):
        state = state[inner[0]]
    if not isinstance(state, Mapping) or not state:
        raise ValueError(f"{path} holds {type(state).__name__}, not weights: {accepted}")
    while prefix := next((prefix for prefix in PREFIXES if all(str(key).startswith(prefix) for key in state)), None):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    for key, value in state.items():
        if not isinstance(value, torch.Tensor):
            raise ValueError(f"{path}: {key!r} is {type(value).__name__}, not a tensor: {accepted}")
        if not torch.isfinite(value).all():
            raise ValueError(f"{path}: {key!r} has values that are not finite: the file is damaged, or training failed")
    return dict(state)


def fill_biases(state: dict[str, torch.Tensor], without_bias: dict[str, str]) -> None:
    """Give the encoder's projections that have no bias one of zeros, which is the same.

    Raises:
        ValueError: One of them has a bias.
    """
    for key, weight in list(state.items()):
        block = re.fullmatch(r"(encoder\.encoders\.\d+\.(.+))\.weight", key)
        if block and (option := without_bias.get(block[2])):
            if f"{block[1]}.bias" in state:
                raise ValueError(f"final.pt has {block[1]}.bias, but train.yaml says encoder_conf.{option}: false")
            state[f"{block[1]}.bias"] = weight.new_zeros(weight.shape[0])


def convert_state_dict(state: dict[str, torch.Tensor], config: ConformerConfig) -> dict[str, torch.Tensor]:
    """WeNet's weights under our names. The attention decoder is set aside, and so is what is computed anew.

    Raises:
        ValueError: A weight has no place here, is missing or has another shape; its name is WeNet's.
    """
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in ConformerForCTC(config).state_dict().items()}
    sources = {name: wenet_names(name, subsampling_factor=config.subsampling_factor) for name in shapes}
    known = {source for names in sources.values() for source in names}
    if extra := [key for key in state if key not in known and not re.fullmatch(NOT_IMPORTED, key)]:
        shape = tuple(state[extra[0]].shape)
        raise ValueError(f"final.pt: {_named(extra)}, of shape {shape}, has no place in the Conformer of train.yaml")
    counters = {key: torch.tensor(0) for key in known if key.endswith("num_batches_tracked")}  # older files lack them
    if missing := [key for names in sources.values() for key in names if key not in state | counters]:
        raise ValueError(f"final.pt: {_named(missing)} is missing, which the Conformer of train.yaml has")
    converted = {}
    for name, names in sources.items():
        parts = [(counters | state)[key] for key in names]
        if "pointwise_conv" in name and name.endswith("weight"):
            parts = [part.squeeze(-1) for part in parts]  # a convolution of width one is a projection
        shape = shapes[name] if len(parts) == 1 else (shapes[name][0] // len(parts), *shapes[name][1:])
        for key, part in zip(names, parts, strict=True):
            if part.shape != shape:
                raise ValueError(f"final.pt: {key} has shape {tuple(part.shape)}; by train.yaml it is {tuple(shape)}")
        converted[name] = torch.cat(parts) if len(parts) > 1 else parts[0]
    return converted


def _named(keys: list[str]) -> str:
    return keys[0] + (f" (and {len(keys) - 1} more)" if len(keys) > 1 else "")


def read_cmvn(path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and inverse standard deviation of WeNet's JSON statistics, or of Kaldi's as text.

    Raises:
        ValueError: The file is missing or something else.
    """
    if not path.is_file():
        raise ValueError(f"{path} is missing: train.yaml names it, and final.pt does not hold its numbers")
    try:
        text = path.read_text(encoding="utf-8-sig").strip()
        if text.startswith("["):  # two rows: sums and the count of frames, sums of squares and a zero
            values = [float(value) for value in text.strip("[] \n").split()]
            *mean, count = values[: len(values) // 2]
            *squares, zero = values[len(values) // 2 :]
            if zero != 0:
                raise ValueError("the second row does not end with 0")
        else:
            statistics = json.loads(text)
            mean, squares, count = statistics["mean_stat"], statistics["var_stat"], statistics["frame_num"]
        mean = torch.tensor(mean, dtype=torch.float64) / count
        variance = torch.tensor(squares, dtype=torch.float64) / count - mean.square()
    except (ValueError, KeyError, TypeError, ZeroDivisionError, RuntimeError) as error:
        raise ValueError(
            f"{path} holds no statistics ({type(error).__name__}: {error}): JSON with mean_stat, var_stat and "
            "frame_num is accepted, and Kaldi's text (compute-cmvn-stats --binary=false)"
        ) from error
    if not (mean.ndim == 1 and mean.isfinite().all() and variance.isfinite().all()):
        raise ValueError(f"{path} has statistics that are not finite, or no list of them")
    return mean.float(), variance.clamp(min=1e-20).rsqrt().float()


def import_wenet(wenet_dir: str | Path, output_dir: str | Path | None = None) -> tuple:
    """Model and processor of a WeNet directory, saved to `output_dir` if given.

    Raises:
        ValueError: A file is missing, or describes what cannot be imported; or `output_dir` holds something already.
    """
    wenet_dir = Path(wenet_dir)
    for name in ("train.yaml", "units.txt", "final.pt"):
        if not (wenet_dir / name).is_file():
            raise ValueError(f"{wenet_dir} is no WeNet model directory: it has no {name}")
    if output_dir is not None and Path(output_dir).exists() and (Path(output_dir).is_file() or os.listdir(output_dir)):
        raise ValueError(f"{output_dir} must be a new or an empty folder, but it holds something already")
    state = read_weights(wenet_dir / "final.pt")
    if "ctc.ctc_lo.weight" not in state:
        raise ValueError(f"{wenet_dir / 'final.pt'} has no CTC head: there is no ctc.ctc_lo.weight")
    vocab_size = state["ctc.ctc_lo.weight"].shape[0]
    units = read_units(wenet_dir / "units.txt")
    if len(units) != vocab_size:
        raise ValueError(f"{wenet_dir}: units.txt has {len(units)} units, but final.pt's CTC head {vocab_size} outputs")
    recipe = parse_recipe(load_recipe(wenet_dir / "train.yaml"), vocab_size=vocab_size)
    tokenizer = read_tokenizer(
        units, special_tokens=recipe.special_tokens, pieces=find_pieces(wenet_dir, recipe.bpe_path)
    )
    config = recipe.config
    config.pad_token_id, config.bos_token_id, config.eos_token_id = 0, tokenizer.bos_token_id, tokenizer.eos_token_id
    if "encoder.global_cmvn.mean" not in state:
        state |= _cmvn(wenet_dir, recipe)
    fill_biases(state, recipe.without_bias)
    model = ConformerForCTC(config)
    model.load_state_dict(convert_state_dict(state, config), strict=True)
    if decoder := [key for key in state if key.startswith("decoder.")]:
        logger.warning("%s: %d weights of the attention decoder are set aside", wenet_dir, len(decoder))
    processor = ConformerProcessor(recipe.extractor, tokenizer)
    if output_dir is not None:
        _save(model, processor, Path(output_dir))
    return model.eval(), processor


def _cmvn(wenet_dir: Path, recipe: WenetRecipe) -> dict[str, torch.Tensor]:
    """The statistics that final.pt lacks."""
    mean, istd = torch.zeros(recipe.config.num_mel_bins), torch.ones(recipe.config.num_mel_bins)
    if recipe.has_cmvn:
        if recipe.cmvn_file is None:
            raise ValueError(
                "train.yaml: cmvn is global_cmvn, but no cmvn_conf.cmvn_file is named and final.pt has none"
            )
        path = wenet_dir / Path(recipe.cmvn_file).name  # a released recipe keeps its author's path
        mean, istd = read_cmvn(path)
        if len(mean) != recipe.config.num_mel_bins:
            raise ValueError(f"{path} is of {len(mean)} mel bins, but the features have {recipe.config.num_mel_bins}")
    return {"encoder.global_cmvn.mean": mean, "encoder.global_cmvn.istd": istd}


def _save(model: ConformerForCTC, processor: ConformerProcessor, output_dir: Path) -> None:
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output_dir.parent, prefix=f"{output_dir.name}.partial") as partial:
        checkpoint = Path(partial) / "checkpoint"
        model.save_pretrained(checkpoint)
        processor.save_pretrained(checkpoint)
        checkpoint.replace(output_dir)

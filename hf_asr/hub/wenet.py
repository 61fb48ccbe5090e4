"""Import WeNet's Conformer encoders with their CTC head (https://github.com/wenet-e2e/wenet).

A model directory contains `final.pt`, `train.yaml`, `units.txt` and usually `global_cmvn`. If its units are BPE pieces,
it also contains a sentencepiece model, such as `train_960_unigram5000.model`.
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

WRAPPERS = ("model", "state_dict", "model_state_dict", "module")  # keys under which trainers store the weights
PREFIXES = ("module.", "_orig_mod.", "model.")  # of all names: DistributedDataParallel, torch.compile, Lightning
NOT_IMPORTED = r"decoder\..+|encoder\.embed\.pos_enc\.pe|.+\.concat_linear\..+"  # positions (pe) are computed

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
TOP_PARTS = {"encoder.final_norm": "encoder.after_norm", "ctc_head": "ctc.ctc_lo"}


def wenet_names(name: str, *, subsampling_factor: int) -> list[str]:
    """Return WeNet's names of the weights that form one of ours: one name, or three for a fused projection."""
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
    """Read a state dict with WeNet's names; it may be inside another dict, or its names may have a prefix.

    Raises:
        ValueError: The file does not contain weights, or they are not finite.
    """
    accepted = "torch.save of a model's state_dict() is accepted"
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of pickle, zipfile or torch, depending on the bytes
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"{path} cannot be read as weights ({reason}): {accepted}") from error
    while isinstance(state, Mapping) and (inner := [key for key in WRAPPERS if isinstance(state.get(key), Mapping)]):
        state = state[inner[0]]
    if not isinstance(state, Mapping) or not state:
        raise ValueError(f"{path} contains {type(state).__name__}, not weights: {accepted}")
    while prefix := next((prefix for prefix in PREFIXES if all(str(key).startswith(prefix) for key in state)), None):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    for key, value in state.items():
        if not isinstance(value, torch.Tensor):
            raise ValueError(f"{path}: {key!r} is {type(value).__name__}, not a tensor: {accepted}")
        if not torch.isfinite(value).all():
            raise ValueError(f"{path}: {key!r} has values that are not finite: the file is damaged, or training failed")
    return dict(state)


def fill_biases(state: dict[str, torch.Tensor], without_bias: dict[str, str]) -> None:
    """Add a bias of zeros, which changes nothing, to the projections of the encoder that have no bias.

    Args:
        without_bias: WeNet's name of each such projection -> the option of train.yaml that removes its bias.

    Raises:
        ValueError: One of these projections has a bias.
    """
    for key, weight in list(state.items()):
        block = re.fullmatch(r"(encoder\.encoders\.\d+\.(.+))\.weight", key)
        if block and (option := without_bias.get(block[2])):
            if f"{block[1]}.bias" in state:
                raise ValueError(f"final.pt has {block[1]}.bias, but train.yaml has encoder_conf.{option}: false")
            state[f"{block[1]}.bias"] = weight.new_zeros(weight.shape[0])


def convert_state_dict(state: dict[str, torch.Tensor], config: ConformerConfig) -> dict[str, torch.Tensor]:
    """Return WeNet's weights with our names, without the attention decoder.

    Raises:
        ValueError: A weight is unknown, is missing or has another shape; the message has WeNet's name of it.
    """
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in ConformerForCTC(config).state_dict().items()}
    sources = {name: wenet_names(name, subsampling_factor=config.subsampling_factor) for name in shapes}
    known = {source for names in sources.values() for source in names}
    if extra := [key for key in state if key not in known and not re.fullmatch(NOT_IMPORTED, key)]:
        shape = tuple(state[extra[0]].shape)
        raise ValueError(f"final.pt: {_named(extra)}, of shape {shape}, has no place in the Conformer of train.yaml")
    counters = {key: torch.tensor(0) for key in known if key.endswith("num_batches_tracked")}  # missing in older files
    if missing := [key for names in sources.values() for key in names if key not in state | counters]:
        raise ValueError(f"final.pt: {_named(missing)} is missing, which the Conformer of train.yaml has")
    converted = {}
    for name, names in sources.items():
        parts = [(counters | state)[key] for key in names]
        if "pointwise_conv" in name and name.endswith("weight"):
            parts = [part.squeeze(-1) for part in parts]  # a convolution with kernel size 1 is a projection
        shape = shapes[name] if len(parts) == 1 else (shapes[name][0] // len(parts), *shapes[name][1:])
        for key, part in zip(names, parts, strict=True):
            if part.shape != shape:
                raise ValueError(f"final.pt: {key} has shape {tuple(part.shape)}; by train.yaml it is {tuple(shape)}")
        converted[name] = torch.cat(parts) if len(parts) > 1 else parts[0]
    return converted


def _named(keys: list[str]) -> str:
    """Return the first name and the number of the others."""
    return keys[0] + (f" (and {len(keys) - 1} more)" if len(keys) > 1 else "")


def read_cmvn(path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and inverse standard deviation, (num_mel_bins,) each, from WeNet's JSON or Kaldi's text statistics.

    Raises:
        ValueError: The file is missing or contains no statistics.
    """
    if not path.is_file():
        raise ValueError(f"{path} is missing: train.yaml names it, and final.pt does not contain its numbers")
    try:
        text = path.read_text(encoding="utf-8-sig").strip()
        if text.startswith("["):  # two rows: sums and the number of frames; sums of squares and a zero
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
            f"{path} contains no statistics ({type(error).__name__}: {error}): JSON with mean_stat, var_stat and "
            "frame_num is accepted, and Kaldi's text (compute-cmvn-stats --binary=false)"
        ) from error
    if not (mean.ndim == 1 and mean.isfinite().all() and variance.isfinite().all()):
        raise ValueError(f"{path} has statistics that are not finite or not a list")
    return mean.float(), variance.clamp(min=1e-20).rsqrt().float()


def import_wenet(
    wenet_dir: str | Path, output_dir: str | Path | None = None
) -> tuple[ConformerForCTC, ConformerProcessor]:
    """Return the model and the processor of a WeNet directory, and save them to `output_dir` if it is given.

    Raises:
        ValueError: A file is missing or describes a model that cannot be imported, or `output_dir` is not empty.
    """
    wenet_dir = Path(wenet_dir)
    for name in ("train.yaml", "units.txt", "final.pt"):
        if not (wenet_dir / name).is_file():
            raise ValueError(f"{wenet_dir} is not a WeNet model directory: it has no {name}")
    if output_dir is not None and Path(output_dir).exists() and (Path(output_dir).is_file() or os.listdir(output_dir)):
        raise ValueError(f"{output_dir} must be a new or an empty folder, but it is not empty")
    state = read_weights(wenet_dir / "final.pt")
    if "ctc.ctc_lo.weight" not in state:
        raise ValueError(f"{wenet_dir / 'final.pt'} has no CTC head: ctc.ctc_lo.weight is missing")
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
        logger.warning("%s: %d weights of the attention decoder are not imported", wenet_dir, len(decoder))
    processor = ConformerProcessor(recipe.extractor, tokenizer)
    if output_dir is not None:
        _save(model, processor, Path(output_dir))
    return model.eval(), processor


def _cmvn(wenet_dir: Path, recipe: WenetRecipe) -> dict[str, torch.Tensor]:
    """Return the mean and the inverse standard deviation of the features, which final.pt lacks, by WeNet's names."""
    mean, istd = torch.zeros(recipe.config.num_mel_bins), torch.ones(recipe.config.num_mel_bins)
    if recipe.has_cmvn:
        if recipe.cmvn_file is None:
            raise ValueError(
                "train.yaml: cmvn is global_cmvn, but no cmvn_conf.cmvn_file is named and final.pt has none"
            )
        path = wenet_dir / Path(recipe.cmvn_file).name  # released recipes contain the path on their author's disk
        mean, istd = read_cmvn(path)
        if len(mean) != recipe.config.num_mel_bins:
            raise ValueError(f"{path} has {len(mean)} mel bins, but the features have {recipe.config.num_mel_bins}")
    return {"encoder.global_cmvn.mean": mean, "encoder.global_cmvn.istd": istd}


def _save(model: ConformerForCTC, processor: ConformerProcessor, output_dir: Path) -> None:
    """Save to a temporary folder first, so that an error leaves no half-written checkpoint."""
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output_dir.parent, prefix=f"{output_dir.name}.partial") as partial:
        checkpoint = Path(partial) / "checkpoint"
        model.save_pretrained(checkpoint)
        processor.save_pretrained(checkpoint)
        checkpoint.replace(output_dir)

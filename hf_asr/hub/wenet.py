"""Import WeNet's Conformers: encoder, CTC head and attention decoders (https://github.com/wenet-e2e/wenet).

A model directory contains `final.pt`, `train.yaml`, `units.txt` and usually `global_cmvn`. If its units are BPE pieces,
it also contains a sentencepiece model, such as `train_960_unigram5000.model`.
"""

import json
import logging
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch

from ..files import check_empty_folder, folder_written_beside, let_others_read_weights
from ..model import ConformerConfig, ConformerForCTC, ConformerProcessor
from .wenet_recipe import WenetRecipe, load_recipe, parse_recipe
from .wenet_units import find_pieces, read_tokenizer, read_units
from .wenet_weights import from_wenet, narrow_subsampling

logger = logging.getLogger(__name__)

WRAPPERS = ("model", "state_dict", "model_state_dict", "module")  # keys under which trainers store the weights
PREFIXES = ("module.", "_orig_mod.", "model.")  # of all names: DistributedDataParallel, torch.compile, Lightning


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
    """Add a bias of zeros, which changes nothing, to the projections that have no bias.

    Args:
        without_bias: Regular expression of WeNet's names of projections -> the option of train.yaml that removes their
            bias.

    Raises:
        ValueError: One of these projections has a bias.
    """
    for key, weight in list(state.items()):
        name, _, leaf = key.rpartition(".")
        option = next((option for names, option in without_bias.items() if re.fullmatch(names, name)), None)
        if leaf == "weight" and option:
            if f"{name}.bias" in state:
                raise ValueError(f"final.pt has {name}.bias, but train.yaml has {option}: false")
            state[f"{name}.bias"] = weight.new_zeros(weight.shape[0])


def set_aside(state: dict[str, torch.Tensor], config: ConformerConfig) -> dict[str, int]:
    """Remove the modules of WeNet's model that ours does not have; return {name: its number of weights}."""
    modules = {"encoder", "ctc", "decoder"} if config.decoder_layers else {"encoder", "ctc"}
    others = Counter(name for key in state if (name := key.partition(".")[0]) not in modules)
    for key in [key for key in state if key.partition(".")[0] in others]:
        del state[key]
    return dict(others)


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
    if output_dir is not None:
        check_empty_folder(output_dir)
    state = read_weights(wenet_dir / "final.pt")
    if "ctc.ctc_lo.weight" not in state:
        raise ValueError(f"{wenet_dir / 'final.pt'} has no CTC head: ctc.ctc_lo.weight is missing")
    vocab_size = state["ctc.ctc_lo.weight"].shape[0]
    units = read_units(wenet_dir / "units.txt")
    if len(units) != vocab_size:
        raise ValueError(f"{wenet_dir}: units.txt has {len(units)} units, but final.pt's CTC head {vocab_size} outputs")
    recipe = parse_recipe(load_recipe(wenet_dir / "train.yaml"), vocab_size=vocab_size)
    tokenizer = read_tokenizer(
        units,
        special_tokens=recipe.special_tokens,
        pieces=find_pieces(wenet_dir, recipe.bpe_path),
        text_normalization=recipe.text_normalization,
    )
    config = recipe.config
    config.pad_token_id, config.bos_token_id, config.eos_token_id = 0, tokenizer.bos_token_id, tokenizer.eos_token_id
    if others := set_aside(state, config):
        names = ", ".join(f"{name} ({count} weights)" for name, count in others.items())
        logger.warning("%s: not imported: %s", wenet_dir, names)
    if "encoder.global_cmvn.mean" not in state:
        state |= _cmvn(wenet_dir, recipe)
    fill_biases(state, recipe.without_bias)
    model = ConformerForCTC(config)
    model.load_state_dict(from_wenet(narrow_subsampling(state, config), config), strict=True)
    processor = ConformerProcessor(recipe.extractor, tokenizer)
    if output_dir is not None:
        with folder_written_beside(output_dir) as folder:
            model.save_pretrained(folder)
            processor.save_pretrained(folder)
            let_others_read_weights(folder)
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

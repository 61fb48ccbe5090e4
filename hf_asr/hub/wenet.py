"""Importing WeNet's Conformer encoders with their CTC head (https://github.com/wenet-e2e/wenet).

A model directory holds `final.pt`, `train.yaml`, `units.txt` and, as a rule, `global_cmvn`; a model of BPE also its
sentencepiece model, `train_960_unigram5000.model` or the like.
"""

import json
import logging
import re
from pathlib import Path

import torch
import yaml
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from transformers.convert_slow_tokenizer import import_protobuf

from ..model import (
    ConformerConfig,
    ConformerFeatureExtractor,
    ConformerForCTC,
    ConformerProcessor,
    ConformerTokenizer,
)
from ..model.tokenization_conformer import NO_SPACES_AT_HAN, SPACE, splits_special_tokens, text_normalizer

logger = logging.getLogger(__name__)

SUBSAMPLING = {"conv2d": 4, "conv2d6": 6, "conv2d8": 8}
ACTIVATIONS = {"swish": "silu", "relu": "relu", "gelu": "gelu"}

# WeNet's name of a block's part -> ours, where weight and bias keep name and shape.
BLOCK_PARTS = {
    "norm_ff_macaron": "feed_forward1_norm",
    "feed_forward_macaron.w_1": "feed_forward1.up_proj",
    "feed_forward_macaron.w_2": "feed_forward1.down_proj",
    "norm_mha": "attention_norm",
    "self_attn.linear_out": "attention.o_proj",
    "self_attn.linear_pos": "attention.position_proj",
    "norm_conv": "convolution_norm",
    "conv_module.pointwise_conv1": "convolution.pointwise_conv1",
    "conv_module.depthwise_conv": "convolution.depthwise_conv",
    "conv_module.norm": "convolution.norm",
    "conv_module.pointwise_conv2": "convolution.pointwise_conv2",
    "norm_ff": "feed_forward2_norm",
    "feed_forward.w_1": "feed_forward2.up_proj",
    "feed_forward.w_2": "feed_forward2.down_proj",
    "norm_final": "final_norm",
}
TOP_PARTS = {
    "encoder.embed.out.0": "encoder.subsampling.out",  # conv2d
    "encoder.embed.linear": "encoder.subsampling.out",  # conv2d6 and conv2d8
    "encoder.after_norm": "encoder.final_norm",
    "ctc.ctc_lo": "ctc_head",
}


def config_from_wenet(recipe: dict, *, vocab_size: int) -> ConformerConfig:
    """The configuration that `train.yaml` describes.

    Raises:
        ValueError: It describes what this model cannot hold; the message names it.
    """
    encoder = recipe.get("encoder_conf", {})

    def require(name: str, value: object, accepted: tuple) -> None:
        if value not in accepted:
            raise ValueError(f"WeNet's {name}: {value!r} cannot be imported, only {', '.join(map(repr, accepted))}")

    require("encoder", recipe.get("encoder"), ("conformer",))
    require("input_layer", encoder.get("input_layer", "conv2d"), tuple(SUBSAMPLING))
    require("pos_enc_layer_type", encoder.get("pos_enc_layer_type", "rel_pos"), ("rel_pos",))
    require("selfattention_layer_type", encoder.get("selfattention_layer_type", "rel_selfattn"), ("rel_selfattn",))
    require("activation_type", encoder.get("activation_type", "swish"), tuple(ACTIVATIONS))
    require("cnn_module_norm", encoder.get("cnn_module_norm", "batch_norm"), ("batch_norm", "layer_norm"))
    for name in ("normalize_before", "use_cnn_module", "macaron_style"):
        require(name, encoder.get(name, True), (True,))
    feed_forward = "position_wise_feed_forward"
    require("mlp_type", encoder.get("mlp_type", feed_forward), (feed_forward,))  # a mixture of experts is "moe"
    require("num_experts", encoder.get("num_experts"), (None,))
    require("n_kv_head", encoder.get("n_kv_head"), (None, encoder["attention_heads"]))
    require("head_dim", encoder.get("head_dim"), (None, encoder["output_size"] // encoder["attention_heads"]))
    require("layer_norm_type", encoder.get("layer_norm_type", "layer_norm"), ("layer_norm",))
    require("feats_type", (recipe.get("dataset_conf") or {}).get("feats_type", "fbank"), ("fbank",))
    model = recipe.get("model_conf") or {}
    require("apply_non_blank_embedding", model.get("apply_non_blank_embedding", False), (False,))
    return ConformerConfig(
        vocab_size=vocab_size,
        hidden_size=encoder["output_size"],
        num_hidden_layers=encoder["num_blocks"],
        num_attention_heads=encoder["attention_heads"],
        intermediate_size=encoder["linear_units"],
        hidden_act=ACTIVATIONS[encoder.get("activation_type", "swish")],
        conv_kernel_size=encoder.get("cnn_module_kernel", 15),
        conv_norm=encoder.get("cnn_module_norm", "batch_norm"),
        conv_bias=True,
        causal_conv=encoder.get("causal", False),
        subsampling_factor=SUBSAMPLING[encoder.get("input_layer", "conv2d")],
        position_embeddings="absolute",
        scale_input=True,
        hidden_dropout=encoder.get("dropout_rate", 0.1),
        activation_dropout=encoder.get("dropout_rate", 0.1),
        attention_dropout=encoder.get("attention_dropout_rate", 0.0),
        layer_norm_eps=encoder.get("norm_eps", 1e-5),
        num_mel_bins=recipe.get("input_dim") or recipe["dataset_conf"]["fbank_conf"]["num_mel_bins"],
    )


def convert_state_dict(state: dict[str, torch.Tensor], config: ConformerConfig) -> dict[str, torch.Tensor]:
    """WeNet's weights under our names. The attention decoder is set aside, and so is what is computed anew.

    Raises:
        ValueError: A weight that has no place here, by name.
    """
    converted: dict[str, torch.Tensor] = {}
    attention: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in state.items():
        module, _, leaf = key.rpartition(".")
        block = re.fullmatch(r"encoder\.encoders\.(\d+)\.(.+)", module)
        if key.startswith("decoder.") or key == "encoder.embed.pos_enc.pe" or ".concat_linear." in key:
            continue
        if module == "encoder.global_cmvn":
            converted[f"encoder.feature_{leaf}"] = value
        elif convolution := re.fullmatch(r"encoder\.embed\.conv\.(\d+)", module):
            converted[f"encoder.subsampling.conv.{convolution[1]}.{leaf}"] = value
        elif module in TOP_PARTS:
            converted[f"{TOP_PARTS[module]}.{leaf}"] = value
        elif block and block[2] in ("self_attn.linear_q", "self_attn.linear_k", "self_attn.linear_v"):
            attention.setdefault(f"encoder.layers.{block[1]}.attention.qkv_proj.{leaf}", {})[block[2][-1]] = value
        elif block and block[2] == "self_attn" and leaf in ("pos_bias_u", "pos_bias_v"):
            converted[f"encoder.layers.{block[1]}.attention.{leaf.removeprefix('pos_')}"] = value
        elif block and block[2] in BLOCK_PARTS:
            if "pointwise_conv" in module and leaf == "weight":
                value = value.squeeze(-1)  # a convolution of width one is a projection
            converted[f"encoder.layers.{block[1]}.{BLOCK_PARTS[block[2]]}.{leaf}"] = value
        else:
            raise ValueError(f"WeNet's weight {key!r} {tuple(value.shape)} has no place in this Conformer")
    for key, parts in attention.items():
        converted[key] = torch.cat([parts[name] for name in "qkv"])
    return converted


def read_cmvn(path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and inverse standard deviation of WeNet's JSON statistics."""
    statistics = json.loads(path.read_text())
    count = statistics["frame_num"]
    mean = torch.tensor(statistics["mean_stat"], dtype=torch.float64) / count
    variance = torch.tensor(statistics["var_stat"], dtype=torch.float64) / count - mean.square()
    return mean.float(), variance.clamp(min=1e-20).rsqrt().float()


def find_pieces(wenet_dir: Path, recipe: dict) -> Path | None:
    """The sentencepiece model that the recipe names, or else the one there is; None where there is none.

    Raises:
        ValueError: There are several, and the recipe names none of them.
    """
    named = (recipe.get("tokenizer_conf") or {}).get("bpe_path")
    if named and (wenet_dir / Path(named).name).is_file():  # a released recipe keeps its author's path
        return wenet_dir / Path(named).name
    found = sorted(wenet_dir.glob("*.model"))
    if len(found) > 1:
        raise ValueError(f"{wenet_dir} has {len(found)} sentencepiece models: leave the one that goes with units.txt")
    return found[0] if found else None


def read_tokenizer(
    units: Path, *, special_tokens: dict[str, int] | None = None, pieces: Path | None = None
) -> ConformerTokenizer:
    """A tokenizer with the ids of `units.txt`; `<sos/eos>` is the last unless the recipe says otherwise.

    Args:
        pieces: The sentencepiece model that cuts transcripts into units of several characters. Without it a model of
            such units transcribes, and is not fine-tuned without a new vocabulary.
    """
    vocabulary = {}
    for line in units.read_text(encoding="utf-8-sig").splitlines():
        if line.strip():
            token, place = line.rsplit(maxsplit=1)
            vocabulary[SPACE if token == "<space>" else token] = int(place)
    names = {place: token for token, place in vocabulary.items()}
    sos_eos = names[(special_tokens or {}).get("<eos>", max(names))]
    unknown = names[(special_tokens or {}).get("<unk>", 1)]
    are_pieces = any(len(token) > 1 and not re.fullmatch(r"<.+>|\[.+\]", token) for token in vocabulary)
    if are_pieces and pieces is not None:
        tokenizer = _piece_tokenizer(vocabulary, unknown, pieces)
    else:
        if are_pieces:
            logger.warning(
                "%s: units of several characters, and no sentencepiece .model beside it: it transcribes, and is "
                "fine-tuned with --vocabulary new only",
                units,
            )
        tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=unknown))
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Metaspace(SPACE, prepend_scheme="never", split=False),
                pre_tokenizers.Split(Regex("."), "isolated"),
            ]
        )
    tokenizer.normalizer = text_normalizer("none")
    if are_pieces:  # WeNet makes capitals of what it cuts into pieces, and its pieces know no space beside Han
        tokenizer.normalizer = normalizers.Sequence([tokenizer.normalizer, NO_SPACES_AT_HAN])
    return ConformerTokenizer(
        tokenizer_object=tokenizer,
        pad_token=names[0],
        unk_token=unknown,
        bos_token=sos_eos,
        eos_token=sos_eos,
        clean_up_tokenization_spaces=False,
        text_normalization="none",
        **({"in_capitals": True} if are_pieces else {}),
    )


def _piece_tokenizer(vocabulary: dict[str, int], unknown: str, path: Path) -> Tokenizer:
    """Cuts text as WeNet does: each Han character is a token, sentencepiece cuts what stands between them.

    Raises:
        ValueError: The file is no sentencepiece model of BPE or unigrams.
    """
    proto = import_protobuf().ModelProto()
    try:
        proto.ParseFromString(path.read_bytes())
    except Exception as error:  # protobuf's DecodeError, which this package does not depend on
        raise ValueError(f"{path} is no sentencepiece model: {error}") from error
    scores = {piece.piece: piece.score for piece in proto.pieces if piece.type == 1}  # normal ones
    if proto.trainer_spec.model_type == 1:
        lowest = min(scores.values(), default=0.0)
        ordered = sorted(vocabulary, key=vocabulary.get)
        model = models.Unigram([(token, scores.get(token, lowest)) for token in ordered], vocabulary[unknown])
    elif proto.trainer_spec.model_type == 2:
        # Pieces that are only steps to longer ones are not in units.txt; their ids come after those of the model.
        steps = [piece for piece in scores if piece not in vocabulary]
        vocabulary = vocabulary | {piece: max(vocabulary.values()) + 1 + i for i, piece in enumerate(steps)}
        merges = sorted(
            (-scores[piece], piece[:cut], piece[cut:])
            for piece in scores
            for cut in range(1, len(piece))
            if piece[:cut] in scores and piece[cut:] in scores
        )
        model = models.BPE(vocabulary, [(left, right) for _, left, right in merges], unk_token=unknown, fuse_unk=True)
    else:
        raise ValueError(f"{path}: of sentencepiece's models those of BPE and unigrams are read")
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"[一-鿿]"), "isolated"),
            pre_tokenizers.Metaspace(SPACE, prepend_scheme="always"),
            pre_tokenizers.Split(Regex(rf"{SPACE}(?=[一-鿿])"), "removed"),
            splits_special_tokens(token for token in vocabulary if re.fullmatch(r"<.+>", token)),
        ]
    )
    return tokenizer


def import_wenet(wenet_dir: str | Path, output_dir: str | Path | None = None) -> tuple:
    """Model and processor of a WeNet directory, saved to `output_dir` if given.

    Raises:
        ValueError: A file is missing, or describes what cannot be imported.
    """
    wenet_dir = Path(wenet_dir)
    for name in ("train.yaml", "units.txt", "final.pt"):
        if not (wenet_dir / name).is_file():
            raise ValueError(f"{wenet_dir} is no WeNet model directory: it has no {name}")
    recipe = yaml.safe_load((wenet_dir / "train.yaml").read_text(encoding="utf-8"))
    special_tokens = (recipe.get("tokenizer_conf") or {}).get("special_tokens")
    tokenizer = read_tokenizer(
        wenet_dir / "units.txt", special_tokens=special_tokens, pieces=find_pieces(wenet_dir, recipe)
    )
    state = torch.load(wenet_dir / "final.pt", map_location="cpu", weights_only=True)
    config = config_from_wenet(recipe, vocab_size=state["ctc.ctc_lo.weight"].shape[0])
    config.pad_token_id, config.bos_token_id, config.eos_token_id = 0, tokenizer.bos_token_id, tokenizer.eos_token_id
    converted = convert_state_dict(state, config)
    if decoder := [key for key in state if key.startswith("decoder.")]:
        logger.warning("%s: %d weights of the attention decoder are set aside", wenet_dir, len(decoder))
    if "encoder.feature_mean" not in converted:
        cmvn = (recipe.get("cmvn_conf") or {}).get("cmvn_file")
        mean, istd = torch.zeros(config.num_mel_bins), torch.ones(config.num_mel_bins)
        if cmvn:  # a released recipe keeps its author's path
            mean, istd = read_cmvn(wenet_dir / Path(cmvn).name)
        converted |= {"encoder.feature_mean": mean, "encoder.feature_istd": istd}
    dataset = recipe.get("dataset_conf") or {}
    fbank = dataset.get("fbank_conf") or {}
    extractor = ConformerFeatureExtractor(
        num_mel_bins=config.num_mel_bins,
        sampling_rate=(dataset.get("resample_conf") or {}).get("resample_rate", 16000),
        frame_length=float(fbank.get("frame_length", 25)),
        frame_shift=float(fbank.get("frame_shift", 10)),
        high_freq=0.0,
        snip_edges=True,
        energy_floor=2**-23,
        min_duration=0.0,
    )
    config.hop_length = extractor.hop_length
    model = ConformerForCTC(config)
    model.load_state_dict(converted, strict=True)
    processor = ConformerProcessor(extractor, tokenizer)
    if output_dir is not None:
        model.save_pretrained(output_dir)
        processor.save_pretrained(output_dir)
    return model.eval(), processor

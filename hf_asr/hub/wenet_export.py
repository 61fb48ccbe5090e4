"""Write a checkpoint as a WeNet model directory, which `wenet.py` imports again without a difference.

Only the head of the phonemes (`phoneme_language`) is left out, because WeNet has none.

WeNet ignores the section `hf_asr` of `train.yaml`. It has the options that WeNet's other sections cannot express,
such as the rule of text normalisation.
"""

import inspect
import json
import logging
import re
from pathlib import Path
from typing import Any

import torch
import yaml
from tokenizers import models
from transformers.convert_slow_tokenizer import import_protobuf

from ..files import check_empty_folder, folder_written_beside, write_text
from ..model import ConformerConfig, ConformerFeatureExtractor, ConformerForCTC, ConformerProcessor, ConformerTokenizer
from ..model.tokenization_conformer import BLANK
from .wenet import import_wenet
from .wenet_recipe import ACTIVATIONS, POSITIONS, SUBSAMPLING, WINDOWS, parse_recipe
from .wenet_weights import to_wenet, widen_subsampling

logger = logging.getLogger("hf_asr")

PIECES = "bpe.model"
FEATURES = ConformerFeatureExtractor(high_freq=0.0, snip_edges=True, energy_floor=2**-23, min_duration=0.0)
CHOSEN = ("num_mel_bins", "sampling_rate", "frame_length", "frame_shift", "window_type")  # WeNet has options for these
PHONEME_OPTIONS = ("phoneme_language", "phonemes", "intermediate_ctc_layers")
EPS = 1e-5  # of the norms of all versions of WeNet


def export_wenet(
    model: ConformerForCTC,
    processor: ConformerProcessor,
    output_dir: str | Path,
    *,
    allow_other_features: bool = False,
) -> None:
    """Write `final.pt`, `train.yaml`, `units.txt`, `global_cmvn` and, for pieces, a sentencepiece model.

    Args:
        output_dir: A new or an empty folder.
        allow_other_features: Accept features that WeNet does not compute.

    Raises:
        ValueError: WeNet cannot express the model, its features or its vocabulary, or the folder is not empty.
    """
    config, tokenizer = model.config, processor.tokenizer
    check_empty_folder(output_dir)
    check_model(config)
    check_features(processor.feature_extractor, allow_other_features=allow_other_features)
    units = units_of(tokenizer, config)
    state = {name: value.detach().cpu() for name, value in model.state_dict().items() if "phoneme_head" not in name}
    state = {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
    if config.phonemes:
        logger.info("the head of the phonemes is left out: after an import, the lower layers have no loss of their own")
    with folder_written_beside(output_dir) as folder:
        torch.save(widen_subsampling(to_wenet(state, config), config), folder / "final.pt")
        write_text(folder / "train.yaml", yaml.safe_dump(recipe_of(model, processor), sort_keys=False))
        write_text(folder / "units.txt", "".join(f"{unit} {number}\n" for number, unit in enumerate(units)))
        write_text(folder / "global_cmvn", json.dumps(statistics(model)))
        if not isinstance(tokenizer.backend_tokenizer.model, models.WordLevel):
            (folder / PIECES).write_bytes(sentencepiece_model(tokenizer))
        imported, _ = import_wenet(folder)
        for name, value in imported.state_dict().items():
            if not torch.equal(value, state[name]):
                raise ValueError(f"{name} is not the same after a new import: please report this as a bug")
    if config.causal_conv and config.position_embeddings == "rotary":
        logger.warning(
            "WeNet itself streams models with position_embeddings 'absolute' only, and this one has 'rotary'"
        )


def check_model(config: ConformerConfig) -> None:
    """Raise ValueError, with the option's name, for a model that WeNet's Conformer cannot express."""
    accepted = {
        "block_type": ("conformer",),
        "subsampling_depthwise": (False,),
        "subsampling_channels": range(1, config.hidden_size + 1),
        "conv_expansion_factor": (1, 2, 3, 4),
        "head_dim": (config.hidden_size / config.num_attention_heads,),
        "hidden_act": tuple(ACTIVATIONS.values()),
        "decoder_hidden_act": (None, *ACTIVATIONS.values()),
        "pad_token_id": (0,),
        "bos_token_id": (config.eos_token_id,),
    }
    if config.position_embeddings == "rotary":
        accepted["rope_theta"] = (10000,)
    if config.conv_norm == "batch_norm":
        accepted["layer_norm_eps"] = (EPS,)
    for name, choices in accepted.items():
        if (value := getattr(config, name)) not in choices:
            allowed = f"1 to {choices[-1]}" if isinstance(choices, range) else ", ".join(map(repr, choices))
            raise ValueError(f"{name} is {value!r}, which WeNet's Conformer does not have, only {allowed}")


def check_features(extractor: ConformerFeatureExtractor, *, allow_other_features: bool) -> None:
    """Raise ValueError for features that WeNet does not compute.

    Args:
        allow_other_features: Accept all but denoising.
    """
    if extractor.denoise:
        raise ValueError("this checkpoint relies on denoising, which WeNet does not do")
    other = {name: value for name, value in differences(extractor, FEATURES).items() if name not in CHOSEN}
    if other and not allow_other_features:
        values = ", ".join(f"{name} {value} (it has {getattr(FEATURES, name)})" for name, value in other.items())
        raise ValueError(
            f"WeNet computes other features than this checkpoint's: {values}; --allow_other_features exports it "
            "nevertheless, and WeNet's text can differ a little"
        )


def differences(extractor: ConformerFeatureExtractor, other: ConformerFeatureExtractor) -> dict[str, Any]:
    """Return the options of an extractor that another one has not."""
    names = [name for name in inspect.signature(ConformerFeatureExtractor).parameters if hasattr(extractor, name)]
    return {name: getattr(extractor, name) for name in names if getattr(extractor, name) != getattr(other, name)}


def units_of(tokenizer: ConformerTokenizer, config: ConformerConfig) -> list[str]:
    """Return the unit of each output of the CTC head.

    Raises:
        ValueError: WeNet cannot have this vocabulary.
    """
    units = [tokenizer.convert_ids_to_tokens(number) for number in range(min(config.vocab_size, len(tokenizer)))]
    if len(units) < config.vocab_size:
        raise ValueError(f"the CTC head has {config.vocab_size} outputs, but the tokenizer only {len(units)} tokens")
    if odd := [unit for unit in units if unit.split() != [unit]]:
        raise ValueError(f"the token {odd[0]!r} is white space, which units.txt cannot contain")
    if isinstance(tokenizer.backend_tokenizer.model, models.WordLevel):
        if several := [unit for unit in units if len(unit) > 1 and not re.fullmatch(r"<.+>|\[.+\]", unit)]:
            raise ValueError(f"the token {several[0]!r} has several characters, and there is no sentencepiece model")
    elif not tokenizer.init_kwargs.get("in_capitals"):
        raise ValueError(
            "the vocabulary is BPE that was learned here, which is not WeNet's (it splits text in capitals by a "
            "sentencepiece model): use tokenizer char"
        )
    return ["<blank>" if unit == BLANK else unit for unit in units]


def sentencepiece_model(tokenizer: ConformerTokenizer) -> bytes:
    """Return the sentencepiece model of an imported tokenizer; sorted by id, with the scores that order its merges."""
    backend = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    proto = import_protobuf().ModelProto()
    proto.trainer_spec.model_type = {"Unigram": 1, "BPE": 2}[backend["type"]]
    if backend["type"] == "Unigram":
        scores = dict(backend["vocab"])
    else:
        ordered = dict.fromkeys("".join(pair) for pair in backend["merges"])
        # Characters have the lowest scores.
        ordered |= dict.fromkeys(sorted(backend["vocab"], key=backend["vocab"].get))
        scores = {piece: -float(rank) for rank, piece in enumerate(ordered)}
    special = {tokenizer.pad_token, tokenizer.unk_token, tokenizer.eos_token}
    proto.pieces.add(piece="<unk>", score=0.0, type=2)
    for piece in sorted(scores, key=tokenizer.get_vocab().get):
        if piece not in special:
            proto.pieces.add(piece=piece, score=scores[piece], type=1)
    return proto.SerializeToString()


def statistics(model: ConformerForCTC) -> dict[str, Any]:
    """Return the content of `global_cmvn`, whose mean and variance are those of the model."""
    mean, istd = model.encoder.feature_mean.double(), model.encoder.feature_istd.double()
    squares = istd**-2 + mean.square()
    return {"mean_stat": mean.tolist(), "var_stat": squares.tolist(), "frame_num": 1}


def recipe_of(model: ConformerForCTC, processor: ConformerProcessor) -> dict[str, Any]:
    """Return the content of `train.yaml`."""
    config, tokenizer, extractor = model.config, processor.tokenizer, processor.feature_extractor
    is_bpe = not isinstance(tokenizer.backend_tokenizer.model, models.WordLevel)
    fbank = {name: getattr(extractor, name) for name in ("num_mel_bins", "frame_length", "frame_shift", "dither")}
    if extractor.window_type != "povey":
        fbank["window_type"] = _key(WINDOWS, extractor.window_type)
    sos_eos = tokenizer.eos_token_id
    special_tokens = {"<blank>": 0, "<unk>": tokenizer.unk_token_id, "<sos>": sos_eos, "<eos>": sos_eos}
    recipe = {
        "encoder": "conformer",
        "encoder_conf": encoder_conf(config),
        **decoder_conf(config),
        "ctc": "ctc",
        "ctc_conf": {"ctc_blank_id": 0},
        "tokenizer": "bpe" if is_bpe else "char",
        "tokenizer_conf": {
            "symbol_table_path": "units.txt",
            "split_with_space": False,
            "bpe_path": PIECES if is_bpe else None,
            "non_lang_syms_path": None,
            "special_tokens": special_tokens,
        },
        "cmvn": "global_cmvn",
        "cmvn_conf": {"cmvn_file": "global_cmvn", "is_json_cmvn": True},
        "dataset": "asr",
        "dataset_conf": {"resample_conf": {"resample_rate": extractor.sampling_rate}, "fbank_conf": fbank},
        "input_dim": extractor.num_mel_bins,
        "output_dim": config.vocab_size,
    }
    understood = parse_recipe(recipe, vocab_size=config.vocab_size)
    # Layers that were trained to recognise phonemes are ordinary layers in WeNet, which has no head for them.
    unknown = PHONEME_OPTIONS if config.phonemes else ()
    names = [name for name in ConformerConfig.__annotations__ if not name.endswith("_token_id") and name not in unknown]
    pairs = {name: (_plain(getattr(config, name)), _plain(getattr(understood.config, name))) for name in names}
    return recipe | {
        "hf_asr": {
            "config": {name: own for name, (own, wenets) in pairs.items() if own != wenets},
            "feature_extractor": differences(extractor, understood.extractor),
            "text_normalization": tokenizer.init_kwargs.get("text_normalization", "none"),
        }
    }


def encoder_conf(config: ConformerConfig) -> dict[str, Any]:
    """Return the options of WeNet's encoder; options that only new versions have are left out if they are defaults."""
    position, attention = next(
        (position, attention) for position, (attention, ours) in POSITIONS.items() if ours == config.position_embeddings
    )
    eps = {} if config.layer_norm_eps == EPS else dict.fromkeys(("norm_eps", "conv_norm_eps"), config.layer_norm_eps)
    factor = {} if config.conv_expansion_factor == 1 else {"conv_inner_factor": 2 * config.conv_expansion_factor}
    return {
        "output_size": config.hidden_size,
        "attention_heads": config.num_attention_heads,
        "linear_units": config.intermediate_size,
        "num_blocks": config.num_hidden_layers,
        "dropout_rate": float(config.hidden_dropout),
        "positional_dropout_rate": float(config.hidden_dropout),
        "attention_dropout_rate": float(config.attention_dropout),
        "input_layer": _key(SUBSAMPLING, config.subsampling_factor),
        "normalize_before": True,
        "cnn_module_kernel": config.conv_kernel_size,
        "use_cnn_module": True,
        "cnn_module_norm": config.conv_norm,
        "activation_type": _key(ACTIVATIONS, config.hidden_act),
        "pos_enc_layer_type": position,
        "selfattention_layer_type": attention,
        "causal": config.causal_conv,
        "use_dynamic_chunk": config.use_dynamic_chunk,
        "use_dynamic_left_chunk": config.use_dynamic_chunk,
        "static_chunk_size": 0 if config.use_dynamic_chunk else max(config.chunk_size, 0),
        **({} if config.conv_bias else {"conv_bias": False}),
        **eps,
        **factor,
    }


def decoder_conf(config: ConformerConfig) -> dict[str, Any]:
    """Return the options of WeNet's decoders and losses; WeNet's decoder can have no blocks and no loss."""
    eps = {} if config.layer_norm_eps == EPS else {"norm_eps": config.layer_norm_eps}
    options = {
        "attention_heads": config.decoder_attention_heads or config.num_attention_heads,
        "linear_units": config.decoder_intermediate_size or config.intermediate_size,
        "num_blocks": config.decoder_layers,
        "dropout_rate": float(config.hidden_dropout),
        "positional_dropout_rate": float(config.hidden_dropout),
        "self_attention_dropout_rate": 0.0,
        "src_attention_dropout_rate": 0.0,
        "activation_type": _key(ACTIVATIONS, config.decoder_hidden_act or config.hidden_act),
        **eps,
    }
    loss = {"ctc_weight": float(config.ctc_weight) if config.decoder_layers else 1.0}
    loss |= {"lsm_weight": float(config.label_smoothing), "length_normalized_loss": False}
    if config.reverse_decoder_layers:
        options["r_num_blocks"] = config.reverse_decoder_layers
        loss["reverse_weight"] = float(config.reverse_weight)
    decoder = "bitransformer" if config.reverse_decoder_layers else "transformer"
    return {"decoder": decoder, "decoder_conf": options, "model": "asr_model", "model_conf": loss}


def _key(mapping: dict[str, Any], value: Any) -> str:
    """Return the first key of a value."""
    return next(key for key, own in mapping.items() if own == value)


def _plain(value: Any) -> Any:
    """Return a value as YAML gives it back."""
    return list(value) if isinstance(value, tuple) else value

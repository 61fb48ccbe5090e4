"""Read WeNet's `train.yaml`: each key is supported, is known not to change the outputs, or is refused by name."""

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..model import ConformerConfig, ConformerFeatureExtractor
from ..model.tokenization_conformer import TEXT_NORMALIZATIONS

SUBSAMPLING = {"conv2d": 4, "conv2d6": 6, "conv2d8": 8}
ACTIVATIONS = {"swish": "silu", "relu": "relu", "gelu": "gelu"}
WINDOWS = {"povey": "povey", "hanning": "hann", "hamming": "hamming", "rectangular": "rectangular"}

# pos_enc_layer_type -> selfattention_layer_type and our position_embeddings
POSITIONS = {"rel_pos": ("rel_selfattn", "absolute"), "rope_pos": ("rope_abs_selfattn", "rotary")}
DECODERS = ("transformer", "bitransformer")

# Option of encoder_conf or decoder_conf -> the projections of a block that have no bias if it is false.
BIASES = {
    "query_bias": r"(self|src)_attn\.linear_(q|out)",
    "key_bias": r"(self|src)_attn\.linear_k",
    "value_bias": r"(self|src)_attn\.linear_v",
    "mlp_bias": r"feed_forward(_macaron)?\.w_[12]",
}

# Keys that affect only training, heads that are not imported, or the way of computing the same numbers.
HARMLESS = {
    "": (
        "predictor predictor_conf joint joint_conf optim optim_conf scheduler scheduler_conf grad_clip accum_grad "
        "max_epoch log_interval save_interval save_states save_time model_dir train_engine use_amp dtype ds_conf "
        "init_infos lora_conf data_type tag epoch step lr lrs cv_loss loss_dict"
    ),
    "encoder_conf": (
        "positional_dropout_rate use_dynamic_left_chunk gradient_checkpointing use_sdpa positionwise_conv_kernel_size "
        "n_expert n_expert_activated"
    ),
    "decoder_conf": (
        "dropout_rate positional_dropout_rate self_attention_dropout_rate src_attention_dropout_rate "
        "gradient_checkpointing use_sdpa tie_word_embedding n_expert n_expert_activated"
    ),
    "model_conf": (
        "ignore_id lsm_weight length_normalized_loss special_tokens transducer_weight enable_k2 delay_penalty "
        "warmup_steps lm_only_scale am_only_scale"
    ),
    "tokenizer_conf": "symbol_table_path non_lang_syms_path is_multilingual num_languages",
    "dataset_conf": (
        "filter_conf speed_perturb speed_perturb_conf spec_aug spec_aug_conf spec_sub spec_sub_conf spec_trim "
        "spec_trim_conf shuffle shuffle_conf list_shuffle list_shuffle_conf sort sort_conf batch_conf cycle prefetch "
        "mfcc_conf log_mel_spectrogram_conf max_length min_length token_max_length token_min_length batch_type "
        "batch_size max_frames_in_batch"
    ),
    # torchaudio's `energy_floor` affects the energy of a frame, which WeNet does not use; dither is for training only.
    "dataset_conf.fbank_conf": "dither energy_floor",
    "collate_conf": ("feature_dither speed_perturb spec_aug spec_aug_conf spec_sub spec_sub_conf wav_distortion_conf"),
}


@dataclass(frozen=True, kw_only=True)
class WenetRecipe:
    """The content of a `train.yaml` that the importer needs."""

    config: ConformerConfig
    extractor: ConformerFeatureExtractor
    without_bias: dict[str, str]  # regular expression of projections -> the option that removes their bias
    has_cmvn: bool
    cmvn_file: str | None
    bpe_path: str | None
    special_tokens: dict[str, int]
    text_normalization: str


class Section(dict):
    """A mapping of the recipe whose keys are taken one by one; the keys that are left at the end are unknown."""

    def __init__(self, name: str, values: Any):
        if not isinstance(values, Mapping | None):
            raise ValueError(f"train.yaml: {name or 'the file'} must be a mapping of options, not {values!r}")
        super().__init__(values or {})
        self.name = name
        for key in HARMLESS.get(name, "").split():
            self.pop(key, None)

    def path(self, key: str) -> str:
        """Return the full name of a key, for messages."""
        return f"{self.name}.{key}" if self.name else key

    def section(self, key: str) -> "Section":
        """Take a mapping inside this one; an absent one is empty."""
        return Section(self.path(key), self.pop(key, None))

    def take(self, key: str, default: Any, *, accepted: tuple | None = None) -> Any:
        """Take a value.

        Raises:
            ValueError: The value is not one of `accepted`.
        """
        value = self.pop(key, default)
        if accepted is not None and value not in accepted:
            choices = ", ".join(map(repr, accepted))
            raise ValueError(f"train.yaml: {self.path(key)}: {value!r} cannot be imported, only {choices}")
        return value

    def number(self, key: str, default: float | None, *, least: float = 0.0, is_whole: bool = False) -> Any:
        """Take a number, which may be text, because PyYAML reads 1e-5 as text.

        Raises:
            ValueError: The value is not a number, or less than `least`.
        """
        value = self.pop(key, default)
        try:
            number = float(value) if not isinstance(value, bool) else math.nan
        except (TypeError, ValueError):
            number = math.nan
        if not (math.isfinite(number) and number >= least and (number.is_integer() or not is_whole)):
            kind = "a whole number" if is_whole else "a number"
            raise ValueError(f"train.yaml: {self.path(key)} must be {kind} of at least {least:g}, not {value!r}")
        return int(number) if is_whole else number

    def count(self, key: str, default: int | None) -> int:
        """Take a whole number of 1 or more."""
        return self.number(key, default, least=1, is_whole=True)

    def flag(self, key: str, default: bool) -> bool:
        """Take a boolean."""
        return self.take(key, default, accepted=(True, False))

    def finish(self) -> None:
        """Raise a ValueError that names the keys that are left."""
        if self:
            unknown = ", ".join(f"{self.path(key)}: {value!r}" for key, value in self.items())
            raise ValueError(
                f"train.yaml: {unknown} is not known here and may change what the model computes; "
                "if it does not, delete it from the file"
            )


def load_recipe(path: Path) -> dict:
    """Return the content of a `train.yaml`.

    Raises:
        ValueError: The file is not YAML, or not a mapping.
    """
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML in UTF-8: {' '.join(str(error).split())}") from error
    if not isinstance(recipe, dict):
        raise ValueError(f"{path} must be a mapping of options, not {str(recipe)[:50]!r}")
    return recipe


def parse_recipe(recipe: dict, *, vocab_size: int) -> WenetRecipe:
    """Return the configuration, the features and the files that a recipe describes.

    Raises:
        ValueError: An option is unknown or cannot be imported; the message names it.
    """
    top = Section("", recipe)
    top.take("encoder", "conformer", accepted=("conformer",))
    model_type = top.take("model", "asr_model", accepted=("asr_model", "transducer"))
    is_transducer = model_type == "transducer" or "predictor" in recipe  # the first versions have no `model`
    top.take("dataset", "asr", accepted=("asr",))
    top.take("ctc", "ctc", accepted=("ctc",))
    top.take("raw_wav", True, accepted=(True,))  # False: precomputed features of Kaldi
    top.take("lfmmi_dir", None, accepted=(None, ""))
    for key in ("output_dim", "vocab_size"):
        if (size := top.pop(key, vocab_size)) != vocab_size:
            raise ValueError(f"train.yaml: {key} is {size!r}, but the CTC head has {vocab_size} outputs")
    ctc = top.section("ctc_conf")
    ctc.take("ctc_blank_id", 0, accepted=(0,))
    ctc.finish()
    is_bpe = top.take("tokenizer", "char", accepted=("char", "bpe")) == "bpe"
    special_tokens, bpe_path = _tokenizer(top.section("tokenizer_conf"), is_bpe=is_bpe)
    has_cmvn, cmvn_file = _cmvn(top)
    input_dim = top.pop("input_dim", None)
    ours = top.section("hf_asr")  # from `hf-asr export --target wenet`: what other options cannot express
    extractor = _extractor(top, input_dim, ours.section("feature_extractor"))
    encoder, decoder = top.section("encoder_conf"), top.section("decoder_conf")
    without_bias = _without_bias(encoder, r"encoder\.encoders") | _without_bias(decoder, r"decoder\.(.+\.)?decoders")
    options = {"vocab_size": vocab_size} | _encoder_options(encoder, extractor)
    options |= _loss_options(top.section("model_conf"), is_transducer=is_transducer)
    decoder_type = top.pop("decoder", "bitransformer" if decoder else None)
    if options["ctc_weight"] < 1 and decoder_type is not None:  # otherwise the decoder was not trained
        options |= _decoder_options(decoder, decoder_type, norm_eps=options["layer_norm_eps"])
    config = _config(options, ours.section("config"))
    text_normalization = ours.take("text_normalization", "none", accepted=tuple(TEXT_NORMALIZATIONS))
    ours.finish()
    top.finish()
    return WenetRecipe(
        config=config,
        extractor=extractor,
        without_bias=without_bias,
        has_cmvn=has_cmvn,
        cmvn_file=cmvn_file,
        bpe_path=bpe_path,
        special_tokens=special_tokens,
        text_normalization=text_normalization,
    )


def _without_bias(section: Section, blocks: str) -> dict[str, str]:
    """Take the options of biases; return {regular expression of projections without bias: option}.

    Args:
        blocks: Regular expression of the name of the blocks.
    """
    options = [option for option in BIASES if not section.flag(option, True)]
    return {rf"{blocks}\.\d+\.{BIASES[option]}": section.path(option) for option in options}


def _loss_options(model: Section, *, is_transducer: bool) -> dict[str, float]:
    """Return the shares of CTC and decoders in the loss; without the transducer's, the others are the whole."""
    ctc = model.number("ctc_weight", 0.0 if is_transducer else 0.5)
    attention = model.number("attention_weight", 0.0) if is_transducer else 1 - ctc
    if ctc == 0:
        raise ValueError("train.yaml: model_conf.ctc_weight is 0, so the CTC head, which gives the text, is untrained")
    reverse_weight = model.number("reverse_weight", 0.0)
    model.take("apply_non_blank_embedding", False, accepted=(False,))
    model.take("lfmmi_dir", None, accepted=(None, ""))
    model.finish()
    return {"ctc_weight": ctc / (ctc + attention), "reverse_weight": reverse_weight}


def _decoder_options(decoder: Section, decoder_type: str, *, norm_eps: float) -> dict[str, Any]:
    """Return the options of the attention decoders; the defaults are those of WeNet's `TransformerDecoder`.

    Args:
        norm_eps: Of the encoder, which must be the decoder's, too.
    """
    if decoder_type not in DECODERS:
        choices = ", ".join(map(repr, DECODERS))
        raise ValueError(f"train.yaml: decoder: {decoder_type!r} cannot be imported, only {choices}")
    heads = decoder.count("attention_heads", 4)
    for key in ("normalize_before", "use_output_layer", "src_attention"):
        decoder.take(key, True, accepted=(True,))
    decoder.take("concat_after", False, accepted=(False,))
    decoder.take("input_layer", "embed", accepted=("embed",))
    decoder.take("mlp_type", "position_wise_feed_forward", accepted=("position_wise_feed_forward",))
    decoder.take("layer_norm_type", "layer_norm", accepted=("layer_norm",))
    decoder.take("n_kv_head", None, accepted=(None, heads))
    decoder.take("head_dim", None, accepted=(None,))
    if (eps := decoder.number("norm_eps", 1e-5)) != norm_eps:
        raise ValueError(
            f"train.yaml: decoder_conf.norm_eps is {eps:g}, but only the encoder's {norm_eps:g} is possible"
        )
    options = dict(
        decoder_layers=decoder.count("num_blocks", 6),
        decoder_attention_heads=heads,
        decoder_intermediate_size=decoder.count("linear_units", 2048),
        decoder_hidden_act=ACTIVATIONS[decoder.take("activation_type", "relu", accepted=tuple(ACTIVATIONS))],
    )
    if decoder_type == "bitransformer":
        options["reverse_decoder_layers"] = decoder.count("r_num_blocks", 0)
    decoder.finish()
    return options


def _config(options: dict[str, Any], ours: Section) -> ConformerConfig:
    """Return the configuration with these options; those of the section take precedence."""
    values = {key: ours.pop(key) for key in list(ours) if key in ConformerConfig.__annotations__}
    ours.finish()
    try:
        return ConformerConfig(**options | values)
    except ValueError as error:
        raise ValueError(f"train.yaml cannot be imported: {error}") from error


def _encoder_options(encoder: Section, extractor: ConformerFeatureExtractor) -> dict[str, Any]:
    """Return the options of the encoder; the defaults are those of WeNet's `ConformerEncoder`."""
    hidden_size, heads = encoder.count("output_size", 256), encoder.count("attention_heads", 4)
    attention, positions = POSITIONS[encoder.take("pos_enc_layer_type", "rel_pos", accepted=tuple(POSITIONS))]
    encoder.take("selfattention_layer_type", "rel_selfattn", accepted=(attention,))
    for key in ("normalize_before", "use_cnn_module", "macaron_style", "final_norm"):
        encoder.take(key, True, accepted=(True,))
    encoder.take("concat_after", False, accepted=(False,))
    encoder.take("mlp_type", "position_wise_feed_forward", accepted=("position_wise_feed_forward",))
    encoder.take("num_experts", None, accepted=(None,))
    encoder.take("n_kv_head", None, accepted=(None, heads))
    encoder.take("head_dim", None, accepted=(None, hidden_size // heads))
    encoder.take("layer_norm_type", "layer_norm", accepted=("layer_norm",))
    is_causal, is_dynamic = encoder.flag("causal", False), encoder.flag("use_dynamic_chunk", False)
    chunk_size = encoder.number("static_chunk_size", 0, least=-1, is_whole=True)
    conv_norm = encoder.take("cnn_module_norm", "batch_norm", accepted=("batch_norm", "layer_norm"))
    eps, conv_eps = encoder.number("norm_eps", 1e-5), encoder.number("conv_norm_eps", 1e-5)
    if conv_eps != (eps if conv_norm == "layer_norm" else 1e-5):
        raise ValueError(
            f"train.yaml: encoder_conf.norm_eps {eps:g} and conv_norm_eps {conv_eps:g} cannot be imported together: "
            "batch_norm has 1e-05 here, and layer_norm the norm_eps of the other norms"
        )
    options = dict(
        hidden_size=hidden_size,
        num_hidden_layers=encoder.count("num_blocks", 6),
        num_attention_heads=heads,
        intermediate_size=encoder.count("linear_units", 2048),
        hidden_act=ACTIVATIONS[encoder.take("activation_type", "swish", accepted=tuple(ACTIVATIONS))],
        conv_kernel_size=encoder.count("cnn_module_kernel", 15),
        conv_expansion_factor=encoder.take("conv_inner_factor", 2, accepted=(2, 4, 6, 8)) // 2,
        conv_norm=conv_norm,
        conv_bias=encoder.flag("conv_bias", True),
        causal_conv=is_causal,
        # A model that is not causal becomes an offline one, because it does not stream exactly.
        use_dynamic_chunk=is_dynamic and is_causal,
        chunk_size=chunk_size if chunk_size > 0 and not is_dynamic else -1,  # dynamic chunks replace the static one
        subsampling_factor=SUBSAMPLING[encoder.take("input_layer", "conv2d", accepted=tuple(SUBSAMPLING))],
        position_embeddings=positions,
        scale_input=True,
        hidden_dropout=(dropout := encoder.number("dropout_rate", 0.1)),
        activation_dropout=dropout,
        attention_dropout=encoder.number("attention_dropout_rate", 0.0),
        layer_norm_eps=eps,
        num_mel_bins=extractor.num_mel_bins,
        hop_length=extractor.hop_length,
    )
    encoder.finish()
    return options


def _extractor(top: Section, input_dim: int | None, ours: Section) -> ConformerFeatureExtractor:
    """Return an extractor of the features that torchaudio computes for WeNet.

    The first versions of WeNet describe them in `collate_conf`.

    Args:
        ours: Options of our extractor that WeNet's features do not have; they take precedence.
    """
    dataset, collate = top.section("dataset_conf"), top.section("collate_conf")
    dataset.take("feats_type", "fbank", accepted=("fbank",))
    dataset.take("split_with_space", False, accepted=(False,))
    old = collate.section("feature_extraction_conf")
    old.take("feature_type", "fbank", accepted=("fbank",))
    old.take("using_pitch", False, accepted=(False,))
    old_bins = old.pop("mel_bins", input_dim)
    resample, fbank = dataset.section("resample_conf"), dataset.section("fbank_conf")
    bins = fbank.count("num_mel_bins", old_bins)
    if input_dim is not None and input_dim != bins:
        raise ValueError(f"train.yaml: input_dim is {input_dim!r}, but the features have {bins} mel bins")
    options = dict(
        num_mel_bins=bins,
        sampling_rate=resample.count("resample_rate", 16000),
        frame_length=fbank.number("frame_length", old.number("frame_length", 25), least=1),
        frame_shift=fbank.number("frame_shift", old.number("frame_shift", 10), least=1),
        window_type=WINDOWS[fbank.take("window_type", "povey", accepted=tuple(WINDOWS))],
        low_freq=fbank.number("low_freq", 20.0),
        high_freq=fbank.number("high_freq", 0.0, least=-math.inf),
        snip_edges=True,
        energy_floor=2**-23,
        min_duration=0.0,
    )
    known = inspect.signature(ConformerFeatureExtractor).parameters
    options |= {key: ours.pop(key) for key in list(ours) if key in known}
    for section in (resample, fbank, dataset, old, collate, ours):
        section.finish()
    try:
        return ConformerFeatureExtractor(**options)
    except ValueError as error:
        raise ValueError(f"train.yaml: the features cannot be imported: {error}") from error


def _cmvn(top: Section) -> tuple[bool, str | None]:
    """Return whether features are normalised, and the file of the statistics.

    The first versions of WeNet name the file at the top level.
    """
    old_file, conf = top.pop("cmvn_file", None), top.section("cmvn_conf")
    file = conf.pop("cmvn_file", None) or old_file
    for section in (top, conf):
        section.pop("is_json_cmvn", None)  # the format of the file shows this
    conf.finish()
    default = "global_cmvn" if old_file else None
    if not isinstance(file, str | None):
        raise ValueError(f"train.yaml: cmvn_file must be the name of a file, not {file!r}")
    has_cmvn = top.take("cmvn", default, accepted=("global_cmvn", None)) is not None
    return has_cmvn, file if has_cmvn else None


def _tokenizer(conf: Section, *, is_bpe: bool) -> tuple[dict[str, int], str | None]:
    """Return the ids of the special tokens and the path of the sentencepiece model, as the recipe gives them."""
    # Units are then words or phones, which are not supported; sentencepiece ignores the option.
    conf.take("split_with_space", False, accepted=(True, False, None) if is_bpe else (False, None))
    conf.take("connect_symbol", "", accepted=("", None))
    special_tokens, bpe_path = conf.pop("special_tokens", None) or {}, conf.pop("bpe_path", None)
    conf.finish()
    if not isinstance(special_tokens, Mapping) or not all(type(place) is int for place in special_tokens.values()):
        raise ValueError(f"train.yaml: tokenizer_conf.special_tokens must be tokens with ids, not {special_tokens!r}")
    if special_tokens.get("<blank>", 0) != 0:
        raise ValueError(
            f"train.yaml: tokenizer_conf.special_tokens has <blank>: {special_tokens['<blank>']}, "
            "but only a blank of id 0 can be imported"
        )
    if not isinstance(bpe_path, str | None):
        raise ValueError(f"train.yaml: tokenizer_conf.bpe_path must be the name of a file, not {bpe_path!r}")
    return dict(special_tokens), bpe_path
